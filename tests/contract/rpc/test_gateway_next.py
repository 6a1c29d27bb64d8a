"""The next and the last, said in words, are the right records of the clinic's own tables."""

import uuid
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb

from tests.gateway_calls import Stage, User, appointment, client, invoice

DAYS = (-3, -1, 2, 4)
"""When Ana's appointments are, in days from now; somebody else's is sooner."""
WORDS = {
    "en-US": (
        "show the next appointment of Ana Souza",
        "show the last appointment of Ana Souza",
        "cancel the next appointment of Ana Souza",
        "mark the last invoice of Ana Souza as paid",
    ),
    "pt-BR": (
        "mostre a próxima consulta de Ana Souza",
        "mostre a última consulta de Ana Souza",
        "cancele a próxima consulta de Ana Souza",
        "marque a última fatura de Ana Souza como paga",
    ),
    "es-ES": (
        "muestra la próxima cita de Ana Souza",
        "muestra la última cita de Ana Souza",
        "cancela la próxima cita de Ana Souza",
        "marca la última factura de Ana Souza como pagada",
    ),
}


async def ana(stage: Stage) -> User:
    """A user of a clinic where Ana has appointments, gone and to come, and three invoices."""
    user = await stage.user()
    now = stage.now().replace(microsecond=0)
    numbered = (("INV-1", "2099-02-01"), ("INV-2", "2099-03-01"), ("INV-3", "2099-01-01"))
    for each in (
        [client("Ana Souza"), client("Bruno Lima")],
        [
            *(appointment("Ana Souza", (now + timedelta(days=each)).isoformat()) for each in DAYS),
            appointment("Bruno Lima", (now + timedelta(days=1)).isoformat()),
        ],
        [invoice(number, "Ana Souza", due_date=day) for number, day in numbered],
    ):
        assert (await user.execute(each)).report.outcome == pb.OUTCOME_SUCCEEDED
    return user


async def shown(user: User, words: str, locale: str) -> int:
    """In how many days from now the one appointment is that *words* show."""
    answer = await user.execute(words, locale=locale)
    (success,) = answer.report.successes
    (record,) = success.records
    starts_at = datetime.fromisoformat(record["starts_at"])
    zoned = starts_at if starts_at.tzinfo else starts_at.replace(tzinfo=ZoneInfo("UTC"))
    return round((zoned - user.stage.now()) / timedelta(days=1))


async def changed(user: User, words: str, locale: str) -> None:
    id_ = str(uuid.uuid4())
    answer = await user.execute(words, request_id=id_, locale=locale)
    assert [each.affected for each in answer.confirmation.operations] == [1]
    token = answer.confirmation.confirmation_token
    done = await user.execute(None, request_id=id_, confirmation_token=token)
    assert done.report.outcome == pb.OUTCOME_SUCCEEDED


@pytest.mark.parametrize("locale", WORDS)
async def test_the_next_and_the_last_in_words_are_the_right_records(
    stage: Stage, locale: str
) -> None:
    """GAT-3, GAT-5: read as they are, changed once they were shown; what is cancelled is no more
    the next."""
    user = await ana(stage)
    following, last, cancel, pay = WORDS[locale]
    assert await shown(user, following, locale) == 2
    assert await shown(user, last, locale) == -1
    await changed(user, cancel, locale)
    assert await shown(user, following, locale) == 4
    await changed(user, pay, locale)
    states = (
        "SELECT round(extract(epoch FROM starts_at - %s) / 86400)::int, status"
        " FROM clinic.appointments WHERE clinic_id = %s ORDER BY starts_at"
    )
    assert await stage.rows(states, stage.now(), user.clinic_id) == [
        (-3, "scheduled"),
        (-1, "scheduled"),
        (1, "scheduled"),
        (2, "cancelled"),
        (4, "scheduled"),
    ]
    paid = "SELECT number, status FROM clinic.invoices WHERE clinic_id = %s ORDER BY number"
    assert await stage.rows(paid, user.clinic_id) == [
        ("INV-1", "open"),
        ("INV-2", "paid"),
        ("INV-3", "open"),
    ]
