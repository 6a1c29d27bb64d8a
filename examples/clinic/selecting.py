"""From selectors and fields to SQL with bound values. Decides, and waits for nothing."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf import json_format

from examples.clinic.entities import Entity, fields_of, types_of
from examples.clinic.refusals import invalid, unknown_field

OPERATORS = {
    pb.COMPARISON_EQUAL: "=",
    pb.COMPARISON_NOT_EQUAL: "<>",
    pb.COMPARISON_LESS: "<",
    pb.COMPARISON_LESS_OR_EQUAL: "<=",
    pb.COMPARISON_GREATER: ">",
    pb.COMPARISON_GREATER_OR_EQUAL: ">=",
}
FORMATS = {"date": "a day such as 2026-11-23", "date-time": "a time such as 2026-11-23T14:30"}
FOLDED = "clinic.folded"
KINDS: dict[str, Any] = {"string": str, "number": (int, float), "boolean": bool}


@dataclass(frozen=True)
class Where:
    """A condition in SQL, and what is bound in it."""

    text: str
    values: Mapping[str, Any]


def where_of(entity: Entity, selector: pb.Selector, zone: ZoneInfo, now: datetime) -> Where:
    """What *selector* comes to. Raises Refusal for fields and values not in the schema."""
    parts = ["r.deleted_at IS NULL"]
    values: dict[str, Any] = {"today": now.astimezone(zone).date()}
    if selector.WhichOneof("target") == "id":
        parts.append("r.id = %(id)s")
        values["id"] = identifier(selector.id)
    for index, condition in enumerate(selector.conditions.conditions):
        text, value = condition_of(entity, condition, index, zone)
        parts.append(text)
        values[f"v{index}"] = value
    return Where(" AND ".join(parts), values)


def identifier(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise invalid(("selector.id", "must be a UUID")) from None


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
    given = json_format.MessageToDict(condition.value)
    place, expression = f"%(v{index})s", entity.expression(condition.field)
    text = is_text(described)
    if condition.comparison == pb.COMPARISON_IN:
        if not isinstance(given, list) or not given:
            raise invalid((f"{path}.value", "must be a list"))
        found = [value_of(described, each, f"{path}.value", zone) for each in given]
        return among(expression, place, text), found
    value = value_of(described, given, f"{path}.value", zone)
    return compared(condition.comparison, expression, place, text, path, value), value


def among(expression: str, place: str, text: bool) -> str:
    if not text:
        return f"{expression} = ANY ({place})"
    return f"{FOLDED}({expression}) IN (SELECT {FOLDED}(x) FROM unnest({place}::text[]) x)"  # noqa: S608  expressions of ours


def compared(
    comparison: pb.Comparison.ValueType,
    expression: str,
    place: str,
    text: bool,
    path: str,
    value: Any,
) -> str:
    """One comparison in SQL; text without regard to case and accents."""
    if comparison == pb.COMPARISON_CONTAINS:
        if not text:
            raise invalid((f"{path}.comparison", "CONTAINS is for text"))
        return f"position({FOLDED}({place}) IN {FOLDED}({expression})) > 0"
    operator = OPERATORS.get(comparison)
    if operator is None:
        raise invalid((f"{path}.comparison", "must be a known comparison"))
    if value is None:
        # The value is bound all the same, so that every condition has one.
        return f"({expression} IS {'' if operator == '=' else 'NOT '}NULL OR {place}::text = '-')"
    if text:
        return f"{FOLDED}({expression}) {operator} {FOLDED}({place})"
    return f"{expression} {operator} {place}"


def is_text(described: Mapping[str, Any]) -> bool:
    return "string" in types_of(described) and described.get("format") is None


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
    match described.get("format"):
        case "date":
            return moment(given, path, "date", zone).date()
        case "date-time":
            return moment(given, path, "date-time", zone)
        case "uuid":
            return identifier(given)
    return given


def moment(text: str, path: str, format_: str, zone: ZoneInfo) -> datetime:
    """A time; without an offset it is in *zone*."""
    try:
        if format_ == "date":
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=zone)
        read = datetime.fromisoformat(text)
    except ValueError:
        raise invalid((path, f"must be {FORMATS[format_]}")) from None
    return read if read.tzinfo else read.replace(tzinfo=zone)


def written_fields(entity: Entity, operation: pb.Operation, zone: ZoneInfo) -> dict[str, Any]:
    """The fields that *operation* writes, as the database takes them.

    Raises Refusal for one that is not in the schema, is read only, or has a value that is wrong.
    """
    described = fields_of(entity.name)
    given = json_format.MessageToDict(operation.fields)
    found: dict[str, Any] = {}
    for name, value in given.items():
        path = f"fields.{name}"
        if name not in described:
            raise unknown_field(path, f"{entity.name} has no field {name}")
        if described[name].get("readOnly"):
            raise unknown_field(path, "is not to be written")
        found[name] = value_of(described[name], value, path, zone)
        check_bounds(described[name], found[name], path)
    return found


def check_bounds(described: Mapping[str, Any], value: Any, path: str) -> None:
    if value is None:
        return
    if "enum" in described and value not in described["enum"]:
        raise invalid((path, f"must be one of {', '.join(described['enum'])}"))
    if isinstance(value, str):
        if len(value) > described.get("maxLength", 10_000):
            raise invalid((path, f"must have at most {int(described['maxLength'])} characters"))
        if not value.strip() or "\0" in value:
            raise invalid((path, "must not be empty"))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not described.get("minimum", value) <= value <= described.get("maximum", value):
        raise invalid((path, "is out of range"))
