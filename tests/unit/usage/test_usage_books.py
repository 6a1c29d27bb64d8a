"""Decisions on a batch of claims (USE-1 to USE-8)."""

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.usage import quota
from services.usage.books import Books, decide
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    ClaimReleased,
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
    receipt: Receipt | None = None,
    last_day: date | None = None,
    at: datetime = NOON,
) -> Books:
    """Books on which *receipt*, if any, is that of the first of *claims*."""
    days = {quota.day_of(at, each.time_zone) for each in claims}
    if last_day:
        days.add(last_day)
    return Books(
        at,
        Thresholds(),
        {(USER, day): balance or Balance() for day in days},
        {(USER, claims[0].operation_id): receipt} if receipt else {},
        {USER: (window or Window()).believed(at, Thresholds())},
        {USER: last_day} if last_day else {},
    )


def receipt_of(of: Claim, **changes: object) -> Receipt:
    return replace(Receipt(of.kind, DAY, of.count, of.count), **changes)


def added(on: Books) -> Balance:
    """What the receipts that are to be written say is counted."""
    total = Balance()
    for _, receipt in on.written.values():
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
    on = books(old, receipt=receipt_of(old), at=NOON + timedelta(days=1))
    answer = decide(old, on)
    assert answer.replayed
    assert decision(answer) == Granted(1, DAY)
    assert answer.balance == Balance()
    assert answer.day == DAY + timedelta(days=1)
    assert added(on) == Balance()


def test_a_user_has_one_day_at_a_time() -> None:
    """USE-4: kind: two quotas at once. Claims in alternating zones count on the later day alone."""
    late = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
    claims = [
        claim(limits=Limits(2), time_zone=zone)
        for zone in ("UTC", "Asia/Tokyo", "UTC")
        for _ in "ab"
    ]
    on = books(*claims, at=late)
    answers = [decision(decide(each, on)) for each in claims]
    tomorrow = DAY + timedelta(days=1)
    assert answers[:4] == [Granted(1, DAY)] * 2 + [Granted(1, tomorrow)] * 2
    assert all(isinstance(each, OverLimit) for each in answers[4:])
    assert on.changes[USER].usage_date == tomorrow


@pytest.mark.parametrize(
    ("last", "at", "zone", "day"),
    [
        (None, NOON, "UTC", DAY),
        (DAY - timedelta(days=1), NOON, "UTC", DAY),
        # It is tomorrow somewhere already, and this user was counted on it.
        (DAY + timedelta(days=1), NOON, "UTC", DAY + timedelta(days=1)),
        (DAY + timedelta(days=1), NOON, "Pacific/Pago_Pago", DAY + timedelta(days=1)),
        # It is tomorrow nowhere on earth yet: a clock was ahead.
        (DAY + timedelta(days=1), datetime(2026, 11, 23, 9, 59, tzinfo=UTC), "UTC", DAY),
        (date(2031, 1, 1), NOON, "UTC", DAY),
        (date(2031, 1, 1), NOON, "Pacific/Kiritimati", DAY + timedelta(days=1)),
    ],
)
def test_a_day_is_not_before_the_last_one(
    last: date | None, at: datetime, zone: str, day: date
) -> None:
    """USE-4: unless that cannot have come yet."""
    one = claim(time_zone=zone)
    assert decision(decide(one, books(one, last_day=last, at=at))) == Granted(1, day)


REVOKED = {"released": 3, "revoked": True}


@pytest.mark.parametrize(
    ("state", "attempt", "count", "replayed", "owner"),
    [
        # What stands is answered, and nothing is counted. A later attempt owns it from then on.
        ({}, 0, 3, True, None),
        ({"attempt": 5}, 5, 3, True, None),
        ({"attempt": 5}, 4, 3, True, None),
        ({"attempt": 5}, 6, 3, True, 6),
        ({"released": 2}, 0, 1, True, None),
        # Nothing stands: it is decided anew.
        (REVOKED, 0, 3, False, None),
        ({**REVOKED, "attempt": 5, "released_attempt": 5}, 6, 3, False, None),
        ({**REVOKED, "attempt": 5, "released_attempt": 5}, 0, 3, False, None),
        ({"released": 3, "lapsed": True, "attempt": 5}, 5, 3, False, None),
        # This attempt was released, in whatever state the id is.
        ({**REVOKED, "attempt": 5, "released_attempt": 5}, 5, None, False, None),
        ({**REVOKED, "attempt": 5, "released_attempt": 5}, 1, None, False, None),
        ({"attempt": 7, "released_attempt": 5}, 5, None, False, None),
    ],
)
def test_what_an_id_that_came_before_is_answered(
    state: dict[str, object], attempt: int, count: int | None, replayed: bool, owner: int | None
) -> None:
    """USE-2: kind: a grant that outlives its release. By the id's state and the attempt."""
    one = claim(Kind.MODIFY, 3, attempt=attempt)
    on = books(one, receipt=receipt_of(one, **state))
    answer = decide(one, on)
    if count is None:
        assert answer == ClaimReleased(5)
        assert not on.touched
        return
    assert decision(answer) == Granted(count, DAY)
    assert answer.replayed is replayed
    assert added(on) == (Balance() if replayed else Balance(0, 3))
    assert on.adopted == ({} if owner is None else {(USER, one.operation_id): owner})
    dry = replace(one, validate_only=True)
    on = books(dry, receipt=receipt_of(one, **state))
    assert (decide(dry, on), on.touched) == (replace(answer, claim=dry, balance=Balance()), set())


def test_a_release_that_came_first_fences_its_attempt_alone() -> None:
    """USE-2: it does not say what is claimed under the id."""
    one = claim(attempt=2)
    tombstone = Receipt(None, None, 0, 0, revoked=True, released_attempt=2)
    assert decide(one, books(one, receipt=tombstone)) == ClaimReleased(2)
    for attempt in (0, 3):
        later = replace(one, attempt=attempt)
        on = books(later, receipt=tombstone)
        assert decision(decide(later, on)) == Granted(1, DAY)
        assert on.written[USER, one.operation_id][1].released_attempt == 2


@pytest.mark.parametrize("state", [REVOKED, {"released": 3, "lapsed": True}])
def test_what_is_decided_anew_needs_room_and_is_one_entry_of_the_window(
    state: dict[str, object],
) -> None:
    """USE-2, USE-3, USE-6: a running cool-down refuses it as any other."""
    again = claim(Kind.MODIFY, 3)
    receipt = receipt_of(again, **state, claimed_at=NOON - timedelta(minutes=1))
    full = Window(modifies=5)
    on = books(again, receipt=replace(receipt, in_window=True), window=full)
    assert decision(decide(again, on)) == Granted(3, DAY)
    assert on.windows[USER] == full
    assert (on.changes[USER].queries, on.changes[USER].modifies) == (0, 0)
    assert on.written[USER, again.operation_id][1].claimed_at == receipt.claimed_at

    gone = books(again, receipt=receipt, window=full)
    assert isinstance(decision(decide(again, gone)), OverWindow)
    gone = books(again, receipt=receipt)
    assert decision(decide(again, gone)) == Granted(3, DAY)
    assert gone.changes[USER].modifies == 1
    assert gone.written[USER, again.operation_id][1].claimed_at == NOON

    used_up = books(again, receipt=receipt, balance=Balance(0, 38))
    assert isinstance(decision(decide(again, used_up)), OverLimit)
    cooling = Window(cool_down_until=NOON + timedelta(minutes=1))
    on = books(again, receipt=replace(receipt, in_window=True), window=cooling)
    assert isinstance(decision(decide(again, on)), OverWindow)


def test_a_cool_down_that_ends_too_late_is_cut_to_its_length() -> None:
    """USE-6: kind: trust in a stored time. A clock was ahead, the next decision mends it."""
    one = claim()
    far = Window(cool_down_until=NOON + timedelta(days=300), cool_down_kind=Kind.MODIFY)
    on = books(one, window=far)
    answer = decision(decide(one, on))
    assert isinstance(answer, OverWindow)
    assert (answer.until, answer.started) == (NOON + timedelta(minutes=15), False)
    assert on.changes[USER].cool_down_until == answer.until
    dry = replace(one, validate_only=True)
    on = books(dry, window=far)
    assert decision(decide(dry, on)) == answer
    assert not on.touched
    usual = books(one, window=replace(far, cool_down_until=NOON + timedelta(minutes=15)))
    decide(one, usual)
    assert not usual.touched


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
    assert (added(on), on.started, on.touched) == (Balance(), {}, set())


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


RELEASES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 4), st.booleans()), min_size=1, max_size=8
)


@given(st.integers(1, 50), st.integers(0, 4), RELEASES)
def test_released_grows_up_to_what_was_granted(
    granted: int, owner: int, asked: list[tuple[int, int, bool]]
) -> None:
    """USE-2: whatever is released, in whatever order and by which attempt; once all, for good."""
    receipt = Receipt(Kind.MODIFY, DAY, granted, granted, attempt=owner)
    for count, attempt, settle in asked:
        after = quota.settled(receipt) if settle else quota.released(receipt, count, attempt)
        assert receipt.released <= after.released <= granted
        assert after.revoked == (after.released == granted)
        assert after.released_attempt >= receipt.released_attempt
        if not settle and 0 < attempt < owner:
            assert after.released == receipt.released
        elif not settle:
            assert after.released >= min(count or granted, granted)
            assert not after.revoked or receipt.revoked or after.released_attempt >= attempt
        receipt = after


@pytest.mark.parametrize(
    ("count", "released", "revoked"), [(0, 5, True), (5, 5, True), (9, 5, True), (2, 2, False)]
)
def test_who_says_what_became_of_a_lapsed_claim_knows_better(
    count: int, released: int, revoked: bool
) -> None:
    """USE-2: what was not released was carried out after all, and counts again."""
    lapsed = Receipt(Kind.MODIFY, DAY, 5, 5, released=5, lapsed=True)
    after = quota.released(lapsed, count, 0)
    assert (after.released, after.revoked, after.lapsed) == (released, revoked, False)
    assert quota.settled(lapsed).counted == 5
    assert quota.settled(replace(lapsed, lapsed=False, revoked=True)).counted == 0
