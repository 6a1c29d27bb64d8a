"""What a domain says of a refusal, as far as it reaches callers and users (GAT-6). Pure functions.

A domain's reason, field and sentence pass; its `Status.message` and every other detail stay behind,
since they may hold anything of its insides (ALL-2).
"""

import re
from collections.abc import Sequence
from typing import TypeVar

from gatehouse.domain.v1 import domain_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest

from services.runtime.failure import Failure

MOST_CANDIDATES = 10
LONGEST_ID = 128
MOST_VIOLATIONS = 10
LONGEST_DESCRIPTION = 200
LONGEST_SENTENCE = 300
# A path in an operation, such as `selector.conditions[0].value`.
FIELD = re.compile(r"[a-z][A-Za-z0-9_]*([.\[][A-Za-z0-9_\]]+)*")
LONGEST_FIELD = 128
DEFAULT_LOCALE = "en-US"

Detail = TypeVar("Detail", bound=Message)


def bad_request(field: str, description: str) -> BadRequest:
    """Name one field at fault; a caller's own name for it may be of any length."""
    violation = BadRequest.FieldViolation(
        field=single_line(field, LONGEST_FIELD),
        description=single_line(description, LONGEST_DESCRIPTION),
    )
    return BadRequest(field_violations=[violation])


def passable_details(details: Sequence[Message]) -> list[Message]:
    """Of a domain's *details*, those that may go further, bounded and in single lines."""
    refusal, bad = detail_in(details, domain_pb2.Refusal), detail_in(details, BadRequest)
    candidates = detail_in(details, domain_pb2.Candidates)
    violations = [
        BadRequest.FieldViolation(
            field=each.field, description=single_line(each.description, LONGEST_DESCRIPTION)
        )
        for each in (bad.field_violations if bad else ())
        if is_field(each.field)
    ][:MOST_VIOLATIONS]
    kept: list[Message] = []
    if refusal is not None:
        if is_field(refusal.field) and not violations:
            violations = [BadRequest.FieldViolation(field=refusal.field)]
        sentence = single_line(refusal.message, LONGEST_SENTENCE)
        kept.append(domain_pb2.Refusal(message=sentence, locale=refusal.locale))
    if violations:
        kept.append(BadRequest(field_violations=violations))
    if candidates is not None:
        kept.append(candidates)
    return kept


def message_for(details: Sequence[Message]) -> str:
    """The fields at fault, for the developers of a caller: what a status says besides."""
    bad = detail_in(details, BadRequest)
    return "; ".join(
        f"{each.field}: {each.description}" if each.description else each.field
        for each in (bad.field_violations if bad else ())
    )


def field_of(failure: Failure) -> str:
    """The first field at fault, or an empty text."""
    bad = detail_in(failure.details, BadRequest)
    return str(bad.field_violations[0].field) if bad and bad.field_violations else ""


def sentence_of(failure: Failure, locale: str) -> str:
    """What the domain itself says to users in the language of *locale*, or an empty text."""
    refusal = detail_in(failure.details, domain_pb2.Refusal)
    if refusal is None:
        return ""
    language = (refusal.locale or DEFAULT_LOCALE).partition("-")[0].lower()
    return str(refusal.message) if language == locale.partition("-")[0].lower() else ""


def candidates_of(failure: Failure) -> domain_pb2.Candidates | None:
    """The records that an ambiguous selector matched: MOST_CANDIDATES at most, with usable ids."""
    found = detail_in(failure.details, domain_pb2.Candidates)
    if found is None:
        return None
    usable = [each for each in found.candidates if 0 < len(each.id) <= LONGEST_ID]
    return domain_pb2.Candidates(candidates=usable[:MOST_CANDIDATES], total=found.total)


def detail_in(details: Sequence[Message], kind: type[Detail]) -> Detail | None:
    """The first of *details* that is a *kind* and can be read."""
    for each in details:
        if isinstance(each, kind):
            return each
        found = kind()
        if isinstance(each, Any) and unpacked(each, found):
            return found
    return None


def unpacked(detail: Any, kind: Message) -> bool:
    """Whether *detail* was a *kind*, which now has what is in it."""
    try:
        return bool(detail.Unpack(kind))
    except DecodeError:
        return False


def is_field(text: str) -> bool:
    return len(text) <= LONGEST_FIELD and FIELD.fullmatch(text) is not None


def single_line(text: str, longest: int) -> str:
    """*text* as one line of at most *longest* characters, without control or formatting ones."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
