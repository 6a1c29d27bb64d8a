"""Metrics: numerators, denominators, and how many people they are about, never rows (GAT-8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import psycopg
from gatehouse.domain.v1 import domain_pb2 as pb
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from examples.clinic.callers import clinic_of
from services.runtime.failure import Failure, InvalidInput
from services.runtime.identity import Caller
from services.runtime.postgres import READING, Pool

# A hundred years of months, or ten of days.
MOST_STEPS = 4000
UNGROUPED = "''"


class UnknownMetric(Failure):
    code = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_METRIC"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of a domain: what is counted, over which rows, by which day, in which groups.

    `c` is the client whom a row is about.
    """

    domain: str
    numerator_text: str
    denominator_text: str
    unit: str
    numerator: str
    denominator: str
    # How many people the denominator is about.
    subjects: str = "count(DISTINCT c.id)"
    source: str
    # By what a row falls into the window: %(start)s and %(end)s, or %(first)s and %(after)s.
    within: str
    # The local day of a row, for a series.
    day: str = ""
    groups: Mapping[str, str]
    # It is counted as of one day, the last of the window or of a step, and not over days.
    is_state: bool = False
    # The denominator is of everybody, whatever the step.
    of_everybody: bool = False


@dataclass(frozen=True)
class Window:
    """A stretch of time, and the local days that it touches: the first, and the one after."""

    start: datetime
    end: datetime
    zone: ZoneInfo
    first: date
    after: date
    # The last day of which something can be known.
    as_of: date

    def bound(self) -> dict[str, Any]:
        """What is bound in a metric's SQL."""
        return {
            "start": self.start,
            "end": self.end,
            "zone": self.zone.key,
            "first": self.first,
            "after": self.after,
            "as_of": self.as_of,
        }


APPOINTMENTS = (
    "clinic.appointments a JOIN clinic.clients c ON c.id = a.client_id AND c.deleted_at IS NULL"
    " WHERE a.deleted_at IS NULL"
)
APPOINTMENT_GROUPS = {
    "weekday": "trim(to_char(a.starts_at AT TIME ZONE %(zone)s, 'Day'))",
    "gender": "coalesce(c.gender, 'unknown')",
    "neighbourhood": "coalesce(c.neighbourhood, 'unknown')",
    "sms_received": "CASE WHEN a.sms_received THEN 'yes' ELSE 'no' END",
}
STARTS = "a.starts_at >= %(start)s AND a.starts_at < %(end)s"
START_DAY = "(a.starts_at AT TIME ZONE %(zone)s)::date"
DECIDED = "a.status IN ('kept', 'missed')"
# The day as of which a state is counted: a window's last day, a step's, or today.
AS_OF = "{as_of}"
# When an invoice was cancelled is not kept, so that it counts at no time.
OPEN = (
    f"i.status <> 'cancelled' AND i.issued_date <= {AS_OF}"
    f" AND (i.settled_date IS NULL OR i.settled_date > {AS_OF})"
)

METRICS = {
    "cancellation_rate": Metric(
        domain="appointments",
        numerator_text="cancelled appointments",
        denominator_text="appointments",
        unit="appointments",
        numerator="count(*) FILTER (WHERE a.status = 'cancelled')",
        denominator="count(*)",
        source=APPOINTMENTS,
        within=STARTS,
        day=START_DAY,
        groups=APPOINTMENT_GROUPS,
    ),
    "no_show_rate": Metric(
        domain="appointments",
        numerator_text="missed appointments",
        denominator_text="appointments that were kept or missed",
        unit="appointments",
        numerator="count(*) FILTER (WHERE a.status = 'missed')",
        denominator=f"count(*) FILTER (WHERE {DECIDED})",
        subjects=f"count(DISTINCT c.id) FILTER (WHERE {DECIDED})",
        source=APPOINTMENTS,
        within=STARTS,
        day=START_DAY,
        groups=APPOINTMENT_GROUPS,
    ),
    "overdue_ratio": Metric(
        domain="finance",
        numerator_text="amount of the open invoices that are past due at the end of the window",
        denominator_text="amount of the invoices that are open at the end of the window",
        unit="money",
        numerator=f"coalesce(sum(i.amount) FILTER (WHERE i.due_date < {AS_OF}), 0)",
        denominator="coalesce(sum(i.amount), 0)",
        source="clinic.invoices i JOIN clinic.clients c"
        " ON c.id = i.client_id AND c.deleted_at IS NULL WHERE i.deleted_at IS NULL",
        within=OPEN,
        is_state=True,
        groups={
            "disputed": "CASE WHEN i.disputed THEN 'yes' ELSE 'no' END",
            "channel": "i.channel",
        },
    ),
    "engagement_rate": Metric(
        domain="clients",
        numerator_text="clients who kept an appointment in the window",
        denominator_text="clients",
        unit="clients",
        numerator="count(DISTINCT c.id) FILTER (WHERE a.status = 'kept')",
        denominator="count(DISTINCT c.id)",
        source="clinic.clients c LEFT JOIN clinic.appointments a ON a.client_id = c.id"
        f" AND a.deleted_at IS NULL AND {STARTS} WHERE c.deleted_at IS NULL",
        within="true",
        day=START_DAY,
        groups={
            "gender": "coalesce(c.gender, 'unknown')",
            "neighbourhood": "coalesce(c.neighbourhood, 'unknown')",
        },
        of_everybody=True,
    ),
}


async def aggregate(
    pool: Pool, domain: str, request: pb.AggregateRequest, caller: Caller, now: datetime
) -> pb.AggregateResponse:
    """Compute one metric. Raises UnknownMetric, InvalidInput, Denied, StoreUnavailable."""
    clinic_of(caller)
    metric = METRICS.get(request.metric)
    if metric is None or metric.domain != domain:
        raise UnknownMetric(f"{domain} has no metric {request.metric}")
    window = window_of(request, now)
    group = group_of(metric, request.group_by)
    width = step_days(request, window) if request.HasField("step") else None
    response = pb.AggregateResponse()
    try:
        async with pool.transaction(caller, READING) as connection:
            response.groups.extend(await groups(connection, metric, group, window))
            if width is not None:
                response.series.extend(await series(connection, metric, window, width))
    except psycopg.errors.InvalidParameterValue:
        # A zone that this machine knows, and the database does not.
        raise InvalidInput([("time_zone", "is not known to the database")]) from None
    response.as_of.FromDatetime(now.astimezone(UTC))
    return response


def window_of(request: pb.AggregateRequest, now: datetime) -> Window:
    """Raises InvalidInput for a window that is none."""
    zone = ZoneInfo(request.time_zone or "UTC")
    times = []
    for name in ("start_time", "end_time"):
        try:
            moment = getattr(request, name).ToDatetime(tzinfo=UTC)
            (moment - timedelta(days=1)).astimezone(zone)
            (moment + timedelta(days=2)).astimezone(zone)
        except (ValueError, OverflowError):
            raise InvalidInput([(name, "is not a time between the years 1 and 9999")]) from None
        times.append(moment)
    start, end = times
    if end <= start:
        raise InvalidInput([("end_time", "must be after start_time")])
    instant = timedelta(microseconds=1)
    return Window(
        start,
        end,
        zone,
        first=start.astimezone(zone).date(),
        after=(end - instant).astimezone(zone).date() + timedelta(days=1),
        as_of=(min(end, now) - instant).astimezone(zone).date(),
    )


def group_of(metric: Metric, name: str) -> str:
    if not name:
        return UNGROUPED
    if name not in metric.groups:
        offered = ", ".join(metric.groups)
        raise InvalidInput([("group_by", f"must be one of {offered}")])
    return metric.groups[name]


def step_days(request: pb.AggregateRequest, window: Window) -> int:
    """The width of a step. Raises InvalidInput for none in days, or one that makes too many."""
    try:
        step = request.step.ToTimedelta()
    except (ValueError, OverflowError):
        step = timedelta(0)
    whole = step >= timedelta(days=1) and not step % timedelta(days=1)
    if not whole or request.step.nanos:
        raise InvalidInput([("step", "must be a whole number of days")])
    if (window.after - window.first) / step > MOST_STEPS:
        raise InvalidInput([("step", f"makes more than {MOST_STEPS} steps of the window")])
    return step.days


async def groups(
    connection: AsyncConnection[TupleRow], metric: Metric, group: str, window: Window
) -> list[pb.Group]:
    # Of no group there is one row, even where there is nothing to count.
    grouping = "()" if group == UNGROUPED else "1"
    found = await connection.execute(statement(metric, group, grouping=grouping), window.bound())
    # Here, and not by the database, whose order depends on how it was made.
    return sorted(map(group_from, await found.fetchall()), key=lambda each: each.key)


async def series(
    connection: AsyncConnection[TupleRow], metric: Metric, window: Window, width: int
) -> list[pb.Step]:
    """The figures of every step of *width* days, from the window's first day on."""
    if metric.is_state:
        rows = await states(connection, metric, window, width)
        return steps_from(rows, window, width)
    bucket = f"(({metric.day} - %(first)s) / %(width)s)"
    # The whole comes along, so that a step is never more than what it is a part of.
    found = await connection.execute(
        statement(metric, bucket, f", GROUPING({bucket})", f"GROUPING SETS (({bucket}), ())"),
        {**window.bound(), "width": width},
    )
    rows, everybody = {}, pb.Group()
    for key, *figures, is_whole in await found.fetchall():
        if is_whole:
            everybody = group_from(("", *figures))
        else:
            rows[key] = group_from(("", *figures))
    steps = steps_from(rows, window, width)
    for step in steps if metric.of_everybody else ():
        step.figures.denominator = everybody.denominator
        step.figures.subjects = everybody.subjects
    return steps


async def states(
    connection: AsyncConnection[TupleRow], metric: Metric, window: Window, width: int
) -> dict[int, pb.Group]:
    """The figures as of the last day of every step that has begun, by its place."""
    steps = (
        "(SELECT place, least(%(first)s + (place + 1) * %(width)s - 1, %(as_of)s) AS day"
        " FROM generate_series(0, %(steps)s - 1) AS place"
        " WHERE %(first)s + place * %(width)s <= %(as_of)s) AS step CROSS JOIN "
    )
    found = await connection.execute(
        statement(metric, "step.place", as_of="step.day", before=steps),
        {**window.bound(), "width": width, "steps": step_count(window, width)},
    )
    return {row[0]: group_from(("", *row[1:])) for row in await found.fetchall()}


def step_count(window: Window, width: int) -> int:
    return -(-(window.after - window.first).days // width)


def steps_from(rows: Mapping[int, pb.Group], window: Window, width: int) -> list[pb.Step]:
    """Every step of the window by its place; one of which nothing is known has zeros."""
    steps = []
    for place in range(step_count(window, width)):
        step = pb.Step(figures=rows.get(place, pb.Group()))
        day = window.first + timedelta(days=place * width)
        midnight = datetime(day.year, day.month, day.day, tzinfo=window.zone)
        step.start_time.FromDatetime(midnight.astimezone(UTC))
        steps.append(step)
    return steps


def statement(
    metric: Metric,
    key: str,
    more: str = "",
    grouping: str = "1",
    *,
    as_of: str = "%(as_of)s",
    before: str = "",
) -> str:
    text = (
        f"SELECT {key}, {metric.numerator}, {metric.denominator}, {metric.subjects}{more}"  # noqa: S608  templates of ours
        f" FROM {before}{metric.source} AND {metric.within} GROUP BY {grouping}"
    )
    return text.replace(AS_OF, as_of)


def group_from(row: Sequence[Any]) -> pb.Group:
    return pb.Group(
        key=str(row[0]), numerator=float(row[1]), denominator=float(row[2]), subjects=row[3]
    )
