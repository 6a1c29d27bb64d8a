"""From selectors and fields to SQL with bound values. Decides, and waits for nothing."""

import re
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf import json_format
from google.protobuf.message import Message

from examples.clinic.entities import Entity, fields_of, types_of
from examples.clinic.refusals import invalid, unknown_field

OPERATORS = {
    pb.COMPARISON_EQUAL: "=",
    # What has no value is not equal to any.
    pb.COMPARISON_NOT_EQUAL: "IS DISTINCT FROM",
    pb.COMPARISON_LESS: "<",
    pb.COMPARISON_LESS_OR_EQUAL: "<=",
    pb.COMPARISON_GREATER: ">",
    pb.COMPARISON_GREATER_OR_EQUAL: ">=",
}
NULL_OPERATORS = {pb.COMPARISON_EQUAL: "IS NULL", pb.COMPARISON_NOT_EQUAL: "IS NOT NULL"}
FORMATS = {"date": "a day such as 2026-11-23", "date-time": "a time such as 2026-11-23T14:30"}
FOLDED = "clinic.folded"
KINDS: dict[str, Any] = {"string": str, "number": (int, float), "boolean": bool}
# What PostgreSQL and Python both hold, in every zone.
FIRST_YEAR, LAST_YEAR = 1800, 2999
LONGEST_TEXT = 1000
MOST_VALUES = 500


@dataclass(frozen=True)
class Where:
    """A condition in SQL, and what is bound in it."""

    text: str
    values: Mapping[str, Any]


def where_of(entity: Entity, selector: pb.Selector, zone: ZoneInfo) -> Where:
    """What *selector* comes to. Raises Refusal for fields and values not in the schema."""
    parts = ["r.deleted_at IS NULL"]
    values: dict[str, Any] = {}
    if selector.WhichOneof("target") == "id":
        parts.append("r.id = %(id)s")
        values["id"] = identifier(selector.id, "selector.id")
    for index, condition in enumerate(selector.conditions.conditions):
        text, value = condition_of(entity, condition, index, zone)
        parts.append(text)
        values[f"v{index}"] = value
    if selector.HasField("first"):
        parts.append(first_of(entity, selector, " AND ".join(parts)))
    return Where(" AND ".join(parts), values)


def first_of(entity: Entity, selector: pb.Selector, where: str) -> str:
    """The condition that a field has the least, or greatest, value of those that *where* holds for.

    Raises Refusal for a field that is not in the schema.
    """
    name = selector.first.by_field
    if selector.WhichOneof("target") != "conditions":
        raise invalid(("selector.first", "is only for conditions"))
    if not fields_of(entity.name).get(name, {}).get("x-selectable"):
        raise unknown_field(
            "selector.first.by_field", f"{entity.name} has no selectable field {name}"
        )
    expression = entity.expression(name)
    least = "max" if selector.first.descending else "min"
    return f"{expression} = (SELECT {least}({expression}) FROM {entity.source} WHERE {where})"  # noqa: S608  expressions of ours


def identifier(text: str, path: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise invalid((path, "must be a UUID")) from None


def condition_of(
    entity: Entity, condition: pb.Condition, index: int, zone: ZoneInfo
) -> tuple[str, Any]:
    path = f"selector.conditions[{index}]"
    described = fields_of(entity.name).get(condition.field)
    if condition.field == "id":
        described = {"type": "string", "x-selectable": True, "format": "uuid"}
    if described is None or not described.get("x-selectable"):
        raise unknown_field(
            f"{path}.field", f"{entity.name} has no selectable field {condition.field}"
        )
    given = plain(condition.value, f"{path}.value")
    place, expression = f"%(v{index})s", entity.expression(condition.field)
    if is_text(described) and given is not None:
        expression = entity.folded(condition.field)
    if condition.comparison == pb.COMPARISON_IN:
        found = values_in(described, given, f"{path}.value", zone)
        return among(expression, place, is_text(described)), found
    value = value_of(described, given, f"{path}.value", zone)
    if condition.comparison != pb.COMPARISON_CONTAINS:
        check_compared(described, value, f"{path}.value")
    return compared(condition.comparison, expression, place, described, path, value), value


def plain(message: Message, path: str) -> Any:
    """A Value or a Struct as plain data. Raises Refusal for numbers that are none."""
    try:
        return json_format.MessageToDict(message)
    except (ValueError, json_format.SerializeToJsonError):
        raise invalid((path, "holds a number that JSON cannot express")) from None


def values_in(described: Mapping[str, Any], given: Any, path: str, zone: ZoneInfo) -> list[Any]:
    """The values of a list. Raises Refusal for none, too many, or one that is wrong."""
    if not isinstance(given, list) or not 0 < len(given) <= MOST_VALUES:
        raise invalid((path, f"must be a list of 1 to {MOST_VALUES} values"))
    found = []
    for index, each in enumerate(given):
        if each is None:
            raise invalid((f"{path}[{index}]", "must not be null"))
        found.append(value_of(described, each, f"{path}[{index}]", zone))
        check_compared(described, found[-1], f"{path}[{index}]")
    return found


def among(expression: str, place: str, text: bool) -> str:
    if not text:
        return f"{expression} = ANY ({place})"
    return f"{expression} = ANY (ARRAY(SELECT {FOLDED}(x) FROM unnest({place}::text[]) x))"  # noqa: S608  expressions of ours


def compared(
    comparison: pb.Comparison.ValueType,
    expression: str,
    place: str,
    described: Mapping[str, Any],
    path: str,
    value: Any,
) -> str:
    """One comparison in SQL; text without regard to case and accents, as *expression* has it."""
    operators = NULL_OPERATORS if value is None else OPERATORS
    if comparison == pb.COMPARISON_CONTAINS:
        if not is_text(described):
            raise invalid((f"{path}.comparison", "CONTAINS is for text"))
        if not folded(str(value)):
            raise invalid((f"{path}.value", "must not be empty"))
        return f"position({FOLDED}({place}) IN {expression}) > 0"
    if comparison not in operators:
        what = "null is equal or not, nothing else" if value is None else "must be a known one"
        raise invalid((f"{path}.comparison", what))
    operator = operators[comparison]
    if value is None:
        return f"{expression} {operator}"
    if is_text(described):
        return f"{expression} {operator} {FOLDED}({place})"
    return f"{expression} {operator} {place}"


def folded(text: str) -> str:
    """Text as the database compares it (`clinic.folded`)."""
    return re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text.lower()))


def is_text(described: Mapping[str, Any]) -> bool:
    return "string" in types_of(described) and described.get("format") is None


def check_compared(described: Mapping[str, Any], value: Any, path: str) -> None:
    """Raises Refusal for a value that no record can have: a slip, which NOT_EQUAL would widen."""
    known = described.get("enum")
    if known and value is not None and folded(value) not in map(folded, known):
        raise invalid((path, f"must be one of {', '.join(known)}"))


def value_of(described: Mapping[str, Any], given: Any, path: str, zone: ZoneInfo) -> Any:
    """A value as the database takes it. Raises Refusal for one of the wrong kind."""
    types = types_of(described)
    if given is None:
        if "null" in types:
            return None
        raise invalid((path, "must not be null"))
    kind = next(each for each in types if each != "null")
    wrong_bool = isinstance(given, bool) and kind != "boolean"
    if not isinstance(given, KINDS[kind]) or wrong_bool:
        raise invalid((path, f"must be a {kind}"))
    if kind == "number":
        return Decimal(str(given))
    if kind == "string":
        return text_of(described.get("format"), given, path, zone)
    return given


def text_of(format_: Any, given: str, path: str, zone: ZoneInfo) -> Any:
    """What a string means by its *format_*. Raises Refusal."""
    if "\0" in given:
        raise invalid((path, "must not contain the character NUL"))
    if len(given) > LONGEST_TEXT:
        raise invalid((path, f"must have at most {LONGEST_TEXT} characters"))
    match format_:
        case "date":
            return moment(given, path, "date", zone).date()
        case "date-time":
            return moment(given, path, "date-time", zone)
        case "uuid":
            return identifier(given, path)
    return given


def moment(text: str, path: str, format_: str, zone: ZoneInfo) -> datetime:
    """A time; without an offset it is in *zone*."""
    try:
        if format_ == "date":
            day = date.fromisoformat(text)
            read = datetime(day.year, day.month, day.day, tzinfo=zone)
        else:
            read = datetime.fromisoformat(text)
    except ValueError:
        raise invalid((path, f"must be {FORMATS[format_]}")) from None
    if not FIRST_YEAR <= read.year <= LAST_YEAR:
        raise invalid((path, f"must be in the years {FIRST_YEAR} to {LAST_YEAR}"))
    return read if read.tzinfo else read.replace(tzinfo=zone)


def written_fields(entity: Entity, operation: pb.Operation, zone: ZoneInfo) -> dict[str, Any]:
    """The fields that *operation* writes, as the database takes them.

    Raises Refusal for one that is not in the schema, is read only, or has a value that is wrong.
    """
    described = fields_of(entity.name)
    found: dict[str, Any] = {}
    for name, value in plain(operation.fields, "fields").items():
        path = f"fields.{name}"
        if name not in described:
            raise unknown_field(path, f"{entity.name} has no field {name}")
        if described[name].get("readOnly"):
            raise unknown_field(path, "is not to be written")
        found[name] = value_of(described[name], value, path, zone)
        check_written(described[name], found[name], path)
    return found


def check_written(described: Mapping[str, Any], value: Any, path: str) -> None:
    """Raises Refusal for a value that the schema does not allow, or the column cannot keep."""
    if "enum" in described and value not in described["enum"]:
        raise invalid((path, f"must be one of {', '.join(described['enum'])}"))
    if isinstance(value, str):
        check_text(described, value, path)
    if isinstance(value, Decimal):
        check_number(described, value, path)


def check_text(described: Mapping[str, Any], value: str, path: str) -> None:
    longest = int(described.get("maxLength", LONGEST_TEXT))
    if len(value) > longest:
        raise invalid((path, f"must have at most {longest} characters"))
    if not value.strip():
        raise invalid((path, "must not be empty"))
    pattern = described.get("pattern")
    # Ours are anchored; `$` alone would let a line's end pass.
    if pattern and not re.fullmatch(pattern, value):
        raise invalid((path, f"must match {pattern}"))


def check_number(described: Mapping[str, Any], value: Decimal, path: str) -> None:
    lowest, highest = described.get("minimum", value), described.get("maximum", value)
    if not lowest <= value <= highest:
        raise invalid((path, f"must be between {lowest:.10g} and {highest:.10g}"))
    if value != round(value, 2):
        raise invalid((path, "must have at most two decimals"))
