"""Holds operations against the descriptors: what does not pass never reaches a domain (GAT-3)."""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, EntityDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

Descriptors = Mapping[str, DomainDescriptor]
Fault = tuple[str, str, str]
"""A field's path, what is wrong with it, and the ErrorReason."""

# Of a text whose schema names no maxLength.
LONGEST_TEXT = 100_000
KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def violations(operation: pb.Operation, descriptors: Descriptors) -> list[Fault]:
    """Everything that keeps *operation* from its domain; empty when nothing does."""
    descriptor = descriptors.get(operation.domain)
    if descriptor is None:
        return [("domain", f"there is no domain {operation.domain}", "UNKNOWN_DOMAIN")]
    entity = entity_of(operation, descriptor)
    if entity is None:
        sentence = f"{operation.domain} has no entity {operation.entity}"
        return [("entity", sentence, "UNKNOWN_ENTITY")]
    if operation.verb not in entity.operations:
        return [("verb", f"{entity.name} does not offer it", "OPERATION_NOT_OFFERED")]
    return list(faults_of(operation, properties_of(entity), required_of(entity)))


def normalized(operation: pb.Operation, descriptors: Descriptors) -> pb.Operation:
    """*operation* with its entity named: the domain's first where none is."""
    made = pb.Operation()
    made.CopyFrom(operation)
    if not made.entity:
        made.entity = descriptors[made.domain].entities[0].name
    return made


def entity_of(operation: pb.Operation, descriptor: DomainDescriptor) -> EntityDescriptor | None:
    wanted = operation.entity or descriptor.entities[0].name
    return next((each for each in descriptor.entities if each.name == wanted), None)


def label_of(operation: pb.Operation, descriptors: Descriptors) -> str | None:
    """The field by whose value people call the record that *operation* makes, if it makes one."""
    descriptor = descriptors.get(operation.domain)
    entity = entity_of(operation, descriptor) if descriptor is not None else None
    if entity is None or operation.verb != domain_pb2.VERB_CREATE:
        return None
    labels = (name for name, each in properties_of(entity).items() if each.get("x-label"))
    return next((name for name in labels if name in operation.fields), None)


def properties_of(entity: EntityDescriptor) -> dict[str, dict[str, Any]]:
    properties: dict[str, dict[str, Any]] = schema_of(entity).get("properties", {})
    return properties


def required_of(entity: EntityDescriptor) -> list[str]:
    required: list[str] = schema_of(entity).get("required", [])
    return required


def schema_of(entity: EntityDescriptor) -> dict[str, Any]:
    return _schema(entity.json_schema.SerializeToString(deterministic=True))


@lru_cache(maxsize=1024)
def _schema(serialized: bytes) -> dict[str, Any]:
    """A schema as plain data. Turning it is most of the cost of a check, and it seldom changes."""
    return json_format.MessageToDict(Struct.FromString(serialized))


def faults_of(
    operation: pb.Operation, properties: dict[str, dict[str, Any]], required: list[str]
) -> Iterator[Fault]:
    yield from faults_of_selector(operation, properties)
    writes = operation.verb in (domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE)
    fields = json_format.MessageToDict(operation.fields)
    given = {*fields, *(each.field for each in operation.references if each.field)}
    if not writes and given:
        yield "fields", "are for create and update only", "FIELD_INVALID"
    if operation.verb == domain_pb2.VERB_UPDATE and not given:
        yield "fields", "must say what to change", "FIELD_INVALID"
    for name in sorted(given):
        path = f"fields.{name}"
        if name not in properties:
            yield path, "is not in the schema", "FIELD_INVALID"
        elif properties[name].get("readOnly"):
            yield path, "is not to be written", "FIELD_INVALID"
        elif name in fields and (sentence := fault_of_value(properties[name], fields[name])):
            yield path, sentence, "FIELD_INVALID"
    if operation.verb == domain_pb2.VERB_CREATE:
        for name in required:
            if name not in given:
                yield f"fields.{name}", "must be set", "FIELD_INVALID"


def faults_of_selector(
    operation: pb.Operation, properties: dict[str, dict[str, Any]]
) -> Iterator[Fault]:
    selector = operation.selector
    needed = operation.verb in (domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)
    by_reference = any(not each.field for each in operation.references)
    if needed and selector.WhichOneof("target") is None and not by_reference:
        yield "selector", "must be set", "INVALID_ARGUMENT"
    selects = operation.HasField("selector") or by_reference
    if operation.verb == domain_pb2.VERB_CREATE and selects:
        yield "selector", "is not for create", "INVALID_ARGUMENT"
    yield from faults_of_first(selector, properties)
    for index, condition in enumerate(selector.conditions.conditions):
        path = f"selector.conditions[{index}]"
        described = properties.get(condition.field)
        if condition.field != "id" and (described is None or not described.get("x-selectable")):
            yield f"{path}.field", f"{condition.field} cannot be selected by", "FIELD_INVALID"
        elif described is not None:
            for value in values_of(condition):
                if sentence := fault_of_value(described, value):
                    yield f"{path}.value", sentence, "FIELD_INVALID"


def faults_of_first(
    selector: domain_pb2.Selector, properties: dict[str, dict[str, Any]]
) -> Iterator[Fault]:
    if not selector.HasField("first"):
        return
    name = selector.first.by_field
    if selector.WhichOneof("target") != "conditions":
        yield "selector.first", "is only for conditions", "INVALID_ARGUMENT"
    elif not properties.get(name, {}).get("x-selectable"):
        yield "selector.first.by_field", f"{name} cannot be selected by", "FIELD_INVALID"


def values_of(condition: domain_pb2.Condition) -> list[Any]:
    value = json_format.MessageToDict(condition.value)
    if condition.comparison == domain_pb2.COMPARISON_IN:
        return value if isinstance(value, list) else [value]
    if condition.comparison == domain_pb2.COMPARISON_CONTAINS:
        return []  # a part of a value need not be one
    return [value]


def fault_of_value(described: Mapping[str, Any], value: Any) -> str | None:
    """What keeps *value* from being one of a property, or None."""
    types = described.get("type", [])
    types = types if isinstance(types, list) else [types]
    if value is None:
        return None if not types or "null" in types else "must not be null"
    if types and not any(is_kind(value, kind) for kind in types):
        return f"must be a {' or a '.join(each for each in types if each != 'null')}"
    if "enum" in described and value not in described["enum"]:
        return f"must be one of {', '.join(map(str, described['enum']))}"
    if isinstance(value, str):
        return fault_of_text(described, value)
    if is_kind(value, "number"):
        return fault_of_number(described, value)
    return None


def is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, KINDS.get(kind, ()))


def fault_of_text(described: Mapping[str, Any], value: str) -> str | None:
    longest = int(described.get("maxLength", LONGEST_TEXT))
    if len(value) > longest:
        return f"must have at most {longest} characters"
    if len(value) < described.get("minLength", 0):
        return f"must have at least {int(described['minLength'])} characters"
    if "pattern" in described and not re.search(described["pattern"], value):
        return f"must match {described['pattern']}"
    return fault_of_format(described.get("format"), value)


def fault_of_format(name: str | None, value: str) -> str | None:
    readers: dict[str, tuple[Callable[[str], object], str]] = {
        "date": (date.fromisoformat, "must be a day such as 2026-11-23"),
        "date-time": (datetime.fromisoformat, "must be a time such as 2026-11-23T14:30"),
        "uuid": (uuid.UUID, "must be a UUID"),
    }
    if name is None or name not in readers:
        return None
    read, sentence = readers[name]
    try:
        read(value)
    except ValueError:
        return sentence
    return None


def fault_of_number(described: Mapping[str, Any], value: float) -> str | None:
    if value < described.get("minimum", value):
        return f"must be at least {described['minimum']:.10g}"
    if value > described.get("maximum", value):
        return f"must be at most {described['maximum']:.10g}"
    return None
