"""Batches of the example clinic: all or nothing, and once, whatever comes between (DOM-1)."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc
import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb

from tests.clinic_calls import (
    Clinic,
    Stubs,
    client,
    equal,
    fields_of,
    holding,
    invoice,
    op,
    reason_of,
    reasons,
    refused,
    serving_clinic,
    waiting,
)


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[Stubs]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        yield stubs


@pytest.fixture
async def clinic(served, tokens, database) -> Clinic:
    """A clinic of two clients."""
    made = Clinic(served, tokens, database.url_for("clinic"))
    await made.done("clients", client("Ana Souza", phone="1"), client("Bruno Lima", phone="1"))
    return made


def phone(name: str, number: str) -> pb.Operation:
    return op("UPDATE", "client", equal("name", name), phone=number)


async def phones(clinic: Clinic) -> dict[str, str]:
    return {each["name"]: each["phone"] for each in await clinic.read("clients", "client")}


async def test_a_batch_sent_again_gives_the_results_of_then(clinic: Clinic) -> None:
    """DOM-1: also when the records have changed since, in any order, or a part of it alone."""
    first, second = client("Carla Dias"), phone("Ana Souza", "2")
    then = await clinic.run("clients", first, second)
    assert then.committed
    assert not then.replayed
    await clinic.done("clients", phone("Ana Souza", "3"))
    again = await clinic.run("clients", first, second)
    assert again.committed
    assert again.replayed
    assert list(again.results) == list(then.results)
    turned = await clinic.run("clients", second, first)
    assert list(turned.results) == list(then.results)[::-1]
    part = await clinic.run("clients", second)
    assert part.replayed
    assert list(part.results) == list(then.results)[1:]
    assert await phones(clinic) == {"Ana Souza": "3", "Bruno Lima": "1", "Carla Dias": None}


async def test_an_id_with_another_payload_is_refused_and_takes_its_batch_with_it(
    clinic: Clinic,
) -> None:
    """DOM-1: OPERATION_ID_REUSED; nothing is changed."""
    applied = phone("Ana Souza", "2")
    await clinic.done("clients", applied)
    other = phone("Bruno Lima", "9")
    other.operation_id = applied.operation_id
    assert await clinic.told("clients", other) == ["OPERATION_ID_REUSED"]
    beside = await clinic.run("clients", phone("Bruno Lima", "8"), other)
    assert not beside.committed
    assert reasons(beside) == ["ROLLED_BACK", "OPERATION_ID_REUSED"]
    assert await phones(clinic) == {"Ana Souza": "2", "Bruno Lima": "1"}


async def test_a_batch_that_shares_an_id_with_another_is_refused_whole(clinic: Clinic) -> None:
    """DOM-1: the id that was applied before is the cause; the new one is free to come alone."""
    shared, new = phone("Ana Souza", "2"), phone("Bruno Lima", "2")
    await clinic.done("clients", client("Carla Dias"), shared)
    overlapping = await clinic.run("clients", shared, new)
    assert not overlapping.committed
    assert reasons(overlapping) == ["OPERATION_ID_REUSED", "ROLLED_BACK"]
    assert (await phones(clinic))["Bruno Lima"] == "1"
    await clinic.done("clients", new)
    assert (await phones(clinic))["Bruno Lima"] == "2"


async def test_of_two_racing_batches_that_share_an_id_one_is_applied(clinic: Clinic) -> None:
    """DOM-1: ten rounds; the loser's other operation is nowhere."""
    for number in map(str, range(10)):
        mine, shared, yours = client(f"M{number}"), client(f"S{number}"), client(f"Y{number}")
        answers = await asyncio.gather(
            clinic.run("clients", mine, shared), clinic.run("clients", shared, yours)
        )
        assert sorted(each.committed for each in answers) == [False, True]
        names = set(await phones(clinic))
        assert f"S{number}" in names
        assert len(names & {f"M{number}", f"Y{number}"}) == 1


async def test_an_id_that_stands_twice_in_a_batch_is_malformed(clinic: Clinic) -> None:
    """DOM-1, ALL-2: the field is named."""
    twice = client("Carla Dias")
    status = await refused(clinic.run("clients", twice, phone("Ana Souza", "2"), twice))
    assert reason_of(status) == "INVALID_ARGUMENT"
    assert fields_of(status) == ["operations[2].operation_id"]
    assert len(await clinic.read("clients", "client")) == 2


async def test_a_refused_batch_may_come_again_once_its_cause_is_gone(clinic: Clinic) -> None:
    """DOM-1: what was rolled back left no trace under its ids."""
    batch = [phone("Ana Souza", "2"), phone("Carla Dias", "2")]
    assert await clinic.told("clients", *batch) == ["ROLLED_BACK", "NOT_FOUND"]
    assert await phones(clinic) == {"Ana Souza": "1", "Bruno Lima": "1"}
    await clinic.done("clients", client("Carla Dias"))
    again = await clinic.run("clients", *batch)
    assert again.committed
    assert not again.replayed


async def test_a_crash_between_leaves_nothing_and_the_batch_may_come_again(
    clinic: Clinic, database
) -> None:
    """DOM-1, LOG-2: a batch is open, then its connection dies, then it is sent again."""
    batch = [client("Carla Dias"), phone("Ana Souza", "2")]
    url = database.admin_url
    async with holding(url, "clients", "name", "Ana Souza"):
        running = asyncio.ensure_future(clinic.run("clients", *batch))
        (pid,) = await waiting(url, 1)
        state = await clinic.state(batch[0])
        assert state.state == pb.OPERATION_STATE_IN_PROGRESS
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        status = await refused(running)
    assert status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert reason_of(status) == "STORE_UNAVAILABLE"
    assert await phones(clinic) == {"Ana Souza": "1", "Bruno Lima": "1"}
    again = await clinic.run("clients", *batch)
    assert again.committed
    assert not again.replayed
    assert len(await clinic.read("clients", "client", equal("name", "Carla Dias"))) == 1


async def test_a_copy_that_comes_while_the_first_is_open_has_its_results(
    clinic: Clinic, database
) -> None:
    """DOM-1: as when a caller tries again before the first answer."""
    operation = phone("Ana Souza", "2")
    async with holding(database.admin_url, "clients", "name", "Ana Souza"):
        calls = [asyncio.ensure_future(clinic.run("clients", operation)) for _ in range(2)]
        await waiting(database.admin_url, 2)
    first, second = await asyncio.gather(*calls)
    assert list(first.results) == list(second.results)
    assert sorted([first.replayed, second.replayed]) == [False, True]


async def test_what_the_deadline_catches_is_rolled_back(clinic: Clinic, database) -> None:
    """DOM-1, GAT-7: DEADLINE_EXCEEDED; then it is not applied, and never will be."""
    batch = [client("Carla Dias"), phone("Ana Souza", "2")]
    async with holding(database.admin_url, "clients", "name", "Ana Souza"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await clinic.run("clients", *batch, timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await waiting(database.admin_url, 0)
    for each in batch:
        assert (await clinic.state(each)).state == pb.OPERATION_STATE_NOT_APPLIED
    assert await clinic.told("clients", *batch) == ["OPERATION_ABANDONED"] * 2
    assert await phones(clinic) == {"Ana Souza": "1", "Bruno Lima": "1"}


async def test_a_caller_that_goes_away_leaves_nothing_behind(clinic: Clinic, database) -> None:
    """DOM-1, GAT-7: cancelled while it waits."""
    batch = [client("Carla Dias"), phone("Ana Souza", "2")]
    async with holding(database.admin_url, "clients", "name", "Ana Souza"):
        call = asyncio.ensure_future(clinic.run("clients", *batch))
        await waiting(database.admin_url, 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await waiting(database.admin_url, 0)
    assert await phones(clinic) == {"Ana Souza": "1", "Bruno Lima": "1"}


async def test_batches_in_each_other_s_way_are_both_applied(clinic: Clinic, database) -> None:
    """DOM-1: a deadlock, made on purpose; the one that loses it is carried out again, whole."""
    await clinic.done("clients", client("Middle", phone="1"))
    one = [phone("Ana Souza", "2"), phone("Middle", "2"), phone("Bruno Lima", "2")]
    other = [phone("Bruno Lima", "3"), phone("Middle", "3"), phone("Ana Souza", "3")]
    async with holding(database.admin_url, "clients", "name", "Middle"):
        calls = [asyncio.ensure_future(clinic.run("clients", *each)) for each in (one, other)]
        await waiting(database.admin_url, 2)
    answers = await asyncio.gather(*calls)
    assert [each.committed for each in answers] == [True, True]
    assert len(set((await phones(clinic)).values())) == 1


async def test_get_operation_tells_what_an_operation_did_without_its_records(
    clinic: Clinic,
) -> None:
    """DOM-1: to a user of the clinic and to the settler; the id stays applied."""
    operation = phone("Ana Souza", "2")
    await clinic.done("clients", operation)
    for roles in (("user",), ()):
        state = await clinic.state(operation, *roles)
        assert state.state == pb.OPERATION_STATE_APPLIED
        assert state.HasField("applied_at")
        assert state.applied.affected == 1
        assert not state.applied.records
    again = await clinic.run("clients", operation)
    assert again.replayed


async def test_an_operation_given_up_takes_its_batch_with_it(clinic: Clinic) -> None:
    """DOM-1, LOG-2: the word NOT_APPLIED holds, also in company."""
    given_up, beside = phone("Ana Souza", "2"), phone("Bruno Lima", "2")
    state = await clinic.state(given_up, "user")
    assert state.state == pb.OPERATION_STATE_NOT_APPLIED
    assert await clinic.told("clients", beside, given_up) == [
        "ROLLED_BACK",
        "OPERATION_ABANDONED",
    ]
    await clinic.done("clients", beside)
    assert (await clinic.state(given_up)).state == pb.OPERATION_STATE_NOT_APPLIED


async def test_the_settler_and_a_batch_race_to_one_truth(clinic: Clinic) -> None:
    """DOM-1, LOG-2: twenty rounds; whatever the settler is told is what happened."""
    for number in range(20):
        operation = client(f"Race {number}")
        answer, state = await asyncio.gather(
            clinic.run("clients", operation), clinic.state(operation)
        )
        if state.state == pb.OPERATION_STATE_IN_PROGRESS:
            state = await clinic.state(operation)
        assert answer.committed == (state.state == pb.OPERATION_STATE_APPLIED)
        found = await clinic.read("clients", "client", equal("name", f"Race {number}"))
        assert len(found) == answer.committed


async def test_trying_a_batch_out_counts_and_changes_nothing(clinic: Clinic) -> None:
    """DOM-1, GAT-5: each operation sees those before it, as it would; the ids stay unused."""
    await clinic.done("finance", invoice("1", "Ana Souza"))
    removal = op("DELETE", "client", equal("phone", "1"))
    removal.max_affected = 10
    batch = [client("Carla Dias", phone="1"), phone("Bruno Lima", "2"), removal]
    tried = await clinic.run("clients", *batch, validate_only=True)
    assert not tried.committed
    assert reasons(tried) == ["APPLIED", "APPLIED", "REFERENCE_VIOLATION"]
    assert [each.applied.affected for each in tried.results[:2]] == [1, 1]
    assert await phones(clinic) == {"Ana Souza": "1", "Bruno Lima": "1"}
    removal.selector.conditions.conditions[0].CopyFrom(equal("name", "ana", "NOT_EQUAL"))
    removal.selector.conditions.conditions.append(equal("name", "Ana Souza", "NOT_EQUAL"))
    tried = await clinic.run("clients", *batch, validate_only=True)
    assert [each.applied.affected for each in tried.results] == [1, 1, 2]
    done = await clinic.run("clients", *batch)
    assert done.committed
    assert not done.replayed
    assert [each.applied.affected for each in done.results] == [1, 1, 2]


async def test_trying_out_what_was_applied_says_what_it_would_do_now(clinic: Clinic) -> None:
    """DOM-1: nothing is committed, and nothing replayed."""
    operation = phone("Ana Souza", "2")
    await clinic.done("clients", operation)
    tried = await clinic.run("clients", operation, validate_only=True)
    assert reasons(tried) == ["STATE_CONFLICT"]
    assert not tried.committed
    assert not tried.replayed


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda each: each.operations.pop(), "operations"),
        (lambda each: setattr(each, "time_zone", "Mars/Olympus"), "time_zone"),
        (
            lambda each: setattr(each.operations[0], "operation_id", "7"),
            "operations[0].operation_id",
        ),
        (lambda each: setattr(each.operations[0], "verb", 0), "operations[0].verb"),
        (lambda each: setattr(each.operations[0], "entity", "Client!"), "operations[0].entity"),
        (lambda each: setattr(each.operations[0], "limit", 501), "operations[0].limit"),
        (
            lambda each: setattr(each.operations[0], "max_affected", 10_001),
            "operations[0].max_affected",
        ),
        (
            lambda each: each.operations[0].selector.conditions.conditions.add(
                field="name", comparison=99, value=equal("x", "y").value
            ),
            "operations[0].selector.conditions.conditions[0].comparison",
        ),
        (
            lambda each: each.operations[0].selector.conditions.conditions.add(
                field="name", comparison=pb.COMPARISON_EQUAL
            ),
            "operations[0].selector.conditions.conditions[0].value",
        ),
    ],
)
async def test_a_malformed_request_names_the_field(clinic: Clinic, change, field: str) -> None:
    """DOM-1, ALL-2."""
    request = pb.ExecuteBatchRequest(operations=[op("READ", "client")])
    change(request)
    status = await refused(clinic.stubs["clients"].ExecuteBatch(request, **clinic.call))
    assert reason_of(status) == "INVALID_ARGUMENT"
    assert fields_of(status) == [field]


async def test_a_malformed_id_is_not_asked_about(clinic: Clinic) -> None:
    """DOM-1, ALL-2."""
    asked = pb.GetOperationRequest(operation_id=str(uuid.uuid4()).upper())
    status = await refused(clinic.stubs["clients"].GetOperation(asked, **clinic.call))
    assert fields_of(status) == ["operation_id"]
