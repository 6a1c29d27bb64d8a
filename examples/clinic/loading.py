"""Loads the two public data sets as they were published, dirt included."""

import csv
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from services.runtime.identity import Caller
from services.runtime.postgres import Pool

NAMESPACE = uuid.UUID("8f6b1a52-3f0d-4a0e-9f0b-5f9c6a1e2d34")
APPOINTMENT_COLUMNS = (
    "PatientId",
    "AppointmentID",
    "Gender",
    "ScheduledDay",
    "AppointmentDay",
    "Age",
    "Neighbourhood",
    "SMS_received",
    "No-show",
)
INVOICE_COLUMNS = (
    "customerID",
    "invoiceNumber",
    "InvoiceDate",
    "DueDate",
    "InvoiceAmount",
    "Disputed",
    "SettledDate",
    "PaperlessBill",
)
GENDERS = {"F": "female", "M": "male"}
ANSWERS = {"Yes": True, "No": False}
OLDEST = 120


class FileUnusable(Exception):
    """The file is not the data set that it should be; the message says why."""


@dataclass(frozen=True)
class Rejected:
    """A row that was not loaded, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What became of a file's rows. `known` were there already."""

    rows: int
    new: int
    known: int
    rejected: list[Rejected]


@dataclass(frozen=True)
class Client:
    id: uuid.UUID
    name: str
    gender: str | None
    neighbourhood: str | None
    source_id: str


@dataclass(frozen=True)
class Appointment:
    id: uuid.UUID
    client: Client
    starts_at: datetime
    status: str
    sms_received: bool
    source_id: str


@dataclass(frozen=True)
class Invoice:
    id: uuid.UUID
    client: Client
    number: str
    amount: Decimal
    issued_date: date
    due_date: date
    settled_date: date | None
    disputed: bool
    channel: str


def rows_in(file: TextIO, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows with their line numbers. Raises FileUnusable for another file's header."""
    reader = csv.DictReader(file)
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise FileUnusable(f"the header lacks {', '.join(missing)}")
    for row in reader:
        yield reader.line_num, {name: (value or "").strip() for name, value in row.items() if name}


def appointment_from(row: dict[str, str], clinic_id: str, zone: ZoneInfo) -> Appointment:
    """Raises ValueError with what is wrong with *row*."""
    patient = whole_number(row["PatientId"], "PatientId")
    number = whole_number(row["AppointmentID"], "AppointmentID")
    age = int(row["Age"]) if row["Age"].lstrip("-").isdigit() else -1
    if not 0 <= age <= OLDEST:
        raise ValueError(f"Age is {row['Age']}")
    scheduled = stamp(row["ScheduledDay"], "ScheduledDay").date()
    day = stamp(row["AppointmentDay"], "AppointmentDay").date()
    if scheduled > day:
        raise ValueError("it was booked after its day")
    missed = one_of(row["No-show"], ANSWERS, "No-show")
    client = Client(
        uuid.uuid5(NAMESPACE, f"{clinic_id}/patient/{patient}"),
        f"Patient {patient}",
        one_of(row["Gender"], GENDERS, "Gender"),
        row["Neighbourhood"] or None,
        f"patient/{patient}",
    )
    return Appointment(
        uuid.uuid5(NAMESPACE, f"{clinic_id}/appointment/{number}"),
        client,
        datetime(day.year, day.month, day.day, 12, tzinfo=zone),
        "missed" if missed else "kept",
        one_of(row["SMS_received"], {"1": True, "0": False}, "SMS_received"),
        f"appointment/{number}",
    )


def invoice_from(row: dict[str, str], clinic_id: str) -> Invoice:
    """Raises ValueError with what is wrong with *row*."""
    customer = row["customerID"]
    if not customer:
        raise ValueError("customerID is empty")
    number = row["invoiceNumber"]
    if not number.isalnum():
        raise ValueError(f"invoiceNumber is {number or 'empty'}")
    issued = american_day(row["InvoiceDate"], "InvoiceDate")
    due = american_day(row["DueDate"], "DueDate")
    if due < issued:
        raise ValueError("DueDate is before InvoiceDate")
    settled = american_day(row["SettledDate"], "SettledDate") if row["SettledDate"] else None
    try:
        amount = Decimal(row["InvoiceAmount"])
    except InvalidOperation:
        raise ValueError(f"InvoiceAmount is {row['InvoiceAmount'] or 'empty'}") from None
    if not 0 <= amount < 10**10:
        raise ValueError(f"InvoiceAmount is {amount}")
    client = Client(
        uuid.uuid5(NAMESPACE, f"{clinic_id}/customer/{customer}"),
        f"Customer {customer}",
        None,
        None,
        f"customer/{customer}",
    )
    return Invoice(
        uuid.uuid5(NAMESPACE, f"{clinic_id}/invoice/{number}"),
        client,
        number,
        amount,
        issued,
        due,
        settled,
        one_of(row["Disputed"], ANSWERS, "Disputed"),
        one_of(
            row["PaperlessBill"], {"Paper": "paper", "Electronic": "electronic"}, "PaperlessBill"
        ),
    )


def whole_number(text: str, field: str) -> int:
    """A whole number; identifiers in scientific notation have lost digits, and so are not one."""
    if not text.isdigit():
        raise ValueError(f"{field} is {text or 'empty'}")
    return int(text)


def stamp(text: str, field: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{field} is {text or 'empty'}") from None


def american_day(text: str, field: str) -> date:
    try:
        return datetime.strptime(text, "%m/%d/%Y").replace(tzinfo=UTC).date()
    except ValueError:
        raise ValueError(f"{field} is {text or 'empty'}") from None


def one_of(text: str, known: dict[str, Any], field: str) -> Any:
    if text not in known:
        raise ValueError(f"{field} is {text or 'empty'}")
    return known[text]


def read_file(
    path: Path, columns: Iterable[str], understand: Callable[[dict[str, str]], Any]
) -> tuple[list[Any], list[Rejected]]:
    """What a file holds, each once, and every row that cannot be used. Raises FileUnusable."""
    good: dict[uuid.UUID, Any] = {}
    rejected: list[Rejected] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in rows_in(file, columns):
                try:
                    record = understand(row)
                except ValueError as error:
                    rejected.append(Rejected(line, str(error)))
                    continue
                if record.id in good:
                    rejected.append(Rejected(line, "it is there twice"))
                good.setdefault(record.id, record)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileUnusable(str(error)) from None
    return list(good.values()), rejected


async def load_appointments(pool: Pool, path: Path, caller: Caller, zone: ZoneInfo) -> Loaded:
    """Load the no-show data set. Raises FileUnusable, StoreUnavailable."""
    good, rejected = read_file(
        path, APPOINTMENT_COLUMNS, lambda row: appointment_from(row, caller.clinic_id, zone)
    )
    columns = ("id", "clinic_id", "client_id", "starts_at", "status", "sms_received", "source_id")
    rows = [
        (
            each.id,
            uuid.UUID(caller.clinic_id),
            each.client.id,
            each.starts_at,
            each.status,
            each.sms_received,
            each.source_id,
        )
        for each in good
    ]
    new = await copy_in(pool, caller, [each.client for each in good], "appointments", columns, rows)
    return Loaded(len(good) + len(rejected), new, len(good) - new, rejected)


async def load_invoices(pool: Pool, path: Path, caller: Caller) -> Loaded:
    """Load the receivables data set. Raises FileUnusable, StoreUnavailable."""
    good, rejected = read_file(
        path, INVOICE_COLUMNS, lambda row: invoice_from(row, caller.clinic_id)
    )
    columns = (
        *("id", "clinic_id", "client_id", "number", "amount", "issued_date", "due_date"),
        *("settled_date", "status", "disputed", "channel"),
    )
    rows = [
        (
            each.id,
            uuid.UUID(caller.clinic_id),
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
        for each in good
    ]
    new = await copy_in(pool, caller, [each.client for each in good], "invoices", columns, rows)
    return Loaded(len(good) + len(rejected), new, len(good) - new, rejected)


async def copy_in(
    pool: Pool,
    caller: Caller,
    clients: Iterable[Client],
    table: str,
    columns: tuple[str, ...],
    rows: list[tuple[Any, ...]],
) -> int:
    """Copy clients and rows in, in one transaction; how many rows are new."""
    people = {each.id: each for each in clients}
    client_columns = ("id", "clinic_id", "name", "gender", "neighbourhood", "source_id")
    client_rows = [
        (
            each.id,
            uuid.UUID(caller.clinic_id),
            each.name,
            each.gender,
            each.neighbourhood,
            each.source_id,
        )
        for each in people.values()
    ]
    async with pool.transaction(caller) as connection:
        await copied(connection, "clients", client_columns, client_rows)
        return await copied(connection, table, columns, rows)


async def copied(
    connection: AsyncConnection[TupleRow],
    table: str,
    columns: tuple[str, ...],
    rows: list[tuple[Any, ...]],
) -> int:
    """COPY does not skip what is there, so rows go through a table of the transaction's own."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    staged, stored = sql.Identifier(f"staged_{table}"), sql.Identifier("clinic", table)
    await connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WHERE false").format(
            staged, names, stored
        )
    )
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(staged, names)
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)
    done = await connection.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT DO NOTHING").format(
            stored, names, names, staged
        )
    )
    return done.rowcount
