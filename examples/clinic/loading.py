"""Stores what the public data sets hold: all of it in one transaction, and nothing twice."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from examples.clinic.callers import clinic_of
from examples.clinic.reading import Appointment, Client, Invoice, Readable, Rejected
from services.runtime.identity import Caller
from services.runtime.postgres import Limits, Pool

Connection = AsyncConnection[TupleRow]
Advance = Callable[[int], None]
"""Told of how many rows are sent since it was last told."""
ROWS_AT_ONCE = 500
# A whole file is one transaction; between two parts of it the file is read.
LOADING = Limits(statement=120.0, idle=60.0, transaction=3600.0)

CLIENT_COLUMNS = ("id", "clinic_id", "name", "gender", "neighbourhood", "source_id")
APPOINTMENT_COLUMNS = (
    *("id", "clinic_id", "client_id", "starts_at", "status", "sms_received", "source_id"),
)
INVOICE_COLUMNS = (
    *("id", "clinic_id", "client_id", "number", "amount", "issued_date", "due_date"),
    *("settled_date", "status", "disputed", "channel"),
)


@dataclass(frozen=True)
class Loaded:
    """What became of a file's rows. `known` were there already."""

    rows: int
    new: int
    known: int
    rejected: list[Rejected]


async def store(
    pool: Pool,
    caller: Caller,
    files: Sequence["Readable[Appointment] | Readable[Invoice]"],
    advance: Advance = lambda rows: None,
) -> list[Loaded]:
    """Store what *files* hold, in one transaction; what became of each. Raises StoreUnavailable."""
    async with pool.transaction(caller, LOADING) as connection:
        loaded = [await stored(connection, caller, each, advance) for each in files]
        # What is known of the tables is of before: a join planned by that takes hundreds of times
        # as long.
        await connection.execute("ANALYZE clinic.clients, clinic.appointments, clinic.invoices")
        return loaded


async def stored(
    connection: Connection,
    caller: Caller,
    file: "Readable[Appointment] | Readable[Invoice]",
    advance: Advance,
) -> Loaded:
    clinic_id = clinic_of(caller)
    people = {record.client.id: record.client for _, record in file.records}
    rows = [client_row(clinic_id, each) for each in people.values()]
    await copied(connection, "clients", CLIENT_COLUMNS, rows)
    gone = await deleted(connection, people)
    advance(len(file.rejected))
    usable = [record for _, record in file.records if record.client.id not in gone]
    new = 0
    for table, columns, found in (
        ("appointments", APPOINTMENT_COLUMNS, appointment_rows(clinic_id, usable)),
        ("invoices", INVOICE_COLUMNS, invoice_rows(clinic_id, usable)),
    ):
        if found:
            new += await copied(connection, table, columns, found, advance)
    of_deleted = [
        Rejected(line, "its client was deleted here")
        for line, record in file.records
        if record.client.id in gone
    ]
    advance(len(of_deleted))
    rejected = sorted([*file.rejected, *of_deleted], key=lambda each: each.line)
    return Loaded(file.rows, new, len(usable) - new, rejected)


async def deleted(connection: Connection, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those clients who were deleted: nothing may name them any more."""
    found = await connection.execute(
        "SELECT id FROM clinic.clients WHERE id = ANY (%s) AND deleted_at IS NOT NULL", (list(ids),)
    )
    return {row[0] for row in await found.fetchall()}


def client_row(clinic_id: uuid.UUID, client: Client) -> tuple[Any, ...]:
    return (
        client.id,
        clinic_id,
        client.name,
        client.gender,
        client.neighbourhood,
        client.source_id,
    )


def appointment_rows(
    clinic_id: uuid.UUID, records: Iterable[Appointment | Invoice]
) -> list[tuple[Any, ...]]:
    return [
        (
            each.id,
            clinic_id,
            each.client.id,
            each.starts_at,
            each.status,
            each.sms_received,
            each.source_id,
        )
        for each in records
        if isinstance(each, Appointment)
    ]


def invoice_rows(
    clinic_id: uuid.UUID, records: Iterable[Appointment | Invoice]
) -> list[tuple[Any, ...]]:
    return [
        (
            each.id,
            clinic_id,
            each.client.id,
            each.number,
            each.amount,
            each.issued_date,
            each.due_date,
            each.settled_date,
            "paid" if each.settled_date else "open",
            each.disputed,
            each.channel,
        )
        for each in records
        if isinstance(each, Invoice)
    ]


async def copied(
    connection: Connection,
    table: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
    advance: Advance = lambda rows: None,
) -> int:
    """How many of *rows* were new.

    COPY does not skip what is there, so rows go through a table of the transaction's own.
    """
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    staged, kept = sql.Identifier(f"staged_{table}"), sql.Identifier("clinic", table)
    await connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DROP"
            " AS SELECT {} FROM {} WHERE false"
        ).format(staged, names, kept)
    )
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(staged, names)
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            for row in part:
                await copy.write_row(row)
            advance(len(part))
    done = await connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
            kept, names, names, staged
        )
    )
    await connection.execute(sql.SQL("TRUNCATE {}").format(staged))
    return done.rowcount
