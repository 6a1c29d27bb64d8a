"""Operations of one request that need what earlier ones bring."""

import asyncio
import uuid
from typing import Any

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from tests.gateway_calls import (
    CREATE,
    DELETE,
    UPDATE,
    Stage,
    User,
    appointment,
    client,
    clients,
    eventually,
    indexes,
    invoice,
    operation,
    reasons,
)
from tests.lab_domain import refusing

MORNING, NOON = "2099-01-01T10:00:00", "2099-01-01T12:00:00"


def with_reference(
    made: pb.Operation, to: int, field: str = "client_name", record_field: str = "name"
) -> pb.Operation:
    """*made* without *field*, which the operation at *to* brings."""
    if field in made.fields:
        del made.fields[field]
    made.references.add(field=field, operation=to, record_field=record_field)
    return made


def for_client(to: int, starts_at: str = MORNING) -> pb.Operation:
    return with_reference(appointment("", starts_at), to)


async def appointments(user: User) -> list[str]:
    """Whose appointments the clinic has, out of its tables."""
    rows = await user.stage.rows(
        "SELECT c.name FROM clinic.appointments a JOIN clinic.clients c ON c.id = a.client_id"
        " WHERE a.clinic_id = %s ORDER BY c.name",
        user.clinic_id,
    )
    return [row[0] for row in rows]


async def test_an_appointment_is_made_for_the_client_of_the_same_request(stage: Stage) -> None:
    """GAT-6, GAT-2, LOG-2: in turn, each once, counted and logged once."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    wanted = [
        client("Maria Lopes"),
        for_client(0),
        with_reference(invoice("77", ""), 0),
        for_client(0, NOON),
    ]
    answer = await user.execute(wanted, request_id=id_)
    assert answer.report.outcome == pb.OUTCOME_SUCCEEDED, answer
    assert indexes(answer.report) == [0, 1, 2, 3]
    assert await appointments(user) == ["Maria Lopes", "Maria Lopes"]
    again = await user.execute(wanted, request_id=id_, replica=1)
    assert again.replayed
    assert again.report == answer.report
    assert await user.clients() == ["Maria Lopes"]
    assert await user.usage() == (0, 4)
    assert [row[2] for row in await user.log()] == ["succeeded"] * 4


async def test_a_record_is_selected_by_the_id_that_was_found(stage: Stage) -> None:
    """GAT-6: what a read of one record brings is a value as well."""
    async with stage.lab() as lab:
        user = await stage.user()
        await user.execute([client("Ana")])
        seen: list[domain_pb2.Operation] = []

        async def noted(request: domain_pb2.ExecuteBatchRequest) -> Any:
            seen.extend(request.operations)
            return await lab.apply(request)

        lab.answers = noted
        change = operation(lab.name, UPDATE, name="other")
        change.references.add(operation=0)
        answer = await user.execute([clients(name="Ana"), change])
        assert answer.report.outcome == pb.OUTCOME_SUCCEEDED, answer
        (record,) = answer.report.successes[0].records
        assert [each.selector.id for each in seen] == [record["id"]]


async def test_what_builds_on_what_failed_is_not_begun(stage: Stage) -> None:
    """GAT-6, USE-2: its batch with it; what needs neither stands, and is all that is counted."""
    async with stage.lab() as lab:
        user = await stage.user()

        async def refuses(request: domain_pb2.ExecuteBatchRequest) -> Any:
            return refusing(request, "RECORD_LOCKED")

        lab.answers = refuses
        await user.execute([client("Ana")])
        answer = await user.execute(
            [
                operation(lab.name, CREATE, name="x"),
                appointment("Ana", NOON),
                for_client(0),
                invoice("78", "Ana"),
            ]
        )
        assert indexes(answer.report) == [0, 1, 2, 3]
        assert [each.index for each in answer.report.successes] == [3]
        assert reasons(answer.report) == ["RECORD_LOCKED", "ROLLED_BACK", "DEPENDENCY_FAILED"]
        assert all(each.message for each in answer.report.failures)
        assert await appointments(user) == []
        await eventually(lambda: is_counted(user, 2))
        outcomes = sorted(
            (row[1], row[2], row[3]) for row in await user.log() if row[1] != "clients"
        )
        assert outcomes == [
            ("appointments", "failed", "DEPENDENCY_FAILED"),
            ("appointments", "failed", "ROLLED_BACK"),
            ("finance", "succeeded", ""),
            (lab.name, "failed", "RECORD_LOCKED"),
        ]


async def is_counted(user: User, modifies: int) -> bool:
    return (await user.usage())[1] == modifies


@pytest.mark.parametrize("found", [0, 2])
async def test_what_is_not_one_record_is_no_value(stage: Stage, found: int) -> None:
    """GAT-4: neither of none nor of several one is chosen."""
    user = await stage.user()
    await user.execute([client("Ana")] * found or [client("Eva")])
    answer = await user.execute([clients(name="Ana"), for_client(0)])
    assert reasons(answer.report) == ["DEPENDENCY_FAILED"]
    assert await appointments(user) == []


async def test_others_do_not_wait_for_what_a_slow_domain_brings(stage: Stage) -> None:
    """GAT-6, GAT-7: and what is cancelled meanwhile is not begun."""
    async with stage.lab() as lab:
        user, id_ = await stage.user(), str(uuid.uuid4())
        lab.answers = lab.slow
        work = asyncio.create_task(
            user.execute(
                [operation(lab.name, CREATE, name="x"), for_client(0), client("Eva")],
                request_id=id_,
            )
        )
        await lab.arrived.wait()
        await eventually(user.clients)
        assert await appointments(user) == []
        request = pb.CancelRequest(request_id=id_)
        await stage.gateways[1].Cancel(request, **user.call)
        answer = await work
        assert [each.index for each in answer.report.successes] == [2]
        assert reasons(answer.report) == ["CANCELLED", "DEPENDENCY_FAILED"]
        lab.go_on.set()


@pytest.mark.parametrize(
    ("operations", "wrong", "field"),
    [
        ([client("Ana"), for_client(1)], 1, "references[0].operation"),
        ([for_client(1), client("Ana")], 0, "references[0].operation"),
        ([client("Ana"), with_reference(client("Eva"), 0, "phone")], 1, "references[0].operation"),
        (
            [client("Ana"), with_reference(appointment("", NOON), 0, record_field="shoe_size")],
            1,
            "references[0].record_field",
        ),
        (
            [client("Ana"), with_reference(appointment("", NOON), 0, "shoe_size")],
            1,
            "fields.shoe_size",
        ),
        (
            [client("Ana"), with_reference(for_client(0), 0)],
            1,
            "references[0].field",
        ),
        (
            [
                client("Ana"),
                for_client(0),
                with_reference(client("Eva"), 1, "phone", "client_name"),
            ],
            2,
            "references[0].operation",
        ),
        (
            [client("Ana"), with_reference(operation("finance", DELETE, record="1"), 0, "")],
            1,
            "references[0].field",
        ),
    ],
)
async def test_a_reference_that_leads_nowhere_is_named(
    stage: Stage, operations: list[pb.Operation], wrong: int, field: str
) -> None:
    """GAT-3: that operation is refused, with the field; no domain gets it."""
    user = await stage.user()
    answer = await user.execute(operations, validate_only=True)
    (failure,) = [each for each in answer.report.failures if each.index == wrong]
    assert field in failure.status.message
    assert failure.status.details


async def test_a_dry_run_and_a_confirmation_tell_of_what_is_yet_to_be_made(stage: Stage) -> None:
    """GAT-5: one record each; what is confirmed is carried out in the same turn."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    six = [client("Maria"), *(for_client(0, f"2099-01-0{day}T10:00:00") for day in range(1, 6))]
    dry = await user.execute(six[:2], validate_only=True)
    assert [each.affected for each in dry.report.successes] == [1, 1]
    asked = await user.execute(six, request_id=id_)
    assert [each.affected for each in asked.confirmation.operations] == [1] * 6
    assert await user.clients() == []
    token = asked.confirmation.confirmation_token
    answer = await user.execute(None, request_id=id_, confirmation_token=token)
    assert answer.report.outcome == pb.OUTCOME_SUCCEEDED, answer
    assert await appointments(user) == ["Maria"] * 5


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        (
            "en-US",
            "create a client Maria Lopes and book an appointment for Maria Lopes"
            " on 3 December 2099 at 10am",
        ),
        (
            "pt-BR",
            "cadastre a cliente Maria Lopes e agende uma consulta para Maria Lopes"
            " em 3 de dezembro de 2099 às 10h",
        ),
        (
            "es-ES",
            "crea la clienta Maria Lopes y agenda una cita para Maria Lopes"
            " el 3 de diciembre de 2099 a las 10:00",
        ),
    ],
)
async def test_words_that_name_whom_they_create_are_for_that_one(
    stage: Stage, locale: str, words: str
) -> None:
    """GAT-3: the appointment waits for its client."""
    user = await stage.user()
    answer = await user.execute(words, locale=locale)
    assert answer.report.outcome == pb.OUTCOME_SUCCEEDED, answer
    assert await appointments(user) == ["Maria Lopes"]


async def test_a_pronoun_means_whom_the_request_creates(stage: Stage) -> None:
    """GAT-3, GAT-5: as it is understood, and confirmed before it is done."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    words = "create a client Maria Lopes and book an appointment for her on 3 December 2099 at 10am"
    asked = await user.execute(words, request_id=id_)
    token = asked.confirmation.confirmation_token
    assert token, asked
    answer = await user.execute(None, request_id=id_, confirmation_token=token)
    assert answer.report.outcome == pb.OUTCOME_SUCCEEDED, answer
    assert await appointments(user) == ["Maria Lopes"]
