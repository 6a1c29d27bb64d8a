"""Calls to peers: always a deadline, the trace and a token; retries where safe (ALL-1)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from services.runtime.failure import DeadlineExceeded, Failure, Unavailable
from services.runtime.identity import current_caller
from services.runtime.rotation import rotating
from services.runtime.settings import on_this_machine
from services.runtime.telemetry import DURATION_BUCKETS, Telemetry, context_out, server_of
from services.runtime.tls import PeerTls as PeerTls
from services.runtime.tls import Tls as Tls
from services.runtime.tls import peer_tls as peer_tls

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# In the health service of each server of ours: SERVING until it is told to stop, whatever else is
# missing. gRPC's own stop fails the calls that arrive before its callers know of it; callers that
# watch this name leave first. The overall health would not do: with a store gone on all replicas,
# calls would get the transport's words in place of the reason.
ACCEPTING = "gatehouse.accepting"
# What a server of anybody's says of itself as a whole; one that has no health is taken to be well.
OVERALL = ""
# Across regions, or to a machine at its limit, TLS takes longer than on this one; but calls wait
# for a connection that is being made, so a peer behind a black hole must not take long to tell.
CONNECT_MILLISECONDS = 1_000
# Kept back from a caller's deadline, so that the answer still gets out.
MARGIN_SECONDS = 0.05
# A connection to a server of ours is pinged every second, and closed after one more without an
# answer: a frozen replica, or a network that drops everything, gets no calls after two seconds. Our
# servers allow pings so often (`serving.options_of`); by default others end the connection.
PINGS_OF_OURS = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.http2.max_pings_without_data", 0),
)
PINGS = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 5_000))
# How long a replica may take before the same call is made to another one.
FIRST_TRY_SECONDS = 0.6

_deadline: ContextVar[float | None] = ContextVar("gatehouse_deadline", default=None)

Metadata = Sequence[tuple[str, str]]
Answer = TypeVar("Answer")


def set_deadline(seconds_left: float | None) -> None:
    """For the server's interceptor: the running call has so long."""
    _deadline.set(None if seconds_left is None else time.monotonic() + seconds_left)


def deadline_left(default: float) -> float:
    """Seconds left of the running call's deadline, less a margin, at most *default*.

    Raises DeadlineExceeded when nothing is left.
    """
    deadline = _deadline.get()
    if deadline is None:
        return default
    left = deadline - time.monotonic() - MARGIN_SECONDS
    if left <= 0:
        raise DeadlineExceeded
    return min(left, default)


async def passing_over(
    call: Callable[[float], Awaitable[Answer]], seconds: float, *, first: float = FIRST_TRY_SECONDS
) -> Answer:
    """Make an idempotent call within *seconds*; a replica that does not answer is passed over.

    *call* takes the seconds of one try. A frozen replica keeps its connection until its pings are
    missed, and round_robin keeps choosing it: each further try goes to the next replica, and has
    twice as long, so that a busy peer is not asked over and over. A connection that ends is tried
    again once, on another. Raises what the last try raises (USE-9).
    """
    until, ended = time.monotonic() + seconds, False
    while True:
        left = until - time.monotonic()
        is_last = left <= 1.5 * first
        try:
            return await call(left if is_last else first)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and not (is_last or ended):
                ended = True
                continue
            if is_last or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            first *= 2


class TokenSource:
    """The service's own token, read again when its file changes.

    While the file is being replaced, missing or empty for a moment, the token stays the one before.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: tuple[int, ...] | None = None
        self._token = ""

    def token(self) -> str:
        if self._file is None:
            return ""
        try:
            stat = self._file.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                self._token, self._seen = self._file.read_text().strip() or self._token, seen
        except OSError:
            if not self._token:
                raise Unavailable(
                    "the service has no token of its own yet", reason="PEER_UNAVAILABLE"
                ) from None
        return self._token


def as_caller() -> Metadata:
    """The running call's own token, passed on."""
    return [("authorization", f"Bearer {current_caller().token}")]


def as_service(source: TokenSource) -> Metadata:
    """The service's own token."""
    token = source.token()
    return [("authorization", f"Bearer {token}")] if token else []


class WithoutDeadline(Exception):
    """A call was made without a deadline: a mistake in the code."""


class _Watch:
    """Traces and times the calls to one server (ALL-4)."""

    def __init__(self, telemetry: Telemetry, target: str) -> None:
        self._telemetry = telemetry
        self._server = server_of(target)
        self._duration = telemetry.meter.create_histogram(
            "rpc.client.call.duration",
            unit="s",
            description="The duration of calls made",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )

    async def watched(
        self, continuation: Callable[..., Any], details: Any, request: Any, method: str
    ) -> Any:
        """The call that *continuation* makes, once it is over; whoever awaits it learns how."""
        attributes = {"rpc.system.name": "grpc", "rpc.method": method, **self._server}
        span = self._telemetry.begun(method, SpanKind.CLIENT, attributes)
        started = time.monotonic()
        code = grpc.StatusCode.CANCELLED  # of a call that nobody waits for any more
        call = await continuation(with_context(details, span), request)
        try:
            await call
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
        finally:
            outcome = outcome_of(code)
            self._duration.record(time.monotonic() - started, {**attributes, **outcome})
            if span is not None:
                end_call(span, outcome)
        return call


def outcome_of(code: grpc.StatusCode) -> dict[str, str]:
    """To its caller every status but OK is an error."""
    outcome = {"rpc.response.status_code": code.name}
    return outcome if code is grpc.StatusCode.OK else {**outcome, "error.type": code.name}


def end_call(span: Span, outcome: Mapping[str, str]) -> None:
    span.set_attributes(outcome)
    if "error.type" in outcome:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


class _Outgoing(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Adds the trace context; refuses a call without a deadline."""

    def __init__(self, watch: _Watch | None) -> None:
        self._watch = watch

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        if details.timeout is None:
            raise WithoutDeadline(details.method)
        if self._watch is None:
            return await continuation(with_context(details), request)
        method = plain_method(details.method)
        return await self._watch.watched(continuation, details, request, method)


class _OutgoingStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Adds the trace context. A stream may be followed without end, so it has no span.

    Its own class: gRPC takes an interceptor for the first kind of call that it intercepts, only.
    """

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        return await continuation(with_context(details), request)


@cache
def plain_method(method: bytes | str) -> str:
    """Its full name, without the slash that gRPC puts before it."""
    return (method.decode() if isinstance(method, bytes) else method).removeprefix("/")


def with_context(details: Any, span: Span | None = None) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    for name, value in context_out(span):
        if name not in metadata:
            metadata.add(name, value)
    return details._replace(metadata=metadata)


@asynccontextmanager
async def channel(
    target: str,
    *,
    tls: Tls | None = None,
    idempotent: Iterable[str] = (),
    watching: str | None = None,
    telemetry: Telemetry | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a peer, spread over its replicas, that reconnects by itself.

    *idempotent* names services or methods (`pkg.Service` or `pkg.Service/Method`) whose UNAVAILABLE
    calls may be sent again. *watching* is a name in the replicas' health: one that says that it is
    NOT_SERVING gets no calls. With ACCEPTING, for a peer that `serving` serves, the channel turns
    away from a replica before it stops, so that no call is lost with it, and from one that is
    frozen within two seconds. With *telemetry* each call is a span. Certificates that change are
    taken up meanwhile, and no call ends for it.
    Raises Failure where plain text would leave this machine.
    """
    options = [
        ("grpc.service_config", json.dumps(service_config(idempotent, watching))),
        ("grpc.enable_retries", 1),
        *(PINGS_OF_OURS if watching == ACCEPTING else PINGS),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # By its name a pause, but it is how long a connection may take to be made, TLS and all.
        ("grpc.min_reconnect_backoff_ms", CONNECT_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A channel of its own: services that share a process do not share fates.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    watch = None if telemetry is None else _Watch(telemetry, target)
    interceptors = [_Outgoing(watch), _OutgoingStream()]
    if tls is not None:

        def made(shown: PeerTls) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(
                target, shown.credentials(), options, interceptors=interceptors
            )

        async with rotating(made, tls) as rotated:
            yield rotated
    elif on_this_machine(target):
        opened = grpc.aio.insecure_channel(target, options, interceptors=interceptors)
        try:
            yield opened
        finally:
            await opened.close(grace=None)
    else:
        raise Failure("plain text is for this machine only: TLS to the peer is not set up")


def service_config(idempotent: Iterable[str], watching: str | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if watching is not None:
        config["healthCheckConfig"] = {"serviceName": watching}
    names = [name_of(each) for each in idempotent]
    if names:
        config["methodConfig"] = [
            {
                "name": names,
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
    return config


def name_of(path: str) -> dict[str, str]:
    service, _, method = path.partition("/")
    return {"service": service, "method": method} if method else {"service": service}


async def serves(opened: grpc.aio.Channel, name: str = OVERALL, seconds: float = 0.9) -> bool:
    """Ask a peer's health about *name*, so that a health of ours says what its callers get.

    A connection says nothing: a frozen process keeps it. One replica that answers is enough.
    """
    request = health_pb2.HealthCheckRequest(service=name)
    stub = health_pb2_grpc.HealthStub(opened)
    try:
        answer = await passing_over(
            lambda timeout: stub.Check(request, timeout=timeout), seconds, first=seconds / 3
        )
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def reachable(opened: grpc.aio.Channel, seconds: float = 1.0) -> bool:
    """Whether *opened* has a connection, or gets one within *seconds*: what health asks."""
    try:
        async with asyncio.timeout(seconds):
            state = opened.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                await opened.wait_for_state_change(state)
                state = opened.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True
