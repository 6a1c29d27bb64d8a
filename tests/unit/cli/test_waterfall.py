"""A trace drawn in a terminal."""

from datetime import UTC, datetime, timedelta

import pytest
from gatehouse.oplog.v1 import oplog_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.cli.waterfall import Node, duration, tree_of, waterfall

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def span(id_: str, parent: str = "", at: int = 0, lasts: int = 0, **fields: object) -> pb.Span:
    """A span *at* so many milliseconds after noon."""
    told: dict[str, object] = {
        "name": "operation",
        "service": "gatehouse-gateway",
        "action": "update",
        "domain": "finance",
        "outcome": pb.OUTCOME_SUCCEEDED,
        "operation_id": id_,
    }
    made = pb.Span(span_id=id_, parent_span_id=parent, **{**told, **fields})
    made.started_at.FromDatetime(NOON + timedelta(milliseconds=at))
    made.duration.FromTimedelta(timedelta(milliseconds=lasts))
    return made


def drawn(*spans: pb.Span, width: int = 80) -> list[str]:
    return [line.plain for line in waterfall(spans, width)]


def test_bars_stand_to_one_scale_under_the_spans_that_they_are_part_of() -> None:
    """LOG-5."""
    lines = drawn(
        span("a", at=0, lasts=100),
        span("b", "a", at=50, lasts=50, action="read", outcome=pb.OUTCOME_FAILED, reason="LOCKED"),
        span("c", "b", at=50, name="operation.intent", outcome=pb.OUTCOME_UNKNOWN),
    )
    assert lines == [
        "                                 0                    100 ms",
        "update finance           gateway ━━━━━━━━━━━━━━━━━━━━━━━━━━━ 100 ms succeeded",
        "└ read finance           gateway              ━━━━━━━━━━━━━━ 50 ms failed LOCKED",
        "  └ intent: update fina… gateway              ◆",
    ]


def test_parents_that_the_log_has_not_seen_have_a_line_for_each() -> None:
    """LOG-5: as long as what is known of them, however the spans come."""
    spans = [span("b", "x", at=20, lasts=10), span("a", "x", at=10), span("c", "y", at=40)]
    roots = tree_of(spans)
    assert [root.label for root in roots] == ["span x", "span y"]
    assert [child.span.span_id for child in roots[0].children if child.span] == ["a", "b"]
    assert roots[0].end - roots[0].start == 20_000
    assert "not in the log" in drawn(*spans)[1]


def test_a_clock_that_is_behind_is_told_and_does_not_move_the_trace() -> None:
    """LOG-5: of another service; what is of the same clock is drawn as it was."""
    lines = drawn(
        span("a", at=3_600_000, lasts=100),
        span("b", "a", at=0, lasts=50, service="gatehouse-usage"),
        span("c", "b", at=10, lasts=10, service="gatehouse-usage"),
    )
    assert lines[0].endswith("100 ms")
    assert lines[2].endswith("50 ms succeeded (clock −3,600 s)")
    assert lines[3].endswith("10 ms succeeded")
    assert lines[3].index("━") > lines[2].index("━")
    early = tree_of([span("a", at=10, lasts=5), span("b", "a", at=0, lasts=5)])
    assert early[0].children[0].moved == 0


@pytest.mark.parametrize(
    "parents", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}]
)
def test_parents_that_lead_in_a_circle_end_somewhere(parents: dict[str, str]) -> None:
    """LOG-5: a sender may say anything."""
    assert sorted(ids(tree_of([span(*each) for each in parents.items()]))) == sorted(parents)


def ids(roots: list[Node]) -> list[str]:
    own = [root.span.span_id for root in roots if root.span]
    return own + [id_ for root in roots for id_ in ids(root.children)]


SPANS = st.lists(
    st.builds(
        span,
        st.sampled_from("abcdefgh"),
        st.sampled_from(["", *"abcdefghxyz"]),
        st.integers(-(10**9), 10**9),
        st.integers(0, 10**6),
        service=st.sampled_from(["one", "another-service-with-a-long-name"]),
        reason=st.sampled_from(["", "A_REASON_THAT_TAKES_A_LOT_OF_ROOM"]),
    ),
    max_size=12,
    unique_by=lambda each: each.span_id,
)


@given(SPANS, st.integers(60, 200))
def test_every_span_is_drawn_once_and_no_line_is_too_long(spans: list[pb.Span], width: int) -> None:
    """LOG-5: whatever is missing, however clocks differ, in any terminal."""
    assert sorted(ids(tree_of(spans))) == sorted(each.span_id for each in spans)
    assert all(len(line) <= width for line in drawn(*spans, width=width))


@pytest.mark.parametrize(
    ("microseconds", "told"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (1_000, "1 ms"),
        (12_345, "12.3 ms"),
        (999_400, "999 ms"),
        (999_600, "1 s"),
        (61_000_000, "61 s"),
        (3_600_000_000, "3,600 s"),
    ],
)
def test_durations_are_in_their_fitting_unit(microseconds: int, told: str) -> None:
    """LOG-5."""
    assert duration(microseconds) == told
