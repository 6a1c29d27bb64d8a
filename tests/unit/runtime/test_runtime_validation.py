"""Requests against the rules on their fields, each kind of rule, all violations at once (ALL-2)."""

from typing import Any

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as gateway
from gatehouse.rules.v1 import rules_pb2 as rules
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.failure import InvalidInput
from services.runtime.validation import MOST_VIOLATIONS, check

KINDS = {
    "string": Field.TYPE_STRING,
    "bytes": Field.TYPE_BYTES,
    "int64": Field.TYPE_INT64,
    "double": Field.TYPE_DOUBLE,
    "enum": Field.TYPE_ENUM,
    "message": Field.TYPE_MESSAGE,
}
USER = "6f1c0a52-6c55-4f4e-9c7d-0d0f4b8f7a10"


class Draft:
    """A message type with rules, made by the test."""

    def __init__(self, name: str) -> None:
        self.proto = descriptor_pb2.DescriptorProto(name=name)

    def field(
        self,
        name: str,
        kind: str,
        *,
        repeated: bool = False,
        optional: bool = False,
        chosen: bool = False,
        of: str = "",
        **of_rules: Any,
    ) -> "Draft":
        field = self.proto.field.add(
            name=name,
            number=len(self.proto.field) + 1,
            type=KINDS[kind],
            label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL,
            type_name=f".play.{of}" if of else None,
        )
        if chosen:
            field.oneof_index = 0
        if optional:
            field.proto3_optional = True
            field.oneof_index = len(self.proto.oneof_decl)
            self.proto.oneof_decl.add(name=f"_{name}")
        if of_rules:
            field.options.Extensions[rules.field].CopyFrom(rules.FieldRules(**of_rules))
        return self

    def choice(self, name: str) -> "Draft":
        """A oneof that must be set, before all others, as protobuf wants it."""
        oneof = self.proto.oneof_decl.add(name=name)
        oneof.options.Extensions[rules.oneof].required = True
        return self

    def map(self, name: str, *, of: str = "", **of_rules: Any) -> "Draft":
        entry = Draft(f"{name.capitalize()}Entry").field("key", "string")
        entry.field("value", "message" if of else "string", of=of)
        entry.proto.options.map_entry = True
        self.proto.nested_type.append(entry.proto)
        inside = f"{self.proto.name}.{entry.proto.name}"
        return self.field(name, "message", repeated=True, of=inside, **of_rules)


def drafts() -> list[Draft]:
    inner = Draft("Inner").field("id", "string", format=rules.FORMAT_UUID, required=True)
    inner.field("inner", "message", of="Inner").field(
        "inners", "message", of="Inner", repeated=True
    )
    plain = Draft("Plain").field("words", "string", repeated=True)
    outer = (
        Draft("Outer")
        .choice("what")
        .field("name", "string", required=True, min_length=2, max_length=4)
        .field("raw", "bytes", max_length=2)
        .field("code", "string", pattern="[a-z]+")
        .field("count", "int64", minimum=2, maximum=5)
        .field("ratio", "double", maximum=1)
        .field("maybe", "int64", optional=True, minimum=1)
        .field("color", "enum", of="Color", defined_only=True)
        .field("shade", "enum", of="Color", defined_only=True, optional=True)
        .field("tags", "string", repeated=True, min_items=1, max_items=2, pattern="[a-z]+")
        .field("inner", "message", of="Inner", required=True)
        .field("inners", "message", of="Inner", repeated=True)
        .field("one", "string", chosen=True, max_length=3)
        .field("other", "message", chosen=True, of="Inner")
        .field("plain", "message", of="Plain")
        .map("labels", max_items=2)
        .map("named", of="Inner")
    )
    formats = Draft("Formats")
    for name in ("uuid", "locale", "time_zone", "identifier", "date", "uri"):
        formats.field(name, "string", format=getattr(rules, f"FORMAT_{name.upper()}"))
    update = Draft("Update").field("inner", "message", of="Inner", required=True)
    update.field("update_mask", "message", of="Plain")
    return [inner, plain, outer, formats, update]


def types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="play.proto", package="play", syntax="proto3")
    file.message_type.extend(each.proto for each in drafts())
    color = file.enum_type.add(name="Color")
    for number, name in enumerate(("COLOR_UNSPECIFIED", "COLOR_RED", "COLOR_BLUE")):
        color.value.add(name=name, number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        each.proto.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"play.{each.proto.name}")
        )
        for each in drafts()
    }


PLAY = types()


def right(**changes: Any) -> Any:
    """An Outer that breaks no rule, and *changes*."""
    good = {"name": "Ana", "color": 1, "tags": ["a"], "inner": {"id": USER}, "one": "1"}
    return PLAY["Outer"](**{**good, **changes})


def violations_of(message: Any) -> dict[str, str]:
    try:
        check(message, message.SerializeToString())
    except InvalidInput as error:
        return dict(error.violations)
    return {}


def test_a_request_that_keeps_the_rules_passes() -> None:
    """ALL-2: at every bound."""
    for changes in (
        {},
        {"name": "An", "raw": b"12", "code": "abc", "count": 2, "ratio": 1.0, "maybe": 1},
        {"name": "Anna", "count": 5, "ratio": -1e300, "shade": 2, "tags": ["a", "b"]},
        {"name": "ação", "labels": {"a": "b", "c": ""}, "named": {"a": {"id": USER}}},
        {"inner": {"id": USER, "inner": {"id": USER, "inners": [{"id": USER}]}}},
        {"plain": {"words": ["any", "thing", ""]}},
    ):
        assert violations_of(right(**changes)) == {}


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"name": ""}, "name", "must be set"),
        ({"name": "A"}, "name", "must have at least 2 characters"),
        ({"name": "Annas"}, "name", "must have at most 4 characters"),
        ({"raw": b"123"}, "raw", "must have at most 2 bytes"),
        ({"code": "aB"}, "code", "must match [a-z]+"),
        ({"code": "a\n"}, "code", "must match [a-z]+"),
        ({"count": 1}, "count", "must be at least 2"),
        ({"count": 6}, "count", "must be at most 5"),
        ({"count": -1}, "count", "must be at least 2"),
        ({"ratio": 1.1}, "ratio", "must be at most 1"),
        ({"ratio": float("nan")}, "ratio", "must be at most 1"),
        ({"ratio": float("inf")}, "ratio", "must be at most 1"),
        ({"maybe": 0}, "maybe", "must be at least 1"),
        ({"color": 0}, "color", "must be one of COLOR_RED, COLOR_BLUE"),
        ({"color": 9}, "color", "must be one of COLOR_RED, COLOR_BLUE"),
        ({"shade": 0}, "shade", "must be one of COLOR_RED, COLOR_BLUE"),
        ({"tags": []}, "tags", "must have at least 1"),
        ({"tags": ["a", "b", "c"]}, "tags", "must have at most 2"),
        ({"tags": ["a", "B"]}, "tags[1]", "must match [a-z]+"),
        ({"inner": None}, "inner", "must be set"),
        ({"inner": {}}, "inner.id", "must be set"),
        ({"inner": {"id": "1"}}, "inner.id", "must be a UUID in lower case with hyphens"),
        ({"inner": {"id": USER, "inner": {}}}, "inner.inner.id", "must be set"),
        ({"inners": [{"id": USER}, {}]}, "inners[1].id", "must be set"),
        ({"one": None}, "what", "one of one, other must be set"),
        ({"one": "1234"}, "one", "must have at most 3 characters"),
        ({"one": None, "other": {}}, "other.id", "must be set"),
        ({"labels": {"a": "1", "b": "2", "c": "3"}}, "labels", "must have at most 2"),
        ({"named": {"x": {}}}, "named[x].id", "must be set"),
        ({"one": "a\0"}, "one", "must not contain the character NUL"),
        ({"plain": {"words": ["a", "\0"]}}, "plain.words[1]", "must not contain the character NUL"),
        ({"labels": {"a": "\0"}}, "labels[a]", "must not contain the character NUL"),
        ({"labels": {"\0": "a"}}, "labels[\0]", "must not contain the character NUL"),
    ],
)
def test_every_kind_of_rule_is_told_by_field_and_in_words(
    changes: dict[str, Any], field: str, sentence: str
) -> None:
    """ALL-2: BadRequest names the field as a path."""
    assert violations_of(right(**changes)) == {field: sentence}


@pytest.mark.parametrize(
    ("name", "good", "wrong"),
    [
        (
            "uuid",
            [USER],
            [USER.upper(), USER[:-1], USER.replace("-", ""), f"{USER}\n", f"{{{USER}}}"],
        ),
        (
            "locale",
            ["pt-BR", "en", "es-419", "zh-Hant-TW", "pt_br", "i-klingon"],
            ["pt_BR.UTF-8", "e", "../en", "pt-BR\n"],
        ),
        (
            "time_zone",
            ["UTC", "America/Sao_Paulo"],
            ["America", "utc+3", "../UTC", "/etc/passwd", "localtime", "Factory", "posix/UTC"],
        ),
        ("identifier", ["a", "no_show_2"], ["A", "2a", "a-b", "_a", "a\n", "é"]),
        (
            "date",
            ["2024-02-29"],
            ["2023-02-29", "2024-2-9", "20240229", "2024-W01-1", "0000-01-01"],
        ),
        ("uri", ["https://a.test/b", "unix:/a"], ["a.test", "://a", "https:// a", "HTTPS:"]),
    ],
)
def test_every_format_knows_its_own(name: str, good: list[str], wrong: list[str]) -> None:
    """ALL-2: an unset field passes, for that it may be unset."""
    assert violations_of(PLAY["Formats"]()) == {}
    for text in good:
        assert violations_of(PLAY["Formats"](**{name: text})) == {}, text
    for text in wrong:
        assert set(violations_of(PLAY["Formats"](**{name: text}))) == {name}, text


def test_all_violations_are_told_at_once() -> None:
    """ALL-2."""
    message = right(name="", code="B", count=9, inners=[{}, {"id": "x"}], one="1\0")
    assert list(violations_of(message)) == [
        "name",
        "code",
        "count",
        "inners[0].id",
        "inners[1].id",
        "one",
    ]


def test_a_masked_resource_is_its_services_to_check() -> None:
    """ENT-3: only the fields of the mask count; it has to be there, and a NUL is never taken."""
    assert violations_of(PLAY["Update"](inner={})) == {}
    assert violations_of(PLAY["Update"]()) == {"inner": "must be set"}
    assert set(violations_of(PLAY["Update"](inner={"id": "\0"}))) == {"inner.id"}


def test_the_largest_mistake_is_found_in_part() -> None:
    """ALL-2: what a status cannot carry is not looked for."""
    message = right(inners=[{}] * 10_000)
    assert len(violations_of(message)) == MOST_VIOLATIONS


TEXTS = st.text("a\0\\01é", max_size=6)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_nul(each) for item in value.items() for each in item)
    if isinstance(value, list):
        return any(map(has_nul, value))
    return isinstance(value, str) and "\0" in value


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_a_nul_is_found_wherever_it_is_and_nowhere_else(fields: dict[str, Any]) -> None:
    """ALL-2, GAT-3: in what a domain would write as well; numbers with zero bytes are none."""
    operation = gateway.Operation(domain="clients", verb=domain_pb2.VERB_CREATE)
    operation.fields.update(fields)
    request = gateway.ExecuteRequest(
        request_id="r", operations=gateway.OperationList(operations=[operation])
    )
    found = violations_of(request)
    assert bool(found) == has_nul(fields)
    assert all(field.startswith("operations.operations[0].fields") for field in found)
