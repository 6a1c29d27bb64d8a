"""Operations held against the descriptors (GAT-3)."""

from typing import Any

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format

from services.gateway.interpret.checking import normalized, violations
from tests.unit.gateway.interpret.aids import clinic


def operation(**how: Any) -> pb.Operation:
    return json_format.ParseDict(how, pb.Operation())


def client(**how: Any) -> pb.Operation:
    return operation(domain="clients", entity="client", **how)


def invoice(**how: Any) -> pb.Operation:
    return operation(domain="finance", entity="invoice", **how)


def selected(field: str, value: Any, comparison: str = "COMPARISON_EQUAL") -> dict[str, Any]:
    condition = {"field": field, "comparison": comparison, "value": value}
    return {"conditions": {"conditions": [condition]}}


ONE = selected("number", "1042")

REFUSED = [
    (operation(domain="nowhere", verb="VERB_READ"), "domain", "UNKNOWN_DOMAIN"),
    (operation(domain="clients", entity="dog", verb="VERB_READ"), "entity", "UNKNOWN_ENTITY"),
    (
        operation(domain="appointments", entity="reminder", verb="VERB_UPDATE"),
        "verb",
        "OPERATION_NOT_OFFERED",
    ),
    (client(verb="VERB_DELETE"), "selector", "INVALID_ARGUMENT"),
    (
        client(verb="VERB_CREATE", fields={"name": "Ana"}, selector={"id": "1"}),
        "selector",
        "INVALID_ARGUMENT",
    ),
    (client(verb="VERB_CREATE", fields={"phone": "5"}), "fields.name", "FIELD_INVALID"),
    (
        client(verb="VERB_CREATE", fields={"name": "Ana", "shoe": 4}),
        "fields.shoe",
        "FIELD_INVALID",
    ),
    (client(verb="VERB_CREATE", fields={"name": ""}), "fields.name", "FIELD_INVALID"),
    (client(verb="VERB_CREATE", fields={"name": "x" * 201}), "fields.name", "FIELD_INVALID"),
    (client(verb="VERB_CREATE", fields={"name": 5}), "fields.name", "FIELD_INVALID"),
    (client(verb="VERB_READ", fields={"name": "Ana"}), "fields", "FIELD_INVALID"),
    (invoice(verb="VERB_UPDATE", selector=ONE), "fields", "FIELD_INVALID"),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"locked": True}),
        "fields.locked",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"status": "gone"}),
        "fields.status",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"amount": -1}),
        "fields.amount",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"amount": True}),
        "fields.amount",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"due_date": "2026-02-30"}),
        "fields.due_date",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"number": "a b"}),
        "fields.number",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_UPDATE", selector=ONE, fields={"due_date": None}),
        "fields.due_date",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_READ", selector=selected("colour", "red")),
        "selector.conditions[0].field",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_READ", selector=selected("status", "gone")),
        "selector.conditions[0].value",
        "FIELD_INVALID",
    ),
    (
        operation(
            domain="appointments",
            entity="reminder",
            verb="VERB_READ",
            selector=selected("message", "x"),
        ),
        "selector.conditions[0].field",
        "FIELD_INVALID",
    ),
]

REFUSED += [
    (
        invoice(verb="VERB_READ", selector={"conditions": {}, "first": {"by_field": "notes"}}),
        "selector.first.by_field",
        "FIELD_INVALID",
    ),
    (
        invoice(verb="VERB_DELETE", selector={"id": "7", "first": {"by_field": "due_date"}}),
        "selector.first",
        "INVALID_ARGUMENT",
    ),
]

ALLOWED = [
    invoice(verb="VERB_DELETE", selector={"conditions": {}, "first": {"by_field": "due_date"}}),
    client(verb="VERB_READ"),
    client(verb="VERB_READ", selector={"id": "7"}),
    client(verb="VERB_DELETE", selector={"conditions": {}}),
    client(verb="VERB_READ", selector=selected("name", "An", "COMPARISON_CONTAINS")),
    invoice(verb="VERB_READ", selector=selected("status", ["open", "paid"], "COMPARISON_IN")),
    invoice(verb="VERB_UPDATE", selector=ONE, fields={"settled_date": None}),
    invoice(verb="VERB_UPDATE", selector=ONE, fields={"due_date": "2026-12-01", "amount": 5}),
    operation(domain="clients", verb="VERB_READ"),
]


@pytest.mark.parametrize(("wrong", "path", "reason"), REFUSED)
def test_what_the_descriptors_do_not_allow_is_named_by_its_path(
    wrong: pb.Operation, path: str, reason: str
) -> None:
    """GAT-3."""
    assert (path, reason) in [(fault[0], fault[2]) for fault in violations(wrong, clinic())]


@pytest.mark.parametrize("right", ALLOWED)
def test_what_the_descriptors_allow_passes(right: pb.Operation) -> None:
    """GAT-3."""
    assert violations(right, clinic()) == []


def test_an_operation_without_an_entity_is_about_the_domains_first() -> None:
    """GAT-3: and the one that was given is left as it was."""
    given = operation(domain="appointments", verb="VERB_READ")
    assert normalized(given, clinic()).entity == "appointment"
    assert given.entity == ""
    assert normalized(given, clinic()).verb == domain_pb2.VERB_READ
