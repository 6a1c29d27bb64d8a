"""Requests that end midway, and domains that do not do what they should (GAT-7)."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_rpc

from services.gateway.replay import Call
from services.gateway.requests import Requests
from services.runtime.failure import StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from tests.gateway_calls import (
    CREATE,
    READ,
    Stage,
    User,
    another_gateway,
    client,
    eventually,
    indexes,
    operation,
    reasons,
    refused,
    serving_gateway,
)
from tests.lab_domain import Lab

Answer = domain_pb2.ExecuteBatchResponse
Request = domain_pb2.ExecuteBatchRequest


async def cancel(user: User, id_: str, replica: int) -> pb.CancelOutcome.ValueType:
    request = pb.CancelRequest(request_id=id_)
    return (await user.stage.gateways[replica].Cancel(request, **user.call)).outcome


def both(lab: Lab) -> list[pb.Operation]:
    """A change in the lab, and one in the clinic."""
    return [operation(lab.name, CREATE), client("Ana")]


@pytest.mark.parametrize("replica", [0, 1])
async def test_what_was_not_done_when_cancelled_is_not_done(stage: Stage, replica: int) -> None:
    """GAT-7, USE-2: from any connection and replica; what was done elsewhere stands."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow
        running = asyncio.create_task(user.execute(both(lab), request_id=id_))
        await lab.arrived.wait()
        await eventually(user.clients)
        assert await cancel(user, id_, replica) == pb.CANCEL_OUTCOME_CANCELLING
        report = (await running).report
        lab.go_on.set()
        assert [each.domain for each in report.successes] == ["clients"]
        assert reasons(report) == ["CANCELLED"]
        assert report.failures[0].retryable
        assert not report.failures[0].outcome_unknown
        assert lab.done == []
        assert await user.clients() == ["Ana"]
        assert await user.usage() == (0, 1)
        outcomes = {(row[1], row[2]) for row in await user.log()}
        assert outcomes == {(lab.name, "cancelled"), ("clients", "succeeded")}
        assert await cancel(user, id_, replica) == pb.CANCEL_OUTCOME_ALREADY_FINISHED


async def test_what_was_done_when_cancelled_is_done(stage: Stage) -> None:
    """GAT-7: the domain had committed, and is asked."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow_to_answer
        asked = [operation(lab.name, CREATE), operation(lab.name, READ)]
        running = asyncio.create_task(user.execute(asked, request_id=id_))
        await lab.arrived.wait()
        await cancel(user, id_, 1)
        report = (await running).report
        assert [each.index for each in report.successes] == [0]
        assert reasons(report) == ["CANCELLED"]
        assert len(lab.done) == 1
        assert await user.usage() == (0, 1)


async def test_what_is_cancelled_before_it_is_asked_about_is_neither_asked_nor_done(
    stage: Stage,
) -> None:
    """GAT-7, GAT-5: while its summary is made; its report says so, and there is no token."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:

        async def slow(request: Request) -> Answer:
            lab.arrived.set()
            await lab.go_on.wait()
            return await lab.apply(request)

        lab.answers = slow
        six = [operation(lab.name, CREATE) for _ in range(6)]
        running = asyncio.create_task(user.execute(six, request_id=id_))
        await lab.arrived.wait()
        for replica in (1, 0):  # as often as one likes
            assert await cancel(user, id_, replica) == pb.CANCEL_OUTCOME_CANCELLING
        lab.go_on.set()
        answer = await running
        assert set(reasons(answer.report)) == {"CANCELLED"}
        assert indexes(answer.report) == list(range(6))
        assert (await user.execute(six, request_id=id_, replica=1)).report == answer.report
        assert lab.done == []
    assert await user.usage() == (0, 0)
    assert {row[2] for row in await user.log()} == {"cancelled"}


async def test_what_waits_for_another_domain_when_cancelled_is_not_begun(stage: Stage) -> None:
    """GAT-7, USE-2: counts given back, outcomes logged, all of it true to the domains' tables."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow
        late = client("")
        del late.fields["name"]
        late.references.add(field="name", operation=0, record_field="name")
        asked = [operation(lab.name, CREATE), late]
        running = asyncio.create_task(user.execute(asked, request_id=id_))
        await lab.arrived.wait()
        for _ in range(2):
            assert await cancel(user, id_, 1) == pb.CANCEL_OUTCOME_CANCELLING
        assert reasons((await running).report) == ["CANCELLED", "DEPENDENCY_FAILED"]
        assert lab.done == []
    assert await user.clients() == []
    assert await user.usage() == (0, 0)
    assert {(row[1], row[2]) for row in await user.log()} == {
        (lab.name, "cancelled"),
        ("clients", "failed"),
    }


async def test_nobody_cancels_anothers_request(stage: Stage) -> None:
    """GAT-7, ALL-3: it is not even told that there is one."""
    user, other, id_ = await stage.user(), await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow
        running = asyncio.create_task(user.execute([operation(lab.name, CREATE)], request_id=id_))
        await lab.arrived.wait()
        assert await cancel(other, id_, 0) == pb.CANCEL_OUTCOME_NOT_FOUND
        lab.go_on.set()
        assert (await running).report.outcome == pb.OUTCOME_SUCCEEDED


async def test_a_lost_connection_is_no_cancel(stage: Stage) -> None:
    """GAT-2, GAT-7: the work continues, and the retry gets its report, counted once."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow
        running = asyncio.create_task(user.execute(both(lab), request_id=id_))
        await lab.arrived.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        retry = asyncio.create_task(user.execute(both(lab), request_id=id_, replica=1))
        lab.go_on.set()
        again = await retry
        assert again.replayed
        assert again.report.outcome == pb.OUTCOME_SUCCEEDED
        assert len(lab.done) == 1
        assert await user.clients() == ["Ana"]
        assert await user.usage() == (0, 2)


async def test_a_caller_that_runs_out_of_time_finds_its_report(stage: Stage) -> None:
    """GAT-7, GAT-2: what was done is in it as done, what was not as not done; nothing is undone."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow
        running = asyncio.create_task(user.execute(both(lab), request_id=id_, timeout=0.8))
        await lab.arrived.wait()
        await eventually(user.clients)
        await asyncio.gather(running, return_exceptions=True)
        lab.answers = lab.apply
        again = await user.execute(both(lab), request_id=id_, replica=1)
        assert again.replayed
        assert [each.domain for each in again.report.successes] == ["clients"]
        assert reasons(again.report) == ["DEADLINE_EXCEEDED"]
        assert lab.done == []
        assert await user.usage() == (0, 1)


async def test_a_deadline_leaves_time_to_tell(stage: Stage) -> None:
    """GAT-7: the report comes within the caller's own time, short as it is."""
    user = await stage.user()
    async with stage.lab() as lab:
        lab.answers = lab.slow
        answer = await user.execute([operation(lab.name, CREATE), client("Ana")], timeout=2)
        assert [each.domain for each in answer.report.successes] == ["clients"]
        assert reasons(answer.report) == ["DEADLINE_EXCEEDED"]
        assert not answer.report.failures[0].outcome_unknown
        lab.answers = lab.apply
        quick = await user.execute([operation(lab.name, CREATE)], timeout=0.9)
        assert quick.report.outcome == pb.OUTCOME_SUCCEEDED


async def test_a_domain_that_says_nothing_at_all_keeps_nobody_from_the_report(
    stage: Stage,
) -> None:
    """GAT-7: what the others did is told in time; what became of the rest, when it can be."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers, lab.tells = lab.slow_to_answer, None
        first = await user.execute(both(lab), request_id=id_, timeout=2.4)
        assert [each.domain for each in first.report.successes] == ["clients"]
        (unknown,) = first.report.failures
        assert unknown.outcome_unknown
        lab.tells = True
        second = await user.execute(both(lab), request_id=id_, replica=1)
        assert second.report.outcome == pb.OUTCOME_SUCCEEDED
        assert len(lab.done) == 1
    assert await user.usage() == (0, 2)


async def test_a_domain_that_is_down_has_done_nothing(stage: Stage) -> None:
    """GAT-7, USE-2: nothing was sent, so nothing is unknown, and nothing is counted."""
    user, reader = await stage.user(), await stage.user()
    async with stage.lab() as lab:
        await lab.server.stop(None)
        answer = await user.execute(both(lab))
        assert [each.domain for each in answer.report.successes] == ["clients"]
        assert reasons(answer.report) == ["DOMAIN_UNAVAILABLE"]
        assert answer.report.failures[0].retryable
        assert not answer.report.failures[0].outcome_unknown
        assert await user.usage() == (0, 1)
        assert (lab.name, "failed") in {(row[1], row[2]) for row in await user.log()}
        read = await reader.execute([operation(lab.name, READ)])
        assert read.report.outcome == pb.OUTCOME_FAILED
        assert await reader.usage() == (0, 0)


async def nothing(lab: Lab, request: Request) -> Answer:
    return Answer()


async def other_ids(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results[0].operation_id = str(uuid.uuid4())
    return answer


async def half(lab: Lab, request: Request) -> Answer:
    """Says of one that it was applied, and of the batch that it was not."""
    answer = await lab.apply(request)
    answer.committed = False
    answer.results[-1].ClearField("applied")
    answer.results[-1].status.code = 9
    return answer


async def no_results(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.results[0].ClearField("applied")
    return answer


async def broken(lab: Lab, request: Request) -> Answer:
    await lab.apply(request)
    raise RuntimeError("psycopg.errors.SyntaxError at character 7")


async def not_committed(lab: Lab, request: Request) -> Answer:
    answer = await lab.apply(request)
    answer.committed = False
    return answer


WRONG = [nothing, other_ids, half, no_results, broken, not_committed]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: each.__name__)
async def test_a_domain_that_answers_nonsense_is_asked(
    stage: Stage, wrong: Callable[[Lab, Request], Awaitable[Answer]]
) -> None:
    """GAT-7, GAT-6: its word on each operation counts, by id; its text goes nowhere."""
    user = await stage.user()
    async with stage.lab() as lab:

        async def answers(request: Request) -> Answer:
            return await wrong(lab, request)

        lab.answers = answers
        asked = [operation(lab.name, CREATE), operation(lab.name, CREATE)]
        answer = await user.execute(asked)
        assert indexes(answer.report) == [0, 1]
        done = 0 if wrong is nothing else 2
        assert len(answer.report.successes) == len(lab.done) == done
        assert set(reasons(answer.report)) <= {"DOMAIN_MALFUNCTION"}
        assert await user.usage() == (0, done)
        assert "psycopg" not in str(answer)


async def test_a_domain_that_is_still_at_it_is_asked_again(stage: Stage) -> None:
    """GAT-7: nothing is left unknown that the domain can tell in a moment."""
    user = await stage.user()
    async with stage.lab() as lab:

        async def answers(request: Request) -> Answer:
            await lab.apply(request)
            lab.in_progress.update(lab.done)
            raise RuntimeError

        lab.answers = answers
        answer = await user.execute([operation(lab.name, CREATE)])
        assert answer.report.outcome == pb.OUTCOME_SUCCEEDED


@pytest.fixture
async def requests(stage: Stage) -> Any:
    url = stage.suite.database_url("gateway")
    async with open_pool(url, min_size=1, max_size=2, name="gateway") as pool:
        yield Requests(pool, keep=timedelta(hours=24))


@pytest.mark.parametrize("applied", [True, False])
async def test_what_nobody_could_tell_is_settled_when_the_domain_can(
    stage: Stage, applied: bool
) -> None:
    """GAT-7, USE-2, LOG-2: it is told as unknown, stays counted, and a retry learns the truth."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:

        async def answers(request: Request) -> Answer:
            if applied:
                await lab.apply(request)
            raise RuntimeError

        lab.answers, lab.tells = answers, False
        asked = [operation(lab.name, CREATE)]
        first = await user.execute(asked, request_id=id_)
        (failure,) = first.report.failures
        assert failure.outcome_unknown
        assert not failure.retryable
        assert failure.message
        assert await user.usage() == (0, 1)
        assert [row[2] for row in await user.log()] == ["unknown"]
        lab.answers, lab.tells = lab.apply, True
        second = await user.execute(asked, request_id=id_, replica=1)
        assert second.report.id == first.report.id
        assert bool(second.report.successes) == applied
        assert not any(each.outcome_unknown for each in second.report.failures)
        assert await user.usage() == (0, int(applied))
        assert [row[2] for row in await user.log()] == ["succeeded" if applied else "failed"]
        third = await user.execute(asked, request_id=id_)
        assert third.report == second.report
        assert len(lab.done) == applied


async def test_what_a_dead_gateway_left_is_settled_by_another(stage: Stage) -> None:
    """GAT-7, USE-3, LOG-2: without a retry too; counted if it was done, in one row."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:

        async def answers(request: Request) -> Answer:
            await lab.apply(request)
            raise RuntimeError

        lab.answers, lab.tells = answers, False
        await user.execute([operation(lab.name, CREATE)], request_id=id_)
        lab.tells = True
        # As if it had been left half a minute ago.
        await stage.rows(
            "UPDATE gateway.requests SET lease_until = now() - interval '1 min' WHERE user_id = %s",
            user.id,
        )

        async def finished() -> bool:
            rows = await stage.rows(
                "SELECT state FROM gateway.requests WHERE user_id = %s", user.id
            )
            return rows == [("finished",)]

        await eventually(finished, 20)
        assert [row[2] for row in await user.log()] == ["succeeded"]
        assert await user.usage() == (0, 1)
        reserved = (
            "SELECT reserved_until FROM usage.receipts WHERE user_id = %s AND kind = 'modify'"
        )
        assert await stage.rows(reserved, user.id) == [(None,)]


async def test_a_gateway_that_lost_its_lease_logs_nothing(stage: Stage) -> None:
    """GAT-2, LOG-2, USE-9: what it did is reported by whoever took the request over, and once.

    Kind: a process that was frozen continues with what others have finished meanwhile.
    """
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with stage.lab() as lab:
        lab.answers = lab.slow_to_answer
        asked = [operation(lab.name, READ), operation(lab.name, CREATE)]
        frozen = asyncio.create_task(user.execute(asked, request_id=id_))
        await lab.arrived.wait()
        await stage.rows(
            "UPDATE gateway.requests SET lease_until = now() - interval '1 s', owner = %s"
            " WHERE user_id = %s",
            uuid.uuid4(),
            user.id,
        )
        report = (await user.execute(asked, request_id=id_, replica=1)).report
        assert [each.index for each in report.successes] == [1]
        assert reasons(report) == ["OPERATION_ABANDONED"]
        lab.go_on.set()
        late = await frozen
        assert late.replayed
        assert late.report == report
        assert {(row[0], row[2]) for row in await user.log()} == {
            ("read", "failed"),
            ("create", "succeeded"),
        }
        assert await user.usage() == (0, 1)


async def test_without_the_log_reads_go_on_and_changes_are_refused(stage: Stage) -> None:
    """LOG-2, GAT-12: nothing is changed, nothing counted; the reads' rows come later."""
    user = await stage.user()
    nowhere = f"unix:{stage.suite.folder}/nobody.sock"
    async with another_gateway(stage.suite, oplog_target=nowhere) as gateway:
        for operations in ([client("Ana")], [operation("clients", READ)]):
            request = pb.ExecuteRequest(
                request_id=str(uuid.uuid4()), operations=pb.OperationList(operations=operations)
            )
            answer = await gateway.Execute(request, **user.call)
            if operations[0].verb == CREATE:
                assert reasons(answer.report) == ["LOG_UNAVAILABLE"]
                assert answer.report.failures[0].retryable
            else:
                assert answer.report.outcome == pb.OUTCOME_SUCCEEDED
        # What is read beside a change belongs to its batch, which is whole (GAT-6).
        beside = [client("Ana"), operation("clients", READ), operation("finance", READ)]
        request = pb.ExecuteRequest(
            request_id=str(uuid.uuid4()), operations=pb.OperationList(operations=beside)
        )
        report = (await gateway.Execute(request, **user.call)).report
        assert reasons(report) == ["LOG_UNAVAILABLE", "ROLLED_BACK"]
        assert [each.index for each in report.successes] == [2]
    assert await user.clients() == []
    assert (await user.usage())[1] == 0


class SilentLog(otlp_rpc.TraceServiceServicer):
    """Of a replica that is frozen: it takes calls, and answers none."""

    async def Export(self, request: Any, context: Any) -> Any:
        await asyncio.Event().wait()


async def test_a_short_deadline_before_the_intent_is_told_as_the_deadline(
    stage: Stage, tmp_path: Path
) -> None:
    """GAT-7, LOG-2, USE-2. Kind: a caller's deadline that is told as another's failure.

    In time, by a report that says that nothing was done; nothing is counted.
    """
    user, server = await stage.user(), grpc.aio.server()
    otlp_rpc.add_TraceServiceServicer_to_server(SilentLog(), server)
    silent = f"unix:{tmp_path}/log.sock"
    server.add_insecure_port(silent)
    await server.start()
    operations = pb.OperationList(operations=[client("Ana"), operation("finance", READ)])
    request = pb.ExecuteRequest(request_id="r", operations=operations)
    async with another_gateway(stage.suite, oplog_target=silent) as gateway:
        answer = await gateway.Execute(request, **{**user.call, "timeout": 2.0})
        await server.stop(0)
    assert reasons(answer.report)[0] == "DEADLINE_EXCEEDED"
    assert indexes(answer.report) == [0, 1]
    again = await user.execute(operations.operations, request_id="r", replica=1)
    assert again.report == answer.report
    assert await user.clients() == []
    assert (await user.usage())[1] == 0


async def test_reads_end_where_their_rows_could_not_be_kept(stage: Stage, tmp_path: Path) -> None:
    """LOG-2, LOG-3: before they are begun and counted; what was answered is kept to the last."""
    user = await stage.user()
    nowhere = f"unix:{stage.suite.folder}/nobody.sock"
    async with another_gateway(
        stage.suite,
        oplog_target=nowhere,
        spool_directory=str(tmp_path / "spool"),
        spool_max_bytes="1024",
    ) as gateway:

        async def read() -> pb.ExecuteResponse:
            operations = pb.OperationList(operations=[operation("clients", READ)])
            request = pb.ExecuteRequest(request_id=str(uuid.uuid4()), operations=operations)
            return await gateway.Execute(request, **user.call)

        answered = 0

        def files() -> list[Path]:
            return list((tmp_path / "spool").glob("*.otlp"))

        async def is_kept() -> bool:
            return len(files()) == answered

        while sum(file.stat().st_size for file in files()) < 2048:
            assert (await read()).report.outcome == pb.OUTCOME_SUCCEEDED
            answered += 1
            await eventually(is_kept)
        analyze = pb.AnalyzeRequest(
            request_id=str(uuid.uuid4()),
            metrics=["no_show_rate"],
            window=pb.Window(last_days=7),
        )
        for call in (read(), gateway.Analyze(analyze, **user.call)):
            failure = await refused(call)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.reason == "LOG_UNAVAILABLE"
            assert failure.retry_after is not None
    assert await user.usage() == (answered, 0)


async def test_a_store_that_is_away_is_told_as_such(requests: Requests) -> None:
    """ALL-2: with its own reason."""
    async with open_pool(
        "postgresql:///nothing?host=/nonexistent", min_size=0, max_size=1, name="gateway"
    ) as pool:
        away = Requests(pool, keep=timedelta(hours=24))
        caller = Caller(str(uuid.uuid4()), "", frozenset({"user"}))
        with pytest.raises(StoreUnavailable):
            await away.open(Call(caller, "r", b"", "en-US", "UTC"))


async def test_a_cancel_of_what_never_was_is_told_as_such(stage: Stage) -> None:
    """GAT-7, ALL-2: an id that is none is refused."""
    user = await stage.user()
    assert await cancel(user, "never-heard-of", 0) == pb.CANCEL_OUTCOME_NOT_FOUND
    failure = await refused(
        stage.gateways[0].Cancel(pb.CancelRequest(request_id="not one!"), **user.call)
    )
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_replica_that_stops_finishes_what_it_has_begun(stage: Stage) -> None:
    """ALL-1: the running request gets its answer, whole, before the replica is gone."""
    user = await stage.user()
    async with stage.lab() as lab, AsyncExitStack() as replica:
        address = await replica.enter_async_context(serving_gateway(stage.suite))
        gateway = GatewayServiceStub(grpc.aio.insecure_channel(address))
        lab.answers = lab.slow
        request = pb.ExecuteRequest(
            request_id="r", operations=pb.OperationList(operations=both(lab))
        )
        running = asyncio.ensure_future(gateway.Execute(request, **user.call))
        await lab.arrived.wait()

        async def hears_nothing_more() -> bool:
            try:
                await gateway.GetUsage(pb.GetUsageRequest(), **user.call)
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        async def stopping() -> None:
            await eventually(hears_nothing_more)
            lab.go_on.set()
            assert (await running).report.outcome == pb.OUTCOME_SUCCEEDED

        told = asyncio.create_task(stopping())
        await replica.aclose()
        await told
    assert await user.usage() == (0, 2)
    assert [row[2] for row in await user.log()] == ["succeeded"] * 2
