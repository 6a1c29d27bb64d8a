"""What the gateway refuses a whole request for, each with its reason (DESIGN: statuses)."""

from datetime import timedelta

import grpc
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from services.runtime.failure import (
    Conflict,
    Denied,
    Exhausted,
    Failure,
    Precondition,
    Unavailable,
)


class PlanForbids(Denied):
    """The plan does not allow changes; the details say which plan would, where there is one."""

    reason = "PLAN_FORBIDS"
    # A plan that would allow it was offered.
    is_offered = False


class WindowNotAllowed(Denied):
    """The analysis would look back further than the plan allows."""

    reason = "WINDOW_NOT_ALLOWED"
    # A plan that would allow it was offered.
    is_offered = False


class QuotaExhausted(Exhausted):
    """The day's limit is used up; *notice* says so to the user."""

    reason = "QUOTA_EXHAUSTED"
    notice: pb.Notice | None = None


class UserBusy(Unavailable):
    """Another transaction holds the counts of this user; those of others are not affected."""

    reason = "USER_BUSY"


class CoolDown(Exhausted):
    reason = "COOL_DOWN"


class RequestIdReused(Precondition):
    reason = "REQUEST_ID_REUSED"

    def __init__(self) -> None:
        super().__init__("this request_id came before with another payload")


class RequestInProgress(Conflict):
    reason = "REQUEST_IN_PROGRESS"

    def __init__(self) -> None:
        super().__init__(
            "the first call with this request_id still runs", retry_after=timedelta(seconds=1)
        )


class Superseded(Exception):
    """A later attempt has taken the request over: its answer is the one that stands."""


class ConfirmationRefused(Precondition):
    """The confirmation token cannot be used: invalid, expired, used, or outdated."""

    reason = "CONFIRMATION_INVALID"


class DomainUnavailable(Failure):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "DOMAIN_UNAVAILABLE"


class DomainUnreachable(DomainUnavailable):
    """Nothing was sent: it is known that nothing was done."""


class DomainMalfunction(Failure):
    code = grpc.StatusCode.INTERNAL
    reason = "DOMAIN_MALFUNCTION"


class GivenUp(Failure):
    """The call that should have done it ended before; it was not done, and never will be."""

    code = grpc.StatusCode.ABORTED
    reason = "OPERATION_ABANDONED"


def told(notice: pb.Notice) -> list[Message]:
    """A notice as a detail of a status."""
    return localized(notice.message, notice.locale)


def localized(message: str, locale: str) -> list[Message]:
    """What users read, as a detail of a status."""
    return [error_details_pb2.LocalizedMessage(locale=locale, message=message)]


def quota_failure(subject: str, description: str) -> Message:
    violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    failure: Message = error_details_pb2.QuotaFailure(violations=[violation])
    return failure
