"""Decisions on a batch of claims (USE-1 to USE-8)."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.usage import quota
from services.usage.books import Books, days_of, decide
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    Granted,
    Kind,
    Limits,
    OperationIdReused,
    OverLimit,
    OverWindow,
    Receipt,
    Thresholds,
    Window,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = NOON.date()
USER = uuid.UUID(int=7)


def claim(kind: Kind = Kind.QUERY, count: int = 1, **changes: object) -> Claim:
    made = Claim(uuid.uuid4(), USER, None, kind, count, Limits(40, 40), "UTC")
    return replace(made, **changes)


def books(
    *claims: Claim,
    balance: Balance | None = None,
    window: Window | None = None,
    receipts: tuple[Receipt, ...] = (),
    at: datetime = NOON,
) -> Books:
    return Books(
        at,
        Thresholds(),
        dict.fromkeys(days_of(claims, at), balance or Balance()),
        {(each.user_id, each.operation_id): each for each in receipts},
        {USER: window or Window()},
    )


def receipt_of(of: Claim, **changes: object) -> Receipt:
    made = Receipt(of.user_id, of.operation_id, of.kind, DAY, of.count, of.count)
    return replace(made, **changes)


def added(on: Books) -> Balance:
    """What the receipts that are to be written say is counted."""
    total = Balance()
    for _, receipt in (*on.written.values(), *on.revived.values()):
        total = total.plus(receipt.kind, receipt.granted)
    return total


def decision(of: object) -> object:
    assert isinstance(of, Admission)
    return of.decision


def test_the_same_id_twice_in_a_batch_counts_once() -> None:
    """USE-2: the second is answered like the first."""
    same = claim()
    on = books(same)
    first, second = decide(same, on), decide(same, on)
    assert decision(first) == decision(second) == Granted(1, DAY)
    assert [first.replayed, second.replayed] == [False, True]
    assert added(on) == Balance(1)


def test_the_same_id_for_something_else_in_a_batch_is_refused() -> None:
    """USE-2: and what came first stands."""
    one = claim(Kind.MODIFY, 2)
    other = replace(one, count=3)
    on = books(one, other)
    assert decision(decide(one, on)) == Granted(2, DAY)
    assert isinstance(decide(other, on), OperationIdReused)
    assert added(on) == Balance(0, 2)


def test_a_retry_after_midnight_is_answered_as_then() -> None:
    """USE-2, USE-4: with the day of then, what is left of today, and nothing counted."""
    old = claim()
    on = books(old, receipts=(receipt_of(old),), at=NOON + timedelta(days=1))
    answer = decide(old, on)
    assert answer.replayed
    assert decision(answer) == Granted(1, DAY)
    assert answer.balance == Balance()
    assert answer.day == DAY + timedelta(days=1)
    assert added(on) == Balance()


def test_claims_of_one_user_under_two_zones_count_on_their_days() -> None:
    """USE-4: each on its own clinic's day, and each day within its limit."""
    late = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
    here, there = claim(limits=Limits(1)), claim(limits=Limits(1), time_zone="Asia/Tokyo")
    more = claim(limits=Limits(1), time_zone="Asia/Tokyo")
    on = books(here, there, more, at=late)
    assert decision(decide(here, on)) == Granted(1, DAY)
    assert decision(decide(there, on)) == Granted(1, DAY + timedelta(days=1))
    assert isinstance(decision(decide(more, on)), OverLimit)


def test_what_the_caller_released_is_not_granted_anew() -> None:
    """USE-2: the retry of it is answered as then, and nothing is counted."""
    back = claim(Kind.MODIFY, 3)
    on = books(back, receipts=(receipt_of(back, released=3),))
    assert decision(decide(back, on)) == Granted(3, DAY)
    assert added(on) == Balance()


def test_what_lapsed_is_decided_anew() -> None:
    """USE-2, USE-3: it was given back unasked, so carrying it out needs room again."""
    lapsed = claim(Kind.MODIFY, 3)
    receipt = receipt_of(lapsed, released=3, lapsed=True)
    on = books(lapsed, receipts=(receipt,), window=Window(modifies=5))
    answer = decide(lapsed, on)
    assert (decision(answer), answer.replayed) == (Granted(3, DAY), False)
    assert added(on) == Balance(0, 3)
    assert not on.written
    assert on.windows[USER] == Window(modifies=5)
    full = books(lapsed, receipts=(receipt,), balance=Balance(0, 38))
    assert isinstance(decision(decide(lapsed, full)), OverLimit)


def test_one_claim_starts_a_cool_down_and_the_next_ones_meet_it() -> None:
    """USE-6: only one is told that it began; none prolongs it, counts, or sits in a window."""
    claims = [claim() for _ in range(15)]
    on = books(*claims)
    answers = [decision(decide(each, on)) for each in claims]
    assert [isinstance(each, Granted) for each in answers] == [True] * 12 + [False] * 3
    assert [each.started for each in answers[12:]] == [True, False, False]
    assert {each.until for each in answers[12:]} == {NOON + timedelta(minutes=15)}
    assert on.windows[USER].queries == 12
    assert added(on) == Balance(12)


def test_what_the_day_refuses_overruns_no_window() -> None:
    """USE-1, USE-6: it is not admitted, so it is no query; also when the window is full."""
    one = claim(limits=Limits(reads=0))
    on = books(one, window=Window(queries=12))
    assert isinstance(decision(decide(one, on)), OverLimit)
    assert not on.started


def test_a_cool_down_is_told_before_the_days_limit() -> None:
    """USE-6."""
    one = claim(limits=Limits(reads=0))
    until = NOON + timedelta(minutes=3)
    on = books(one, window=Window(cool_down_until=until))
    over = decision(decide(one, on))
    assert isinstance(over, OverWindow)
    assert (over.until, over.started) == (until, False)
    assert isinstance(
        decision(decide(claim(), books(one, window=Window(cool_down_until=NOON)))), Granted
    )


def test_a_dry_run_enters_nothing() -> None:
    """USE-8: not even the cool-down that it would start."""
    dry = claim(validate_only=True)
    on = books(dry, window=Window(queries=12))
    over = decision(decide(dry, on))
    assert isinstance(over, OverWindow)
    assert over.started
    on = books(dry)
    assert decision(decide(dry, on)) == Granted(1, DAY)
    assert (added(on), on.started, on.written) == (Balance(), {}, {})


def test_a_bulk_is_one_entry_of_the_window() -> None:
    """USE-6: whatever it counts of the day."""
    bulk = claim(Kind.MODIFY, 30)
    on = books(bulk)
    decide(bulk, on)
    assert on.windows[USER].modifies == 1
    assert added(on) == Balance(0, 30)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(Kind), st.integers(1, 4), st.booleans()),
        max_size=60,
    ),
    st.integers(0, 30),
)
def test_counts_are_what_the_receipts_say_and_within_the_limit(
    asked: list[tuple[int, Kind, int, bool]], limit: int
) -> None:
    """USE-2, USE-3: whatever is claimed, retried, and asked in part, in one batch."""
    claims = [
        claim(
            kind,
            count if kind is Kind.MODIFY else 1,
            operation_id=uuid.UUID(int=number),
            limits=Limits(limit, limit),
            allow_partial=partial,
        )
        for number, kind, count, partial in asked
    ]
    on = books(*claims, claim())
    answers = [decide(each, on) for each in claims]
    balance = on.balances[USER, DAY]
    for kind in Kind:
        receipts = [each for each in on.receipts.values() if each.kind is kind]
        assert sum(each.granted for each in receipts) == balance.of(kind) <= limit
        assert len(receipts) <= on.thresholds.limit(kind)
    fresh = [
        each.decision.count
        for each in answers
        if isinstance(each, Admission) and isinstance(each.decision, Granted) and not each.replayed
    ]
    assert sum(fresh) == balance.read_count + balance.modify_count


@given(st.integers(1, 50), st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_given_back_grows_up_to_what_was_granted(granted: int, counts: list[int]) -> None:
    """USE-2: whatever is asked for, in whatever order; the total, not an addition."""
    receipt = Receipt(USER, USER, Kind.MODIFY, date(2026, 1, 1), granted, granted)
    for count in counts:
        total = quota.given_back(receipt, count)
        assert receipt.released <= total <= granted
        receipt = replace(receipt, released=total)
    assert receipt.released == max(min(count or granted, granted) for count in counts)
