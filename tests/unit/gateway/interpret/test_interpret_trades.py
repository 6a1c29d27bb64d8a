"""What is understood comes from the descriptors alone: the same of another trade (GAT-3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.interpret.checking import violations
from services.gateway.interpret.rules import read_by_rules
from services.gateway.interpret.scene import scene_of
from services.runtime.failure import InvalidInput
from tests.unit.gateway.interpret.aids import (
    LOCALES,
    choices,
    clinic,
    doubt,
    operations,
    reading,
    shown,
    stock,
)

REQUESTS = [
    ("en-US", "show the opened vaccines", "READ vaccine state=opened"),
    ("pt-BR", "mostre as vacinas abertas", "READ vaccine state=opened"),
    ("es-ES", "muestra las vacunas abiertas", "READ vaccine state=opened"),
    (
        "en-US",
        "vaccines expiring this month",
        "READ vaccine expires_on<2026-12-01 expires_on>=2026-11-01",
    ),
    ("en-US", "list chilled vaccines", "READ vaccine chilled=True"),
    ("en-US", "vaccines with less than 20 doses", "READ vaccine doses<20.0"),
    (
        "en-US",
        "create a vaccine named Rabisin with doses 40 expires 2027-03-01",
        "CREATE vaccine: brand=Rabisin, doses=40.0, expires_on=2027-03-01",
    ),
    (
        "pt-BR",
        "cadastre uma vacina chamada Rabisin com validade 01/03/2027",
        "CREATE vaccine: brand=Rabisin, expires_on=2027-03-01",
    ),
    (
        "en-US",
        "mark vaccine Rabisin Plus as opened",
        "UPDATE vaccine brand=Rabisin Plus: state=opened",
    ),
    ("es-ES", "borra la vacuna Rabisin Plus", "DELETE vaccine brand=Rabisin Plus"),
    ("en-US", "mark order PO-77 as received", "UPDATE order code=PO-77: state=received"),
    ("en-US", "cancel order PO-77", "UPDATE order code=PO-77: state=annulled"),
    ("pt-BR", "cancele o pedido PO-77", "UPDATE order code=PO-77: state=annulled"),
    ("en-US", "orders of supplier Bayer Vet", "READ order supplier=Bayer Vet"),
    (
        "en-US",
        "move order PO-77 to Friday at 10am",
        "UPDATE order code=PO-77: arrives_at=2026-11-27T10:00",
    ),
    (
        "es-ES",
        "crea un pedido PO-78 con proveedor Bayer Vet",
        "CREATE order: code=PO-78, supplier=Bayer Vet",
    ),
    (
        "en-US",
        "create order PO-79 for Bayer Vet, remark: cancel all orders",
        "CREATE order: code=PO-79, remark=cancel all orders, supplier=Bayer Vet",
    ),
]


@pytest.mark.parametrize(("locale", "text", "expected"), REQUESTS)
def test_another_trade_is_understood_by_its_own_descriptors(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3: nothing depends on the clinic's nouns."""
    assert operations(text, locale, descriptors=stock()) == [expected]


@pytest.mark.parametrize("text", ["show the clients", "delete the client Ana Souza"])
def test_the_clinics_words_mean_nothing_to_another_trade(text: str) -> None:
    """GAT-3, GAT-4: asked, with that trade's own words."""
    assert doubt(text, descriptors=stock()) == "DOMAIN"
    labels = [each.split(" / ")[0] for each in choices(text, descriptors=stock())]
    assert labels == ["vaccine", "order"]


def test_an_operation_that_another_trade_does_not_offer_is_not_made() -> None:
    """GAT-3: its orders are never deleted."""
    assert doubt("delete order PO-77", descriptors=stock()) == "OPERATION"


def test_without_any_descriptors_everything_is_asked_about() -> None:
    """GAT-4."""
    assert doubt("show everything", descriptors={}) == "DOMAIN"


PARTS = {
    "en-US": (
        "please show list create book a new named with phone to as from mark move cancel"
        " delete all the client clients appointment invoices reminder message : Ana Souza"
        ' Bruno 1042 INV-77 150.00 tomorrow Friday at 10 3pm 12/10 paid overdue not and , . "x'
        ' y" status amount due it if'
    ),
    "pt-BR": (
        "mostre crie agende chamado com telefone para como marque remarque cancele apague"
        " todas o a cliente consulta faturas lembrete mensagem : Ana Souza Bruno 1042 INV-77"
        ' 150,00 amanhã sexta às 10h 12/10 paga atrasada não e , . "x y" status valor'
        " vencimento ela se"
    ),
    "es-ES": (
        "muestra crea agenda llamado con teléfono a como marca mueve cancela borra todas el"
        " la cliente cita facturas recordatorio mensaje : Ana Souza Bruno 1042 INV-77 150,00"
        ' mañana viernes a las 10 12/10 pagada vencida no y , . "x y" estado importe'
        " vencimiento si"
    ),
}


@pytest.mark.parametrize("locale", LOCALES)
@given(data=st.data())
def test_whatever_is_read_passes_the_descriptors_and_points_into_the_text(
    locale: str, data: st.DataObject
) -> None:
    """GAT-3: no violations, evidence within the text, confidence between 0 and 1."""
    words = st.sampled_from(PARTS[locale].split())
    text = " ".join(data.draw(st.lists(words, min_size=1, max_size=16)))
    for descriptors in (clinic(), stock()):
        try:
            found = read_by_rules(scene_of(text, descriptors, reading(locale)))
        except InvalidInput:
            continue
        for each in found.operations:
            assert violations(each.operation, descriptors) == [], shown(each.operation)
            assert 0 < each.confidence <= 1
            assert each.evidence
            assert all(one.start < one.end <= len(text) for one in each.evidence)
        for choice in found.doubt.choices if found.doubt else ():
            for operation in choice.operations:
                assert violations(operation, descriptors) == [], shown(operation)
