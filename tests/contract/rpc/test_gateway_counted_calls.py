"""Execute, Analyze, StreamAnalyze and Recommend: counted = delivered, one answer an id (GAT-2)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
import grpc.aio
import psycopg
import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from services.gateway.admission import READ, operation_id
from services.gateway.replay import Call, Lease, fingerprint_of
from services.gateway.requests import Requests
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from tests.gateway_calls import Stage, User, clients, eventually, refused

Answer: TypeAlias = pb.ExecuteResponse | pb.AnalyzeResponse | pb.RecommendResponse
METRICS = ["no_show_rate", "overdue_ratio"]
LAST_WEEK = pb.Window(last_days=7)
TABLES = "clinic.clients, clinic.appointments, clinic.invoices"


def execute_request(id_: str) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(request_id=id_, operations=pb.OperationList(operations=[clients()]))


def analyze_request(id_: str) -> pb.AnalyzeRequest:
    return pb.AnalyzeRequest(request_id=id_, metrics=METRICS, window=LAST_WEEK)


def recommend_request(id_: str) -> pb.RecommendRequest:
    return pb.RecommendRequest(request_id=id_, window=LAST_WEEK)


async def execute(user: User, id_: str, replica: int, timeout: float) -> Answer:
    call = {**user.call, "timeout": timeout}
    return await user.stage.gateways[replica].Execute(execute_request(id_), **call)


async def analyze(user: User, id_: str, replica: int, timeout: float) -> Answer:
    call = {**user.call, "timeout": timeout}
    return await user.stage.gateways[replica].Analyze(analyze_request(id_), **call)


async def stream(user: User, id_: str, replica: int, timeout: float) -> Answer:
    call = {**user.call, "timeout": timeout}
    request = pb.StreamAnalyzeRequest(request=analyze_request(id_))
    parts = [part async for part in user.stage.gateways[replica].StreamAnalyze(request, **call)]
    finished = parts[-1].finished
    results = [part.result for part in parts if part.HasField("result")]
    assert sorted(map(str, results)) == sorted(map(str, finished.results))
    assert "".join(part.summary_delta for part in parts) == finished.summary
    return finished


async def recommend(user: User, id_: str, replica: int, timeout: float) -> Answer:
    call = {**user.call, "timeout": timeout}
    return await user.stage.gateways[replica].Recommend(recommend_request(id_), **call)


Send = Callable[[User, str, int, float], Awaitable[Answer]]
KINDS: list[Send] = [execute, analyze, stream, recommend]
each_kind = pytest.mark.parametrize("send", KINDS, ids=lambda send: send.__name__)
SECONDS = 15.0


@asynccontextmanager
async def frozen(stage: Stage, tables: str = TABLES) -> AsyncIterator[None]:
    """The clinic does not answer: somebody holds its tables."""
    url = stage.suite.database_url("postgres")
    async with (
        await psycopg.AsyncConnection.connect(url) as connection,
        connection.transaction(),
    ):
        await connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        yield


def bare(answer: Answer) -> Answer:
    """*answer* but for the word that it is a replay."""
    copy: Any = type(answer)()
    copy.CopyFrom(answer)
    copy.replayed = False
    return copy  # type: ignore[no-any-return]


async def is_counted(user: User) -> bool:
    return await user.usage() == (1, 0)


async def is_taken_on(stage: Stage, user: User, id_: str) -> bool:
    found = await stage.rows(
        "SELECT 1 FROM gateway.requests WHERE user_id = %s AND request_id = %s", user.id, id_
    )
    return bool(found)


@each_kind
async def test_one_id_has_one_answer(stage: Stage, send: Send) -> None:
    """GAT-2, USE-3. Kind: a call that computes or counts again what has an answer.

    With the quota used up as well, by either gateway, and at once.
    """
    user, id_ = await stage.user(await stage.plan(daily_read_limit=1)), str(uuid.uuid4())
    first, *others = await asyncio.gather(*(send(user, id_, n % 2, SECONDS) for n in range(4)))
    again = [await send(user, id_, replica, SECONDS) for replica in (0, 1)]
    assert all(each.replayed for each in again)
    assert sum(not each.replayed for each in (first, *others)) == 1
    assert all(bare(each) == bare(first) for each in (*others, *again))
    assert (await refused(send(user, str(uuid.uuid4()), 0, SECONDS))).reason == "QUOTA_EXHAUSTED"
    assert await user.usage() == (1, 0)
    assert [row[2] for row in await user.log()] == ["succeeded"]


@each_kind
async def test_an_answer_is_replayed_in_a_cool_down(stage: Stage, send: Send) -> None:
    """GAT-2, USE-6: and prolongs nothing, whoever asks however often."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    first = await send(user, id_, 0, SECONDS)
    await stage.rows(
        "UPDATE usage.users SET cool_down_until = now() + interval '5 min',"
        " cool_down_kind = 'query' WHERE user_id = %s",
        user.id,
    )
    assert (await refused(send(user, str(uuid.uuid4()), 0, SECONDS))).reason == "COOL_DOWN"
    for replica in (0, 1):
        assert bare(await send(user, id_, replica, SECONDS)) == bare(first)
    assert await user.usage() == (1, 0)


async def test_an_id_is_of_one_kind_of_request(stage: Stage) -> None:
    """GAT-2: whichever came first; Analyze and StreamAnalyze are one kind."""
    user = await stage.user()
    for number, first in enumerate(KINDS):
        id_ = f"id-{number}"
        answer = await first(user, id_, 0, SECONDS)
        for other in KINDS:
            if {first, other} <= {analyze, stream} or other is first:
                assert bare(await other(user, id_, 1, SECONDS)) == bare(answer)
            else:
                failure = await refused(other(user, id_, 1, SECONDS))
                assert failure.reason == "REQUEST_ID_REUSED"
    assert await user.usage() == (len(KINDS), 0)


@each_kind
async def test_a_call_that_ran_out_of_time_counts_once_it_is_answered(
    stage: Stage, send: Send
) -> None:
    """USE-2, GAT-2. Kind: a grant that outlives its release, and then serves for nothing.

    What was not delivered in time is not counted, and the retry is.
    """
    user, id_ = await stage.user(await stage.plan(daily_read_limit=2)), str(uuid.uuid4())
    async with frozen(stage):
        failure = await refused_in_time(send(user, id_, 0, 0.4))
        assert failure is grpc.StatusCode.DEADLINE_EXCEEDED

    async def is_released() -> bool:
        return await user.usage() == (0, 0)

    await eventually(is_released)
    answer = await send(user, id_, 1, SECONDS)
    assert await user.usage() == (1, 0)
    assert bare(await send(user, id_, 0, SECONDS)) == bare(answer)
    await send(user, str(uuid.uuid4()), 0, SECONDS)
    assert (await refused(send(user, str(uuid.uuid4()), 1, SECONDS))).reason == "QUOTA_EXHAUSTED"


async def refused_in_time(call: Awaitable[Answer]) -> grpc.StatusCode:
    """The status of a call whose deadline may have passed at its caller first."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@each_kind
async def test_a_lost_connection_cancels_nothing(stage: Stage, send: Send) -> None:
    """GAT-2, GAT-7: the work continues, its answer is kept and counted, and a retry gets it."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with frozen(stage):
        running = asyncio.ensure_future(send(user, id_, 0, SECONDS))
        await eventually(lambda: is_counted(user))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    answer = await send(user, id_, 1, SECONDS)
    assert answer.replayed
    assert await user.usage() == (1, 0)
    assert [row[2] for row in await user.log()] == ["succeeded"]


@each_kind
async def test_cancel_cancels_every_kind(stage: Stage, send: Send) -> None:
    """GAT-7, USE-2, LOG-1: from another replica; nothing was read, so nothing is counted."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with frozen(stage):
        running = asyncio.ensure_future(send(user, id_, 0, SECONDS))
        await eventually(lambda: is_counted(user))
        request = pb.CancelRequest(request_id=id_)
        cancelled = await stage.gateways[1].Cancel(request, **user.call)
        assert cancelled.outcome == pb.CANCEL_OUTCOME_CANCELLING
        if send is execute:
            assert (await running).report.outcome == pb.OUTCOME_FAILED  # type: ignore[union-attr]
        else:
            assert (await refused(running)).reason == "CANCELLED"
    assert await user.usage() == (0, 0)
    assert [row[2] for row in await user.log()] == ["cancelled"]
    if send is not execute:  # which keeps its report
        assert not (await send(user, id_, 1, SECONDS)).replayed
        assert await user.usage() == (1, 0)


@each_kind
async def test_an_attempt_that_was_taken_over_gives_the_answer_that_stands(
    stage: Stage, send: Send
) -> None:
    """GAT-2, USE-2. Kind: a gateway that was frozen, and goes on after another took over.

    Both callers get one answer, and it is counted once.
    """
    user, id_ = await stage.user(), str(uuid.uuid4())
    async with frozen(stage):
        first = asyncio.ensure_future(send(user, id_, 0, SECONDS))
        await eventually(lambda: is_counted(user))
        await stage.rows(  # as where the first has not renewed its lease for long
            "UPDATE gateway.requests SET lease_until = now() - interval '1 s', owner = %s"
            " WHERE user_id = %s",
            str(uuid.uuid4()),
            user.id,
        )
        second = asyncio.ensure_future(send(user, id_, 1, SECONDS))

        async def is_taken_over() -> bool:
            attempt = "SELECT attempt FROM gateway.requests WHERE user_id = %s"
            return await stage.rows(attempt, user.id) == [(2,)]

        await eventually(is_taken_over)
    assert bare(await first) == bare(await second)
    assert await user.usage() == (1, 0)
    assert [row[2] for row in await user.log()] == ["succeeded"]


@pytest.mark.parametrize("is_delivered", [False, True])
async def test_what_a_killed_gateway_had_counted_is_released_unless_delivered(
    stage: Stage, is_delivered: bool
) -> None:
    """USE-2, USE-3: by whichever gateway finds it; the same request again is counted once."""
    user, id_ = await stage.user(), str(uuid.uuid4())
    caller = Caller(user.id, user.clinic_id, frozenset({"user"}))
    url = stage.suite.database_url("gateway")
    async with open_pool(url, min_size=1, max_size=1, name="gateway") as pool:
        requests = Requests(pool, keep=timedelta(hours=24), lease=timedelta(0))
        mark = fingerprint_of(analyze_request(id_), user.clinic_id)
        lease = await requests.open(Call(caller, id_, mark, "en-US", "UTC"))
        assert isinstance(lease, Lease)
        await consume_read(stage, user, lease)
        assert await user.usage() == (1, 0)
        if is_delivered:
            assert await requests.delivering(lease)
    await stage.rows(
        "UPDATE gateway.requests SET lease_until = now() - interval '1 min' WHERE user_id = %s",
        user.id,
    )

    async def is_abandoned() -> bool:
        state = "SELECT state FROM gateway.requests WHERE user_id = %s"
        return await stage.rows(state, user.id) == [("abandoned",)]

    await eventually(is_abandoned, 20)
    assert await user.usage() == (int(is_delivered), 0)
    await consume_read(stage, user, lease, late=True)
    assert await user.usage() == (int(is_delivered), 0)
    await analyze(user, id_, 1, SECONDS)
    assert await user.usage() == (1, 0)


async def consume_read(stage: Stage, user: User, lease: Lease, *, late: bool = False) -> None:
    """What a gateway says to usage for one attempt at a read; *late*: when it is released."""
    claim = usage_pb2.Claim(
        operation_id=operation_id(lease.use_id, READ),
        user_id=user.id,
        clinic_id=user.clinic_id,
        query=usage_pb2.Query(counts_read=True),
        limits=usage_pb2.DailyLimits(),
        attempt=lease.attempt,
    )
    token = stage.suite.token("gateway", roles=("service",))
    call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": SECONDS}
    async with grpc.aio.insecure_channel(stage.suite.addresses["usage"]) as channel:
        request = usage_pb2.ConsumeBatchRequest(claims=[claim])
        answer = await UsageServiceStub(channel).ConsumeBatch(request, **call)
    if not late:
        assert answer.admissions[0].admission.HasField("granted")


async def test_figures_that_were_delivered_are_counted(stage: Stage) -> None:
    """USE-2, GAT-2: the caller stops reading after the first; the retry gets the whole."""
    user, id_ = await stage.user(await stage.plan(daily_read_limit=1)), str(uuid.uuid4())
    request = pb.StreamAnalyzeRequest(request=analyze_request(id_))
    async with frozen(stage, "clinic.invoices"):
        call = stage.gateways[0].StreamAnalyze(request, **user.call)
        assert (await call.read()).result.metric == "no_show_rate"
        call.cancel()
    whole = await analyze(user, id_, 1, SECONDS)
    assert isinstance(whole, pb.AnalyzeResponse)
    assert [each.metric for each in whole.results] == METRICS
    assert await user.usage() == (1, 0)
    assert (await refused(analyze(user, "other", 0, SECONDS))).reason == "QUOTA_EXHAUSTED"
