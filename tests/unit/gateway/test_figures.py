"""What may be shown of a domain's aggregates (GAT-8)."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import figures
from services.gateway.figures import Days
from services.gateway.reading import Reading
from services.runtime.failure import InvalidInput

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
READING = Reading("pt-BR", SAO_PAULO, datetime(2026, 11, 23, 1, 30, tzinfo=UTC))


def group(
    key: str, subjects: int, numerator: float = 1, denominator: float = 2
) -> domain_pb2.Group:
    return domain_pb2.Group(
        key=key, subjects=subjects, numerator=numerator, denominator=denominator
    )


def test_the_last_days_end_with_the_clinics_today() -> None:
    """GAT-8, USE-4: at 01:30 UTC it is still the day before in São Paulo."""
    days = figures.days_of(pb.Window(last_days=30), READING)
    assert days == Days(date(2026, 10, 24), date(2026, 11, 22))
    assert days.count == 30


def test_a_window_reaches_back_to_its_first_day() -> None:
    """GAT-8: what is checked against analytics_window_days."""
    window = pb.Window(range=pb.DateRange(start_date="2026-10-24", end_date="2026-10-25"))
    assert figures.reaches_back(window, READING) == 30
    assert figures.reaches_back(pb.Window(last_days=365), READING) == 365


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("2026-02-30", "2026-03-01", "window.range.start_date"),
        ("2026-02-01", "tomorrow", "window.range.end_date"),
        ("2026-02-02", "2026-02-01", "window.range.end_date"),
        ("1990-01-01", "2026-02-01", "window.range"),
    ],
)
def test_impossible_days_are_refused_by_name(start: str, end: str, field: str) -> None:
    """GAT-8: bad input gets a clear error."""
    window = pb.Window(range=pb.DateRange(start_date=start, end_date=end))
    with pytest.raises(InvalidInput) as caught:
        figures.days_of(window, READING)
    assert caught.value.violations[0][0] == field


def test_a_day_on_which_clocks_change_has_its_own_length() -> None:
    """USE-4: midnights are the zone's, not 24 hours apart."""
    start, end = Days(date(2026, 3, 8), date(2026, 3, 8)).bounds(ZoneInfo("America/New_York"))
    assert end.astimezone(UTC) - start.astimezone(UTC) == timedelta(hours=23)


def test_only_known_metrics_are_computed() -> None:
    """GAT-8: templates only."""
    with pytest.raises(InvalidInput) as caught:
        figures.check_metrics(["no_show_rate", "clients; drop table"])
    assert caught.value.reason == "UNKNOWN_METRIC"
    assert [field for field, _ in caught.value.violations] == ["metrics[1]"]


def test_groups_of_fewer_than_five_people_are_left_out() -> None:
    """GAT-8."""
    shown, left_out = figures.shown_groups([group("a", 4), group("b", 3), group("c", 5)])
    assert [each.key for each in shown] == ["c"]
    assert left_out == 2


def test_a_single_small_group_cannot_be_computed_from_the_others() -> None:
    """GAT-8: the total less the shown groups would be the one left out."""
    shown, left_out = figures.shown_groups([group("a", 2), group("b", 9), group("c", 7)])
    assert [each.key for each in shown] == ["b"]
    assert left_out == 2


@given(st.lists(st.integers(min_value=0, max_value=12), max_size=12))
def test_what_is_left_out_is_never_about_fewer_than_five(sizes: list[int]) -> None:
    """GAT-8: nobody can be singled out, neither by a shown group nor by a difference."""
    groups = [group(f"g{index}", size) for index, size in enumerate(sizes)]
    shown, left_out = figures.shown_groups(groups)
    shown_keys = {each.key for each in shown}
    hidden = sum(each.subjects for each in groups if each.key not in shown_keys)
    assert all(each.subjects >= 5 for each in groups if each.key in shown_keys)
    assert hidden == 0 or hidden >= 5 or not shown_keys
    assert left_out == sum(size > 0 for size in sizes) - len(shown_keys)


def test_nothing_below_the_line_is_no_rate() -> None:
    """GAT-8."""
    assert not figures.figure(group("", 0, 0, 0)).HasField("value")
    assert figures.total(group("", 4)) is None
    assert figures.total(group("", 0, 0, 0)) is not None


def test_a_series_is_dated_in_the_clinics_days() -> None:
    """GAT-8: a step that begins at local midnight has the local date."""
    step = domain_pb2.Step(figures=group("", 6))
    step.start_time.FromDatetime(datetime(2026, 11, 1, tzinfo=SAO_PAULO))
    (point,) = figures.shown_series([step], SAO_PAULO)
    assert point.start_date == "2026-11-01"
    assert point.figure.key == ""
