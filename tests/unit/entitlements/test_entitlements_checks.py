"""What a descriptor and a plan must hold beyond the rules of single fields."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.router.v1 import tier_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from services.entitlements.checks import (
    DESCRIPTOR_BYTES,
    descriptor_violations,
    is_id,
    plan_violations,
)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"amount": {"type": "number", "minimum": 0}, "paid": {"type": "boolean"}},
    "required": ["amount"],
}


def entity(schema: dict[str, Any] | None = None, **fields: Any) -> pb.EntityDescriptor:
    return pb.EntityDescriptor(
        **{
            "name": "invoice",
            "operations": [domain_pb2.VERB_READ],
            "json_schema": ParseDict(SCHEMA if schema is None else schema, Struct()),
            **fields,
        }
    )


def descriptor(**fields: Any) -> pb.DomainDescriptor:
    return pb.DomainDescriptor(
        **{
            "name": "finance",
            "operations": [domain_pb2.VERB_READ, domain_pb2.VERB_UPDATE],
            "sensitivity_level": pb.SENSITIVITY_LEVEL_HIGH,
            "endpoint": "dns:///finance:443",
            "entities": [entity()],
            **fields,
        }
    )


def places(wanted: pb.DomainDescriptor) -> list[str]:
    return [place for place, _ in descriptor_violations(wanted)]


def test_a_sound_descriptor_passes() -> None:
    """ENT-3."""
    words = pb.Synonyms(locale="pt-BR", words=["financeiro", "cobrança"])
    assert places(descriptor(synonyms=[words], metrics=["overdue_ratio"])) == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:50051",
        "10.0.0.7:1",
        "[::1]:443",
        "dns:///finance.svc.cluster.local:65535",
        "unix:/run/finance.sock",
        "ipv4:10.0.0.7:443",
        "ipv4:10.0.0.7:443,10.0.0.8:65535",
    ],
)
def test_an_endpoint_is_a_host_and_port_or_a_socket(endpoint: str) -> None:
    """ENT-3."""
    assert places(descriptor(endpoint=endpoint)) == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "finance",
        "finance:",
        ":443",
        "finance:0",
        "finance:65536",
        "http://finance:443",
        "dns://8.8.8.8/finance:443",
        "unix:finance.sock",
        "unix:/run/a\0b",
        "finance:443/path",
        "finance:443\n",
        "user@finance:443",
        "xds:///finance",
        "ipv4:",
        "ipv4:finance:443",
        "ipv4:10.0.0.7:443,",
        "ipv4:10.0.0.7:443,10.0.0.8:0",
        "ipv4:10.0.0.7:443,unix:/run/a",
        "10.0.0.7:443,10.0.0.8:443",
    ],
)
def test_any_other_endpoint_is_refused(endpoint: str) -> None:
    """ENT-3."""
    assert places(descriptor(endpoint=endpoint)) == ["descriptor.endpoint"]


def test_an_entity_offers_no_more_than_its_domain() -> None:
    """ENT-3, GAT-3."""
    wanted = descriptor(
        entities=[entity(operations=[domain_pb2.VERB_READ, domain_pb2.VERB_DELETE])]
    )
    assert places(wanted) == ["descriptor.entities[0].operations[1]"]


def test_what_is_there_twice_is_named() -> None:
    """ENT-3."""
    read = domain_pb2.VERB_READ
    words = pb.Synonyms(locale="en-US", words=["bill"])
    wanted = descriptor(
        operations=[read, read],
        metrics=["overdue_ratio", "overdue_ratio"],
        entities=[entity(), entity()],
        synonyms=[words, words],
    )
    assert places(wanted) == [
        "descriptor.operations[1]",
        "descriptor.metrics[1]",
        "descriptor.entities[1].name",
        "descriptor.synonyms[1].locale",
    ]


@pytest.mark.parametrize("word", ["", "  ", "a\0b"])
def test_a_word_is_a_word(word: str) -> None:
    """ENT-3."""
    wanted = descriptor(
        entities=[entity(synonyms=[pb.Synonyms(locale="en-US", words=["bill", word])])]
    )
    assert places(wanted) == ["descriptor.entities[0].synonyms[0].words[1]"]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "array", "properties": {}},
        {"properties": []},
        {"properties": {"amount": {"type": "money"}}},
        {"properties": {"amount": {"minimum": "low"}}},
        {"properties": {"amount": {"pattern": "("}}},
        {"properties": {"amount": {"$ref": "https://example.org/amount.json"}}},
        {"properties": {"amount": {"$ref": "file:///etc/passwd"}}},
        {"properties": {"amount": {"$ref": "other.json"}}},
        {"properties": {"amount": {"$ref": "#/$defs/missing"}}},
        {"properties": {"am\0ount": {}}},
        {"properties": {"amount": {"default": "\0"}}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {}},
    ],
)
def test_a_schema_that_is_none_is_refused(schema: dict[str, Any]) -> None:
    """ENT-3: here, rather than at each gateway that reads it."""
    assert places(descriptor(entities=[entity(schema)])) == ["descriptor.entities[0].json_schema"]


def test_a_schema_may_refer_into_itself_and_carry_what_parsing_needs() -> None:
    """ENT-3."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {
            "amount": {"$ref": "#/$defs/money", "x-synonyms": {"pt-BR": ["valor"]}},
            "note": {"default": "the text \\u0000 is not the character"},
        },
        "$defs": {"money": {"type": "number", "readOnly": True}},
    }
    assert places(descriptor(entities=[entity(schema)])) == []


def test_a_number_that_json_cannot_express_is_refused() -> None:
    """ENT-3: a Struct can hold it, a column cannot."""
    wanted = descriptor(entities=[entity()])
    wanted.entities[0].json_schema.fields["x"].number_value = float("nan")
    assert places(wanted) == ["descriptor.entities[0].json_schema"]


def test_a_descriptor_has_a_size() -> None:
    """ALL-1: it has to fit into an event of Watch."""
    schema = {"properties": {"note": {"description": "x" * DESCRIPTOR_BYTES}}}
    assert places(descriptor(entities=[entity(schema)])) == ["descriptor"]


def test_a_tier_is_named_once() -> None:
    """ENT-1."""
    plan = pb.Plan(model_tiers=[tier_pb2.MODEL_BASIC, tier_pb2.MODEL_SPEED, tier_pb2.MODEL_BASIC])
    assert [place for place, _ in plan_violations(plan)] == ["plan.model_tiers[2]"]


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("0b51c000-0000-4000-8000-000000000001", True),
        ("0B51C000-0000-4000-8000-000000000001", False),
        ("0b51c00000004000800000000000001", False),
        ("{0b51c000-0000-4000-8000-000000000001}", False),
        ("", False),
    ],
)
def test_an_id_is_a_canonical_uuid(text: str, sound: bool) -> None:
    """ENT-3."""
    assert is_id(text) is sound


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$recursiveRef", "$schema"])
def test_a_schema_makes_nobody_fetch_anything(keyword: str) -> None:
    """ENT-3: neither a reference nor the dialect of a schema within leads anywhere."""
    asked: list[str] = []

    class Listens(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Listens) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        within = {"$id": f"{url}/within", "type": "string", keyword: f"{url}/elsewhere"}
        made = descriptor(entities=[entity({"properties": {"a": within}})])
        assert places(made) == ["descriptor.entities[0].json_schema"]
        server.shutdown()
    assert asked == []
