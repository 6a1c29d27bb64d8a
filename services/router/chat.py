"""The chat-completions protocol that OpenAI-compatible providers speak. Pure: bytes in, text and
faults out.

What a provider writes is trusted for nothing: every value is looked at before it is used, and its
messages stay here.
"""

import email.utils
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.router.catalog import Model
from services.router.nouns import Ask, Blame, Fault, Faulty, Outcome, Tokens, Turn
from services.router.sse import EventStream, EventTooLong

MAX_ANSWER_CHARACTERS = 2 << 20
MAX_BODY_BYTES = 8 << 20
LONGEST_RETRY_AFTER_SECONDS = 3600.0
CHARACTERS_PER_TOKEN = 4
MOST_CHARACTERS_PER_TOKEN = 16
"""More than any answer has on average."""

SERVER_STATUSES = frozenset({408, 409, 425})
KEY_STATUSES = frozenset({401, 402, 403})
SPOKEN_STATUSES = frozenset({400, 403, 404, 413, 422})
"""Statuses that mean several things, told apart by the body."""

# OpenAI's words, and those that others pass through from the models behind them.
WHOLE_REASONS = frozenset(
    {"stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete", "completed", "done"}
)
CUT_REASONS = frozenset({"length", "max_tokens", "model_length", "max_output_tokens"})
REFUSED_REASONS = frozenset({"content_filter", "safety", "recitation", "refusal", "blocklist"})

CONTEXT_SIGNS = (
    "context_length_exceeded",
    "exceed_context_size",
    "context length",
    "context window",
    "maximum context",
    "context size",
    "prompt is too long",
    "input token count",
    "string_above_max_length",
)
CONTENT_SIGNS = (
    "content_filter",
    "content_policy",
    "responsibleaipolicyviolation",
    "content management policy",
    "moderation",
)
KEY_SIGNS = ("invalid_api_key", "api key not valid", "api_key_invalid", "invalid api key")
HERE_ONLY_SIGNS = ("model_not_found", "response_format", "unsupported_parameter", "does not exist")

SCHEMA_INSTRUCTION = (
    "Answer with one JSON value and nothing else: no explanation, no code fence. "
    "It must satisfy this JSON Schema: "
)
CONTINUE_INSTRUCTION = (
    "Your last message was cut off. Continue it exactly where it stopped, from the next character "
    "on. Do not repeat any of it, do not begin again, do not comment on this."
)


def request_body(model: Model, ask: Ask, said: str = "") -> bytes:
    """The body of the request; *said* is what the caller has seen already, to be continued
    (ROU-5).
    """
    body: dict[str, Any] = {
        "model": model.provider_model,
        "messages": [
            {"role": turn.role, "content": turn.content} for turn in _turns(model, ask, said)
        ],
        "stream": model.streams,
        model.provider.output_limit_field: output_limit(model, ask),
    }
    if model.streams:
        body["stream_options"] = {"include_usage": True}
    if ask.temperature is not None and model.accepts_temperature:
        body["temperature"] = ask.temperature
    if ask.schema is not None and model.structured_output != "prompt":
        body["response_format"] = _response_format(model, ask.schema)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def most_characters(model: Model, ask: Ask) -> int:
    """So long an answer is longer than was asked for: the model does not come to an end."""
    return min(MOST_CHARACTERS_PER_TOKEN * output_limit(model, ask), MAX_ANSWER_CHARACTERS)


def output_limit(model: Model, ask: Ask) -> int:
    return min(ask.max_output_tokens or model.max_output_tokens, model.max_output_tokens)


def _turns(model: Model, ask: Ask, said: str) -> list[Turn]:
    turns = list(ask.turns)
    if ask.schema is not None and model.structured_output != "json_schema":
        text = SCHEMA_INSTRUCTION + json.dumps(ask.schema, ensure_ascii=False)
        turns.insert(0, Turn("system", text))
    if said:
        turns.append(Turn("assistant", said))
        if model.continuation == "instruct":
            turns.append(Turn("user", CONTINUE_INSTRUCTION))
    return turns


def _response_format(model: Model, schema: dict[str, Any]) -> dict[str, Any]:
    if model.structured_output == "json_object":
        return {"type": "json_object"}
    named = {"name": "answer", "schema": schema, "strict": model.strict_schema}
    return {"type": "json_schema", "json_schema": named}


def estimated_tokens(ask: Ask, answer_characters: int) -> Tokens:
    """What was probably billed when the provider did not say: four characters a token."""
    return Tokens(
        input=math.ceil(ask.characters / CHARACTERS_PER_TOKEN),
        output=math.ceil(answer_characters / CHARACTERS_PER_TOKEN),
        estimated=True,
    )


def most_tokens(model: Model, ask: Ask) -> Tokens:
    """What may be billed at the most, but for the estimate of the prompt."""
    prompt = estimated_tokens(ask, 0)
    return Tokens(input=prompt.input, output=output_limit(model, ask), estimated=True)


def tokens_from(usage: object) -> Tokens | None:
    """The provider's `usage`, or None when it says nothing that can be used.

    Where a provider counts reasoning beside the completion instead of within, the total tells.
    """
    if not isinstance(usage, dict):
        return None
    prompt, output = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not prompt and not output:
        return None
    reasoning = _count(_within(usage, "completion_tokens_details", "reasoning_tokens"))
    cached = _count(_within(usage, "prompt_tokens_details", "cached_tokens"))
    cached = cached or _count(usage.get("prompt_cache_hit_tokens"))
    beside = reasoning and _count(usage.get("total_tokens")) == prompt + output + reasoning
    if beside or reasoning > output:
        output += reasoning
    return Tokens(prompt, min(cached, prompt), output, reasoning)


def _within(mapping: Mapping[str, Any], outer: str, inner: str) -> object:
    nested = mapping.get(outer)
    return nested.get(inner) if isinstance(nested, dict) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 40 else 0


def must_read_body(status: int) -> bool:
    """Say whether the status alone does not tell what it means."""
    return status in SPOKEN_STATUSES


def fault_from_response(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> Fault:
    """What an answer without an answer means (ROU-3)."""
    try:
        error: object = json.loads(body) if body else None
    except (ValueError, RecursionError):
        error = body[:4096].decode("utf-8", "replace")
    return fault_from_error(status, error, retry_after(headers, now))


def fault_from_error(status: int, error: object, rest: float | None = None) -> Fault:
    code, words = _error_words(error)
    outcome, here_only, blame = _meaning_of_words(status, words) or _meaning_of_status(status)
    return Fault(outcome, status, rest, here_only, blame, code)


Meaning = tuple[Outcome, bool, Blame]


def _meaning_of_status(status: int) -> Meaning:
    if status == 429:
        return Outcome.RATE_LIMITED, True, Blame.PROVIDER
    if status in SERVER_STATUSES or status >= 500:
        return Outcome.SERVER_ERROR, True, Blame.PROVIDER
    if status in KEY_STATUSES:
        return Outcome.KEY_REJECTED, True, Blame.PROVIDER
    if status == 413:
        return Outcome.CONTEXT_TOO_LONG, True, Blame.NOBODY
    if 400 <= status < 500 and status not in (404, 405, 410):
        return Outcome.REQUEST_REJECTED, False, Blame.NOBODY
    # No such model or path, a redirect: this entry of the catalogue is wrong, the next one may not
    # be.
    return Outcome.REQUEST_REJECTED, True, Blame.ENTRY


def _meaning_of_words(status: int, words: str) -> Meaning | None:
    if status not in SPOKEN_STATUSES or not words:
        return None
    if any(sign in words for sign in CONTEXT_SIGNS):
        return Outcome.CONTEXT_TOO_LONG, True, Blame.NOBODY
    if any(sign in words for sign in CONTENT_SIGNS):
        return Outcome.CONTENT_REFUSED, False, Blame.NOBODY
    if any(sign in words for sign in KEY_SIGNS):
        return Outcome.KEY_REJECTED, True, Blame.PROVIDER
    if any(sign in words for sign in HERE_ONLY_SIGNS):
        return Outcome.REQUEST_REJECTED, True, Blame.ENTRY
    return None


def _error_words(error: object) -> tuple[str, str]:
    """The error's code as a plain word (empty when it is none) and all its words in lower case."""
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, dict):
        error = error.get("error", error)
    if not isinstance(error, dict):
        return "", error.lower() if isinstance(error, str) else ""
    parts = [error.get(name) for name in ("code", "type", "message", "innererror")]
    words = " ".join(str(part) for part in parts if part is not None)[:4096].lower()
    named = next((p for p in parts[:2] if isinstance(p, str) and _is_word(p)), "")
    return named, words


def _is_word(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z_]{1,47}", text) is not None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait as the provider asks, at most an hour: `retry-after-ms`, or RFC 9110's
    seconds or date.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_RETRY_AFTER_SECONDS)
    written = headers.get("retry-after")
    seconds = _number(written)
    if seconds is None and written:
        seconds = _seconds_until(written, now)
    return None if seconds is None else min(seconds, LONGEST_RETRY_AFTER_SECONDS)


def _number(written: str | None) -> float | None:
    if written is None or not re.fullmatch(r"\s*\d{1,12}(\.\d{1,9})?\s*", written):
        return None
    return float(written)


def _seconds_until(written: str, now: datetime) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(written)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max((moment - now).total_seconds(), 0.0)


class AnswerReader:
    """Reads one answer out of the bytes of a response, streamed or whole.

    `feed` and `end` give text as it comes and raise Faulty for what cannot become an answer.
    """

    def __init__(self, most_characters: int = MAX_ANSWER_CHARACTERS) -> None:
        """*most_characters* is longer than any answer that was asked for: past it a model only
        repeats itself.
        """
        self._most_characters = most_characters
        self._index: object = None
        self.token_events = 0
        """How often the model said something, reasoning included: the sign of life that time-outs
        look for.
        """
        self.characters = 0
        self.finish_reason: str | None = None
        self.marked_end = False
        self.tokens: Tokens | None = None
        self.model = ""
        self._events: EventStream | None = None
        self._whole: list[bytes] = []
        self._received = 0
        self._refused = False
        self._fault: Fault | None = None

    @property
    def finished(self) -> bool:
        """The model said that it has finished; usage or the end mark may still come."""
        return self.finish_reason is not None

    @property
    def cut(self) -> bool:
        return self.finish_reason == "length"

    def feed(self, received: bytes) -> str:
        self.raise_fault()
        self._received += len(received)
        if self._received > MAX_BODY_BYTES:
            raise Faulty(Fault(Outcome.INVALID_ANSWER))
        if self._events is None and not self._whole:
            received = received.lstrip()
            if not received:
                return ""
            # An event stream has no line that begins with a brace: this provider answers in one
            # piece.
            if not received.startswith((b"{", b"[", b"<")):
                self._events = EventStream()
        if self._events is None:
            self._whole.append(received)
            return ""
        try:
            return self._texts(self._events.feed(received))
        except EventTooLong:
            raise Faulty(Fault(Outcome.INVALID_ANSWER)) from None

    def end(self) -> str:
        """The response is over: what is left of the text. Raises Faulty when the answer is not
        whole.
        """
        text = ""
        if self._events is not None and not self.marked_end:
            text = self._texts(self._events.end())
        elif self._whole:
            text = self._take_whole(b"".join(self._whole))
        self.conclude()
        return text

    def conclude(self) -> None:
        """Raise Faulty unless what came is a whole answer."""
        self.raise_fault()
        if self._refused:
            raise Faulty(_refusal("refusal"))
        if not self.finished and not self.marked_end:
            raise Faulty(Fault(Outcome.CONNECTION_ERROR))
        if not self.characters:
            raise Faulty(Fault(Outcome.INVALID_ANSWER))

    def _texts(self, events: list[str]) -> str:
        """The events' text; a fault behind some text is raised when more is asked for."""
        texts: list[str] = []
        for event in events:
            if self.marked_end:
                break
            if event.strip() == "[DONE]":
                self.marked_end = True
            elif event:
                try:
                    texts.append(self._take_event(event))
                except Faulty as error:
                    self._fault = error.fault
                    break
        text = "".join(texts)
        if not text:
            self.raise_fault()
        return text

    def raise_fault(self) -> None:
        """Raise the fault that stood behind the last text, if one did."""
        if self._fault is not None:
            raise Faulty(self._fault)

    def _take_event(self, event: str) -> str:
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError):
            return self._take_malformed(event)
        return self._take_chunk(chunk) if isinstance(chunk, dict) else ""

    def _take_malformed(self, event: str) -> str:
        """An event that is no JSON: its text when that is legible, nothing when it has none.

        Text that is there and cannot be read would leave a hole in the answer, so the attempt is
        over.
        """
        if '"content"' not in event:
            return ""
        legible = re.search(r'"content"\s*:\s*("(?:[^"\\]|\\.)*")', event)
        try:
            text = json.loads(legible.group(1)) if legible else None
        except ValueError:
            text = None
        if not isinstance(text, str):
            raise Faulty(Fault(Outcome.CONNECTION_ERROR))
        return self._said(text)

    def _take_whole(self, body: bytes) -> str:
        try:
            chunk = json.loads(body)
        except (ValueError, RecursionError):
            raise Faulty(Fault(Outcome.INVALID_ANSWER)) from None
        if not isinstance(chunk, dict):
            raise Faulty(Fault(Outcome.INVALID_ANSWER))
        text = self._take_chunk(chunk)
        if not self.finished and not text:
            raise Faulty(Fault(Outcome.INVALID_ANSWER))
        # A whole JSON document is its own end mark.
        self.marked_end = True
        return text

    def _take_chunk(self, chunk: dict[str, Any]) -> str:
        if chunk.get("error"):
            raise Faulty(_fault_in_stream(chunk["error"]))
        self.tokens = tokens_from(chunk.get("usage")) or self.tokens
        self.model = self.model or str(chunk.get("model") or "")
        choice = self._choice_of(chunk.get("choices"))
        if choice is None:
            return ""
        delta = choice.get("delta") or choice.get("message")
        text = self._take_delta(delta) if isinstance(delta, dict) else ""
        self._take_finish(choice.get("finish_reason"))
        return text

    def _choice_of(self, choices: object) -> dict[str, Any] | None:
        """The choice that is ours: the one that came first, whatever number it has."""
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                index = choice.get("index", self._index)
                if self._index is None:
                    self._index = index
                if index == self._index:
                    return choice
        return None

    def _take_delta(self, delta: dict[str, Any]) -> str:
        if delta.get("tool_calls") or delta.get("function_call"):
            raise Faulty(Fault(Outcome.INVALID_ANSWER))
        if delta.get("refusal"):
            self._refused = True
        if delta.get("reasoning_content") or delta.get("reasoning"):
            self.token_events += 1
        return self._said(_text_of(delta.get("content")))

    def _said(self, text: str) -> str:
        if text:
            self.token_events += 1
            self.characters += len(text)
            if self.characters > self._most_characters:
                raise Faulty(Fault(Outcome.INVALID_ANSWER))
        return text

    def _take_finish(self, reason: object) -> None:
        if not isinstance(reason, str) or not reason:
            return
        word = reason.lower()
        if word in REFUSED_REASONS:
            raise Faulty(_refusal("content_filter"))
        if word in CUT_REASONS:
            self.finish_reason = "length"
        elif word in WHOLE_REASONS:
            self.finish_reason = "stop"
        else:
            # vLLM's "abort", DeepSeek's "insufficient_system_resource", "error", or a word that
            # nobody knows: what came may be a part.
            raise Faulty(Fault(Outcome.SERVER_ERROR))


def _text_of(content: object) -> str:
    """Text, or the text of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _refusal(code: str) -> Fault:
    return Fault(Outcome.CONTENT_REFUSED, here_only=False, blame=Blame.NOBODY, code=code)


def _fault_in_stream(error: object) -> Fault:
    """An error in the middle of a response that began with 200; its code may be an HTTP status."""
    code = error.get("code") if isinstance(error, dict) else None
    written = str(code)
    status = int(written) if re.fullmatch(r"[45]\d\d", written) else 500
    fault = fault_from_error(status, error)
    meaning = _meaning_of_words(400, _error_words(error)[1])
    return fault if meaning is None else Fault(meaning[0], 0, None, *meaning[1:], fault.code)
