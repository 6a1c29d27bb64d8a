"""What can go wrong, and its one mapping to google.rpc.Status (ALL-2).

Code raises a Failure where something happened; the server's interceptor turns it into a status with
an ErrorInfo. Whatever else escapes a handler is logged and told as INTERNAL in a fixed sentence, so
that no exception's text leaves a service.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

DOMAIN = "gatehouse"
RETRY_AFTER = timedelta(seconds=1)
# gRPC's implementations refuse trailers of more than 8 KiB. The message goes there twice, once in
# percent-encoding, which makes three bytes of one, and the details in base64.
MESSAGE_BYTES = 1024
STATUS_BYTES = 2048
VALUE_BYTES = 256
CUT = "…".encode()

Violation = tuple[str, str]
"""A field's path in the request, and what is wrong with it."""


class Failure(Exception):
    """What a caller is told: a code to retry by, a reason to react to, a message to read."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata = dict(metadata or {})
        self.details = list(details)
        self.retry_after = retry_after

    def status(self) -> Status:
        """The status that goes over the wire: ErrorInfo first, then the details, then RetryInfo.

        It is small enough for a trailer: a long message is cut, and of many details those are left
        out that do not fit.
        """
        status = Status(code=int(self.code.value[0]), message=cut(self.message, MESSAGE_BYTES))
        # The surest first: what a caller reacts to has its place before what explains it.
        retry = [packed(each) for each in self._retry_info()]
        room = STATUS_BYTES - sum(each.ByteSize() for each in retry)
        for each in (self._info(), *self.details):
            detail = fitted(each, room)
            if detail is not None:
                status.details.append(detail)
                room -= detail.ByteSize()
        status.details.extend(retry)
        return status

    def _info(self) -> error_details_pb2.ErrorInfo:
        metadata = {cut(k, VALUE_BYTES): cut(v, VALUE_BYTES) for k, v in self.metadata.items()}
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata)
        if info.ByteSize() > STATUS_BYTES // 2:
            info.metadata.clear()
        return info

    def _retry_info(self) -> list[Message]:
        if self.retry_after is None:
            return []
        delay = Duration()
        delay.FromTimedelta(max(self.retry_after, timedelta(0)))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]


class InvalidInput(Failure):
    """The request breaks rules of its fields; all of them are told at once."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation], *, reason: str | None = None) -> None:
        self.violations = list(violations)
        text = "; ".join(f"{field}: {description}" for field, description in self.violations)
        bad = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                for field, description in self.violations
            ]
        )
        super().__init__(text, reason=reason, details=[bad])


class Unauthenticated(Failure):
    """The call came without a usable token: TOKEN_MISSING, TOKEN_INVALID or TOKEN_EXPIRED."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "TOKEN_INVALID"


class Denied(Failure):
    """The caller may not do this: PERMISSION_DENIED, or ROLE_REQUIRED."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class NotFound(Failure):
    """There is no such thing, or the caller may not know of it."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(Failure):
    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class Conflict(Failure):
    """It was changed since it was read; read it again."""

    code = grpc.StatusCode.ABORTED
    reason = "ETAG_MISMATCH"


class Precondition(Failure):
    """The state of things does not allow it, and trying again does not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class Exhausted(Failure):
    """A quota, a window or a capacity is used up."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class Unavailable(Failure):
    """Something that is needed does not answer; trying again may help."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
        retry_after: timedelta | None = RETRY_AFTER,
    ) -> None:
        super().__init__(
            message, reason=reason, metadata=metadata, details=details, retry_after=retry_after
        )


class StoreUnavailable(Unavailable):
    """The store does not answer. What was asked may be done; the same call again is safe."""

    reason = "STORE_UNAVAILABLE"


class StoreBusy(StoreUnavailable):
    """The store answers, but others hold what the call needs, or it takes too long."""

    reason = "STORE_BUSY"


class PeerUnavailable(Unavailable):
    reason = "PEER_UNAVAILABLE"


class DeadlineExceeded(Failure):
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self, message: str = "the deadline passed", *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)


class Cancelled(Failure):
    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"


class Unimplemented(Failure):
    """The service has no such method."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"

    def __init__(self) -> None:
        super().__init__("this service has no such method")


class Internal(Failure):
    """Something broke that is not the caller's fault. What it was is in the log, not here."""

    def __init__(self) -> None:
        super().__init__("something broke on our side; the trace id leads to what it was")


class PeerFailure(Failure):
    """What a peer answered, with the peer's own code."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Message] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(
            message, reason=reason, metadata=metadata, details=details, retry_after=retry_after
        )
        self.code = code  # type: ignore[misc]  # the peer's, so the instance's


def packed(message: Message) -> Any:
    """*message* as a detail of a status; what is one already stays as it is."""
    if isinstance(message, Any):
        return message
    detail = Any()
    detail.Pack(message)
    return detail


def cut(text: str, most_bytes: int) -> str:
    """*text* in valid UTF-8 of at most *most_bytes*."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= most_bytes:
        return encoded.decode()
    return encoded[: most_bytes - len(CUT)].decode(errors="ignore") + CUT.decode()


def fitted(message: Message, room: int) -> Any | None:
    """*message* as a detail of at most *room* bytes, or None. Of violations, as many as fit."""
    detail = packed(message)
    if isinstance(message, error_details_pb2.BadRequest):
        whole = list(message.field_violations)
        while detail.ByteSize() > room and whole:
            whole = whole[: len(whole) // 2]
            detail = packed(error_details_pb2.BadRequest(field_violations=whole))
    return detail if detail.ByteSize() <= room else None


def failure_from(error: grpc.aio.AioRpcError) -> Failure:
    """What a peer answered: its code, its ErrorInfo's reason and metadata, its other details.

    A peer that could not be reached, or that answered in the transport's words, is a
    PeerUnavailable, DeadlineExceeded, Cancelled, or a message too large, without those words.
    """
    status = status_of(error)
    if status is None:
        return without_status(error.code())
    return failure_in(status, error.code()) or without_status(error.code())


def failure_in(status: Status, code: grpc.StatusCode) -> Failure | None:
    """What *status* tells, or None where it is not one as services of ours give it."""
    info, retry_after, details = error_details_pb2.ErrorInfo(), None, list[Message]()
    try:
        for detail in status.details:
            retry = error_details_pb2.RetryInfo()
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta()
            else:
                details.append(detail)
    except (DecodeError, ValueError, OverflowError):
        return None
    if not info.reason:
        return None
    return PeerFailure(
        code,
        status.message,
        reason=info.reason,
        metadata=info.metadata,
        details=details,
        retry_after=retry_after,
    )


def status_of(error: grpc.aio.AioRpcError) -> Status | None:
    try:
        found: Status | None = rpc_status.from_call(_as_call(error))
    except (ValueError, DecodeError):  # it contradicts the call, or is none: not one of ours
        return None
    return found


class _as_call:  # noqa: N801  an adapter: rpc_status reads calls, and an aio error is not one
    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def trailing_metadata(self) -> list[tuple[str, str | bytes]]:
        return list(self._error.trailing_metadata() or ())

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str:
        return self._error.details() or ""


def without_status(code: grpc.StatusCode) -> Failure:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded()
    if code is grpc.StatusCode.CANCELLED:
        return Cancelled("the call was cancelled")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Exhausted("a message is larger than may be sent", reason="MESSAGE_TOO_LARGE")
    return PeerUnavailable("a service that this one needs does not answer")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason that a peer gave, or that its silence comes to."""
    return failure_from(error).reason
