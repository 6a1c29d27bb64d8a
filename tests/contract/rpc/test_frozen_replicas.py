"""One of two replicas frozen with a lock, and a lock that nobody ends (USE-9).

Kind: a lock that is held while its client says nothing. The head of the log and the turn of the
writers of entitlements are the two that everybody needs; a user's row is usage's own.
"""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as plans
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.oplog.v1 import oplog_pb2 as log
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from bench.programs import free_ports
from services.embedded_services import wait_until_serving
from services.embedded_stores import GuardedProgram
from services.entitlements.postgres import WRITERS_LOCK
from services.runtime.failure import reason_of
from tests.conftest import Database, copied_database
from tests.contract.rpc.test_oplog_process import export_of

BUSY = (grpc.StatusCode.UNAVAILABLE, "STORE_BUSY")
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
# Far beyond every limit, and far below a hang.
BOUND = 20.0


@dataclass
class Replica:
    """A service's process, and one call that changes something and one that reads."""

    program: GuardedProgram
    change: Callable[[], Awaitable[Any]]
    read: Callable[[], Awaitable[Any]]
    health: Callable[[str], Awaitable[int]]


@dataclass(frozen=True)
class Kind:
    """A service whose changes go through one lock."""

    service: str
    # What a superuser's session does to hold a lock that every change needs.
    locks: tuple[str, ...]
    # A table that every change writes, after it has the lock.
    table: str


KINDS = {
    "oplog": Kind("oplog", ("SELECT FROM oplog.head FOR UPDATE",), "oplog.links"),
    "entitlements": Kind(
        "entitlements",
        (
            f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})",
            "SELECT FROM entitlements.revision FOR UPDATE",
        ),
        "entitlements.changes",
    ),
}


def calls_of(service: str, channel: grpc.aio.Channel, tokens: Any) -> tuple[Any, Any]:
    """A change and a read of *service*, with the time that a caller would give them."""
    roles = ["service", "admin", "auditor"]
    call = {"metadata": [("authorization", f"Bearer {tokens.user(roles=roles)}")], "timeout": 10}
    if service == "oplog":
        trace, query = TraceServiceStub(channel), OperationLogServiceStub(channel)
        return (
            lambda: trace.Export(
                export_of(str(uuid.uuid4()), "operation", str(uuid.uuid4())), **call
            ),
            lambda: query.ListOperations(log.ListOperationsRequest(), **call),
        )
    stub = EntitlementsServiceStub(channel)
    return (
        lambda: stub.AssignUserPlan(
            plans.AssignUserPlanRequest(user_id=str(uuid.uuid4()), plan_name="premium"), **call
        ),
        lambda: stub.ListPlans(plans.ListPlansRequest(), **call),
    )


@asynccontextmanager
async def replica(
    kind: Kind, database: Database, tokens: Any, folder: Path, name: str
) -> AsyncIterator[Replica]:
    address = f"127.0.0.1:{next(free_ports())}"
    told = {
        **tokens.settings,
        "database_url": database.url_for(kind.service),
        "listen": address,
        **({"unrecorded_writes": "true"} if kind.service == "entitlements" else {}),
    }
    prefix = f"GATEHOUSE_{kind.service.upper()}_"
    program = GuardedProgram(
        name,
        [sys.executable, "-m", f"services.{kind.service}"],
        folder / name,
        environment={**os.environ, **{prefix + key.upper(): each for key, each in told.items()}},
    )
    try:
        await program.start()
        await wait_until_serving(program, address)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def health(of: str) -> int:
                asked = health_pb2.HealthCheckRequest(service=of)
                return int((await stub.Check(asked, timeout=5)).status)

            change, read = calls_of(kind.service, channel, tokens)
            yield Replica(program, change, read, health)
    finally:
        await program.stop()


@dataclass
class Pair:
    kind: Kind
    one: Replica
    two: Replica
    admin: psycopg.AsyncConnection[Any]
    admin_url: str


@pytest.fixture(scope="module", params=["oplog", "entitlements"])
async def pair(
    request: pytest.FixtureRequest,
    template: Any,
    tokens: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Pair]:
    """Two replicas over a database of their own, and a superuser in it."""
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp(kind.service)
    database = await copied_database(template)
    async with AsyncExitStack() as stack:
        one, two = await asyncio.gather(
            *(
                stack.enter_async_context(replica(kind, database, tokens, folder, name))
                for name in ("one", "two")
            )
        )
        admin = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True)
        )
        yield Pair(kind, one, two, admin, database.admin_url)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND):
        while not await what():
            await asyncio.sleep(0.01)


async def dragging(pair: Pair, seconds: float) -> None:
    """Have each change take so long while it has the lock."""
    await pair.admin.execute(
        "CREATE OR REPLACE FUNCTION public.drag() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;"
        f" CREATE OR REPLACE TRIGGER drag AFTER INSERT ON {pair.kind.table}"
        " EXECUTE FUNCTION public.drag()"
    )


async def test_a_replica_that_is_frozen_with_the_lock_holds_nobody_up(pair: Pair) -> None:
    """USE-9, LOG-2, ENT-3: Postgres ends it, so changes through the other one go on."""
    await asyncio.gather(pair.one.change(), pair.two.change())
    await dragging(pair, 0.5)

    async def is_at_work() -> bool:
        found = await pair.admin.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            " AND datname = current_database()"
        )
        return await found.fetchone() is not None

    changing = asyncio.ensure_future(pair.one.change())
    await until(is_at_work)
    pair.one.program.pause()
    try:
        await dragging_ends(pair)
        async with asyncio.timeout(BOUND):
            for _ in range(5):
                await pair.two.change()
        assert await pair.two.health("dependency.postgres") == SERVING
    finally:
        pair.one.program.resume()
    # It learns that it was ended, and says so or tries again.
    async with asyncio.timeout(BOUND):
        (answer,) = await asyncio.gather(changing, return_exceptions=True)
    assert not isinstance(answer, Exception) or answer.code() is grpc.StatusCode.UNAVAILABLE
    await pair.one.change()


async def dragging_ends(pair: Pair) -> None:
    """Changes are fast again. The trigger is not dropped: that would wait for the table."""
    await pair.admin.execute(
        "CREATE OR REPLACE FUNCTION public.drag() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$"
    )


async def test_a_lock_that_nobody_ends_refuses_changes_alone(pair: Pair) -> None:
    """USE-9: soon, with their own reason; reads go on, health names what hangs, and it recovers."""
    for lock in pair.kind.locks:
        await refused_while_locked(pair, lock)


async def refused_while_locked(pair: Pair, lock: str) -> None:
    await asyncio.gather(pair.one.change(), pair.two.change())
    async with await psycopg.AsyncConnection.connect(pair.admin_url) as holder:
        await holder.execute(lock)
        waiting = [
            asyncio.ensure_future(each.change()) for _ in range(10) for each in (pair.one, pair.two)
        ]
        for _ in range(5):
            await asyncio.gather(pair.one.read(), pair.two.read())
        async with asyncio.timeout(BOUND):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {(each.code(), reason_of(each)) for each in answers} == {BUSY}

        async def is_told() -> bool:
            return await pair.one.health("dependency.postgres.writes") == NOT_SERVING

        await until(is_told)
        for name in ("", "dependency.postgres"):
            assert await pair.one.health(name) == SERVING
        await asyncio.gather(pair.one.read(), pair.two.read())
    await asyncio.gather(pair.one.change(), pair.two.change())

    async def is_well() -> bool:
        return await pair.one.health("dependency.postgres.writes") == SERVING

    await until(is_well)
