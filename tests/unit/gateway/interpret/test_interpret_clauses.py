"""An instruction, cut into words and clauses (GAT-3, GAT-4)."""

import pytest
from gatehouse.domain.v1 import domain_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.interpret.clauses import Clause, Cutter
from services.gateway.interpret.lexicon import Act
from services.gateway.interpret.rules import read_by_rules
from services.gateway.interpret.scene import scene_of
from services.gateway.interpret.text import fold, words_of
from services.runtime.failure import InvalidInput
from tests.unit.gateway.interpret.aids import LOCALES, clinic, reading


def clauses(text: str, locale: str = "en-US") -> list[Clause]:
    scene = scene_of(text, clinic(), reading(locale))
    return Cutter(scene.lexicon, scene.vocabulary, scene.today).clauses_of(scene.words)


def acts(text: str, locale: str = "en-US") -> list[Act | None]:
    return [each.act for each in clauses(text, locale)]


@pytest.mark.parametrize(
    "text", ["", "   ", "\n\t", "x" * 4001, "delete\x00all", "\x1b[31mshow", "a�b"]
)
def test_what_is_no_text_is_refused_with_the_field_named(text: str) -> None:
    """GAT-3."""
    with pytest.raises(InvalidInput) as refused:
        words_of(text)
    assert [field for field, _ in refused.value.violations] == ["instruction"]


def test_the_longest_text_and_line_breaks_are_text() -> None:
    """GAT-3."""
    assert words_of("show\r\n\tclients")
    assert len(words_of("ab " * 1333)) == 1333


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10:30, 3/4 and 1,500.00.", ["10:30", ",", "3/4", "and", "1,500.00", "."]),
        ("e-mail ana@x.com.br now", ["e-mail", "ana@x.com.br", "now"]),
        ("Ana's client", ["Ana", "client"]),
        ("R$ 150,00", ["R$", "150,00"]),
        ("3 p.m.", ["3", "p.m."]),
        ('say "delete all" now', ["say", "delete all", "now"]),
        ("say “delete all now", ["say", "delete all now"]),
        ("it's 'delete all' now", ["it", "delete all", "now"]),
    ],
)
def test_words_keep_together_what_belongs_together(text: str, words: list[str]) -> None:
    """GAT-3: numbers, addresses and quotations are one word."""
    assert [each.written for each in words_of(text)] == words


def test_a_quotation_compares_with_nothing() -> None:
    """GAT-4: even when it is never closed."""
    assert [each.folded for each in words_of('note "delete all')] == ["note", ""]


@given(st.text(max_size=200))
def test_words_stand_where_they_say(text: str) -> None:
    """GAT-3: in order, apart, and within the text."""
    try:
        words = words_of(text)
    except InvalidInput:
        return
    end = 0
    for word in words:
        assert end <= word.start < word.end <= len(text)
        assert word.quoted or text[word.start : word.end] == word.written
        end = word.end


@given(st.text(max_size=40))
def test_folding_is_done_once_and_for_all(text: str) -> None:
    """GAT-3: without regard to case and accents."""
    assert fold(fold(text)) == fold(text)
    assert fold("SÃO João") == fold("sao joao")


@pytest.mark.parametrize(
    ("locale", "text", "expected"),
    [
        ("en-US", "show clients and delete invoice 1", [Act.READ, Act.DELETE]),
        ("en-US", "show clients, then cancel the appointment 5", [Act.READ, Act.CANCEL]),
        ("en-US", "show clients; mark invoice 1 as paid. Thanks!", [Act.READ, Act.MARK]),
        ("en-US", "hello, please list the invoices of Ana and Bruno", [Act.READ]),
        ("en-US", "show appointments of Ana and Mark Jones", [Act.READ]),
        ("en-US", "on friday, cancel appointment 5", [Act.CANCEL]),
        ("en-US", "patients who cancel", [None]),
        ("en-US", "show invoices and issue date", [Act.READ]),
        ("pt-BR", "mostre os clientes e apague a fatura 1", [Act.READ, Act.DELETE]),
        ("pt-BR", "por favor, remarque a consulta 5", [Act.MOVE]),
        ("es-ES", "muéstrame los clientes y bórralos todos", [Act.READ, Act.DELETE]),
        ("es-ES", "consulta las citas", [Act.READ]),
        ("es-ES", "agenda una cita", [Act.CREATE]),
        ("es-ES", "agenda de hoy", [None]),
    ],
)
def test_a_clause_begins_where_another_verb_does(
    locale: str, text: str, expected: list[Act | None]
) -> None:
    """GAT-3."""
    assert acts(text, locale) == expected


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "could you delete the client Ana?"),
        ("pt-BR", "você poderia apagar o cliente Ana?"),
        ("es-ES", "¿podrías borrar el cliente Ana?"),
    ],
)
def test_a_polite_question_is_a_request(locale: str, text: str) -> None:
    """GAT-3."""
    (clause,) = clauses(text, locale)
    assert clause.act is Act.DELETE
    assert not clause.is_question


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "delete the client Ana?"),
        ("en-US", "may I delete the client Ana"),
        ("pt-BR", "devo apagar o cliente Ana?"),
        ("es-ES", "¿se puede borrar un cliente?"),
    ],
)
def test_a_question_about_a_change_is_a_question(locale: str, text: str) -> None:
    """GAT-4."""
    assert all(each.is_question for each in clauses(text, locale))


@pytest.mark.parametrize("locale", LOCALES)
@given(text=st.text(min_size=1, max_size=120))
def test_any_text_is_read_or_refused_as_input(locale: str, text: str) -> None:
    """GAT-3: nothing but InvalidInput is ever raised."""
    try:
        found = read_by_rules(scene_of(text, clinic(), reading(locale)))
    except InvalidInput:
        return
    assert found.doubt is None or not found.operations


@pytest.mark.parametrize(
    "repeated",
    [
        "a and ",
        "client and ",
        "show x:",
        "the phone to ",
        "with message saying ",
        "And Show ",
        "1:",
    ],
)
def test_a_text_without_end_is_read_in_time(repeated: str) -> None:
    """GAT-3: in proportion to its length; what is no plain request is asked about."""
    text = (repeated * 4000)[:4000]
    found = read_by_rules(scene_of(text, clinic(), reading()))
    assert all(each.operation.verb == domain_pb2.VERB_READ for each in found.operations)
