"""From spans to rows (LOG-1, LOG-2, LOG-6)."""

import secrets
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.oplog.chain import link_hash
from services.oplog.projection import (
    ABANDONED,
    OUTCOMES,
    Malformed,
    OperationSpan,
    Row,
    contradicts,
    fault_of_ids,
    is_operation,
    projected,
    read_span,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
OPERATION, USER = uuid.UUID(int=1), uuid.UUID(int=2)


def account(
    number: int, kind: str, outcome: str, reason: str, began: int, took: int
) -> OperationSpan:
    """What one span says of the one operation."""
    started_at = NOON + timedelta(milliseconds=began)
    return OperationSpan(
        kind=kind,
        operation_id=OPERATION,
        request_id="r-1",
        user_id=USER,
        clinic_id=None,
        action="update",
        domain="finance",
        outcome="unknown" if kind == "intent" else outcome,
        reason="" if kind == "intent" else reason,
        model_used="",
        failover=False,
        started_at=started_at,
        ended_at=started_at + timedelta(milliseconds=took),
        trace_id=f"{number % 3 + 1:032x}",
        span_id=f"{number + 1:016x}",
        parent_span_id="",
        service="gatehouse-gateway",
    )


accounts = st.lists(
    st.builds(
        account,
        st.integers(0, 1000),
        st.sampled_from(["intent", "outcome", "settled"]),
        st.sampled_from(OUTCOMES),
        st.sampled_from(["", "RECORD_LOCKED", ABANDONED]),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each.span_id,
)


def row_of(spans: list[OperationSpan]) -> Row:
    row: Row | None = None
    for position, span in enumerate(spans, 1):
        row = projected(row, span, position) or row
    assert row is not None
    return replace(row, position=0)


@given(accounts, st.data())
def test_every_order_and_every_repetition_ends_in_the_same_row(
    spans: list[OperationSpan], data: st.DataObject
) -> None:
    """LOG-2: intents, outcomes and settlements, as they come."""
    told = data.draw(st.permutations(spans)) + data.draw(st.lists(st.sampled_from(spans)))
    assert row_of(told) == row_of(spans)


@given(accounts)
def test_what_was_carried_out_stays_carried_out(spans: list[OperationSpan]) -> None:
    """LOG-2: first-hand; what is known at all is never unknown again."""
    row = row_of(spans)
    first_hand = {each.outcome for each in spans if each.kind == "outcome"}
    if "succeeded" in first_hand:
        assert row.outcome == "succeeded"
    assert (row.outcome == "unknown") == all(each.outcome == "unknown" for each in spans)
    assert not (row.settled_later and first_hand - {"unknown"})


def test_what_was_learnt_by_asking_gives_way_to_what_was_seen() -> None:
    """LOG-2: a replica that finishes what another left knows less of it, and says so later."""
    seen = account(1, "outcome", "refused", "LOG_UNAVAILABLE", 0, 1)
    learnt = account(2, "outcome", "failed", ABANDONED, 0, 900)
    for told in ([seen, learnt], [learnt, seen]):
        assert (row_of(told).outcome, row_of(told).reason) == ("refused", "LOG_UNAVAILABLE")


def span(name: str = "operation", **changes: AnyValue | str | None) -> Span:
    values: dict[str, AnyValue | str | None] = {
        "gatehouse.operation.id": str(OPERATION),
        "gatehouse.request.id": "r-1",
        "gatehouse.action": "update",
        "gatehouse.domain": "finance",
        "gatehouse.outcome": "succeeded",
        "user.id": str(USER),
        **changes,
    }
    start = int(NOON.timestamp() * 1e9)
    return Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name=name,
        start_time_unix_nano=start,
        end_time_unix_nano=start + 1_500_000,
        attributes=[
            KeyValue(
                key=key, value=AnyValue(string_value=value) if isinstance(value, str) else value
            )
            for key, value in values.items()
            if value is not None
        ],
    )


def test_a_good_span_is_understood() -> None:
    """LOG-1."""
    read = read_span(span(), "gatehouse-gateway", NOON)
    assert isinstance(read, OperationSpan)
    assert (read.outcome, read.latency_ms, read.started_at) == ("succeeded", 1, NOON)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gatehouse.operation.id": None}, "must be given"),
        ({"gatehouse.operation.id": "x"}, "is not a UUID"),
        ({"user.id": "maria@example.org"}, "user.id is not a UUID"),
        ({"gatehouse.clinic.id": "the one in town"}, "gatehouse.clinic.id is not a UUID"),
        ({"gatehouse.request.id": None}, "gatehouse.request.id must be given"),
        ({"gatehouse.request.id": "two words"}, "gatehouse.request.id is not an identifier"),
        ({"gatehouse.request.id": "nul\0"}, "gatehouse.request.id is not an identifier"),
        ({"gatehouse.domain": "cancel Maria's visit"}, "gatehouse.domain is not an identifier"),
        ({"gatehouse.reason": "because"}, "gatehouse.reason is not an identifier"),
        ({"gatehouse.action": "admin."}, "none of the known actions"),
        ({"gatehouse.outcome": None}, "gatehouse.outcome must be given"),
        ({"gatehouse.outcome": AnyValue(int_value=1)}, "gatehouse.outcome is not a string"),
        ({"gatehouse.failover": "yes"}, "gatehouse.failover is not a boolean"),
        ({"user.id": AnyValue(array_value=ArrayValue())}, "user.id is not a string"),
    ],
)
def test_a_malformed_operation_is_told_from_a_good_one(
    changes: dict[str, AnyValue | str | None], problem: str
) -> None:
    """LOG-1: and says what is wrong with it, without what it holds."""
    bad = span(**changes)
    assert is_operation(bad)
    read = read_span(bad, "", NOON)
    assert isinstance(read, Malformed)
    assert problem in read.problem
    assert (read.trace_id, read.span_id) == (bad.trace_id.hex(), bad.span_id.hex())


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (2_000_000, 1), (2**63, 2**63), (1, 2**64 - 1), (1, int(2.2e18))]
)
def test_times_that_cannot_be_are_malformed(start: int, end: int) -> None:
    """LOG-1."""
    bad = span()
    bad.start_time_unix_nano, bad.end_time_unix_nano = start, end
    assert isinstance(read_span(bad, "", NOON), Malformed)


@given(st.binary(max_size=40), st.binary(max_size=20))
def test_only_ids_of_the_right_length_are_ids(trace_id: bytes, span_id: bytes) -> None:
    """LOG-1: 16 and 8 bytes, not all zero, by OTLP."""
    good = len(trace_id) == 16 and any(trace_id) and len(span_id) == 8 and any(span_id)
    assert (fault_of_ids(Span(trace_id=trace_id, span_id=span_id)) is None) is good


@given(st.text(min_size=12), st.sampled_from(["user.id", "gatehouse.reason", "note", "db.query"]))
def test_words_are_not_kept_aside(words: str, key: str) -> None:
    """LOG-6: neither as an attribute nor anywhere else in the span."""
    written = f"Maria {words}"
    bad = span(**{"gatehouse.outcome": "splendid", key: written})
    bad.status.message = written
    bad.trace_state = written
    bad.events.add(name=written).attributes.add(key="text").value.string_value = written
    bad.links.add(trace_state=written)
    read = read_span(bad, written, NOON)
    assert isinstance(read, Malformed)
    assert b"Maria" not in read.span
    assert "Maria" not in read.problem
    kept = Span.FromString(read.span)
    assert str(OPERATION) in {each.value.string_value for each in kept.attributes}


@given(st.text())
def test_a_services_name_is_a_name_or_nothing(name: str) -> None:
    """LOG-6: whatever a sender calls itself, its spans can be stored."""
    read = read_span(span(), name, NOON)
    assert isinstance(read, OperationSpan)
    assert read.service in (name, "")
    assert not set(read.service) & set("\0 \n")


def test_a_row_is_of_one_operation() -> None:
    """LOG-2: what differs in whose or what it is contradicts, what differs in its end does not."""
    first = account(1, "intent", "", "", 0, 0)
    row = projected(None, first, 1)
    assert not contradicts(row, account(2, "outcome", "failed", "X", 5, 5))
    for change in (
        {"user_id": uuid.UUID(int=9)},
        {"clinic_id": uuid.UUID(int=9)},
        {"action": "delete"},
        {"domain": "clients"},
        {"request_id": "r-2"},
    ):
        assert contradicts(row, replace(first, **change))


@given(accounts, st.data())
def test_a_links_hash_is_of_all_that_it_holds(
    spans: list[OperationSpan], data: st.DataObject
) -> None:
    """LOG-4: no field of a link, nor its place, nor its time, changes without its hash."""
    link = spans[0]
    hashed = link_hash(b"before", 7, NOON, link)
    name = data.draw(st.sampled_from(sorted(vars(link))))
    value = getattr(link, name)
    other = {
        bool: lambda: not value,
        str: lambda: value + "0",
        datetime: lambda: value + timedelta(microseconds=1),
    }.get(type(value), lambda: uuid.UUID(int=99))()
    assert link_hash(b"before", 7, NOON, replace(link, **{name: other})) != hashed
    assert link_hash(b"Before", 7, NOON, link) != hashed
    assert link_hash(b"before", 8, NOON, link) != hashed
    assert link_hash(b"before", 7, NOON + timedelta(microseconds=1), link) != hashed
