"""What is told is what would happen, or what happened: never the one for the other (GAT-5, GAT-14).

The kind: a sentence that is made from what was asked, and not from what became of it.
"""

import re
import uuid

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.notices import LOCALES
from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    Stage,
    User,
    appointment,
    client,
    invoice,
    operation,
)

DONE = {
    "en-US": r"\b(was|were|had to)\b",
    "pt-BR": r"\b(foi|foram|precisou)\b",
    "es-ES": r"\b(ha|han) \w+(ado|ido)\b",
}
WOULD = {"en-US": "would", "pt-BR": r"\w+ria\b", "es-ES": r"\w+ría\b"}


async def with_records(stage: Stage) -> User:
    user = await stage.user()
    await user.execute([client("Ana", phone="1"), client("Bea")])
    await user.execute(
        [
            invoice("7", "Ana", amount=1200.5),
            *(appointment("Ana", f"2099-01-0{day}T10:00") for day in range(1, 4)),
        ]
    )
    return user


def change(domain: str, where: dict[str, object], **fields: object) -> pb.Operation:
    """An update of all that *where* says."""
    return operation(domain, UPDATE, where=where, max_affected=100, **fields)


@pytest.mark.parametrize("locale", LOCALES)
async def test_a_dry_run_tells_nothing_as_done(stage: Stage, locale: str) -> None:
    """GAT-14: each verb, of what can be done and of what cannot; what is then done is told so."""
    user = await with_records(stage)
    request = [
        client("Caio"),
        operation("clients", READ),
        change("finance", {"number": "7"}, amount=5),
        operation("appointments", DELETE, "reminder", where={"client_name": "Nobody"}),
        change("appointments", {"client_name": "Ana"}, status="cancelled"),
    ]
    answer = await user.execute(request, validate_only=True, locale=locale)
    assert answer.report.outcome == pb.OUTCOME_WOULD_BE_PARTIAL
    assert [each.index for each in answer.report.successes] == [0, 1, 2]
    for each in answer.report.successes:
        assert re.search(WOULD[locale], each.summary), each.summary
        assert not re.search(DONE[locale], each.summary), each.summary
    assert len(await user.clients()) == 2
    whole = await user.execute(request[:3], validate_only=True, locale=locale)
    assert whole.report.outcome == pb.OUTCOME_WOULD_SUCCEED
    none = await user.execute(request[3:4], validate_only=True, locale=locale)
    assert none.report.outcome == pb.OUTCOME_WOULD_FAIL
    done = await user.execute(request[:3], locale=locale)
    assert done.report.outcome == pb.OUTCOME_SUCCEEDED
    for each in done.report.successes:
        assert re.search(DONE[locale], each.summary), each.summary
        assert not re.search(WOULD[locale], each.summary), each.summary


SAID = {
    "en-US": [
        "Cancels 3 records (appointment: Ana, 2099-01-01 10:00; Ana, 2099-01-02 10:00;"
        " Ana, 2099-01-03 10:00): status from scheduled to cancelled.",
        "Changes one record (invoice: 7, Ana, 1200.50): amount from 1,200.5 to 5, due from"
        " Jan 1, 2099 to Feb 1, 2099.",
        "Changes one record (client: Ana): phone from “1” to “2”.",
        "Deletes one record (client: Bea).",
        "Adds one record (client: Caio).",
        "Adds one record (client: Davi).",
    ],
    "pt-BR": [
        "Cancela 3 registros (consulta: Ana, 2099-01-01 10:00; Ana, 2099-01-02 10:00;"
        " Ana, 2099-01-03 10:00): status de agendada para cancelada.",
        "Altera um registro (fatura: 7, Ana, 1200.50): valor de 1.200,5 para 5, vencimento de"
        " 1 de jan. de 2099 para 1 de fev. de 2099.",
        "Altera um registro (cliente: Ana): telefone de “1” para “2”.",
        "Exclui um registro (cliente: Bea).",
        "Inclui um registro (cliente: Caio).",
        "Inclui um registro (cliente: Davi).",
    ],
    "es-ES": [
        "Cancela 3 registros (cita: Ana, 2099-01-01 10:00; Ana, 2099-01-02 10:00;"
        " Ana, 2099-01-03 10:00): estado de programada a cancelada.",
        "Cambia un registro (factura: 7, Ana, 1200.50): importe de 1.200,5 a 5, vencimiento de"
        " 1 ene 2099 a 1 feb 2099.",
        "Cambia un registro (cliente: Ana): teléfono de «1» a «2».",
        "Elimina un registro (cliente: Bea).",
        "Añade un registro (cliente: Caio).",
        "Añade un registro (cliente: Davi).",
    ],
}
HEADS = {
    "en-US": ("This would add, change or delete 8 records in all.", "And 3 more changes."),
    "pt-BR": (
        "Isto incluiria, alteraria ou excluiria 8 registros ao todo.",
        "E mais 3 alterações.",
    ),
    "es-ES": ("Esto añadiría, cambiaría o eliminaría 8 registros en total.", "Y 3 cambios más."),
}


@pytest.mark.parametrize("locale", LOCALES)
async def test_a_summary_says_which_records_and_from_what_to_what(
    stage: Stage, locale: str
) -> None:
    """GAT-5, GAT-14: delete, cancel, old and new value, in words, and for machines."""
    user = await with_records(stage)
    request = [
        change("appointments", {"client_name": "Ana"}, status="cancelled"),
        change("finance", {"number": "7"}, amount=5, due_date="2099-02-01"),
        change("clients", {"name": "Ana"}, phone="2"),
        operation("clients", DELETE, where={"name": "Bea"}),
        client("Caio"),
        client("Davi"),
    ]
    id_ = str(uuid.uuid4())
    answer = await user.execute(request, request_id=id_, locale=locale)
    planned = answer.confirmation.operations
    assert [each.summary for each in planned] == SAID[locale]
    head, more = HEADS[locale]
    assert answer.confirmation.summary.startswith(f"{head} {SAID[locale][0]}")
    assert more in answer.confirmation.summary
    (status,) = planned[0].changes
    assert status.field == "status"
    assert (status.old.string_value, status.new.string_value) == ("scheduled", "cancelled")
    amount, due = planned[1].changes
    assert (amount.old.number_value, amount.new.number_value) == (1200.5, 5)
    assert (due.old.string_value, due.new.string_value) == ("2099-01-01", "2099-02-01")
    assert not planned[3].changes
    done = await user.execute(
        None, request_id=id_, confirmation_token=answer.confirmation.confirmation_token
    )
    assert done.report.outcome == pb.OUTCOME_SUCCEEDED


async def test_values_that_are_not_the_same_in_all_are_not_told_as_one(stage: Stage) -> None:
    """GAT-5: then only what becomes of them is said; what refers to another part says so."""
    user = await with_records(stage)
    async with stage.lab() as lab:
        starts = change("appointments", {"client_name": "Ana"}, starts_at="2099-02-01T09:00")
        late = change("clients", {"name": "Bea"})
        late.references.add(field="phone", operation=0)
        first = operation(lab.name, CREATE)
        request = [first, starts, late, *(client(f"C{number}") for number in range(4))]
        answer = await user.execute(request)
    _, moved, referred, *_ = answer.confirmation.operations
    (to,) = moved.changes
    assert not to.HasField("old")
    assert moved.summary.endswith(": time to Feb 1, 2099 9:00 AM.")
    (phone,) = referred.changes
    assert not phone.HasField("new")
    assert referred.summary == (
        "Changes one record (client): phone as another part of the request says."
    )


async def test_an_operation_with_a_reference_is_held_to_what_it_may_touch(stage: Stage) -> None:
    """GAT-5: to the records that it selects now, as many as it may, and not to a guess."""
    user = await with_records(stage)
    async with stage.lab() as lab:
        answers = []
        for most in (1, 3):
            move = operation(
                "appointments", UPDATE, where={"client_name": "Ana"}, max_affected=most
            )
            move.references.add(field="client_name", operation=0)
            nobody = operation("clients", UPDATE, where={"name": "Nobody"})
            nobody.references.add(field="phone", operation=0)
            six = [operation(lab.name, CREATE) for _ in range(6)]
            answers.append((await user.execute([*six, move, nobody])).confirmation.operations)
    few, enough = answers
    assert [each.affected for each in few[6:]] == [0, 0]
    assert "more records" in few[6].summary
    assert [each.affected for each in enough[6:]] == [3, 0]
    assert "not found" in enough[7].summary


async def test_words_that_cancel_are_confirmed_as_that(stage: Stage) -> None:
    """GAT-5: what was said is what is asked back."""
    user = await with_records(stage)
    more = [appointment("Ana", f"2099-02-0{day}T10:00") for day in range(1, 5)]
    await user.execute(more)
    answer = await user.execute("cancel all appointments of Ana")
    assert answer.confirmation.summary == (
        "This would cancel 7 records (appointment: Ana, 2099-01-01 10:00; Ana, 2099-01-02 10:00;"
        " Ana, 2099-01-03 10:00 and 4 more): status from scheduled to cancelled."
        " Do you want to go ahead?"
    )
    (planned,) = answer.confirmation.operations
    assert planned.operation.verb == domain_pb2.VERB_UPDATE
