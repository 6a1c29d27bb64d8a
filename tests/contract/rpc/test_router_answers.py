"""The router's answers, before providers that fail to order on sockets of their own."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import tier_pb2
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from services.router.app import running
from services.router.catalog import CatalogueWrong
from services.router.settings import Settings
from services.runtime.telemetry import Telemetry
from tests.router_stand import (
    BASIC,
    CLINIC,
    DEEP,
    KEY,
    PROMPT,
    REST,
    SCHEMA,
    SPEED,
    USER,
    Stand,
    opened_stand,
    outcomes,
    refused,
    request,
)

# An answer, and what it says about itself


async def test_the_first_tier_of_the_task_answers(stand: Stand) -> None:
    """ROU-2, ROU-6."""
    answer = await stand.complete(prompt="hello there")
    assert answer.content == "You said: hello there"
    finished = answer.finished
    assert (finished.model_used, finished.tier, finished.failover) == ("fast", SPEED, False)
    assert outcomes(finished.attempts) == [("fast", "SUCCEEDED")]
    assert finished.attempts[0].HasField("time_to_first_token")
    assert finished.attempts[0].provider == "one"
    assert finished.attempts[0].http_status == 200
    assert finished.finish_reason == pb.FINISH_REASON_STOP
    assert finished.notice == ""
    assert stand.one.seen("fast").headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_the_plans_tiers_decide(stand: Stand) -> None:
    """ROU-2."""
    answer = await stand.complete(tiers=(BASIC,))
    assert (answer.finished.model_used, answer.finished.failover) == ("small", False)
    assert stand.asked("fast") == 0


async def test_no_tier_left_is_denied_with_the_tiers_that_would_do(stand: Stand) -> None:
    """ROU-2."""
    async with refused() as refusal:
        await stand.complete(tiers=(tier_pb2.MODEL_ANALYTICS,))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "TIER_NOT_ALLOWED",
    )
    assert refusal.metadata["required_tiers"] == "MODEL_SPEED,MODEL_BASIC,MODEL_ADV_REASON"


async def test_tokens_and_cost_come_from_what_the_provider_counted(stand: Stand) -> None:
    """ROU-6: 1000 input of which 400 cached, 200 output: (600*3 + 400*0.3 + 200*15) / 10^6."""
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 150},
    }
    stand.fail("fast", "none", usage=usage)
    finished = (await stand.complete()).finished
    told = finished.usage
    assert (told.input_tokens, told.cached_input_tokens) == (1000, 400)
    assert (told.output_tokens, told.reasoning_tokens, told.estimated) == (200, 150, False)
    amount = finished.cost.amount
    assert (amount.currency_code, amount.units, amount.nanos) == ("USD", 0, 4_920_000)


async def test_tokens_that_nobody_counted_are_estimated_and_said_to_be(stand: Stand) -> None:
    """ROU-6."""
    stand.fail("fast", "none", no_usage=True, text="12345678")
    usage = (await stand.complete(prompt="1234")).finished.usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (1, 2, True)


async def test_an_answer_cut_by_its_length_says_so(stand: Stand) -> None:
    """ROU-5: a truncated answer never passes for a whole one."""
    stand.fail("fast", "cut_short", text="one two three", after_tokens=1)
    answer = await stand.complete()
    assert (answer.content, answer.finished.finish_reason) == ("one", pb.FINISH_REASON_LENGTH)


async def test_what_is_asked_reaches_the_provider(stand: Stand) -> None:
    """ROU-1: limits of the catalogue hold, whatever is asked."""
    await stand.complete(max_output_tokens=50_000, temperature=0.5, prompt="hello")
    body = stand.one.seen("fast").bodies[0]
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (1024, 0.5, True)
    assert "user" not in body


async def test_models_that_the_caller_excludes_are_not_asked(stand: Stand) -> None:
    """GAT-9."""
    answer = await stand.complete(excluded_models=["fast", "fast-other"])
    assert answer.finished.model_used == "small"


# Failover


@pytest.mark.parametrize(
    ("fault", "how", "outcome"),
    [
        ("status", {"status": 408}, "SERVER_ERROR"),
        ("status", {"status": 409}, "SERVER_ERROR"),
        ("status", {"status": 429}, "RATE_LIMITED"),
        ("status", {"status": 500}, "SERVER_ERROR"),
        ("status", {"status": 503, "body": "<html>"}, "SERVER_ERROR"),
        ("status", {"status": 529}, "SERVER_ERROR"),
        ("status", {"status": 404}, "REQUEST_REJECTED"),
        (
            "status",
            {"status": 302, "headers": {"Location": "http://localhost/"}},
            "REQUEST_REJECTED",
        ),
        ("hang", {}, "FIRST_TOKEN_TIMEOUT"),
        ("hang_after_head", {}, "FIRST_TOKEN_TIMEOUT"),
        ("heartbeat", {}, "FIRST_TOKEN_TIMEOUT"),
        ("disconnect", {"after_tokens": 0}, "CONNECTION_ERROR"),
        ("disconnect", {"after_tokens": 2}, "CONNECTION_ERROR"),
        ("stall", {}, "STALLED"),
        ("truncate", {}, "CONNECTION_ERROR"),
        ("error_event", {"status": 502}, "SERVER_ERROR"),
        ("error_event", {"status": 429}, "RATE_LIMITED"),
        ("nonsense", {}, "INVALID_ANSWER"),
        ("empty", {}, "INVALID_ANSWER"),
    ],
)
async def test_a_failure_moves_on_to_the_next_candidate(
    stand: Stand, fault: str, how: dict[str, Any], outcome: str
) -> None:
    """ROU-3, ROU-6: the answer is whole, and says what went before."""
    stand.fail("fast", fault, text="never to be seen whole", **how)
    answer = await stand.complete(prompt="hello")
    assert answer.content == "You said: hello"
    assert answer.finished.failover
    assert outcomes(answer.finished.attempts) == [("fast", outcome), ("fast-other", "SUCCEEDED")]


async def test_a_provider_that_is_not_there_is_passed_over(stand: Stand) -> None:
    """ROU-3: no connection at all."""
    stand.write_catalogue(**{stand.one.base_url: "http://127.0.0.1:9/v1"})
    before = (await stand.models())["fast"]

    async def answered_by_another() -> bool:
        attempts = outcomes((await stand.complete()).finished.attempts)
        return attempts == [("fast", "CONNECTION_ERROR"), ("fast-other", "SUCCEEDED")]

    assert before.circuit == pb.CIRCUIT_STATE_CLOSED
    await stand.eventually(answered_by_another)


async def test_the_time_out_of_the_task_is_the_wait_before_the_next_candidate(stand: Stand) -> None:
    """ROU-3: never before 1.2 s for INTERPRET, 1.8 s for ANALYZE."""
    stand.fail("fast", "hang")
    stand.fail("deep", "hang")
    interpreted = (await stand.complete()).finished.attempts[0].duration.ToTimedelta()
    analysed = (await stand.complete(task="ANALYZE")).finished.attempts[0].duration.ToTimedelta()
    assert interpreted.total_seconds() >= 1.19
    assert analysed.total_seconds() >= 1.79


async def test_a_silent_route_is_not_tried_again_under_another_name(
    tmp_path: Path, tokens: Any, store: str
) -> None:
    """ROU-3."""
    twin = (
        "  twin: {tier: MODEL_BASIC, provider: one, provider_model: fast, context_tokens: 4000,"
        " prices: {input: 1, output: 1}, weight: 1000000}"
    )
    async with opened_stand(tmp_path, tokens, store, more=twin) as stand:
        stand.fail("fast", "hang")
        stand.fail("fast-other", "status", status=500)
        answer = await stand.complete()
        assert answer.finished.model_used == "small"
        assert stand.asked("fast") == 1


async def test_a_bad_request_is_not_sent_to_anybody_else(stand: Stand) -> None:
    """ROU-3; and nothing of what the provider wrote is passed on."""
    stand.fail("fast", "status", status=400, body={"error": {"message": "secret words"}})
    async with refused() as refusal:
        await stand.complete()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PROVIDER_REJECTED",
    )
    assert refusal.attempts == [("fast", "REQUEST_REJECTED")]
    assert b"secret words" not in refusal.status.SerializeToString()
    assert stand.asked("fast-other") == stand.asked("small") == 0


@pytest.mark.parametrize("status", [401, 403])
async def test_a_bad_key_takes_the_provider_out_and_alarms(stand: Stand, status: int) -> None:
    """ROU-3; the key is never shown."""
    stand.fail("fast", "status", status=status, body={"error": {"message": f"bad key {KEY}"}})
    first = await stand.complete()
    second = await stand.complete()
    assert outcomes(first.finished.attempts)[0] == ("fast", "KEY_REJECTED")
    assert outcomes(second.finished.attempts)[0] == ("fast", "SKIPPED")
    assert stand.asked("fast") == 1
    assert (await stand.models())["fast"].circuit == pb.CIRCUIT_STATE_OPEN
    assert any("one refuses its key" in line for line in stand.log_lines)
    spans = "".join(span.to_json() for span in stand.spans.get_finished_spans())
    assert KEY not in spans + "".join(stand.log_lines)


TOO_LONG = {"error": {"code": "context_length_exceeded", "message": "too long"}}


async def test_a_prompt_too_long_goes_only_to_a_larger_context(stand: Stand) -> None:
    """ROU-3: neither to the other of 4000 tokens nor to the one of 1000."""
    stand.fail("fast", "status", status=400, body=TOO_LONG)
    answer = await stand.complete()
    assert outcomes(answer.finished.attempts) == [
        ("fast", "CONTEXT_TOO_LONG"),
        ("deep", "SUCCEEDED"),
    ]


async def test_a_prompt_too_long_for_all_is_told_as_that(stand: Stand) -> None:
    """ROU-3: told by a provider, or known beforehand."""
    stand.fail("small", "status", status=400, body=TOO_LONG)
    async with refused() as refusal:
        await stand.complete(tiers=(BASIC,))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CONTEXT_TOO_LONG",
    )
    async with refused() as refusal:
        await stand.complete(tiers=(BASIC,), prompt="x" * 9000)
    assert refusal.reason == "CONTEXT_TOO_LONG"
    assert stand.asked("small") == 1


@pytest.mark.parametrize(
    "how",
    [
        {"fault": "refuse"},
        {
            "fault": "status",
            "status": 400,
            "body": {"error": {"code": "content_filter", "message": "secret words"}},
        },
    ],
)
async def test_refused_content_ends_the_request_with_the_providers_reason(
    stand: Stand, how: dict[str, Any]
) -> None:
    """ROU-3."""
    stand.fail("fast", **how)
    async with refused() as refusal:
        await stand.complete()
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "CONTENT_REFUSED",
    )
    assert refusal.metadata["provider_reason"] == "content_filter"
    assert b"secret words" not in refusal.status.SerializeToString()
    assert stand.asked("fast-other") == 0


async def test_when_all_fail_the_caller_is_told_what_was_tried_and_when_to_come_back(
    stand: Stand,
) -> None:
    """ROU-3, ROU-6: failed attempts are told as such, and nothing as a completion."""
    for model in ("fast", "fast-other", "small", "deep"):
        stand.fail(model, "status", status=503, body={"error": {"message": "secret words"}})
    async with refused() as refusal:
        await stand.complete()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_MODEL_AVAILABLE")
    assert refusal.attempts == [
        (model, "SERVER_ERROR") for model in ("fast", "fast-other", "small", "deep")
    ]
    assert refusal.retry_seconds is not None
    assert refusal.retry_seconds > 0
    assert b"secret words" not in refusal.status.SerializeToString()


async def test_chat_asks_the_same_model_once_more(stand: Stand) -> None:
    """ROU-3."""
    stand.fail("fast", "status", status=503, times=1)
    finished = (await stand.complete(task="CHAT")).finished
    assert outcomes(finished.attempts) == [("fast", "SERVER_ERROR"), ("fast", "SUCCEEDED")]
    assert not finished.failover
    stand.fail("fast", "status", status=503)
    finished = (await stand.complete(task="CHAT")).finished
    assert [model for model, _ in outcomes(finished.attempts)] == ["fast", "fast", "fast-other"]


async def test_chat_waits_for_retry_after_when_it_fits_the_deadline(stand: Stand) -> None:
    """ROU-3."""
    stand.fail("fast", "status", status=429, headers={"Retry-After": "1"}, times=1)
    finished = (await stand.complete(task="CHAT", timeout=20)).finished
    assert finished.model_used == "fast"
    first, second = stand.one.seen("fast").at
    assert second - first >= 1


async def test_chat_moves_on_when_retry_after_does_not_fit(stand: Stand) -> None:
    """ROU-3."""
    stand.fail("fast", "status", status=429, headers={"Retry-After": "30"})
    finished = (await stand.complete(task="CHAT", timeout=20)).finished
    assert outcomes(finished.attempts) == [("fast", "RATE_LIMITED"), ("fast-other", "SUCCEEDED")]


@pytest.mark.parametrize(
    ("locale", "notice"),
    [
        ("", "Your answer was completed using an alternate processing tier."),
        ("en-US", "Your answer was completed using an alternate processing tier."),
        (
            "pt-BR",
            "Sua resposta foi concluída usando um nível de processamento alternativo.",
        ),
        ("es-ES", "Su respuesta se ha completado con un nivel de procesamiento alternativo."),
    ],
)
async def test_another_tier_comes_with_the_neutral_sentence(
    stand: Stand, locale: str, notice: str
) -> None:
    """ROU-6: and another model of the same tier without it."""
    stand.fail("fast")
    assert (await stand.complete(locale=locale)).finished.notice == ""
    stand.fail("fast-other")
    finished = (await stand.complete(locale=locale)).finished
    assert (finished.tier, finished.notice) == (BASIC, notice)


# What providers do wrong without harm


@pytest.mark.parametrize(
    "how",
    [
        {"fault": "malformed"},
        {"fault": "torn_token"},
        {"fault": "no_end_mark"},
        {"fault": "no_finish"},
        {"fault": "whole"},
        {"bytes_a_write": 1},
        {"line_end": "\r\n"},
        {"line_end": "\r\n", "bytes_a_write": 3},
        {"line_end": "\r", "bytes_a_write": 1},
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_good_answer_is_not_lost_to_bad_manners(
    stand: Stand, how: dict[str, Any], streamed: bool
) -> None:
    """ROU-5."""
    text = "Três consultas: ação 😀 concluída"
    stand.fail("fast", **{"fault": "none", "text": text, **how})
    if streamed:
        told, finished = await told_by(stand.stream())
    else:
        answer = await stand.complete()
        told, finished = answer.content, answer.finished
    assert told == text
    assert outcomes(finished.attempts) == [("fast", "SUCCEEDED")]


# Streams


async def told_by(stream: Any) -> tuple[str, pb.Finished]:
    """The deltas joined, and the end; checks the order that the contract gives them."""
    events = [event async for event in stream]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    return "".join(event.delta.content for event in events[1:-1]), events[-1].finished


async def test_a_stream_starts_tells_and_finishes(stand: Stand) -> None:
    """ROU-5, ROU-6."""
    stand.fail("fast", "none", text="one two three", token_seconds=0.01)
    events = [event async for event in stand.stream()]
    assert (events[0].started.model_used, events[0].started.tier) == ("fast", SPEED)
    assert [e.delta.content for e in events[1:-1]] == ["one", " two", " three"]
    assert events[-1].finished.model_used == "fast"


@pytest.mark.parametrize("fault", ["disconnect", "stall", "truncate", "error_event"])
@pytest.mark.parametrize("second", ["none", "repeat"])
async def test_a_broken_stream_is_finished_by_the_next_candidate_without_a_seam(
    stand: Stand, fault: str, second: str
) -> None:
    """ROU-5: whether the next one goes on or says it all again."""
    stand.fail("fast", fault, text="The clinic had twelve", after_tokens=3)
    stand.fail("fast-other", second, text=" thirteen visits.", token_seconds=0.001)
    told, finished = await told_by(stand.stream())
    assert told == "The clinic had thirteen visits."
    assert finished.failover
    assert finished.model_used == "fast-other"
    assert [o for _, o in outcomes(finished.attempts)][-1] == "SUCCEEDED"
    asked = stand.two.seen("fast-other").bodies[0]["messages"]
    assert asked[1] == {"role": "assistant", "content": "The clinic had"}
    assert finished.usage.estimated


async def test_a_failure_before_the_first_text_is_never_seen(stand: Stand) -> None:
    """ROU-5: the stream starts with the model that answers."""
    stand.fail("fast", "hang_after_head")
    events = [event async for event in stand.stream(prompt="hello")]
    assert events[0].started.model_used == "fast-other"


async def test_a_stream_that_nobody_can_finish_ends_with_a_status(stand: Stand) -> None:
    """ROU-5: what came is no whole answer, and is not called one."""
    stand.fail("small", "disconnect", text="one two three", after_tokens=1)
    seen = []
    async with refused() as refusal:
        async for event in stand.stream(tiers=(BASIC,)):
            seen.append(event.WhichOneof("event"))
    assert seen == ["started", "delta"]
    assert refusal.reason == "NO_MODEL_AVAILABLE"
    assert refusal.attempts == [("small", "CONNECTION_ERROR")]


async def test_a_slow_reader_is_no_stall(tmp_path: Path, tokens: Any, store: str) -> None:
    """ROU-5: more than the sockets hold, read with a pause that is longer than a stall."""
    more = "tasks: {CHAT: {stall_seconds: 0.3}}"
    text = " ".join("😀" * 8000 for _ in range(200))
    async with opened_stand(tmp_path, tokens, store) as stand:
        longer = "context_tokens: 200000, max_output_tokens: 131072"
        stand.write_catalogue(
            more, **{"provider: one, context_tokens: 4000": f"provider: one, {longer}"}
        )

        async def is_longer() -> bool:
            return (await stand.models())["fast"].context_tokens == 200_000

        await stand.eventually(is_longer)
        stand.fail("fast", "none", text=text, token_seconds=1e-9)
        stream = stand.stream(task="CHAT")
        told = []
        async for event in stream:
            told.append(event.delta.content)
            if len(told) == 2:
                await asyncio.sleep(1)
        assert "".join(told) == text
        assert outcomes(event.finished.attempts) == [("fast", "SUCCEEDED")]


# Deadlines and cancelling


async def test_the_callers_deadline_is_not_outlived(stand: Stand) -> None:
    """ROU-8: the provider's call is cut too."""
    stand.fail("fast", "hang")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stand.complete(timeout=0.5, excluded_models=["fast-other", "small", "deep"])
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await stand.one.until("fast", "running", 0)
    assert stand.asked("fast-other") == 0


async def test_the_deadline_is_divided_so_that_the_last_candidate_still_has_time(
    stand: Stand,
) -> None:
    """ROU-8: three are silent, the fourth answers, in less than any one of them may be silent."""
    for model in ("fast", "fast-other", "small"):
        stand.fail(model, "hang")
    finished = (await stand.complete(timeout=1.1)).finished
    assert outcomes(finished.attempts) == [
        ("fast", "FIRST_TOKEN_TIMEOUT"),
        ("fast-other", "FIRST_TOKEN_TIMEOUT"),
        ("small", "FIRST_TOKEN_TIMEOUT"),
        ("deep", "SUCCEEDED"),
    ]


async def test_a_callers_haste_is_not_held_against_a_provider(stand: Stand) -> None:
    """ROU-4, ROU-8: a fifth of a second says nothing about one that is given 1.2 s."""
    stand.fail("fast", "none", first_token_seconds=0.6)
    for _ in range(4):
        answer = await stand.complete(timeout=0.4)
        assert outcomes(answer.finished.attempts)[0] == ("fast", "FIRST_TOKEN_TIMEOUT")
    assert (await stand.complete()).finished.model_used == "fast"


async def test_what_was_tried_is_told_before_the_deadline_ends_it(stand: Stand) -> None:
    """ROU-6, ROU-8."""
    stand.fail("fast", "hang")
    stand.fail("fast-other", "hang")
    async with refused() as refusal:
        await stand.complete(timeout=1, excluded_models=["small", "deep"])
    assert refusal.reason == "DEADLINE_EXCEEDED"
    assert refusal.attempts == [("fast", "FIRST_TOKEN_TIMEOUT"), ("fast-other", "CANCELLED")]


@pytest.mark.parametrize("key", ["", "0b5c2f8e-3a64-4f0e-9d57-6c1f2e8a7b10"])
async def test_cancelling_the_call_cancels_the_providers_and_is_accounted_for(
    stand: Stand, key: str
) -> None:
    """ROU-6, ROU-8: with an idempotency key too, when nobody else waits for the answer."""
    stand.fail("fast", "stall", text="one two three", after_tokens=2)
    stream = stand.stream(idempotency_key=key)
    seen = 0
    async for event in stream:
        seen += event.WhichOneof("event") == "delta"
        if seen:
            break
    stream.cancel()
    await stand.one.until("fast", "cut_by_caller", 1)
    spent = await stand.eventually(lambda: stand.spending(user_id=USER))
    assert spent["fast"].attempts == 1
    assert spent["fast"].usage.estimated
    assert stand.asked("fast-other") == 0


# A JSON Schema


async def test_an_answer_satisfies_the_schema(stand: Stand) -> None:
    """ROU-7."""
    answer = await stand.complete(schema=SCHEMA)
    assert json.loads(answer.content) == {"verb": "read", "count": 3}
    imposed = stand.one.seen("fast").bodies[0]["response_format"]["json_schema"]["schema"]
    assert imposed == SCHEMA


@pytest.mark.parametrize(
    "text",
    [
        '{"verb": "drop", "count": 3}',
        '{"verb": "read", "count": 2}',
        '{"verb": "read", "count": 3, "more": 1}',
        '{"verb": "read", "count": 3',
        "I would read three.",
        '{"verb": "read", "count": NaN}',
    ],
)
async def test_what_does_not_satisfy_the_schema_is_a_failed_attempt(
    stand: Stand, text: str
) -> None:
    """ROU-7: it was billed all the same (ROU-6)."""
    stand.fail("fast", "none", text=text)
    answer = await stand.complete(schema=SCHEMA)
    assert json.loads(answer.content) == {"verb": "read", "count": 3}
    assert outcomes(answer.finished.attempts) == [
        ("fast", "INVALID_ANSWER"),
        ("fast-other", "SUCCEEDED"),
    ]
    assert set(await stand.spending()) == {"fast", "fast-other"}


async def test_a_fenced_answer_is_taken_out_of_its_fence(stand: Stand) -> None:
    """ROU-7."""
    stand.fail("fast", "none", text='```json\n{"verb": "read", "count": 7}\n```')
    assert (await stand.complete(schema=SCHEMA)).content == '{"verb": "read", "count": 7}'


async def test_a_stream_with_a_schema_tells_only_what_satisfies_it(stand: Stand) -> None:
    """ROU-5, ROU-7."""
    stand.fail("fast", "none", text='{"verb": "drop"}', token_seconds=0.01)
    told, finished = await told_by(stand.stream(schema=SCHEMA))
    assert json.loads(told) == {"verb": "read", "count": 3}
    assert finished.failover


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"properties": {"a": {"pattern": "("}}},
        {"required": "verb"},
    ],
)
async def test_a_schema_that_is_none_is_refused(stand: Stand, schema: dict[str, Any]) -> None:
    """ROU-7: also one that points outside itself."""
    async with refused() as refusal:
        await stand.complete(schema=schema)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCHEMA_INVALID")
    assert stand.asked("fast") == 0


# The same request again


async def test_the_same_key_at_the_same_time_is_answered_once(stand: Stand) -> None:
    """ROU-6: ten at once, one call of the provider, one bill."""
    stand.fail("fast", "none", first_token_seconds=0.2)
    key = str(uuid.uuid4())
    answers = await asyncio.gather(*(stand.complete(idempotency_key=key) for _ in range(10)))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert stand.asked("fast") == 1
    assert (await stand.spending())["fast"].attempts == 1
    again = await stand.complete(idempotency_key=key)
    assert again == answers[0]
    assert stand.asked("fast") == 1


async def test_one_who_goes_away_does_not_take_the_answer_from_the_others(stand: Stand) -> None:
    """ROU-8."""
    stand.fail("fast", "none", first_token_seconds=0.4)
    key = str(uuid.uuid4())
    first = asyncio.ensure_future(stand.complete(idempotency_key=key))
    await stand.one.until("fast", "running", 1)
    second = asyncio.ensure_future(stand.complete(idempotency_key=key))
    await asyncio.sleep(0.05)
    first.cancel()
    assert (await second).finished.model_used == "fast"


async def test_a_key_is_for_one_request(stand: Stand) -> None:
    """ROU-6."""
    key = str(uuid.uuid4())
    await stand.complete(idempotency_key=key)
    async with refused() as refusal:
        await stand.complete(idempotency_key=key, prompt="another")
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "idempotency_key" in refusal.status.message


async def test_a_failure_is_not_kept(stand: Stand) -> None:
    """ROU-6."""
    key = str(uuid.uuid4())
    stand.fail("small", "status", status=500)
    async with refused():
        await stand.complete(idempotency_key=key, tiers=(BASIC,))
    stand.two.behave_well("small")
    answer = await stand.complete(idempotency_key=key, tiers=(BASIC,))
    assert answer.finished.model_used == "small"


# Providers that keep failing, and busy ones


async def test_a_provider_that_keeps_failing_is_taken_out_and_comes_back(
    tmp_path: Path, tokens: Any, store: str
) -> None:
    """ROU-4: closed, open, half-open until two probes were answered, closed."""
    circuit = "circuit: {failures_in_a_row: 2, rest_seconds: 0.5}"
    async with opened_stand(tmp_path, tokens, store, more=circuit) as stand:
        stand.fail("fast")
        for _ in range(4):
            assert (await stand.complete()).finished.model_used == "fast-other"
        assert stand.asked("fast") == 2
        model = (await stand.models())["fast"]
        if model.circuit == pb.CIRCUIT_STATE_OPEN:
            assert model.HasField("retry_at")
        stand.one.behave_well("fast")

        async def is_back() -> bool:
            return (await stand.complete()).finished.model_used == "fast"

        await stand.eventually(is_back)
        assert (await stand.models())["fast"].circuit == pb.CIRCUIT_STATE_HALF_OPEN
        assert await is_back()
        assert (await stand.models())["fast"].circuit == pb.CIRCUIT_STATE_CLOSED


async def test_with_all_out_the_one_that_has_rested_longest_is_tried(
    tmp_path: Path, tokens: Any, store: str
) -> None:
    """ROU-4."""
    circuit = "circuit: {failures_in_a_row: 1, rest_seconds: 100, longest_rest_seconds: 100}"
    async with opened_stand(tmp_path, tokens, store, more=circuit) as stand:
        for model in ("fast", "fast-other", "small", "deep"):
            stand.fail(model)
        async with refused():
            await stand.complete()
        stand.one.behave_well("fast")
        answer = await stand.complete()
        assert answer.finished.model_used == "fast"
        skipped = outcomes(answer.finished.attempts)[:-1]
        assert skipped == [(m, "SKIPPED") for m in ("fast", "fast-other", "small", "deep")]


async def test_a_full_provider_is_passed_over_and_nobody_queues(stand: Stand) -> None:
    """ROU-4: provider two takes two calls at a time."""
    stand.fail("small", "none", first_token_seconds=0.8)
    running = [asyncio.ensure_future(stand.complete(tiers=(BASIC,))) for _ in range(2)]
    await stand.two.until("small", "running", 2)
    async with refused() as refusal:
        await stand.complete(tiers=(BASIC,))
    assert refusal.reason == "NO_MODEL_AVAILABLE"
    assert refusal.attempts == [("small", "SKIPPED")]
    assert stand.asked("small") == 2
    await asyncio.gather(*running)
    assert (await stand.complete(tiers=(BASIC,))).finished.model_used == "small"


# The catalogue


async def test_the_models_are_listed_by_tier_with_their_prices(stand: Stand) -> None:
    """ROU-1."""
    listed = await stand.stub.ListModels(
        pb.ListModelsRequest(), timeout=5, metadata=stand.metadata()
    )
    assert [model.id for model in listed.models] == ["small", "fast", "fast-other", "deep"]
    fast = listed.models[1]
    assert (fast.provider, fast.context_tokens, fast.circuit) == (
        "one",
        4000,
        pb.CIRCUIT_STATE_CLOSED,
    )
    assert (fast.cached_input_price.units, fast.cached_input_price.nanos) == (0, 300_000_000)
    only = await stand.stub.ListModels(
        pb.ListModelsRequest(model_tiers=[DEEP]), timeout=5, metadata=stand.metadata()
    )
    assert [model.id for model in only.models] == ["deep"]


async def test_a_route_is_explained_without_asking_anybody(stand: Stand) -> None:
    """ROU-2."""
    explained = await stand.stub.ExplainRoute(
        pb.ExplainRouteRequest(request=request(tiers=(BASIC, SPEED))),
        timeout=5,
        metadata=stand.metadata(),
    )
    told = [(one.model, one.eligible) for one in explained.candidates]
    assert told == [("fast", True), ("fast-other", True), ("small", True), ("deep", False)]
    assert explained.candidates[3].explanation == "The plan has no MODEL_ADV_REASON."
    assert explained.candidates[3].reason == pb.CANDIDATE_REASON_TIER_NOT_GRANTED
    first = explained.candidates[0]
    assert (first.weight, first.context_tokens, first.reason) == (1, 4000, 1)
    assert first.capabilities == pb.Capabilities(
        structured_output=pb.STRUCTURED_OUTPUT_JSON_SCHEMA, streaming=True
    )
    assert stand.asked("fast") == 0


async def test_a_route_is_explained_as_it_would_be_taken_now(stand: Stand) -> None:
    """ROU-2, ROU-4: who is taken out or busy, until when, and who lacks what is wanted."""
    stand.write_catalogue(**{"weight: 0": "weight: 0, whole_answer_seconds: 9"})

    async def explained(**fields: Any) -> dict[str, pb.Candidate]:
        answer = await stand.stub.ExplainRoute(
            pb.ExplainRouteRequest(**fields), timeout=5, metadata=stand.metadata()
        )
        return {one.model: one for one in answer.candidates}

    async def is_read() -> bool:
        return not (await stand.models())["fast-other"].capabilities.streaming

    await stand.eventually(is_read)
    streamed = await explained(request=request(), streamed=True)
    assert list(streamed["fast-other"].lacking) == [pb.CAPABILITY_STREAMING]
    assert not (await explained(request=request()))["fast-other"].lacking
    stand.fail("fast", headers={"Retry-After": "60"}, status=429)
    await stand.complete()
    fast = (await explained(request=request()))["fast"]
    assert (fast.eligible, fast.reason) == (False, pb.CANDIDATE_REASON_TAKEN_OUT)
    assert fast.circuit == pb.CIRCUIT_STATE_OPEN
    assert 50 < fast.retry_at.ToSeconds() - time.time() < 61


async def test_a_provider_that_cannot_stream_is_asked_for_one_piece(stand: Stand) -> None:
    """ROU-5: it has the time that it is given, and its answer is one to a stream as well."""
    stand.write_catalogue(
        **{
            "provider: one, context_tokens: 4000": "provider: one, context_tokens: 4000,"
            " whole_answer_seconds: 5"
        }
    )

    async def is_read() -> bool:
        return not (await stand.models())["fast"].capabilities.streaming

    await stand.eventually(is_read)
    stand.fail("fast", "whole", text="all at once", first_token_seconds=1.5)
    answer = await stand.complete()
    assert (answer.content, outcomes(answer.finished.attempts)) == (
        "all at once",
        [("fast", "SUCCEEDED")],
    )
    asked = stand.one.seen("fast").bodies[-1]
    assert asked["stream"] is False
    assert "stream_options" not in asked
    only = {"excluded_models": ["fast-other"], "tiers": (SPEED,)}
    texts = [event.delta.content async for event in stand.stream(**only)]
    assert "".join(texts) == "all at once"


async def test_a_changed_catalogue_takes_effect_and_a_wrong_one_does_not(stand: Stand) -> None:
    """ROU-1: without a restart, without a lost request."""

    async def has_new() -> bool:
        return "new" in await stand.models()

    async def complained() -> bool:
        return any("line" in line and "tier" in line for line in stand.log_lines)

    stand.write_catalogue(f"  new: {{tier: MODEL_BASIC, {REST}}}")
    await stand.eventually(has_new)
    stand.write_catalogue(f"  newer: {{tier: MODEL_NONE, {REST}}}")
    await stand.eventually(complained)
    assert "new" in await stand.models()
    stand.catalogue_file.unlink()
    assert (await stand.complete()).finished.model_used == "fast"


async def test_a_key_is_renewed_from_its_file_without_a_restart(
    stand: Stand, tmp_path: Path
) -> None:
    """ROU-1, ROU-4: at once, also when the old one had taken the provider out; never shown."""
    file = tmp_path / "key"
    file.write_text("sk-old\n")
    stand.write_catalogue(**{"api_key_env: KEY_ONE": f'api_key_file: "{file}"'})

    async def asked_with(key: str) -> bool:
        await stand.complete()
        return stand.one.seen("fast").headers[-1]["Authorization"] == f"Bearer {key}"

    await stand.eventually(lambda: asked_with("sk-old"))
    stand.fail("fast", status=401)
    assert (await stand.complete()).finished.model_used == "fast-other"
    assert (await stand.models())["fast"].circuit == pb.CIRCUIT_STATE_OPEN
    stand.one.behave_well("fast")
    file.write_text("sk-new\n")
    await stand.eventually(lambda: asked_with("sk-new"))
    assert (await stand.complete()).finished.model_used == "fast"
    spans = "".join(span.to_json() for span in stand.spans.get_finished_spans())
    assert "sk-" not in spans + "".join(stand.log_lines)


async def test_a_first_call_finds_its_connection_open(stand: Stand) -> None:
    """ROU-1: to a provider of the start, and to one that a reload brings."""

    async def is_listed() -> bool:
        return stand.one.listed > 0

    await stand.eventually(is_listed)
    await stand.complete()
    assert len(stand.one.connections) == 1
    elsewhere = stand.one.base_url.replace("127.0.0.1", "localhost")
    stand.one.listed = 0
    stand.write_catalogue(**{f'base_url: "{stand.one.base_url}"': f'base_url: "{elsewhere}"'})
    await stand.eventually(is_listed)
    await stand.complete()
    assert len(stand.one.connections) == 2
    assert stand.asked("fast") == 2


async def test_a_provider_that_will_not_do_is_told_of_before_anybody_needs_it(
    stand: Stand,
) -> None:
    """ROU-3: one that refuses the key, and one that is not there; calls go where they can."""
    stand.two.list_status = 401
    closed = "http://127.0.0.1:1/v1"
    elsewhere = stand.two.base_url.replace("127.0.0.1", "localhost")
    stand.write_catalogue(
        **{
            f'base_url: "{stand.one.base_url}"': f'base_url: "{closed}"',
            f'base_url: "{stand.two.base_url}"': f'base_url: "{elsewhere}"',
        }
    )

    async def is_told() -> bool:
        told = "\n".join(stand.log_lines)
        return "one cannot be reached yet" in told and "two refuses its key" in told

    await stand.eventually(is_told)
    assert (await stand.complete()).finished.model_used == "fast-other"


async def test_a_reload_drops_no_call(stand: Stand) -> None:
    """ROU-1: one that runs is answered by a model that the catalogue no longer has."""
    stand.fail("fast", "none", text="one two three", token_seconds=0.2)
    running = asyncio.ensure_future(stand.complete())
    await stand.one.until("fast", "running", 1)
    stand.write_catalogue(**{"  fast:": "  renamed:", "provider_model: fast": ""})

    async def is_gone() -> bool:
        return "fast" not in await stand.models()

    await stand.eventually(is_gone)
    assert not running.done()
    assert (await running).content == "one two three"


async def test_a_wrong_catalogue_stops_the_start(tmp_path: Path, tokens: Any) -> None:
    """ROU-1."""
    with pytest.raises(CatalogueWrong, match=r"catalogue.yaml: line 2: models: must name"):
        async with opened_stand_with(tmp_path, tokens, "\nmodels: {}\n"):
            pass
    with pytest.raises(CatalogueWrong, match="cannot be read"):
        async with opened_stand_with(tmp_path, tokens, None):
            pass


@asynccontextmanager
async def opened_stand_with(folder: Path, tokens: Any, text: str | None) -> AsyncIterator[None]:
    path = folder / "catalogue.yaml"
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)
    telemetry = Telemetry(
        TracerProvider(shutdown_on_exit=False).get_tracer("test"),
        NoOpMeter("test"),
        logging.Logger("test"),
    )
    settings = Settings(
        catalogue_file=path,
        database_url="postgresql://nobody@/nowhere?host=/nowhere",
        spool_directory=folder / "spool",
        **tokens.settings,
    )
    async with running(settings, telemetry, {}):
        yield


# Accounts


async def test_spending_is_told_by_user_clinic_and_model(stand: Stand) -> None:
    """ROU-6."""
    await stand.complete(tiers=(BASIC,))
    await stand.complete(tiers=(SPEED,), user_id=str(uuid.uuid4()))
    assert set(await stand.spending()) == {"small", "fast"}
    assert set(await stand.spending(user_id=USER)) == {"small"}
    assert set(await stand.spending(clinic_id=CLINIC)) == {"small", "fast"}
    assert await stand.spending(clinic_id=str(uuid.uuid4())) == {}


async def test_a_range_of_days_the_wrong_way_round_is_refused(stand: Stand) -> None:
    """ROU-6: as is one with a day that no calendar has."""
    for start, end in (("2026-02-01", "2026-01-01"), ("2026-02-30", "2026-03-01"), ("", "")):
        async with refused() as refusal:
            await stand.stub.GetSpending(
                pb.GetSpendingRequest(start_date=start, end_date=end),
                timeout=5,
                metadata=stand.metadata(),
            )
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


# Who may ask, and what is written down


async def test_end_users_do_not_reach_models_past_the_gateway(stand: Stand, tokens: Any) -> None:
    """ALL-3."""
    for roles, code in (
        (("user",), grpc.StatusCode.PERMISSION_DENIED),
        (("admin",), None),
    ):
        stand.token = tokens.user(roles=roles)
        if code is None:
            await stand.complete()
            continue
        async with refused() as refusal:
            await stand.complete()
        assert (refusal.code, refusal.reason) == (code, "ROLE_REQUIRED")
        async with refused() as refusal:
            async for _ in stand.stream():
                pass
        assert refusal.reason == "ROLE_REQUIRED"


async def test_without_a_token_nothing_is_told(stand: Stand) -> None:
    """ALL-3."""
    async with refused() as refusal:
        await stand.stub.ListModels(pb.ListModelsRequest(), timeout=5)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tiers": ()}, "model_tiers"),
        ({"tiers": (77,)}, "model_tiers"),
        ({"prompt": ""}, "messages[0].content"),
        ({"prompt": "x" * 200_001}, "messages[0].content"),
        ({"temperature": 2.5}, "temperature"),
        ({"idempotency_key": "again"}, "idempotency_key"),
        ({"user_id": "me"}, "user_id"),
        ({"locale": "??"}, "locale"),
        ({"max_output_tokens": 200_000}, "max_output_tokens"),
        ({"excluded_models": [f"m{n}" for n in range(33)]}, "excluded_models"),
    ],
)
async def test_a_field_that_is_wrong_is_named(
    stand: Stand, fields: dict[str, Any], named: str
) -> None:
    """ALL-2: and nobody is asked."""
    async with refused() as refusal:
        await stand.complete(**fields)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert named in refusal.status.message
    assert stand.asked("fast") == 0


async def test_an_attempt_is_a_span_without_a_word_of_the_texts(stand: Stand) -> None:
    """ALL-4, LOG-6: one trace from the caller to the provider."""
    stand.fail("fast", "status", status=500)
    trace = "0af7651916cd43dd8448eb211c80319c"
    traceparent = ("traceparent", f"00-{trace}-b7ad6b7169203331-01")
    await stand.stub.Complete(
        request(schema=SCHEMA), timeout=10, metadata=[*stand.metadata(), traceparent]
    )
    spans = {span.name: span for span in stand.spans.get_finished_spans()}
    failed, good = attributes_of(spans["chat fast"]), attributes_of(spans["chat fast-other"])
    assert good["gen_ai.operation.name"] == "chat"
    assert (good["gen_ai.provider.name"], good["gen_ai.request.model"]) == ("two", "fast-other")
    assert good["gen_ai.response.finish_reasons"] == ("stop",)
    assert good["gen_ai.usage.output_tokens"] == 4
    assert (failed["error.type"], failed["http.response.status_code"]) == ("SERVER_ERROR", 500)
    assert "gen_ai.response.finish_reasons" not in failed
    sent = stand.two.seen("fast-other").headers[0]["traceparent"]
    assert sent.split("-")[1] == trace
    everything = "".join(span.to_json() for span in stand.spans.get_finished_spans())
    assert PROMPT not in everything
    assert '"verb"' not in everything


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})
