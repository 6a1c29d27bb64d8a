"""From a domain's aggregates to figures that may be shown (GAT-8). Waits for nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.reading import Reading
from services.runtime.failure import InvalidInput

SMALLEST_GROUP = 5
LONGEST_WINDOW_DAYS = 36_500
# Beyond them the window before, or a zone's midnight, would be no date any more.
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2999, 12, 31)

METRICS = ("engagement_rate", "cancellation_rate", "no_show_rate", "overdue_ratio")
"""The metric templates, and no others; a domain says in its descriptor which it computes."""
STATES = ("overdue_ratio",)
"""Those that are the state of a window's last day, and not of what happened within it."""


@dataclass(frozen=True)
class Days:
    """Whole days of a zone, both inclusive."""

    start: date
    end: date

    @property
    def count(self) -> int:
        return (self.end - self.start).days + 1

    def before(self) -> "Days":
        """The window of the same length that ends where this one starts."""
        return Days(self.start - timedelta(days=self.count), self.start - timedelta(days=1))

    def bounds(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """The first moment, and the first one after: midnights of *zone*, 23 or 25 h days too."""
        after = self.end + timedelta(days=1)
        return (
            datetime.combine(self.start, time.min, zone),
            datetime.combine(after, time.min, zone),
        )


def days_of(window: pb.Window, reading: Reading) -> Days:
    """The days that *window* means. Raises InvalidInput for days that cannot be."""
    today = reading.now.astimezone(reading.time_zone).date()
    if window.WhichOneof("window") == "last_days":
        return Days(today - timedelta(days=window.last_days - 1), today)
    start = day(window.range.start_date, "window.range.start_date")
    end = day(window.range.end_date, "window.range.end_date")
    if end < start:
        raise InvalidInput([("window.range.end_date", "must not be before start_date")])
    if (end - start).days >= LONGEST_WINDOW_DAYS:
        raise InvalidInput([("window.range", f"must be at most {LONGEST_WINDOW_DAYS} days")])
    if start < FIRST_DAY or end > LAST_DAY:
        raise InvalidInput([("window.range", f"must be between {FIRST_DAY} and {LAST_DAY}")])
    return Days(start, end)


def day(text: str, field: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput([(field, "must be a day such as 2026-11-23")]) from None


def reaches_back(window: pb.Window, reading: Reading, *, twice: bool = False) -> int:
    """How many days back *window* begins, today being the first; *twice* with those before it.

    Raises InvalidInput.
    """
    today = reading.now.astimezone(reading.time_zone).date()
    days = days_of(window, reading)
    return (today - days.start).days + 1 + (days.count if twice else 0)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises InvalidInput, with reason UNKNOWN_METRIC, naming each metric that is no template."""
    known = ", ".join(METRICS)
    violations = [
        (f"metrics[{index}]", f"must be one of {known}")
        for index, metric in enumerate(metrics)
        if metric not in METRICS
    ]
    if violations:
        raise InvalidInput(violations, reason="UNKNOWN_METRIC")
    if len(set(metrics)) != len(metrics):
        raise InvalidInput([("metrics", "must not name a metric twice")])


def step_of(days: Days) -> timedelta | None:
    """The width of a series' steps: a chart has some ten to thirty points, and at most 122."""
    for longest, step in ((1, None), (31, 1), (182, 7), (3650, 30)):
        if days.count <= longest:
            return timedelta(days=step) if step else None
    return timedelta(days=365)


def figure(group: domain_pb2.Group) -> pb.Figure:
    shown = pb.Figure(key=group.key, numerator=group.numerator, denominator=group.denominator)
    if group.denominator > 0:
        shown.value = group.numerator / group.denominator
    return shown


def total(group: domain_pb2.Group) -> pb.Figure | None:
    """The figure of all together, or None where it is about too few people.

    One about nobody tells nothing of anybody, so it stays.
    """
    return figure(group) if group.subjects == 0 or group.subjects >= SMALLEST_GROUP else None


def shown_groups(groups: Iterable[domain_pb2.Group]) -> tuple[list[pb.Figure], int]:
    """The figures of groups that may be shown, in their order, and how many at least are left out.

    As many groups as people would say that each group is one person, so one fewer is told then.
    """
    populated = [group for group in groups if group.subjects > 0]
    hidden = hidden_of(populated)
    shown = [figure(each) for place, each in enumerate(populated) if place not in hidden]
    people = sum(populated[place].subjects for place in hidden)
    return shown, min(len(hidden), max(people - 1, 1)) if hidden else 0


def shown_series(steps: Iterable[domain_pb2.Step], zone: ZoneInfo) -> list[pb.SeriesPoint]:
    """Every step as a point of a chart; one that may not be shown is marked, without a figure.

    Where none may be shown, those about nobody are marked too: they would narrow down the others.
    """
    every = list(steps)
    populated = [place for place, step in enumerate(every) if step.figures.subjects > 0]
    hidden = hidden_of([every[place].figures for place in populated])
    all_hidden = bool(hidden) and len(hidden) == len(populated)
    suppressed = set(range(len(every))) if all_hidden else {populated[at] for at in hidden}
    points = []
    for place, step in enumerate(every):
        start = step.start_time.ToDatetime(tzinfo=ZoneInfo("UTC")).astimezone(zone)
        point = pb.SeriesPoint(start_date=start.date().isoformat())
        if place in suppressed:
            point.suppressed = True
        else:
            point.figure.CopyFrom(figure(step.figures))
            point.figure.key = ""
        points.append(point)
    return points


def hidden_of(groups: Sequence[domain_pb2.Group]) -> set[int]:
    """The places of *groups* to leave out, so that the total less the others gives none away.

    Beside those about fewer than five people others are left out, the smallest first, until what
    is left out together leaves each of them open; all of them where nothing less does.
    """
    order = sorted(range(len(groups)), key=lambda at: (groups[at].subjects, groups[at].key))
    small = sum(each.subjects < SMALLEST_GROUP for each in groups)
    if not small:
        return set()
    for count in range(small + 1, len(order)):
        concealed = [groups[at] for at in order[:count]]
        if leaves_open(concealed, small, groups[order[count]].subjects):
            return set(order[:count])
    return set(order)


def leaves_open(concealed: Sequence[domain_pb2.Group], small: int, smallest_shown: int) -> bool:
    """Whether each of the *small* groups may still be of any size, and of more than one rate.

    Known to whoever subtracts: the sums over what is *concealed*, that a small one is about 1 to 4
    people, and that each other one is about 5 or more, and no more than the smallest shown. People
    may be in several groups, so the others hold five in their own right.
    """
    others = len(concealed) - small
    people = sum(each.subjects for each in concealed)
    least, most = 1, SMALLEST_GROUP - 1
    may_be_most = people >= most + least * (small - 1) + SMALLEST_GROUP * others
    may_be_least = people <= least + most * (small - 1) + smallest_shown * others
    above = sum(each.numerator for each in concealed)
    below = sum(each.denominator for each in concealed)
    return may_be_most and may_be_least and 0 < above < below
