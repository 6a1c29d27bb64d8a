"""A model words figures and makes none (GAT-9)."""

import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway import wording
from services.gateway.grounding import grounds, together, ungrounded
from services.gateway.notices import LOCALES, Notices, open_notices

NOTICES = open_notices()
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
        ("en-US", "Nearly 20 percent, or 20.3 per cent, were missed."),
        ("pt-BR", "Cerca de 20,3 por cento dos clientes."),
        ("es-ES", "Casi el 20,3 por ciento."),
        ("en-US", "Once more, about $48,210.5 is overdue."),
        ("pt-BR", "A taxa dos clientes: 20,30%."),
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
        ("en-US", "It rose by 30 percentage points.", "30 percentage points"),
        ("pt-BR", "Subiu 30 pontos percentuais.", "30 pontos percentuais"),
        ("es-ES", "Subió 30 puntos.", "30 puntos"),
        ("en-US", "It is 30 times as high.", "30 times"),
        ("en-US", "It changed by +20.3%.", "+20.3%"),
        ("en-US", "It changed by -20.3%.", "-20.3%"),
        ("en-US", "It changed by −20.3%.", "−20.3%"),
        ("en-US", "Between 20-30% were missed.", "30%"),
        ("en-US", "Some 30k were missed.", "30k"),
        ("en-US", "It was the 30th.", "30th"),
        ("en-US", "At 10:30 most came.", "10"),
        ("en-US", "1. The rate is 20.3%.", "1"),
        ("en-US", "On 24/10/2026 most came.", "24"),
        ("en-US", "About ½ came.", "½"),
        ("en-US", "Some Ⅻ came.", "Ⅻ"),
        ("en-US", "About 30％ came.", "30%"),
        ("en-US", "About thirteen came.", "thirteen"),
        ("en-US", "Twenty-one came.", "twenty"),
        ("en-US", "A third came.", "third"),
        ("en-US", "Twice as many came.", "twice"),
        ("pt-BR", "Faltaram doze.", "doze"),
        ("pt-BR", "Um terço faltou.", "terço"),
        ("pt-BR", "Faltaram milhões.", "milhões"),
        ("pt-BR", "Faltaram duzentas.", "duzentas"),
        ("es-ES", "Faltaron veintiuno.", "veintiuno"),
        ("es-ES", "Faltaron dieciséis.", "dieciséis"),
        ("es-ES", "Faltaron dieciseis.", "dieciseis"),
        ("es-ES", "Half of them came.", "half"),
        ("pt-BR", "A taxa foi de 1,234.", "1,234"),
        ("es-ES", "Vencido: $48,210.50.", "48,210.50"),
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


TWO = together(
    {
        "no-show rate": grounds(counts=[1234, 6079], shares=[0.203]),
        "overdue ratio": grounds(counts=[310, 1713], shares=[0.181]),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "The no-show rate is 20.3%. The overdue ratio is 18.1%: 310 of 1,713.",
        "The no-show rate is 20.3%, and the overdue ratio is 18.1%.",
        "20.3% was the no-show rate, and 18.1% the overdue ratio.",
        "Both are known: 20.3% and 18.1%.",
    ],
)
def test_a_figure_may_be_said_of_what_it_is_of(text: str) -> None:
    """GAT-9."""
    assert ungrounded(text, TWO, "en-US") == []


@pytest.mark.parametrize(
    "text",
    [
        "The no-show rate is 18.1%. The overdue ratio is 20.3%.",
        "The no-show rate is 18.1%, and the overdue ratio is 20.3%.",
        "18.1% was the No-Show Rate, and 20.3% the overdue ratio.",
        "The no-show rate is 20.3%: 310 of 1,713.",
    ],
)
def test_figures_that_were_swapped_are_found_out(text: str) -> None:
    """GAT-9: every number was computed, but not of what it is said of."""
    assert ungrounded(text, TWO, "en-US")


@pytest.fixture(scope="module")
def notices() -> Notices:
    return open_notices()


@settings(max_examples=60)
@given(
    locale=st.sampled_from(LOCALES),
    figures=st.lists(
        st.tuples(st.integers(0, 10**7), st.integers(1, 10**7)).map(sorted), min_size=2, max_size=2
    ),
    metric=st.sampled_from(["engagement_rate", "no_show_rate", "overdue_ratio"]),
)
def test_the_plain_template_states_only_what_was_computed(
    notices: Notices, locale: str, figures: list[list[int]], metric: str
) -> None:
    """GAT-9: in the way of each language, whatever the figures."""
    result = pb.MetricResult(
        metric=metric,
        label=wording.name_of(metric, notices, locale),
        start_date="2026-10-24",
        end_date="2026-11-22",
    )
    for shown, (above, below) in zip((result.total, result.previous), figures, strict=True):
        shown.numerator, shown.denominator, shown.value = above, below, above / max(below, 1)
    plain = wording.plain_summary([result], [], notices, locale)
    assert ungrounded(plain, wording.grounds_of([result]), locale) == []


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("metric", ["engagement_rate", "overdue_ratio", "cancellation_rate"])
def test_plain_advice_states_only_its_figure(notices: Notices, locale: str, metric: str) -> None:
    """GAT-9, GAT-10."""
    advice = notices.sentence(f"advice-{metric}", locale, value=wording.share(0.4567, locale))
    assert ungrounded(advice, grounds(counts=[], shares=[0.4567]), locale) == []


@given(
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.floats(0, allow_nan=False, allow_infinity=False),
    st.sampled_from(LOCALES),
    st.text(alphabet="0123456789.,eE%- ", max_size=800),
)
def test_no_figure_is_too_large_to_be_worded_or_checked(
    one: float, other: float, locale: str, text: str
) -> None:
    """GAT-9, ALL-2: whatever a domain computes, and whatever a model says of it."""
    numerator, denominator = sorted((one, other))
    figure = pb.Figure(numerator=numerator, denominator=denominator)
    if denominator:
        figure.value = numerator / denominator
    result = pb.MetricResult(
        metric="overdue_ratio", start_date="2026-01-01", end_date="2026-01-31", total=figure
    )
    assert wording.plain_summary([result], [], NOTICES, locale).isprintable()
    ungrounded(text, wording.grounds_of([result]), locale)
