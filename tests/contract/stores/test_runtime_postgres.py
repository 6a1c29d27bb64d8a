"""Connections to Postgres: whose they are, what an outage is, and how it ends; migrations."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import psycopg
import psycopg.errors
import pytest

from services.embedded_stores import MIGRATOR, create_database, drop_database
from services.runtime.connection import hosts_of, transport_of
from services.runtime.failure import StoreBusy, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.migrations import MigrationFailed, connected, main, migrate, url_for_dbmate
from services.runtime.postgres import (
    Pool,
    has_schema,
    is_barred,
    open_pool,
    wait_for_schema,
)

WHO = (
    "SELECT current_setting('gatehouse.user_id', true), "
    "current_setting('gatehouse.clinic_id', true), current_setting('gatehouse.roles', true)"
)


def caller(number: int) -> Caller:
    return Caller(f"user-{number}", f"clinic-{number}", frozenset({"user", "admin"}))


@asynccontextmanager
async def pool_of(url: str, most: int = 1) -> AsyncIterator[Pool]:
    async with open_pool(url, min_size=1, max_size=most, name="test") as pool:
        yield pool


async def who(pool: Pool, as_: Caller | None) -> tuple[Any, ...]:
    async with pool.transaction(as_) as connection:
        row = await (await connection.execute(WHO)).fetchone()
        assert row is not None
        return row


async def test_a_connection_forgets_whose_it_was(postgres: Any) -> None:
    """ALL-3, ENT-5: after success, failure and cancelling, and without a caller it is nobody's."""
    nobody = [(None, None, None), ("", "", "")]
    async with pool_of(postgres.url()) as pool:
        assert await who(pool, None) in nobody
        for number in range(3):
            mine = (f"user-{number}", f"clinic-{number}", "admin,user")
            assert await who(pool, caller(number)) == mine
            assert await who(pool, None) in nobody
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with pool.transaction(caller(7)) as connection:
                await connection.execute("SELECT 1/0")
        assert await who(pool, None) in nobody
        with pytest.raises(RuntimeError):
            async with pool.transaction(caller(7)):
                raise RuntimeError
        assert await who(pool, None) in nobody
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), pool.transaction(caller(7)) as connection:
                await connection.execute("SELECT pg_sleep(30)")
        assert await who(pool, None) in nobody


async def who_once(pool: Pool, as_: Caller) -> tuple[Any, ...]:
    return (await pool.once(as_, WHO, ())).rows[0]


async def test_one_statement_is_its_callers_and_a_transaction(postgres: Any) -> None:
    """ALL-3, ENT-5: also after a failure and after cancelling it is nobody else's."""
    table = f"play_{uuid.uuid4().hex}"
    async with pool_of(postgres.url()) as pool:
        assert await who_once(pool, caller(1)) == ("user-1", "clinic-1", "admin,user")
        assert await who(pool, None) in [(None, None, None), ("", "", "")]
        made = await pool.once(caller(1), f"CREATE TABLE {table} (n int CHECK (n < 3))", ())
        assert made.rows == []
        put = f"INSERT INTO {table} SELECT unnest(%s::int[]) RETURNING n"
        done = await pool.once(caller(1), put, ([1, 2],))
        assert (done.count, done.rows) == (2, [(1,), (2,)])
        with pytest.raises(psycopg.errors.CheckViolation):
            await pool.once(caller(2), put, ([0, 3],))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pool.once(caller(3), f"{put}, pg_sleep(30)", ([0],))
        kept = await pool.once(caller(4), f"SELECT n FROM {table} ORDER BY n", ())
        assert kept.rows == [(1,), (2,)]
        assert await who_once(pool, caller(5)) == ("user-5", "clinic-5", "admin,user")


async def test_what_is_bound_to_one_statement_is_data(postgres: Any) -> None:
    """ALL-3: whatever it looks like."""
    texts = ["'; DROP TABLE x; --", "%s", "\\'", "a\nb", "é😀", "$1", '"']
    values = [*texts, b"\x00'\\\xff", uuid.UUID(int=7), None]
    async with pool_of(postgres.url()) as pool:
        asked = "SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::text, %s::text[]"
        found = await pool.once(caller(1), asked, (*values, texts))
    assert list(found.rows[0]) == [*values, texts]


async def test_calls_at_once_are_each_their_callers(postgres: Any) -> None:
    """ALL-3: over fewer connections than calls."""
    async with pool_of(postgres.url(), most=3) as pool:
        found = await asyncio.gather(*(who(pool, caller(number)) for number in range(60)))
    assert [row[0] for row in found] == [f"user-{number}" for number in range(60)]


async def test_a_block_that_raises_leaves_nothing(postgres: Any) -> None:
    """USE-7: and one that does not, commits."""
    table = f"play_{uuid.uuid4().hex}"
    async with pool_of(postgres.url()) as pool:
        async with pool.transaction() as connection:
            await connection.execute(f"CREATE TABLE {table} (a int)")

        async def write_and_fail() -> None:
            async with pool.transaction() as connection:
                await connection.execute(f"INSERT INTO {table} VALUES (1)")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await write_and_fail()
        async with pool.transaction() as connection:
            found = await connection.execute(f"SELECT count(*) FROM {table}")
            assert await found.fetchone() == (0,)
            await connection.execute(f"DROP TABLE {table}")


async def test_mistakes_and_conflicts_are_no_outage(postgres: Any) -> None:
    """ALL-2: only a missing server is UNAVAILABLE."""
    async with pool_of(postgres.url()) as pool:
        for statement, kind in (
            ("SELECT nonsense", psycopg.errors.UndefinedColumn),
            (
                "DO $$ BEGIN RAISE serialization_failure; END $$",
                psycopg.errors.SerializationFailure,
            ),
            ("DO $$ BEGIN RAISE lock_not_available; END $$", StoreBusy),
        ):
            with pytest.raises(kind):
                async with pool.transaction() as connection:
                    await connection.execute(statement)
        assert await pool.check()


async def back(pool: Pool) -> None:
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreUnavailable):
                await who(pool, None)
                return
            await asyncio.sleep(0.01)


async def test_an_outage_is_told_to_everyone_and_ends_by_itself(own_postgres: Any) -> None:
    """USE-7, ALL-1: those who wait for a connection are told as well, and those who run a query."""
    async with pool_of(own_postgres.url(), most=2) as pool:

        async def long_query() -> None:
            async with pool.transaction() as connection:
                await connection.execute("SELECT pg_sleep(30)")

        for _ in range(2):
            await back(pool)
            running = [asyncio.ensure_future(long_query()) for _ in range(2)]
            await asyncio.sleep(0)
            waiting = [asyncio.ensure_future(who(pool, caller(1))) for _ in range(5)]
            async with asyncio.timeout(10):
                while (await state_of(own_postgres, "active")) < 2:
                    await asyncio.sleep(0.01)
            await own_postgres.kill()
            async with asyncio.timeout(1):
                for each in (*running, *waiting):
                    with pytest.raises(StoreUnavailable):
                        await each
            # It is known by now: nobody waits for a connection that cannot come.
            async with asyncio.timeout(0.5):
                for _ in range(50):
                    with pytest.raises(StoreUnavailable):
                        await who(pool, None)
                with pytest.raises(StoreUnavailable):
                    await pool.check()
            await own_postgres.start()
        await back(pool)
        assert await pool.check()


async def state_of(server: Any, state: str) -> int:
    """How many of the pool's connections are in *state*."""
    async with await psycopg.AsyncConnection.connect(server.url()) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'gatehouse-test' AND state = %s",
            (state,),
        )
        row = await found.fetchone()
        return int(row[0]) if row else 0


async def test_connections_that_the_server_ended_are_replaced_unseen(postgres: Any) -> None:
    """ALL-1: a failover of Postgres costs idle connections, and no call."""
    async with pool_of(postgres.url(), most=2) as pool:
        for ask in (who, who_once):
            await who(pool, None)
            async with await psycopg.AsyncConnection.connect(
                postgres.url(), autocommit=True
            ) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'gatehouse-test'"
                )
            for number in range(5):
                assert (await ask(pool, caller(number)))[0] == f"user-{number}"


async def test_a_server_that_is_not_there_is_found_out_by_each_call() -> None:
    """ALL-2: without its address, its user or what the driver said."""
    async with pool_of("postgresql://diarist@/diary?host=/nowhere") as pool:
        with pytest.raises(StoreUnavailable) as caught:
            await who(pool, None)
    assert "diar" not in str(caught.value.status())


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://u@/d?host=%2Ftmp", None),
        ("postgresql://u@localhost/d", None),
        ("postgresql://u@127.0.0.1/d", None),
        ("postgresql:///d", None),
        ("postgresql://u@db/d", "require"),
        ("postgresql://u@localhost,db/d", "require"),
        ("postgresql://u@db/d?sslmode=verify-full", None),
        ("host=db dbname=d", "require"),
    ],
)
def test_a_database_elsewhere_is_reached_by_tls(url: str, mode: str | None) -> None:
    """ALL-3: unless the URL itself says how."""
    assert transport_of(url).get("sslmode") == mode


@pytest.fixture
async def empty(postgres: Any) -> AsyncIterator[str]:
    """The migrator's URL of a database with nothing in it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    await create_database(postgres, name)
    yield postgres.url(MIGRATOR, name)
    await drop_database(postgres, name)


async def test_migrating_at_once_and_again_is_harmless(empty: str) -> None:
    """USE-7: replicas may each bring the schema up to date when they start."""
    await asyncio.gather(*(asyncio.to_thread(migrate, empty, "usage") for _ in range(4)))
    await asyncio.to_thread(migrate, empty, "usage")
    async with pool_of(empty) as pool:
        assert await has_schema(pool, "usage", "0")


async def test_a_service_waits_for_its_schema(empty: str, postgres: Any) -> None:
    """ALL-1: replicas may start before the migration has run, as their own role."""
    url = empty.replace(MIGRATOR, "gatehouse_usage")
    async with pool_of(url) as pool:
        waiting = asyncio.create_task(wait_for_schema(pool, "usage", "20261123000300"))
        async with await psycopg.AsyncConnection.connect(empty, autocommit=True) as connection:
            # As dbmate leaves it for a moment: there, and not for the service to see.
            await connection.execute("CREATE SCHEMA usage")
            await connection.execute("CREATE TABLE usage.schema_migrations (version varchar)")
            assert not await has_schema(pool, "usage", "0")
            await connection.execute("DROP SCHEMA usage CASCADE")
        assert not waiting.done()
        await asyncio.to_thread(migrate, empty, "usage")
        async with asyncio.timeout(10):
            await waiting
        # What was refused before the migration ended is not held against the role after it.
        assert not await is_barred(pool, "usage")
        assert not await has_schema(pool, "usage", "99999999999999")
    async with pool_of(empty.replace(MIGRATOR, "gatehouse_oplog")) as pool:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # no waiting helps this role
            await wait_for_schema(pool, "usage", "0")


async def test_a_migration_that_cannot_be_made_shows_no_password(empty: str) -> None:
    """ALL-2, ALL-5: nor is it among the arguments of a process."""
    for url in (
        "postgresql://u:pa55word@127.0.0.1:1/d",
        "postgresql://u:pa55word%zz@127.0.0.1:1/d",
        "postgresql://u:pa55word@127.0.0.1:one/d",
    ):
        with pytest.raises(MigrationFailed) as caught:
            await asyncio.to_thread(migrate, url, "usage")
        assert "pa55word" not in str(caught.value)
    with pytest.raises(MigrationFailed, match="has no migrations"):
        await asyncio.to_thread(migrate, empty, "nonsense")


def test_the_command_that_migrates_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """ALL-5."""
    assert main([]) == 2
    assert "GATEHOUSE_MIGRATIONS_DATABASE_URL" in capsys.readouterr().err


async def test_migrations_take_the_urls_that_services_take(empty: str) -> None:
    """ALL-5: as connection strings, over several hosts, with all that libpq alone knows."""
    name, sockets = empty.rpartition("/")[2].partition("?")[0], hosts_of(empty)[0][0]
    plain = f"user={MIGRATOR} dbname={name} host={sockets}"
    more = "target_session_attrs=read-write&connect_timeout=3&keepalives_idle=5&sslmode=prefer"
    several = quote(f"/nowhere,{sockets}", safe="")
    urls = [
        plain,
        f"{plain} port=5432 sslmode=disable application_name='a b'",
        f"postgresql://{MIGRATOR}@/{name}?host={several}&{more}",
        f"postgres://{MIGRATOR}:with%20p%40ss@/{name}?host={quote(sockets, safe='')}",
    ]
    for url, service in zip(urls, ("usage", "oplog", "router", "entitlements"), strict=True):
        await asyncio.to_thread(migrate, url, service)
        async with pool_of(empty) as pool:
            assert await has_schema(pool, service, "0"), url


@pytest.mark.parametrize("name", ["channel_binding", "requirepeer", "ssl_min_protocol_version"])
async def test_what_migrations_cannot_keep_to_is_named(empty: str, name: str) -> None:
    """ALL-3, ALL-5: what guards the connection is not left out in silence."""
    values = {"ssl_min_protocol_version": "TLSv1.3", "channel_binding": "require"}
    with pytest.raises(MigrationFailed, match=name):
        await asyncio.to_thread(migrate, f"{empty}&{name}={values.get(name, 'x')}", "usage")


async def test_dbmate_is_told_of_tls_as_the_services_are(empty: str) -> None:
    """ALL-3: of what the URL asks for, and of what came of it."""
    with connected(empty) as connection:
        for url, mode in (
            ("postgresql://u@db/d", "require"),
            ("postgresql://u@/d?host=%2Ftmp", "disable"),
            ("postgresql://u@db/d?sslmode=verify-full", "verify-full"),
            ("postgresql://u@db/d?sslmode=prefer", "disable"),
        ):
            assert f"sslmode={mode}" in url_for_dbmate(url, connection)


async def test_a_migration_that_hangs_is_not_waited_for_without_end(empty: str) -> None:
    """USE-9: the next one is told, and goes on once it is over."""
    with (
        connected(empty),
        pytest.raises(psycopg.errors.LockNotAvailable),
        connected(empty, lock_seconds=0.3),
    ):
        pass
    with connected(empty, lock_seconds=0.3):
        pass
