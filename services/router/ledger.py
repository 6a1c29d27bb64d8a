"""The attempts in Postgres: one row each, the sums of them, and budgets that hold (ROU-6)."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from services.router.accounts import (
    COUNTS,
    MILLIONTH,
    AttemptsQuery,
    Record,
    Recorded,
    SpendingQuery,
    Spent,
    cost_from,
    midnight,
    written,
)
from services.router.nouns import Tokens
from services.runtime.identity import Caller
from services.runtime.postgres import READING, Pool

SCHEMA = "router"
MOST_FORGOTTEN = 5000

# As whom the service itself writes and sums.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

COLUMNS = {
    "attempt_id": "uuid",
    "user_id": "uuid",
    "clinic_id": "uuid",
    "task": "text",
    "model": "text",
    "provider": "text",
    "tier": "text",
    "outcome": "text",
    "http_status": "integer",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "seconds_to_first_token": "double precision",
    "input_tokens": "bigint",
    "cached_input_tokens": "bigint",
    "output_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "estimated": "boolean",
    "cost": "numeric",
    "currency": "text",
    "trace_id": "text",
}
NAMES = ", ".join(COLUMNS)
AS_THEY_ARE = (
    "task",
    "model",
    "provider",
    "tier",
    "outcome",
    "started_at",
    "ended_at",
    "seconds_to_first_token",
    "currency",
)
READ = f"jsonb_to_recordset(%s::jsonb) AS r({', '.join(f'{n} {t}' for n, t in COLUMNS.items())})"

# The same attempt comes twice, in any order and perhaps again: what says how it ended stands. In
# the order of their ids, so that no two replicas ever wait for each other.
RECORD = f"""
    INSERT INTO router.attempts ({NAMES})
    SELECT DISTINCT ON (attempt_id) {NAMES} FROM {READ}
    ORDER BY attempt_id, ended_at NULLS LAST
    ON CONFLICT (attempt_id) DO UPDATE
        SET ({NAMES}) = ROW ({", ".join(f"EXCLUDED.{name}" for name in COLUMNS)})
        WHERE attempts.ended_at IS NULL AND EXCLUDED.ended_at IS NOT NULL
"""  # noqa: S608  names of ours alone

# Whoever reserves for a user waits for the one before, and then sees what that one reserved.
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
RESERVE = f"""
    INSERT INTO router.attempts ({NAMES})
    SELECT {NAMES} FROM {READ}
    WHERE r.cost + (
        SELECT coalesce(sum(a.cost), 0) FROM router.attempts AS a
        WHERE a.user_id = r.user_id AND a.started_at >= %s AND a.currency = r.currency
    ) <= %s::numeric
    RETURNING true
"""  # noqa: S608  names of ours alone

SUMS = """
    SELECT {by} currency, count(input_tokens), sum(cost),
        coalesce(sum(input_tokens), 0)::bigint, coalesce(sum(cached_input_tokens), 0)::bigint,
        coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(reasoning_tokens), 0)::bigint,
        bool_or(estimated)
    FROM router.attempts
    WHERE started_at >= %(start)s AND started_at < %(end)s AND input_tokens IS NOT NULL
        {of}
    GROUP BY {by} currency
    ORDER BY {order} currency
"""
BY = {
    "day": sql.SQL("(started_at AT TIME ZONE 'UTC')::date"),
    "model": sql.SQL("model"),
    "user_id": sql.SQL("coalesce(user_id::text, '')"),
    "clinic_id": sql.SQL("coalesce(clinic_id::text, '')"),
}
FORGET = """
    DELETE FROM router.attempts WHERE attempt_id IN (
        SELECT attempt_id FROM router.attempts WHERE started_at < %s LIMIT %s)
"""


# Only what is asked for is a condition: under `asked IS NULL OR column = asked` a plan that is made
# for all values reads the whole table.
ASKED = {
    "user_id": "user_id = %(user_id)s::uuid",
    "clinic_id": "clinic_id = %(clinic_id)s::uuid",
    "model": "model = %(model)s",
    "trace_id": "trace_id = %(trace_id)s",
    "start": "started_at >= %(start)s",
    "end": "started_at < %(end)s",
    "at": "(started_at, attempt_id) < (%(at)s, %(attempt_id)s::uuid)",
}


class Ledger:
    """The table of attempts. Every method raises StoreUnavailable while Postgres is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, records: str) -> None:
        """Keep *records*, a JSON array of them. Raises psycopg.DataError for what is none."""
        async with self._pool.transaction(ITSELF) as connection:
            await connection.execute(RECORD, (records,))

    async def reserve(self, record: Record, now: datetime, limit_micros: int) -> bool:
        """Keep *record*, whose cost is the most that the attempt may cost, if the user's costs of
        the day (UTC) stay within the limit with it; says whether they do.
        """
        async with self._pool.transaction(ITSELF) as connection:
            await connection.execute(ONE_AT_A_TIME, (record["user_id"],))
            limit = written(limit_micros * MILLIONTH)
            day = midnight(now.date())
            done = await connection.execute(RESERVE, (Jsonb([record]), day, limit))
            return await done.fetchone() is not None

    async def spending(self, query: SpendingQuery) -> list[Spent]:
        """The sums, newest day first, then by the other names that tell them apart."""
        start, end = query.moments
        asked = {
            "start": start,
            "end": end,
            "user_id": query.user_id or None,
            "clinic_id": query.clinic_id or None,
        }
        by = [name for name in BY if name in query.by]
        columns = [BY[name] for name in by]
        order = [sql.SQL("{} DESC").format(BY[name]) if name == "day" else BY[name] for name in by]
        statement = sql.SQL(SUMS).format(
            by=sql.SQL("").join(sql.SQL("{}, ").format(each) for each in columns),
            order=sql.SQL("").join(sql.SQL("{}, ").format(each) for each in order),
            of=sql.SQL("").join(
                sql.SQL("AND ") + sql.SQL(ASKED[name])
                for name in ("user_id", "clinic_id")
                if asked[name]
            ),
        )
        async with self._pool.transaction(ITSELF, READING) as connection:
            found = await connection.execute(statement, asked)
            return [_spent(by, row) for row in await found.fetchall()]

    async def attempts(self, query: AttemptsQuery) -> list[Recorded]:
        """Those that are asked for, newest first, and one more where more follow."""
        at, attempt_id = query.before or (None, None)
        asked = {
            "user_id": query.user_id or None,
            "clinic_id": query.clinic_id or None,
            "model": query.model or None,
            "trace_id": query.trace_id or None,
            "start": query.start,
            "end": query.end,
            "at": at,
            "attempt_id": attempt_id,
            "size": query.size + 1,
        }
        async with self._pool.transaction(ITSELF, READING) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                f"SELECT {NAMES} FROM router.attempts WHERE {conditions_of(asked)}"  # noqa: S608  texts of ours
                " ORDER BY started_at DESC, attempt_id DESC LIMIT %(size)s",
                asked,
            )
            return [_recorded(row) for row in await cursor.fetchall()]

    async def forget(self, now: datetime, days: int) -> None:
        """Delete what is older than *days*, some rows at a time."""
        while True:
            async with self._pool.transaction(ITSELF) as connection:
                before = now - timedelta(days=days)
                done = await connection.execute(FORGET, (before, MOST_FORGOTTEN))
            if done.rowcount < MOST_FORGOTTEN:
                return


def conditions_of(asked: Mapping[str, Any]) -> str:
    found = [text for name, text in ASKED.items() if asked[name] is not None]
    return " AND ".join(found) or "true"


def _recorded(row: dict[str, Any]) -> Recorded:
    billed = row["input_tokens"] is not None
    tokens = Tokens(*(row[name] for name in (*COUNTS, "estimated"))) if billed else None
    return Recorded(
        attempt_id=row["attempt_id"],
        user_id=str(row["user_id"] or ""),
        clinic_id=str(row["clinic_id"] or ""),
        http_status=row["http_status"] or 0,
        tokens=tokens,
        cost=cost_from(row["cost"]),
        trace_id=row["trace_id"] or "",
        **{name: row[name] for name in AS_THEY_ARE},
    )


def _spent(by: Sequence[str], row: Sequence[Any]) -> Spent:
    keys, (currency, attempts, cost, *tokens) = row[: len(by)], row[len(by) :]
    return Spent(
        currency=currency,
        attempts=attempts,
        tokens=Tokens(*tokens),
        cost=cost_from(cost),
        **dict(zip(by, keys, strict=True)),
    )
