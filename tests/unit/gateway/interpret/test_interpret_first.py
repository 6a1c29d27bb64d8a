"""The next and the last of records (GAT-3, GAT-4)."""

import pytest
from gatehouse.domain.v1 import domain_pb2

from services.gateway.interpret.rules import CAREFUL, SURE
from tests.unit.gateway.interpret.aids import doubt, operations, read, stock

NOON = "2026-11-23T12:00"
TO_COME = f"starts_at>={NOON} status!=cancelled"

FIRST = "client_name=Ana Souza first by starts_at"

READS = [
    ("en-US", "show Ana Souza's next appointment", f"{FIRST} {TO_COME}"),
    ("en-US", "when is the next appointment of Ana Souza?", f"{FIRST} {TO_COME}"),
    ("pt-BR", "qual é a próxima consulta de Ana Souza?", f"{FIRST} {TO_COME}"),
    ("pt-BR", "o próximo horário de Ana", f"client_name~Ana first by starts_at {TO_COME}"),
    ("es-ES", "muestra la próxima cita de Ana Souza", f"{FIRST} {TO_COME}"),
]
LAST = [
    ("en-US", "what was Ana Souza's most recent invoice?"),
    ("en-US", "show the last invoice of Ana Souza"),
    ("pt-BR", "mostre a última fatura de Ana Souza"),
    ("pt-BR", "qual é a fatura mais recente de Ana Souza?"),
    ("es-ES", "muestra la última factura de Ana Souza"),
]


@pytest.mark.parametrize(("locale", "text", "expected"), READS)
def test_what_is_next_is_the_first_that_is_still_to_come(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3: and is not cancelled."""
    assert operations(text, locale) == [f"READ appointment {expected}"]


@pytest.mark.parametrize(("locale", "text"), LAST)
def test_the_last_of_a_kind_is_by_its_day(locale: str, text: str) -> None:
    """GAT-3."""
    assert operations(text, locale) == ["READ invoice client_name=Ana Souza last by due_date"]


def test_what_has_a_time_was_last_when_it_is_over() -> None:
    """GAT-3: and within a month that is named, it is the last of that."""
    last = "show the last appointment of Ana Souza"
    assert operations(last) == [
        f"READ appointment client_name=Ana Souza last by starts_at starts_at<{NOON}"
    ]
    (within,) = operations("show the last appointment of this month")
    assert within == (
        "READ appointment last by starts_at starts_at<2026-12-01T00:00 starts_at>=2026-11-01T00:00"
    )


@pytest.mark.parametrize(
    ("locale", "text", "verb"),
    [
        ("en-US", "cancel Ana Souza's next appointment", "UPDATE"),
        ("en-US", "move Ana Souza's next appointment to friday at 10am", "UPDATE"),
        ("en-US", "delete the latest invoice of Ana Souza", "DELETE"),
        ("pt-BR", "cancele a próxima consulta de Ana Souza", "UPDATE"),
        ("pt-BR", "marque a última fatura de Ana Souza como paga", "UPDATE"),
        ("es-ES", "cancela la próxima cita de Ana Souza", "UPDATE"),
        ("es-ES", "mueve la próxima cita de Ana Souza al viernes a las 10:00", "UPDATE"),
    ],
)
def test_a_change_of_the_next_or_the_last_is_of_one_record_and_shown_first(
    locale: str, text: str, verb: str
) -> None:
    """GAT-5."""
    (found,) = read(text, locale).operations
    assert domain_pb2.Verb.Name(found.operation.verb) == f"VERB_{verb}"
    assert found.operation.selector.HasField("first")
    assert found.operation.max_affected == 0
    assert found.confidence == CAREFUL


def test_of_several_people_of_a_name_the_next_is_asked_for() -> None:
    """GAT-4: of all Anas the domain gives the candidates; reading shows the next of them."""
    (found,) = read("cancel the next appointment of Ana").operations
    assert not found.operation.selector.HasField("first")
    assert found.operation.max_affected == 0
    assert "~Ana" in operations("cancel the next appointment of Ana")[0]


def test_whose_next_is_not_said_is_asked_before_it_is_changed() -> None:
    """GAT-4."""
    assert doubt("cancel her next appointment") == "TARGET"


def test_another_trade_has_a_next_too() -> None:
    """GAT-3: the day is the descriptors' to say."""
    assert operations("show the next order", descriptors=stock()) == [
        f"READ order arrives_at>={NOON} first by arrives_at state!=annulled"
    ]
    assert operations("muestra el último pedido", "es-ES", descriptors=stock()) == [
        f"READ order arrives_at<{NOON} last by arrives_at"
    ]


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "show the appointments of next week"),
        ("pt-BR", "mostre as consultas da próxima semana"),
        ("es-ES", "muestra las citas de la próxima semana"),
        ("es-ES", "muestra las citas de la semana próxima"),
    ],
)
def test_the_next_week_is_a_week(locale: str, text: str) -> None:
    """GAT-3: though a day begins with the article of `de la`."""
    (found,) = read(text, locale).operations
    assert not found.operation.selector.HasField("first")
    assert found.confidence == SURE
    assert operations(text, locale) == [
        "READ appointment starts_at<2026-12-07T00:00 starts_at>=2026-11-30T00:00"
    ]
