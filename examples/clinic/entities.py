"""The kinds of records: how their fields stand in SQL, and what their schemas say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, EntityDescriptor
from google.protobuf import json_format

OVERDUE = "CASE WHEN r.status = 'open' AND r.due_date < %(today)s THEN 'overdue' ELSE r.status END"


# What is kept folded beside what was written.
FOLDED_COLUMNS = frozenset(
    {"c.name", "r.name", "r.phone", "r.email", "r.neighbourhood", "r.number", "r.message"}
)


@dataclass(frozen=True)
class Entity:
    """One kind of record. `r` is its row, `c` its client's, where it has one."""

    domain: str
    name: str
    table: str
    # How a field is read, where it is not simply the column of its name.
    expressions: Mapping[str, str] = field(default_factory=dict)
    order: str = "r.id"
    has_client: bool = True

    @property
    def source(self) -> str:
        joined = " JOIN clinic.clients c ON c.id = r.client_id" if self.has_client else ""
        return f"clinic.{self.table} r{joined}"

    def expression(self, name: str) -> str:
        return self.expressions.get(name, f"r.{name}")

    def folded(self, name: str) -> str:
        """How a field of text is compared: the column kept for that, where there is one."""
        expression = self.expression(name)
        return (
            f"{expression}_folded"
            if expression in FOLDED_COLUMNS
            else f"clinic.folded({expression})"
        )


CLIENT_NAME = {"client_name": "c.name"}
ENTITIES = {
    each.name: each
    for each in (
        Entity("clients", "client", "clients", order="r.name, r.id", has_client=False),
        Entity(
            "finance",
            "invoice",
            "invoices",
            {**CLIENT_NAME, "status": OVERDUE},
            order="r.due_date, r.number",
        ),
        Entity(
            "appointments", "appointment", "appointments", CLIENT_NAME, order="r.starts_at, r.id"
        ),
        Entity("appointments", "reminder", "reminders", CLIENT_NAME, order="r.created_at, r.id"),
    )
}


@cache
def descriptors() -> Mapping[str, DomainDescriptor]:
    """The domains as descriptors.yaml has them, by name."""
    text = (resources.files("examples.clinic") / "descriptors.yaml").read_text(encoding="utf-8")
    read = [
        json_format.ParseDict(each, DomainDescriptor()) for each in yaml.safe_load(text)["domains"]
    ]
    return {each.name: each for each in read}


@cache
def schema_of(entity: str) -> dict[str, Any]:
    """The JSON Schema of an entity, as plain data."""
    described = entity_descriptor(entity)
    schema: dict[str, Any] = json_format.MessageToDict(described.json_schema)
    return schema


@cache
def entity_descriptor(name: str) -> EntityDescriptor:
    return next(
        entity
        for descriptor in descriptors().values()
        for entity in descriptor.entities
        if entity.name == name
    )


def fields_of(entity: str) -> Mapping[str, Mapping[str, Any]]:
    """The fields of an entity, each with its property of the schema."""
    properties: Mapping[str, Mapping[str, Any]] = schema_of(entity)["properties"]
    return properties


def label_of(entity: str) -> str:
    """The field that people name a record by."""
    return next(name for name, each in fields_of(entity).items() if each.get("x-label"))


def types_of(described: Mapping[str, Any]) -> Sequence[str]:
    types = described["type"]
    return types if isinstance(types, list) else [types]


def shown(value: Any, zone: ZoneInfo) -> Any:
    """A value of the database as a record's field shows it."""
    if isinstance(value, datetime):
        return value.astimezone(zone).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return value


VERBS = {
    pb.VERB_CREATE: "create",
    pb.VERB_READ: "read",
    pb.VERB_UPDATE: "update",
    pb.VERB_DELETE: "delete",
}
