"""Decides claims on the books that are opened for them. Waits for nothing (USE-2, USE-3)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from uuid import UUID

from services.usage import quota
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    Granted,
    Kind,
    OperationIdReused,
    OverLimit,
    OverWindow,
    Receipt,
    Thresholds,
    Window,
)

Day = tuple[UUID, date]
Key = tuple[UUID, UUID]
Decided = Admission | OperationIdReused


@dataclass
class Books:
    """The balances, receipts and windows at stake, and what the decisions add to them."""

    at: datetime
    thresholds: Thresholds
    balances: dict[Day, Balance]
    receipts: dict[Key, Receipt]
    windows: dict[UUID, Window]
    written: dict[Key, tuple[Claim, Receipt]] = field(default_factory=dict)
    revived: dict[Key, tuple[Claim, Receipt]] = field(default_factory=dict)
    started: dict[UUID, OverWindow] = field(default_factory=dict)
    # By zone: a batch has many claims and few zones.
    days: dict[str, date] = field(default_factory=dict)

    def day_of(self, claim: Claim) -> date:
        day = self.days.get(claim.time_zone)
        if day is None:
            day = self.days[claim.time_zone] = quota.day_of(self.at, claim.time_zone)
        return day


def decide(claim: Claim, books: Books) -> Decided:
    """Decide one claim on *books*, and enter what is granted and what cool-down it starts.

    A claim that was granted before is answered as then. One that nobody settled in time was given
    back, so its id is decided anew: it counts again as it did, and is still the one entry that it
    was in the windows.
    """
    receipt = books.receipts.get((claim.user_id, claim.operation_id))
    if receipt is not None and not quota.is_same(claim, receipt):
        return OperationIdReused()
    if receipt is not None and not receipt.lapsed:
        return told(claim, Granted(receipt.granted, receipt.usage_date), books, replayed=True)
    decision = fresh_decision(claim, books, known=receipt is not None)
    if not claim.validate_only:
        if isinstance(decision, Granted):
            enter(claim, decision, books, receipt)
        elif isinstance(decision, OverWindow) and decision.started:
            window = books.windows.get(claim.user_id, Window())
            books.windows[claim.user_id] = window.overrun(decision)
            books.started[claim.user_id] = decision
    return told(claim, decision, books)


def fresh_decision(claim: Claim, books: Books, *, known: bool) -> Granted | OverLimit | OverWindow:
    """Cool-down, then the day's limit, then the window.

    What the day refuses is not admitted, so it is no query that could overrun a window (USE-1).
    """
    window = books.windows.get(claim.user_id, Window())
    of = books.thresholds
    running = window.cool_down_until
    if not known and running is not None and running > books.at:
        return over(of, window.cool_down_kind or claim.kind, running, started=False)
    day = books.day_of(claim)
    decision = quota.decide(claim, books.balances[claim.user_id, day], day)
    overrun = window.of(claim.kind) >= of.limit(claim.kind)
    if isinstance(decision, Granted) and overrun and not known:
        return over(of, claim.kind, books.at + of.cool_down, started=True)
    return decision


def over(of: Thresholds, kind: Kind, until: datetime, *, started: bool) -> OverWindow:
    return OverWindow(kind, of.limit(kind), of.window(kind), until, started)


def enter(claim: Claim, decision: Granted, books: Books, lapsed: Receipt | None) -> None:
    key, place = (claim.user_id, claim.operation_id), (claim.user_id, decision.usage_date)
    receipt = Receipt(
        claim.user_id,
        claim.operation_id,
        claim.kind,
        decision.usage_date,
        claim.count,
        decision.count,
    )
    books.receipts[key] = receipt
    books.balances[place] = books.balances[place].plus(claim.kind, decision.count)
    if lapsed is not None:
        books.revived[key] = (claim, receipt)
        return
    books.written[key] = (claim, receipt)
    window = books.windows.get(claim.user_id, Window())
    books.windows[claim.user_id] = window.plus(claim.kind)


def told(
    claim: Claim,
    decision: Granted | OverLimit | OverWindow,
    books: Books,
    *,
    replayed: bool = False,
) -> Admission:
    """The decision, with what the balance is now."""
    day = books.day_of(claim)
    return Admission(claim, decision, day, books.balances[claim.user_id, day], replayed)


def days_of(claims: Iterable[Claim], at: datetime) -> list[Day]:
    """The days that *claims* are about, each once."""
    asked = {(each.user_id, each.time_zone) for each in claims}
    days = {zone: quota.day_of(at, zone) for zone in {zone for _, zone in asked}}
    return sorted({(user_id, days[zone]) for user_id, zone in asked})


def reserved_until(claim: Claim, receipt: Receipt, at: datetime) -> datetime | None:
    """Queries are carried out by being admitted; modifies wait to be settled."""
    open_ = claim.kind is Kind.MODIFY and receipt.granted > 0
    return at + claim.reservation if open_ else None
