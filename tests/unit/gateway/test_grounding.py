"""A model words figures and makes none (GAT-9)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.grounding import grounds, ungrounded

KNOWN = grounds(
    counts=[1234, 6079, 30, 48210.5],
    shares=[0.20299, 0.181],
    days=["2026-10-24", "2026-11-22"],
)


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "The no-show rate was 20.3%: 1,234 of 6,079 appointments."),
        ("en-US", "From 2026-10-24 to 2026-11-22, about 20% were missed, up from 18.1 %."),
        ("en-US", "Over 30 days, 48,210.50 was overdue."),
        ("pt-BR", "A taxa foi de 20,3%: 1.234 de 6.079 consultas."),
        ("es-ES", "La tasa fue del 20,3 %: 1.234 de 6.079 citas."),
        ("es-ES", "La tasa fue del 20,3 %: 1\u00a0234 de 6\u00a0079 citas."),
        ("en-US", "Fewer clients came than before."),
    ],
)
def test_computed_figures_may_be_stated(locale: str, text: str) -> None:
    """GAT-9: at the precision of the text, in the way of the language."""
    assert ungrounded(text, KNOWN, locale) == []


@pytest.mark.parametrize(
    ("locale", "text", "number"),
    [
        ("en-US", "The no-show rate was 21.3%.", "21.3%"),
        ("en-US", "It rose by 2.2 points.", "2.2"),
        ("en-US", "20.3 appointments were missed.", "20.3"),
        ("en-US", "1234% were missed.", "1234%"),
        ("en-US", "In 2025 it was better.", "2025"),
        ("en-US", "Since 2026-10-25 it has risen.", "2026-10-25"),
        ("en-US", "Half of them came.", "half"),
        ("en-US", "Some ¹²³ came.", "123"),
        ("en-US", "Some ٣٤ came.", "34"),
        ("en-US", "The rate is 20,3%.", "20,3%"),
        ("pt-BR", "Uma em cada cinco faltou.", "cinco"),
        ("pt-BR", "A taxa foi de 20.3%.", "20.3%"),
        ("es-ES", "Faltó la mitad.", "mitad"),
        ("en-US", "Room x20 and 203‰.", "203‰"),
    ],
)
def test_anything_else_is_found_out(locale: str, text: str, number: str) -> None:
    """GAT-9: digits of any script, words, other precisions and other units."""
    assert number in ungrounded(text, KNOWN, locale)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_number_that_nobody_computed_never_passes(number: int) -> None:
    """GAT-9."""
    text = f"There were {number} of them."
    allowed = {1234, 6079, 30, 48210, 48211}
    assert bool(ungrounded(text, KNOWN, "en-US")) == (number not in allowed)
