"""What the router writes and reads, held against the types of the openai package."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDelta
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.completion_usage import CompletionUsage, PromptTokensDetails
from pydantic import TypeAdapter

from services.router.catalog import read_catalogue
from services.router.chat import AnswerReader, request_body
from services.router.nouns import Ask, Tokens, Turn

REQUEST: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)
CATALOGUE = """
providers: {{p: {{base_url: "http://localhost:1/v1", output_limit_field: {limit}}}}}
models:
  m:
    {{tier: MODEL_BASIC, provider: p, context_tokens: 999, structured_output: {output},
      continuation: {continuation}, prices: {{input: 1, output: 1}}}}
"""
SCHEMA = {"type": "object", "properties": {"verb": {"type": "string"}}}


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("output", ["json_schema", "json_object", "prompt"])
@pytest.mark.parametrize("continuation", ["prefill", "instruct"])
@pytest.mark.parametrize("said", ["", "It was"])
def test_requests_are_of_the_protocols_types(
    limit: str, output: str, continuation: str, said: str
) -> None:
    """ROU-1: whatever the catalogue says of a provider, and also when an answer is taken up."""
    text = CATALOGUE.format(limit=limit, output=output, continuation=continuation)
    (model,) = read_catalogue(text, {}).models
    ask = Ask(
        task="CHAT",
        turns=(Turn("system", "Be brief."), Turn("user", "What was it?")),
        tiers=frozenset({"MODEL_BASIC"}),
        schema=None if said else SCHEMA,
        temperature=0.5,
    )
    body = json.loads(request_body(model, ask, said))
    read = REQUEST.validate_python(body, strict=False)
    assert set(read) == set(body), "a field that the protocol does not know"
    assert read["stream"] is True


def test_chunks_of_the_protocols_types_are_read_whole() -> None:
    """ROU-5, ROU-6: the text, once, and the tokens, the cached ones told apart."""
    usage = CompletionUsage(
        prompt_tokens=20,
        completion_tokens=3,
        total_tokens=23,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=8),
    )
    chunks = [
        chunk([Choice(index=0, delta=ChoiceDelta(role="assistant", content=""))]),
        chunk([Choice(index=0, delta=ChoiceDelta(content="Olá, "))]),
        chunk([Choice(index=0, delta=ChoiceDelta(content="você."))]),
        chunk([Choice(index=0, delta=ChoiceDelta(), finish_reason="stop")]),
        chunk([], usage),
    ]
    events = [f"data: {each.model_dump_json()}\n\n" for each in chunks]
    reader = AnswerReader()
    text = reader.feed("".join([*events, "data: [DONE]\n\n"]).encode())
    reader.conclude()
    assert text == "Olá, você."
    assert reader.finished
    assert reader.tokens == Tokens(input=20, cached_input=8, output=3, reasoning=0)


def chunk(choices: list[Choice], usage: CompletionUsage | None = None) -> ChatCompletionChunk:
    return ChatCompletionChunk(
        id="c", choices=choices, created=1, model="m", object="chat.completion.chunk", usage=usage
    )
