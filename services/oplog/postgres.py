"""What the log stores: links appended, rows projected, quarantine filled, in one transaction."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, astuple, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow, class_row

from services.oplog.chain import link_hash
from services.oplog.projection import Malformed, OperationSpan, Row, contradicts, projected
from services.oplog.seals import Seal, Sealing
from services.runtime.identity import Caller
from services.runtime.postgres import MAINTENANCE, READING, Limits, Pool

SCHEMA = "oplog"
VERSION = "20261130000610"
CHANNEL = "oplog_position"
# That there are so many spans in quarantine says enough: nobody counts all of them every 15 s.
MOST_COUNTED = 1000

# Spans of one transaction. It holds the head's lock, so it is to be over soon on any machine.
MOST_AT_ONCE = 500
# The transaction of who verifies stays open beside the walk, with a lock that only verifying needs.
VERIFYING = Limits(idle=4 * 3600.0, transaction=None)

# As whom the log itself writes.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

ROW_COLUMNS = ", ".join(field.name for field in fields(Row))
LINK_COLUMNS = ", ".join(field.name for field in fields(OperationSpan))
ROW_VALUES = ", ".join(["%s"] * (len(fields(Row)) + 1))
LINK_VALUES = ", ".join(["%s"] * (len(fields(OperationSpan)) + 3))
# What an outcome brings to a row; the others say which operation it is, and never change.
CHANGING = (
    *("outcome", "reason", "latency_ms", "model_used", "failover", "created_at", "trace_id"),
    *("span_id", "settled_later", "position"),
)

INSERT_LINK = (
    f"INSERT INTO oplog.links ({LINK_COLUMNS}, position, recorded_at, hash)"  # noqa: S608  columns of ours
    f" VALUES ({LINK_VALUES})"
)
INSERT_ROW = f"INSERT INTO oplog.operation_log ({ROW_COLUMNS}, logged_at) VALUES ({ROW_VALUES})"  # noqa: S608  columns of ours
UPDATE_ROW = (
    f"UPDATE oplog.operation_log SET {', '.join(f'{name} = %s' for name in CHANGING)}"  # noqa: S608  columns of ours
    " WHERE id = %s AND logged_at = %s"
)
# Time does not go back in the chain, whatever the clocks do: a span of it is a span of positions.
LOCK_HEAD = """
    SELECT position, hash, greatest(recorded_at, coalesce(%s, clock_timestamp())),
        dropped_position, dropped_hash
    FROM oplog.head FOR UPDATE
"""
# Of every ten minutes the last seal is kept: it seals all before it too.
WRITE_SEAL = """
    INSERT INTO oplog.seals (slot, sealed_at, position, jws)
    VALUES (date_bin('10 minutes', %(sealed_at)s, 'epoch'), %(sealed_at)s, %(position)s, %(jws)s)
    ON CONFLICT (slot) DO UPDATE
    SET sealed_at = excluded.sealed_at, position = excluded.position, jws = excluded.jws
"""
MOVE_HEAD = """
    UPDATE oplog.head
    SET position = %(position)s, hash = %(hash)s, recorded_at = %(sealed_at)s
"""
TELL = f"SELECT pg_notify('{CHANNEL}', %(position)s::text)"
MOVE = f"WITH moved AS ({MOVE_HEAD}) {TELL}"
MOVE_AND_SEAL = f"WITH moved AS ({MOVE_HEAD}), sealed AS ({WRITE_SEAL}) {TELL}"

Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True)
class Head:
    """The end of the chain, the last link that retention has dropped, and the newest seal."""

    position: int
    hash: bytes
    dropped_position: int
    dropped_hash: bytes
    seal: str


@dataclass(frozen=True)
class Open:
    """What of the log waits for somebody: late outcomes, and spans that were not understood."""

    unsettled: int
    oldest_seconds: float
    quarantined: int


@dataclass(frozen=True)
class Link:
    """One link as it is stored, and the row of its operation."""

    span: OperationSpan
    position: int
    recorded_at: datetime
    hash: bytes
    row: Row | None


class Store:
    """The log's tables."""

    def __init__(
        self, pool: Pool, sealing: Sealing, now: Callable[[], datetime] | None = None
    ) -> None:
        """A *now* given takes the place of Postgres's clock."""
        self._pool = pool
        self._sealing = sealing
        self._now = now

    async def append(
        self, spans: Sequence[OperationSpan], malformed: Sequence[Malformed]
    ) -> list[Malformed]:
        """Commit *spans*, each once whatever is sent again, and *malformed* into the quarantine.

        Returns what of *spans* went there too, since it contradicts what the log has. Raises
        StoreUnavailable, StoreBusy; then some of it may be kept, and all of it is to be sent again.
        """
        now = self._now() if self._now else None
        refused: list[Malformed] = []
        for first in range(0, max(len(spans), 1), MOST_AT_ONCE):
            part = spans[first : first + MOST_AT_ONCE]
            async with self._pool.transaction(ITSELF) as connection:
                found = await append_links(connection, self._sealing, part, now) if part else []
                await quarantine(connection, [*malformed, *found] if not first else found)
            refused += found
        return refused

    async def check_writes(self) -> bool:
        """Whether spans could be appended now; for the service's health. Raises StoreBusy."""
        return await self._pool.lets_write(ITSELF, "SELECT FROM oplog.head FOR UPDATE")

    async def prepare(self) -> None:
        """Make the partitions that are needed soon."""
        async with self._pool.transaction(ITSELF, MAINTENANCE) as connection:
            await connection.execute(
                "SELECT oplog.prepare_partitions(coalesce(%s, clock_timestamp()))",
                (self._now() if self._now else None,),
            )

    async def drop(self, age: timedelta) -> int:
        """Drop the partitions of which all is older than *age*; how many there were."""
        async with self._pool.transaction(ITSELF, MAINTENANCE) as connection:
            found = await connection.execute(
                "SELECT oplog.drop_partitions(coalesce(%s, clock_timestamp()) - %s)",
                (self._now() if self._now else None, age),
            )
            row = await found.fetchone()
            assert row is not None
            if row[0]:
                await self._seal(connection)
        return int(row[0])

    async def _seal(self, connection: Connection) -> None:
        """Seal the chain as it is; whoever calls has locked its head."""
        if not self._sealing.signs:
            return
        found = await connection.execute(
            "SELECT position, hash, dropped_position, dropped_hash, recorded_at FROM oplog.head"
        )
        head = await found.fetchone()
        assert head is not None
        await connection.execute(WRITE_SEAL, sealed(Seal(*head), self._sealing))

    async def page(
        self,
        caller: Caller,
        conditions: Sequence[tuple[str, Sequence[Any]]],
        before: tuple[datetime, UUID] | None,
        size: int,
    ) -> list[Row]:
        """Rows that *caller* may see for which all *conditions* hold, newest first."""
        wheres = list(conditions)
        if before is not None:
            wheres.append(("(created_at, id) < (%s, %s)", before))
        return await self._rows(caller, wheres, "created_at DESC, id DESC", size)

    async def after(
        self,
        caller: Caller,
        conditions: Sequence[tuple[str, Sequence[Any]]],
        position: int,
        size: int,
    ) -> list[Row]:
        """Rows changed after *position*, in the order of their changes."""
        wheres = [*conditions, ("position > %s", (position,))]
        return await self._rows(caller, wheres, "position", size)

    async def _rows(
        self,
        caller: Caller,
        wheres: Sequence[tuple[str, Sequence[Any]]],
        order: str,
        size: int,
    ) -> list[Row]:
        where = " AND ".join(condition for condition, _ in wheres) or "true"
        values = [value for _, given in wheres for value in given]
        async with self._pool.transaction(caller, READING) as connection:
            cursor = connection.cursor(row_factory=class_row(Row))
            await cursor.execute(
                f"SELECT {ROW_COLUMNS} FROM oplog.operation_log"  # noqa: S608  conditions of ours
                f" WHERE {where} ORDER BY {order} LIMIT %s",
                (*values, size),
                # Planned for what is asked: a plan for any position, or any user, would go through
                # all that a clinic has ever done to find the last rows.
                prepare=False,
            )
            return await cursor.fetchall()

    async def position(self) -> int:
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute("SELECT position FROM oplog.head")
            row = await found.fetchone()
        assert row is not None
        return int(row[0])

    async def page_token_key(self) -> bytes:
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute("SELECT key FROM oplog.page_token_key")
            row = await found.fetchone()
        assert row is not None
        return bytes(row[0])

    async def trace(self, caller: Caller, trace_id: str) -> list[OperationSpan]:
        """What spans of a trace told, by their start."""
        async with self._pool.transaction(caller, READING) as connection:
            cursor = connection.cursor(row_factory=class_row(OperationSpan))
            await cursor.execute(
                f"SELECT {LINK_COLUMNS} FROM oplog.links WHERE trace_id = %s"  # noqa: S608  columns of ours
                " ORDER BY started_at, position",
                (trace_id,),
            )
            return await cursor.fetchall()

    async def quarantined(self, caller: Caller, before: int | None, size: int) -> list[TupleRow]:
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT id, received_at, trace_id, span_id, problem FROM oplog.quarantine"
                " WHERE %(before)s::bigint IS NULL OR id < %(before)s"
                " ORDER BY id DESC LIMIT %(size)s",
                {"before": before, "size": size},
            )
            return await found.fetchall()

    async def unsettled(self, age: timedelta, after: Row | None, size: int) -> list[Row]:
        """Operations in domains whose intent has waited for its outcome longer than *age*.

        The oldest first, from the one after *after* on.
        """
        conditions: list[tuple[str, Sequence[Any]]] = [
            ("outcome = 'unknown'", ()),
            ("domain <> ''", ()),
            ("action NOT LIKE 'admin.%%'", ()),
            (
                "created_at < coalesce(%s::timestamptz, now()) - %s",
                (self._now() if self._now else None, age),
            ),
        ]
        if after is not None:
            conditions.append(("(created_at, id) > (%s, %s)", (after.created_at, after.id)))
        return await self._rows(ITSELF, conditions, "created_at, id", size)

    async def open(self, late_after: timedelta) -> Open:
        """What is open now; outcomes are late that come longer after their intent than that."""
        async with self._pool.transaction(ITSELF, READING) as connection:
            found = await connection.execute(
                "SELECT count(*), coalesce(extract(epoch FROM min(at) - min(created_at)), 0),"
                " (SELECT count(*) FROM (SELECT FROM oplog.quarantine LIMIT %s) AS counted)"
                " FROM oplog.operation_log,"
                " (SELECT coalesce(%s::timestamptz, now()) AS at) AS moment"
                " WHERE outcome = 'unknown' AND created_at < at - %s",
                (MOST_COUNTED, self._now() if self._now else None, late_after),
            )
            row = await found.fetchone()
        assert row is not None
        return Open(int(row[0]), float(row[1]), int(row[2]))

    @asynccontextmanager
    async def alone(self, work: str) -> AsyncIterator[bool]:
        """Whether nobody else is at *work*, and then nobody is for as long as the block."""
        async with self._pool.transaction(ITSELF, VERIFYING) as connection:
            found = await connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (f"oplog {work}",)
            )
            row = await found.fetchone()
            assert row is not None
            yield bool(row[0])

    async def first_position(self, caller: Caller, start: datetime) -> int | None:
        """The position of the first link recorded from *start* on."""
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT min(position) FROM oplog.links WHERE recorded_at >= %s", (start,)
            )
            row = await found.fetchone()
        return row[0] if row else None

    async def links(self, caller: Caller, first: int, last: int) -> list[Link]:
        """The links from *first* to *last*, in order."""
        link = ", ".join(f"l.{field.name}" for field in fields(OperationSpan))
        row = ", ".join(f"o.{field.name}" for field in fields(Row))
        width = len(fields(OperationSpan))
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                f"SELECT {link}, l.position, l.recorded_at, l.hash, {row} FROM oplog.links l"  # noqa: S608  columns of ours
                " LEFT JOIN oplog.operation_log o ON o.id = l.operation_id"
                " WHERE l.position BETWEEN %s AND %s ORDER BY l.position, l.recorded_at",
                (first, last),
            )
            return [
                Link(
                    OperationSpan(*each[:width]),
                    each[width],
                    each[width + 1],
                    bytes(each[width + 2]),
                    Row(*each[width + 3 :]) if each[width + 3] is not None else None,
                )
                for each in await found.fetchall()
            ]

    async def hashes(self, caller: Caller, positions: Sequence[int]) -> dict[int, bytes]:
        """The hashes of those links that are there."""
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT position, hash FROM oplog.links WHERE position = ANY (%s)",
                (list(positions),),
            )
            return {int(row[0]): bytes(row[1]) for row in await found.fetchall()}

    async def head(self, caller: Caller) -> Head:
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT position, hash, dropped_position, dropped_hash, coalesce("
                " (SELECT jws FROM oplog.seals ORDER BY slot DESC LIMIT 1), '') FROM oplog.head"
            )
            row = await found.fetchone()
        assert row is not None
        return Head(int(row[0]), bytes(row[1]), int(row[2]), bytes(row[3]), row[4])

    async def seals(
        self, caller: Caller, after: int, last: int | None, size: int
    ) -> list[tuple[int, str, datetime]]:
        """The seals after a position up to another, by position, at most *size*; and their time."""
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT position, jws, sealed_at FROM oplog.seals WHERE position > %s"
                " AND (%s::bigint IS NULL OR position <= %s) ORDER BY position, slot LIMIT %s",
                (after, last, last, size),
            )
            return [(int(row[0]), row[1], row[2]) for row in await found.fetchall()]

    async def seal_up_to(self, caller: Caller, position: int) -> str | None:
        """The newest seal of links up to *position* alone."""
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT jws FROM oplog.seals WHERE position <= %s"
                " ORDER BY position DESC, slot DESC LIMIT 1",
                (position,),
            )
            row = await found.fetchone()
        return row[0] if row else None

    async def stranger(self, caller: Caller, first: int, last: int) -> tuple[int, UUID] | None:
        """The first row from *first* to *last* that no link accounts for."""
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "SELECT o.position, o.id FROM oplog.operation_log o LEFT JOIN oplog.links l"
                " ON l.position = o.position AND l.operation_id = o.id"
                " WHERE o.position BETWEEN %s AND %s AND l.position IS NULL"
                " ORDER BY o.position LIMIT 1",
                (first, last),
            )
            row = await found.fetchone()
        return (int(row[0]), row[1]) if row else None

    async def outsider(self, caller: Caller) -> tuple[int, UUID] | None:
        """The first link past the chain's end, or row past it or of what was dropped."""
        async with self._pool.transaction(caller, READING) as connection:
            found = await connection.execute(
                "WITH head AS (SELECT * FROM oplog.head)"
                " SELECT l.position, l.operation_id FROM oplog.links l"
                " WHERE l.position > (SELECT position FROM head)"
                " UNION ALL SELECT o.position, o.id FROM oplog.operation_log o"
                " WHERE o.position > (SELECT position FROM head)"
                " UNION ALL SELECT o.position, o.id FROM oplog.operation_log o"
                " WHERE o.position <= (SELECT dropped_position FROM head)"
                " ORDER BY position LIMIT 1"
            )
            row = await found.fetchone()
        return (int(row[0]), row[1]) if row else None


async def quarantine(connection: Connection, malformed: Sequence[Malformed]) -> None:
    if malformed:
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO oplog.quarantine (received_at, trace_id, span_id, problem, span)"
                " VALUES (clock_timestamp(), %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [astuple(each) for each in malformed],
            )


def sealed(seal: Seal, sealing: Sealing) -> dict[str, Any]:
    """What is written of *seal*; without a signature where there is no key to sign with."""
    return {**asdict(seal), "jws": sealing.write(seal) if sealing.signs else None}


async def append_links(
    connection: Connection, sealing: Sealing, spans: Sequence[OperationSpan], now: datetime | None
) -> list[Malformed]:
    """Chain what is new of *spans*, bring its rows up to date, and return what contradicts.

    Everybody waits for who has the head, so all that is read goes out together, and all that is
    written. What is read after the lock was had is what the one before has committed.
    """
    async with connection.pipeline():
        found = await connection.execute(LOCK_HEAD, (now,))
        stored = await find_spans(connection, spans)
        stored_rows = await find_rows(connection, {span.operation_id for span in spans})
    head = await found.fetchone()
    assert head is not None
    position, previous, at = int(head[0]), bytes(head[1]), head[2]
    fresh, refused = unseen(spans, await stored.fetchall())
    rows = {row[0]: (Row(*row[:-1]), row[-1]) for row in await stored_rows.fetchall()}
    known = set(rows)
    links: list[tuple[Any, ...]] = []
    changed: set[UUID] = set()
    for span in fresh:
        row, _ = rows.get(span.operation_id, (None, at))
        if contradicts(row, span):
            refused.append(contradiction(span))
            continue
        if span.kind == "settled" and row is not None and row.outcome != "unknown":
            continue  # somebody else has settled it, or its outcome has come
        position += 1
        previous = link_hash(previous, position, at, span)
        links.append((*values_of(span), position, at, previous))
        if (after := projected(row, span, position)) is not None:
            rows[after.id] = (after, rows.get(after.id, (None, at))[1])
            changed.add(after.id)
    if links:
        seal = sealed(Seal(position, previous, head[3], head[4], at), sealing)
        async with connection.pipeline():
            await write(connection, links, [(*rows[id_], id_ in known) for id_ in changed])
            await connection.execute(MOVE_AND_SEAL if sealing.signs else MOVE, seal)
    return refused


async def write(
    connection: Connection,
    links: Sequence[tuple[Any, ...]],
    rows: Sequence[tuple[Row, datetime, bool]],
) -> None:
    """The links, and the rows that they make or change, each where it was first logged."""
    async with connection.cursor() as cursor:
        await cursor.executemany(INSERT_LINK, links)
        await cursor.executemany(
            INSERT_ROW, [(*values_of(row), at) for row, at, is_known in rows if not is_known]
        )
        await cursor.executemany(
            UPDATE_ROW,
            [
                (*(getattr(row, name) for name in CHANGING), row.id, at)
                for row, at, is_known in rows
                if is_known
            ],
        )


def contradiction(span: OperationSpan) -> Malformed:
    content = json.dumps(asdict(span), default=str).encode()
    problem = "it contradicts what the log has of the same operation id"
    return Malformed(span.trace_id, span.span_id, problem, content)


async def find_spans(
    connection: Connection, spans: Sequence[OperationSpan]
) -> AsyncCursor[OperationSpan]:
    """Those of *spans* that the log has, as it has them."""
    cursor = connection.cursor(row_factory=class_row(OperationSpan))
    return await cursor.execute(
        f"SELECT {LINK_COLUMNS} FROM oplog.links"  # noqa: S608  columns of ours
        " JOIN unnest(%s::text[], %s::text[]) AS sent (trace_id, span_id)"
        " USING (trace_id, span_id)",
        ([span.trace_id for span in spans], [span.span_id for span in spans]),
    )


async def find_rows(connection: Connection, ids: set[UUID]) -> AsyncCursor[TupleRow]:
    """The rows of operations, each with when it was first logged."""
    return await connection.execute(
        f"SELECT {ROW_COLUMNS}, logged_at FROM oplog.operation_log WHERE id = ANY (%s)",  # noqa: S608  columns of ours
        (list(ids),),
    )


def unseen(
    spans: Sequence[OperationSpan], stored: Sequence[OperationSpan]
) -> tuple[list[OperationSpan], list[Malformed]]:
    """The spans that the log does not have, each once, and those that come as one that it has."""
    known = {(span.trace_id, span.span_id): span for span in stored}
    fresh, refused = [], []
    for span in spans:
        key = (span.trace_id, span.span_id)
        if key not in known:
            known[key] = span
            fresh.append(span)
        elif known[key] != span:
            refused.append(contradiction(span))
    return fresh, refused


def values_of(record: OperationSpan | Row) -> tuple[Any, ...]:
    return tuple(getattr(record, field.name) for field in fields(record))
