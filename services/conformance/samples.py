"""Records to check with: made from an entity's JSON Schema, or as a file says."""

import itertools
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema_rs
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.json_format import MessageToDict

from services.conformance.findings import NotTried

UNIQUE = "{n}"
# Forms that a pattern may ask for, tried one after the other.
FORMS = ("check {n}", "check-{n}", "CHECK-{n}", "check_{n}", "CHK{n}", "{n}")
DAYS_AHEAD = 400


class UnusableSample(Exception):
    """No record can be made that the schema allows; the message says which field is in the way."""


@dataclass(frozen=True)
class Sample:
    """What a file says of one entity; `{n}` in a text becomes something that no other record has.

    `create` are a record's fields, `update` the field that is changed, with two values. Raises
    UnusableSample.
    """

    create: Mapping[str, Any] = field(default_factory=dict)
    update: Mapping[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = list(self.update.values())
        if values and not (
            len(values) == 1 and isinstance(values[0], list) and len(values[0]) == 2
        ):
            raise UnusableSample("`update` is one field with a list of two values")


class Kind:
    """An entity of the domain, and how records of it are made.

    Raises UnusableSample.
    """

    def __init__(self, entity: pb.Entity, sample: Sample | None = None) -> None:
        self.name = entity.name
        self.verbs = frozenset(entity.verbs)
        self.schema: dict[str, Any] = MessageToDict(entity.json_schema)
        self.properties: dict[str, dict[str, Any]] = self.schema.get("properties", {})
        self._sample = sample or Sample()
        self._numbers = itertools.count(1)
        self._validator = jsonschema_rs.Draft202012Validator(self.schema)
        self.label = self._label()
        self.fields("try")

    def fields(self, group: str) -> dict[str, Any]:
        """The fields of a new record, whose label holds *group* and a number of its own."""
        unique = f"{group}{next(self._numbers):03d}"
        made = {name: numbered(value, unique) for name, value in self._sample.create.items()}
        for name in self.schema.get("required", ()):
            made.setdefault(name, self._value(name, unique))
        if self.label:
            made.setdefault(self.label, self._value(self.label, unique))
        fault = next(iter(self._validator.iter_errors(made)), None)
        if fault is not None:
            at = fault.instance_path[0] if fault.instance_path else "the record"
            raise UnusableSample(
                f"no {self.name} can be made from its schema alone ({at}): say how with --sample"
            )
        return made

    def changes(self) -> tuple[str, list[Any]]:
        """A field that may be changed, and two values for it. Raises NotTried."""
        for name, values in self._sample.update.items():
            return name, list(values)
        for name, described in self.properties.items():
            if name != self.label and not described.get("readOnly"):
                values = list(itertools.islice(allowed(described), 2))
                if len(values) == 2:
                    return name, values
        raise NotTried(f"no field of {self.name} has two values that the schema tells: --sample")

    def by_label(self, group: str) -> pb.Condition:
        """The condition that holds for the records of *group*. Raises NotTried."""
        if not self.label:
            raise NotTried(
                f"no text of {self.name} is selectable and new in each record ({UNIQUE})"
            )
        condition = pb.Condition(field=self.label, comparison=pb.COMPARISON_CONTAINS)
        condition.value.string_value = group
        return condition

    def _label(self) -> str:
        """The text that records are found by, new in each: the `x-label`, or another."""
        given = self._sample.create
        found = [
            name
            for name, each in self.properties.items()
            if each.get("x-selectable") and not each.get("readOnly") and is_free_text(each)
            if UNIQUE in str(given.get(name, UNIQUE))
        ]
        labels = [name for name in found if self.properties[name].get("x-label")]
        return next(iter((*labels, *found)), "")

    def _value(self, name: str, unique: str) -> Any:
        described = self.properties.get(name, {})
        if is_free_text(described):
            forms = (form.replace(UNIQUE, unique) for form in FORMS)
            return next((form for form in forms if allows(described, form)), unique)
        return next(allowed(described), None)


def allowed(described: Mapping[str, Any]) -> Iterator[Any]:
    """Values that a property's schema allows, different from one another."""
    return (each for each in guesses(described) if allows(described, each))


def guesses(described: Mapping[str, Any]) -> Iterator[Any]:
    """Values to try, the likeliest first."""
    if "const" in described:
        yield described["const"]
    yield from (each for each in described.get("enum", ()) if each is not None)
    yield from (False, True)
    least = described.get("minimum", described.get("exclusiveMinimum", 0)) or 0
    yield from (least + 1, least + 2, least)
    ahead = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    for days in (DAYS_AHEAD, DAYS_AHEAD + 1):
        moment = ahead + timedelta(days=days)
        formed = {
            "date": moment.date().isoformat(),
            "date-time": moment.isoformat(),
            "time": moment.time().isoformat(),
            "uuid": str(uuid.uuid4()),
            "email": f"check{days}@example.org",
        }
        yield formed.get(described.get("format", ""), f"check {days}")


def allows(described: Mapping[str, Any], value: Any) -> bool:
    """Whether a property's schema allows *value*; a number is no boolean."""
    return bool(jsonschema_rs.Draft202012Validator(dict(described)).is_valid(value))


def is_free_text(described: Mapping[str, Any]) -> bool:
    kinds = described.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return "string" in kinds and not described.keys() & {"format", "enum", "const"}


def numbered(value: Any, unique: str) -> Any:
    return value.replace(UNIQUE, unique) if isinstance(value, str) else value
