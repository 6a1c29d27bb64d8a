"""Services that are killed in the middle of a request (GAT-2, GAT-7, LOG-2, USE-3)."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.embedded_services import wait_until_serving
from tests.gateway_calls import (
    CREATE,
    READ,
    Stage,
    User,
    client,
    eventually,
    operation,
    reasons,
)
from tests.lab_domain import refusing


async def start(stage: Stage, name: str) -> None:
    program = stage.suite.programs[name]
    await program.start()
    await wait_until_serving(program, stage.suite.addresses[name])


async def once_back(
    user: User, what: Sequence[pb.Operation], request_id: str
) -> pb.ExecuteResponse:
    """What a gateway that was started again answers."""

    async def answered() -> pb.ExecuteResponse | None:
        try:
            return await user.execute(what, request_id=request_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None  # the channel has not found the new process yet

    answer: pb.ExecuteResponse = await eventually(answered, 30)
    return answer


async def test_a_request_whose_gateway_is_killed_is_settled_once(crew: Stage) -> None:
    """GAT-2, GAT-5, GAT-7, LOG-2, USE-3: what was done is done once, what was not never will be.

    One domain had committed, another had not; a retry under the same id tells of both. What had
    not come so far is begun anew: a summary is made again, and a token is as good as before.
    """
    user, id_ = await crew.user(), str(uuid.uuid4())
    async with crew.lab() as done, crew.lab() as undone, crew.lab() as shown:
        bulk = [operation(shown.name, CREATE) for _ in range(6)]
        token = (await user.execute(bulk, request_id="bulk")).confirmation.confirmation_token
        looking = asyncio.Semaphore(0)

        async def slow_to_show(request: domain_pb2.ExecuteBatchRequest) -> Any:
            looking.release()
            await shown.go_on.wait()
            return await shown.apply(request)

        shown.answers = slow_to_show
        early = [
            asyncio.create_task(user.execute(bulk, request_id="unseen")),
            asyncio.create_task(user.execute(None, request_id="bulk", confirmation_token=token)),
        ]
        await looking.acquire()
        await looking.acquire()
        done.answers, undone.answers = done.slow_to_answer, undone.slow
        request = [operation(done.name, CREATE), operation(undone.name, CREATE), client("Ana")]
        running = asyncio.create_task(user.execute(request, request_id=id_))
        await asyncio.gather(done.arrived.wait(), undone.arrived.wait())
        await eventually(user.clients)
        assert [row[2] for row in await user.log()] == ["unknown"] * 3
        await crew.suite.programs["gateway"].kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.gather(*early, return_exceptions=True)
        shown.answers = shown.apply
        await start(crew, "gateway")

        answer = await once_back(user, request, id_)
        assert answer.replayed
        assert [each.index for each in answer.report.successes] == [0, 2]
        assert reasons(answer.report) == ["OPERATION_ABANDONED"]
        assert answer.report.failures[0].retryable
        done.go_on.set()
        undone.go_on.set()
        assert (len(done.done), len(undone.done)) == (1, 0)
        assert await user.clients() == ["Ana"]
        assert await user.usage() == (0, 2)
        rows = {(row[1], row[2]) for row in await user.log()}
        assert rows == {
            (done.name, "succeeded"),
            (undone.name, "failed"),
            ("clients", "succeeded"),
        }
        assert len(await user.log()) == 3
        again = await user.execute(request, request_id=id_)
        assert again.report == answer.report
        unseen = await user.execute(bulk, request_id="unseen")
        assert unseen.confirmation.operations
        confirmed = await user.execute(None, request_id="bulk", confirmation_token=token)
        assert len(confirmed.report.successes) == len(shown.done) == 6
        twice = await user.execute(None, request_id="bulk", confirmation_token=token)
        assert twice.report == confirmed.report
        assert await user.usage() == (0, 8)


async def test_a_read_whose_gateway_is_killed_is_in_the_log_once(crew: Stage) -> None:
    """GAT-2, LOG-2, USE-2: it was answered before the log had it, which gets it all the same."""
    user, id_ = await crew.user(), str(uuid.uuid4())
    read = [operation("clients", READ)]
    log, gateway = crew.suite.programs["oplog"], crew.suite.programs["gateway"]
    log.pause()
    try:
        answer = await user.execute(read, request_id=id_)
        state = "SELECT state FROM gateway.requests WHERE user_id = %s"
        assert await crew.rows(state, user.id) == [("answered",)]
        again = await user.execute(read, request_id=id_)
        await gateway.kill()
    finally:
        log.resume()
    assert again.replayed
    assert again.report == answer.report
    await crew.rows(
        "UPDATE gateway.requests SET lease_until = now() - interval '1 s' WHERE user_id = %s",
        user.id,
    )
    await start(crew, "gateway")

    assert (await once_back(user, read, id_)).report == answer.report
    assert await user.log() == [("read", "clients", "succeeded", "")]
    assert await user.usage() == (1, 0)


async def test_an_answer_that_was_given_is_the_one_that_is_kept(crew: Stage) -> None:
    """GAT-2: also where Postgres died between the two; a retry finds its reason, and no other."""
    user, id_ = await crew.user(), str(uuid.uuid4())
    async with crew.lab() as lab:

        async def refuses_late(request: domain_pb2.ExecuteBatchRequest) -> Any:
            if not request.validate_only:
                lab.arrived.set()
                await lab.go_on.wait()
            return refusing(request, "RECORD_LOCKED")

        lab.answers = refuses_late
        asked = [operation(lab.name, CREATE)]
        running = asyncio.create_task(user.execute(asked, request_id=id_))
        await lab.arrived.wait()
        await crew.suite.postgres.kill()
        lab.go_on.set()
        first = await running
        assert reasons(first.report) == ["RECORD_LOCKED"]
        await crew.suite.postgres.start()

        async def answered() -> pb.ExecuteResponse | None:
            try:
                return await user.execute(asked, request_id=id_)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return None

        again = await eventually(answered, 30)
        assert again.report == first.report

        async def given_back() -> bool:
            return await user.usage() == (0, 0)

        await eventually(given_back, 20)
    await eventually(lambda: is_whole(crew), 20)


async def is_whole(stage: Stage) -> bool:
    """Whether every service has found Postgres again."""
    try:
        answer = await (await stage.user()).execute([client("Ana")])
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return bool(answer.report.successes)


async def test_an_outcome_outlives_the_log_that_was_killed(crew: Stage) -> None:
    """LOG-2, GAT-12: it waits on disk; meanwhile reads go on and changes are refused."""
    user, id_ = await crew.user(), str(uuid.uuid4())
    async with crew.lab() as lab:
        lab.answers = lab.slow_to_answer
        running = asyncio.create_task(user.execute([operation(lab.name, CREATE)], request_id=id_))
        await lab.arrived.wait()
        await crew.suite.programs["oplog"].kill()
        lab.go_on.set()
        assert (await running).report.outcome == pb.OUTCOME_SUCCEEDED
        refused = await user.execute([client("Ana")])
        assert reasons(refused.report) == ["LOG_UNAVAILABLE"]
        read = await user.execute([operation("clients", READ)])
        assert read.report.outcome == pb.OUTCOME_SUCCEEDED
        await start(crew, "oplog")

        async def logged() -> bool:
            return len([row for row in await user.log() if row[2] != "unknown"]) == 3

        await eventually(logged, 20)
        assert {(row[0], row[1], row[2]) for row in await user.log()} == {
            ("create", lab.name, "succeeded"),
            ("create", "clients", "refused"),
            ("read", "clients", "succeeded"),
        }
        assert await user.clients() == []
        assert await user.usage() == (1, 1)

        async def allowed() -> bool:
            answer = await user.execute([client("Ana")])
            return bool(answer.report.successes)

        await eventually(allowed)
        assert await user.clients() == ["Ana"]


async def test_counts_outlive_the_usage_service_that_was_killed(crew: Stage) -> None:
    """USE-7, ALL-2: nothing is done while it is away, and nothing that was counted is lost."""
    user = await crew.user()
    await user.execute([client("Ana")])
    await crew.suite.programs["usage"].kill()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await user.execute([client("Bea")])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await start(crew, "usage")

    async def back() -> bool:
        try:
            await user.execute([operation("clients", READ)])
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(back, 20)
    assert await user.clients() == ["Ana"]
    assert await user.usage() == (1, 1)


async def test_a_count_is_given_back_though_usage_was_killed_meanwhile(crew: Stage) -> None:
    """USE-2: what the request could not settle, its retry does; the report is the same."""
    user, id_ = await crew.user(), str(uuid.uuid4())
    async with crew.lab() as lab:

        async def refuses(
            request: domain_pb2.ExecuteBatchRequest,
        ) -> domain_pb2.ExecuteBatchResponse:
            lab.arrived.set()
            await lab.go_on.wait()
            return refusing(request, "STATE_CONFLICT")

        lab.answers = refuses
        request = [operation(lab.name, CREATE)]
        running = asyncio.create_task(user.execute(request, request_id=id_))
        await lab.arrived.wait()
        await crew.suite.programs["usage"].kill()
        lab.go_on.set()
        answer = await running
        assert reasons(answer.report) == ["STATE_CONFLICT"]
        assert await user.usage() == (0, 1)
        await start(crew, "usage")

        async def given_back() -> bool:
            again = await user.execute(request, request_id=id_)
            assert again.report == answer.report
            return await user.usage() == (0, 0)

        await eventually(given_back, 20)
        assert [row[2] for row in await user.log()] == ["failed"]


async def test_a_store_that_is_killed_in_the_middle_loses_nothing(crew: Stage) -> None:
    """GAT-7, LOG-2, USE-7: the answer is given, and once the store is back all of it agrees."""
    user, id_ = await crew.user(), str(uuid.uuid4())
    async with crew.lab() as lab:
        lab.answers = lab.slow_to_answer
        request = [operation(lab.name, CREATE)]
        running = asyncio.create_task(user.execute(request, request_id=id_, timeout=60))
        await lab.arrived.wait()
        await crew.suite.postgres.kill()
        lab.go_on.set()
        answer = await running
        assert answer.report.outcome == pb.OUTCOME_SUCCEEDED
        await crew.suite.postgres.start()

        async def agreed() -> bool:
            try:
                again = await user.execute(request, request_id=id_)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
                    raise
                return False
            assert again.report.id == answer.report.id
            assert again.report.outcome == pb.OUTCOME_SUCCEEDED
            return [row[2] for row in await user.log()] == ["succeeded"]

        await eventually(agreed, 40)
        assert len(lab.done) == 1
        assert await user.usage() == (0, 1)
        reserved = "SELECT DISTINCT reserved_until FROM usage.receipts WHERE user_id = %s"
        assert await crew.rows(reserved, user.id) == [(None,)]
