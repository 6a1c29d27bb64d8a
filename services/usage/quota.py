"""Decides on claims against a day's limits. Waits for nothing (USE-3 to USE-5)."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from services.usage.nouns import Balance, Claim, Granted, Kind, Limits, OverLimit, Receipt

NEAR = 0.8
# Of all zones, Pacific/Kiritimati's: where a day begins first.
FURTHEST_AHEAD = timedelta(hours=14)


def day_of(now: datetime, time_zone: str) -> date:
    """The local day of *now* in an IANA zone; UTC where none is known (USE-4)."""
    return now.astimezone(ZoneInfo(time_zone or "UTC")).date()


def day_after(last: date | None, day: date, now: datetime) -> date:
    """*day*, or the *last* one counted on, where that is later: days never go back (USE-4).

    A user whose claims come in different zones would otherwise have the quotas of two days at once.
    A last day that has come nowhere on earth is of a clock that was ahead, and is not believed.
    """
    if last is None or last <= day or last > (now.astimezone(UTC) + FURTHEST_AHEAD).date():
        return day
    return last


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
    """Whether *receipt* is of this very claim, or does not say what was claimed under its id."""
    known = receipt.kind is not None
    return not known or (receipt.kind is claim.kind and receipt.claimed == claim.count)


def released(receipt: Receipt, count: int, attempt: int) -> Receipt:
    """*receipt* once *count* (0: all) of it are released by *attempt* (0: not fenced) (USE-2).

    The total grows up to all, which revokes the grant. What lapsed was given back without anybody
    asking: whoever says now how much was not carried out knows better. A grant that a later attempt
    owns stands, and so does what others were told of it.
    """
    whole = not count or count >= receipt.granted
    owned_later = receipt.stands and 0 < attempt < receipt.attempt
    if whole or receipt.revoked:
        receipt = replace(receipt, released_attempt=max(receipt.released_attempt, attempt))
    if receipt.revoked or owned_later:
        return receipt
    if whole:
        return replace(receipt, released=receipt.granted, revoked=True, lapsed=False)
    before = 0 if receipt.lapsed else receipt.released
    return replace(receipt, released=max(count, before), lapsed=False)


def settled(receipt: Receipt) -> Receipt:
    """*receipt* once its grant is known to be carried out: what lapsed counts again (USE-2)."""
    return replace(receipt, released=0, lapsed=False) if receipt.lapsed else receipt
