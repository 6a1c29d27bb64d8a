"""From spans to rows (LOG-1). Decides, and waits for nothing."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

INTENT = "operation.intent"
OPERATION = "operation"
OUTCOMES = ("succeeded", "failed", "refused", "cancelled", "unknown")
ACTIONS = ("create", "read", "update", "delete", "analyze", "recommend")
ADMIN = re.compile(r"admin\.[a-z_]+(\.[a-z_]+)*")
# Identifiers only (LOG-6): words, and so what people write, never look like these.
NAMES = {
    "gatehouse.request.id": re.compile(r"[!-~]{1,256}"),
    "gatehouse.domain": re.compile(r"[A-Za-z0-9_.-]{1,64}"),
    "gatehouse.reason": re.compile(r"[A-Z][A-Z0-9_]{0,63}"),
    "gatehouse.model_used": re.compile(r"[!-~]{1,256}"),
}
SERVICE = re.compile(r"[!-~]{1,256}")
IDENTIFIERS = ("user.id", "gatehouse.operation.id", "gatehouse.clinic.id")
KNOWN = (*NAMES, *IDENTIFIERS, "gatehouse.action", "gatehouse.outcome", "gatehouse.failover")
# Nobody told what became of it, and its domain says that it was not done and never will be.
ABANDONED = "OPERATION_ABANDONED"
LATEST = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class OperationSpan:
    """What one span says of one operation."""

    kind: str
    operation_id: uuid.UUID
    request_id: str
    user_id: uuid.UUID
    clinic_id: uuid.UUID | None
    action: str
    domain: str
    outcome: str
    reason: str
    model_used: str
    failover: bool
    started_at: datetime
    ended_at: datetime
    trace_id: str
    span_id: str
    parent_span_id: str
    service: str

    @property
    def latency_ms(self) -> int:
        return min(int((self.ended_at - self.started_at) / timedelta(milliseconds=1)), 2**31 - 1)


@dataclass(frozen=True)
class Malformed:
    """An operation span that cannot be understood."""

    trace_id: str
    span_id: str
    problem: str
    span: bytes


@dataclass(frozen=True)
class Row:
    """One operation as the log shows it."""

    id: uuid.UUID
    user_id: uuid.UUID
    clinic_id: uuid.UUID | None
    action: str
    domain: str
    outcome: str
    reason: str
    latency_ms: int
    model_used: str
    failover: bool
    created_at: datetime
    request_id: str
    trace_id: str
    span_id: str
    settled_later: bool
    position: int


def is_operation(span: Span) -> bool:
    """Whether *span* means to be an operation; every other span is ignored."""
    return span.name in (INTENT, OPERATION) and any(
        each.key.startswith("gatehouse.") for each in span.attributes
    )


def fault_of_ids(span: Span) -> str | None:
    """What makes *span* no span of OTLP's at all, or None."""
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "trace_id is not 16 bytes"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "span_id is not 8 bytes"
    return None


def read_span(span: Span, service: str, now: datetime) -> OperationSpan | Malformed:
    """Understand an operation's span, whoever made it."""
    try:
        return understood(span, service, now)
    except ValueError as error:
        return malformed_span(span, str(error))


def malformed_span(span: Span, problem: str) -> Malformed:
    return Malformed(span.trace_id.hex(), span.span_id.hex(), problem, redacted(span))


def redacted(span: Span) -> bytes:
    """What of *span* may be kept aside: its form, its identifiers, and none of its words (LOG-6).

    A value that is not what its attribute asks for may be anything, so only its kind is kept.
    """
    kept = Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        name=span.name,
        kind=span.kind,
        start_time_unix_nano=span.start_time_unix_nano,
        end_time_unix_nano=span.end_time_unix_nano,
    )
    for each in span.attributes:
        if each.key in KNOWN:
            kept.attributes.append(KeyValue(key=each.key, value=shown(each.key, each.value)))
    return kept.SerializeToString()


def shown(key: str, value: AnyValue) -> AnyValue:
    kind = value.WhichOneof("value") or "nothing"
    if kind == "bool_value" or (kind == "string_value" and is_plain(key, value.string_value)):
        return value
    size = f" of {len(value.string_value)} characters" if kind == "string_value" else ""
    return AnyValue(string_value=f"({kind}{size})")


def is_plain(key: str, found: str) -> bool:
    if key in IDENTIFIERS:
        return is_uuid(found)
    if key in NAMES:
        return NAMES[key].fullmatch(found) is not None
    return found in OUTCOMES or found in ACTIONS or ADMIN.fullmatch(found) is not None


def is_uuid(found: str) -> bool:
    try:
        uuid.UUID(found)
    except ValueError:
        return False
    return True


def understood(span: Span, service: str, now: datetime) -> OperationSpan:
    values = {each.key: each.value for each in span.attributes}
    intent = span.name == INTENT
    started_at = moment(span.start_time_unix_nano, "start_time_unix_nano", now)
    ended_at = moment(span.end_time_unix_nano, "end_time_unix_nano", now)
    if ended_at < started_at:
        raise ValueError("end_time_unix_nano is before start_time_unix_nano")
    user_id = identifier(values, "user.id")
    operation_id = identifier(values, "gatehouse.operation.id")
    if user_id is None or operation_id is None:
        raise ValueError("user.id and gatehouse.operation.id must be given")
    return OperationSpan(
        kind="intent" if intent else "outcome",
        operation_id=operation_id,
        request_id=text(values, "gatehouse.request.id", required=True),
        user_id=user_id,
        clinic_id=identifier(values, "gatehouse.clinic.id"),
        action=action_in(values),
        domain=text(values, "gatehouse.domain"),
        outcome="unknown" if intent else outcome_in(values),
        reason=text(values, "gatehouse.reason"),
        model_used=text(values, "gatehouse.model_used"),
        failover=flag(values, "gatehouse.failover"),
        started_at=started_at,
        ended_at=ended_at,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        service=service if SERVICE.fullmatch(service) else "",
    )


Values = Mapping[str, AnyValue]


def text(values: Values, key: str, *, required: bool = False) -> str:
    value = values.get(key)
    if value is None or value.WhichOneof("value") is None:
        if required:
            raise ValueError(f"{key} must be given")
        return ""
    if value.WhichOneof("value") != "string_value":
        raise ValueError(f"{key} is not a string")
    found = value.string_value
    if required and not found:
        raise ValueError(f"{key} must be given")
    if found and key in NAMES and not NAMES[key].fullmatch(found):
        raise ValueError(f"{key} is not an identifier")
    return found


def flag(values: Values, key: str) -> bool:
    value = values.get(key)
    if value is None:
        return False
    if value.WhichOneof("value") != "bool_value":
        raise ValueError(f"{key} is not a boolean")
    return value.bool_value


def identifier(values: Values, key: str) -> uuid.UUID | None:
    found = text(values, key)
    if not found:
        return None
    if not is_uuid(found):
        raise ValueError(f"{key} is not a UUID")
    return uuid.UUID(found)


def action_in(values: Values) -> str:
    action = text(values, "gatehouse.action", required=True)
    if action not in ACTIONS and not ADMIN.fullmatch(action):
        raise ValueError("gatehouse.action is none of the known actions")
    return action


def outcome_in(values: Values) -> str:
    outcome = text(values, "gatehouse.outcome", required=True)
    if outcome not in OUTCOMES:
        raise ValueError("gatehouse.outcome is none of the known outcomes")
    return outcome


def moment(nanoseconds: int, field: str, now: datetime) -> datetime:
    """A time of a span, to the microsecond; one far in the future is a broken clock's."""
    found = EPOCH + timedelta(microseconds=nanoseconds // 1000) if nanoseconds < 2**62 else None
    if not nanoseconds or found is None or found > now + LATEST:
        raise ValueError(f"{field} is not a time up to now")
    return found


def projected(row: Row | None, span: OperationSpan, position: int) -> Row | None:
    """The row after *span*, or None where it changes nothing.

    Of all that is told of an operation the account with the highest standing makes the row, so
    every order in which it is told, and however often, ends in the same row.
    """
    told = Row(
        id=span.operation_id,
        user_id=span.user_id,
        clinic_id=span.clinic_id,
        action=span.action,
        domain=span.domain,
        outcome=span.outcome,
        reason=span.reason,
        latency_ms=span.latency_ms,
        model_used=span.model_used,
        failover=span.failover,
        created_at=span.started_at,
        request_id=span.request_id,
        trace_id=span.trace_id,
        span_id=span.span_id,
        settled_later=span.kind == "settled",
        position=position,
    )
    return told if row is None or standing(told) > standing(row) else None


def standing(row: Row) -> tuple[int, datetime, str, str]:
    """By its rank, then by its end: the later one knows more. The ids settle what is left."""
    ended_at = row.created_at + timedelta(milliseconds=row.latency_ms)
    return rank(row), ended_at, row.trace_id, row.span_id


def rank(row: Row) -> int:
    """From an intent over an unknown outcome, a domain's word, and an outcome, to a success.

    That an operation was carried out is not undone by a retry of it that failed. That it never
    will be was learnt from its domain, whoever asked: who carried it out knows better why.
    """
    if row.outcome == "unknown":
        return 1 if row.reason else 0
    if row.settled_later:
        return 2
    if row.outcome == "succeeded":
        return 5
    return 3 if row.reason == ABANDONED else 4


def contradicts(row: Row | None, span: OperationSpan) -> bool:
    """Whether *span* says of the operation in *row* that it is another one."""
    return row is not None and (
        (row.user_id, row.clinic_id, row.action, row.domain, row.request_id)
        != (span.user_id, span.clinic_id, span.action, span.domain, span.request_id)
    )


def attribute_of(attributes: list[KeyValue], key: str) -> str:
    return next((each.value.string_value for each in attributes if each.key == key), "")
