"""`gatehouse-clinic`, from the command line to the tables: what it loads and says (DOM-2)."""

import asyncio
import csv
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from examples.clinic import cli

ROOT = Path(__file__).parents[3]
APPOINTMENTS = "noshow_sample_5k.csv"
INVOICES = "WA_Fn-UseC_-Accounts-Receivable.csv"
APPOINTMENT_HEADER = (
    "PatientId,AppointmentID,Gender,ScheduledDay,AppointmentDay,Age,Neighbourhood,Scholarship,"
    "Hipertension,Diabetes,Alcoholism,Handcap,SMS_received,No-show"
)
INVOICE_HEADER = (
    "countryCode,customerID,PaperlessDate,invoiceNumber,InvoiceDate,DueDate,InvoiceAmount,"
    "Disputed,SettledDate,PaperlessBill,DaysToSettle,DaysLate"
)
TABLES = ("clients", "appointments", "invoices")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Command:
    """The command line, for one clinic of a database."""

    def __init__(self, database) -> None:
        self.clinic = str(uuid.uuid4())
        self.admin_url = database.admin_url
        self.url = database.url_for("clinic")

    async def load(self, *, url: str | None = None, **files: Path | str) -> Ended:
        given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
        return await self.run("load", "--clinic", self.clinic, *given, url=url)

    async def run(self, *words: str, url: str | None = None) -> Ended:
        """Run it within this process."""
        environment = {cli.VARIABLE: self.url if url is None else url}
        done = await asyncio.to_thread(CliRunner().invoke, cli.app, words, env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)

    async def load_as_process(self, **files: Path) -> Ended:
        given = [word for name, path in files.items() for word in (f"--{name}", str(path))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from examples.clinic.cli import main; main()", "load"),
            *("--clinic", self.clinic, *given),
            cwd=ROOT,
            env={**os.environ, cli.VARIABLE: self.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Ended(process.returncode or 0, out.decode(), err.decode())

    async def counts(self) -> dict[str, int]:
        """How many rows of each table the clinic has."""
        async with await psycopg.AsyncConnection.connect(self.admin_url) as connection:
            found = {}
            for table in TABLES:
                cursor = await connection.execute(
                    f"SELECT count(*) FROM clinic.{table} WHERE clinic_id = %s", (self.clinic,)
                )
                row = await cursor.fetchone()
                assert row is not None
                found[table] = row[0]
            return found

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(self.admin_url) as connection:
            return await (await connection.execute(statement, (self.clinic,))).fetchall()


@pytest.fixture
def command(database) -> Command:
    return Command(database)


def appointment(**fields: object) -> str:
    row = {
        "PatientId": "29872499824296",
        "AppointmentID": "5642903",
        "Gender": "F",
        "ScheduledDay": "2016-04-29T18:38:08Z",
        "AppointmentDay": "2016-04-29T00:00:00Z",
        "Age": "62",
        "Neighbourhood": "JARDIM DA PENHA",
        **dict.fromkeys(("Scholarship", "Hipertension", "Diabetes", "Alcoholism", "Handcap"), "0"),
        "SMS_received": "0",
        "No-show": "No",
        **fields,
    }
    return ",".join(map(str, row.values()))


def invoice(**fields: object) -> str:
    row = {
        "countryCode": "391",
        "customerID": "0379-NEVHP",
        "PaperlessDate": "4/6/2013",
        "invoiceNumber": "0000611365",
        "InvoiceDate": "1/2/2013",
        "DueDate": "2/1/2013",
        "InvoiceAmount": "55.94",
        "Disputed": "No",
        "SettledDate": "1/15/2013",
        "PaperlessBill": "Paper",
        "DaysToSettle": "13",
        "DaysLate": "0",
        **fields,
    }
    return ",".join(map(str, row.values()))


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def published(test_data: Path, name: str) -> Path:
    path = test_data / "clinic" / name
    if not path.is_file():
        pytest.skip(f"no {name} in the test data")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# As published


async def test_the_published_files_are_loaded_and_each_rejected_row_is_named(
    command: Command, test_data: Path
) -> None:
    """DOM-2: as a process; every row of both files is either there or told by its line."""
    appointments = published(test_data, APPOINTMENTS)
    invoices = published(test_data, INVOICES)
    ended = await command.load_as_process(appointments=appointments, invoices=invoices)
    out, err = ended.out, ended.err
    assert ended.code == 0, err

    rows, bills = rows_of(appointments), rows_of(invoices)
    late = {
        line: f"it was booked on {row['ScheduledDay'][:10]}, after its day,"
        f" {row['AppointmentDay'][:10]}"
        for line, row in enumerate(rows, start=2)
        if row["ScheduledDay"][:10] > row["AppointmentDay"][:10]
    }
    assert late
    others = {
        line
        for line, row in enumerate(rows, start=2)
        if not row["PatientId"].isdecimal() or not 0 <= int(row["Age"]) <= 120
    }
    told = dict(each.split(": ", 1) for each in out.splitlines())
    assert {int(place.rsplit(":", 1)[1]) for place in told} == set(late) | others
    for line, reason in late.items():
        if line not in others:
            assert told[f"{APPOINTMENTS}:{line}"] == reason
    usable = len(rows) - len(told)
    assert (
        f"{APPOINTMENTS}: {len(rows)} rows, {usable} new, 0 there already, {len(told)} rejected"
    ) in err
    assert f"{INVOICES}: {len(bills)} rows, {len(bills)} new, 0 there already, 0 rejected" in err

    good = [row for line, row in enumerate(rows, start=2) if line not in set(late) | others]
    people = {row["PatientId"] for row in good} | {row["customerID"] for row in bills}
    expected = {"clients": len(people), "appointments": usable, "invoices": len(bills)}
    assert await command.counts() == expected

    again = await command.load(appointments=appointments, invoices=invoices)
    assert again.code == 0
    assert again.out == out
    assert f"{usable} there already" in again.err
    assert await command.counts() == expected


async def test_one_file_loads_alone_and_into_another_clinic_too(
    command: Command, database, test_data: Path
) -> None:
    """DOM-2: what one clinic has is nothing to another."""
    path = published(test_data, INVOICES)
    for each in (command, Command(database)):
        assert (await each.load(invoices=path)).code == 0
        counts = await each.counts()
        assert counts == {"clients": 100, "appointments": 0, "invoices": len(rows_of(path))}


# Dirt


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"Age": -1}, "Age is -1"),
        ({"Age": 121}, "Age is 121"),
        ({"Age": "--5"}, "Age is --5"),
        ({"Age": "²"}, "Age is ²"),
        ({"Age": ""}, "Age is empty"),
        (
            {"PatientId": "2.98725E+13"},
            "PatientId is 2.98725E+13: in scientific notation it has lost digits",
        ),
        (
            {"AppointmentID": "5.6e6"},
            "AppointmentID is 5.6e6: in scientific notation it has lost digits",
        ),
        ({"PatientId": "93779.52927"}, "PatientId is 93779.52927"),
        ({"PatientId": "9" * 5000}, f"PatientId is {'9' * 40}…"),
        ({"PatientId": "\x1b[2J"}, r"PatientId is '\x1b[2J'"),
        (
            {"ScheduledDay": "2016-05-10T10:51:53Z", "AppointmentDay": "2016-05-09T00:00:00Z"},
            "it was booked on 2016-05-10, after its day, 2016-05-09",
        ),
        ({"AppointmentDay": "2016-02-30T00:00:00Z"}, "AppointmentDay is 2016-02-30T00:00:00Z"),
        ({"ScheduledDay": "yesterday"}, "ScheduledDay is yesterday"),
        ({"Gender": "X"}, "Gender is X"),
        ({"SMS_received": "2"}, "SMS_received is 2"),
        ({"No-show": "maybe"}, "No-show is maybe"),
        ({"Neighbourhood": "x" * 200}, f"Neighbourhood is {'x' * 40}…"),
        ({"No-show": "No,No"}, "it has 15 columns, and the header has 14"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_dirty_appointment_is_named_and_the_others_are_loaded(
    command: Command, tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    """DOM-2: by its line, and with what is wrong with it."""
    good = appointment(PatientId=1, AppointmentID=1), appointment(PatientId=2, AppointmentID=2)
    path = written(tmp_path / "a.csv", APPOINTMENT_HEADER, good[0], appointment(**fields), good[1])
    ended = await command.load(appointments=path)
    assert (ended.code, ended.out) == (0, f"a.csv:3: {reason}\n")
    assert "3 rows, 2 new, 0 there already, 1 rejected" in ended.err
    assert await command.counts() == {"clients": 2, "appointments": 2, "invoices": 0}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"customerID": ""}, "customerID is empty"),
        ({"invoiceNumber": "12 3"}, "invoiceNumber is 12 3"),
        ({"InvoiceDate": "2013-01-02"}, "InvoiceDate is 2013-01-02"),
        ({"DueDate": "13/1/2013"}, "DueDate is 13/1/2013"),
        ({"DueDate": "1/1/2013"}, "DueDate is before InvoiceDate"),
        ({"SettledDate": "never"}, "SettledDate is never"),
        ({"InvoiceAmount": "-1"}, "InvoiceAmount is -1"),
        ({"InvoiceAmount": "NaN"}, "InvoiceAmount is NaN"),
        ({"InvoiceAmount": "Infinity"}, "InvoiceAmount is Infinity"),
        ({"InvoiceAmount": "1e12"}, "InvoiceAmount is 1e12"),
        ({"InvoiceAmount": "55.945"}, "InvoiceAmount is 55.945"),
        ({"InvoiceAmount": "R$ 5"}, "InvoiceAmount is R$ 5"),
        ({"Disputed": "yes"}, "Disputed is yes"),
        ({"PaperlessBill": "Fax"}, "PaperlessBill is Fax"),
        ({"invoiceNumber": "A1"}, "it is there already, in line 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_dirty_invoice_is_named_and_the_others_are_loaded(
    command: Command, tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    """DOM-2."""
    path = written(
        tmp_path / "i.csv",
        INVOICE_HEADER,
        invoice(invoiceNumber="A1"),
        invoice(**fields),
        invoice(invoiceNumber="A2", SettledDate=""),
    )
    ended = await command.load(invoices=path)
    assert (ended.code, ended.out) == (0, f"i.csv:3: {reason}\n")
    states = await command.rows(
        "SELECT number, status, settled_date::text FROM clinic.invoices"
        " WHERE clinic_id = %s ORDER BY 1"
    )
    assert states == [("A1", "paid", "2013-01-15"), ("A2", "open", None)]


async def test_quotes_blank_lines_and_other_line_ends_are_read(
    command: Command, tmp_path: Path
) -> None:
    """DOM-2: a byte order mark, CRLF; lines are counted as an editor counts them."""
    path = tmp_path / "a.csv"
    lines = [
        APPOINTMENT_HEADER,
        "",
        appointment(PatientId=1, AppointmentID=1, Neighbourhood='"JARDIM, ""DA"" PENHA"'),
        appointment(PatientId=2, AppointmentID=2, Neighbourhood='"TWO\r\nLINES"'),
        appointment(PatientId=3, AppointmentID=3, Age=-1),
        appointment(PatientId=4, AppointmentID=4),
    ]
    path.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    ended = await command.load(appointments=path)
    assert ended.code == 0
    assert ended.out == "a.csv:4: Neighbourhood is 'TWO\\r\\nLINES'\na.csv:6: Age is -1\n"
    places = await command.rows(
        "SELECT neighbourhood FROM clinic.clients WHERE clinic_id = %s ORDER BY 1"
    )
    assert places == [("JARDIM DA PENHA",), ('JARDIM, "DA" PENHA',)]


async def test_records_of_a_deleted_client_are_not_brought_back(
    command: Command, tmp_path: Path
) -> None:
    """DOM-2: what is deleted stays so, and what would name it is told by its line."""
    first = written(tmp_path / "1.csv", APPOINTMENT_HEADER, appointment())
    assert (await command.load(appointments=first)).code == 0
    async with await psycopg.AsyncConnection.connect(command.admin_url) as connection:
        for table in ("appointments", "clients"):
            await connection.execute(
                f"UPDATE clinic.{table} SET deleted_at = now() WHERE clinic_id = %s",
                (command.clinic,),
            )
    more = written(
        tmp_path / "2.csv",
        APPOINTMENT_HEADER,
        appointment(PatientId=1, AppointmentID=1),
        appointment(AppointmentID=2),
    )
    ended = await command.load(appointments=more)
    assert (ended.code, ended.out) == (0, "2.csv:3: its client was deleted here\n")
    assert "2 rows, 1 new, 0 there already, 1 rejected" in ended.err
    assert await command.counts() == {"clients": 2, "appointments": 2, "invoices": 0}


# Files that cannot be used


def cut(content: bytes) -> bytes:
    return content[:-8]


UNUSABLE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "it is empty"),
    "blank": (lambda content: b"\n \n", "it is empty"),
    "latin-1": (lambda content: content.decode().encode("latin-1"), "line 2 is not in UTF-8"),
    "utf-16": (lambda content: content.decode().encode("utf-16"), "line 1 is not in UTF-8"),
    "picture": (lambda content: b"\x89PNG\r\n\x1a\n\0\0", "line 1 is not in UTF-8"),
    "zeros": (lambda content: b"\0" * 100, "it is not a text file"),
    "text": (lambda content: b"Dear all,\nplease find attached\n", "its header lacks PatientId"),
    "semicolons": (lambda content: content.replace(b",", b";"), "its header lacks PatientId"),
    "no column": (lambda content: content.replace(b",Age", b""), "its header lacks Age"),
    "cut": (cut, "it is cut off in the middle of line 3: fetch it again"),
    "open quote": (
        lambda content: content.replace(b"5642903", b'"5642903'),
        "line 2 is not CSV: unexpected end of data",
    ),
}


@pytest.mark.parametrize("kind", list(UNUSABLE))
async def test_a_file_that_cannot_be_used_gets_one_message_and_changes_nothing(
    command: Command, tmp_path: Path, kind: str
) -> None:
    """DOM-2: whatever it is; nor is the good file beside it loaded."""
    spoil, message = UNUSABLE[kind]
    lines = [APPOINTMENT_HEADER, appointment(Neighbourhood="MÁRIO"), appointment(AppointmentID=2)]
    path = tmp_path / "a.csv"
    path.write_bytes(spoil("\n".join(lines).encode()))
    good = written(tmp_path / "i.csv", INVOICE_HEADER, invoice())
    ended = await command.load(invoices=good, appointments=path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"gatehouse-clinic: a.csv: {message}")
    assert len(ended.err.splitlines()) == 1
    assert "Traceback" not in ended.err
    assert await command.counts() == dict.fromkeys(TABLES, 0)


async def test_a_file_that_is_not_there_or_no_file_is_told(
    command: Command, tmp_path: Path
) -> None:
    """DOM-2."""
    for path, why in ((tmp_path / "none.csv", "No such file"), (tmp_path, "Is a directory")):
        ended = await command.load(invoices=path)
        assert ended.code == 1
        assert f"{path.name}: it cannot be read: {why}" in ended.err


async def test_a_header_without_rows_is_nothing_to_load(command: Command, tmp_path: Path) -> None:
    """DOM-2."""
    ended = await command.load(invoices=written(tmp_path / "i.csv", INVOICE_HEADER))
    assert ended.code == 0
    assert "0 rows, 0 new, 0 there already, 0 rejected" in ended.err


# Called wrongly, and without a database


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["load"], "name a file"),
        (["load", "--invoices", "i.csv", "--clinic", "north"], "--clinic north is not a UUID"),
        (["load", "--invoices", "i.csv", "--zone", "Mars/Olympus"], "--zone Mars/Olympus is not"),
        (["sample", "--zone", "../etc/passwd"], "is not a time zone"),
        (["sample", "--zone", ""], "is not a time zone"),
        (["load", "--clients", "c.csv"], "No such option"),
    ],
)
async def test_a_wrong_call_is_told_and_ends_with_2(
    command: Command, words: list[str], message: str
) -> None:
    """DOM-2."""
    ended = await command.run(*words)
    assert ended.code == 2
    assert message in ended.err


async def test_without_an_address_it_asks_for_one(command: Command, tmp_path: Path) -> None:
    """DOM-2."""
    path = written(tmp_path / "i.csv", INVOICE_HEADER, invoice())
    ended = await command.load(invoices=path, url="")
    assert ended.code == 2
    assert cli.VARIABLE in ended.err


async def test_a_database_that_cannot_be_used_is_told_in_one_sentence(
    command: Command, postgres, database, tmp_path: Path
) -> None:
    """DOM-2, ALL-2: gone, without the schema, or with a role that may not."""
    path = written(tmp_path / "i.csv", INVOICE_HEADER, invoice())
    for url, message in (
        (f"postgresql://x@/x?host={tmp_path}", "the store does not answer"),
        (postgres.url("postgres", "postgres"), "run its migrations"),
        (database.url_for("usage"), "may not write records"),
    ):
        ended = await command.load(invoices=path, url=url)
        assert (ended.code, ended.out) == (1, "")
        assert message in ended.err
        assert len(ended.err.splitlines()) == 1


async def test_a_connection_lost_midway_leaves_nothing(command: Command, tmp_path: Path) -> None:
    """DOM-2: one transaction over both files; loaded again, they are there once."""
    appointments = written(tmp_path / "a.csv", APPOINTMENT_HEADER, appointment())
    invoices = written(tmp_path / "i.csv", INVOICE_HEADER, invoice())
    connect = psycopg.AsyncConnection.connect
    async with await connect(command.admin_url) as holding:
        await holding.execute("LOCK TABLE clinic.invoices IN SHARE MODE")
        loading = asyncio.ensure_future(command.load(appointments=appointments, invoices=invoices))
        async with (
            asyncio.timeout(20),
            await connect(command.admin_url, autocommit=True) as connection,
        ):
            ended: list[tuple[Any, ...]] = []
            while not ended:
                found = await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'gatehouse-clinic-load'"
                    " AND wait_event_type = 'Lock'"
                )
                ended = await found.fetchall()
                await asyncio.sleep(0.01)
        told = await loading
    assert told.code == 1
    assert "the store does not answer" in told.err
    assert await command.counts() == dict.fromkeys(TABLES, 0)
    assert (await command.load(appointments=appointments, invoices=invoices)).code == 0
    assert await command.counts() == {"clients": 2, "appointments": 1, "invoices": 1}


async def test_two_who_load_the_same_at_once_load_it_once(command: Command, tmp_path: Path) -> None:
    """DOM-2: as processes, over one transaction each."""
    lines = [appointment(PatientId=each, AppointmentID=each) for each in range(1, 200)]
    path = written(tmp_path / "a.csv", APPOINTMENT_HEADER, *lines)

    ended = await asyncio.gather(*(command.load_as_process(appointments=path) for _ in range(2)))
    assert [each.code for each in ended] == [0, 0]
    assert sum("199 new" in each.err for each in ended) == 1
    assert await command.counts() == {"clients": 199, "appointments": 199, "invoices": 0}


# The sample


async def test_the_sample_is_made_once(command: Command) -> None:
    """DOM-2: its own records, the same for the same seed; made again it adds nothing."""
    first = await command.run("sample", "--clinic", command.clinic)
    assert first.code == 0
    made = await command.counts()
    assert made["clients"] == 60
    assert made["invoices"] == 120
    assert f"{sum(made.values())} new records" in first.err
    again = await command.run("sample", "--clinic", command.clinic)
    assert again.code == 0
    assert await command.counts() == made
