"""Metrics over the public data sets, computed again from the files in plain Python (GAT-8, DOM-2).

Nothing here reads a file by the loader's code, or asks the database for a figure.
"""

import csv
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb

from examples.clinic.loading import store
from examples.clinic.reading import read_appointments, read_invoices
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from tests.clinic_calls import ZONE, Clinic, serving_clinic

Row = dict[str, str]
Figures = tuple[float, float, int]


@dataclass(frozen=True)
class Published:
    """A clinic with both sets, and the rows that a plain reading finds usable."""

    clinic: Clinic
    appointments: list[Row]
    invoices: list[Row]


@pytest.fixture(scope="module")
async def published(database, tokens, test_data: Path) -> AsyncIterator[Published]:
    files = [
        test_data / "clinic" / name
        for name in ("noshow_sample_5k.csv", "WA_Fn-UseC_-Accounts-Receivable.csv")
    ]
    for path in files:
        if not path.is_file():
            pytest.skip(f"no {path.name} in the test data")
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        clinic = Clinic(stubs, tokens, database.url_for("clinic"))
        caller = Caller("loader", clinic.id, frozenset({"service"}))
        async with open_pool(clinic.url, min_size=1, max_size=1, name="load") as pool:
            read = [
                read_appointments(files[0], clinic.id, ZoneInfo(ZONE)),
                read_invoices(files[1], clinic.id),
            ]
            await store(pool, caller, read)
        usable = [row for row in rows_of(files[0]) if is_usable(row)]
        yield Published(clinic, usable, rows_of(files[1]))


def rows_of(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def is_usable(row: Row) -> bool:
    return (
        row["PatientId"].isdecimal()
        and 0 <= int(row["Age"]) <= 120
        and row["ScheduledDay"][:10] <= row["AppointmentDay"][:10]
    )


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(ZONE))


def window(first: date, after: date) -> dict[str, datetime]:
    return {"start": midnight(first), "end": midnight(after)}


MAY, JUNE = date(2016, 5, 1), date(2016, 6, 1)
WEEK = timedelta(days=7)


def day_of(row: Row) -> date:
    return date.fromisoformat(row["AppointmentDay"][:10])


def within(rows: Iterable[Row], day: Callable[[Row], date], first: date, after: date) -> list[Row]:
    return [row for row in rows if first <= day(row) < after]


def by(rows: Iterable[Row], key: Callable[[Row], object]) -> dict[object, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(found)


def patients(rows: Iterable[Row]) -> int:
    return len({row["PatientId"] for row in rows})


def no_show(rows: list[Row]) -> Figures:
    return sum(row["No-show"] == "Yes" for row in rows), len(rows), patients(rows)


def cancellation(rows: list[Row]) -> Figures:
    """The set knows of none."""
    return 0, len(rows), patients(rows)


def figures(group: pb.Group) -> Figures:
    return group.numerator, group.denominator, group.subjects


def told(answer: pb.AggregateResponse) -> dict[str, Figures]:
    return {group.key: figures(group) for group in answer.groups}


GROUPS: dict[str, Callable[[Row], str]] = {
    "gender": lambda row: {"F": "female", "M": "male"}[row["Gender"]],
    "neighbourhood": lambda row: row["Neighbourhood"],
    "sms_received": lambda row: {"1": "yes", "0": "no"}[row["SMS_received"]],
    "weekday": lambda row: f"{day_of(row):%A}",
}


@pytest.mark.parametrize("metric", ["no_show_rate", "cancellation_rate"])
async def test_the_figures_of_appointments_are_those_of_the_file(
    published: Published, metric: str
) -> None:
    """GAT-8: as a whole, by every group, and week by week."""
    expected = no_show if metric == "no_show_rate" else cancellation
    rows = within(published.appointments, day_of, MAY, JUNE)
    ask = {"metric": metric, **window(MAY, JUNE)}
    clinic = published.clinic
    assert told(await clinic.aggregate("appointments", **ask)) == {"": expected(rows)}
    for group, key in GROUPS.items():
        answer = await clinic.aggregate("appointments", group_by=group, **ask)
        assert told(answer) == {value: expected(some) for value, some in by(rows, key).items()}
        assert sum(each.denominator for each in answer.groups) == len(rows) > 1000
    answer = await clinic.aggregate("appointments", step=WEEK, **ask)
    weeks = by(rows, lambda row: (day_of(row) - MAY) // WEEK)
    assert [figures(each.figures) for each in answer.series] == [
        expected(weeks.get(week, [])) for week in range(5)
    ]
    assert [each.start_time.ToDatetime(tzinfo=UTC) for each in answer.series] == [
        midnight(MAY + week * WEEK).astimezone(UTC) for week in range(5)
    ]


async def test_the_figures_of_every_single_day_are_those_of_the_file(published: Published) -> None:
    """GAT-8: days without appointments among them."""
    first, after = date(2016, 4, 25), date(2016, 6, 13)
    days = by(published.appointments, day_of)
    answer = await published.clinic.aggregate(
        "appointments", "no_show_rate", step=timedelta(days=1), **window(first, after)
    )
    expected = [no_show(days.get(first + timedelta(days=n), [])) for n in range(49)]
    assert [figures(each.figures) for each in answer.series] == expected
    assert (0, 0, 0) in expected
    assert sum(each[1] for each in expected) == len(published.appointments)


async def test_engagement_is_of_all_clients(published: Published) -> None:
    """GAT-8: those who kept an appointment, out of all there are; whole, by group, by week."""
    rows = within(published.appointments, day_of, MAY, JUNE)
    kept = [row for row in rows if row["No-show"] == "No"]
    people = patients(published.appointments) + len(
        {row["customerID"] for row in published.invoices}
    )
    ask = {"metric": "engagement_rate", **window(MAY, JUNE)}
    clinic = published.clinic
    assert told(await clinic.aggregate("clients", **ask)) == {"": (patients(kept), people, people)}
    for group in ("gender", "neighbourhood"):
        engaged = {key: patients(some) for key, some in by(kept, GROUPS[group]).items()}
        known = {
            key: patients(some) for key, some in by(published.appointments, GROUPS[group]).items()
        }
        known["unknown"] = people - sum(known.values())
        answer = told(await clinic.aggregate("clients", group_by=group, **ask))
        assert answer == {key: (engaged.get(key, 0), count, count) for key, count in known.items()}
    answer = await clinic.aggregate("clients", step=WEEK, **ask)
    weeks = by(kept, lambda row: (day_of(row) - MAY) // WEEK)
    assert [figures(each.figures) for each in answer.series] == [
        (patients(weeks.get(week, [])), people, people) for week in range(5)
    ]


def american(text: str) -> date:
    month, of_month, year = map(int, text.split("/"))
    return date(year, month, of_month)


def issued(row: Row) -> date:
    return american(row["InvoiceDate"])


def overdue(rows: list[Row], last: date) -> tuple[object, object, int]:
    """Past due, out of what is open, as of *last*. Sums of money come through floating point."""
    still_open = [row for row in rows if issued(row) <= last < american(row["SettledDate"])]
    late = [row for row in still_open if american(row["DueDate"]) < last]
    return (
        pytest.approx(sum(float(row["InvoiceAmount"]) for row in late)),
        pytest.approx(sum(float(row["InvoiceAmount"]) for row in still_open)),
        len({row["customerID"] for row in still_open}),
    )


def by_state(rows: list[Row], key: Callable[[Row], object], last: date) -> dict[object, object]:
    """Those groups of which something is open as of *last*."""
    found = {value: overdue(some, last) for value, some in by(rows, key).items()}
    return {value: figures for value, figures in found.items() if figures[2]}


@pytest.mark.parametrize(
    ("first", "after"),
    [
        (date(2013, 1, 1), date(2013, 4, 1)),
        (date(2012, 1, 1), date(2013, 1, 1)),
        (date(2013, 10, 1), date(2013, 12, 1)),
        # Over the nights on which São Paulo's clocks changed.
        (date(2012, 10, 21), date(2013, 2, 17)),
    ],
)
async def test_overdue_amounts_are_those_of_the_file(
    published: Published, first: date, after: date
) -> None:
    """GAT-8: of what is open at the window's end, whenever it was issued, what is past due then."""
    last = after - timedelta(days=1)
    rows = published.invoices
    ask = {"metric": "overdue_ratio", **window(first, after)}
    clinic = published.clinic
    whole = told(await clinic.aggregate("finance", **ask))
    assert whole == {"": overdue(rows, last)}
    assert whole[""][0] > 0
    for group, key in (
        ("disputed", lambda row: row["Disputed"].lower()),
        ("channel", lambda row: row["PaperlessBill"].lower()),
    ):
        answer = told(await clinic.aggregate("finance", group_by=group, **ask))
        assert answer == by_state(rows, key, last)
    month = timedelta(days=30)
    answer = await clinic.aggregate("finance", step=month, **ask)
    assert [figures(each.figures) for each in answer.series] == [
        overdue(rows, min(first + (step + 1) * month - timedelta(days=1), last))
        for step in range(-(-(after - first) // month))
    ]
