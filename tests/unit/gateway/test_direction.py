"""A model does not turn a figure's way round (GAT-9)."""

from decimal import Decimal

import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import wording
from services.gateway.direction import FALLS, RISES, Move, misdirected
from services.gateway.notices import LOCALES, open_notices

ROSE = {"no-show rate": Move(Decimal("0.181"), Decimal("0.203"))}
NOTICES = open_notices()
BOTH = {**ROSE, "overdue ratio": Move(Decimal("0.4"), Decimal("0.3"))}


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "The no-show rate rose from 18.1% to 20.3%."),
        ("en-US", "It is 20.3%, up from 18.1%."),
        ("en-US", "The no-show rate was 20.3%; in the 30 days before it was 18.1%."),
        ("pt-BR", "A taxa subiu de 18,1% para 20,3%."),
        ("pt-BR", "A taxa foi de 20,3%."),
        ("es-ES", "La tasa aumentó del 18,1 % al 20,3 %."),
        ("es-ES", "La tasa fue del 20 %, y subió."),
    ],
)
def test_the_way_that_a_figure_has_gone_may_be_told(locale: str, text: str) -> None:
    """GAT-9."""
    assert misdirected(text, ROSE, locale) == []


@pytest.mark.parametrize(
    ("locale", "text", "fault"),
    [
        ("en-US", "The no-show rate fell to 20.3%.", "fell"),
        ("en-US", "It improved, dropping from 18.1% to 20.3%.", "dropping"),
        ("en-US", "The rate went from 20.3% to 18.1%.", "from 20.3% to 18.1%"),
        ("en-US", "It is 20.3%, down from 18.1%.", "down"),
        ("pt-BR", "A taxa caiu para 20,3%.", "caiu"),
        ("pt-BR", "A taxa passou de 20,3% para 18,1%.", "de 20,3% para 18,1%"),
        ("pt-BR", "Houve uma redução.", "redução"),
        ("es-ES", "La tasa disminuyó al 20,3 %.", "disminuyó"),
        ("es-ES", "Pasó del 20,3 % al 18,1 %.", "del 20,3 % al 18,1 %"),
    ],
)
def test_another_way_is_found_out(locale: str, text: str, fault: str) -> None:
    """GAT-9: every number in it was computed."""
    assert misdirected(text, ROSE, locale) == [fault]


def test_what_has_not_moved_has_gone_neither_way() -> None:
    """GAT-9."""
    still = {"no-show rate": Move(Decimal("0.2"), Decimal("0.2"))}
    assert misdirected("It rose.", still, "en-US") == ["rose"]
    assert misdirected("It fell.", still, "en-US") == ["fell"]
    assert misdirected("It stayed at 20%.", still, "en-US") == []


def test_each_sentence_is_about_what_it_names() -> None:
    """GAT-9: of what nothing is known before, and where it is unclear which, nothing is judged."""
    text = "The no-show rate rose. The overdue ratio fell."
    assert misdirected(text, BOTH, "en-US") == []
    turned = "The no-show rate fell. The overdue ratio rose."
    assert misdirected(turned, BOTH, "en-US") == ["fell", "rose"]
    assert misdirected("One rose and one fell.", BOTH, "en-US") == []
    unknown = {**ROSE, "overdue ratio": None}
    assert misdirected("The overdue ratio fell. The no-show rate rose.", unknown, "en-US") == []
    assert misdirected("The no-show rate fell.", unknown, "en-US") == ["fell"]


def test_no_word_means_both_ways() -> None:
    """GAT-9: in whatever language."""
    assert not RISES & FALLS


@given(before=st.integers(0, 1000), now=st.integers(0, 1000), locale=st.sampled_from(LOCALES))
def test_the_plain_template_is_never_wrong_about_it(before: int, now: int, locale: str) -> None:
    """GAT-9."""
    result = pb.MetricResult(
        metric="no_show_rate",
        label=wording.name_of("no_show_rate", NOTICES, locale),
        start_date="2026-10-24",
        end_date="2026-11-22",
    )
    for shown, value in ((result.total, now), (result.previous, before)):
        shown.numerator, shown.denominator, shown.value = value, 1000, value / 1000
    plain = wording.plain_summary([result], [], NOTICES, locale)
    assert misdirected(plain, wording.moves_of([result]), locale) == []
