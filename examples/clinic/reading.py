"""Reads the two public data sets as they were published, dirt included. Knows no database."""

import csv
import io
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from zoneinfo import ZoneInfo

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
FLAGS = {"1": True, "0": False}
CHANNELS = {"Paper": "paper", "Electronic": "electronic"}
OLDEST = 120
LONGEST_SHOWN = 40
LONGEST_TEXT = 150
DIGITS = re.compile(r"[0-9]{1,20}")
SCIENTIFIC = re.compile(r"[0-9]+([.,][0-9]+)?[eE][+-]?[0-9]+")
NUMBER = re.compile(r"[0-9A-Za-z-]{1,40}")


class FileUnusable(Exception):
    """The file is not the data set that it should be; the message says why."""


@dataclass(frozen=True)
class Rejected:
    """A row that was not loaded, and why."""

    line: int
    reason: str


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


class Identified(Protocol):
    @property
    def id(self) -> uuid.UUID: ...


R = TypeVar("R", bound=Identified)


@dataclass(frozen=True)
class Readable(Generic[R]):
    """What a file holds: each record once with its line, and every row that cannot be used."""

    records: list[tuple[int, R]]
    rejected: list[Rejected]

    @property
    def rows(self) -> int:
        return len(self.records) + len(self.rejected)


def read_appointments(path: Path, clinic_id: str, zone: ZoneInfo) -> Readable[Appointment]:
    """The no-show data set. Raises FileUnusable."""
    return read_file(path, APPOINTMENT_COLUMNS, lambda row: appointment_from(row, clinic_id, zone))


def read_invoices(path: Path, clinic_id: str) -> Readable[Invoice]:
    """The receivables data set. Raises FileUnusable."""
    return read_file(path, INVOICE_COLUMNS, lambda row: invoice_from(row, clinic_id))


def read_file(
    path: Path, columns: Sequence[str], understand: Callable[[dict[str, str]], R]
) -> Readable[R]:
    """Read a whole file before anything is made of it. Raises FileUnusable."""
    good: dict[uuid.UUID, tuple[int, R]] = {}
    rejected: list[Rejected] = []
    for line, row in rows_in(text_in(path), columns):
        try:
            record = understand(row_from(row))
        except ValueError as error:
            rejected.append(Rejected(line, str(error)))
            continue
        if record.id in good:
            rejected.append(Rejected(line, f"it is there already, in line {good[record.id][0]}"))
        else:
            good[record.id] = line, record
    return Readable(list(good.values()), rejected)


def text_in(path: Path) -> str:
    """Raises FileUnusable for what is no text, or in another encoding."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileUnusable(f"it cannot be read: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileUnusable(f"line {line} is not in UTF-8: save the file in UTF-8") from None
    if not text.strip():
        raise FileUnusable("it is empty")
    if "\0" in text:
        raise FileUnusable("it is not a text file")
    return text


Row = tuple[list[str], list[str]]
"""The names of the columns, and a row's values."""


def rows_in(text: str, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The rows, each with the line on which it begins. Raises FileUnusable."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line, rows = 1, list[tuple[int, list[str]]]()
    try:
        names = [name.strip() for name in next(reader)]
        line = reader.line_num + 1
        for values in reader:
            rows.append((line, values))
            line = reader.line_num + 1
    except csv.Error as error:
        raise FileUnusable(f"line {line} is not CSV: {error}") from None
    missing = [column for column in columns if column not in names]
    if missing:
        raise FileUnusable(f"its header lacks {', '.join(missing)}")
    if rows and len(rows[-1][1]) < len(names) and not text.endswith(("\n", "\r")):
        raise FileUnusable(f"it is cut off in the middle of line {rows[-1][0]}: fetch it again")
    for line, values in rows:
        if values:
            yield line, (names, values)


def row_from(row: Row) -> dict[str, str]:
    """Raises ValueError for a row of another width than the header."""
    names, values = row
    if len(values) != len(names):
        raise ValueError(f"it has {len(values)} columns, and the header has {len(names)}")
    return {name: value.strip() for name, value in zip(names, values, strict=True)}


def appointment_from(row: dict[str, str], clinic_id: str, zone: ZoneInfo) -> Appointment:
    """Raises ValueError with what is wrong with *row*."""
    patient = whole_number(row, "PatientId")
    number = whole_number(row, "AppointmentID")
    if not DIGITS.fullmatch(row["Age"]) or int(row["Age"]) > OLDEST:
        raise wrong(row, "Age")
    scheduled, day = stamp(row, "ScheduledDay").date(), stamp(row, "AppointmentDay").date()
    if scheduled > day:
        raise ValueError(f"it was booked on {scheduled}, after its day, {day}")
    missed = one_of(row, "No-show", ANSWERS)
    client = Client(
        uuid.uuid5(NAMESPACE, f"{clinic_id}/patient/{patient}"),
        f"Patient {patient}",
        one_of(row, "Gender", GENDERS),
        short_text(row, "Neighbourhood") if row["Neighbourhood"] else None,
        f"patient/{patient}",
    )
    return Appointment(
        uuid.uuid5(NAMESPACE, f"{clinic_id}/appointment/{number}"),
        client,
        # The file has no hour: noon is on this day in every zone's clock.
        datetime(day.year, day.month, day.day, 12, tzinfo=zone),
        "missed" if missed else "kept",
        one_of(row, "SMS_received", FLAGS),
        f"appointment/{number}",
    )


def invoice_from(row: dict[str, str], clinic_id: str) -> Invoice:
    """Raises ValueError with what is wrong with *row*."""
    customer = short_text(row, "customerID")
    number = row["invoiceNumber"]
    if not NUMBER.fullmatch(number):
        raise wrong(row, "invoiceNumber")
    issued, due = american_day(row, "InvoiceDate"), american_day(row, "DueDate")
    if due < issued:
        raise ValueError("DueDate is before InvoiceDate")
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
        money(row, "InvoiceAmount"),
        issued,
        due,
        american_day(row, "SettledDate") if row["SettledDate"] else None,
        one_of(row, "Disputed", ANSWERS),
        one_of(row, "PaperlessBill", CHANNELS),
    )


def wrong(row: dict[str, str], field: str, why: str = "") -> ValueError:
    """What is told of a value: as it stands, unless it is long or would upset a terminal."""
    value = row[field]
    shown = value if value.isprintable() else ascii(value)
    if len(shown) > LONGEST_SHOWN:
        shown = f"{shown[:LONGEST_SHOWN]}…"
    return ValueError(f"{field} is {shown or 'empty'}{why}")


def whole_number(row: dict[str, str], field: str) -> int:
    if SCIENTIFIC.fullmatch(row[field]):
        raise wrong(row, field, ": in scientific notation it has lost digits")
    if not DIGITS.fullmatch(row[field]):
        raise wrong(row, field)
    return int(row[field])


def short_text(row: dict[str, str], field: str) -> str:
    text = row[field]
    if not 0 < len(text) <= LONGEST_TEXT or not text.isprintable():
        raise wrong(row, field)
    return text


def money(row: dict[str, str], field: str) -> Decimal:
    try:
        amount = Decimal(row[field])
        kept = amount.quantize(Decimal("0.01"))
        sound = 0 <= amount < 10**10 and kept == amount
    except InvalidOperation:  # NaN is a Decimal too, and compares with nothing
        sound = False
    if not sound:
        raise wrong(row, field)
    return kept


def stamp(row: dict[str, str], field: str) -> datetime:
    try:
        return datetime.fromisoformat(row[field])
    except ValueError:
        raise wrong(row, field) from None


def american_day(row: dict[str, str], field: str) -> date:
    try:
        return datetime.strptime(row[field], "%m/%d/%Y").replace(tzinfo=UTC).date()
    except ValueError:
        raise wrong(row, field) from None


def one_of(row: dict[str, str], field: str, known: dict[str, Any]) -> Any:
    if row[field] not in known:
        raise wrong(row, field)
    return known[row[field]]
