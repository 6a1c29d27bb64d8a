"""Checks requests against the rules that the protos state (gatehouse/rules/v1).

The rules of a message type are compiled once into closures; a check then touches only the fields
that have rules or that lead to some. Every violation is told at once. It is in the way of every
call: hence lists that are added to, where generators within generators would read better.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache
from itertools import islice
from typing import Any
from zoneinfo import available_timezones

from gatehouse.rules.v1 import rules_pb2 as rules
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

from services.runtime.failure import InvalidInput, Violation

Check = Callable[[Any, str, list[Violation]], None]
"""Takes a message or a value and its path; adds what is wrong to the list."""

# More than fit into a status, and few enough to be found at once in the largest request.
MOST_VIOLATIONS = 100
UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
# RFC 5646, section 2.1, also with the underscores of POSIX, Java and ICU.
LANGUAGE_TAG = re.compile(
    r"""
    (?: (?: [a-z]{2,3} (?:[-_][a-z]{3}){0,3} | [a-z]{4,8} )     # language, with its extlangs
        (?: [-_][a-z]{4} )?                                     # script
        (?: [-_](?: [a-z]{2} | [0-9]{3} ) )?                    # region
        (?: [-_](?: [a-z0-9]{5,8} | [0-9][a-z0-9]{3} ) )*       # variants
        (?: [-_][0-9a-wy-z] (?:[-_][a-z0-9]{2,8})+ )*           # extensions
        (?: [-_]x (?:[-_][a-z0-9]{1,8})+ )?                     # private use
      | x (?:[-_][a-z0-9]{1,8})+
      | en-gb-oed | sgn-be-fr | sgn-be-nl | sgn-ch-de           # irregular ones, kept for ever
      | i-(?:ami|bnn|default|enochian|hak|klingon|lux|mingo|navajo|pwn|tao|tay|tsu)
    )""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
LONGEST_LANGUAGE_TAG = 64
LEADING_LANGUAGE_TAG = re.compile(f"{LANGUAGE_TAG.pattern}(?![a-z0-9])", LANGUAGE_TAG.flags)
# Names in a time zone database that are no zones of IANA's: what they mean depends on the machine.
NO_ZONES = frozenset({"Factory", "localtime", "posixrules"})
NO_ZONE_FOLDERS = ("posix/", "right/")
URI = re.compile(r"[a-z][a-z0-9+.-]*:\S+")


def check(message: Message, raw: bytes) -> None:
    """Raises InvalidInput naming every field of *message*, read from *raw*, that breaks its rules.

    Past MOST_VIOLATIONS they are no longer looked for: a status could not carry them.
    """
    found = violations_in(message)
    if not is_otlp(message) and may_hold_nul(message, raw):
        found += islice(nul_violations(message, ""), MOST_VIOLATIONS)
    if found:
        raise InvalidInput(found[:MOST_VIOLATIONS])


def is_otlp(message: Message) -> bool:
    """Whether *message* is OpenTelemetry's, not a contract of ours: its receiver is the judge.

    One odd text of a sender must not cost all that comes with it.
    """
    return bool(message.DESCRIPTOR.full_name.startswith("opentelemetry."))


def violations_in(message: Message, path: str = "") -> list[Violation]:
    """What of *message*, which is at *path*, breaks the rules of its fields."""
    found: list[Violation] = []
    compiled(message.DESCRIPTOR)(message, path, found)
    return found


def may_hold_nul(message: Message, raw: bytes) -> bool:
    """Whether it is worth looking for a NUL: two forms that are there or written fast both say so.

    In the wire form numbers have zero bytes too, and in the text form so may what looks like one.
    """
    return b"\0" in raw and "\\000" in str(message)


def nul_violations(message: Message, path: str) -> Iterator[Violation]:
    """Every text within *message*, with rules or without, that holds a NUL: no store takes one."""
    for field, value in message.ListFields():
        if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE):
            continue
        for place, item in items_of(field, value):
            at = f"{path}{field.name}{place}"
            if "\0" in place or (isinstance(item, str) and "\0" in item):
                yield at, "must not contain the character NUL"
            elif isinstance(item, Message):
                yield from nul_violations(item, at + ".")


def items_of(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, Any]]:
    """The single values of a field, each with what its path adds to the field's."""
    if not field.is_repeated:
        yield "", value
        return
    for key, item in value.items() if is_map(field) else enumerate(value):
        yield f"[{key}]", item


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


@cache
def compiled(descriptor: Descriptor) -> Check:
    """The check of a message type. Types may contain themselves, so members are compiled late."""
    members: list[Check] | None = None

    def check_message(message: Message, path: str, found: list[Violation]) -> None:
        nonlocal members
        if members is None:
            members = list(checks_of(descriptor))
        for member in members:
            member(message, path, found)

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

    def check_oneof(message: Message, path: str, found: list[Violation]) -> None:
        if message.WhichOneof(oneof.name) is None:
            found.append((path + oneof.name, f"one of {names} must be set"))

    return check_oneof


def field_check(field: FieldDescriptor, of: rules.FieldRules) -> Check | None:
    """The check of one field, or None where there is nothing to check."""
    value_check = None if is_masked(field) else value_checks(field, of)
    if field.is_repeated:
        return repeated_check(field, of, value_check)
    if value_check is None and not of.required:
        return None
    name, tracked, clears = field.name, field.has_presence, is_optional(field)
    required, defined_only = of.required, of.defined_only and not tracked

    def check_field(message: Message, path: str, found: list[Violation]) -> None:
        value = getattr(message, name)
        if not (message.HasField(name) if tracked else value):
            if required:
                found.append((path + name, "must be set"))
            elif value_check is not None and defined_only:
                value_check(value, path + name, found)
        elif required and value == "":
            found.append((path + name, "must not be empty"))
        elif value_check is not None and not (clears and value == ""):
            value_check(value, path + name, found)

    return check_field


def is_optional(field: FieldDescriptor) -> bool:
    """Whether *field* is declared `optional`: an empty text that is set clears what is stored."""
    oneof = field.containing_oneof
    return oneof is not None and oneof.name == f"_{field.name}"


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

    def check_repeated(message: Message, path: str, found: list[Violation]) -> None:
        values = getattr(message, name)
        if len(values) < fewest:
            found.append((path + name, f"must have at least {fewest}"))
        if most and len(values) > most:
            found.append((path + name, f"must have at most {most}"))
        elif value_check is not None:
            for place, value in items_of(field, values):
                value_check(value, f"{path}{name}{place}", found)
                if len(found) >= MOST_VIOLATIONS:
                    return

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

    def check_value(value: Any, path: str, found: list[Violation]) -> None:
        for each in checks:
            each(value, path, found)

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

    def check_nested(value: Message, path: str, found: list[Violation]) -> None:
        check_message(value, path + ".", found)

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
    fewest, most = of.min_length, of.max_length
    if fewest:
        yield rule(lambda text: len(text) >= fewest, f"must have at least {fewest} {unit}")
    if most:
        yield rule(lambda text: len(text) <= most, f"must have at most {most} {unit}")
    if of.pattern:
        pattern = re.compile(of.pattern)
        yield rule(lambda text: pattern.fullmatch(text) is not None, f"must match {of.pattern}")
    if of.format:
        yield rule(*FORMATS[of.format])


def number_checks(of: rules.FieldRules) -> Iterator[Check]:
    least, most = of.minimum, of.maximum
    if of.HasField("minimum"):
        yield rule(lambda number: number >= least, f"must be at least {least:.10g}")
    if of.HasField("maximum"):
        yield rule(lambda number: number <= most, f"must be at most {most:.10g}")


def defined_only(field: FieldDescriptor) -> Check:
    assert field.enum_type is not None
    known = {value.number for value in field.enum_type.values if value.number != 0}
    names = ", ".join(value.name for value in field.enum_type.values if value.number != 0)
    return rule(lambda number: number in known, f"must be one of {names}")


def rule(holds: Callable[[Any], bool], sentence: str) -> Check:
    def check_rule(value: Any, path: str, found: list[Violation]) -> None:
        if not holds(value):
            found.append((path, sentence))

    return check_rule


def is_uuid(text: str) -> bool:
    return UUID.fullmatch(text) is not None


def is_language_tag(text: str) -> bool:
    """Whether *text* is a well-formed language tag (BCP 47), in any case, with - or _."""
    return len(text) <= LONGEST_LANGUAGE_TAG and LANGUAGE_TAG.fullmatch(text) is not None


def leading_language_tag(text: str) -> str:
    """The language tag that *text* begins with, such as pt_BR in pt_BR.UTF-8; empty if none."""
    found = LEADING_LANGUAGE_TAG.match(text[:LONGEST_LANGUAGE_TAG])
    return found[0] if found else ""


def is_time_zone(text: str) -> bool:
    """Whether *text* is the name of an IANA time zone; the one check of zones there is."""
    return text in time_zones()


def is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@cache
def time_zones() -> frozenset[str]:
    """The IANA time zones that this machine knows."""
    return frozenset(
        name
        for name in available_timezones()
        if name not in NO_ZONES and not name.startswith(NO_ZONE_FOLDERS)
    )


FORMATS: dict[int, tuple[Callable[[str], bool], str]] = {
    rules.FORMAT_UUID: (is_uuid, "must be a UUID in lower case with hyphens"),
    rules.FORMAT_LOCALE: (is_language_tag, "must be a language tag such as pt-BR"),
    rules.FORMAT_TIME_ZONE: (is_time_zone, "must be an IANA time zone such as America/Sao_Paulo"),
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
