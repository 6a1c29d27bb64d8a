"""Metrics over records made for the purpose: what counts, for whom, on which day (GAT-8, DOM-2)."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.clinic_calls import (
    ZONE,
    Clinic,
    Stubs,
    appointment,
    client,
    equal,
    fields_of,
    invoice,
    op,
    reason_of,
    refused,
    serving_clinic,
)

DAY = timedelta(days=1)
METRICS = {
    "engagement_rate": "clients",
    "overdue_ratio": "finance",
    "no_show_rate": "appointments",
    "cancellation_rate": "appointments",
}


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[Stubs]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        yield stubs


@pytest.fixture
async def clinic(served, tokens, database) -> Clinic:
    """A clinic of four clients."""
    made = Clinic(served, tokens, database.url_for("clinic"))
    await made.done(
        "clients",
        client("Ana", gender="female"),
        client("Bia", gender="female"),
        client("Caio", gender="male"),
        client("Davi"),
    )
    return made


def local(*of: int, zone: str = ZONE) -> datetime:
    return datetime(*of, tzinfo=ZoneInfo(zone))


YEAR = {"start": local(2024, 1, 1), "end": local(2025, 1, 1)}


def figures(group: pb.Group) -> tuple[float, float, int]:
    return group.numerator, group.denominator, group.subjects


async def test_each_rate_counts_what_its_words_say(clinic: Clinic) -> None:
    """GAT-8: numerator, denominator, and the people whom the denominator is about."""
    await clinic.done(
        "appointments",
        appointment("Ana", "2024-03-01T10:00", status="kept"),
        appointment("Ana", "2024-03-02T10:00", status="missed"),
        appointment("Bia", "2024-03-03T10:00", status="cancelled"),
        appointment("Caio", "2024-03-04T10:00", status="scheduled"),
        appointment("Caio", "2025-01-01T00:00", status="missed"),
        appointment("Davi", "2023-12-31T23:59", status="kept"),
    )
    (no_shows,) = (await clinic.aggregate("appointments", "no_show_rate", **YEAR)).groups
    assert figures(no_shows) == (1, 2, 1)
    (cancelled,) = (await clinic.aggregate("appointments", "cancellation_rate", **YEAR)).groups
    assert figures(cancelled) == (1, 4, 3)
    (engaged,) = (await clinic.aggregate("clients", "engagement_rate", **YEAR)).groups
    assert figures(engaged) == (1, 4, 4)
    by_gender = await clinic.aggregate("clients", "engagement_rate", group_by="gender", **YEAR)
    assert {each.key: figures(each) for each in by_gender.groups} == {
        "female": (1, 2, 2),
        "male": (0, 1, 1),
        "unknown": (0, 1, 1),
    }


async def test_subjects_are_those_whom_a_figure_is_about(clinic: Clinic) -> None:
    """GAT-8: a figure about one person does not hide behind others who are not in it."""
    await clinic.done(
        "appointments",
        appointment("Ana", "2024-03-01T10:00", status="missed"),
        *(appointment(each, "2024-03-01T10:00") for each in ("Bia", "Caio", "Davi")),
    )
    await clinic.done(
        "finance",
        invoice("1", "Ana", issued_date="2024-03-01", due_date="2024-03-05"),
        *(
            invoice(each, each, issued_date="2024-03-01", status="cancelled")
            for each in ("Bia", "Caio", "Davi")
        ),
    )
    for domain, metric in (("appointments", "no_show_rate"), ("finance", "overdue_ratio")):
        answer = await clinic.aggregate(domain, metric, step=timedelta(days=366), **YEAR)
        assert [each.subjects for each in answer.groups] == [1]
        assert [each.figures.subjects for each in answer.series] == [1]


async def test_what_is_overdue_is_open_and_past_due_at_the_end_of_the_window(
    clinic: Clinic,
) -> None:
    """GAT-8: out of all that is open then, whenever it was issued; cancelled ones count nowhere.

    The kind: a figure of a state that is taken over what happened within a window.
    """
    march = {"start": local(2024, 3, 1), "end": local(2024, 4, 1)}
    issued = {"issued_date": "2024-03-01"}
    paid = {"status": "paid"}
    await clinic.done(
        "finance",
        invoice("1", "Ana", amount=1, due_date="2024-03-15", **issued),
        invoice("2", "Ana", amount=2, due_date="2024-03-31", **issued),
        invoice(
            "4", "Bia", amount=4, due_date="2024-03-15", settled_date="2024-03-20", **issued, **paid
        ),
        invoice(
            "8", "Bia", amount=8, due_date="2024-03-15", settled_date="2024-04-01", **issued, **paid
        ),
        invoice("16", "Bia", amount=16, due_date="2024-03-15", status="cancelled", **issued),
        invoice("32", "Caio", amount=32, due_date="2024-03-15", issued_date="2024-02-29"),
        invoice("64", "Caio", amount=64, due_date="2024-04-15", issued_date="2024-03-31"),
        invoice("128", "Caio", amount=128, due_date="2024-04-15", issued_date="2024-04-01"),
    )
    (march_,) = (await clinic.aggregate("finance", "overdue_ratio", **march)).groups
    assert figures(march_) == (1 + 8 + 32, 1 + 2 + 8 + 32 + 64, 3)
    longer = await clinic.aggregate("finance", "overdue_ratio", step=timedelta(days=30), **YEAR)
    assert figures(longer.groups[0]) == (1 + 2 + 32 + 64 + 128, 227, 2)
    by_month = [figures(each.figures) for each in longer.series]
    # As of 30 January, 29 February, 30 March and 29 April.
    assert by_month[:4] == [
        (0, 0, 0),
        (0, 32, 1),
        (1 + 8 + 32, 1 + 2 + 8 + 32, 3),
        (1 + 2 + 32 + 64 + 128, 227, 2),
    ]
    assert by_month[-1] == figures(longer.groups[0])


async def test_the_last_thirty_days_know_what_is_overdue_now(clinic: Clinic) -> None:
    """GAT-8: an invoice that is past due was issued before them, and due within or before them."""
    today = datetime.now(ZoneInfo(ZONE)).date()
    long_ago, month_ago = (str(today - timedelta(days=days)) for days in (90, 30))
    await clinic.done(
        "finance",
        invoice("1", "Ana", amount=30, issued_date=long_ago, due_date=month_ago),
        invoice("2", "Bia", amount=70, issued_date=long_ago, due_date=str(today)),
    )
    answer = await clinic.aggregate(
        "finance",
        "overdue_ratio",
        step=timedelta(days=30),
        start=local(today.year, today.month, today.day) - timedelta(days=29),
        end=local(today.year, today.month, today.day) + timedelta(days=31),
    )
    assert figures(answer.groups[0]) == (30, 100, 2)
    # What is to come is not known.
    assert [figures(each.figures) for each in answer.series] == [(30, 100, 2), (0, 0, 0)]


async def test_what_is_deleted_counts_nowhere(clinic: Clinic) -> None:
    """DOM-2, GAT-8."""
    await clinic.done(
        "appointments",
        *(appointment(each, "2024-03-01T10:00", status="kept") for each in ("Ana", "Bia")),
    )
    await clinic.done("finance", invoice("1", "Bia", issued_date="2024-03-01"))
    await clinic.done("appointments", op("DELETE", "appointment", equal("client_name", "Bia")))
    await clinic.done("finance", op("DELETE", "invoice", equal("number", "1")))
    await clinic.done("clients", op("DELETE", "client", equal("name", "Bia")))
    for metric, expected in (
        ("no_show_rate", (0, 1, 1)),
        ("cancellation_rate", (0, 1, 1)),
        ("engagement_rate", (1, 3, 3)),
        ("overdue_ratio", (0, 0, 0)),
    ):
        answer = await clinic.aggregate(METRICS[metric], metric, **YEAR)
        assert [figures(each) for each in answer.groups] in ([expected], [])


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        # Clocks go forward at midnight, so that the day begins at one o'clock.
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("Europe/Madrid", date(2026, 3, 29), 23),
        ("Europe/Madrid", date(2026, 10, 25), 25),
        ("UTC", date(2026, 10, 25), 24),
        ("Asia/Kathmandu", date(2026, 10, 25), 24),
    ],
)
async def test_a_day_is_the_clinic_s_day_when_clocks_change(
    clinic: Clinic, zone: str, day: date, hours: int
) -> None:
    """GAT-8, USE-4: one appointment at every quarter of an hour of three days."""
    before, after = (
        datetime(each.year, each.month, each.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        for each in (day - DAY, day + 2 * DAY)
    )
    times = []
    while before + len(times) * timedelta(minutes=15) < after:
        times.append(before + len(times) * timedelta(minutes=15))
    for start in range(0, len(times), 100):
        part = times[start : start + 100]
        await clinic.done(
            "appointments", *(appointment("Ana", at.isoformat(), status="kept") for at in part)
        )
    answer = await clinic.aggregate(
        "appointments", "no_show_rate", start=before, end=after, step=DAY, zone=zone
    )
    counted = [each.figures.denominator for each in answer.series]
    assert counted == [24 * 4, hours * 4, 24 * 4]
    starts = [each.start_time.ToDatetime(tzinfo=UTC) for each in answer.series]
    assert [each.astimezone(ZoneInfo(zone)).date() for each in starts] == [
        day - DAY,
        day,
        day + DAY,
    ]
    assert starts == [times[0], times[24 * 4], times[(24 + hours) * 4]]
    by_weekday = await clinic.aggregate(
        "appointments", "no_show_rate", start=before, end=after, group_by="weekday", zone=zone
    )
    assert {each.key: each.denominator for each in by_weekday.groups} == {
        f"{each:%A}": count
        for each, count in zip((day - DAY, day, day + DAY), counted, strict=True)
    }


async def test_a_series_has_every_step_and_adds_up(clinic: Clinic) -> None:
    """GAT-8: steps in which nothing was are there, without a rate; the last may be cut short."""
    await clinic.done(
        "appointments",
        appointment("Ana", "2024-01-01T00:00", status="kept"),
        appointment("Bia", "2024-01-10T10:00", status="missed"),
        appointment("Ana", "2024-01-16T23:59", status="kept"),
        appointment("Ana", "2024-01-17T00:00", status="kept"),
    )
    window = {"start": local(2024, 1, 1), "end": local(2024, 1, 17)}
    answer = await clinic.aggregate("appointments", "no_show_rate", step=3 * DAY, **window)
    assert [figures(each.figures) for each in answer.series] == [
        (0, 1, 1),
        (0, 0, 0),
        (0, 0, 0),
        (1, 1, 1),
        (0, 0, 0),
        (0, 1, 1),
    ]
    assert [each.figures.key for each in answer.series] == [""] * 6
    assert figures(answer.groups[0]) == (1, 3, 2)
    engaged = await clinic.aggregate("clients", "engagement_rate", step=8 * DAY, **window)
    assert [figures(each.figures) for each in engaged.series] == [(1, 4, 4), (1, 4, 4)]
    assert figures(engaged.groups[0]) == (1, 4, 4)
    grouped = await clinic.aggregate(
        "clients", "engagement_rate", step=8 * DAY, group_by="gender", **window
    )
    assert [each.key for each in grouped.groups] == ["female", "male", "unknown"]
    assert grouped.series == engaged.series


async def test_groups_come_in_the_order_of_their_keys(clinic: Clinic) -> None:
    """DOM-1: by the letters themselves, whatever the database's language."""
    places = ("Zona", "ácido", "Andorinhas", "SÃO PEDRO", "SAO PEDRO")
    await clinic.done("clients", *(client(f"X {each}", neighbourhood=each) for each in places))
    answer = await clinic.aggregate("clients", "engagement_rate", group_by="neighbourhood", **YEAR)
    assert [each.key for each in answer.groups] == sorted({*places, "unknown"})


async def test_no_answer_has_rows_names_or_ids(clinic: Clinic) -> None:
    """GAT-8: what a caller can group by is never a person."""
    for domain, stub in clinic.stubs.items():
        described = await stub.Describe(pb.DescribeRequest(), **clinic.call)
        assert described.metrics
        for metric in described.metrics:
            assert METRICS[metric.name] == domain
            assert metric.unit
            assert metric.numerator
            assert metric.denominator
            for group in metric.group_by:
                answer = await clinic.aggregate(domain, metric.name, group_by=group, **YEAR)
                assert not any(name in str(answer) for name in ("Ana", "Bia", "Caio", "Davi"))
            for person in ("name", "id", "client_name", "client_id", "phone"):
                refusal = await refused(
                    clinic.aggregate(domain, metric.name, group_by=person, **YEAR)
                )
                assert fields_of(refusal) == ["group_by"]


async def test_a_metric_of_another_domain_is_unknown(clinic: Clinic) -> None:
    """GAT-8: UNKNOWN_METRIC."""
    for metric, domain in METRICS.items():
        for other in set(METRICS.values()) - {domain}:
            status = await refused(clinic.aggregate(other, metric, **YEAR))
            assert reason_of(status) == "UNKNOWN_METRIC"


def asked(**fields: object) -> pb.AggregateRequest:
    times = {
        "start_time": Timestamp(seconds=1_700_000_000),
        "end_time": Timestamp(seconds=1_710_000_000),
    }
    return pb.AggregateRequest(**{"metric": "no_show_rate", "time_zone": ZONE, **times, **fields})


FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"metric": ""}, "metric"),
        ({"metric": "no; DROP"}, "metric"),
        ({"start_time": None}, "start_time"),
        ({"end_time": None}, "end_time"),
        ({"end_time": Timestamp(seconds=1_700_000_000)}, "end_time"),
        ({"start_time": Timestamp(seconds=FIRST_SECOND)}, "start_time"),
        ({"start_time": Timestamp(seconds=-(2**62))}, "start_time"),
        ({"start_time": Timestamp(seconds=1, nanos=-1)}, "start_time"),
        ({"end_time": Timestamp(seconds=LAST_SECOND)}, "end_time"),
        ({"end_time": Timestamp(seconds=2**62)}, "end_time"),
        ({"step": Duration()}, "step"),
        ({"step": Duration(seconds=-86_400)}, "step"),
        ({"step": Duration(seconds=90_000)}, "step"),
        ({"step": Duration(seconds=86_400, nanos=1)}, "step"),
        ({"step": Duration(seconds=2**62)}, "step"),
        (
            {"start_time": Timestamp(seconds=0), "step": Duration(seconds=86_400)},
            "step",
        ),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"group_by": "shoe"}, "group_by"),
        ({"group_by": "a;b"}, "group_by"),
    ],
    ids=str,
)
async def test_a_wrong_question_names_its_field(
    clinic: Clinic, fields: dict[str, object], field: str
) -> None:
    """GAT-8, ALL-2."""
    request = asked(**fields)
    status = await refused(clinic.stubs["appointments"].Aggregate(request, **clinic.call))
    assert reason_of(status) == "INVALID_ARGUMENT"
    assert fields_of(status) == [field]


async def test_a_wide_window_is_answered(clinic: Clinic) -> None:
    """GAT-8: nearly all of time, without a zone."""
    request = asked(
        start_time=Timestamp(seconds=FIRST_SECOND + 200_000),
        end_time=Timestamp(seconds=LAST_SECOND - 300_000),
        time_zone="",
    )
    answer = await clinic.stubs["appointments"].Aggregate(request, **clinic.call)
    assert answer.HasField("as_of")
