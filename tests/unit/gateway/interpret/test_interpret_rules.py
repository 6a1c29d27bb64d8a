"""Plain requests in three languages, read by the rules alone (GAT-3)."""

import pytest
from gatehouse.domain.v1 import domain_pb2

from services.gateway.interpret.rules import CAREFUL, DOUBTFUL, EVERYTHING, LIKELY, SURE
from tests.unit.gateway.interpret.aids import LOCALES, clinic, day, doubt, operations, read

TODAY = day("2026-11-23", "2026-11-24")
TOMORROW = day("2026-11-24", "2026-11-25")
FRIDAY = day("2026-11-27", "2026-11-28")

READS = [
    ("en-US", "show today's appointments", f"READ appointment {TODAY}"),
    ("pt-BR", "mostre as consultas de hoje", f"READ appointment {TODAY}"),
    ("es-ES", "muéstrame las citas de hoy", f"READ appointment {TODAY}"),
    ("en-US", "What's on the schedule for tomorrow?", f"READ appointment {TOMORROW}"),
    ("pt-BR", "agenda de amanhã", f"READ appointment {TOMORROW}"),
    ("es-ES", "agenda de mañana", f"READ appointment {TOMORROW}"),
    ("en-US", "overdue invoices of Ana Souza", "READ invoice client_name=Ana Souza status=overdue"),
    (
        "pt-BR",
        "faturas atrasadas da Ana Souza",
        "READ invoice client_name=Ana Souza status=overdue",
    ),
    (
        "es-ES",
        "facturas vencidas de Ana Souza",
        "READ invoice client_name=Ana Souza status=overdue",
    ),
    ("en-US", "which invoices are not paid?", "READ invoice status!=paid"),
    ("pt-BR", "quais faturas não estão pagas?", "READ invoice status!=paid"),
    ("es-ES", "¿qué facturas no están pagadas?", "READ invoice status!=paid"),
    ("en-US", "what is the phone of Ana Souza?", "READ client name=Ana Souza"),
    ("pt-BR", "qual é o telefone da Ana Souza?", "READ client name=Ana Souza"),
    ("es-ES", "¿cuál es el teléfono de Ana Souza?", "READ client name=Ana Souza"),
    ("en-US", "show clients without consent", "READ client contact_consent=False"),
    ("pt-BR", "mostre os clientes sem consentimento", "READ client contact_consent=False"),
    ("es-ES", "muestra los clientes sin consentimiento", "READ client contact_consent=False"),
    ("en-US", "invoices over 500", "READ invoice amount>500.0"),
    ("pt-BR", "faturas acima de 1.500,50", "READ invoice amount>1500.5"),
    ("es-ES", "facturas de más de 500", "READ invoice amount>500.0"),
    ("en-US", "open or overdue invoices", "READ invoice status in open|overdue"),
    ("en-US", "all appointments except cancelled ones", "READ appointment status!=cancelled"),
    ("en-US", "show client with phone 555-1234", "READ client phone=555-1234"),
    ("pt-BR", "clientes do bairro Centro", "READ client neighbourhood=Centro"),
    ("en-US", "which clients have overdue invoices?", "READ invoice status=overdue"),
    ("en-US", "appointments of Ana", "READ appointment client_name~Ana"),
]

CHANGES = [
    (
        "en-US",
        "create a client named Maria Silva with phone +55 (11) 99999-1234 and email maria@x.com",
        "CREATE client: email=maria@x.com, name=Maria Silva, phone=+55 (11) 99999-1234",
    ),
    (
        "pt-BR",
        "cadastre um cliente chamado João da Silva com telefone (11) 99999-1234",
        "CREATE client: name=João da Silva, phone=(11) 99999-1234",
    ),
    (
        "en-US",
        "register a new client: name Carla Dias, phone 555-0000",
        "CREATE client: name=Carla Dias, phone=555-0000",
    ),
    (
        "pt-BR",
        "cadastre a paciente Carla Dias, telefone 11 98888-7777, email carla@x.com",
        "CREATE client: email=carla@x.com, name=Carla Dias, phone=11 98888-7777",
    ),
    (
        "es-ES",
        "registra a la paciente Carla Díaz, teléfono 600 123 456, correo carla@x.com",
        "CREATE client: email=carla@x.com, name=Carla Díaz, phone=600 123 456",
    ),
    (
        "es-ES",
        "añade el teléfono 600123 a la paciente Ana Souza",
        "UPDATE client name=Ana Souza: phone=600123",
    ),
    (
        "es-ES",
        "crea un cliente llamado Juan Pérez con teléfono 600 123 456",
        "CREATE client: name=Juan Pérez, phone=600 123 456",
    ),
    (
        "en-US",
        "book an appointment for Ana Souza tomorrow at 10",
        "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
    ),
    (
        "pt-BR",
        "agende uma consulta para Ana Souza amanhã às 10h",
        "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
    ),
    (
        "es-ES",
        "crea una cita para Ana Souza mañana a las 10",
        "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
    ),
    (
        "en-US",
        "tomorrow at 10 book an appointment for Ana Souza",
        "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
    ),
    (
        "es-ES",
        "agenda una cita para Ana Souza el viernes a las 3 de la tarde",
        "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-27T15:00",
    ),
    (
        "en-US",
        "create an invoice for Ana Souza of 150.00 due December 1 number INV-77",
        "CREATE invoice: amount=150.0, client_name=Ana Souza, due_date=2026-12-01, number=INV-77",
    ),
    (
        "pt-BR",
        "crie uma fatura número 77 para Ana Souza de R$ 1.500,00 com vencimento em 10/12/2026",
        "CREATE invoice: amount=1500.0, client_name=Ana Souza, due_date=2026-12-10, number=77",
    ),
    (
        "es-ES",
        "crea una factura número 77 para Ana Souza de 1.500,00 € con vencimiento el 10/12/2026",
        "CREATE invoice: amount=1500.0, client_name=Ana Souza, due_date=2026-12-10, number=77",
    ),
    ("en-US", "mark invoice 1042 as paid", "UPDATE invoice number=1042: status=paid"),
    ("pt-BR", "marque a fatura 1042 como paga", "UPDATE invoice number=1042: status=paid"),
    ("es-ES", "marca la factura 1042 como pagada", "UPDATE invoice number=1042: status=paid"),
    ("en-US", "mark invoice 1042 as disputed", "UPDATE invoice number=1042: disputed=True"),
    (
        "en-US",
        "move Ana Souza's appointment to Friday at 3pm",
        "UPDATE appointment client_name=Ana Souza: starts_at=2026-11-27T15:00",
    ),
    (
        "pt-BR",
        "mude a consulta da Ana Souza para sexta às 15h",
        "UPDATE appointment client_name=Ana Souza: starts_at=2026-11-27T15:00",
    ),
    (
        "es-ES",
        "mueve la cita de Ana Souza al viernes a las 15h",
        "UPDATE appointment client_name=Ana Souza: starts_at=2026-11-27T15:00",
    ),
    (
        "es-ES",
        "cambia la cita de Ana Souza de mañana a las 10 al viernes a las 16:00",
        "UPDATE appointment client_name=Ana Souza starts_at=2026-11-24T10:00:"
        " starts_at=2026-11-27T16:00",
    ),
    (
        "en-US",
        "change the phone of Ana Souza to 555-1234",
        "UPDATE client name=Ana Souza: phone=555-1234",
    ),
    (
        "pt-BR",
        "altere o telefone da Ana Souza para 5555-1234",
        "UPDATE client name=Ana Souza: phone=5555-1234",
    ),
    (
        "es-ES",
        "cámbiale el teléfono a Ana Souza a 600123456",
        "UPDATE client name=Ana Souza: phone=600123456",
    ),
    (
        "en-US",
        "change Ana Souza's email to ana@x.com and the phone to 555-9999",
        "UPDATE client name=Ana Souza: email=ana@x.com, phone=555-9999",
    ),
    (
        "en-US",
        "set the consent of Ana Souza to no",
        "UPDATE client name=Ana Souza: contact_consent=False",
    ),
    (
        "en-US",
        "add phone 555-1234 to the client Ana Souza",
        "UPDATE client name=Ana Souza: phone=555-1234",
    ),
    ("en-US", "delete the client Bruno Lima", "DELETE client name=Bruno Lima"),
    ("pt-BR", "apague o cliente Bruno Lima", "DELETE client name=Bruno Lima"),
    ("es-ES", "borra el cliente Bruno Lima", "DELETE client name=Bruno Lima"),
    (
        "en-US",
        "can you please cancel Ana Souza's appointment?",
        "UPDATE appointment client_name=Ana Souza: status=cancelled",
    ),
    (
        "pt-BR",
        "você pode desmarcar a consulta da Ana Souza?",
        "UPDATE appointment client_name=Ana Souza: status=cancelled",
    ),
    (
        "es-ES",
        "¿puedes cancelar la cita de Ana Souza?",
        "UPDATE appointment client_name=Ana Souza: status=cancelled",
    ),
    ("en-US", "cancel the reminder of Ana Souza", "DELETE reminder client_name=Ana Souza"),
    (
        "en-US",
        "cancel appointment 7d9f1c1e-0000-4000-8000-000000000001",
        "UPDATE appointment id=7d9f1c1e-0000-4000-8000-000000000001: status=cancelled",
    ),
]


@pytest.mark.parametrize(("locale", "text", "expected"), READS)
def test_a_request_to_read_becomes_a_read_with_its_conditions(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3."""
    assert operations(text, locale) == [expected]


@pytest.mark.parametrize(("locale", "text", "expected"), CHANGES)
def test_a_plain_request_for_a_change_is_read_with_certainty(
    locale: str, text: str, expected: str
) -> None:
    """GAT-3: sure enough not to be confirmed."""
    assert operations(text, locale) == [expected]
    assert read(text, locale).confidence == SURE


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        (
            "en-US",
            "show today's appointments, mark invoice INV-1002 as paid"
            " and delete the client Bruno Lima",
        ),
        (
            "pt-BR",
            "mostre as consultas de hoje, marque a fatura INV-1002 como paga"
            " e apague o cliente Bruno Lima",
        ),
        (
            "es-ES",
            "muestra las citas de hoy, marca la factura INV-1002 como pagada"
            " y borra el cliente Bruno Lima",
        ),
    ],
)
def test_one_sentence_may_ask_for_several_things_of_several_domains(locale: str, text: str) -> None:
    """GAT-3."""
    assert operations(text, locale) == [
        f"READ appointment {TODAY}",
        "UPDATE invoice number=INV-1002: status=paid",
        "DELETE client name=Bruno Lima",
    ]


@pytest.mark.parametrize(
    ("locale", "text", "confidence"),
    [
        ("en-US", "cancel all appointments of next Friday", SURE),
        ("pt-BR", "cancele todas as consultas de sexta", SURE),
        ("es-ES", "cancela todas las citas del viernes", SURE),
        ("en-US", "cancel the appointments of Friday", CAREFUL),
        ("pt-BR", "cancele as consultas de sexta", CAREFUL),
        ("es-ES", "cancela las citas del viernes", CAREFUL),
    ],
)
def test_a_change_of_many_records_is_let_through_to_be_counted(
    locale: str, text: str, confidence: float
) -> None:
    """GAT-5: the domain counts them for a confirmation; a mere plural is always confirmed."""
    assert operations(text, locale) == [f"UPDATE appointment {FRIDAY} many: status=cancelled"]
    found = read(text, locale)
    assert found.operations[0].operation.max_affected == EVERYTHING
    assert found.confidence == confidence
    assert found.understood


@pytest.mark.parametrize("text", ["delete all clients", "mark every invoice as paid"])
def test_a_change_of_everything_there_is_is_never_sure(text: str) -> None:
    """GAT-5."""
    assert read(text).confidence == CAREFUL


def test_a_change_of_one_record_lets_the_domain_ask_which() -> None:
    """GAT-4: max_affected 0 means one, and several are answered with candidates."""
    (each,) = read("cancel Ana Souza's appointment").operations
    assert each.operation.max_affected == 0


def test_what_is_told_by_a_part_of_a_name_is_shown_before_it_is_changed() -> None:
    """GAT-4: Ana is also in Mariana."""
    assert operations("cancel Ana's appointment") == [
        "UPDATE appointment client_name~Ana: status=cancelled"
    ]
    assert read("cancel Ana's appointment").confidence == CAREFUL


def test_each_of_several_names_or_numbers_makes_an_operation() -> None:
    """GAT-3."""
    assert operations("mark invoices 1001 and 1002 as paid") == [
        "UPDATE invoice number=1001: status=paid",
        "UPDATE invoice number=1002: status=paid",
    ]
    assert operations("book appointments for Ana Souza and Bruno Lima tomorrow at 10am") == [
        "CREATE appointment: client_name=Ana Souza, starts_at=2026-11-24T10:00",
        "CREATE appointment: client_name=Bruno Lima, starts_at=2026-11-24T10:00",
    ]


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "show invoice 1042 and mark it as paid"),
        ("es-ES", "muestra la factura 1042 y márcala como pagada"),
    ],
)
def test_a_pronoun_speaks_of_the_records_before_it_and_is_confirmed(locale: str, text: str) -> None:
    """GAT-3, GAT-5."""
    found = read(text, locale)
    assert operations(text, locale) == [
        "READ invoice number=1042",
        "UPDATE invoice number=1042: status=paid",
    ]
    assert found.operations[1].confidence == CAREFUL


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "remove client Ana Souza and cancel all her appointments"),
        ("pt-BR", "apague a cliente Ana Souza e cancele todas as suas consultas"),
        ("es-ES", "borra la paciente Ana Souza y cancela todas sus citas"),
    ],
)
def test_what_is_somebodys_is_never_taken_for_everybodys(locale: str, text: str) -> None:
    """GAT-4."""
    assert doubt(text, locale) == "TARGET"


def test_a_joined_kind_is_a_request_of_its_own() -> None:
    """GAT-3: unless it only tells the first, which is then confirmed (GAT-4)."""
    assert operations("delete invoice 1042 and the client Bruno Lima") == [
        "DELETE invoice number=1042",
        "DELETE client name=Bruno Lima",
    ]
    text = "delete the invoices of Ana Souza and the client Bruno Lima"
    assert operations(text) == [
        "DELETE invoice client_name=Ana Souza",
        "DELETE invoice client_name=Bruno Lima",
    ]
    assert read(text).confidence == CAREFUL


def test_words_that_nothing_accounts_for_make_a_change_doubtful() -> None:
    """GAT-5: a model is asked, then the user."""
    found = read("cancel Ana Souza's appointment on Friday because of flu")
    assert found.confidence == DOUBTFUL
    assert not found.understood


def test_a_read_without_a_verb_is_likely_and_one_with_a_verb_is_sure() -> None:
    """GAT-3: confidence means something."""
    assert read("overdue invoices").confidence == LIKELY
    assert read("show overdue invoices").confidence == SURE


@pytest.mark.parametrize(
    ("locale", "text", "lacking"),
    [
        ("en-US", "book an appointment for Ana Souza", "time"),
        ("pt-BR", "agende uma consulta para Ana Souza", "horário"),
        ("es-ES", "crea una cita para Ana Souza", "hora"),
        ("en-US", "create a client", "name"),
        ("en-US", "change the phone of Ana Souza", "phone"),
        ("pt-BR", "altere o telefone da Ana Souza", "telefone"),
        ("en-US", "create a reminder for Ana Souza, message:", "message"),
        ("en-US", "change the phone of Ana Souza to 555-1234 and the email", "email"),
    ],
)
def test_a_missing_value_is_asked_for_in_the_users_words(
    locale: str, text: str, lacking: str
) -> None:
    """GAT-4."""
    assert doubt(text, locale) == "MISSING_VALUE"
    found = read(text, locale).doubt
    assert found is not None
    assert found.lacking == lacking


@pytest.mark.parametrize(
    "text", ["delete the client", "cancel the appointment", "delete 3 clients"]
)
def test_a_change_that_does_not_say_of_what_is_asked_about(text: str) -> None:
    """GAT-4."""
    assert doubt(text) == "TARGET"


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en-US", "delete the phone of client Ana Souza"),
        ("pt-BR", "exclua o telefone da Ana Souza"),
        ("es-ES", "quita el teléfono de Ana Souza"),
    ],
)
def test_removing_a_field_never_removes_the_record(locale: str, text: str) -> None:
    """GAT-4."""
    assert doubt(text, locale) == "OPERATION"


def test_a_change_of_those_who_have_something_never_changes_the_something() -> None:
    """GAT-4: deleting clients with overdue invoices deletes no invoices."""
    assert doubt("delete the clients with overdue invoices") == "TARGET"


@pytest.mark.parametrize("locale", LOCALES)
def test_evidence_points_at_the_words_that_led_to_an_operation(locale: str) -> None:
    """GAT-3: characters of the instruction as it was written."""
    text = {
        "en-US": "🙂 Please mark  invoice 1042 as paid",
        "pt-BR": "🙂 Por favor, marque  a fatura 1042 como paga",
        "es-ES": "🙂 Por favor, marca  la factura 1042 como pagada",
    }[locale]
    (each,) = read(text, locale).operations
    told = {one.part: text[one.start : one.end] for one in each.evidence}
    words = text.replace(",", "").split()
    assert told["verb"] in words
    assert told["selector"] == "1042"
    assert told["field:status"] == words[-1]
    assert told["entity"] == words[-4]


def test_an_operation_that_a_kind_does_not_offer_is_never_made() -> None:
    """GAT-3: reminders are not updated."""
    reminder = clinic()["appointments"].entities[1]
    assert domain_pb2.VERB_UPDATE not in reminder.operations
    assert doubt("change the message of the reminder of Ana Souza to hello") == "OPERATION"
