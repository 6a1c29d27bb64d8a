"""What follows an attempt that failed (ROU-3). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.router.catalog import Model, TaskPolicy
from services.router.nouns import Fault, Outcome

SILENT = frozenset({Outcome.FIRST_TOKEN_TIMEOUT, Outcome.STALLED})
TRANSIENT = frozenset({Outcome.CONNECTION_ERROR, Outcome.RATE_LIMITED, Outcome.SERVER_ERROR})
LONGEST_JITTER_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Tried:
    """A model that failed in this request, and how."""

    model: Model
    fault: Fault


def ends_request(fault: Fault) -> bool:
    """Say whether every other candidate would fail in the same way, or must not be asked."""
    return fault.outcome is Outcome.CONTENT_REFUSED or (
        fault.outcome is Outcome.REQUEST_REJECTED and not fault.here_only
    )


def left_over(candidates: Sequence[Model], tried: Sequence[Tried]) -> list[Model]:
    """The candidates that may still be asked, in order.

    Not one that failed already, not a silent route under another name, not another model behind a
    rejected key, and after a prompt that was too long only a larger context.
    """
    done = {one.model.id for one in tried}
    silent = {one.model.route for one in tried if one.fault.outcome in SILENT}
    locked = {one.model.provider.name for one in tried if one.fault.outcome is Outcome.KEY_REJECTED}
    too_small = max(
        (o.model.context_tokens for o in tried if o.fault.outcome is Outcome.CONTEXT_TOO_LONG),
        default=0,
    )
    return [
        model
        for model in candidates
        if model.id not in done
        and model.route not in silent
        and model.provider.name not in locked
        and model.context_tokens > too_small
    ]


def retry_pause(
    fault: Fault, policy: TaskPolicy, *, retried: bool, seconds_left: float, draw: float
) -> float | None:
    """Seconds to wait before the same candidate is asked once more, or None: on to the next one.

    After Retry-After when that leaves time for a first token, else None; without Retry-After after
    a jitter, *draw* of it in [0, 1).
    """
    if retried or not policy.retries_same_model or fault.outcome not in TRANSIENT:
        return None
    pause = LONGEST_JITTER_SECONDS * draw if fault.retry_after is None else fault.retry_after
    return pause if pause + policy.first_token_seconds <= seconds_left else None


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Retries on the same candidate as a share of traffic, so that they never multiply an outage
    (ROU-4).
    """

    share: float = 0.1
    most: float = 10.0
    left: float = 10.0

    def earned(self) -> "RetryBudget":
        """A request came in."""
        return replace(self, left=min(self.left + self.share, self.most))

    def spent(self) -> "RetryBudget | None":
        """A retry goes out; None when there is nothing left for it."""
        return replace(self, left=self.left - 1) if self.left >= 1 else None
