"""What a plan or a descriptor must hold beyond the rules of its single fields."""

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Any, NoReturn
from uuid import UUID

import jsonschema_rs
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import Message

from services.runtime.failure import Violation

DESCRIPTOR_BYTES = 256 * 1024
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
_ENDPOINT = re.compile(rf"(?:dns:///)?{_HOST}:(?P<port>[0-9]{{1,5}})|unix:/[^\0\s]+")
# gRPC's own way to name replicas that no name stands for.
_REPLICAS = "ipv4:"


def is_id(text: str) -> bool:
    """Whether *text* is a UUID in its canonical form."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def id_violations(path: str, text: str) -> list[Violation]:
    if is_id(text):
        return []
    return [(path, "must be a UUID: 36 characters, lower case, with hyphens")]


def plan_violations(plan: pb.Plan, path: str = "plan") -> list[Violation]:
    return list(_repeated(f"{path}.model_tiers", plan.model_tiers))


def descriptor_violations(
    descriptor: pb.DomainDescriptor, path: str = "descriptor"
) -> list[Violation]:
    """Everything wrong with *descriptor*, each at its place."""
    found = [
        *_size(descriptor, path),
        *_repeated(f"{path}.operations", descriptor.operations),
        *_repeated(f"{path}.metrics", descriptor.metrics),
        *_repeated(f"{path}.entities", [entity.name for entity in descriptor.entities], "name"),
        *_synonyms(f"{path}.synonyms", descriptor.synonyms),
        *_endpoint(f"{path}.endpoint", descriptor.endpoint),
    ]
    for place, entity in enumerate(descriptor.entities):
        found.extend(_entity(f"{path}.entities[{place}]", entity, descriptor.operations))
    return found


def _size(descriptor: pb.DomainDescriptor, path: str) -> Iterator[Violation]:
    if descriptor.ByteSize() > DESCRIPTOR_BYTES:
        yield path, f"takes {descriptor.ByteSize()} bytes, more than {DESCRIPTOR_BYTES}"


def _repeated(path: str, items: Iterable[object], key: str = "") -> Iterator[Violation]:
    seen: set[object] = set()
    for place, item in enumerate(items):
        if item in seen:
            yield f"{path}[{place}]{'.' if key else ''}{key}", "is there already"
        seen.add(item)


def _endpoint(path: str, endpoint: str) -> Iterator[Violation]:
    listed = endpoint.startswith(_REPLICAS)
    each = endpoint.removeprefix(_REPLICAS).split(",") if listed else [endpoint]
    if not all(_is_replica(one) if listed else _is_endpoint(one) for one in each):
        yield path, "must be host:port, dns:///name:port, ipv4:address:port,… or unix:/path"


def _is_endpoint(text: str) -> bool:
    match = _ENDPOINT.fullmatch(text)
    port = match and match["port"]
    return match is not None and (port is None or 0 < int(port) < 65536)


def _is_replica(text: str) -> bool:
    address, _, port = text.rpartition(":")
    try:
        IPv4Address(address)
    except ValueError:
        return False
    return re.fullmatch("[0-9]{1,5}", port) is not None and 0 < int(port) < 65536


def _synonyms(path: str, synonyms: Sequence[pb.Synonyms]) -> Iterator[Violation]:
    yield from _repeated(path, [words.locale for words in synonyms], "locale")
    for place, words in enumerate(synonyms):
        for nth, word in enumerate(words.words):
            if not word.strip() or "\0" in word:
                yield f"{path}[{place}].words[{nth}]", "must be a word"


def _entity(
    path: str, entity: pb.EntityDescriptor, offered: "Sequence[domain_pb2.Verb.ValueType]"
) -> Iterator[Violation]:
    yield from _repeated(f"{path}.operations", entity.operations)
    for place, verb in enumerate(entity.operations):
        if verb not in offered:
            yield f"{path}.operations[{place}]", "is not among the domain's operations"
    yield from _synonyms(f"{path}.synonyms", entity.synonyms)
    yield from _schema(f"{path}.json_schema", entity.json_schema)


def _schema(path: str, struct: Message) -> Iterator[Violation]:
    try:
        schema = MessageToDict(struct)
    except (SerializeToJsonError, ValueError):
        yield path, "holds a number that JSON cannot express"
        return
    if any("\0" in text for text in _strings(schema)):
        yield path, "holds the character U+0000, which cannot be stored"
        return
    if not isinstance(schema.get("properties"), dict) or schema.get("type", "object") != "object":
        yield path, "must be an object's JSON Schema with properties"
        return
    yield from _dialect(path, schema)


def _dialect(path: str, schema: dict[str, Any]) -> Iterator[Violation]:
    if schema.setdefault("$schema", DIALECT).rstrip("#") != DIALECT:
        yield path, f"is of another dialect than {DIALECT}"
        return
    # A reference elsewhere would be fetched by whoever reads the descriptor.
    for reference in _references(schema):
        if not reference.startswith("#"):
            yield path, f"refers outside itself, to {reference[:80]!r}"
            return
    try:
        jsonschema_rs.meta.validate(schema)
        jsonschema_rs.Draft202012Validator(schema, retriever=_fetches_nothing)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        yield path, f"is not a JSON Schema: {str(error).splitlines()[0][:200]}"


def _fetches_nothing(uri: str) -> NoReturn:
    raise ValueError("a schema may not refer to anything outside itself")


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                yield value
            # The dialect of a schema within is looked up as well.
            if key == "$schema" and isinstance(value, str) and value.rstrip("#") != DIALECT:
                yield value
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from node
        for value in node.values():
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)
