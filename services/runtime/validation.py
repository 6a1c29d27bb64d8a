"""Checks requests against the rules that the protos state (gatehouse/rules/v1).

The rules of a message type are compiled once into closures; a check then touches only the fields
that have rules or that lead to some. Every violation is told at once.
"""

import re
import uuid
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache
from typing import Any
from zoneinfo import available_timezones

from gatehouse.rules.v1 import rules_pb2 as rules
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

from services.runtime.failure import InvalidInput, Violation

Check = Callable[[Any, str], Iterator[Violation]]
"""Takes a message or a value and its path; yields what is wrong."""

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?(-[A-Za-z0-9]{5,8})*")
URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+")


def check(message: Message) -> None:
    """Raises InvalidInput naming every field of *message* that breaks its rules."""
    violations = list(compiled(message.DESCRIPTOR)(message, ""))
    if violations:
        raise InvalidInput(violations)


@cache
def compiled(descriptor: Descriptor) -> Check:
    """The check of a message type. Types may contain themselves, so members are compiled late."""
    members: list[Check] | None = None

    def check_message(message: Message, path: str) -> Iterator[Violation]:
        nonlocal members
        if members is None:
            members = list(checks_of(descriptor))
        for member in members:
            yield from member(message, path)

    return check_message


def checks_of(descriptor: Descriptor) -> Iterator[Check]:
    for oneof in descriptor.oneofs:
        options = oneof.GetOptions().Extensions[rules.oneof]
        if options.required:
            yield required_oneof(oneof)
    for field in descriptor.fields:
        field_rules = field.GetOptions().Extensions[rules.field]
        member = field_check(field, field_rules)
        if member is not None:
            yield member


def required_oneof(oneof: OneofDescriptor) -> Check:
    names = ", ".join(field.name for field in oneof.fields)

    def check_oneof(message: Message, path: str) -> Iterator[Violation]:
        if message.WhichOneof(oneof.name) is None:
            yield path + oneof.name, f"one of {names} must be set"

    return check_oneof


def field_check(field: FieldDescriptor, of: rules.FieldRules) -> Check | None:
    """The check of one field, or None where there is nothing to check."""
    value_check = None if is_masked(field) else value_checks(field, of)
    if field.is_repeated:
        return repeated_check(field, of, value_check)
    if value_check is None and not of.required:
        return None
    name, tracked = field.name, field.has_presence

    def check_field(message: Message, path: str) -> Iterator[Violation]:
        value = getattr(message, name)
        is_set = message.HasField(name) if tracked else bool(value)
        if not is_set:
            if of.required:
                yield path + name, "must be set"
            elif value_check is not None and of.defined_only:
                yield from value_check(value, path + name)
        elif of.required and not tracked and not value:
            yield path + name, "must be set"
        elif of.required and isinstance(value, str) and not value:
            yield path + name, "must not be empty"
        elif value_check is not None:
            yield from value_check(value, path + name)

    return check_field


def is_masked(field: FieldDescriptor) -> bool:
    """Whether *field* is the resource of an update, of which only the masked fields count.

    The service checks what the update makes of it.
    """
    assert field.containing_type is not None
    siblings = field.containing_type.fields_by_name
    return field.message_type is not None and "update_mask" in siblings


def repeated_check(
    field: FieldDescriptor, of: rules.FieldRules, value_check: Check | None
) -> Check | None:
    fewest, most = max(of.min_items, 1 if of.required else 0), of.max_items
    if not fewest and not most and value_check is None:
        return None
    name = field.name
    entry = field.message_type
    is_map = entry is not None and bool(entry.GetOptions().map_entry)

    def check_repeated(message: Message, path: str) -> Iterator[Violation]:
        values = getattr(message, name)
        if len(values) < fewest:
            yield path + name, f"must have at least {fewest}"
        if most and len(values) > most:
            yield path + name, f"must have at most {most}"
        elif value_check is not None:
            items = values.items() if is_map else enumerate(values)
            for key, value in items:
                yield from value_check(value, f"{path}{name}[{key}]")

    return check_repeated


def value_checks(field: FieldDescriptor, of: rules.FieldRules) -> Check | None:
    """What every single value of *field* must satisfy."""
    if field.message_type is not None:
        return nested_check(field)
    checks = [*text_checks(field, of), *number_checks(of)]
    if of.defined_only and field.enum_type is not None:
        checks.append(defined_only(field))
    if not checks:
        return None
    if len(checks) == 1:
        return checks[0]

    def check_value(value: Any, path: str) -> Iterator[Violation]:
        for each in checks:
            yield from each(value, path)

    return check_value


def nested_check(field: FieldDescriptor) -> Check | None:
    entry = field.message_type
    assert entry is not None
    if entry.GetOptions().map_entry:
        value = entry.fields_by_name["value"]
        if value.message_type is None:
            return None
        entry = value.message_type
    if not has_rules(entry, frozenset()):
        return None
    check_message = compiled(entry)

    def check_nested(value: Message, path: str) -> Iterator[Violation]:
        yield from check_message(value, path + ".")

    return check_nested


def has_rules(descriptor: Descriptor, above: frozenset[str]) -> bool:
    """Whether *descriptor*, or a message within it, has rules at all."""
    if descriptor.full_name in above:
        return False
    above = above | {descriptor.full_name}
    return any(
        each.GetOptions().Extensions[rules.oneof].required for each in descriptor.oneofs
    ) or any(
        each.GetOptions().HasExtension(rules.field)
        or (each.message_type is not None and has_rules(each.message_type, above))
        for each in descriptor.fields
    )


def text_checks(field: FieldDescriptor, of: rules.FieldRules) -> Iterator[Check]:
    unit = "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "characters"
    if of.min_length:
        yield rule(
            lambda text: len(text) >= of.min_length, f"must have at least {of.min_length} {unit}"
        )
    if of.max_length:
        yield rule(
            lambda text: len(text) <= of.max_length, f"must have at most {of.max_length} {unit}"
        )
    if of.pattern:
        pattern = re.compile(of.pattern)
        yield rule(lambda text: pattern.fullmatch(text) is not None, f"must match {of.pattern}")
    if of.format:
        holds, sentence = FORMATS[of.format]
        yield rule(holds, sentence)
    if field.type == FieldDescriptor.TYPE_STRING:
        yield rule(lambda text: "\0" not in text, "must not contain the character NUL")


def number_checks(of: rules.FieldRules) -> Iterator[Check]:
    if of.HasField("minimum"):
        yield rule(lambda number: number >= of.minimum, f"must be at least {of.minimum:.10g}")
    if of.HasField("maximum"):
        yield rule(lambda number: number <= of.maximum, f"must be at most {of.maximum:.10g}")


def defined_only(field: FieldDescriptor) -> Check:
    assert field.enum_type is not None
    known = {value.number for value in field.enum_type.values if value.number != 0}
    names = ", ".join(value.name for value in field.enum_type.values if value.number != 0)
    return rule(lambda number: number in known, f"must be one of {names}")


def rule(holds: Callable[[Any], bool], sentence: str) -> Check:
    def check_rule(value: Any, path: str) -> Iterator[Violation]:
        if not holds(value):
            yield path, sentence

    return check_rule


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@cache
def time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


FORMATS: dict[int, tuple[Callable[[str], bool], str]] = {
    rules.FORMAT_UUID: (is_uuid, "must be a UUID in lower case with hyphens"),
    rules.FORMAT_LOCALE: (
        lambda text: LOCALE.fullmatch(text) is not None,
        "must be a language tag such as pt-BR",
    ),
    rules.FORMAT_TIME_ZONE: (
        lambda text: text in time_zones(),
        "must be an IANA time zone such as America/Sao_Paulo",
    ),
    rules.FORMAT_IDENTIFIER: (
        lambda text: IDENTIFIER.fullmatch(text) is not None,
        "must be in snake case: letters, digits and underscores",
    ),
    rules.FORMAT_DATE: (is_day, "must be a day such as 2026-11-23"),
    rules.FORMAT_URI: (
        lambda text: URI.fullmatch(text) is not None,
        "must be an absolute URI with its scheme",
    ),
}
