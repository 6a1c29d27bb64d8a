"""What a request can end with instead of an answer. Nothing that a provider wrote is in it."""

from collections.abc import Sequence
from datetime import timedelta

import grpc
from gatehouse.router.v1 import router_pb2
from google.rpc import error_details_pb2

from services.router.nouns import Attempt
from services.router.translation import attempt_to
from services.runtime.failure import Failure


def _detail(attempts: Sequence[Attempt]) -> list[router_pb2.FailedAttempts]:
    return [router_pb2.FailedAttempts(attempts=[attempt_to(attempt) for attempt in attempts])]


class TierNotAllowed(Failure):
    """ROU-2: no tier of the task is among the plan's."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "TIER_NOT_ALLOWED"

    def __init__(self, task: str, tiers: Sequence[str]) -> None:
        super().__init__(
            f"{task} needs one of the tiers {', '.join(tiers)}",
            metadata={"required_tiers": ",".join(tiers)},
        )


class NoModelAvailable(Failure):
    """Every candidate failed or is taken out."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "NO_MODEL_AVAILABLE"

    def __init__(self, attempts: Sequence[Attempt], retry_after: timedelta) -> None:
        super().__init__(
            "no model is available for this request",
            details=_detail(attempts),
            retry_after=retry_after,
        )


class ProviderRejected(Failure):
    """A provider refused the request in a way that every other would."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "PROVIDER_REJECTED"

    def __init__(self, attempts: Sequence[Attempt], http_status: int) -> None:
        super().__init__(
            "the model's provider does not accept this request",
            metadata={"http_status": str(http_status)},
            details=_detail(attempts),
        )


class ContextTooLong(Failure):
    """The prompt is longer than any candidate takes."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "CONTEXT_TOO_LONG"

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        super().__init__(
            "the messages are longer than any model of the tiers takes", details=_detail(attempts)
        )


class ContentRefused(Failure):
    """A provider refused the content; its reason is passed on as the one word that it is."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "CONTENT_REFUSED"

    def __init__(self, attempts: Sequence[Attempt], provider_reason: str) -> None:
        super().__init__(
            "the model's provider refused the content",
            metadata={"provider_reason": provider_reason or "content_filter"},
            details=_detail(attempts),
        )


class BudgetExhausted(Failure):
    """What is left of the user's budget of the day would not do for any candidate (ROU-6)."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "BUDGET_EXHAUSTED"

    def __init__(self, attempts: Sequence[Attempt], user_id: str, retry_after: timedelta) -> None:
        text = "the day's budget for answers by models is used up"
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=f"user:{user_id}", description=text
        )
        quota = error_details_pb2.QuotaFailure(violations=[violation])
        super().__init__(text, details=[quota, *_detail(attempts)], retry_after=retry_after)


class SchemaInvalid(Failure):
    """The JSON Schema is not a valid one, or refers to something outside itself."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "SCHEMA_INVALID"

    def __init__(self) -> None:
        super().__init__("json_schema is not a valid JSON Schema of draft 2020-12")


class TooLate(Failure):
    """The caller's deadline came first; tells what was tried until then."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        super().__init__("the deadline passed before a model answered", details=_detail(attempts))
