"""What the log stores: links appended, rows projected, quarantine filled, in one transaction."""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, astuple, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

from services.oplog.chain import link_hash
from services.oplog.projection import Malformed, OperationSpan, Row, contradicts, projected
from services.runtime.identity import Caller
from services.runtime.postgres import Pool

SCHEMA = "oplog"
VERSION = "20261123000200"
CHANNEL = "oplog_position"

# As whom the log itself writes.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

ROW_COLUMNS = ", ".join(field.name for field in fields(Row))
LINK_COLUMNS = ", ".join(field.name for field in fields(OperationSpan))
ROW_VALUES = ", ".join(["%s"] * len(fields(Row)))
LINK_VALUES = ", ".join(["%s"] * (len(fields(OperationSpan)) + 3))

INSERT_LINK = (
    f"INSERT INTO oplog.links ({LINK_COLUMNS}, position, recorded_at, hash)"  # noqa: S608  columns of ours
    f" VALUES ({LINK_VALUES})"
)
UPSERT_ROW = (
    f"INSERT INTO oplog.operation_log ({ROW_COLUMNS}) VALUES ({ROW_VALUES})"  # noqa: S608  columns of ours
    " ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, reason = excluded.reason,"
    " latency_ms = excluded.latency_ms, model_used = excluded.model_used,"
    " failover = excluded.failover, created_at = excluded.created_at,"
    " trace_id = excluded.trace_id, span_id = excluded.span_id,"
    " settled_later = excluded.settled_later, position = excluded.position"
)


class Store:
    """The log's tables."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def append(
        self, spans: Sequence[OperationSpan], malformed: Sequence[Malformed], now: datetime
    ) -> None:
        """Commit *spans*, each once whatever is sent again, and *malformed* into the quarantine.

        Raises StoreUnavailable; then nothing of it is kept, and all of it may be sent again.
        """
        async with self._pool.transaction(ITSELF) as connection:
            await quarantine(connection, malformed, now)
            if spans:
                await append_links(connection, spans, now)

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
        async with self._pool.transaction(caller) as connection:
            cursor = connection.cursor(row_factory=class_row(Row))
            await cursor.execute(
                f"SELECT {ROW_COLUMNS} FROM oplog.operation_log"  # noqa: S608  conditions of ours
                f" WHERE {where} ORDER BY {order} LIMIT %s",
                (*values, size),
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

    async def trace(self, caller: Caller, trace_id: str) -> list[TupleRow]:
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT span_id, parent_span_id, kind, service, started_at, ended_at, outcome"
                " FROM oplog.links WHERE trace_id = %s AND kind <> 'settled'"
                " ORDER BY started_at, position",
                (trace_id,),
            )
            return await found.fetchall()

    async def quarantined(self, caller: Caller, before: int | None, size: int) -> list[TupleRow]:
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT id, received_at, trace_id, span_id, problem FROM oplog.quarantine"
                " WHERE %(before)s::bigint IS NULL OR id < %(before)s"
                " ORDER BY id DESC LIMIT %(size)s",
                {"before": before, "size": size},
            )
            return await found.fetchall()

    async def unsettled(self, age: timedelta, size: int) -> list[Row]:
        """Operations in domains whose intent has waited for its outcome longer than *age*."""
        conditions = [
            ("outcome = 'unknown'", ()),
            ("domain <> ''", ()),
            ("action NOT LIKE 'admin.%%'", ()),
            ("created_at < now() - %s", (age,)),
        ]
        return await self._rows(ITSELF, conditions, "created_at", size)

    async def links(
        self, caller: Caller, start: datetime | None, end: datetime | None
    ) -> AsyncGenerator[tuple[OperationSpan, int, datetime, bytes, Row | None], None]:
        """The links recorded in a time, in order, each with the row of its operation."""
        link = ", ".join(f"l.{field.name}" for field in fields(OperationSpan))
        row = ", ".join(f"o.{field.name}" for field in fields(Row))
        width = len(fields(OperationSpan))
        async with (
            self._pool.transaction(caller) as connection,
            connection.cursor("links") as cursor,
        ):
            await cursor.execute(
                f"SELECT {link}, l.position, l.recorded_at, l.hash, {row} FROM oplog.links l"  # noqa: S608  columns of ours
                " LEFT JOIN oplog.operation_log o ON o.id = l.operation_id"
                " WHERE (%(start)s::timestamptz IS NULL OR l.recorded_at >= %(start)s)"
                " AND (%(end)s::timestamptz IS NULL OR l.recorded_at < %(end)s)"
                " ORDER BY l.position",
                {"start": start, "end": end},
            )
            async for found in cursor:
                shown = found[width + 3 :]
                yield (
                    OperationSpan(*found[:width]),
                    found[width],
                    found[width + 1],
                    bytes(found[width + 2]),
                    Row(*shown) if shown[0] is not None else None,
                )

    async def hash_before(self, caller: Caller, position: int) -> bytes:
        """The hash of the link before *position*; empty before the first."""
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT hash FROM oplog.links WHERE position = %s", (position - 1,)
            )
            row = await found.fetchone()
        return bytes(row[0]) if row else b""

    async def head(self, caller: Caller) -> tuple[int, bytes]:
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute("SELECT position, hash FROM oplog.head")
            row = await found.fetchone()
        return (int(row[0]), bytes(row[1])) if row else (0, b"")

    async def strangers(self, caller: Caller) -> list[TupleRow]:
        """Rows that no link accounts for: position and id of the first."""
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT o.position, o.id FROM oplog.operation_log o LEFT JOIN oplog.links l"
                " ON l.position = o.position AND l.operation_id = o.id"
                " WHERE l.position IS NULL ORDER BY o.position LIMIT 1"
            )
            return await found.fetchall()


async def quarantine(
    connection: AsyncConnection[TupleRow], malformed: Sequence[Malformed], now: datetime
) -> None:
    if malformed:
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO oplog.quarantine (received_at, trace_id, span_id, problem, span)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [(now, *astuple(each)) for each in malformed],
            )


async def append_links(
    connection: AsyncConnection[TupleRow], spans: Sequence[OperationSpan], now: datetime
) -> None:
    """Chain what is new of *spans*, and bring its rows up to date."""
    found = await connection.execute("SELECT position, hash FROM oplog.head FOR UPDATE")
    head = await found.fetchone()
    assert head is not None
    position, previous = int(head[0]), bytes(head[1])
    fresh = await unseen(connection, spans)
    if not fresh:
        return
    rows = await rows_of(connection, {span.operation_id for span in fresh})
    links, changed = [], {}
    for span in fresh:
        if contradicts(rows.get(span.operation_id), span):
            await quarantine(connection, [contradiction(span)], now)
            continue
        position += 1
        previous = link_hash(previous, position, now, span)
        links.append((*values_of(span), position, now, previous))
        row = projected(rows.get(span.operation_id), span, position)
        if row is not None:
            rows[row.id] = changed[row.id] = row
    async with connection.cursor() as cursor:
        await cursor.executemany(INSERT_LINK, links)
        await cursor.executemany(UPSERT_ROW, [values_of(row) for row in changed.values()])
    await connection.execute("UPDATE oplog.head SET position = %s, hash = %s", (position, previous))
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(position)))


def contradiction(span: OperationSpan) -> Malformed:
    content = json.dumps(asdict(span), default=str).encode()
    problem = "it contradicts what the log has of the same operation id"
    return Malformed(span.trace_id, span.span_id, problem, content)


async def unseen(
    connection: AsyncConnection[TupleRow], spans: Sequence[OperationSpan]
) -> list[OperationSpan]:
    """The spans that the log does not have, each once."""
    by_key = {(span.trace_id, span.span_id): span for span in spans}
    found = await connection.execute(
        "SELECT l.trace_id, l.span_id FROM oplog.links l"
        " JOIN unnest(%s::text[], %s::text[]) AS sent (trace_id, span_id)"
        " USING (trace_id, span_id)",
        ([key[0] for key in by_key], [key[1] for key in by_key]),
    )
    for seen in await found.fetchall():
        del by_key[(seen[0], seen[1])]
    return list(by_key.values())


async def rows_of(connection: AsyncConnection[TupleRow], ids: set[UUID]) -> dict[UUID, Row]:
    cursor = connection.cursor(row_factory=class_row(Row))
    await cursor.execute(
        f"SELECT {ROW_COLUMNS} FROM oplog.operation_log WHERE id = ANY (%s)",  # noqa: S608  columns of ours
        (list(ids),),
    )
    return {row.id: row for row in await cursor.fetchall()}


def values_of(record: OperationSpan | Row) -> tuple[Any, ...]:
    return tuple(getattr(record, field.name) for field in fields(record))
