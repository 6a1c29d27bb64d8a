"""What the gateway refuses, as exceptions: one class for each family of what to do about it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

STATUS_KEY = "grpc-status-details-bin"
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Violation:
    """What is broken: a field's path for a BadRequest, the quota's subject for a QuotaFailure."""

    subject: str
    description: str


class GatehouseError(Exception):
    """A refusal. `reason` is for programs (`gatehouse.gateway.v1.ErrorReason` without its prefix).

    `message_for_people` is a sentence in the caller's language, empty where there is none; the
    exception's own text is for developers. `retry_after` is None where waiting does not help.
    """

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        info = detail(status, error_details_pb2.ErrorInfo)
        localized = detail(status, error_details_pb2.LocalizedMessage)
        retry = detail(status, error_details_pb2.RetryInfo)
        self.code = code_of(status.code)
        self.reason = info.reason if info else ""
        self.metadata = dict(info.metadata) if info else {}
        self.message_for_people = localized.message if localized else ""
        self.retry_after: timedelta | None = retry.retry_delay.ToTimedelta() if retry else None
        self.violations = tuple(violations_in(status))

    def __str__(self) -> str:
        known = " ".join(part for part in (self.code.name, self.reason) if part)
        return f"{self.args[0]} ({known})"


class InvalidRequest(GatehouseError):
    """The request is wrong; `violations` name its fields."""


class Unauthenticated(GatehouseError):
    """The token is missing, wrong or over: get another one."""


class Forbidden(GatehouseError):
    """The caller, or the caller's plan, may not."""


class NotFound(GatehouseError):
    """There is no such thing, or the caller may not know of it."""


class Conflict(GatehouseError):
    """What the request builds on is not so: a reused request_id, a confirmation that is over."""


class Exhausted(GatehouseError):
    """A quota or a window is used up; `retry_after` says how long."""


class Unavailable(GatehouseError):
    """Something does not answer, after retries. The same request may be sent again."""


class DeadlineExceeded(GatehouseError):
    """No answer in time. It may have been done: send the same request_id again to learn it."""


FAMILIES: dict[grpc.StatusCode, type[GatehouseError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
CODES = {int(code.value[0]): code for code in grpc.StatusCode}


def code_of(number: int) -> grpc.StatusCode:
    return CODES.get(number, grpc.StatusCode.UNKNOWN)


def refusal_in(status: Status) -> GatehouseError:
    """The refusal that *status* tells: of a call, or of an operation in a report."""
    return FAMILIES.get(code_of(status.code), GatehouseError)(status)


def detail(status: Status, kind: type[M]) -> M | None:
    found = kind()
    for each in status.details:
        try:
            if each.Unpack(found):
                return found
        except DecodeError:
            return None
    return None


def violations_in(status: Status) -> Iterator[Violation]:
    bad = detail(status, error_details_pb2.BadRequest)
    for field in bad.field_violations if bad else ():
        yield Violation(field.field, field.description)
    quota = detail(status, error_details_pb2.QuotaFailure)
    for used_up in quota.violations if quota else ():
        yield Violation(used_up.subject, used_up.description)


def refusal_from(error: grpc.RpcError) -> GatehouseError:
    """The refusal that a call ended with; without a status of Gatehouse's, the transport's."""
    code, text = error.code(), error.details() or ""
    trailers: Sequence[tuple[str, str | bytes]] = tuple(error.trailing_metadata() or ())
    for key, value in trailers:
        if key == STATUS_KEY and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:
                break
            # Whoever stands between may have changed one of the two: the call's own code holds.
            if status.code == code.value[0]:
                return refusal_in(status)
    return refusal_in(Status(code=int(code.value[0]), message=text))


@contextmanager
def refusals() -> Iterator[None]:
    """Turn gRPC's errors into refusals."""
    try:
        yield
    except grpc.RpcError as error:  # an AioRpcError is one
        raise refusal_from(error) from error
