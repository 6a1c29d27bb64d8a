"""Costs are exact, and sums stay right."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.router.accounts import (
    begun_record,
    cost_from,
    cost_of,
    ended_record,
    units_and_nanos,
    written,
)
from services.router.catalog import Prices, read_catalogue
from services.router.nouns import Ask, Attempt, Outcome, Tokens

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MODEL = read_catalogue(
    """
providers: {p: {base_url: "http://localhost:1/v1"}}
models: {m: {tier: MODEL_BASIC, provider: p, context_tokens: 99, prices: {input: 1, output: 2}}}
""",
    {},
).models[0]
ASK = Ask("CHAT", [], frozenset(), user_id="11111111-1111-1111-1111-111111111111")

COUNTS = st.integers(0, 10**9)
PRICES = st.integers(0, 10**13)


def test_cached_tokens_are_charged_once_at_their_own_price() -> None:
    """ROU-6: 1,000,000 input of which 600,000 cached; reasoning is in the output."""
    prices = Prices(input=3 * 10**9, cached_input=3 * 10**8, output=15 * 10**9)
    tokens = Tokens(input=1_000_000, cached_input=600_000, output=100_000, reasoning=90_000)
    assert units_and_nanos(cost_of(tokens, prices)) == (2, 880_000_000)


@given(COUNTS, COUNTS, st.builds(Prices, PRICES, PRICES, PRICES))
def test_a_cost_is_exact_to_a_billionth(fresh: int, output: int, prices: Prices) -> None:
    """ROU-6: against fractions."""
    tokens = Tokens(input=fresh, output=output)
    exact = (Fraction(fresh * prices.input) + output * prices.output) / 10**15
    units, nanos = units_and_nanos(cost_of(tokens, prices))
    assert 0 <= nanos < 10**9
    assert abs(units + Fraction(nanos, 10**9) - exact) <= Fraction(1, 2 * 10**9)


@given(st.integers(0, 10**30))
def test_a_cost_is_written_and_read_without_loss(cost: int) -> None:
    """ROU-6: to the last millionth of a billionth."""
    assert cost_from(Decimal(written(cost))) == cost


def test_an_attempt_that_began_is_recorded_as_unknown_and_with_what_it_takes_at_the_least() -> None:
    """ROU-6: that is what stands if nobody comes back to it."""
    record = begun_record("id", ASK, MODEL, Tokens(5, estimated=True), "USD", NOW)
    assert (record["outcome"], record["cost"]) == ("UNKNOWN", "0.000005000000000")
    assert record["clinic_id"] is None
    assert "ended_at" not in record


def test_how_an_attempt_ended_takes_the_place_of_the_estimate() -> None:
    """ROU-6: nothing is charged for what was not billed."""
    begun = begun_record("id", ASK, MODEL, Tokens(5, estimated=True), "USD", NOW)
    attempt = Attempt(MODEL, Outcome.SERVER_ERROR, 503, NOW, timedelta(seconds=2))
    ended = ended_record(begun, attempt, "")
    assert ended == {
        **begun,
        "outcome": "SERVER_ERROR",
        "http_status": 503,
        "ended_at": "2026-11-25T12:00:02+00:00",
        "seconds_to_first_token": None,
        "input_tokens": None,
        "cached_input_tokens": None,
        "output_tokens": None,
        "reasoning_tokens": None,
        "estimated": False,
        "cost": "0",
        "trace_id": None,
    }
