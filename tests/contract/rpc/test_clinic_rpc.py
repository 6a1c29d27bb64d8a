"""The example's three domains on sockets, over a real Postgres (DOM-1, DOM-2, GAT-4 to GAT-7)."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb

from tests.clinic_calls import (
    Clinic,
    Stubs,
    detail_of,
    equal,
    filled,
    op,
    reasons,
    serving_clinic,
)


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[Stubs]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        yield stubs


@pytest.fixture
async def empty(served, tokens, database) -> Clinic:
    """A clinic without records."""
    return Clinic(served, tokens, database.url_for("clinic"))


@pytest.fixture
async def clinic(empty: Clinic) -> Clinic:
    """A clinic with the sample's records."""
    return await filled(empty)


async def test_records_are_made_read_changed_and_removed(clinic: Clinic) -> None:
    """DOM-2."""
    made = await clinic.run("clients", op("CREATE", "client", name="Zélia Núñez", phone="1"))
    assert made.committed
    (found,) = await clinic.read("clients", "client", equal("name", "zelia nunez"))
    assert found["phone"] == "1"
    changed = await clinic.run(
        "clients", op("UPDATE", "client", equal("name", "Zélia Núñez"), phone="2")
    )
    assert changed.results[0].applied.records[0]["phone"] == "2"
    again = await clinic.run(
        "clients", op("UPDATE", "client", equal("name", "Zélia Núñez"), phone="2")
    )
    assert reasons(again) == ["STATE_CONFLICT"]
    removed = await clinic.run("clients", op("DELETE", "client", equal("name", "Zélia Núñez")))
    assert removed.results[0].applied.affected == 1
    assert await clinic.read("clients", "client", equal("name", "Zélia Núñez")) == []


async def test_a_failed_operation_takes_its_batch_with_it(clinic: Clinic) -> None:
    """GAT-6, DOM-1: the cause has its own reason, the others ROLLED_BACK, and nothing stands."""
    response = await clinic.run(
        "finance",
        op("UPDATE", "invoice", equal("number", "1002"), amount=1),
        op("UPDATE", "invoice", equal("number", "1007"), amount=1),
        op("UPDATE", "invoice", equal("number", "1003"), amount=1),
    )
    assert not response.committed
    assert reasons(response) == ["ROLLED_BACK", "RECORD_LOCKED", "ROLLED_BACK"]
    (invoice,) = await clinic.read("finance", "invoice", equal("number", "1002"))
    assert invoice["amount"] != 1


@pytest.mark.parametrize(
    ("domain", "operation", "reason"),
    [
        ("finance", op("DELETE", "invoice", equal("number", "1007")), "RECORD_LOCKED"),
        ("appointments", op("CREATE", "reminder", client_name="Bruno Lima"), "CONSENT_MISSING"),
        ("appointments", op("CREATE", "reminder", client_name="Nobody"), "NOT_FOUND"),
        ("appointments", op("CREATE", "reminder"), "INVALID_ARGUMENT"),
        (
            "appointments",
            op("UPDATE", "reminder", equal("channel", "sms")),
            "OPERATION_NOT_OFFERED",
        ),
        ("clients", op("DELETE", "client", equal("name", "Ana Souza")), "REFERENCE_VIOLATION"),
        ("clients", op("READ", "invoice"), "UNKNOWN_ENTITY"),
        ("clients", op("UPDATE", "client", equal("name", "Carla Dias"), shoe=4), "UNKNOWN_FIELD"),
        ("clients", op("UPDATE", "client", equal("shoe", "4"), name="X"), "UNKNOWN_FIELD"),
        (
            "clients",
            op("UPDATE", "client", equal("name", "Carla Dias"), name=4),
            "INVALID_ARGUMENT",
        ),
        ("clients", op("UPDATE", "client", name="X"), "INVALID_ARGUMENT"),
        ("clients", op("CREATE", "client", name="X", birth_date="soon"), "INVALID_ARGUMENT"),
        ("clients", op("CREATE", "client", name="X", gender="other"), "INVALID_ARGUMENT"),
        ("clients", op("READ", "client", equal("id", "12")), "INVALID_ARGUMENT"),
        ("finance", op("UPDATE", "invoice", equal("number", "9"), amount=1), "NOT_FOUND"),
        (
            "finance",
            op("UPDATE", "invoice", equal("number", "1002"), amount=-1),
            "INVALID_ARGUMENT",
        ),
        ("finance", op("UPDATE", "invoice", equal("number", "1002"), locked=True), "UNKNOWN_FIELD"),
        (
            "finance",
            op(
                "CREATE",
                "invoice",
                number="1002",
                client_name="Ana Souza",
                amount=1,
                due_date="2099-01-01",
            ),
            "ALREADY_EXISTS",
        ),
        (
            "finance",
            op("UPDATE", "invoice", equal("status", "paid"), disputed=True),
            "AMBIGUOUS_TARGET",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.entity,
)
async def test_what_cannot_be_done_is_refused_by_name(
    clinic: Clinic, domain: str, operation: pb.Operation, reason: str
) -> None:
    """DOM-2: each refusal has its reason, and nothing internal in its words."""
    operation.operation_id = str(uuid.uuid4())
    response = await clinic.run(domain, operation)
    assert reasons(response) == [reason]
    message = response.results[0].status.message
    assert not any(word in message for word in ("SELECT", "psycopg", "clinic.", "Error"))


async def test_an_ambiguous_target_names_its_candidates(clinic: Clinic) -> None:
    """GAT-4: labels and ids to choose from; nothing is changed."""
    response = await clinic.run(
        "finance", op("UPDATE", "invoice", equal("client_name", "ana souza"), disputed=True)
    )
    candidates = detail_of(response.results[0].status, pb.Candidates())
    assert candidates.total == len(candidates.candidates) == 2
    assert "Ana Souza" in candidates.candidates[0].label


async def test_a_write_touches_no_more_than_it_may(clinic: Clinic) -> None:
    """GAT-5: max_affected."""
    many = op("UPDATE", "appointment", equal("status", "cancelled"), sms_received=True)
    many.max_affected = 2
    assert reasons(await clinic.run("appointments", many)) == ["TOO_MANY_AFFECTED"]
    many.max_affected, many.operation_id = 10_000, str(uuid.uuid4())
    dry = await clinic.run("appointments", many, validate_only=True)
    assert not dry.committed
    done = await clinic.run("appointments", many)
    assert done.committed
    assert done.results[0].applied.affected == dry.results[0].applied.affected > 2


async def test_racing_copies_of_a_batch_take_effect_once(empty: Clinic) -> None:
    """DOM-1: the same ids again give the same results and change nothing."""
    operation = op("CREATE", "client", name="Once Only")
    answers = await asyncio.gather(*(empty.run("clients", operation) for _ in range(12)))
    assert all(each.committed for each in answers)
    assert len({each.results[0].applied.records[0]["id"] for each in answers}) == 1
    assert sum(not each.replayed for each in answers) == 1
    assert len(await empty.read("clients", "client")) == 1
    other = op("CREATE", "client", name="Another")
    other.operation_id = operation.operation_id
    assert reasons(await empty.run("clients", other)) == ["OPERATION_ID_REUSED"]


async def test_an_operation_answered_as_not_applied_never_is(empty: Clinic) -> None:
    """LOG-2, GAT-7: the word that was given holds; an applied one is told by any service."""
    operation = op("CREATE", "client", name="Too Late")
    asked = pb.GetOperationRequest(operation_id=operation.operation_id)
    settler = empty.as_("service", clinic_id=str(uuid.uuid4()))
    state = await empty.stubs["clients"].GetOperation(asked, **settler)
    assert state.state == pb.OPERATION_STATE_NOT_APPLIED
    assert reasons(await empty.run("clients", operation)) == ["OPERATION_ABANDONED"]
    assert await empty.read("clients", "client") == []
    applied = op("CREATE", "client", name="In Time")
    await empty.run("clients", applied)
    asked.operation_id = applied.operation_id
    state = await empty.stubs["clients"].GetOperation(asked, **settler)
    assert state.state == pb.OPERATION_STATE_APPLIED
    assert not state.applied.records


async def test_it_says_what_it_offers(empty: Clinic) -> None:
    """DOM-1."""
    for domain, stub in empty.stubs.items():
        described = await stub.Describe(pb.DescribeRequest(), **empty.call)
        assert described.name == domain
        assert described.entities
        assert all(each.group_by for each in described.metrics)
