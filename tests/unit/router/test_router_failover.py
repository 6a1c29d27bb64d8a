"""What follows a failed attempt."""

import pytest

from services.router.catalog import Model, read_catalogue
from services.router.failover import (
    RetryBudget,
    Tried,
    ends_request,
    left_over,
    retry_pause,
)
from services.router.nouns import Fault, Outcome

CATALOGUE = """
providers:
  p: {base_url: "http://localhost:1/v1"}
  q: {base_url: "http://localhost:2/v1"}
models:
  a:
    {tier: MODEL_BASIC, provider: p, provider_model: same, context_tokens: 1000, prices: &p
      {input: 1, output: 1}}
  b: {tier: MODEL_SPEED, provider: p, provider_model: same, context_tokens: 1000, prices: *p}
  c: {tier: MODEL_SPEED, provider: p, context_tokens: 5000, prices: *p}
  d: {tier: MODEL_SPEED, provider: q, context_tokens: 500, prices: *p}
"""
READ = read_catalogue(CATALOGUE, {})
A, B, C, D = READ.models
CHAT, INTERPRET = READ.tasks["CHAT"], READ.tasks["INTERPRET"]


def left(model: Model, outcome: Outcome) -> list[str]:
    return [m.id for m in left_over(READ.models, [Tried(model, Fault(outcome))])]


def test_a_failed_candidate_is_not_asked_again() -> None:
    """ROU-3."""
    assert left(A, Outcome.SERVER_ERROR) == ["b", "c", "d"]


@pytest.mark.parametrize("outcome", [Outcome.FIRST_TOKEN_TIMEOUT, Outcome.STALLED])
def test_a_silent_route_is_not_tried_again_under_another_name(outcome: Outcome) -> None:
    """ROU-3: a and b are one model of one provider."""
    assert left(A, outcome) == ["c", "d"]


def test_a_rejected_key_takes_the_whole_provider_out() -> None:
    """ROU-3."""
    assert left(A, Outcome.KEY_REJECTED) == ["d"]


def test_a_prompt_too_long_goes_only_to_a_larger_context() -> None:
    """ROU-3."""
    assert left(A, Outcome.CONTEXT_TOO_LONG) == ["c"]


@pytest.mark.parametrize(
    ("fault", "ends"),
    [
        (Fault(Outcome.REQUEST_REJECTED, here_only=False), True),
        (Fault(Outcome.REQUEST_REJECTED, here_only=True), False),
        (Fault(Outcome.CONTENT_REFUSED), True),
        (Fault(Outcome.SERVER_ERROR), False),
        (Fault(Outcome.INVALID_ANSWER), False),
        (Fault(Outcome.KEY_REJECTED), False),
    ],
)
def test_what_would_fail_everywhere_ends_the_request(fault: Fault, ends: bool) -> None:
    """ROU-3."""
    assert ends_request(fault) is ends


def pause(fault: Fault, *, retried: bool = False, left: float = 60.0) -> float | None:
    return retry_pause(fault, CHAT, retried=retried, seconds_left=left, draw=0.5)


@pytest.mark.parametrize(
    "outcome", [Outcome.CONNECTION_ERROR, Outcome.RATE_LIMITED, Outcome.SERVER_ERROR]
)
def test_chat_asks_the_same_candidate_once_more_after_a_jitter(outcome: Outcome) -> None:
    """ROU-3."""
    assert pause(Fault(outcome)) == pytest.approx(0.125)
    assert pause(Fault(outcome), retried=True) is None


def test_chat_waits_as_long_as_retry_after_says_if_that_fits_the_deadline() -> None:
    """ROU-3: fits means that a first token may still come in time."""
    assert pause(Fault(Outcome.RATE_LIMITED, retry_after=7)) == 7
    assert pause(Fault(Outcome.RATE_LIMITED, retry_after=7), left=10) == 7
    assert pause(Fault(Outcome.RATE_LIMITED, retry_after=7), left=9.9) is None


def test_a_silent_candidate_is_never_asked_again() -> None:
    """ROU-3."""
    assert pause(Fault(Outcome.FIRST_TOKEN_TIMEOUT)) is None
    assert pause(Fault(Outcome.STALLED)) is None


def test_other_tasks_move_on_at_once() -> None:
    """ROU-3."""
    fault = Fault(Outcome.SERVER_ERROR)
    assert retry_pause(fault, INTERPRET, retried=False, seconds_left=60, draw=0) is None


def test_retries_are_a_share_of_traffic() -> None:
    """ROU-4: ten requests earn one retry, and a quiet time does not pile them up."""
    budget: RetryBudget | None = RetryBudget(share=0.125, most=2, left=2)
    assert budget is not None
    budget = budget.earned()
    assert budget.left == 2
    for _ in range(2):
        budget = budget.spent()
        assert budget is not None
    assert budget.spent() is None
    for _ in range(8):
        budget = budget.earned()
    assert budget.spent() is not None
