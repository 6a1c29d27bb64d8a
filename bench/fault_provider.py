"""A model provider that fails on purpose: real HTTP on a socket, the chat-completions protocol,
faults to order.

    python -m bench.fault_provider --port 8099

prints one JSON line with its address and serves until SIGTERM. Each model name has its own
behaviour, changed at run time, so the router's failover can be watched while it runs:

    A=http://127.0.0.1:8099/admin/models
    curl -X PUT $A/fast -d '{"fault": "hang"}'                                   stops a model
    curl -X PUT $A/fast -d '{"fault": "status", "status": 503, "times": 2}'      for two calls
    curl -X PUT $A/fast -d '{"first_token_seconds": 0.8}'                        makes it slow
    curl -X DELETE $A/fast                                                       as it was
    curl $A                                                                      what was asked

The model `*` stands for all that have no behaviour of their own. In a test or a program:

    async with fault_provider() as provider:
        provider.behave("fast", Behaviour(fault="stall", after_tokens=3))
        provider.base_url, provider.seen("fast").requests
"""

import argparse
import asyncio
import json
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from aiohttp import web

Fault = Literal[
    "none",
    "status",  # answers with `status`, `headers` and `body`
    "hang",  # takes the request and says nothing at all
    "hang_after_head",  # says 200 and then nothing
    "heartbeat",  # says 200 and then comments without end, never a token
    "disconnect",  # after `after_tokens` tokens the connection is cut (0: before the head)
    "stall",  # after `after_tokens` tokens nothing more comes, the connection stays
    "truncate",  # after `after_tokens` tokens the stream ends in good order, unfinished
    "malformed",  # after `after_tokens` tokens comes an event that is no JSON, then the rest
    "torn_token",  # the event of token `after_tokens` is cut within its text
    "error_event",  # after `after_tokens` tokens comes an error with `status` as its code
    "no_end_mark",  # the finish reason comes, the end mark never, the connection stays
    "no_finish",  # the end mark comes, the finish reason does not
    "nonsense",  # 200 with a page of HTML
    "empty",  # a stream that finishes without a word
    "refuse",  # after `after_tokens` tokens the content filter ends it
    "cut_short",  # after `after_tokens` tokens the length limit ends it
    "whole",  # ignores that a stream was asked for and answers in one piece
    "repeat",  # a continuation that first says the last message again
    # What gateways' and clients' issue trackers tell of providers
    "abort",  # after `after_tokens` tokens the finish reason is "abort", and the end mark comes
    "error_in_200",  # 200 with one JSON document, which is an error
    "error_without_code",  # the first event is an error whose code is null
    "named_error",  # after `after_tokens` tokens comes an event named error, of another shape
    "nothing",  # 200, an event stream, and not a byte in it
    "comments_only",  # a stream of comments that ends in good order
    "short_body",  # less comes than Content-Length had promised
    "bad_chunk",  # the transfer encoding breaks within the stream
    "bad_gzip",  # says gzip, and is none
    "half_head",  # the head begins and never ends
    "not_http",  # answers with bytes of another protocol
    "huge_head",  # a header of a megabyte
    "huge_error",  # 500 with a page of ten megabytes
    "endless",  # the same token again and again
    "endless_line",  # one event that never ends
    "reasoning_only",  # all tokens go into the reasoning, none is left for the answer
    "tool_call",  # calls a tool that nobody offered
    # What does no harm
    "cut_after_finish",  # the finish reason comes, then the connection is cut
    "gzip",  # the stream is compressed
    "noise",  # empty events, pings, retry hints and nulls between the tokens
    "after_end",  # goes on talking behind the end mark
    "two_choices",  # a second choice, mixed into the first
    "other_index",  # the only choice has the index 1
    "usage_everywhere",  # every chunk carries what was used so far
    "late_usage",  # what was used comes a moment after the finish reason
]
# The answer is whole and right all the same, and nobody else has to be asked.
HARMLESS = frozenset(
    {
        *("none", "malformed", "torn_token", "no_end_mark", "no_finish", "whole", "repeat"),
        *("cut_after_finish", "gzip", "noise", "after_end", "two_choices", "other_index"),
        *("usage_everywhere", "late_usage"),
    }
)
PROMISING_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99999\r\n\r\n"
)
RAW: dict[str, bytes] = {
    "half_head": b"HTTP/1.1 200 OK\r\nContent-Type: text/ev",
    "not_http": b"\x15\x03\x01\x00\x02\x02\x28",
    "huge_head": b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * (1 << 20) + b"\r\n\r\n",
}


# After `after_tokens` tokens comes something else, or nothing.
STOPS = frozenset(
    {
        *("disconnect", "stall", "truncate", "error_event", "refuse", "cut_short"),
        *("abort", "named_error", "bad_chunk"),
    }
)
# Streams without a token in them.
ODD = frozenset({"nothing", "comments_only", "error_without_code"})
# How the stream ends where it does not end as it should.
ENDINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("disconnect", "stall", "truncate", "bad_chunk"), ()),
    "named_error": ('event: error\ndata: {"type": "overloaded", "message": "secret"}\n\n',),
}
FINISH_REASONS = {
    "cut_short": "length",
    "reasoning_only": "length",
    "refuse": "content_filter",
    "abort": "abort",
}


@dataclass(frozen=True)
class Behaviour:
    """What a model does. Seconds; a negative `times` means always, else so often and then as
    before.
    """

    fault: Fault = "none"
    text: str | None = None
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    after_tokens: int = 2
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0
    until: asyncio.Event | None = None
    bytes_a_write: int = 0
    line_end: str = "\n"
    usage: dict[str, Any] | None = None
    no_usage: bool = False
    reasoning: str = ""
    times: int = -1


@dataclass
class Seen:
    """What was asked of a model, the last hundred bodies of it, and how many calls were cut by the
    caller.
    """

    requests: int = 0
    running: int = 0
    cut_by_caller: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)


class CutByUsError(Exception):
    """The connection was cut on purpose."""


class FaultProvider:
    """Answers as told. `changed` is set whenever a call begins or ends."""

    def __init__(self) -> None:
        self.base_url = ""
        self.listed = 0
        """How often the models were asked for, and what is answered to that."""
        self.list_status = 200
        self.connections: set[Any] = set()
        """The other ends of all connections that brought a request."""
        self._behaviours: dict[str, Behaviour] = {}
        self._seen: defaultdict[str, Seen] = defaultdict(Seen)
        self._changed = asyncio.Event()

    def behave(self, model: str, behaviour: Behaviour) -> None:
        self._behaviours[model] = behaviour

    def behave_well(self, model: str) -> None:
        self._behaviours.pop(model, None)

    def seen(self, model: str) -> Seen:
        return self._seen[model]

    async def until(self, model: str, condition: str, count: int, seconds: float = 10) -> None:
        """Wait until the field *condition* of what was seen is *count*, at most *seconds*."""
        async with asyncio.timeout(seconds):
            while getattr(self._seen[model], condition) != count:
                await self._changed.wait()

    def _note(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _next_behaviour(self, model: str) -> Behaviour:
        name = model if model in self._behaviours else "*"
        behaviour = self._behaviours.get(name, Behaviour())
        if behaviour.times == 0:
            del self._behaviours[name]
            return Behaviour()
        if behaviour.times > 0:
            self._behaviours[name] = replace(behaviour, times=behaviour.times - 1)
        return behaviour

    # The protocol

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self._note_connection(request)
        body = await request.json()
        model = str(body.get("model"))
        seen = self._seen[model]
        seen.requests += 1
        seen.running += 1
        for kept, new in ((seen.bodies, body), (seen.headers, dict(request.headers))):
            kept.append(new)  # type: ignore[arg-type]
            del kept[:-100]
        seen.at.append(time.monotonic())
        del seen.at[:-100]
        self._note()
        try:
            return await Answer(request, body, self._next_behaviour(model)).give()
        except CutByUsError:
            return web.Response()
        except (ConnectionError, asyncio.CancelledError):
            seen.cut_by_caller += 1
            raise
        finally:
            seen.running -= 1
            self._note()

    async def list_models(self, request: web.Request) -> web.Response:
        self._note_connection(request)
        self.listed += 1
        # As long as a provider's is that has some thousand models: it comes in several pieces.
        models = [{"id": f"model-{number:05}", "object": "model"} for number in range(4000)]
        return web.json_response({"object": "list", "data": models}, status=self.list_status)

    def _note_connection(self, request: web.Request) -> None:
        if request.transport is not None:
            self.connections.add(request.transport.get_extra_info("peername"))

    # The admin side

    async def put_behaviour(self, request: web.Request) -> web.Response:
        known = {f.name for f in fields(Behaviour)}
        try:
            wanted = json.loads(await request.text() or "{}")
            if not isinstance(wanted, dict) or wanted.keys() - known:
                return web.json_response({"error": f"fields are {sorted(known)}"}, status=400)
            if wanted.get("fault", "none") not in get_args(Fault):
                return web.json_response({"error": f"faults: {get_args(Fault)}"}, status=400)
            self.behave(request.match_info["model"], Behaviour(**wanted))
        except ValueError as error:
            return web.json_response({"error": f"not JSON: {error}"}, status=400)
        return web.Response(status=204)

    async def delete_behaviour(self, request: web.Request) -> web.Response:
        self.behave_well(request.match_info["model"])
        return web.Response(status=204)

    async def get_models(self, _: web.Request) -> web.Response:
        names = self._seen.keys() | self._behaviours.keys()
        return web.json_response(
            {
                name: {
                    "fault": self._behaviours.get(name, Behaviour()).fault,
                    "requests": self._seen[name].requests,
                    "running": self._seen[name].running,
                    "cut_by_caller": self._seen[name].cut_by_caller,
                }
                for name in sorted(names)
            }
        )

    def application(self) -> web.Application:
        application = web.Application(client_max_size=16 << 20)
        application.router.add_post("/v1/chat/completions", self.complete)
        application.router.add_get("/v1/models", self.list_models)
        application.router.add_get("/admin/models", self.get_models)
        application.router.add_put("/admin/models/{model:.+}", self.put_behaviour)
        application.router.add_delete("/admin/models/{model:.+}", self.delete_behaviour)
        return application


class Answer:
    """One answer, as the behaviour says."""

    def __init__(self, request: web.Request, asked: dict[str, Any], behaviour: Behaviour) -> None:
        self._request = request
        self._asked = asked
        self._behaviour = behaviour
        self._tokens = list(tokens_of(self._text()))

    def _text(self) -> str:
        behaviour = self._behaviour
        last = self._asked["messages"][-1]["content"] if self._asked.get("messages") else ""
        text = behaviour.text
        if text is None:
            schema = self._asked.get("response_format", {}).get("json_schema", {}).get("schema")
            text = f"You said: {last}" if schema is None else json.dumps(example_of(schema))
        if behaviour.fault == "repeat":
            said = [m["content"] for m in self._asked["messages"] if m["role"] == "assistant"]
            text = (said[-1] if said else "") + text
        return text

    async def give(self) -> web.StreamResponse:
        behaviour = self._behaviour
        answer = self._unusual()
        if answer is not None:
            await asyncio.sleep(behaviour.first_token_seconds)
            return answer
        match behaviour.fault:
            case "half_head" | "not_http" | "huge_head":
                await self._raw(RAW[behaviour.fault])
            case "short_body":
                body = "".join(self._events()).encode()
                await self._raw(PROMISING_HEAD + body[: len(body) // 2])
            case "hang":
                await self._for_ever()
            case "disconnect" if behaviour.after_tokens == 0:
                self._cut()
        if behaviour.fault == "none" and not self._asked.get("stream"):
            return web.json_response(self._whole())
        if behaviour.fault == "none" and not self._is_slow():
            return web.Response(
                body="".join(self._events()).encode(), content_type="text/event-stream"
            )
        return await self._stream()

    def _unusual(self) -> web.Response | None:
        """An answer in one piece, which is no stream of events."""
        behaviour = self._behaviour
        match behaviour.fault:
            case "status":
                body = behaviour.body
                text = body if isinstance(body, str) else json.dumps(body or _error("it fails"))
                return web.Response(status=behaviour.status, headers=behaviour.headers, text=text)
            case "nonsense":
                return web.Response(text="<html><body>It works!</body></html>")
            case "error_in_200":
                error = {"message": "Provider returned error", "code": 504}
                return web.json_response({"error": error})
            case "huge_error":
                return web.Response(status=500, text="x" * (10 << 20))
            case "bad_gzip":
                headers = {"Content-Encoding": "gzip"}
                return web.Response(body=b"data: not compressed", headers=headers)
            case "whole":
                return web.json_response(self._whole())
        return None

    def _is_slow(self) -> bool:
        behaviour = self._behaviour
        waits = (
            behaviour.until,
            behaviour.first_token_seconds,
            behaviour.token_seconds,
            behaviour.bytes_a_write,
        )
        return any(waits)

    async def _stream(self) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if self._behaviour.fault == "gzip":
            response.enable_compression(web.ContentCoding.gzip)
        await response.prepare(self._request)
        await self._odd_start(response)
        await asyncio.sleep(self._behaviour.first_token_seconds)
        if self._behaviour.until is not None:
            await self._behaviour.until.wait()
        for place, event in enumerate(self._events()):
            if place:
                await asyncio.sleep(self._behaviour.token_seconds)
            if self._behaviour.fault == "late_usage" and '"usage"' in event:
                await asyncio.sleep(0.05)
            await self._write(response, event.encode())
        if self._behaviour.fault in ("disconnect", "cut_after_finish"):
            # What was written is to arrive: a reset connection may take it along.
            await asyncio.sleep(0.05)
            self._cut()
        if self._behaviour.fault == "bad_chunk" and self._request.transport is not None:
            self._request.transport.write(b"not a length\r\n")  # type: ignore[attr-defined]
        if self._behaviour.fault in ("stall", "no_end_mark", "bad_chunk"):
            await self._for_ever()
        await response.write_eof()
        return response

    async def _odd_start(self, response: web.StreamResponse) -> None:
        if self._behaviour.fault == "hang_after_head":
            await self._for_ever()
        while self._behaviour.fault == "heartbeat":
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.05)
        while self._behaviour.fault == "endless":
            await response.write(self._chunk({"content": " again"}).encode())
        while self._behaviour.fault == "endless_line":
            await response.write(b"data: " + b"x" * 65536)

    async def _write(self, response: web.StreamResponse, event: bytes) -> None:
        step = self._behaviour.bytes_a_write or len(event)
        for start in range(0, len(event), step):
            await response.write(event[start : start + step])
            if self._behaviour.bytes_a_write:
                await asyncio.sleep(0)

    def _events(self) -> Iterator[str]:
        """The events of the stream, faults and all."""
        behaviour = self._behaviour
        if behaviour.fault in ODD:
            yield from self._odd_events()
            return
        if behaviour.reasoning:
            yield self._chunk({"reasoning_content": behaviour.reasoning})
        yield self._chunk({"role": "assistant", "content": ""})
        yield from self._told()
        if behaviour.fault in ENDINGS:
            yield from ENDINGS[behaviour.fault]
        elif behaviour.fault == "error_event":
            error = {"code": behaviour.status, "message": "secret words of the provider"}
            yield self._line(json.dumps({"error": error}))
        else:
            yield from self._ending()

    def _told(self) -> Iterator[str]:
        behaviour = self._behaviour
        match behaviour.fault:
            case "reasoning_only":
                yield self._chunk({"reasoning_content": "hm"})
                return
            case "tool_call":
                yield self._chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]})
                return
            case "empty":
                return
        for place, token in enumerate(self._tokens):
            if place == behaviour.after_tokens:
                if behaviour.fault in STOPS:
                    break
                if behaviour.fault == "malformed":
                    yield self._line('{"choices": [{"delta": {"co')
                if behaviour.fault == "torn_token":
                    yield self._line(self._json({"content": token})[:-18])
                    continue
            yield from self._token(token, place)

    def _token(self, token: str, place: int) -> Iterator[str]:
        match self._behaviour.fault:
            case "noise":
                yield "retry: 3000\n\n: ping\n\nevent: ping\ndata: {}\n\ndata:\n\ndata: null\n\n"
                yield self._chunk({"content": None})
            case "two_choices":
                other = {"index": 1, "delta": {"content": "never to be seen"}}
                yield self._line(json.dumps({"choices": [other]}))
        content = self._json({"content": token})
        if self._behaviour.fault == "usage_everywhere":
            used = {"prompt_tokens": 3, "completion_tokens": place + 1}
            content = json.dumps({**json.loads(content), "usage": used})
        yield self._line(content)

    def _odd_events(self) -> Iterator[str]:
        if self._behaviour.fault == "comments_only":
            yield ": OPENROUTER PROCESSING\n\n" * 3
        if self._behaviour.fault == "error_without_code":
            yield self._line(json.dumps({"error": {"message": "overloaded", "code": None}}))

    def _ending(self) -> Iterator[str]:
        behaviour = self._behaviour
        if behaviour.fault != "no_finish":
            yield self._chunk({}, FINISH_REASONS.get(behaviour.fault, "stop"))
        if behaviour.fault in ("cut_after_finish", "refuse"):
            return
        if not behaviour.no_usage:
            yield self._line(json.dumps({"choices": [], "usage": self._usage()}))
        if behaviour.fault != "no_end_mark":
            yield self._line("[DONE]")
        if behaviour.fault == "after_end":
            yield self._chunk({"content": "never to be seen"})

    def _usage(self) -> dict[str, Any]:
        if self._behaviour.usage is not None:
            return self._behaviour.usage
        prompt = sum(len(m["content"].split()) for m in self._asked.get("messages", []))
        output = len(self._tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
        }

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self._tokens)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        about = {"id": "chatcmpl-1", "created": 1, "model": self._asked.get("model")}
        return {**about, "object": "chat.completion", "choices": [choice], "usage": self._usage()}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        return self._line(self._json(delta, finish_reason))

    def _json(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        index = 1 if self._behaviour.fault == "other_index" else 0
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        chunk = {"object": "chat.completion.chunk", "model": self._asked.get("model")}
        return json.dumps({**chunk, "choices": [choice]}, ensure_ascii=False)

    def _line(self, event: str) -> str:
        return f"data: {event}{self._behaviour.line_end}{self._behaviour.line_end}"

    async def _raw(self, answer: bytes) -> None:
        """Bytes past the HTTP server; a head that ends is cut off behind them."""
        transport = self._request.transport
        if transport is not None:
            transport.write(answer)  # type: ignore[attr-defined]
        if self._behaviour.fault in ("half_head", "not_http"):
            await self._for_ever()
        await asyncio.sleep(0.05)
        self._cut()

    def _cut(self) -> None:
        transport = self._request.transport
        if transport is not None:
            transport.abort()  # type: ignore[attr-defined]
        raise CutByUsError

    async def _for_ever(self) -> None:
        await asyncio.Event().wait()


def tokens_of(text: str) -> Iterator[str]:
    """The text in pieces as a model would say it: words with the space before them."""
    start = 0
    for place in range(1, len(text)):
        if text[place] == " ":
            yield text[start:place]
            start = place
    if text:
        yield text[start:]


def example_of(schema: dict[str, Any]) -> Any:
    """A small value that satisfies a plain *schema*: required fields, first choices, least
    numbers.
    """
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return example_of(schema[choice][0])
    kind = schema.get("type", "object")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            properties = schema.get("properties", {})
            return {
                name: example_of(properties.get(name, {})) for name in schema.get("required", [])
            }
        case "array":
            return [example_of(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
        case "string":
            return "x" * max(schema.get("minLength", 0), 1)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
    return None


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error", "code": None}}


@asynccontextmanager
async def fault_provider(port: int = 0) -> AsyncIterator[FaultProvider]:
    """Serve on 127.0.0.1; *port* 0 takes a free one."""
    provider = FaultProvider()
    # Calls whose caller went away are cancelled, so that a test sees it; none is waited for at the
    # end.
    runner = web.AppRunner(
        provider.application(), handler_cancellation=True, shutdown_timeout=0, access_log=None
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        bound = runner.addresses[0][1]
        provider.base_url = f"http://127.0.0.1:{bound}/v1"
        yield provider
    finally:
        await runner.cleanup()


async def serve(port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    async with fault_provider(port) as provider:
        print(json.dumps({"base_url": provider.base_url}), flush=True)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A model provider that fails on purpose.")
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
