"""Which figures give reason to advise (GAT-10)."""

import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.recommendations import OCCASIONS, advice_from


def result(metric: str, value: float) -> pb.MetricResult:
    return pb.MetricResult(metric=metric, total=pb.Figure(value=value, denominator=100))


def test_the_most_pressing_comes_first() -> None:
    """GAT-10."""
    found = advice_from([result("overdue_ratio", 0.2), result("no_show_rate", 0.5)], [], 0)
    assert [each.occasion.metric for each in found] == ["no_show_rate", "overdue_ratio"]


def test_a_good_figure_gives_no_reason_to_advise() -> None:
    """GAT-10."""
    good = [result("overdue_ratio", 0.05), result("engagement_rate", 0.9)]
    assert advice_from(good, [], 0) == []


def test_only_the_categories_asked_for() -> None:
    """GAT-10."""
    results = [result("overdue_ratio", 0.5), result("engagement_rate", 0.1)]
    found = advice_from(results, [pb.RECOMMENDATION_CATEGORY_CLIENT_ENGAGEMENT], 0)
    assert [each.occasion.metric for each in found] == ["engagement_rate"]


def test_a_suppressed_figure_gives_no_advice() -> None:
    """GAT-8, GAT-10."""
    assert advice_from([pb.MetricResult(metric="overdue_ratio")], [], 0) == []


@given(st.floats(0, 1), st.floats(0, 1))
def test_worse_is_more_pressing(one: float, other: float) -> None:
    """GAT-10: pressure is monotonic, 0 at the threshold, and at most 1."""
    for occasion in OCCASIONS:
        worse, better = (max, min) if occasion.above else (min, max)
        assert occasion.pressure(worse(one, other)) >= occasion.pressure(better(one, other))
        assert occasion.pressure(one) <= 1 + 1e-9
        assert occasion.pressure(occasion.threshold) == pytest.approx(0)


def test_a_figure_is_another_by_its_percent_and_its_days() -> None:
    """GAT-10: the advice is about the same whatever the figure, and deduplicated by that."""
    (one,) = advice_from([result("overdue_ratio", 0.2)], [], 0)
    (other,) = advice_from([result("overdue_ratio", 0.2004)], [], 0)
    (changed,) = advice_from([result("overdue_ratio", 0.3)], [], 0)
    later = result("overdue_ratio", 0.2)
    later.end_date = "2026-12-01"
    (moved,) = advice_from([later], [], 0)
    assert one.figure == other.figure != changed.figure
    assert moved.figure != one.figure
    assert len({each.fingerprint for each in (one, other, changed, moved)}) == 1
