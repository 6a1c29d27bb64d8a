"""A confirmed change touches the records that were counted, all of them and no others (GAT-5).

The kind: what is confirmed is held to less than what was counted. It depends on how many records
there are, on what changes between the summary and the confirmation, and on what a domain offers.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.struct_pb2 import Struct

from tests.gateway_calls import DELETE, READ, UPDATE, Stage, User, operation, reasons, refused

FILL = """
    INSERT INTO clinic.clients (id, clinic_id, name, phone)
    SELECT gen_random_uuid(), %s, 'Client ' || to_char(n, 'FM0000'), '1'
    FROM generate_series(1, %s) AS n
"""
COUNT = "SELECT count(*) FROM clinic.clients WHERE clinic_id = %s AND deleted_at IS NULL"
HIGH = entitlements_pb2.SENSITIVITY_LEVEL_HIGH


async def filled(stage: Stage, count: int) -> User:
    user = await stage.user()
    await stage.rows(FILL, user.clinic_id, count)
    return user


async def left(user: User) -> int:
    return int((await user.stage.rows(COUNT, user.clinic_id))[0][0])


def delete_all() -> pb.Operation:
    return operation("clients", DELETE, "client", where={"phone": "1"}, max_affected=10_000)


async def asked(user: User, request: list[pb.Operation]) -> tuple[str, pb.ConfirmationRequired]:
    id_ = str(uuid.uuid4())
    answer = await user.execute(request, request_id=id_)
    assert answer.HasField("confirmation"), answer
    return id_, answer.confirmation


async def confirmed(user: User, id_: str, shown: pb.ConfirmationRequired) -> pb.ExecuteResponse:
    token = shown.confirmation_token
    return await user.execute(None, request_id=id_, confirmation_token=token)


@pytest.mark.parametrize("count", [499, 500, 501, 1200])
async def test_all_that_was_counted_is_done(stage: Stage, count: int) -> None:
    """GAT-5: however many; the summary names the first and says how many more."""
    user = await filled(stage, count)
    id_, shown = await asked(user, [delete_all()])
    assert [each.affected for each in shown.operations] == [count]
    names = "Client 0001; Client 0002; Client 0003"
    assert shown.summary == (
        f"This would delete {count:,} records (client: {names} and {count - 3:,} more)."
        " Do you want to go ahead?"
    )
    done = await confirmed(user, id_, shown)
    assert [each.affected for each in done.report.successes] == [count]
    assert await left(user) == 0


ONE_OF_ALL = "(SELECT id FROM clinic.clients WHERE clinic_id = %s ORDER BY name DESC LIMIT 1)"
ADD = "INSERT INTO clinic.clients (clinic_id, name, phone) VALUES (%s, 'Client 0000', '1')"
BETWEEN = {
    "one more": [ADD],
    "one fewer": [f"UPDATE clinic.clients SET deleted_at = now() WHERE id = {ONE_OF_ALL}"],
    "another in its place": [
        f"UPDATE clinic.clients SET phone = '2' WHERE id = {ONE_OF_ALL}",
        ADD,
    ],
    "another name": [f"UPDATE clinic.clients SET name = 'Zoe' WHERE id = {ONE_OF_ALL}"],
}


@pytest.mark.parametrize("count", [3, 501, 1200])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN.keys())
async def test_records_that_were_not_counted_outdate_it(
    stage: Stage, count: int, between: list[str]
) -> None:
    """GAT-5: also where their number is the same, and where the one is the last of many."""
    user = await filled(stage, count)
    id_, shown = await asked(user, [delete_all()])
    for statement in between:
        await stage.rows(statement, *[user.clinic_id] * statement.count("%s"))
    before = await left(user)
    failure = await refused(confirmed(user, id_, shown))
    assert failure.reason == "CONFIRMATION_OUTDATED"
    assert await left(user) == before


async def test_values_that_were_not_shown_outdate_it(stage: Stage) -> None:
    """GAT-5: an update is confirmed from one value to another, so both are held."""
    user = await filled(stage, 600)
    async with stage.lab(sensitivity_level=HIGH) as lab:
        request = [
            operation(
                "clients", UPDATE, "client", where={"phone": "1"}, max_affected=10_000, email="x@y"
            ),
            operation(lab.name, DELETE, record="1"),
        ]
        id_, shown = await asked(user, request)
        change = f"UPDATE clinic.clients SET email = 'else' WHERE id = {ONE_OF_ALL}"
        await stage.rows(change, user.clinic_id)
        failure = await refused(confirmed(user, id_, shown))
    assert failure.reason == "CONFIRMATION_OUTDATED"
    assert lab.done == []


async def test_what_changes_after_the_last_look_is_refused_by_the_domain(stage: Stage) -> None:
    """GAT-5: within the transaction, on locked records; nothing of the batch is done."""
    user = await filled(stage, 501)
    async with stage.lab() as lab:

        async def slow(request: domain_pb2.ExecuteBatchRequest) -> domain_pb2.ExecuteBatchResponse:
            answer = await lab.slow(request)
            answer.results[0].applied.records.add().update({"id": "Caio"})
            return answer

        lab.answers = slow
        late = operation("clients", pb.Operation().verb, "client")
        late.verb = domain_pb2.VERB_CREATE
        late.references.add(field="name", operation=0)
        first = operation(lab.name, domain_pb2.VERB_CREATE)
        id_, shown = await asked(user, [first, delete_all(), late])
        running = asyncio.create_task(confirmed(user, id_, shown))
        await lab.arrived.wait()
        for statement in BETWEEN["another in its place"]:
            await stage.rows(statement, *[user.clinic_id] * statement.count("%s"))
        lab.go_on.set()
        report = (await running).report
    assert reasons(report) == ["RECORDS_CHANGED", "ROLLED_BACK"]
    assert await left(user) == 502


def old_domain(
    lab: Any, ids: list[str], *, truncated: bool = False
) -> Callable[[domain_pb2.ExecuteBatchRequest], Awaitable[domain_pb2.ExecuteBatchResponse]]:
    """A domain that knows no digest: it reads *ids*, and says that a change touches them all."""

    async def answers(request: domain_pb2.ExecuteBatchRequest) -> domain_pb2.ExecuteBatchResponse:
        answer = await lab.apply(request)
        for asked, result in zip(request.operations, answer.results, strict=True):
            result.applied.affected = len(ids)
            if asked.verb == READ:
                result.applied.records.extend(Struct() for _ in ids)
                for record, id_ in zip(result.applied.records, ids, strict=True):
                    record["id"] = id_
                result.applied.truncated = truncated
        lab.asked = request
        return answer

    return answers


async def test_a_domain_without_a_digest_is_held_to_all_of_the_ids(stage: Stage) -> None:
    """GAT-5: up to 500 that can be read; beyond, and unread, nothing is offered, and it says so."""
    user = await stage.user()
    async with stage.lab(sensitivity_level=HIGH) as lab:
        delete = operation(lab.name, DELETE, where={"name": "Ana"}, max_affected=10_000)
        ids = [f"{number:04}" for number in range(500)]
        lab.answers = old_domain(lab, ids)
        id_, shown = await asked(user, [delete])
        await confirmed(user, id_, shown)
        _, only = lab.asked.operations[0].selector.conditions.conditions
        assert (only.field, list(only.value.list_value)) == ("id", ids)
        assert lab.asked.operations[0].max_affected == 500
        lab.done.clear()
        for answers in (old_domain(lab, ids, truncated=True), lab.apply):
            lab.answers = answers
            answer = await user.execute([delete])
            assert reasons(answer.report) == ["CONFIRMATION_UNSUPPORTED"]
            assert answer.report.failures[0].next_step
        # One record by its id cannot be another one.
        lab.answers = lab.apply
        id_, shown = await asked(user, [operation(lab.name, DELETE, record="1")])
        await confirmed(user, id_, shown)
        assert len(lab.done) == 1
