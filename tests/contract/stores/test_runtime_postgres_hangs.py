"""What hangs and for how long others wait: a server, a backend, a client, a host (USE-9).

Kind: a wait without a bound, on either side of a connection.
"""

import asyncio
import os
import signal
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from services.embedded_stores import postgres_server
from services.runtime.connection import hosts_of, prefer_host
from services.runtime.failure import StoreBusy, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.postgres import CALL, Limits, Pool, open_pool

# Far beyond every limit, and far below a hang.
BOUND = 10.0
ME = Caller("user", "clinic", frozenset({"user"}))


@asynccontextmanager
async def pool_of(url: str, most: int = 2, least: int = 1) -> AsyncIterator[Pool]:
    async with open_pool(url, min_size=least, max_size=most, name="test") as pool:
        yield pool


async def ask(pool: Pool, statement: str = "SELECT 1", limits: Limits = CALL) -> Any:
    async with pool.transaction(ME, limits) as connection:
        row = await (await connection.execute(statement)).fetchone()
        assert row is not None
        return row[0]


async def works(pool: Pool) -> None:
    """Return once a call succeeds and health says so."""
    async with asyncio.timeout(BOUND):
        while True:
            with suppress(StoreUnavailable):
                await ask(pool)
                assert await pool.check()
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def row(postgres: Any) -> AsyncIterator[str]:
    """A table with one row to lock."""
    table = f"held_{uuid.uuid4().hex}"
    async with await psycopg.AsyncConnection.connect(postgres.url(), autocommit=True) as admin:
        await admin.execute(f"CREATE TABLE {table} AS SELECT 1 AS n")
        yield table
        await admin.execute(f"DROP TABLE {table}")


def locking(table: str) -> str:
    return f"SELECT n FROM {table} FOR UPDATE"


async def test_a_frozen_server_ends_every_wait_and_comes_back(own_postgres: Any) -> None:
    """USE-9: of those who run a statement, begin, wait for a connection, ask after its health."""
    async with pool_of(own_postgres.url()) as pool:
        await works(pool)

        async def inside() -> None:
            async with pool.transaction(ME) as connection:
                await connection.execute("SELECT 1")
                entered.set()
                await frozen.wait()
                await connection.execute("SELECT 2")

        async def once() -> None:
            await pool.once(ME, "SELECT 1", ())

        for _ in range(2):
            entered, frozen = asyncio.Event(), asyncio.Event()
            running = [asyncio.create_task(inside())]
            await entered.wait()
            own_postgres.pause()
            try:
                frozen.set()
                running += [asyncio.create_task(ask(pool)) for _ in range(4)]
                running += [asyncio.create_task(once()), asyncio.create_task(pool.check())]
                async with asyncio.timeout(BOUND):
                    answers = await asyncio.gather(*running, return_exceptions=True)
                assert all(isinstance(each, StoreUnavailable) for each in answers), answers
                for _ in range(50):  # it is known by now: nobody waits
                    with pytest.raises(StoreUnavailable):
                        async with asyncio.timeout(0.5):
                            await ask(pool)
            finally:
                own_postgres.resume()
            await works(pool)


async def test_a_caller_who_leaves_a_frozen_server_is_not_kept(own_postgres: Any) -> None:
    """USE-9: cancelling needs no answer either, and nobody gets that answer later."""
    async with pool_of(own_postgres.url(), most=1) as pool:
        await works(pool)
        async with pool.transaction(ME) as connection:
            own_postgres.pause()
            asking = asyncio.create_task(connection.execute("SELECT 'mine'"))
            await asyncio.sleep(0)
            asking.cancel()
            with suppress(asyncio.CancelledError, psycopg.Error):
                async with asyncio.timeout(BOUND):
                    await asking
            own_postgres.resume()
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("SELECT 'other'")
        await works(pool)
        assert await ask(pool, "SELECT 'other'") == "other"


async def test_a_commit_without_an_answer_is_told_as_such(own_postgres: Any) -> None:
    """USE-9, LOG-2: nobody knows whether it is done, so the caller asks again."""
    async with pool_of(own_postgres.url(), most=1) as pool:
        await works(pool)

        async def commits() -> None:
            async with pool.transaction(ME) as connection:
                await connection.execute("CREATE TABLE committed ()")
                own_postgres.pause()

        try:
            async with asyncio.timeout(BOUND):
                with pytest.raises(StoreUnavailable):
                    await commits()
        finally:
            own_postgres.resume()
        await works(pool)


async def test_one_frozen_backend_harms_its_own_call_alone(own_postgres: Any) -> None:
    """USE-9: and its connection does not come back into the pool."""
    async with pool_of(own_postgres.url()) as pool:
        await works(pool)
        async with asyncio.timeout(BOUND), pool.transaction(ME) as connection:
            pid = connection.info.backend_pid
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(psycopg.OperationalError):
                    await asyncio.gather(
                        connection.execute("SELECT 1"), *(ask(pool) for _ in range(20))
                    )
            finally:
                os.kill(pid, signal.SIGCONT)
        for _ in range(5):
            assert await ask(pool, "SELECT pg_backend_pid()") != pid


async def test_a_client_that_hangs_in_a_transaction_lets_go_of_its_locks(
    postgres: Any, row: str
) -> None:
    """USE-9: Postgres ends it, so that who waits for the lock gets it; it is told itself."""
    async with pool_of(postgres.url()) as pool:

        async def hangs() -> None:
            async with pool.transaction(ME) as connection:
                await connection.execute(locking(row))
                locked.set()
                await over.wait()  # it asks nothing, as a process that is frozen
                await connection.execute("SELECT 1")

        locked, over = asyncio.Event(), asyncio.Event()
        hanging = asyncio.create_task(hangs())
        await locked.wait()
        async with asyncio.timeout(BOUND):
            assert await ask(pool, locking(row)) == 1
        over.set()
        with pytest.raises(StoreUnavailable):
            await hanging
        await works(pool)


@pytest.mark.parametrize("how", ["execute", "pipeline", "executemany"])
async def test_idle_time_counts_however_the_statements_were_sent(
    postgres: Any, row: str, how: str
) -> None:
    """USE-9: after a batch as well, where nothing but the client's idleness is limited."""
    alone_idle = Limits(statement=None, idle=0.2, transaction=None)
    async with pool_of(postgres.url()) as pool:

        async def hangs() -> None:
            async with pool.transaction(ME, alone_idle) as connection:
                if how == "pipeline":
                    async with connection.pipeline():
                        await connection.execute(locking(row))
                        await connection.execute("SELECT 1")
                elif how == "executemany":
                    async with connection.cursor() as cursor:
                        await cursor.executemany(f"UPDATE {row} SET n = %s", [(1,), (1,)])
                else:
                    await connection.execute(locking(row))
                locked.set()
                await over.wait()

        locked, over = asyncio.Event(), asyncio.Event()
        hanging = asyncio.create_task(hangs())
        await locked.wait()
        try:
            assert await ask(pool, locking(row)) == 1
        finally:
            over.set()
            with pytest.raises(StoreUnavailable):
                await hanging


async def test_a_client_that_hangs_amid_a_batch_is_ended_as_well(postgres: Any, row: str) -> None:
    """USE-9: the server waits for the rest of the batch then, which is no idle time."""
    async with pool_of(postgres.url()) as pool, pool.transaction(ME) as connection:
        connection.pgconn.enter_pipeline_mode()
        connection.pgconn.send_query_params(locking(row).encode(), None)
        connection.pgconn.send_flush_request()
        while connection.pgconn.flush():
            await asyncio.sleep(0)
        async with asyncio.timeout(BOUND):
            while True:
                with suppress(StoreBusy):
                    assert await ask(pool, locking(row)) == 1
                    break
        await connection.close()
    await asyncio.sleep(0)


async def test_a_lock_that_nobody_ends_is_a_refusal_of_its_own(postgres: Any, row: str) -> None:
    """USE-9: quick, STORE_BUSY with RetryInfo; others go on, and it ends with the lock."""
    async with pool_of(postgres.url()) as pool:
        async with await psycopg.AsyncConnection.connect(postgres.url()) as holder:
            await holder.execute(locking(row))
            waiting = asyncio.create_task(ask(pool, locking(row)))
            for _ in range(20):
                assert await ask(pool) == 1
            async with asyncio.timeout(BOUND):
                with pytest.raises(StoreBusy) as caught:
                    await waiting
            assert caught.value.reason == "STORE_BUSY"
            assert caught.value.retry_after is not None
            assert await pool.check()
        assert await ask(pool, locking(row)) == 1


@pytest.mark.parametrize(
    ("limits", "statement"),
    [
        (Limits(statement=0.2), "SELECT pg_sleep(30)"),
        (Limits(statement=None, transaction=0.2), "SELECT pg_sleep(30)"),
    ],
)
async def test_what_takes_too_long_is_ended(postgres: Any, limits: Limits, statement: str) -> None:
    """USE-9: by the server; it is no outage."""
    async with pool_of(postgres.url()) as pool:
        for _ in range(2):
            async with asyncio.timeout(BOUND):
                with pytest.raises(StoreBusy):
                    await ask(pool, statement, limits)
                with pytest.raises(StoreBusy):
                    await pool.once(ME, statement, (), limits)
            await works(pool)


async def test_limits_are_of_one_transaction(postgres: Any) -> None:
    """USE-9: nothing of them is left in the session, which a pooler lends to others."""
    names = (
        *("lock_timeout", "statement_timeout"),
        *("idle_in_transaction_session_timeout", "transaction_timeout"),
    )
    show = "SELECT array_agg(current_setting(n) ORDER BY o) FROM unnest(%s::text[]) "
    show += "WITH ORDINALITY AS t (n, o)"
    limits = Limits(lock=0.25, statement=5, idle=6, transaction=7)
    async with pool_of(postgres.url(), most=1) as pool:
        asked = await pool.once(ME, show, (list(names),), limits)
        assert asked.rows[0][0] == ["250ms", "5s", "6s", "7s"]
        async with pool.transaction(ME, limits) as connection:
            row = await (await connection.execute(show, (list(names),))).fetchone()
            assert row == (["250ms", "5s", "6s", "7s"],)
            pid = connection.info.backend_pid
        async with pool._connection(1) as connection:
            assert connection.info.backend_pid == pid
            row = await (await connection.execute(show, (list(names),))).fetchone()
            assert row == (["0", "0", "0", "0"],)


async def test_a_pool_that_others_use_up_is_told_by_health(postgres: Any) -> None:
    """USE-9, ALL-1: health says what a call would get, which is STORE_BUSY."""
    async with pool_of(postgres.url(), most=1) as pool:
        async with pool.transaction(ME, Limits(idle=None, transaction=None)):
            for asked in (pool.check(), ask(pool)):
                async with asyncio.timeout(BOUND):
                    with pytest.raises(StoreBusy):
                        await asked
        assert await pool.check()


async def test_a_server_without_room_for_newcomers_goes_on_for_who_is_in(
    own_postgres: Any,
) -> None:
    """USE-9: whatever is asked when it is in doubt whether the server answers."""
    url = own_postgres.url("gatehouse_usage")
    async with (
        await psycopg.AsyncConnection.connect(own_postgres.url(), autocommit=True) as admin,
        pool_of(url, most=1) as pool,
    ):
        await works(pool)
        await admin.execute("ALTER ROLE gatehouse_usage CONNECTION LIMIT 1")
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(url)
        # Longer than it takes to doubt: with the one connection in use, and with it idle.
        assert await ask(pool, "SELECT 1 FROM pg_sleep(0.8)") == 1
        pool._doubtful.set()
        for _ in range(20):
            assert await ask(pool) == 1
            assert await pool.check()
        # Without a connection of its own it can do nothing, which is told.
        await admin.execute("ALTER ROLE gatehouse_usage CONNECTION LIMIT 0")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'gatehouse_usage'"
        )
        async with asyncio.timeout(BOUND):
            with pytest.raises(StoreUnavailable):
                await ask(pool)
        await admin.execute("ALTER ROLE gatehouse_usage CONNECTION LIMIT -1")
        await works(pool)


@contextmanager
def folder_of(kind: str) -> Iterator[str]:
    """A folder for sockets on which a server is *silent*, or *refusing*: nobody listens."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-", dir="/tmp") as folder:
        if kind == "refusing":
            yield folder
            return
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(Path(folder) / ".s.PGSQL.5432"))
            listener.listen(100)
            yield folder


def url_over(*servers: str, more: str = "") -> str:
    return f"postgresql://postgres@/postgres?host={quote(','.join(servers), safe='')}{more}"


def sockets_of(server: Any) -> str:
    return hosts_of(server.url())[0][0]


@pytest.mark.parametrize("kind", ["silent", "refusing"])
async def test_a_host_that_does_not_answer_keeps_nobody_from_the_next(
    own_postgres: Any, kind: str
) -> None:
    """USE-9: at the start, and after an outage of the one that does answer."""
    with folder_of(kind) as first:
        async with pool_of(url_over(first, sockets_of(own_postgres)), least=2) as pool:
            await works(pool)
            await own_postgres.kill()
            async with asyncio.timeout(BOUND):
                with pytest.raises(StoreUnavailable):
                    await ask(pool)
            await own_postgres.start()
            await works(pool)


async def test_a_failover_from_a_host_that_is_silent_goes_to_the_one_that_writes(
    own_postgres: Any,
) -> None:
    """USE-9: target_session_attrs=read-write finds the new primary, with the old one frozen."""
    async with postgres_server(durable=False) as other:
        await make_read_only(other, "on")
        hosts = sockets_of(own_postgres), sockets_of(other)
        url = url_over(*hosts, more="&target_session_attrs=read-write")
        async with pool_of(url, most=4) as pool:
            await works(pool)
            own_postgres.pause()
            try:
                async with asyncio.timeout(BOUND):
                    with pytest.raises(StoreUnavailable):
                        await ask(pool)
                await make_read_only(other, "off")
                await works(pool)
                # Connections of the frozen one are not given to anybody.
                for _ in range(20):
                    assert await ask(pool) == 1
            finally:
                own_postgres.resume()


async def make_read_only(server: Any, value: str) -> None:
    async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as admin:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        await admin.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(BOUND):
        while True:
            async with await psycopg.AsyncConnection.connect(server.url()) as fresh:
                found = await fresh.execute("SHOW default_transaction_read_only")
                if await found.fetchone() == (value,):
                    return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "host", "port", "first"),
    [
        ("postgresql://u@a,b,c/d", "b", "5432", "b,a,c"),
        ("postgresql://u@a:1,b:2/d", "b", "2", "b,a"),
        ("host=a,b port=1,1 dbname=d", "a", "1", "a,b"),
        ("host=a,a port=1,2 dbname=d", "a", "2", "a,a"),
        ("postgresql://u@a/d", "a", "5432", "a"),
        ("postgresql://u@a,b/d", "elsewhere", "5432", "a,b"),
    ],
)
def test_the_host_that_accepted_last_is_tried_first(
    url: str, host: str, port: str, first: str
) -> None:
    """USE-9: the others keep their order."""
    hosts = hosts_of(prefer_host(url, host, port))
    assert ",".join(name for name, _ in hosts) == first
    assert hosts[0][1] in ("", port)
    assert sorted(hosts) == sorted(hosts_of(url))
