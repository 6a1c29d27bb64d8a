"""What is stored: plans, assignments, clinic defaults, descriptors, and the history of all four.

Each read is one statement, so that what it returns and the revision beside it belong together. Each
write waits for the writer before it, so that revisions are committed in their order; the etag is
compared under that lock.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from services.entitlements.access import READERS_OF_ANYONE, SYSTEM_DEFAULT, etag_stands
from services.entitlements.failures import EtagMismatch, NameTaken, PlanInUse, RequestIdTaken
from services.entitlements.revisions import Revision, Standing, standing_of
from services.entitlements.rows import Columns, Row, etag_of
from services.runtime.failure import NotFound, StoreBusy
from services.runtime.identity import Caller
from services.runtime.postgres import CHECKOUT_SECONDS, Limits, Pool

Connection = psycopg.AsyncConnection[Any]

SCHEMA = "entitlements"
CHANNEL = "entitlements_changes"
# As whom the service itself reads, on no one's behalf.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))
# Who reads a snapshot slowly holds no lock that anybody waits for.
SNAPSHOT_LIMITS = Limits(statement=10.0, idle=60.0, transaction=600.0)
# How long health tells of a change that was refused because others hold what it needs.
BUSY_SECONDS = 5.0
# Of this service alone: the advisory locks of a database are shared by all who use it.
WRITERS_LOCK = 0x656E7469746C65


@dataclass(frozen=True)
class Table:
    """One of the four things that can be written."""

    name: str
    kind: str
    noun: str
    key: str
    order: str

    @property
    def sql(self) -> sql.Identifier:
        return sql.Identifier("entitlements", self.name)


PLANS = Table("plans", "plan", "plan", "id", "name")
USER_PLAN = Table("user_plan", "user_plan", "plan assigned to that user", "user_id", "user_id")
CLINIC_PLAN = Table(
    "clinic_plan", "clinic_plan", "default plan of that clinic", "clinic_id", "clinic_id"
)
DESCRIPTORS = Table("domain_descriptors", "descriptor", "descriptor", "id", "name")
# Whose row of a table a caller sees who does not read anyone's.
OWN: Mapping[Table, Callable[[Caller], str]] = {
    USER_PLAN: lambda caller: caller.user_id,
    CLINIC_PLAN: lambda caller: caller.clinic_id,
}
TABLES = (PLANS, USER_PLAN, CLINIC_PLAN, DESCRIPTORS)


NO_REVISION = Revision("", 0)


@dataclass(frozen=True)
class Write:
    """Who writes, and under which ids the history keeps it."""

    caller: Caller
    operation_id: str
    request_id: str = ""


@dataclass(frozen=True)
class Change:
    revision: int
    kind: str
    removed: bool
    row: Row


@dataclass(frozen=True)
class Candidates:
    """The plans that may count for a user, of which the first there is does (ENT-2)."""

    revision: Revision
    user: Row | None
    clinic: Row | None
    basic: Row | None
    # The clinic's own zone; None where it has none.
    time_zone: str | None = None


class Store:
    """The tables, seen as the caller of each call: row level security has the last word."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Who waits for other writers, or for a slow reader of a snapshot, does so without keeping
        # the connections that reads need. Two writers: one writes, the next stands ready.
        self._write_turn = asyncio.Semaphore(2)
        self._refusals = 0
        self._refused_at = -BUSY_SECONDS
        self._snapshot_turn = asyncio.Semaphore(2)

    async def one(
        self, caller: Caller, table: Table, column: str, value: str
    ) -> tuple[Row, Revision]:
        """The row whose *column* is *value*, and the revision. Raises NotFound."""
        statement = sql.SQL(
            "SELECT r.epoch::text, r.revision,"
            " (SELECT to_jsonb(t) FROM {table} AS t WHERE t.{column} = %s)"
            " FROM entitlements.revision AS r"
        ).format(table=table.sql, column=sql.Identifier(column))
        async with self._pool.transaction(caller) as connection:
            epoch, number, row = await _first(connection, statement, (value,))
        if row is None:
            raise NotFound(f"there is no {table.noun} with this {column}")
        return row, Revision(epoch, number)

    async def page(
        self, caller: Caller, table: Table, after: str, limit: int, plan_id: str = ""
    ) -> tuple[list[Row], Revision]:
        """At most *limit* rows in the table's order, after the key *after*, and the revision.

        What a caller may see alone is asked for alone: row level security, which has the last word,
        would go through everybody's to find it.
        """
        conditions: list[sql.Composable] = [sql.SQL("true")]
        parameters: list[object] = []
        if table in OWN and not caller.roles & READERS_OF_ANYONE:
            conditions.append(sql.SQL("t.{} = %s").format(sql.Identifier(table.key)))
            parameters.append(OWN[table](caller) or None)
        if after:
            conditions.append(sql.SQL("t.{} > %s").format(sql.Identifier(table.order)))
            parameters.append(after)
        if plan_id:
            conditions.append(sql.SQL("t.plan_id = %s"))
            parameters.append(plan_id)
        statement = sql.SQL(
            "SELECT r.epoch::text, r.revision, p.row"
            " FROM entitlements.revision AS r LEFT JOIN LATERAL ("
            " SELECT to_jsonb(t) AS row, t.{order} AS place FROM {table} AS t"
            " WHERE {conditions} ORDER BY t.{order} LIMIT %s) AS p ON true ORDER BY p.place"
        ).format(
            table=table.sql,
            order=sql.Identifier(table.order),
            conditions=sql.SQL(" AND ").join(conditions),
        )
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(statement, (*parameters, limit))
            rows = await found.fetchall()
        return [row for *_, row in rows if row is not None], Revision(*rows[0][:2])

    async def candidates(self, caller: Caller, user_id: str, clinic_id: str) -> Candidates:
        """The user's plan, the clinic's default and `basic`, as far as there are such."""
        async with self._pool.transaction(caller) as connection:
            found = await _first(
                connection, CANDIDATES, (user_id, clinic_id or None, SYSTEM_DEFAULT)
            )
        epoch, number, *plans = found
        return Candidates(Revision(epoch, number), *plans)

    async def candidates_at(
        self, caller: Caller, user_id: str, clinic_id: str, at: datetime
    ) -> Candidates:
        """The same at the moment *at*, from the history."""
        async with self._pool.transaction(caller) as connection:
            found = await _first(
                connection,
                CANDIDATES_AT,
                {"user": user_id, "clinic": clinic_id, "basic": SYSTEM_DEFAULT, "at": at},
            )
        return Candidates(NO_REVISION, *found)

    async def revision(self, caller: Caller) -> Revision:
        async with self._pool.transaction(caller) as connection:
            return await _revision(connection)

    async def look(self, caller: Caller) -> Revision:
        """The newest revision, in a new epoch where the store is another one than wrote last."""
        async with self._pool.transaction(caller) as connection:
            await connection.execute(CURRENT_EPOCH)
            return await _revision(connection)

    async def standing(self, caller: Caller, wanted: Revision) -> tuple[Standing, Revision]:
        """How *wanted* stands in the history, and the newest revision."""
        async with self._pool.transaction(caller) as connection:
            epoch, number, last = await _first(connection, STANDING, (as_uuid(wanted.epoch),))
        current = Revision(epoch, number)
        return standing_of(wanted, current, last), current

    async def changes_after(self, caller: Caller, revision: int, limit: int) -> list[Change]:
        """The changes after *revision* in their order, at most *limit*."""
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(CHANGES_AFTER, (revision, limit))
            return [Change(*row) for row in await found.fetchall()]

    async def snapshot(
        self, caller: Caller, part: int
    ) -> AsyncGenerator[tuple[Revision, list[Change]], None]:
        """Everything at one revision, in parts of at most *part* rows.

        Raises StoreBusy where others are at it for as long as a call waits.
        """
        async with (
            turn_at(self._snapshot_turn),
            self._pool.transaction(caller, SNAPSHOT_LIMITS) as connection,
        ):
            # One statement has one view of all tables, however slowly it is read. Its cursor ends
            # with the transaction, so that nothing has to be closed for a caller who goes away.
            await connection.execute(f"DECLARE snapshot CURSOR FOR {SNAPSHOT}")
            fetch = f"FETCH {int(part)} FROM snapshot"
            while rows := await (await connection.execute(fetch, prepare=False)).fetchall():
                changes = [Change(number, kind, False, row) for _, number, kind, row in rows]
                yield Revision(*rows[0][:2]), changes

    async def page_token_key(self, caller: Caller) -> bytes:
        async with self._pool.transaction(caller) as connection:
            (key,) = await _first(connection, "SELECT key FROM entitlements.page_token_key")
        return bytes(key)

    async def create(
        self, write: Write, table: Table, columns: Columns, same: Callable[[Row], bool]
    ) -> tuple[Row, Revision]:
        """Make a row, or return the one that this request made before; and a revision that has it.

        Raises NameTaken, and RequestIdTaken when what the request made is not the *same*.
        """
        async with self._writing(write) as connection:
            made = await _made_by(connection, write)
            if made is not None:
                kind, row = made
                if kind != table.kind or not same(row):
                    raise RequestIdTaken
                return row, await _revision_of(connection, row)
            try:
                row = await _insert(connection, table, columns)
                return row, await _revision_of(connection, row)
            except psycopg.errors.UniqueViolation:
                raise NameTaken(table.noun) from None

    async def update(
        self,
        write: Write,
        table: Table,
        key: str,
        etag: str,
        change: Callable[[Row], Columns],
    ) -> tuple[Row, Revision]:
        """Write what *change* makes of the row; return it and its revision.

        Raises NotFound, EtagMismatch, NameTaken, PlanInUse.
        """
        async with self._writing(write) as connection:
            standing = await _standing(connection, table, key)
            if standing is None:
                raise NotFound(f"there is no {table.noun} with this {table.key}")
            if not etag_stands(etag, etag_of(standing)):
                raise EtagMismatch(table.noun)
            try:
                row = await _update(connection, table, key, change(standing))
                return row, await _revision_of(connection, row)
            except psycopg.errors.UniqueViolation:
                raise NameTaken(table.noun) from None
            except psycopg.errors.RestrictViolation:
                raise PlanInUse("basic is the plan that everyone has: it keeps its name") from None

    async def delete(self, write: Write, table: Table, key: str, etag: str) -> Revision:
        """Remove the row and return the revision without it.

        Raises NotFound, EtagMismatch, PlanInUse.
        """
        statement = sql.SQL("DELETE FROM {} WHERE {} = %s").format(
            table.sql, sql.Identifier(table.key)
        )
        async with self._writing(write) as connection:
            standing = await _standing(connection, table, key)
            if standing is None:
                raise NotFound(f"there is no {table.noun} with this {table.key}")
            if not etag_stands(etag, etag_of(standing)):
                raise EtagMismatch(table.noun)
            try:
                await connection.execute(statement, (key,))
            except (psycopg.errors.RestrictViolation, psycopg.errors.ForeignKeyViolation):
                raise PlanInUse(
                    "the plan is assigned to a user or a clinic, or is the one that everyone has"
                ) from None
            return await _revision(connection)

    async def assign(
        self,
        write: Write,
        table: Table,
        key: str,
        plan: tuple[str, str],
        etag: str,
        columns: Columns,
    ) -> tuple[Row, Revision]:
        """Give *key* the plan named by (column, value); return what stands, and the revision.

        Other *columns* are written with it, and those that are not among them keep what they have.
        What stands there already is left as it is, with its time, unless an etag shows that the
        caller means to write. Raises NotFound, EtagMismatch.
        """
        column, value = plan
        async with self._writing(write) as connection:
            wanted = await _standing(connection, PLANS, value, column)
            if wanted is None:
                raise NotFound(f"there is no plan with this {column}")
            standing = await _standing(connection, table, key)
            if not etag_stands(etag, etag_of(standing) if standing else None):
                raise EtagMismatch(table.noun)
            columns = {table.key: key, "plan_id": wanted["id"], **columns}
            if standing and not etag and columns.items() <= standing.items():
                return standing, await _revision(connection)
            write_row = _insert if standing is None else _replace
            row = await write_row(connection, table, columns)
            return row, await _revision(connection)

    @asynccontextmanager
    async def _writing(self, write: Write) -> AsyncIterator[Connection]:
        """The transaction of a change, in its turn. Raises StoreBusy where another holds it up."""
        refusals = self._refusals
        async with self._write_turn:
            if self._refusals != refusals:  # it would wait as long once more
                raise StoreBusy("another change is not over")
            try:
                async with self._pool.transaction(write.caller) as connection:
                    ids = (write.operation_id, write.request_id)
                    await connection.execute(BEGIN_WRITING, (*ids, WRITERS_LOCK))
                    yield connection
            except StoreBusy:
                self._refusals += 1
                self._refused_at = time.monotonic()
                raise
            self._refused_at = -BUSY_SECONDS

    async def check_writes(self) -> bool:
        """Whether a change would get its turn; for the service's health. Raises StoreBusy."""
        turn = f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})"
        is_free = await self._pool.lets_write(ITSELF, turn)
        return is_free and time.monotonic() - self._refused_at >= BUSY_SECONDS


@asynccontextmanager
async def turn_at(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of *turns*. Raises StoreBusy where none comes in CHECKOUT_SECONDS: somebody may hang."""
    try:
        async with asyncio.timeout(CHECKOUT_SECONDS):
            await turns.acquire()
    except TimeoutError:
        raise StoreBusy("others read a snapshot, and do not end") from None
    try:
        yield
    finally:
        turns.release()


async def _first(
    connection: Connection,
    statement: "sql.Composed | sql.SQL | str",
    parameters: "tuple[object, ...] | dict[str, object] | None" = None,
) -> tuple[Any, ...]:
    found = await connection.execute(statement, parameters)
    row = await found.fetchone()
    assert row is not None, "the revision is visible to every caller with an id"
    return tuple(row)


async def _revision(connection: Connection) -> Revision:
    """The newest revision; of a transaction that writes, its own."""
    return Revision(*await _first(connection, REVISION))


async def _revision_of(connection: Connection, row: Row) -> Revision:
    """The revision that made *row*, as of the epoch that runs."""
    return Revision((await _revision(connection)).epoch, row["revision"])


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


async def _standing(
    connection: Connection, table: Table, value: str, column: str = ""
) -> Row | None:
    statement = sql.SQL("SELECT to_jsonb(t) FROM {} AS t WHERE t.{} = %s").format(
        table.sql, sql.Identifier(column or table.key)
    )
    row = await (await connection.execute(statement, (value,))).fetchone()
    return row[0] if row else None


async def _made_by(connection: Connection, write: Write) -> tuple[str, Row] | None:
    """What the request of *write* made when it came before."""
    if not write.request_id:
        return None
    found = await connection.execute(MADE_BY, (write.caller.user_id, write.request_id))
    row = await found.fetchone()
    return (row[0], row[1]) if row else None


async def _insert(connection: Connection, table: Table, columns: Columns) -> Row:
    statement = sql.SQL("INSERT INTO {} AS t ({}) VALUES ({}) RETURNING to_jsonb(t)").format(
        table.sql,
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    (row,) = await _first(connection, statement, tuple(columns.values()))
    return dict(row)


async def _update(connection: Connection, table: Table, key: str, columns: Columns) -> Row:
    statement = sql.SQL("UPDATE {} AS t SET {} WHERE t.{} = %s RETURNING to_jsonb(t)").format(
        table.sql,
        sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in columns),
        sql.Identifier(table.key),
    )
    (row,) = await _first(connection, statement, (*columns.values(), key))
    return dict(row)


async def _replace(connection: Connection, table: Table, columns: Columns) -> Row:
    return await _update(connection, table, columns[table.key], columns)


REVISION = "SELECT epoch::text, revision FROM entitlements.revision"

CURRENT_EPOCH = "SELECT entitlements.current_epoch()"

STANDING = """
SELECT r.epoch::text, r.revision,
    (SELECT f.last_revision FROM entitlements.former_epochs AS f WHERE f.epoch = %s)
FROM entitlements.revision AS r
"""

BEGIN_WRITING = """
SELECT set_config('gatehouse.operation_id', %s, true),
    set_config('gatehouse.request_id', %s, true), pg_advisory_xact_lock(%s)
"""

MADE_BY = "SELECT kind, state FROM entitlements.changes WHERE changed_by = %s AND request_id = %s"

CHANGES_AFTER = """
SELECT revision, kind, removed, state FROM entitlements.changes
WHERE revision > %s ORDER BY revision LIMIT %s
"""

CANDIDATES = """
SELECT r.epoch::text, r.revision, u.plan, c.plan, b.plan, c.time_zone
FROM entitlements.revision AS r
LEFT JOIN LATERAL (
    SELECT to_jsonb(p) AS plan FROM entitlements.user_plan AS a
    JOIN entitlements.plans AS p ON p.id = a.plan_id WHERE a.user_id = %s
) AS u ON true
LEFT JOIN LATERAL (
    SELECT to_jsonb(p) AS plan, a.time_zone FROM entitlements.clinic_plan AS a
    JOIN entitlements.plans AS p ON p.id = a.plan_id WHERE a.clinic_id = %s
) AS c ON true
LEFT JOIN LATERAL (
    SELECT to_jsonb(p) AS plan FROM entitlements.plans AS p WHERE p.name = %s
) AS b ON true
"""

# The last change of an assignment before a moment says what stood then; the plan's own last change,
# what it was called.
CANDIDATES_AT = """
WITH assigned (kind, plan_id) AS (
    SELECT k.kind, (
        SELECT CASE WHEN NOT c.removed THEN c.state ->> 'plan_id' END
        FROM entitlements.changes AS c
        WHERE c.kind = k.kind AND c.key = k.key AND c.changed_at <= %(at)s
        ORDER BY c.revision DESC LIMIT 1
    )
    FROM (VALUES ('user_plan', %(user)s::text), ('clinic_plan', %(clinic)s::text)) AS k (kind, key)
    UNION ALL
    SELECT 'basic', p.id::text FROM entitlements.plans AS p WHERE p.name = %(basic)s
), named (kind, plan) AS (
    SELECT a.kind, (
        SELECT c.state FROM entitlements.changes AS c
        WHERE c.kind = 'plan' AND c.key = a.plan_id AND c.changed_at <= %(at)s
        ORDER BY c.revision DESC LIMIT 1
    )
    FROM assigned AS a
)
SELECT
    (SELECT plan FROM named WHERE kind = 'user_plan'),
    (SELECT plan FROM named WHERE kind = 'clinic_plan'),
    (SELECT plan FROM named WHERE kind = 'basic')
"""

SNAPSHOT = """
SELECT r.epoch::text, r.revision, everything.kind, everything.row
FROM entitlements.revision AS r, (
    SELECT 'plan' AS kind, to_jsonb(t) AS row FROM entitlements.plans AS t
    UNION ALL SELECT 'clinic_plan', to_jsonb(t) FROM entitlements.clinic_plan AS t
    UNION ALL SELECT 'descriptor', to_jsonb(t) FROM entitlements.domain_descriptors AS t
    UNION ALL SELECT 'user_plan', to_jsonb(t) FROM entitlements.user_plan AS t
) AS everything
"""
