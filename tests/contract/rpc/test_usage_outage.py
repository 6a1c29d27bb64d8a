"""Counting while the stores come and go (USE-3, USE-6, USE-7)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import grpc
import psycopg
import pytest
import redis.asyncio
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.failure import reason_of
from services.runtime.telemetry import open_telemetry
from services.usage.app import running
from services.usage.settings import Settings
from tests.conftest import migrated_database

Answer = TypeVar("Answer")
AWAY = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
BUSY = (grpc.StatusCode.UNAVAILABLE, "STORE_BUSY")
Start = Callable[..., AbstractAsyncContextManager[tuple[UsageServiceStub, dict[str, Any], str]]]


@pytest.fixture
def user() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def start(tokens: Any) -> Start:
    @asynccontextmanager
    async def start(
        database_url: str, valkey_url: str, **settings: Any
    ) -> AsyncIterator[tuple[UsageServiceStub, dict[str, Any], str]]:
        made = Settings(
            database_url=database_url,
            valkey_url=valkey_url,
            unrecorded_writes=True,
            **{**tokens.settings, **settings},
        )
        token = tokens.user(roles=["service", "admin"])
        call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 20}
        async with AsyncExitStack() as stack:
            telemetry = stack.enter_context(open_telemetry(made))
            address = await stack.enter_async_context(running(made, telemetry))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            yield UsageServiceStub(channel), call, address

    return start


def query(user: str, reads: int | None = None) -> pb.Claim:
    claim = pb.Claim(
        operation_id=str(uuid.uuid4()), user_id=user, limits=pb.DailyLimits(reads=reads)
    )
    claim.query.counts_read = True
    return claim


async def consumed(replica: Any, claim: pb.Claim) -> pb.Admission:
    stub, call, _ = replica
    return (await stub.Consume(pb.ConsumeRequest(claim=claim), **call)).admission


async def until_answered(replica: Any, claim: pb.Claim) -> pb.Admission:
    """The answer to *claim*, asked again under its id while the store is away, and only then."""
    return await while_away(lambda: consumed(replica, claim))


async def while_away(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if (error.code(), reason_of(error)) not in (AWAY, BUSY):
                raise
            await asyncio.sleep(0.01)


async def until_known(address: str, service: str = "dependency.postgres") -> None:
    """Return once the replica at *address* says that its Postgres is away, or what else is."""
    request = health_pb2.HealthCheckRequest(service=service)
    async with asyncio.timeout(20), grpc.aio.insecure_channel(address) as channel:
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(request):
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


async def read_count(replica: Any, user: str) -> int:
    stub, call, _ = replica
    return (await stub.GetUsage(pb.GetUsageRequest(user_id=user), **call)).counter.read_count


async def test_a_restarted_and_empty_valkey_admits_nobody_twice(
    start: Start, database: Any, own_valkey: Any, user: str
) -> None:
    """USE-6, USE-7: noticed or not, what was admitted before is in the window, and a cool-down."""
    other = str(uuid.uuid4())
    async with (
        start(database.url_for("usage"), own_valkey.url) as one,
        start(database.url_for("usage"), own_valkey.url) as two,
    ):
        for _ in range(11):
            await consumed(one, query(user))
            await consumed(one, query(other))
        await own_valkey.kill()
        await own_valkey.start()
        async with redis.asyncio.Redis.from_url(own_valkey.url) as client:
            await client.flushall()
        assert (await consumed(two, query(user))).HasField("granted")
        assert (await consumed(two, query(user))).refused.reason == pb.ERROR_REASON_ABUSE_DETECTED
        assert (await consumed(one, query(user))).refused.reason == pb.ERROR_REASON_COOL_DOWN
        stub, call, _ = two
        found = await stub.GetUsage(pb.GetUsageRequest(user_id=other), **call)
        assert found.abuse_window.queries == 11


@pytest.mark.parametrize("outage", ["kill", "pause"])
async def test_queries_that_race_while_valkey_goes_admit_twelve(
    start: Start, database: Any, own_valkey: Any, user: str, outage: str
) -> None:
    """USE-6, USE-7: exact over replicas of which some have noticed and others not."""
    async with (
        start(database.url_for("usage"), own_valkey.url) as one,
        start(database.url_for("usage"), own_valkey.url) as two,
    ):
        first = [await consumed(one, query(user)) for _ in range(4)]
        racing = [
            asyncio.ensure_future(consumed(replica, query(user)))
            for _ in range(15)
            for replica in (one, two)
        ]
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        done = getattr(own_valkey, outage)()
        if done is not None:
            await done
        racing += [
            asyncio.ensure_future(consumed(replica, query(user)))
            for _ in range(5)
            for replica in (one, two)
        ]
        answers = [*first, *await asyncio.gather(*racing)]
        assert sum(each.HasField("granted") for each in answers) == 12
        assert await read_count(one, user) == 12
        if outage == "pause":
            own_valkey.resume()


async def test_what_a_crash_of_postgres_interrupts_is_counted_once(
    start: Start, own_postgres: Any, valkey: Any, user: str
) -> None:
    """USE-3, USE-7: UNAVAILABLE with its own reason meanwhile, and each call again under its id.

    A commit whose answer was lost is settled by its receipt.
    """
    database = await migrated_database(own_postgres)
    url, many = database.url_for("usage"), {"abuse_queries": 200}
    async with start(url, valkey.url, **many) as one, start(url, valkey.url, **many) as two:
        claims = [query(user, reads=60) for _ in range(90)]

        async def race(place: int) -> pb.Admission:
            return await until_answered((one, two)[place % 2], claims[place])

        racing = [asyncio.ensure_future(race(place)) for place in range(len(claims))]
        for _ in range(2):
            await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            await own_postgres.kill()
            await until_known(one[2])
            for replica in (one, two):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await consumed(replica, claims[-1])
                assert (caught.value.code(), reason_of(caught.value)) == AWAY
            await own_postgres.start()
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*racing)
        granted = [each for each in answers if each.HasField("granted")]
        refused = {each.refused.reason for each in answers if each.HasField("refused")}
        assert len(granted) == 60
        assert refused == {pb.ERROR_REASON_QUOTA_EXHAUSTED}
        # It may not know yet that the store is back, having nothing left to decide.
        assert await while_away(lambda: read_count(two, user)) == 60
        async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
            found = await connection.execute("SELECT count(*) FROM usage.receipts")
            assert await found.fetchone() == (60,)


async def test_a_store_that_hangs_is_told_and_comes_back(
    start: Start, database: Any, valkey: Any, user: str
) -> None:
    """USE-7, USE-9: a table that somebody holds locked is no reason to wait for ever."""
    async with start(database.url_for("usage"), valkey.url) as replica:
        await consumed(replica, query(user))
        claim = query(user)
        async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
            await connection.execute("LOCK TABLE usage.usage_counters")
            await until_known(replica[2], "dependency.postgres.writes")
            for asked in (claim, query(user)):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await consumed(replica, asked)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert reason_of(caught.value) in ("STORE_UNAVAILABLE", "STORE_BUSY", "USER_BUSY")
        async with asyncio.timeout(20):
            again = await until_answered(replica, claim)
        assert again.granted.count == 1
        assert await read_count(replica, user) == 2
