"""Counting over stores that refuse, fall behind, drag, or are not heard (USE-3, USE-7)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import psycopg
import pytest
import redis.asyncio
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from psycopg.conninfo import conninfo_to_dict

from services.embedded_stores import temporary_folder
from services.runtime.failure import reason_of
from services.runtime.telemetry import open_telemetry
from services.usage.app import running
from services.usage.cool_downs import key_of
from services.usage.settings import Settings
from tests.conftest import Database, migrated_database

AWAY = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
BUSY = (grpc.StatusCode.UNAVAILABLE, "STORE_BUSY")
SOCKET = ".s.PGSQL.5432"


class Replica:
    """One replica of the service, and a stub to it."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = UsageServiceStub(channel)
        self._call: Any = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 20}

    async def asked(self, claim: pb.Claim) -> pb.Admission:
        request = pb.ConsumeRequest(claim=claim)
        return (await self._stub.Consume(request, **self._call)).admission

    async def refusal(self, claim: pb.Claim) -> tuple[grpc.StatusCode, str]:
        """With what a claim fails that cannot be decided."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.asked(claim)
        return caught.value.code(), reason_of(caught.value)

    async def until_answered(self, claim: pb.Claim) -> pb.Admission:
        """The answer to *claim*, asked again under its id as long as the store is away."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await self.asked(claim)
                except grpc.aio.AioRpcError as error:
                    if (error.code(), reason_of(error)) != AWAY:
                        raise
                    await asyncio.sleep(0.01)

    async def used(self, user: str) -> pb.UsageCounter:
        request = pb.GetUsageRequest(user_id=user)
        return (await self._stub.GetUsage(request, **self._call)).counter

    async def clear(self, user: str) -> None:
        await self._stub.ClearCoolDown(pb.ClearCoolDownRequest(user_id=user), **self._call)


Start = Callable[..., AbstractAsyncContextManager[Replica]]


@pytest.fixture
def start(tokens: Any) -> Start:
    @asynccontextmanager
    async def start(database_url: str, valkey_url: str, **settings: Any) -> AsyncIterator[Replica]:
        made = Settings(
            database_url=database_url,
            valkey_url=valkey_url,
            unrecorded_writes=True,
            **{**tokens.settings, **settings},
        )
        async with AsyncExitStack() as stack:
            telemetry = stack.enter_context(open_telemetry(made))
            address = await stack.enter_async_context(running(made, telemetry))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            yield Replica(channel, tokens.user(roles=["service", "admin"]))

    return start


@pytest.fixture
def user() -> str:
    return str(uuid.uuid4())


def query(user: str, reads: int | None = None) -> pb.Claim:
    claim = pb.Claim(
        operation_id=str(uuid.uuid4()), user_id=user, limits=pb.DailyLimits(reads=reads)
    )
    claim.query.counts_read = True
    return claim


def modify(user: str, count: int) -> pb.Claim:
    claim = query(user)
    claim.modify.count = count
    return claim


async def granted(replica: Replica, user: str, times: int) -> int:
    answers = [await replica.asked(query(user)) for _ in range(times)]
    return sum(each.HasField("granted") for each in answers)


async def statement(url: str, text: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(text)


@pytest.mark.parametrize("refusal", ["password", "rights"])
async def test_a_valkey_that_refuses_its_caller_is_done_without(
    start: Start, database: Any, own_valkey: Any, user: str, refusal: str
) -> None:
    """USE-7: a wrong password or missing rights leave the windows as exact as Postgres is."""
    async with redis.asyncio.Redis.from_url(own_valkey.url) as client:
        if refusal == "password":
            await client.config_set("requirepass", "the right one")
        else:
            await client.acl_setuser("usage", enabled=True, passwords=["+known"], keys=["none"])
    wrong = "usage:known" if refusal == "rights" else ":a wrong one"
    url = own_valkey.url.replace("unix://", f"unix://{quote(wrong, safe=':')}@")
    async with start(database.url_for("usage"), url) as replica:
        assert await granted(replica, user, 14) == 12
        assert (await replica.asked(query(user))).refused.reason == pb.ERROR_REASON_COOL_DOWN
        assert (await replica.used(user)).read_count == 12


async def test_a_valkey_that_fell_behind_admits_nobody_twice(
    start: Start, database: Any, own_valkey: Any, user: str
) -> None:
    """USE-6, USE-7: a replica that took over without the last writes lets no more get through."""
    async with (
        start(database.url_for("usage"), own_valkey.url) as one,
        start(database.url_for("usage"), own_valkey.url) as two,
        redis.asyncio.Redis.from_url(own_valkey.url) as client,
    ):
        assert await granted(one, user, 13) == 12
        assert await client.delete(key_of(uuid.UUID(user))) == 1
        for replica in (two, one):
            refused = (await replica.asked(query(user))).refused
            assert refused.reason == pb.ERROR_REASON_COOL_DOWN
        assert (await one.used(user)).read_count == 12


async def test_a_valkey_that_still_knows_what_was_cleared_keeps_nobody_out(
    start: Start, database: Any, own_valkey: Any, user: str
) -> None:
    """USE-7, USE-8: what it says is a suspicion, and Postgres knows better."""
    key = key_of(uuid.UUID(user))
    async with (
        start(database.url_for("usage"), own_valkey.url) as replica,
        redis.asyncio.Redis.from_url(own_valkey.url) as client,
    ):
        assert await granted(replica, user, 13) == 12
        older = await client.dump(key)
        await replica.clear(user)
        await client.restore(key, 900_000, older, replace=True)
        assert await granted(replica, user, 13) == 12


async def test_what_else_is_under_a_key_in_valkey_is_done_without(
    start: Start, database: Any, own_valkey: Any, user: str
) -> None:
    """USE-7: somebody else's values under a user's key break nothing, and keep nobody out."""
    key = key_of(uuid.UUID(user))
    async with (
        start(database.url_for("usage"), own_valkey.url) as replica,
        redis.asyncio.Redis.from_url(own_valkey.url) as client,
    ):
        await client.set(key, b"\xff?")
        assert await granted(replica, user, 1) == 1
        await client.delete(key)
        await client.hset(key, "no", "string")
        assert await granted(replica, user, 12) == 11
        assert (await replica.used(user)).read_count == 12


async def test_a_postgres_without_connections_left_is_told_and_comes_back(
    start: Start, own_postgres: Any, valkey: Any, user: str
) -> None:
    """USE-7: UNAVAILABLE with its own reason, nothing counted, and it goes on by itself."""
    database = await migrated_database(own_postgres)
    async with start(database.url_for("usage"), valkey.url) as replica:
        await replica.asked(query(user))
        claim = query(user)
        await statement(database.admin_url, "ALTER ROLE gatehouse_usage CONNECTION LIMIT 0")
        await statement(
            database.admin_url,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE usename = 'gatehouse_usage'",
        )
        for _ in range(3):
            assert await replica.refusal(claim) == AWAY
        await statement(database.admin_url, "ALTER ROLE gatehouse_usage CONNECTION LIMIT -1")
        answer = await replica.until_answered(claim)
        assert (answer.granted.count, answer.replayed) == (1, False)
        assert (await replica.used(user)).read_count == 2


async def slowed(database: Database, seconds: float) -> None:
    """Have each statement that counts take so long more."""
    await statement(
        database.admin_url,
        "CREATE OR REPLACE FUNCTION usage.dragging() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;"
        " CREATE OR REPLACE TRIGGER dragging AFTER INSERT ON usage.receipts"
        " EXECUTE FUNCTION usage.dragging()",
    )


async def test_a_postgres_that_drags_counts_exactly(
    start: Start, own_postgres: Any, valkey: Any, user: str
) -> None:
    """USE-3, USE-7, USE-9: slow is slow, and not wrong; too slow is ended, told, not counted."""
    database = await migrated_database(own_postgres)
    url, many = database.url_for("usage"), {"abuse_queries": 200}
    async with start(url, valkey.url, **many) as one, start(url, valkey.url, **many) as two:
        await slowed(database, 0.15)
        answers = await asyncio.gather(
            *(each.asked(query(user, reads=10)) for _ in range(10) for each in (one, two))
        )
        assert sum(each.HasField("granted") for each in answers) == 10
        await slowed(database, 2.5)
        claim = query(user, reads=11)
        assert await one.refusal(claim) in (AWAY, BUSY)
        await slowed(database, 0)
        again = await one.until_answered(claim)
        assert (again.granted.count, again.replayed) == (1, False)
        assert (await two.used(user)).read_count == 11


class CutWire:
    """Between a client and Postgres: once armed, a COMMIT arrives and its answer does not."""

    def __init__(self, server: Path, folder: Path) -> None:
        self._server = str(server / SOCKET)
        self.folder = folder
        self._armed = False
        self._carrying: set[asyncio.Task[None]] = set()
        self.cut = 0

    def arm(self) -> None:
        self._armed = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator["CutWire"]:
        def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._carrying.add(asyncio.ensure_future(self._carry(reader, writer)))

        listening = await asyncio.start_unix_server(carry, str(self.folder / SOCKET))
        try:
            yield self
        finally:
            listening.close()
            for each in self._carrying:
                each.cancel()
            await asyncio.gather(*self._carrying, return_exceptions=True)
            await listening.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._server)
        answering = asyncio.create_task(self._forward(there, writer))
        try:
            while sent := await reader.read(65536):
                last = self._armed and b"COMMIT" in sent
                if last:
                    self._armed = False
                    answering.cancel()
                    await asyncio.wait({answering})
                back.write(sent)
                if last:
                    await there.read(65536)  # it is committed, and nobody will hear of it
                    self.cut += 1
                    return
        finally:
            answering.cancel()
            back.close()
            writer.close()

    async def _forward(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while answer := await there.read(65536):
                writer.write(answer)
                await writer.drain()
        writer.close()


@pytest.fixture
async def wire(postgres: Any) -> AsyncIterator[CutWire]:
    folder = temporary_folder("wire")
    server = Path(conninfo_to_dict(postgres.url())["host"])
    async with CutWire(server, folder).open() as opened:
        yield opened
    (folder / SOCKET).unlink(missing_ok=True)
    folder.rmdir()


@pytest.mark.parametrize("what", ["query", "modify"])
async def test_a_commit_whose_answer_was_lost_is_settled_by_its_receipt(
    start: Start, database: Any, valkey: Any, wire: CutWire, user: str, what: str
) -> None:
    """USE-2, USE-7: UNAVAILABLE, because nobody knows; the same id again tells, counted once."""
    url = f"postgresql://gatehouse_usage@/{database.name}?host={quote(str(wire.folder), safe='')}"
    async with start(url, valkey.url) as replica:
        await replica.asked(query(user))
        for _ in range(3):
            claim = query(user) if what == "query" else modify(user, 2)
            wire.arm()
            assert await replica.refusal(claim) == AWAY
            again = await replica.until_answered(claim)
            assert again.replayed
            assert again.granted.count == (1 if what == "query" else 2)
        assert wire.cut == 3
        used = await replica.used(user)
        assert (used.read_count, used.modify_count) == ((4, 0) if what == "query" else (1, 6))
