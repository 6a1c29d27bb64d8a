"""Costs are exact, and sums stay right."""

from datetime import UTC, date, datetime
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.router.accounts import Bill, Spending, cost_of, units_and_nanos
from services.router.catalog import Prices
from services.router.nouns import Tokens

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


def test_sums_do_not_lose_what_rounding_would_take() -> None:
    """ROU-6: ten thousand answers of a ten-thousandth of a billionth each make one."""
    spending = Spending(lambda: datetime(2026, 11, 23, tzinfo=UTC))
    prices = Prices(input=100, cached_input=100, output=0)
    tokens = Tokens(input=1)
    for _ in range(10_000):
        spending.add(Bill("m", "u", "c", tokens, cost_of(tokens, prices), "USD"))
    [(_, _, _, spent)] = spending.between(date(2026, 11, 1), date(2026, 11, 30))
    assert units_and_nanos(spent.cost) == (0, 1)
    assert spent.attempts == spent.tokens.input == 10_000


def test_spending_is_told_by_day_and_model_newest_first() -> None:
    """ROU-6."""
    today = datetime(2026, 11, 22, 23, 59, tzinfo=UTC)
    spending = Spending(lambda: today)
    spending.add(Bill("b", "u1", "c1", Tokens(input=1), 5, "USD"))
    today = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
    spending.add(Bill("a", "u1", "c1", Tokens(input=2), 5, "USD"))
    spending.add(Bill("b", "u2", "c1", Tokens(input=3), 5, "USD"))
    first, last = date(2026, 11, 22), date(2026, 11, 23)

    def told(start: date, end: date, user: str = "", clinic: str = "") -> list[tuple[int, str]]:
        return [(row[0].day, row[1]) for row in spending.between(start, end, user, clinic)]

    assert told(first, last) == [(23, "a"), (23, "b"), (22, "b")]
    assert told(first, first) == [(22, "b")]
    assert told(first, last, user="u1") == [(23, "a"), (22, "b")]
    assert told(first, last, clinic="c2") == []


def test_old_days_are_forgotten() -> None:
    """ROU-6: memory stays flat."""
    today = datetime(2026, 1, 1, tzinfo=UTC)
    spending = Spending(lambda: today, days=10)
    spending.add(Bill("m", "u", "c", Tokens(input=1), 1, "USD"))
    today = datetime(2026, 1, 12, tzinfo=UTC)
    spending.add(Bill("m", "u", "c", Tokens(input=1), 1, "USD"))
    rows = spending.between(date(2026, 1, 1), date(2026, 1, 31))
    assert [row[0].day for row in rows] == [12]
