"""Every way in which a provider fails: the caller gets the whole right answer, or within the
deadline a clear error; and the provider that fails is asked only a few times.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
from gatehouse.router.v1 import router_pb2 as pb

from bench.fault_provider import HARMLESS, Behaviour, Fault
from tests.router_stand import Stand, opened_stand, outcomes, refused

TEXT = "You said: hello there, and so on."
ALONE = ("fast-other", "small", "deep")
# A refusal ends the request, an answer cut by its length is told as that: no outage.
ENDS = frozenset({"refuse", "cut_short"})
EVERY = get_args(Fault)
OUTAGES = sorted(set(EVERY) - HARMLESS - ENDS)
AT_ONE = "provider: one, context_tokens: 4000, prices: {input: 1, output: 1}"
CLEAR = {
    "NO_MODEL_AVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": grpc.StatusCode.DEADLINE_EXCEEDED,
    "CONTENT_REFUSED": grpc.StatusCode.FAILED_PRECONDITION,
}


@pytest.fixture
async def quick(tmp_path: Path, tokens: Any, store: str) -> AsyncIterator[Stand]:
    """Little patience, so that there is time for many faults."""
    more = "tasks: {INTERPRET: {first_token_seconds: 0.3, stall_seconds: 0.3}}"
    async with opened_stand(tmp_path, tokens, store, more=more) as opened:
        opened.fail("fast-other", "none", text=TEXT)
        yield opened


async def told(stand: Stand, streamed: bool, **fields: Any) -> tuple[str, pb.Finished]:
    if not streamed:
        answer = await stand.complete(**fields)
        return answer.content, answer.finished
    events = [event async for event in stand.stream(**fields)]
    return "".join(event.delta.content for event in events), events[-1].finished


@pytest.mark.parametrize("fault", sorted(set(EVERY) - ENDS))
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_answer_is_whole_and_right_whatever_a_provider_does(
    quick: Stand, fault: str, streamed: bool
) -> None:
    """ROU-3, ROU-5: by the provider itself where it did no harm, else by the next one.

    An endless answer is told as it comes, until it is known to be one: what was told stays.
    """
    quick.fail("fast", fault, text=TEXT)
    text, finished = await told(quick, streamed)
    if fault == "endless" and streamed:
        assert text.endswith(TEXT)
    else:
        assert text == TEXT
    assert finished.failover is (fault not in HARMLESS)
    assert finished.finish_reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize("fault", EVERY)
@pytest.mark.parametrize("streamed", [False, True])
async def test_with_nobody_else_there_is_a_clear_error_within_the_deadline(
    quick: Stand, fault: str, streamed: bool
) -> None:
    """ROU-3, ROU-5, ROU-8: never half an answer that passes for a whole one."""
    quick.fail("fast", fault, text=TEXT)
    asked = {"timeout": 5, "excluded_models": ALONE}
    if fault in HARMLESS:
        assert (await told(quick, streamed, **asked))[0] == TEXT
    elif fault == "cut_short":
        text, finished = await told(quick, streamed, **asked)
        assert TEXT.startswith(text)
        assert finished.finish_reason == pb.FINISH_REASON_LENGTH
    else:
        async with refused() as refusal:
            await told(quick, streamed, **asked)
        assert CLEAR[refusal.reason] is refusal.code
        assert b"secret" not in refusal.status.SerializeToString()


@pytest.mark.parametrize("fault", OUTAGES)
async def test_an_outage_costs_at_most_three_calls_of_the_first_fifteen_requests(
    quick: Stand, fault: str
) -> None:
    """ROU-4: all of them are answered."""
    quick.fail("fast", fault, text=TEXT)
    for _ in range(15):
        assert (await told(quick, False))[0] == TEXT
    assert quick.asked("fast") <= 3


async def test_an_outage_of_a_provider_is_one_of_all_its_models(
    tmp_path: Path, tokens: Any, store: str
) -> None:
    """ROU-4: three calls of the provider, not of each of its models."""
    more = f"  twin: {{tier: MODEL_SPEED, {AT_ONE}}}"
    async with opened_stand(tmp_path, tokens, store, more=more) as stand:
        for model in ("fast", "twin"):
            stand.one.behave(model, Behaviour(fault="status"))
        for _ in range(15):
            assert (await stand.complete()).finished.model_used == "fast-other"
        assert stand.one.seen("fast").requests + stand.one.seen("twin").requests <= 3


async def test_a_model_that_its_provider_does_not_know_takes_no_other_out(
    tmp_path: Path, tokens: Any, store: str
) -> None:
    """ROU-4: the catalogue's entry is wrong, the provider is not; it is not asked again soon."""
    more = f"  twin: {{tier: MODEL_BASIC, {AT_ONE}}}"
    async with opened_stand(tmp_path, tokens, store, more=more) as stand:
        stand.fail("fast", status=404)
        for _ in range(5):
            await stand.complete()
        models = await stand.models()
        assert models["fast"].circuit == pb.CIRCUIT_STATE_OPEN
        assert models["twin"].circuit == pb.CIRCUIT_STATE_CLOSED
        assert stand.asked("fast") == 1


@pytest.mark.parametrize("fault", ["status", "hang"])
async def test_a_provider_that_recovers_is_back_within_thirty_seconds(
    quick: Stand, fault: str
) -> None:
    """ROU-4: by itself, with the usual rests, after two good probes."""
    quick.fail("fast", fault)
    for _ in range(15):
        assert (await quick.complete()).finished.model_used == "fast-other"
    quick.one.behave_well("fast")

    async def is_back() -> bool:
        return (await quick.complete()).finished.model_used == "fast"

    await quick.eventually(is_back, seconds=30)
    answer = await quick.complete()
    assert outcomes(answer.finished.attempts) == [("fast", "SUCCEEDED")]
    assert (await quick.models())["fast"].circuit == pb.CIRCUIT_STATE_CLOSED
