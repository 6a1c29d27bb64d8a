"""What an upgrade of usage's schema keeps of what was counted before (USE-2, USE-4, USE-6)."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from services.embedded_stores import create_database, drop_database
from services.runtime.migrations import migrations_of
from tests.conftest import Database

BEFORE, AFTER = "20261123000300_usage.sql", "20261130000300_usage_windows.sql"
USER, CLEARED, QUIET = (uuid.UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
async def empty(postgres: Any) -> AsyncIterator[Database]:
    """A database with none of the schemas."""
    database = Database(postgres, f"test_{uuid.uuid4().hex[:12]}")
    await create_database(postgres, database.name)
    yield database
    await drop_database(postgres, database.name)


async def apply(database: Database, file: str) -> None:
    """Run a migration as its owner does, whom row level security binds too."""
    text = (migrations_of("usage") / file).read_text().partition("-- migrate:down")[0]
    async with await psycopg.AsyncConnection.connect(database.migrator_url) as connection:
        await connection.execute(text)  # type: ignore[arg-type]


async def test_an_open_window_and_what_was_released_outlive_the_upgrade(empty: Database) -> None:
    """USE-2, USE-6: kind: a promise that a migration forgets."""
    now = datetime.now(UTC)
    async with await psycopg.AsyncConnection.connect(
        empty.migrator_url, autocommit=True
    ) as connection:
        await connection.execute("CREATE SCHEMA usage")
        await connection.execute("CREATE TABLE usage.schema_migrations (version varchar)")
    await apply(empty, BEFORE)
    async with await psycopg.AsyncConnection.connect(
        empty.admin_url, autocommit=True
    ) as connection:
        cleared_at = now - timedelta(seconds=20)
        for user, at in ((USER, None), (CLEARED, cleared_at), (QUIET, None)):
            await connection.execute(
                "INSERT INTO usage.users (user_id, cleared_at) VALUES (%s, %s)", (user, at)
            )
        ages = {USER: (100_000, 50, 40, 30), CLEARED: (50, 10), QUIET: ()}
        for user, seconds in ages.items():
            for age in seconds:
                kind, released = ("modify", 2) if age == 30 else ("query", 0)
                await connection.execute(
                    "INSERT INTO usage.receipts (user_id, operation_id, kind, released, claimed_at,"
                    " usage_date, claimed, granted)"
                    " VALUES (%s, %s, %s, %s, %s, '2026-11-23', 2, 2)",
                    (user, uuid.uuid4(), kind, released, now - timedelta(seconds=age)),
                )
        await connection.execute(
            "INSERT INTO usage.usage_counters (user_id, usage_date) VALUES"
            " (%(user)s, '2026-11-22'), (%(user)s, '2026-11-23')",
            {"user": USER},
        )
    await apply(empty, AFTER)
    async with await psycopg.AsyncConnection.connect(empty.admin_url) as connection:
        found = await connection.execute(
            "SELECT last_queries_timestamps, last_modifies_timestamps, last_usage_date"
            " FROM usage.users ORDER BY user_id"
        )
        rows = await found.fetchall()

        def ago(*seconds: float) -> list[datetime]:
            return [now - timedelta(seconds=each) for each in seconds]

        assert rows[0] == (ago(50, 40), ago(30), date(2026, 11, 23))
        assert rows[1] == (ago(10), [], None)
        assert rows[2] == ([], [], None)
        found = await connection.execute("SELECT kind FROM usage.receipts WHERE revoked")
        assert await found.fetchall() == [("modify",)]
