"""What the example clinic's records hold each other to, by each rule's own reason (DOM-2)."""

import asyncio
import logging
from collections.abc import AsyncIterator

import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb

from tests.clinic_calls import (
    Clinic,
    Stubs,
    appointment,
    client,
    detail_of,
    equal,
    fields_of,
    holding,
    invoice,
    op,
    reasons,
    serving_clinic,
    waiting,
)


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[Stubs]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        yield stubs


@pytest.fixture
async def clinic(served, tokens, database) -> Clinic:
    """A clinic of one client, who has agreed to be contacted."""
    made = Clinic(served, tokens, database.url_for("clinic"))
    await made.done("clients", client("Ana Souza", contact_consent=True))
    return made


def number(of: str) -> pb.Condition:
    return equal("number", of)


# References


@pytest.mark.parametrize(
    ("domain", "entity", "make"),
    [
        ("finance", "invoice", invoice("1", "Ana Souza", status="paid")),
        ("finance", "invoice", invoice("1", "Ana Souza", status="cancelled")),
        ("appointments", "appointment", appointment("Ana Souza", "2020-01-01T10:00")),
        ("appointments", "appointment", appointment("Ana Souza", "2099-01-01T10:00")),
        ("appointments", "reminder", op("CREATE", "reminder", client_name="Ana Souza")),
    ],
    ids=["paid", "cancelled", "past", "ahead", "reminder"],
)
async def test_a_client_whom_a_record_names_is_not_deleted(
    clinic: Clinic, domain: str, entity: str, make: pb.Operation
) -> None:
    """DOM-2: REFERENCE_VIOLATION, until what names the client is deleted too."""
    make.operation_id = client("x").operation_id
    await clinic.done(domain, make)

    def remove() -> pb.Operation:
        return op("DELETE", "client", equal("name", "Ana Souza"))

    assert await clinic.told("clients", remove()) == ["REFERENCE_VIOLATION"]
    await clinic.done(domain, op("DELETE", entity, equal("client_name", "Ana Souza")))
    await clinic.done("clients", remove())


@pytest.mark.parametrize("entity", ["invoice", "appointment", "reminder"])
async def test_a_client_who_is_not_there_is_not_named(clinic: Clinic, entity: str) -> None:
    """DOM-2: deleted ones among them."""
    await clinic.done("clients", client("Gone"))
    await clinic.done("clients", op("DELETE", "client", equal("name", "Gone")))
    for name in ("Gone", "Nobody"):
        domain, make = {
            "invoice": ("finance", invoice("1", name)),
            "appointment": ("appointments", appointment(name, "2099-01-01T10:00")),
            "reminder": ("appointments", op("CREATE", "reminder", client_name=name)),
        }[entity]
        assert await clinic.told(domain, make) == ["NOT_FOUND"]


async def test_a_client_cannot_be_deleted_while_a_record_is_made_for_them(clinic: Clinic) -> None:
    """DOM-2: a race; either the client is gone, or the appointment is there, never both."""
    for round_ in range(15):
        name = f"Client {round_}"
        await clinic.done("clients", client(name))
        made, removed = await asyncio.gather(
            clinic.run("appointments", appointment(name, "2099-01-01T10:00")),
            clinic.run("clients", op("DELETE", "client", equal("name", name))),
        )
        assert made.committed != removed.committed
        told = reasons(removed if made.committed else made)
        assert told == ["REFERENCE_VIOLATION" if made.committed else "NOT_FOUND"]


async def test_who_makes_a_record_waits_for_who_deletes_its_client(
    clinic: Clinic, database
) -> None:
    """DOM-2: the client is held for as long as the record is being made."""
    async with holding(database.admin_url, "clients", "name", "Ana Souza"):
        call = asyncio.ensure_future(clinic.run("finance", invoice("1", "Ana Souza")))
        await waiting(database.admin_url, 1)
    assert (await call).committed


async def test_an_ambiguous_client_names_the_candidates(clinic: Clinic) -> None:
    """DOM-2, GAT-4: told apart by what is known of them, at most ten, and how many there are."""
    await clinic.done(
        "clients",
        client("ANA SOUZA", birth_date="1990-05-01"),
        client("Aná Souza", neighbourhood="Centro"),
    )
    response = await clinic.run("appointments", appointment("ana souza", "2099-01-01T10:00"))
    assert reasons(response) == ["AMBIGUOUS_TARGET"]
    found = detail_of(response.results[0].status, pb.Candidates())
    assert found.total == 3
    assert {each.label for each in found.candidates} == {
        "Ana Souza",
        "ANA SOUZA, 1990-05-01",
        "Aná Souza, Centro",
    }
    assert len({each.id for each in found.candidates}) == 3
    await clinic.done("clients", *(client("Ana Souza") for _ in range(9)))
    response = await clinic.run("appointments", appointment("ana souza", "2099-01-01T10:00"))
    found = detail_of(response.results[0].status, pb.Candidates())
    assert (len(found.candidates), found.total) == (10, 12)
    removed = await clinic.run("clients", op("DELETE", "client", equal("name", "ana souza")))
    assert detail_of(removed.results[0].status, pb.Candidates()).total == 12
    chosen = op("DELETE", "client")
    chosen.selector.id = found.candidates[0].id
    await clinic.done("clients", chosen)


# Deleted


async def test_what_is_deleted_is_there_for_nobody(clinic: Clinic) -> None:
    """DOM-2: not to be read, changed, deleted again or counted, by id or by condition."""
    (made,) = await clinic.done("finance", invoice("1", "Ana Souza"))
    await clinic.done("finance", op("DELETE", "invoice", number("1")))
    by_id = made.records[0]["id"]
    for verb, fields in (("UPDATE", {"amount": 1}), ("DELETE", {})):
        for selects in (number("1"), equal("id", by_id)):
            assert await clinic.told("finance", op(verb, "invoice", selects, **fields)) == [
                "NOT_FOUND"
            ]
        direct = op(verb, "invoice", **fields)
        direct.selector.id = by_id
        assert await clinic.told("finance", direct) == ["NOT_FOUND"]
    assert await clinic.read("finance", "invoice") == []


async def test_the_number_of_a_deleted_invoice_is_free_again(clinic: Clinic) -> None:
    """DOM-2: and that of one that is there is not."""
    await clinic.done("finance", invoice("1", "Ana Souza"))
    assert await clinic.told("finance", invoice("1", "Ana Souza")) == ["ALREADY_EXISTS"]
    await clinic.done("finance", op("DELETE", "invoice", number("1")))
    await clinic.done("finance", invoice("1", "Ana Souza"), invoice("2", "Ana Souza"))
    renumbered = op("UPDATE", "invoice", number("2"), number="1")
    assert await clinic.told("finance", renumbered) == ["ALREADY_EXISTS"]


# States


async def test_a_locked_record_stays_as_it_is(clinic: Clinic, database) -> None:
    """DOM-2: RECORD_LOCKED; alone, or among others that a bulk change would touch."""
    await clinic.done("finance", invoice("1", "Ana Souza"), invoice("2", "Ana Souza"))
    await in_sql(database, "UPDATE clinic.invoices SET locked = true WHERE number = '1'", clinic)
    for verb, fields in (("UPDATE", {"amount": 5}), ("DELETE", {})):
        assert await clinic.told("finance", op(verb, "invoice", number("1"), **fields)) == [
            "RECORD_LOCKED"
        ]
        bulk = op(verb, "invoice", equal("client_name", "Ana Souza"), **fields)
        bulk.max_affected = 10
        assert await clinic.told("finance", bulk) == ["RECORD_LOCKED"]
    assert [each["amount"] for each in await clinic.read("finance", "invoice")] == [10, 10]


async def in_sql(database, statement: str, clinic: Clinic) -> None:
    """Do what no operation does, in the name of the clinic."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        await connection.execute(f"{statement} AND clinic_id = %s", (clinic.id,))


async def test_without_consent_no_reminder_is_made(clinic: Clinic) -> None:
    """DOM-2: CONSENT_MISSING, until consent is given, and again once it is withdrawn."""

    async def remind() -> list[str]:
        return await clinic.told("appointments", op("CREATE", "reminder", client_name="Bruno"))

    async def agree(consent: bool) -> None:
        change = op("UPDATE", "client", equal("name", "Bruno"), contact_consent=consent)
        await clinic.done("clients", change)

    await clinic.done("clients", client("Bruno"))
    assert await remind() == ["CONSENT_MISSING"]
    await agree(True)
    assert await remind() == ["APPLIED"]
    await agree(False)
    assert await remind() == ["CONSENT_MISSING"]
    assert len(await clinic.read("appointments", "reminder")) == 1


INVOICE_STATES = ("open", "paid", "cancelled")
APPOINTMENT_STATES = ("scheduled", "cancelled", "kept", "missed")
ALLOWED = {
    *(("invoice", "open", to) for to in ("paid", "cancelled")),
    ("invoice", "paid", "open"),
    *(("appointment", "scheduled", to) for to in ("cancelled", "kept", "missed")),
    ("appointment", "cancelled", "scheduled"),
    ("appointment", "kept", "missed"),
    ("appointment", "missed", "kept"),
}


async def test_a_status_becomes_what_it_may_and_nothing_else(clinic: Clinic) -> None:
    """DOM-2: STATE_CONFLICT for every other pair, the status that it has already among them."""
    found = set()
    for entity, states in (("invoice", INVOICE_STATES), ("appointment", APPOINTMENT_STATES)):
        domain = "finance" if entity == "invoice" else "appointments"
        for place, (before, after) in enumerate((a, b) for a in states for b in states):
            make = (
                invoice(str(place), "Ana Souza", status=before)
                if entity == "invoice"
                else appointment("Ana Souza", "2099-01-01T10:00", status=before)
            )
            (made,) = await clinic.done(domain, make)
            change = op("UPDATE", entity, status=after)
            change.selector.id = made.records[0]["id"]
            (told,) = await clinic.told(domain, change)
            assert told in ("APPLIED", "STATE_CONFLICT")
            if told == "APPLIED":
                found.add((entity, before, after))
    assert found == ALLOWED


async def test_an_invoice_is_settled_when_it_is_paid_and_only_then(clinic: Clinic) -> None:
    """DOM-2: the day of payment comes and goes with the status."""

    async def change(**fields: object) -> dict:
        (done,) = await clinic.done("finance", op("UPDATE", "invoice", number("1"), **fields))
        return dict(done.records[0])

    await clinic.done("finance", invoice("1", "Ana Souza"))
    settled = op("UPDATE", "invoice", number("1"), settled_date="2026-02-01")
    refused = await clinic.run("finance", settled)
    assert reasons(refused) == ["INVALID_ARGUMENT"]
    assert fields_of(refused.results[0].status) == ["fields.settled_date"]
    assert (await change(status="paid"))["settled_date"]
    assert (await change(status="open"))["settled_date"] is None
    paid = await change(status="paid", settled_date="2026-02-01")
    assert paid["settled_date"] == "2026-02-01"
    assert (await change(settled_date="2026-02-03"))["settled_date"] == "2026-02-03"
    (made,) = await clinic.done("finance", invoice("2", "Ana Souza", status="paid"))
    assert made.records[0]["settled_date"]


async def test_overdue_is_told_and_not_given(clinic: Clinic) -> None:
    """DOM-2: an open invoice becomes so by its date; nobody makes it, and no answer lies."""
    (made,) = await clinic.done("finance", invoice("1", "Ana Souza", due_date="2026-02-01"))
    assert made.records[0]["status"] == "overdue"
    assert len(await clinic.read("finance", "invoice", equal("status", "overdue"))) == 1
    assert await clinic.read("finance", "invoice", equal("status", "open")) == []
    assert await clinic.told("finance", op("UPDATE", "invoice", number("1"), status="open")) == [
        "STATE_CONFLICT"
    ]
    await clinic.done("finance", op("UPDATE", "invoice", number("1"), status="paid"))
    for wrong in (
        op("UPDATE", "invoice", number("1"), status="overdue"),
        invoice("2", "Ana Souza", status="overdue"),
    ):
        response = await clinic.run("finance", wrong)
        assert reasons(response) == ["INVALID_ARGUMENT"]
        assert fields_of(response.results[0].status) == ["fields.status"]


async def test_a_bulk_change_touches_what_it_changes(clinic: Clinic) -> None:
    """DOM-2: those that are so already keep their days; affected counts the others."""
    await clinic.done(
        "finance",
        invoice("1", "Ana Souza", status="paid", settled_date="2026-01-15"),
        *(invoice(each, "Ana Souza") for each in ("2", "3")),
    )
    bulk = op("UPDATE", "invoice", equal("client_name", "Ana Souza"), status="paid")
    bulk.max_affected = 10
    (done,) = await clinic.done("finance", bulk)
    assert done.affected == len(done.records) == 2
    (first,) = await clinic.read("finance", "invoice", number("1"))
    assert first["settled_date"] == "2026-01-15"
    mixed = op("UPDATE", "invoice", equal("client_name", "Ana Souza"), status="cancelled")
    mixed.max_affected = 10
    await clinic.done("finance", op("UPDATE", "invoice", number("2"), status="open"))
    assert await clinic.told("finance", mixed) == ["STATE_CONFLICT"]
    assert {each["status"] for each in await clinic.read("finance", "invoice")} == {"paid", "open"}


async def test_what_stands_already_does_not_count_as_touched(clinic: Clinic) -> None:
    """GAT-5, DOM-2: what a confirmation showed is enough to carry it out, and one less is not."""
    days = [f"2099-03-{day:02}T09:00" for day in range(1, 5)]
    await clinic.done("appointments", *(appointment("Ana Souza", day) for day in days))
    first = equal("starts_at", days[0])
    await clinic.done("appointments", op("UPDATE", "appointment", first, status="cancelled"))
    of_march = (equal("starts_at", "2099-03-01T00:00", "GREATER_OR_EQUAL"),)
    bulk = op("UPDATE", "appointment", *of_march, status="cancelled")
    bulk.max_affected = 2
    assert await clinic.told("appointments", bulk) == ["TOO_MANY_AFFECTED"]
    enough = op("UPDATE", "appointment", *of_march, status="cancelled")
    enough.max_affected = 3
    (done,) = await clinic.done("appointments", enough)
    assert done.affected == 3


# Values


@pytest.mark.parametrize(
    ("domain", "operation", "field"),
    [
        ("clients", client("X", birth_date="0001-01-01"), "fields.birth_date"),
        ("clients", client("X", birth_date="2026-02-30"), "fields.birth_date"),
        ("clients", client("   "), "fields.name"),
        ("clients", client("x" * 201), "fields.name"),
        ("clients", client("X", phone=None), "fields.phone"),
        ("clients", client("X", contact_consent="yes"), "fields.contact_consent"),
        ("clients", client("X", shoe=1), "fields.shoe"),
        ("finance", invoice("1 2", "Ana Souza"), "fields.number"),
        ("finance", invoice("1\n", "Ana Souza"), "fields.number"),
        ("finance", invoice("1" * 2000, "Ana Souza"), "fields.number"),
        ("finance", invoice("1", "Ana Souza", amount=1.005), "fields.amount"),
        ("finance", invoice("1", "Ana Souza", amount=1e300), "fields.amount"),
        ("finance", invoice("1", "Ana Souza", amount=float("nan")), "fields"),
        ("finance", invoice("1", "Ana Souza", amount=True), "fields.amount"),
        ("finance", invoice("1", "Ana Souza", due_date="2025-12-31"), "fields.due_date"),
        ("finance", invoice("1", "Ana Souza", locked=True), "fields.locked"),
        (
            "appointments",
            appointment("Ana Souza", "9999-12-31T23:59:59-12:00"),
            "fields.starts_at",
        ),
        ("appointments", appointment("Ana Souza", "10:00"), "fields.starts_at"),
        ("clients", op("CREATE", "client", equal("name", "X"), name="Y"), "selector"),
        ("clients", op("DELETE", "client", equal("name", "Ana Souza"), name="Y"), "fields"),
        ("clients", op("READ", "client", name="Y"), "fields"),
        ("clients", op("UPDATE", "client", equal("name", "Ana Souza")), "fields"),
        ("clients", op("UPDATE", "client", name="Y"), "selector"),
        ("finance", op("READ", "invoice", equal("amount", "1")), "selector.conditions[0].value"),
        ("finance", op("READ", "invoice", equal("status", "x")), "selector.conditions[0].value"),
        (
            "finance",
            op("DELETE", "invoice", equal("status", "payd", "NOT_EQUAL")),
            "selector.conditions[0].value",
        ),
        (
            "finance",
            op("READ", "invoice", equal("number", "", "CONTAINS")),
            "selector.conditions[0].value",
        ),
        (
            "finance",
            op("READ", "invoice", equal("number", "\u0301", "CONTAINS")),
            "selector.conditions[0].value",
        ),
        (
            "finance",
            op("READ", "invoice", equal("amount", 1, "CONTAINS")),
            "selector.conditions[0].comparison",
        ),
        (
            "finance",
            op("READ", "invoice", equal("settled_date", None, "LESS")),
            "selector.conditions[0].comparison",
        ),
        (
            "finance",
            op("READ", "invoice", equal("amount", 1, "IN")),
            "selector.conditions[0].value",
        ),
        (
            "finance",
            op("READ", "invoice", equal("amount", [], "IN")),
            "selector.conditions[0].value",
        ),
        (
            "finance",
            op("READ", "invoice", equal("settled_date", [None], "IN")),
            "selector.conditions[0].value[0]",
        ),
        (
            "finance",
            op("READ", "invoice", equal("locked", False), equal("due_date", "soon")),
            "selector.conditions[1].value",
        ),
        (
            "appointments",
            op("READ", "reminder", equal("message", "x")),
            "selector.conditions[0].field",
        ),
        ("clients", op("READ", "client", equal("id", "7")), "selector.conditions[0].value"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_value_that_is_wrong_names_its_field(
    clinic: Clinic, domain: str, operation: pb.Operation, field: str
) -> None:
    """DOM-2, ALL-2: in a BadRequest, without the words of what found it out."""
    operation.operation_id = client("x").operation_id
    response = await clinic.run(domain, operation)
    assert reasons(response)[0] in ("INVALID_ARGUMENT", "UNKNOWN_FIELD")
    status = response.results[0].status
    assert fields_of(status) == [field]
    assert status.message.startswith(f"{field}: ")
    assert not any(word in status.message for word in ("psycopg", "clinic.", "Error", "SELECT"))


async def test_a_malformed_id_of_a_record_is_told(clinic: Clinic) -> None:
    """DOM-2, ALL-2."""
    operation = op("READ", "client")
    operation.selector.id = "12"
    response = await clinic.run("clients", operation)
    assert fields_of(response.results[0].status) == ["selector.id"]


async def test_a_read_says_when_there_is_more(clinic: Clinic) -> None:
    """DOM-2: fifty unless a limit is given, and no record twice."""
    await clinic.done("clients", *(client(f"C{place:02}") for place in range(60)))

    async def read(limit: int) -> pb.Applied:
        operation = op("READ", "client", equal("name", "C", "GREATER_OR_EQUAL"))
        operation.limit = limit
        (done,) = await clinic.done("clients", operation)
        return done

    for limit, count, truncated in ((0, 50, True), (7, 7, True), (60, 60, False), (61, 60, False)):
        done = await read(limit)
        assert done.affected == len({each["id"] for each in done.records}) == count
        assert done.truncated is truncated


# Logs


async def test_nothing_of_a_record_is_logged(clinic: Clinic, capfd, caplog) -> None:
    """DOM-2, LOG-6: neither labels nor values, whether an operation succeeds or not."""
    secret = "Zuleika Quaresma"
    with caplog.at_level(logging.DEBUG):
        await clinic.done("clients", client(secret, phone="+55 27 91234-5678"))
        await clinic.done("finance", invoice("77312", secret))
        for domain, operation in (
            ("finance", invoice("77312", secret)),
            ("clients", op("DELETE", "client", equal("name", secret))),
            ("appointments", op("CREATE", "reminder", client_name=secret)),
            ("clients", op("UPDATE", "client", equal("name", secret), birth_date=secret)),
        ):
            assert not (await clinic.run(domain, operation)).committed
    out, err = capfd.readouterr()
    logged = caplog.text + out + err
    assert not any(each in logged for each in ("Zuleika", "Quaresma", "77312", "91234"))
