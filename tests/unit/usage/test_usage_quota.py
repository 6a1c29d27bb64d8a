"""Decisions on a day's limits, and whose day it is (USE-3 to USE-5)."""

import uuid
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.usage import quota
from services.usage.nouns import Balance, Claim, Granted, Kind, Limits, OverLimit

DAY = date(2026, 11, 23)
# Ahead of and behind UTC, half hours, midnights that come twice or not at all, a day left out.
ZONES = [
    "UTC",
    "America/Sao_Paulo",
    "America/New_York",
    "America/Havana",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Madrid",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
]


def claim(kind: Kind, count: int, *, allow_partial: bool = False, **limits: int | None) -> Claim:
    return Claim(
        uuid.uuid4(),
        uuid.uuid4(),
        None,
        kind,
        count,
        Limits(**limits),
        "UTC",
        allow_partial=allow_partial,
    )


def test_the_last_one_fits_and_the_next_does_not() -> None:
    """USE-3: with limit N, N are admitted and the N+1st is not."""
    assert quota.decide(claim(Kind.QUERY, 1, reads=40), Balance(39), DAY) == Granted(1, DAY)
    refused = quota.decide(claim(Kind.QUERY, 1, reads=40), Balance(40), DAY)
    assert isinstance(refused, OverLimit)
    assert (refused.limit, refused.used, refused.claimed) == (40, 40, 1)


def test_part_of_a_claim_is_granted_only_when_asked_for() -> None:
    """USE-2, USE-3."""
    whole = claim(Kind.MODIFY, 5, modifies=10)
    part = claim(Kind.MODIFY, 5, modifies=10, allow_partial=True)
    assert isinstance(quota.decide(whole, Balance(0, 7), DAY), OverLimit)
    assert quota.decide(part, Balance(0, 7), DAY) == Granted(3, DAY)
    assert isinstance(quota.decide(part, Balance(0, 10), DAY), OverLimit)


@given(st.integers(0, 60), st.lists(st.integers(1, 7), max_size=30), st.booleans())
def test_a_limit_is_never_overrun(limit: int, counts: list[int], partial: bool) -> None:
    """USE-3: whatever is claimed in whatever portions."""
    balance = Balance()
    for count in counts:
        one = claim(Kind.MODIFY, count, modifies=limit, allow_partial=partial)
        decision = quota.decide(one, balance, DAY)
        if isinstance(decision, Granted):
            balance = balance.plus(Kind.MODIFY, decision.count)
        assert balance.modify_count <= limit
    if partial and sum(counts) >= limit:
        assert balance.modify_count == limit


@pytest.mark.parametrize(("reads", "near"), [(31, False), (32, True), (40, True)])
def test_quota_is_near_from_four_fifths_on(reads: int, near: bool) -> None:
    """USE-5: read_count >= 0.8 * limit; never without a limit."""
    assert quota.approaching(Balance(reads), Limits(reads=40)) is near
    assert not quota.approaching(Balance(10**6), Limits())


def test_the_day_is_the_clinics() -> None:
    """USE-4: UTC where no zone is known."""
    late = datetime(2026, 11, 24, 1, 30, tzinfo=UTC)
    assert quota.day_of(late, "America/Sao_Paulo") == date(2026, 11, 23)
    assert quota.day_of(late, "") == date(2026, 11, 24)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        ("Europe/Madrid", date(2026, 3, 29), 23),
        ("Europe/Madrid", date(2026, 10, 25), 25),
        # Midnight itself does not exist here: the clocks jump from 00:00 to 01:00.
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        # Midnight is put off: the clocks go back from 00:00 to 23:00.
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        # Midnight comes twice: the day begins with the first one.
        ("America/Havana", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("Asia/Beirut", date(2026, 3, 29), 23),
    ],
)
def test_a_day_on_which_clocks_change_has_its_own_length(
    zone: str, day: date, hours: float
) -> None:
    """USE-4."""
    start = quota.resets_at(day - timedelta(days=1), zone)
    assert quota.resets_at(day, zone) - start == timedelta(hours=hours)


@given(
    st.datetimes(datetime(2010, 1, 1), datetime(2037, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    st.sampled_from(ZONES),
)
def test_a_reset_begins_the_next_day(now: datetime, zone: str) -> None:
    """USE-4: just before it is still today, from it on it is not."""
    day = quota.day_of(now, zone)
    reset = quota.resets_at(day, zone)
    assert reset > now
    assert quota.day_of(reset, zone) > day
    assert quota.day_of(reset - timedelta(microseconds=1), zone) == day
    assert ZoneInfo(zone).key == zone


@given(
    st.datetimes(datetime(2010, 1, 1), datetime(2037, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)),
    st.integers(0, 200_000),
    st.sampled_from(ZONES),
)
def test_the_day_never_goes_back(now: datetime, seconds: int, zone: str) -> None:
    """USE-4: also where the clocks do; a limit is not given twice."""
    assert quota.day_of(now + timedelta(seconds=seconds), zone) >= quota.day_of(now, zone)
