"""What providers write, read with suspicion."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.catalog import read_catalogue
from services.router.chat import (
    AnswerReader,
    fault_from_response,
    request_body,
    retry_after,
    tokens_from,
)
from services.router.nouns import Ask, Faulty, Outcome, Tokens, Turn

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
MODEL = read_catalogue(
    """
providers: {p: {base_url: "http://localhost:1/v1", output_limit_field: max_completion_tokens}}
models:
  m:
    {tier: MODEL_BASIC, provider: p, context_tokens: 999, accepts_temperature: false,
      structured_output: prompt, continuation: prefill, prices: {input: 1, output: 1}}
""",
    {},
).models[0]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:09 GMT"}, 9),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    """ROU-3, ROU-4: seconds, a date, milliseconds; nonsense is nothing."""
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "error", "outcome", "here_only"),
    [
        (400, {"message": "bad"}, Outcome.REQUEST_REJECTED, False),
        (422, {"message": "bad"}, Outcome.REQUEST_REJECTED, False),
        (400, {"code": "context_length_exceeded"}, Outcome.CONTEXT_TOO_LONG, True),
        (400, {"type": "exceed_context_size_error"}, Outcome.CONTEXT_TOO_LONG, True),
        (
            400,
            {"message": "This model's maximum context length is 9"},
            Outcome.CONTEXT_TOO_LONG,
            True,
        ),
        (413, {}, Outcome.CONTEXT_TOO_LONG, True),
        (400, {"code": "content_filter"}, Outcome.CONTENT_REFUSED, False),
        (403, {"message": "flagged by moderation"}, Outcome.CONTENT_REFUSED, False),
        (400, {"message": "API key not valid."}, Outcome.KEY_REJECTED, True),
        (401, {}, Outcome.KEY_REJECTED, True),
        (402, {}, Outcome.KEY_REJECTED, True),
        (404, {"code": "model_not_found"}, Outcome.REQUEST_REJECTED, True),
        (400, {"message": "response_format is not supported"}, Outcome.REQUEST_REJECTED, True),
        (429, {"message": "context length of the queue"}, Outcome.RATE_LIMITED, True),
        (500, {"code": "content_filter"}, Outcome.SERVER_ERROR, True),
    ],
)
def test_a_status_and_its_body_are_told_apart(
    status: int, error: dict[str, Any], outcome: Outcome, here_only: bool
) -> None:
    """ROU-3."""
    body = json.dumps({"error": error}).encode()
    fault = fault_from_response(status, {}, body, NOW)
    assert (fault.outcome, fault.here_only, fault.http_status) == (outcome, here_only, status)


@given(st.integers(300, 599), st.binary(max_size=60))
def test_any_error_body_becomes_a_fault_that_repeats_nothing_of_it(
    status: int, body: bytes
) -> None:
    """ALL-2: a code is a plain word or nothing."""
    fault = fault_from_response(status, {}, body, NOW)
    assert fault.code == "" or fault.code.replace("_", "").isalpha()


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, Tokens(9, 0, 4, 0)),
        (
            {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 20}},
            Tokens(9, 9, 0, 0),
        ),
        (
            {"prompt_tokens": 9, "prompt_cache_hit_tokens": 5, "completion_tokens": 1},
            Tokens(9, 5, 1, 0),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Tokens(9, 0, 4, 3),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 16,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Tokens(9, 0, 7, 3),
        ),
        ({"prompt_tokens": -1, "completion_tokens": "4"}, None),
        ({"prompt_tokens": 1e300}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_read_as_providers_mean_it(usage: object, tokens: Tokens | None) -> None:
    """ROU-6: reasoning within or beside the completion, cached under two names."""
    assert tokens_from(usage) == tokens


def chunk(**choice: Any) -> bytes:
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def read(*pieces: bytes) -> str:
    reader = AnswerReader()
    return "".join(reader.feed(piece) for piece in pieces) + reader.end()


@pytest.mark.parametrize(
    ("wire", "outcome"),
    [
        (b"", Outcome.CONNECTION_ERROR),
        (chunk(delta={"content": "half"}), Outcome.CONNECTION_ERROR),
        (chunk(delta={}, finish_reason="stop"), Outcome.INVALID_ANSWER),
        (b"data: [DONE]\n\n", Outcome.INVALID_ANSWER),
        (b'{"choices": []}', Outcome.INVALID_ANSWER),
        (b'{"error": {"message": "no"}}', Outcome.SERVER_ERROR),
        (b"[1]", Outcome.INVALID_ANSWER),
        (b"<html>", Outcome.INVALID_ANSWER),
        (chunk(delta={"refusal": "no"}, finish_reason="stop"), Outcome.CONTENT_REFUSED),
        (chunk(delta={}, finish_reason="content_filter"), Outcome.CONTENT_REFUSED),
        (chunk(delta={}, finish_reason="SAFETY"), Outcome.CONTENT_REFUSED),
        *(
            (chunk(delta={"content": "half"}, finish_reason=reason), Outcome.SERVER_ERROR)
            for reason in ("abort", "error", "insufficient_system_resource", "who knows")
        ),
        (chunk(delta={"tool_calls": [{}]}, finish_reason="tool_calls"), Outcome.INVALID_ANSWER),
        (b'data: {"choices": [{"delta": {"content": "tor\n\n', Outcome.CONNECTION_ERROR),
        (b'data: {"error": {"code": 429}}\n\n', Outcome.RATE_LIMITED),
        (b'data: {"error": {"code": "context_length_exceeded"}}\n\n', Outcome.CONTEXT_TOO_LONG),
    ],
)
def test_what_is_no_whole_answer_never_passes_for_one(wire: bytes, outcome: Outcome) -> None:
    """ROU-5."""
    with pytest.raises(Faulty) as raised:
        read(wire)
    assert raised.value.fault.outcome is outcome


@pytest.mark.parametrize(
    "wire",
    [
        chunk(delta={"content": "yes"}, finish_reason="stop"),
        chunk(delta={"content": "yes"}) + b"data: [DONE]\n\n",
        chunk(delta={"content": [{"type": "text", "text": "yes"}]}) + b"data: [DONE]",
        b'data: {"nothing": 1}\n\ndata: 7\n\n'
        + chunk(delta={"content": "yes"}, finish_reason="STOP"),
        b'{"choices": [{"message": {"content": "yes"}}]}',
        b'\n\n {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}',
        chunk(delta={"reasoning_content": "hm"})
        + chunk(delta={"content": "yes"}, finish_reason="stop"),
    ],
)
def test_a_whole_answer_is_read_in_all_its_forms(wire: bytes) -> None:
    """ROU-5."""
    assert read(wire) == "yes"


def test_text_that_came_before_a_fault_is_given_first() -> None:
    """ROU-5: what the next candidate goes on from is what the caller has seen."""
    reader = AnswerReader()
    wire = chunk(delta={"content": "half"}) + b'data: {"error": {"code": 500}}\n\n'
    assert reader.feed(wire) == "half"
    with pytest.raises(Faulty):
        reader.raise_fault()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(wire: bytes) -> None:
    """ROU-5: they are an answer or a fault, never another exception."""
    try:
        assert read(wire)
    except Faulty:
        return


def test_the_catalogue_says_how_a_provider_is_asked() -> None:
    """ROU-1, ROU-5, ROU-7: the limit's name, no temperature, the schema as words, a prefill."""
    ask = Ask(
        "CHAT",
        [Turn("user", "hi")],
        frozenset({"MODEL_BASIC"}),
        schema={"type": "object"},
        temperature=1.0,
        max_output_tokens=5,
    )
    body = json.loads(request_body(MODEL, ask, said="so far"))
    assert body["max_completion_tokens"] == 5
    assert "temperature" not in body
    assert "response_format" not in body
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert '{"type": "object"}' in body["messages"][0]["content"]
    assert body["messages"][-1]["content"] == "so far"
