"""Aggregates: figures, and never rows (GAT-8)."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb

from services.conformance.findings import NotTried, Wrong, check, expect
from services.conformance.subject import ZONE, Subject, reason_in
from services.runtime.failure import status_of

DAYS = 28
STEP_DAYS = 7
# What a group's key must not be: the id or the address of somebody.
IDENTIFIER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|@[\w-]+\.|\+?\d{9,}")


@check("measure.figures")
async def figures(subject: Subject) -> None:
    """Each metric gives one group over all: numerator, denominator, subjects, and as of when."""
    for metric in offered(subject):
        answer = await aggregate(subject, metric.name)
        expect(answer.HasField("as_of"), f"{metric.name} does not say as of when")
        keys = [each.key for each in answer.groups]
        expect(keys == [""], f"{metric.name} without a group_by gave the groups {keys}")
        check_figures(metric.name, answer.groups)


@check("measure.groups")
async def groups(subject: Subject) -> None:
    """Grouped, the keys are in order, once each, and name nobody."""
    tried = [(metric.name, by) for metric in offered(subject) for by in metric.group_by]
    if not tried:
        raise NotTried("no metric can be grouped")
    for name, by in tried:
        answer = await aggregate(subject, name, group_by=by)
        keys = [each.key for each in answer.groups]
        expect(keys == sorted(set(keys)), f"{name} by {by}: the keys are not in order, once each")
        naming = [key for key in keys if IDENTIFIER.search(key)]
        expect(not naming, f"{name} by {by}: a key names somebody: {naming[:1]}")
        check_figures(name, answer.groups)


@check("measure.series")
async def series(subject: Subject) -> None:
    """A series has every step of the window, in order, each from where the last one ended."""
    for metric in offered(subject):
        answer = await aggregate(subject, metric.name, step_days=STEP_DAYS)
        starts = [each.start_time.ToDatetime(tzinfo=UTC) for each in answer.series]
        start, _ = window()
        wanted = [start + timedelta(days=at) for at in range(0, DAYS, STEP_DAYS)]
        near = len(starts) == len(wanted) and all(
            abs(given - want) <= timedelta(hours=2)
            for given, want in zip(starts, wanted, strict=True)
        )
        expect(near, f"{metric.name} gave {len(starts)} of {len(wanted)} steps, or others")
        check_figures(metric.name, [each.figures for each in answer.series])


@check("measure.same")
async def same(subject: Subject) -> None:
    """Asked again without a change between, a metric gives the same figures."""
    for metric in offered(subject):
        first, second = [await aggregate(subject, metric.name) for _ in range(2)]
        expect(list(first.groups) == list(second.groups), f"{metric.name} gave other figures")


@check("measure.unknown_metric")
async def unknown_metric(subject: Subject) -> None:
    """A metric that the domain has not is NOT_FOUND with UNKNOWN_METRIC."""
    await refused(subject, "no_such_metric", grpc.StatusCode.NOT_FOUND, "UNKNOWN_METRIC")


@check("measure.unknown_group")
async def unknown_group(subject: Subject) -> None:
    """A field that the metric cannot be grouped by is INVALID_ARGUMENT."""
    for metric in offered(subject):
        await refused(
            subject, metric.name, grpc.StatusCode.INVALID_ARGUMENT, group_by="no_such_field"
        )


@check("measure.window_backwards")
async def window_backwards(subject: Subject) -> None:
    """A window that ends before it starts is INVALID_ARGUMENT."""
    for metric in offered(subject):
        await refused(subject, metric.name, grpc.StatusCode.INVALID_ARGUMENT, backwards=True)


def offered(subject: Subject) -> Sequence[pb.Metric]:
    """The domain's metrics. Raises NotTried without any."""
    if not subject.described.metrics:
        raise NotTried("the domain has no metrics")
    return subject.described.metrics


def check_figures(name: str, found: Sequence[pb.Group]) -> None:
    for each in found:
        numbers = (each.numerator, each.denominator)
        expect(
            all(math.isfinite(number) and number >= 0 for number in numbers),
            f"{name} has a figure that is negative or no number",
        )
        expect(
            each.subjects or not each.denominator,
            f"{name} has figures without subjects: how many people they are about",
        )


async def aggregate(
    subject: Subject,
    metric: str,
    *,
    group_by: str = "",
    step_days: int = 0,
    backwards: bool = False,
) -> pb.AggregateResponse:
    start, end = window()
    if backwards:
        start, end = end, start
    request = pb.AggregateRequest(metric=metric, group_by=group_by, time_zone=ZONE)
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end)
    if step_days:
        request.step.FromTimedelta(timedelta(days=step_days))
    answer: pb.AggregateResponse = await subject.stub.Aggregate(request, **subject.call())
    return answer


async def refused(
    subject: Subject,
    metric: str,
    code: grpc.StatusCode,
    reason: str = "",
    *,
    group_by: str = "",
    backwards: bool = False,
) -> None:
    """Raises Wrong unless the metric is refused with *code*, and *reason* where one is given."""
    try:
        await aggregate(subject, metric, group_by=group_by, backwards=backwards)
    except grpc.aio.AioRpcError as error:
        status = status_of(error)
        given = reason_in(status) if status is not None else ""
        subject.statuses += [] if status is None else [status]
        expect(error.code() is code, f"it failed with {error.code().name}, not {code.name}")
        expect(given, "it failed without an ErrorInfo")
        expect(reason in ("", given), f"its reason is {given}, not {reason}")
    else:
        raise Wrong("it was answered")


def window() -> tuple[datetime, datetime]:
    """Some weeks up to this day, from the beginning of a day of the zone."""
    today = datetime.now(ZoneInfo(ZONE)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (today - timedelta(days=DAYS)).astimezone(UTC), today.astimezone(UTC)
