"""Metrics: numerators, denominators, and how many people they are about, never rows (GAT-8)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
from gatehouse.domain.v1 import domain_pb2 as pb

from services.runtime.failure import Failure, InvalidInput
from services.runtime.identity import Caller
from services.runtime.postgres import Pool


class UnknownMetric(Failure):
    code = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_METRIC"


@dataclass(frozen=True)
class Metric:
    """One metric of a domain: what is counted, over which rows, by which day, in which groups."""

    domain: str
    numerator_text: str
    denominator_text: str
    unit: str
    numerator: str
    denominator: str
    source: str
    # The time by which a row falls into the window; compared with %(start)s and %(end)s.
    within: str
    # The local day of a row, for a series.
    day: str
    groups: Mapping[str, str]


APPOINTMENTS = (
    "clinic.appointments a JOIN clinic.clients c ON c.id = a.client_id WHERE a.deleted_at IS NULL"
)
APPOINTMENT_GROUPS = {
    "weekday": "trim(to_char(a.starts_at AT TIME ZONE %(zone)s, 'Day'))",
    "gender": "coalesce(c.gender, 'unknown')",
    "neighbourhood": "coalesce(c.neighbourhood, 'unknown')",
    "sms_received": "CASE WHEN a.sms_received THEN 'yes' ELSE 'no' END",
}
STARTS = "a.starts_at >= %(start)s AND a.starts_at < %(end)s"
START_DAY = "(a.starts_at AT TIME ZONE %(zone)s)::date"
# Of an invoice what was not paid by the end of the window, or by now, although it was due.
OVERDUE = (
    "i.status <> 'cancelled' AND i.due_date < %(as_of)s"
    " AND (i.settled_date IS NULL OR i.settled_date > %(as_of)s)"
)

METRICS = {
    "cancellation_rate": Metric(
        "appointments",
        "cancelled appointments",
        "appointments",
        "appointments",
        "count(*) FILTER (WHERE a.status = 'cancelled')",
        "count(*)",
        APPOINTMENTS,
        STARTS,
        START_DAY,
        APPOINTMENT_GROUPS,
    ),
    "no_show_rate": Metric(
        "appointments",
        "missed appointments",
        "appointments that were kept or missed",
        "appointments",
        "count(*) FILTER (WHERE a.status = 'missed')",
        "count(*) FILTER (WHERE a.status IN ('kept', 'missed'))",
        APPOINTMENTS,
        STARTS,
        START_DAY,
        APPOINTMENT_GROUPS,
    ),
    "overdue_ratio": Metric(
        "finance",
        "amount of the invoices that are overdue at the end of the window",
        "amount of the invoices issued in the window",
        "money",
        f"coalesce(sum(i.amount) FILTER (WHERE {OVERDUE}), 0)",
        "coalesce(sum(i.amount) FILTER (WHERE i.status <> 'cancelled'), 0)",
        "clinic.invoices i JOIN clinic.clients c ON c.id = i.client_id WHERE i.deleted_at IS NULL",
        "i.issued_date >= %(first)s AND i.issued_date < %(after)s",
        "i.issued_date",
        {
            "disputed": "CASE WHEN i.disputed THEN 'yes' ELSE 'no' END",
            "channel": "i.channel",
        },
    ),
    "engagement_rate": Metric(
        "clients",
        "clients who kept an appointment in the window",
        "clients",
        "clients",
        "count(DISTINCT c.id) FILTER (WHERE a.status = 'kept')",
        "count(DISTINCT c.id)",
        "clinic.clients c LEFT JOIN clinic.appointments a ON a.client_id = c.id"
        " AND a.deleted_at IS NULL AND a.starts_at >= %(start)s AND a.starts_at < %(end)s"
        " WHERE c.deleted_at IS NULL",
        "true",
        "(a.starts_at AT TIME ZONE %(zone)s)::date",
        {
            "gender": "coalesce(c.gender, 'unknown')",
            "neighbourhood": "coalesce(c.neighbourhood, 'unknown')",
        },
    ),
}


async def aggregate(
    pool: Pool, domain: str, request: pb.AggregateRequest, caller: Caller, now: datetime
) -> pb.AggregateResponse:
    """Compute one metric. Raises UnknownMetric, InvalidInput."""
    metric = METRICS.get(request.metric)
    if metric is None or metric.domain != domain:
        raise UnknownMetric(f"{domain} has no metric {request.metric}")
    values = values_of(request, now)
    group = group_of(metric, request.group_by)
    response = pb.AggregateResponse()
    async with pool.transaction(caller) as connection:
        found = await connection.execute(statement(metric, group), values)
        response.groups.extend(group_from(row) for row in await found.fetchall())
        if request.HasField("step") and metric.domain != "clients":
            values["step"] = step_days(request)
            bucket = f"(({metric.day} - %(first)s) / %(step)s)"
            found = await connection.execute(statement(metric, bucket), values)
            response.series.extend(
                step_from(row, values, request.time_zone) for row in await found.fetchall()
            )
    response.as_of.FromDatetime(now.astimezone(UTC))
    return response


def values_of(request: pb.AggregateRequest, now: datetime) -> dict[str, Any]:
    """What is bound in a metric's SQL. Raises InvalidInput for a window that is none."""
    try:
        start = request.start_time.ToDatetime(tzinfo=UTC)
        end = request.end_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidInput([("start_time", "is not a time between the years 1 and 9999")]) from None
    if end <= start:
        raise InvalidInput([("end_time", "must be after start_time")])
    zone = ZoneInfo(request.time_zone or "UTC")
    last = min(end, now) - timedelta(microseconds=1)
    return {
        "start": start,
        "end": end,
        "zone": zone.key,
        "first": start.astimezone(zone).date(),
        "after": (end - timedelta(microseconds=1)).astimezone(zone).date() + timedelta(days=1),
        "as_of": last.astimezone(zone).date(),
    }


def group_of(metric: Metric, name: str) -> str:
    if not name:
        return "''"
    if name not in metric.groups:
        offered = ", ".join(metric.groups)
        raise InvalidInput([("group_by", f"must be one of {offered}")])
    return metric.groups[name]


def step_days(request: pb.AggregateRequest) -> int:
    step = request.step.ToTimedelta()
    if step < timedelta(days=1) or step % timedelta(days=1):
        raise InvalidInput([("step", "must be a whole number of days")])
    return step.days


def statement(metric: Metric, group: str) -> str:
    return (
        f"SELECT {group} AS key, {metric.numerator}, {metric.denominator}, count(DISTINCT c.id)"  # noqa: S608  templates of ours
        f" FROM {metric.source} AND {metric.within} GROUP BY 1 ORDER BY 1"
    )


def group_from(row: Sequence[Any]) -> pb.Group:
    return pb.Group(
        key=str(row[0]), numerator=float(row[1]), denominator=float(row[2]), subjects=row[3]
    )


def step_from(row: Sequence[Any], values: Mapping[str, Any], time_zone: str) -> pb.Step:
    start = values["first"] + timedelta(days=int(row[0]) * values["step"])
    step = pb.Step(figures=group_from(("", *row[1:])))
    midnight = datetime(start.year, start.month, start.day, tzinfo=ZoneInfo(time_zone or "UTC"))
    step.start_time.FromDatetime(midnight.astimezone(UTC))
    return step
