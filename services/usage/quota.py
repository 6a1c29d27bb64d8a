"""Decides on claims against a day's limits. Waits for nothing (USE-3 to USE-5)."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from services.usage.nouns import Balance, Claim, Granted, Kind, Limits, OverLimit, Receipt

NEAR = 0.8


def day_of(now: datetime, time_zone: str) -> date:
    """The local day of *now* in an IANA zone; UTC where none is known (USE-4)."""
    return now.astimezone(ZoneInfo(time_zone or "UTC")).date()


@lru_cache(maxsize=1024)
def resets_at(day: date, time_zone: str) -> datetime:
    """The first moment of the day after *day*.

    Where clocks jump over midnight, the day begins with the jump: an hour that does not exist is
    read with the offset before it, which is the very moment of the jump.
    """
    midnight = datetime.combine(day + timedelta(days=1), time.min, ZoneInfo(time_zone or "UTC"))
    return midnight.astimezone(UTC)


def decide(claim: Claim, balance: Balance, day: date) -> Granted | OverLimit:
    """Say whether *claim* may be counted against *balance*.

    What is reserved counts as used: a claim that is never settled must not let a neighbour
    overspend.
    """
    limit = claim.limits.of(claim.kind)
    used = balance.of(claim.kind)
    room = claim.count if limit is None else max(limit - used, 0)
    if room >= claim.count:
        return Granted(claim.count, day)
    if claim.allow_partial and claim.kind is Kind.MODIFY and room > 0:
        return Granted(room, day)
    assert limit is not None
    says = claim.limits
    return OverLimit(claim.kind, limit, used, claim.count, says.plan_name, says.revision)


def approaching(balance: Balance, limits: Limits) -> bool:
    """USE-5: from 80 % of the daily reads on; never without a limit."""
    return limits.reads is not None and balance.read_count >= NEAR * limits.reads


def left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(limit - used, 0)


def is_same(claim: Claim, receipt: Receipt) -> bool:
    """Whether *receipt* is of this very claim, not of another under its id."""
    return receipt.kind is claim.kind and receipt.claimed == claim.count


def given_back(receipt: Receipt, count: int) -> int:
    """How many of *receipt* are given back in all once *count* (0: everything) are asked for.

    Never fewer than were asked for before, never more than were granted. What lapsed was given
    back without anybody asking: whoever says now how much was not carried out knows better.
    """
    asked = min(count or receipt.granted, receipt.granted)
    return asked if receipt.lapsed else max(asked, receipt.released)
