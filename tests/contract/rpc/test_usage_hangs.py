"""Whoever hangs in the store harms only himself (USE-9)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
import pytest
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from services.runtime.failure import failure_from, reason_of
from services.runtime.telemetry import open_telemetry
from services.usage.app import running
from services.usage.settings import Settings
from tests.conftest import Database

OTHERS = 25
# What another transaction holds of a user: in psql, or as a replica that was frozen.
HELD = {
    "user": "SELECT FROM usage.users WHERE user_id = %s FOR UPDATE",
    "new user": "INSERT INTO usage.users (user_id) VALUES (%s)",
    "counter": "SELECT FROM usage.usage_counters WHERE user_id = %s FOR UPDATE",
}


@dataclass
class Replica:
    stub: Any
    call: dict[str, Any]

    async def ask(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, **self.call)

    async def consume(self, claim: pb.Claim) -> pb.Admission:
        return (await self.ask("Consume", pb.ConsumeRequest(claim=claim))).admission

    async def reads(self, user: str) -> int:
        return int(
            (await self.ask("GetUsage", pb.GetUsageRequest(user_id=user))).counter.read_count
        )


@pytest.fixture
async def replica(database: Database, valkey: Any, tokens: Any) -> AsyncIterator[Replica]:
    settings = Settings(
        database_url=database.url_for("usage"),
        valkey_url=valkey.url,
        unrecorded_writes=True,
        sweep_seconds=100_000,
        **tokens.settings,
    )
    token = tokens.user(roles=["service", "admin"])
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry(settings))
        address = await stack.enter_async_context(running(settings, telemetry))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        metadata = [("authorization", f"Bearer {token}")]
        yield Replica(UsageServiceStub(channel), {"metadata": metadata, "timeout": 20})


@asynccontextmanager
async def held(database: Database, user: str, what: str) -> AsyncIterator[None]:
    """Another transaction holds a row of *user* and does not go on."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        await connection.execute(HELD[what], (user,))
        yield
        await connection.rollback()


def query(user: str, **changes: Any) -> pb.Claim:
    claim = pb.Claim(
        operation_id=str(uuid.uuid4()), user_id=user, limits=pb.DailyLimits(reads=40), **changes
    )
    claim.query.counts_read = True
    return claim


@pytest.mark.parametrize("what", HELD)
async def test_a_held_row_harms_its_user_alone(
    replica: Replica, database: Database, what: str
) -> None:
    """USE-3, USE-9: kind: a batch that waits for one. Others are decided, alone and in a batch."""
    user = str(uuid.uuid4())
    if what != "new user":
        await replica.consume(query(user))
    others = [str(uuid.uuid4()) for _ in range(OTHERS)]
    claim = query(user)
    async with held(database, user, what):
        async with asyncio.TaskGroup() as group:
            theirs = group.create_task(refusal(replica, claim))
            for _ in range(3):
                answers = await asyncio.gather(*(replica.consume(query(other)) for other in others))
                assert all(each.granted.count for each in answers)
        assert theirs.result() == (grpc.StatusCode.UNAVAILABLE, "USER_BUSY", True)

        claims = [query(each) for each in (*others, user, *others[::-1])]
        batch = pb.ConsumeBatchRequest(claims=claims)
        found = (await replica.ask("ConsumeBatch", batch)).admissions
        assert found[OTHERS].error == pb.ERROR_REASON_USER_BUSY
        assert all(each.admission.granted.count for each in found if not each.error)
        assert sum(bool(each.error) for each in found) == 1
    assert (await replica.consume(claim)).granted.count == 1
    assert (await replica.consume(claim)).replayed
    assert await replica.reads(user) == (1 if what == "new user" else 2)
    assert await replica.reads(others[0]) == 5


async def refusal(replica: Replica, claim: pb.Claim) -> tuple[grpc.StatusCode, str, bool]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replica.consume(claim)
    failure = failure_from(caught.value)
    return failure.code, failure.reason, failure.retry_after is not None


@pytest.mark.parametrize("method", ["Release", "Settle", "ClearCoolDown", "CorrectUsage"])
async def test_a_call_about_a_held_user_is_refused_in_bounded_time(
    replica: Replica, database: Database, method: str
) -> None:
    """USE-9: with the reason of its own; afterwards the same call is answered."""
    user = str(uuid.uuid4())
    claim = query(user)
    await replica.consume(claim)
    of_claim = {"operation_id": claim.operation_id, "user_id": user}
    request = {
        "Release": pb.ReleaseRequest(**of_claim),
        "Settle": pb.SettleRequest(
            **of_claim,
        ),
        "ClearCoolDown": pb.ClearCoolDownRequest(user_id=user),
        "CorrectUsage": pb.CorrectUsageRequest(user_id=user, usage_date="2026-11-23"),
    }[method]
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        await connection.execute(HELD["user"], (user,))
        await connection.execute(
            "SELECT FROM usage.receipts WHERE user_id = %s FOR UPDATE", (user,)
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replica.ask(method, request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(caught.value) == "USER_BUSY"
        assert await replica.reads(user) == 1
        await connection.rollback()
    await replica.ask(method, request)


async def test_a_row_that_is_held_for_a_moment_is_waited_for(
    replica: Replica, database: Database
) -> None:
    """USE-3, USE-9: the claim is decided once it is free, and counted once."""
    user = str(uuid.uuid4())
    await replica.consume(query(user))
    async with held(database, user, "user"):
        waiting = asyncio.create_task(replica.consume(query(user)))
        await replica.consume(query(str(uuid.uuid4())))
        assert not waiting.done()
    assert (await waiting).granted.count == 1
    assert await replica.reads(user) == 2
