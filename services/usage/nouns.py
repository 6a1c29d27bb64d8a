"""The service's own nouns."""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import Enum
from uuid import UUID


class Kind(Enum):
    QUERY = "query"
    MODIFY = "modify"


@dataclass(frozen=True)
class Limits:
    """Of a day; None is unlimited."""

    reads: int | None = None
    modifies: int | None = None
    plan_name: str = ""
    revision: int = 0

    def of(self, kind: Kind) -> int | None:
        return self.reads if kind is Kind.QUERY else self.modifies


@dataclass(frozen=True)
class Claim:
    """Something to be counted: one request, or the modifying operations of one."""

    operation_id: UUID
    user_id: UUID
    clinic_id: UUID | None
    kind: Kind
    count: int
    limits: Limits
    time_zone: str
    validate_only: bool = False
    allow_partial: bool = False
    reservation: timedelta = timedelta(minutes=15)
    attempt: int = 0


@dataclass(frozen=True)
class Balance:
    """What a user used on a day."""

    read_count: int = 0
    modify_count: int = 0

    def of(self, kind: Kind) -> int:
        return self.read_count if kind is Kind.QUERY else self.modify_count

    def plus(self, kind: Kind, count: int) -> "Balance":
        if kind is Kind.QUERY:
            return Balance(self.read_count + count, self.modify_count)
        return Balance(self.read_count, self.modify_count + count)


@dataclass(frozen=True)
class Receipt:
    """That a claim was granted, and what became of the grant; or only that an attempt was released.

    *lapsed*: nobody settled it in time, so its count was given back unasked. *revoked*: a caller
    released all of it. In neither case does the grant stand, and the id is decided anew.
    *attempt* owns the grant; those up to *released_attempt* are fenced. *kind* and *usage_date* are
    None where a release came before its claim. *in_window*: its entry is in its abuse window.
    """

    kind: Kind | None
    usage_date: date | None
    claimed: int
    granted: int
    released: int = 0
    lapsed: bool = False
    revoked: bool = False
    attempt: int = 0
    released_attempt: int = 0
    claimed_at: datetime | None = None
    in_window: bool = False

    @property
    def stands(self) -> bool:
        return not (self.lapsed or self.revoked)

    @property
    def counted(self) -> int:
        return self.granted - self.released


@dataclass(frozen=True)
class Granted:
    count: int
    usage_date: date


@dataclass(frozen=True)
class OverLimit:
    """The day's limit has no room for the claim."""

    kind: Kind
    limit: int
    used: int
    claimed: int
    plan_name: str
    revision: int


@dataclass(frozen=True)
class OverWindow:
    """A cool-down runs, or this claim started one (*started*)."""

    kind: Kind
    limit: int
    window: timedelta
    until: datetime
    started: bool


@dataclass(frozen=True)
class Admission:
    """The decision on a claim, and what its day's balance is after it."""

    claim: Claim
    decision: Granted | OverLimit | OverWindow
    day: date
    balance: Balance
    replayed: bool = False


@dataclass(frozen=True)
class OperationIdReused:
    """The id came before with another claim."""


@dataclass(frozen=True)
class ClaimReleased:
    """The claim's attempt was released, as all were up to *released_attempt*."""

    released_attempt: int


@dataclass(frozen=True)
class UserBusy:
    """Another transaction holds rows of the user, so nothing was decided.

    *at_last*: they were waited for already.
    """

    at_last: bool = False


@dataclass(frozen=True)
class Window:
    """How many requests are in a user's abuse windows, and when a cool-down ends."""

    queries: int = 0
    modifies: int = 0
    cool_down_until: datetime | None = None
    # Which of them was overrun.
    cool_down_kind: Kind | None = None
    # The end that is stored lies further off than a cool-down lasts: a clock was ahead.
    shortened: bool = False

    def of(self, kind: Kind) -> int:
        return self.queries if kind is Kind.QUERY else self.modifies

    def plus(self, kind: Kind) -> "Window":
        one_more = 1 if kind is Kind.QUERY else 0
        return replace(self, queries=self.queries + one_more, modifies=self.modifies + 1 - one_more)

    def overrun(self, over: "OverWindow") -> "Window":
        return replace(self, cool_down_until=over.until, cool_down_kind=over.kind, shortened=False)

    def believed(self, at: datetime, of: "Thresholds") -> "Window":
        """Without what a clock that was ahead has left: no cool-down is longer than *of* says."""
        latest = at + of.cool_down
        if self.cool_down_until is None or self.cool_down_until <= latest:
            return self
        return replace(self, cool_down_until=latest, shortened=True)


@dataclass
class UserChange:
    """What a batch of decisions changes in a user's row."""

    queries: int = 0
    modifies: int = 0
    usage_date: date | None = None
    cool_down_until: datetime | None = None
    cool_down_kind: Kind | None = None


@dataclass(frozen=True)
class Thresholds:
    """What is abuse (USE-6)."""

    queries: int = 12
    query_window: timedelta = timedelta(seconds=60)
    modifies: int = 5
    modify_window: timedelta = timedelta(minutes=10)
    cool_down: timedelta = timedelta(minutes=15)

    def limit(self, kind: Kind) -> int:
        return self.queries if kind is Kind.QUERY else self.modifies

    def window(self, kind: Kind) -> timedelta:
        return self.query_window if kind is Kind.QUERY else self.modify_window
