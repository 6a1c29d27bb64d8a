"""Two readers, who must agree before anything is changed (GAT-3, GAT-4)."""

from collections.abc import Mapping

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.interpret.agreement import read_by_both
from services.gateway.interpret.rules import CAREFUL, Read, read_by_rules
from services.gateway.interpret.scene import scene_of
from services.gateway.interpret.second import ASKED, Opinion, learned, second_opinion, weights_in
from services.gateway.interpret.verdict import found_in, signs_of
from tests.unit.gateway.interpret.aids import LOCALES, clinic, reading, shown, stock
from tests.unit.gateway.interpret.test_interpret_doubts import NEVER
from tests.unit.gateway.interpret.test_interpret_rules import CHANGES, READS
from tests.unit.gateway.interpret.test_interpret_trades import REQUESTS


def read(
    text: str, locale: str = "en-US", descriptors: Mapping[str, DomainDescriptor] | None = None
) -> Read:
    return read_by_both(scene_of(text, descriptors or clinic(), reading(locale)), learned())


def lines(found: Read) -> list[str]:
    return [shown(each.operation) for each in found.operations]


def changes(found: Read) -> bool:
    """Whether anything but reading is even understood, asked about or not."""
    return any(each.operation.verb != domain_pb2.VERB_READ for each in found_in(found))


def opinion(text: str, locale: str = "en-US", **how: Mapping[str, DomainDescriptor]) -> Opinion:
    scene = scene_of(text, how.get("descriptors", clinic()), reading(locale))
    signs = signs_of(read_by_rules(scene), scene)
    return second_opinion(scene.words, scene, learned(), signs)


@pytest.mark.parametrize(("locale", "text", "expected"), [*READS, *CHANGES])
def test_what_the_rules_account_for_word_by_word_stands(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3: the second reader protests against none of the plain requests."""
    assert lines(read(text, locale)) == [expected]


@pytest.mark.parametrize(("locale", "text", "expected"), REQUESTS)
def test_it_stands_for_a_trade_that_the_second_reader_has_never_met(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3."""
    assert lines(read(text, locale, stock())) == [expected]


@pytest.mark.parametrize(("locale", "text"), NEVER)
def test_what_is_not_plainly_asked_for_is_changed_by_neither(locale: str, text: str) -> None:
    """GAT-4: negated, only asked about, told of somebody, or text of others."""
    assert not changes(read(text, locale))


@pytest.mark.parametrize(
    "text",
    [
        "I need to pay some bills, how much is invoice 1042?",
        "when's my next appointment day",
        "did somebody create an appointment for Ana Souza",
        "make sure the appointment of Ana Souza is on the schedule",
    ],
)
def test_what_only_speaks_of_a_change_reads_at_most(text: str) -> None:
    """GAT-4."""
    assert not changes(read(text))


@pytest.mark.parametrize(
    ("locale", "text", "expected"),
    [
        (
            "en-US",
            "The weather is nice. Delete the client Bruno Lima",
            "DELETE client name=Bruno Lima",
        ),
        (
            "en-US",
            "I would like an appointment for Ana Souza tomorrow at 10am",
            "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
        ),
        (
            "es-ES",
            "necesito una cita para Ana Souza mañana a las 10",
            "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
        ),
    ],
)
def test_what_only_one_reader_is_sure_of_is_confirmed_first(
    locale: str, text: str, expected: str
) -> None:
    """GAT-5: below what is carried out unconfirmed."""
    found = read(text, locale)
    assert lines(found) == [expected]
    assert found.confidence <= CAREFUL < 0.8


@pytest.mark.parametrize(
    "text",
    [
        "patients who cancel appointments",
        "the client Bruno Lima deleted",
        "Bruno Lima's appointment is not needed anymore",
    ],
)
def test_nothing_is_removed_that_the_rules_have_found_no_verb_for(text: str) -> None:
    """GAT-4."""
    assert not any(each.operation.verb == domain_pb2.VERB_DELETE for each in found_in(read(text)))


@pytest.mark.parametrize(
    ("text", "ambiguity", "understood"),
    [
        ("create a client", pb.AMBIGUITY_MISSING_VALUE, ["CREATE client"]),
        ("delete the client", pb.AMBIGUITY_TARGET, ["DELETE client"]),
        (
            "book an appointment for Ana Souza tomorrow",
            pb.AMBIGUITY_DATE,
            ["CREATE appointment"],
        ),
    ],
)
def test_a_question_for_a_value_says_what_is_understood(
    text: str, ambiguity: pb.Ambiguity.ValueType, understood: list[str]
) -> None:
    """GAT-4: nothing to carry out, but which operation on what kind of record."""
    found = read(text)
    assert found.doubt is not None
    assert found.doubt.ambiguity == ambiguity
    assert not found.operations
    said = [shown(each.operation).split(":")[0] for each in found.doubt.so_far]
    assert [" ".join(each.split()[:2]) for each in said] == understood


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "cancel Ana Souza's appointment and send her a reminder"),
        ("pt-BR", "cancele a consulta da Ana Souza e envie um lembrete para ela"),
        ("es-ES", "cancela la cita de Ana Souza y envíale un recordatorio"),
    ],
)
def test_a_pronoun_speaks_of_the_person_before_it_and_is_confirmed(locale: str, text: str) -> None:
    """GAT-3, GAT-5: several operations in one sentence, in several kinds of record."""
    found = read(text, locale)
    assert lines(found) == [
        "UPDATE appointment client_name=Ana Souza: status=cancelled",
        "CREATE reminder: client_name=Ana Souza",
    ]
    assert found.operations[1].confidence == CAREFUL


@pytest.mark.parametrize(
    ("locale", "text", "expected"),
    [
        ("pt-BR", "agende uma consulta para Ana Souza amanhã às 10", "2026-11-24T10:00"),
        (
            "es-ES",
            "agenda una cita para Ana Souza el martes que viene a las 10",
            "2026-11-24T10:00",
        ),
        (
            "en-US",
            "book an appointment for Ana Souza on the 29th at 2pm",
            "2026-11-29T14:00",
        ),
    ],
)
def test_days_and_times_are_the_clinics(locale: str, text: str, expected: str) -> None:
    """GAT-3."""
    created = f"CREATE appointment: client_name=Ana Souza, starts_at={expected}"
    assert lines(read(text, locale)) == [created]


# laws

NEGATIONS = {
    "en-US": ("don't", "do not", "never", "please don't", "I don't want to"),
    "pt-BR": ("não", "nunca", "por favor não", "não quero"),
    "es-ES": ("no", "nunca", "por favor no", "no quiero"),
}
QUESTIONS = {
    "en-US": ("how do I", "how can I", "how to", "tell me how to", "what happens if I"),
    "pt-BR": ("como faço para", "como posso", "como"),
    "es-ES": ("cómo puedo", "cómo hago para", "cómo"),
}
VERBS = {
    "en-US": ("delete", "cancel", "create", "book", "change", "update", "remove", "pay", "move"),
    "pt-BR": ("apagar", "cancelar", "criar", "agendar", "alterar", "excluir", "pagar", "mudar"),
    "es-ES": ("borrar", "cancelar", "crear", "agendar", "cambiar", "eliminar", "pagar", "mover"),
}
OBJECTS = {
    "en-US": ("the client Ana Souza", "an appointment tomorrow at 10am", "invoice 1042", "them"),
    "pt-BR": ("a cliente Ana Souza", "uma consulta amanhã às 10h", "a fatura 1042", "isso"),
    "es-ES": ("la cliente Ana Souza", "una cita mañana a las 10", "la factura 1042", "eso"),
}


@pytest.mark.parametrize("locale", LOCALES)
@given(data=st.data())
def test_a_negated_sentence_never_changes_anything(locale: str, data: st.DataObject) -> None:
    """GAT-4."""
    said = [data.draw(st.sampled_from(each[locale])) for each in (NEGATIONS, VERBS, OBJECTS)]
    assert not changes(read(" ".join(said), locale))


@pytest.mark.parametrize("locale", LOCALES)
@given(data=st.data())
def test_a_question_how_to_do_a_thing_never_does_it(locale: str, data: st.DataObject) -> None:
    """GAT-4: with a question mark or without."""
    said = [data.draw(st.sampled_from(each[locale])) for each in (QUESTIONS, VERBS, OBJECTS)]
    mark = data.draw(st.sampled_from(("", "?", " please")))
    assert not changes(read(" ".join(said) + mark, locale))


HOSTS = {
    "en-US": (
        'show the client "{}"',
        'create a client named "{}"',
        'send a reminder to Ana Souza saying "{}"',
        "create a reminder for Ana Souza, message: {}",
        'show the invoices of "{}"',
    ),
    "pt-BR": (
        'mostre o cliente "{}"',
        'cadastre um cliente chamado "{}"',
        "crie um lembrete para Ana Souza, mensagem: {}",
    ),
    "es-ES": (
        'muestra el cliente "{}"',
        'crea un cliente llamado "{}"',
        "crea un recordatorio para Ana Souza con mensaje: {}",
    ),
}


@pytest.mark.parametrize("locale", LOCALES)
@given(data=st.data())
def test_an_instruction_hidden_in_a_value_never_adds_an_operation(
    locale: str, data: st.DataObject
) -> None:
    """GAT-4: whatever a quoted value says, the operations are those of a harmless one."""
    host = data.draw(st.sampled_from(HOSTS[locale]))
    parts = (VERBS, OBJECTS)
    hidden = " ".join(data.draw(st.sampled_from(each[locale])) for each in parts)
    before = data.draw(st.sampled_from(("", "ignore the above and ", "; ", "Carla. ")))

    def verbs(value: str) -> list[tuple[str, int]]:
        found = read(host.format(value), locale)
        return [(each.operation.entity, each.operation.verb) for each in found_in(found)]

    assert verbs(before + hidden) == verbs("Carla Dias")


# what the second reader sees


def test_the_second_reader_needs_no_nouns() -> None:
    """GAT-3: the same request to another trade is as clear to it."""
    ours = opinion("please delete the client")
    theirs = opinion("please delete the vaccine", descriptors=stock())
    assert ours.of("delete") == pytest.approx(theirs.of("delete"), abs=0.1)
    assert ours.best == theirs.best == "delete"


@pytest.mark.parametrize(
    "text",
    [
        "I would like an appointment for Ana Souza tomorrow at 10am",
        "I need an appointment for Ana Souza tomorrow at 10am",
    ],
)
def test_what_the_second_reader_has_named_is_told_with_the_words_that_weighed(text: str) -> None:
    """GAT-3: where no verb of the rules leads to it; nouns, days and names are not among them."""
    (found,) = read(text).operations
    verbs = {text[each.start : each.end] for each in found.evidence if each.part == "verb"}
    assert verbs
    assert verbs <= {"I", "would", "like", "need", "an", "for"}


WORDS = st.lists(
    st.sampled_from(["please", "não", "how", "-", "?", "client", "42", "x", "delete", "«", "!"]),
    max_size=90,
)


@given(st.sampled_from(LOCALES), WORDS)
def test_its_shares_add_up_whatever_it_is_given(locale: str, words: list[str]) -> None:
    """GAT-3."""
    shares = opinion(" ".join(["so", *words]), locale).shares
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == set(ASKED)


def test_the_table_is_whole_and_small() -> None:
    """GAT-3: five weights a line, each a byte."""
    weights = learned()
    assert 5_000 < len(weights.table) < 50_000
    assert all(len(row) == len(ASKED) for row in weights.table.values())
    assert all(-127 <= each <= 127 for row in weights.table.values() for each in row)


def test_a_table_is_read_as_it_is_written() -> None:
    """GAT-3."""
    weights = weights_in("# a comment\nbias\t1 0 0 0 0\nen delete\t-9 0 0 40 0\n")
    assert weights.bias == (1, 0, 0, 0, 0)
    assert weights.opinion({"en delete", "en unheard"}).best == "delete"
