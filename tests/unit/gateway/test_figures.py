"""What may be shown of a domain's aggregates (GAT-8)."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.gateway import figures, peers
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


@pytest.mark.parametrize("days", [1, 2, 31, 32, 182, 183, 365, 3650, 3651, 36_500])
def test_a_window_of_any_length_has_a_chart(days: int) -> None:
    """GAT-8: of no more steps than an answer may have, together with a group and a total."""
    step = figures.step_of(Days(date(2126, 1, 1) - timedelta(days=days), date(2125, 12, 31)))
    assert (step is None) == (days == 1)
    if step is not None:
        assert -(-days // step.days) <= 122 < peers.MOST_GROUPS
    assert figures.reaches_back(pb.Window(last_days=days), READING, twice=True) == 2 * days


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("2026-02-30", "2026-03-01", "window.range.start_date"),
        ("2026-02-01", "tomorrow", "window.range.end_date"),
        ("2026-02-02", "2026-02-01", "window.range.end_date"),
        ("1926-01-01", "2026-02-01", "window.range"),
        ("1899-12-31", "1900-02-01", "window.range"),
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
    groups = [group("a", 4), group("b", 3), group("c", 20), group("d", 30)]
    shown, left_out = figures.shown_groups(groups)
    assert [each.key for each in shown] == ["d"]
    assert left_out == 3


def test_a_single_small_group_cannot_be_computed_from_the_others() -> None:
    """GAT-8: the total less the shown groups would be the one left out."""
    shown, left_out = figures.shown_groups([group("a", 2), group("b", 9), group("c", 15)])
    assert [each.key for each in shown] == ["c"]
    assert left_out == 2


@pytest.mark.parametrize("sizes", [(4, 4), (1, 5), (3, 3), (4, 4, 4), (1, 5, 5)])
def test_a_sum_that_only_one_way_makes_is_not_left_to_be_had(sizes: tuple[int, ...]) -> None:
    """GAT-8: eight people in two groups of at most four, or six in one of one to four and one of
    five or more, would tell the size of each.
    """
    groups = [group(f"g{place}", size) for place, size in enumerate(sizes)]
    shown, left_out = figures.shown_groups([*groups, group("x", 20), group("y", 50)])
    assert [each.key for each in shown] == ["y"]
    assert left_out == len(sizes) + 1


def test_the_same_few_people_in_two_groups_are_few() -> None:
    """GAT-8: three people who come on Mondays and Fridays are three, not six."""
    days = [group("Friday", 3), group("Monday", 3), group("Sunday", 12), group("Tuesday", 20)]
    shown, _ = figures.shown_groups(days)
    assert [each.key for each in shown] == ["Tuesday"]


def test_what_is_left_out_is_not_all_of_a_kind() -> None:
    """GAT-8: where nobody of the groups left out missed, each of them missed nothing."""
    groups = [group("a", 2, 0, 2), group("b", 9, 0, 9), group("c", 15, 3, 15), group("d", 40)]
    shown, _ = figures.shown_groups(groups)
    assert [each.key for each in shown] == ["d"]


def worlds(people: int, groups: int, most: int) -> Iterator[tuple[int, ...]]:
    """Every way in which *people* fall into *groups*, none of them empty."""
    if groups == 1:
        if 1 <= people <= most:
            yield (people,)
        return
    for first in range(1, min(most, people) + 1):
        for rest in worlds(people - first, groups - 1, most):
            yield (first, *rest)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=9), min_size=2, max_size=4))
@example([1, 1, 1, 1, 1])
@example([4, 4, 6, 7])
@example([4, 10, 10, 10])
def test_no_small_group_can_be_computed_from_what_is_shown(sizes: list[int]) -> None:
    """GAT-8: whoever knows the total, the groups shown, the names of the others and this very rule,
    finds more than one size that each small group may have.
    """

    def told_of(world: Sequence[int]) -> tuple[list[pb.Figure], int]:
        return figures.shown_groups(
            group(f"g{at}", size, size / 3, size) for at, size in enumerate(world)
        )

    shown, left_out = told_of(sizes)
    keys = {each.key for each in shown}
    hidden = [at for at in range(len(sizes)) if f"g{at}" not in keys]
    small = [at for at, size in enumerate(sizes) if size < figures.SMALLEST_GROUP]
    assert set(small) <= set(hidden)
    people = sum(sizes[at] for at in hidden)
    if not small or sum(sizes) < figures.SMALLEST_GROUP:
        return  # the total is not shown either, and no group is
    open_: dict[int, set[int]] = {at: set() for at in small}
    for more in (0, -1):  # how many groups there are is not known where all are left out
        for world in worlds(people, len(hidden) + more, people) if not (more and shown) else ():
            filled = [sizes[at] for at in range(len(sizes)) if at not in hidden]
            places = hidden[: len(world)]
            for at, size in zip(places, world, strict=True):
                filled.insert(at, size)
            if told_of(filled) == (shown, left_out):
                for at in small:
                    open_[at].add(filled[at] if at < len(filled) else 0)
    assert all(len(possible) > 1 for possible in open_.values()), open_


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 30)).map(lambda at: (at[0], min(at))),
        min_size=2,
        max_size=8,
    )
)
def test_no_rate_of_a_small_group_can_be_computed(figures_of: list[tuple[int, int]]) -> None:
    """GAT-8: nor what is above the line, even by someone who knows what is below it.

    But where all groups are left out and everybody or nobody counts, the total itself says so.
    """
    groups = [group(f"g{at}", below, above, below) for at, (below, above) in enumerate(figures_of)]
    hidden = figures.hidden_of(groups)
    small = [at for at in hidden if groups[at].subjects < figures.SMALLEST_GROUP]
    above = sum(groups[at].numerator for at in hidden)
    below = sum(groups[at].denominator for at in hidden)
    if len(hidden) == len(groups) and above in (0, below):
        return
    for at in small:
        others = below - groups[at].denominator
        least = max(0, above - others)
        assert least < min(above, groups[at].denominator)


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


def test_a_series_has_every_step_and_marks_what_it_leaves_out() -> None:
    """GAT-8: a chart has a gap there, and zero where there was nothing, over a clock change too."""
    new_york = ZoneInfo("America/New_York")
    sizes = [20, 2, 0, 9, 30]
    steps = [domain_pb2.Step(figures=group("", size, size // 2, size)) for size in sizes]
    for place, step in enumerate(steps):
        step.start_time.FromDatetime(datetime(2026, 3, 6 + place, tzinfo=new_york))
    points = figures.shown_series(steps, new_york)
    assert [each.start_date for each in points] == [f"2026-03-{6 + at:02}" for at in range(5)]
    assert [each.suppressed for each in points] == [False, True, False, True, False]
    assert [each.HasField("figure") for each in points] == [not each.suppressed for each in points]
    assert not points[2].figure.HasField("value")


@given(
    st.dates(date(2020, 1, 1), date(2030, 1, 1)),
    st.integers(1, 400),
    st.sampled_from(["America/New_York", "America/Sao_Paulo", "Europe/Madrid", "UTC"]),
)
def test_the_window_before_is_as_long_and_ends_where_this_begins(
    start: date, length: int, zone: str
) -> None:
    """GAT-8, USE-4: in days of the clinic, also when clocks change between."""
    days = Days(start, start + timedelta(days=length - 1))
    before = days.before()
    assert before.count == days.count
    assert before.bounds(ZoneInfo(zone))[1] == days.bounds(ZoneInfo(zone))[0]
