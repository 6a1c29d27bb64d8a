"""Every part that counts days has the same ones, whatever the zone's clocks do (ALL-6, USE-4).

The kind: a day taken for 24 hours, or begun at a midnight that is not there.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from examples.clinic.aggregates import window_of
from services.gateway.analytics import aggregate_request
from services.gateway.figures import Days, days_of, shown_series
from services.gateway.interpret.dates import start_of
from services.gateway.reading import Reading
from services.usage import quota
from tests.zones import ZONES, changes

DAY, INSTANT = timedelta(days=1), timedelta(microseconds=1)


def cases() -> Iterator[tuple[str, date]]:
    for name in ZONES:
        for day in [*changes(name), date(2027, 12, 31), date(2028, 2, 29), date(2028, 6, 30)]:
            yield name, day


CASES = list(cases())


def test_the_cases_hold_every_kind_of_day() -> None:
    """ALL-6: days of 23, 24 and 25 hours, changes of half an hour, midnights that are skipped."""
    lengths, firsts = set(), set()
    for name, day in CASES:
        start, end = Days(day, day).bounds(ZoneInfo(name))
        lengths.add((end.astimezone(UTC) - start.astimezone(UTC)) / timedelta(hours=1))
        firsts.add(start.astimezone(UTC).astimezone(ZoneInfo(name)).hour)
    assert lengths >= {23.0, 23.5, 24.0, 24.5, 25.0}
    assert firsts >= {0, 1}


def test_usage_gateway_and_domain_begin_a_day_at_the_same_moment() -> None:
    """USE-4, GAT-3, GAT-8: the first moment that its clock shows the day."""
    for name, day in CASES:
        zone = ZoneInfo(name)
        start = start_of(day, zone).astimezone(UTC)
        assert start.astimezone(zone).date() == day, (name, day)
        assert (start - INSTANT).astimezone(zone).date() == day - DAY, (name, day)
        assert quota.resets_at(day - DAY, name) == start, (name, day)
        assert quota.day_of(start, name) == day, (name, day)
        assert quota.day_of(start - INSTANT, name) == day - DAY, (name, day)
        bounds = [each.astimezone(UTC) for each in Days(day, day).bounds(zone)]
        assert bounds == [start, start_of(day + DAY, zone).astimezone(UTC)], (name, day)


@pytest.mark.parametrize("length", [1, 7, 30])
def test_a_window_is_the_same_days_for_the_gateway_and_its_domain(length: int) -> None:
    """GAT-8: and those before it end where it begins."""
    for name, day in CASES:
        days = Days(day - (length - 1) * DAY, day)
        # The last instant of the day is the one at which the most has been counted.
        now = start_of(day + DAY, ZoneInfo(name)).astimezone(UTC) - INSTANT
        reading = Reading("en-US", ZoneInfo(name), now)
        assert days_of(pb.Window(last_days=length), reading) == days, (name, day)
        window = window_of(aggregate_request("no_show_rate", days, reading), now)
        assert (window.first, window.after) == (days.start, day + DAY), (name, day)
        before = days.before().bounds(reading.time_zone)
        assert before[1].astimezone(UTC) == window.start, (name, day)


def test_a_series_is_dated_by_the_days_on_which_its_steps_begin() -> None:
    """GAT-8: a step that begins at one o'clock, since midnight is skipped, is of that day."""
    for name, day in CASES:
        step = domain_pb2.Step()
        step.start_time.FromDatetime(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(name)))
        (point,) = shown_series([step], ZoneInfo(name))
        assert point.start_date == day.isoformat(), (name, day)
