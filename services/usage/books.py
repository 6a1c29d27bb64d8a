"""Decides claims on the books that are opened for them. Waits for nothing (USE-2, USE-3)."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from uuid import UUID

from services.usage import quota
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    ClaimReleased,
    Granted,
    Kind,
    OperationIdReused,
    OverLimit,
    OverWindow,
    Receipt,
    Thresholds,
    UserBusy,
    UserChange,
    Window,
)

Day = tuple[UUID, date]
Key = tuple[UUID, UUID]
Decided = Admission | OperationIdReused | ClaimReleased | UserBusy
NOTHING = Receipt(None, None, 0, 0)
EMPTY = Window()


@dataclass
class Books:
    """The balances, receipts and windows at stake, and what the decisions add to them.

    *last_days* are the days that users were last counted on. *written* are the receipts of new
    grants, *adopted* the attempts that took over grants that stand, *changes* those of users' rows.
    """

    at: datetime
    thresholds: Thresholds
    balances: dict[Day, Balance]
    receipts: dict[Key, Receipt]
    windows: dict[UUID, Window]
    last_days: dict[UUID, date] = field(default_factory=dict)
    written: dict[Key, tuple[Claim, Receipt]] = field(default_factory=dict)
    adopted: dict[Key, int] = field(default_factory=dict)
    started: dict[UUID, OverWindow] = field(default_factory=dict)
    changes: dict[UUID, UserChange] = field(default_factory=dict)
    # By zone: a batch has many claims and few zones.
    zone_days: dict[str, date] = field(default_factory=dict)

    def day_of(self, claim: Claim) -> date:
        """The day that *claim* counts on: a user has one at a time (USE-4)."""
        day = self.zone_days.get(claim.time_zone)
        if day is None:
            day = self.zone_days[claim.time_zone] = quota.day_of(self.at, claim.time_zone)
        return quota.day_after(self.last_days.get(claim.user_id), day, self.at)

    def window_of(self, claim: Claim) -> Window:
        return self.windows.get(claim.user_id, EMPTY)

    def change_of(self, claim: Claim) -> UserChange:
        change = self.changes.get(claim.user_id)
        if change is None:
            change = self.changes[claim.user_id] = UserChange()
        return change

    @property
    def touched(self) -> set[UUID]:
        """Whose rows the decisions write."""
        return {user_id for user_id, _ in (*self.written, *self.adopted)} | self.changes.keys()


def decide(claim: Claim, books: Books) -> Decided:
    """Decide one claim on *books*, and enter what is granted and what cool-down it starts.

    While the grant of its id stands, a claim is answered with what stands. After a release, or
    where nobody settled in time, the id is decided anew, unless this attempt, or a later one, is
    what was released (USE-2).
    """
    receipt, day = books.receipts.get((claim.user_id, claim.operation_id)), books.day_of(claim)
    if receipt is not None and not quota.is_same(claim, receipt):
        return OperationIdReused()
    if receipt is not None and 0 < claim.attempt <= receipt.released_attempt:
        return ClaimReleased(receipt.released_attempt)
    if receipt is not None and receipt.stands:
        if not claim.validate_only:
            adopt(claim, receipt, books)
        assert receipt.usage_date is not None
        stands = Granted(receipt.counted, receipt.usage_date)
        return Admission(claim, stands, day, books.balances[claim.user_id, day], replayed=True)
    in_window = receipt is not None and receipt.in_window
    decision = fresh_decision(claim, books, day, in_window=in_window)
    if not claim.validate_only:
        if isinstance(decision, Granted):
            enter(claim, decision, books, receipt or NOTHING)
        elif isinstance(decision, OverWindow):
            cool_down(claim, decision, books)
    return Admission(claim, decision, day, books.balances[claim.user_id, day])


def fresh_decision(
    claim: Claim, books: Books, day: date, *, in_window: bool
) -> Granted | OverLimit | OverWindow:
    """Cool-down, then the day's limit, then the window.

    What the day refuses is not admitted, so it is no query that could overrun a window (USE-1).
    What is *in_window* already is the one entry that it was.
    """
    window, of = books.window_of(claim), books.thresholds
    running = window.cool_down_until
    if running is not None and running > books.at:
        return over(of, window.cool_down_kind or claim.kind, running, started=False)
    decision = quota.decide(claim, books.balances[claim.user_id, day], day)
    overrun = window.of(claim.kind) >= of.limit(claim.kind)
    if isinstance(decision, Granted) and overrun and not in_window:
        return over(of, claim.kind, books.at + of.cool_down, started=True)
    return decision


def over(of: Thresholds, kind: Kind, until: datetime, *, started: bool) -> OverWindow:
    return OverWindow(kind, of.limit(kind), of.window(kind), until, started)


def adopt(claim: Claim, receipt: Receipt, books: Books) -> None:
    """Give the grant that stands to a later attempt, so that no earlier one can release it."""
    if claim.attempt <= receipt.attempt:
        return
    key = (claim.user_id, claim.operation_id)
    books.receipts[key] = replace(receipt, attempt=claim.attempt)
    books.adopted[key] = claim.attempt


def cool_down(claim: Claim, decision: OverWindow, books: Books) -> None:
    """Enter the cool-down that *claim* started, or the end of one that was too far off."""
    window = books.window_of(claim)
    if not decision.started and not window.shortened:
        return
    books.windows[claim.user_id] = window.overrun(decision)
    if decision.started:
        books.started[claim.user_id] = decision
    change = books.change_of(claim)
    change.cool_down_until, change.cool_down_kind = decision.until, decision.kind


def enter(claim: Claim, decision: Granted, books: Books, before: Receipt) -> None:
    key, place = (claim.user_id, claim.operation_id), (claim.user_id, decision.usage_date)
    receipt = Receipt(
        claim.kind,
        decision.usage_date,
        claim.count,
        decision.count,
        attempt=claim.attempt,
        released_attempt=before.released_attempt,
        claimed_at=before.claimed_at if before.in_window else books.at,
        in_window=True,
    )
    books.receipts[key] = receipt
    books.written[key] = (claim, receipt)
    books.balances[place] = books.balances[place].plus(claim.kind, decision.count)
    books.last_days[claim.user_id] = decision.usage_date
    change = books.change_of(claim)
    change.usage_date = decision.usage_date
    if not before.in_window:
        books.windows[claim.user_id] = books.window_of(claim).plus(claim.kind)
        if claim.kind is Kind.QUERY:
            change.queries += 1
        else:
            change.modifies += 1


def days_of(claims: Iterable[Claim], at: datetime) -> list[date]:
    """The day of each claim in its own zone."""
    days: dict[str, date] = {}
    for each in claims:
        if each.time_zone not in days:
            days[each.time_zone] = quota.day_of(at, each.time_zone)
    return [days[each.time_zone] for each in claims]


def reserved_until(claim: Claim, receipt: Receipt, at: datetime) -> datetime | None:
    """Queries are carried out by being admitted; modifies wait to be settled."""
    open_ = claim.kind is Kind.MODIFY and receipt.granted > 0
    return at + claim.reservation if open_ else None
