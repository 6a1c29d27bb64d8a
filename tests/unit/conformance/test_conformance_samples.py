"""The records that a domain is checked with (DOM-1)."""

import jsonschema_rs
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from examples.clinic.entities import descriptors
from services.conformance.findings import NotTried
from services.conformance.samples import Kind, Sample, UnusableSample

LABEL = {"type": "string", "x-selectable": True, "x-label": True}
OTHERS = st.sampled_from(
    [
        {"type": "string", "format": "date"},
        {"type": "string", "format": "date-time"},
        {"type": ["string", "null"], "format": "email"},
        {"type": "string", "enum": ["red", "blue"]},
        {"type": "number", "minimum": 5, "maximum": 7},
        {"type": "integer", "exclusiveMinimum": 100},
        {"type": "boolean"},
        {"const": "fixed"},
        {"type": "string", "pattern": "^[a-z]+-[0-9a-z]+$"},
        {"type": "string", "maxLength": 40},
    ]
)


def kind(schema: dict, sample: Sample | None = None) -> Kind:
    entity = pb.Entity(name="thing", verbs=[pb.VERB_CREATE, pb.VERB_READ])
    entity.json_schema.update({"type": "object", **schema})
    return Kind(entity, sample)


@given(others=st.dictionaries(st.sampled_from("abcdef"), OTHERS, max_size=4))
def test_records_are_what_the_schema_allows_and_each_is_new(others: dict) -> None:
    """DOM-1."""
    schema = {"properties": {"title": LABEL, **others}, "required": ["title", *others]}
    made = kind(schema)
    first, second = made.fields("group"), made.fields("group")
    for each in (first, second):
        jsonschema_rs.validate({"type": "object", **schema}, each)
        assert "group" in each["title"]
    assert first["title"] != second["title"]


@pytest.mark.parametrize(
    "entity",
    [each for one in descriptors().values() for each in one.entities],
    ids=lambda e: e.name,
)
def test_the_examples_entities_need_no_sample_to_be_allowed(entity) -> None:
    """DOM-2: whether the clients that they name are there is another matter."""
    described = pb.Entity(name=entity.name, verbs=entity.operations, json_schema=entity.json_schema)
    jsonschema_rs.validate(MessageToDict(entity.json_schema), Kind(described).fields("group"))


def test_what_no_schema_tells_is_asked_for() -> None:
    """DOM-1: the field that is in the way is named."""
    schema = {"properties": {"code": {**LABEL, "pattern": "^[0-9]{3}/[A-Z]$"}}}
    with pytest.raises(UnusableSample, match="code"):
        kind(schema | {"required": ["code"]})
    made = kind(schema, Sample(create={"code": "123/A"}))
    assert made.fields("x") == {"code": "123/A"}
    with pytest.raises(NotTried, match="new in each record"):
        made.by_label("x")


def test_a_field_to_change_is_never_the_label_or_one_that_is_fixed() -> None:
    """DOM-1."""
    fields = {
        "title": LABEL,
        "made_at": {"type": "string", "format": "date", "readOnly": True},
        "done": {"type": "boolean"},
    }
    assert kind({"properties": fields}).changes() == ("done", [False, True])
    chosen = Sample(update={"title": ["a", "b"]})
    assert kind({"properties": fields}, chosen).changes() == ("title", ["a", "b"])
    del fields["done"]
    with pytest.raises(NotTried):
        kind({"properties": fields}).changes()


@pytest.mark.parametrize(
    "update", [{"a": [1]}, {"a": [1, 2, 3]}, {"a": 1}, {"a": [1, 2], "b": [1, 2]}]
)
def test_a_change_is_of_one_field_to_one_value_or_another(update: dict) -> None:
    """DOM-1: or the file is told to be wrong, not the domain."""
    with pytest.raises(UnusableSample, match="two values"):
        Sample(update=update)
