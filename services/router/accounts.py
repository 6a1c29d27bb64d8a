"""What answers cost, exactly, and what was spent on this replica since it started (ROU-6)."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from services.router.catalog import Prices
from services.router.nouns import NO_TOKENS, Tokens

BILLIONTHS = 10**9
TOKENS_PER_PRICE = 10**6
MOST_ENTRIES = 50_000
"""Past it a new user's or clinic's spending is kept without their names: memory stays flat, sums
stay right.
"""


def cost_of(tokens: Tokens, prices: Prices) -> int:
    """The cost in millionths of a billionth of the currency's unit: exact, as prices are
    billionths a million.

    Cached tokens are part of the input and are charged once, at their own price.
    """
    fresh = tokens.input - tokens.cached_input
    return (
        fresh * prices.input
        + tokens.cached_input * prices.cached_input
        + tokens.output * prices.output
    )


def units_and_nanos(cost: int) -> tuple[int, int]:
    """A cost as whole units and billionths, rounded half up to a billionth."""
    billionths = (cost + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE
    return divmod(billionths, BILLIONTHS)


@dataclass(frozen=True, slots=True)
class Bill:
    """One attempt that was billed."""

    model_id: str
    user_id: str
    clinic_id: str
    tokens: Tokens
    cost: int
    currency: str


@dataclass(slots=True)
class Spent:
    """A sum of bills."""

    attempts: int = 0
    tokens: Tokens = NO_TOKENS
    cost: int = 0

    def add(self, attempts: int, tokens: Tokens, cost: int) -> None:
        self.attempts += attempts
        self.tokens = self.tokens + tokens
        self.cost += cost


Entry = tuple[date, str, str, str, str]
"""Day, model, currency, user and clinic."""


class Spending:
    """Bills summed by day (UTC), model, user and clinic; days older than *days* are forgotten."""

    def __init__(self, now: Callable[[], datetime], days: int = 92) -> None:
        self._now = now
        self._days = days
        self._entries: dict[Entry, Spent] = {}
        self._last_day: date | None = None

    def add(self, bill: Bill) -> None:
        today = self._now().date()
        if today != self._last_day:
            self._last_day = today
            self._forget(today - timedelta(days=self._days))
        entry = (today, bill.model_id, bill.currency, bill.user_id, bill.clinic_id)
        if entry not in self._entries and len(self._entries) >= MOST_ENTRIES:
            entry = (today, bill.model_id, bill.currency, "", "")
        self._entries.setdefault(entry, Spent()).add(1, bill.tokens, bill.cost)

    def _forget(self, before: date) -> None:
        self._entries = {entry: s for entry, s in self._entries.items() if entry[0] >= before}

    def between(
        self, start: date, end: date, user_id: str = "", clinic_id: str = ""
    ) -> list[tuple[date, str, str, Spent]]:
        """Day, model, currency and sum, newest day first, then by model; both days inclusive."""
        sums: dict[tuple[date, str, str], Spent] = defaultdict(Spent)
        for (day, model, currency, user, clinic), spent in self._entries.items():
            wanted = user_id in ("", user) and clinic_id in ("", clinic)
            if wanted and start <= day <= end:
                sums[day, model, currency].add(spent.attempts, spent.tokens, spent.cost)
        return _newest_first((*key, spent) for key, spent in sums.items())


def _newest_first(
    rows: Iterable[tuple[date, str, str, Spent]],
) -> list[tuple[date, str, str, Spent]]:
    return sorted(rows, key=lambda row: (-row[0].toordinal(), row[1], row[2]))
