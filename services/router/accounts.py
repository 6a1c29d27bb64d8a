"""What attempts cost, exactly, and the records that are kept of them (ROU-6). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.router.catalog import Model, Prices
from services.router.nouns import Ask, Attempt, Tokens

BILLIONTHS = 10**9
TOKENS_PER_PRICE = 10**6
COST_PLACES = 15
MILLIONTH = 10**9
"""Of the currency's unit, as a cost."""

Record = dict[str, Any]
"""The row of an attempt, as JSON writes it."""


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


def written(cost: int) -> str:
    """A cost in units of the currency, with all its decimals."""
    units, rest = divmod(cost, 10**COST_PLACES)
    return f"{units}.{rest:0{COST_PLACES}d}"


def cost_from(units: Decimal) -> int:
    # By whole numbers: arithmetic with decimals rounds to 28 digits.
    numerator, denominator = units.as_integer_ratio()
    return int(numerator * 10**COST_PLACES // denominator)


def begun_record(
    attempt_id: str, ask: Ask, model: Model, tokens: Tokens, currency: str, started_at: datetime
) -> Record:
    """An attempt of which nothing is known yet but what it takes, by an estimate."""
    return {
        "attempt_id": attempt_id,
        "user_id": ask.user_id or None,
        "clinic_id": ask.clinic_id or None,
        "task": ask.task,
        "model": model.id,
        "provider": model.provider.name,
        "tier": model.tier,
        "outcome": "UNKNOWN",
        "started_at": started_at.isoformat(),
        **_billed(tokens, model),
        "currency": currency,
    }


def ended_record(begun: Record, attempt: Attempt, trace_id: str) -> Record:
    """The same attempt when all is known of it."""
    first = attempt.time_to_first_token
    return {
        **begun,
        "outcome": attempt.outcome.value,
        "http_status": attempt.http_status or None,
        "ended_at": (attempt.started_at + attempt.duration).isoformat(),
        "seconds_to_first_token": None if first is None else first.total_seconds(),
        **_billed(attempt.tokens, attempt.model),
        "trace_id": trace_id or None,
    }


def _billed(tokens: Tokens | None, model: Model) -> Record:
    if tokens is None:
        counts = (None, None, None, None)
        return {**dict(zip(COUNTS, counts, strict=True)), "estimated": False, "cost": "0"}
    counts_of = (tokens.input, tokens.cached_input, tokens.output, tokens.reasoning)
    return {
        **dict(zip(COUNTS, counts_of, strict=True)),
        "estimated": tokens.estimated,
        "cost": written(cost_of(tokens, model.prices)),
    }


COUNTS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Spent:
    """What attempts that were billed took and cost together; which ones, as far as was asked."""

    currency: str
    attempts: int
    tokens: Tokens
    cost: int
    day: date | None = None
    model: str = ""
    user_id: str = ""
    clinic_id: str = ""


@dataclass(frozen=True, slots=True)
class SpendingQuery:
    """Days are UTC, both inclusive; empty identifiers mean all. *by* are the names of Spent's
    fields by which the sums are told apart.
    """

    start: date
    end: date
    user_id: str = ""
    clinic_id: str = ""
    by: Sequence[str] = ("day", "model")

    @property
    def moments(self) -> tuple[datetime, datetime]:
        """The first moment, and the first one after."""
        return midnight(self.start), midnight(self.end + timedelta(days=1))


@dataclass(frozen=True, slots=True)
class AttemptsQuery:
    """Which attempts are asked for: *size*, from the one after *before* on, newest first."""

    user_id: str
    clinic_id: str
    model: str
    trace_id: str
    start: datetime | None
    end: datetime | None
    before: tuple[datetime, UUID] | None
    size: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """An attempt as it was recorded; without an end it runs, or its replica died."""

    attempt_id: UUID
    user_id: str
    clinic_id: str
    task: str
    model: str
    provider: str
    tier: str
    outcome: str
    http_status: int
    started_at: datetime
    ended_at: datetime | None
    seconds_to_first_token: float | None
    tokens: Tokens | None
    cost: int
    currency: str
    trace_id: str


def midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, UTC)
