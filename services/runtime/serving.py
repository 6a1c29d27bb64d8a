"""Serves a service: who calls, what is checked, what is told, and how it stops (ALL-1, ALL-2)."""

import asyncio
import gc
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
import uvloop
from google.protobuf.message import DecodeError
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.runtime import validation
from services.runtime.calling import ACCEPTING, set_deadline
from services.runtime.failure import (
    DeadlineExceeded,
    Denied,
    Exhausted,
    Failure,
    Internal,
    InvalidInput,
    Unauthenticated,
    Unimplemented,
    failure_from,
)
from services.runtime.identity import TokenVerifier, open_verifier, set_caller
from services.runtime.peers import Peers, names_in
from services.runtime.roles import roles_of
from services.runtime.settings import ServiceSettings, SettingsError
from services.runtime.telemetry import (
    DURATION_BUCKETS,
    JsonLines,
    Telemetry,
    context_in,
    current,
    server_of,
)
from services.runtime.tls import server_credentials

Check = Callable[[], Awaitable[bool]]
Metadata = Mapping[str, str]
T = TypeVar("T")

# Where google.rpc.Status travels, by the convention of gRPC's libraries.
STATUS_DETAILS = "grpc-status-details-bin"
RETRY_OVERLOADED = timedelta(milliseconds=200)
# They tell nothing of anybody, and what asks for them has no token.
PUBLIC = ("/grpc.health.v1.Health/", "/grpc.reflection.")
HEALTH_SECONDS = 1.0
# Before the listener closes, callers get so long to turn away; it ends early once none calls.
LEAVE_SECONDS = 2.0
QUIET_SECONDS = 0.05
# Between two runs of the garbage collector; a call makes some hundred objects.
ALLOCATIONS = 20_000
# How long a ping may be unanswered.
PING_SECONDS = 5.0
# A token has up to 16 KiB, and there is more than it in the headers of a call.
MOST_HEADER_BYTES = 32 * 1024
# How far beyond its limit a request is read, so that it is refused with a reason.
RECEIVED_BEYOND = 4
AT_LIMIT = "the service is at its limit of calls"


class _Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Stands before every handler: capacity, token, rules, span, and the mapping of failures.

    Messages are read and written here and not by gRPC, which would tell what went wrong with one in
    the words of an exception.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        verifier: TokenVerifier,
        settings: ServiceSettings,
    ) -> None:
        self._telemetry = telemetry
        self._verifier = verifier
        # None where there are no certificates: then callers are on this machine.
        self._peers = Peers(settings.peers) if settings.tls_client_ca_file else None
        self._most = settings.max_concurrent_calls
        self._most_bytes = settings.max_message_bytes
        self._most_bytes_sent = most_bytes_sent(settings)
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        self._running = 0
        self._begun = 0
        self._duration = telemetry.meter.create_histogram(
            "rpc.server.call.duration",
            unit="s",
            description="The duration of calls served",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self._refusals = telemetry.meter.create_counter(
            "gatehouse.refusals",
            unit="{call}",
            description="Calls that were answered with a no, by its reason",
        )
        self._server = server_of(settings.listen)

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        known = self._handlers.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or handler.request_streaming:  # no method of ours takes a stream
            is_public = handler is not None and details.method.startswith(PUBLIC)
            return handler if is_public else UNKNOWN_METHOD
        guarded = self._handlers[details.method] = self._guarded(handler, details.method)
        return guarded

    def _guarded(self, handler: grpc.RpcMethodHandler, method: str) -> grpc.RpcMethodHandler:
        if method.startswith(PUBLIC):
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler, method))
        return grpc.unary_unary_rpc_method_handler(self._unary(handler, method))

    async def quiet(self) -> None:
        """Return once no call has begun for a moment."""
        begun = -1
        while begun != self._begun:
            begun = self._begun
            await asyncio.sleep(QUIET_SECONDS if begun else 0)

    def _unary(self, handler: grpc.RpcMethodHandler, method: str) -> Any:
        roles = roles_of(method.removeprefix("/"))

        async def call(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async def answer(metadata: Metadata) -> bytes:
                request = await self._admitted(handler, method, roles, raw, context, metadata)
                return self._written(handler, await handler.unary_unary(request, context))

            return await self._watched(method, context, answer)

        return call

    def _streaming(self, handler: grpc.RpcMethodHandler, method: str) -> Any:
        roles = roles_of(method.removeprefix("/"))

        # Not a generator: gRPC never closes one whose call is over, and what it holds would be let
        # go by the garbage collector, somewhen and in another context.
        async def call(raw: bytes, context: grpc.aio.ServicerContext) -> None:
            async def answer(metadata: Metadata) -> None:
                request = await self._admitted(handler, method, roles, raw, context, metadata)
                async with aclosing(handler.unary_stream(request, context)) as responses:
                    async for response in responses:
                        await sent(context, self._written(handler, response))

            await self._watched(method, context, answer)

        return call

    async def _watched(
        self,
        method: str,
        context: grpc.aio.ServicerContext,
        answer: Callable[[Metadata], Awaitable[T]],
    ) -> T:
        """What *answer* answers. Ends the call with a status when it raises."""
        self._begun += 1
        if self._running >= self._most:
            # Before anything is spent on it, a span included.
            await end(context, Exhausted(AT_LIMIT, retry_after=RETRY_OVERLOADED))
        started, metadata = time.monotonic(), text_of(context.invocation_metadata())
        name = method.removeprefix("/")
        outcome = {
            "rpc.system.name": "grpc",
            "rpc.method": name,
            "rpc.response.status_code": "OK",
        }
        span = self._telemetry.tracer.start_span(
            name, context=context_in(metadata), kind=SpanKind.SERVER, attributes=self._server
        )
        self._running += 1
        try:
            with current(span):
                try:
                    return await answer(metadata)
                except (Exception, asyncio.CancelledError) as error:
                    if is_over(error, context):
                        outcome["rpc.response.status_code"] = code_of_end(context)
                        raise
                    failure = self._failure_of(error, method)
                    outcome["rpc.response.status_code"] = failure.code.name
                    span.set_attribute("gatehouse.reason", failure.reason)
                    if failure.code in SERVER_FAULTS:
                        outcome["error.type"] = failure.code.name
                        span.set_status(Status(StatusCode.ERROR))
                    else:  # to a server a no is an answer
                        reason = {"gatehouse.reason": failure.reason}
                        self._refusals.add(1, {"rpc.method": name, **reason})
                finally:
                    span.set_attributes(outcome)
        finally:
            self._running -= 1
            self._duration.record(time.monotonic() - started, outcome)
        return await end(context, failure)

    async def _admitted(
        self,
        handler: grpc.RpcMethodHandler,
        method: str,
        roles: frozenset[str] | None,
        raw: bytes,
        context: grpc.aio.ServicerContext,
        metadata: Metadata,
    ) -> Any:
        """The request. Raises Failure for a wrong peer, token or role, its size or its fields."""
        set_deadline(context.time_remaining())
        if len(raw) > self._most_bytes:
            raise Exhausted(
                f"the request is larger than {self._most_bytes} bytes: send less at a time",
                reason="MESSAGE_TOO_LARGE",
                metadata={"max_bytes": str(self._most_bytes)},
            )
        self._require_peer(method, context)
        caller = await self._verifier.verify(token_in(metadata))
        if roles is not None:
            caller.require(*sorted(roles))
        set_caller(caller)
        try:
            request = handler.request_deserializer(raw)
        except DecodeError:
            raise InvalidInput([("request", "is not a well-formed message")]) from None
        validation.check(request, raw)
        return request

    def _require_peer(self, method: str, context: grpc.aio.ServicerContext) -> None:
        if self._peers is None:
            return
        names = names_in(context.auth_context())
        if not self._peers.admit(names, method.removeprefix("/")):
            raise Denied(
                "no name in the calling service's certificate may call this method",
                reason="PEER_NOT_ALLOWED",
            )

    def _written(self, handler: grpc.RpcMethodHandler, response: Any) -> bytes:
        written: bytes = handler.response_serializer(response)
        if len(written) > self._most_bytes_sent:
            raise Exhausted(
                "the answer is larger than a message may be: ask for less",
                reason="MESSAGE_TOO_LARGE",
            )
        return written

    def _failure_of(self, error: BaseException, method: str) -> Failure:
        match error:
            case Failure():
                return error
            case grpc.aio.AioRpcError():
                return failure_from(error)
            case TimeoutError():
                return DeadlineExceeded()
            case NotImplementedError():  # what a servicer has not of its contract
                return Unimplemented()
        self._telemetry.log.error("a call to %s broke", method, exc_info=error)
        return Internal()


async def unknown_method(_: Any, context: grpc.aio.ServicerContext) -> None:
    await end(context, Unimplemented())


UNKNOWN_METHOD = grpc.stream_stream_rpc_method_handler(unknown_method)


class Gone(asyncio.CancelledError):
    """The caller's connection has ended: gRPC tells by an error of its own where it is written."""


async def sent(context: grpc.aio.ServicerContext, response: bytes) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        raise Gone from None


async def end(context: grpc.aio.ServicerContext, failure: Failure) -> NoReturn:
    """End the call with the status that *failure* comes to."""
    status = failure.status()
    details = ((STATUS_DETAILS, status.SerializeToString()),)
    await context.abort(failure.code, status.message, trailing_metadata=details)
    raise AssertionError("abort raises")


def is_over(error: BaseException, context: grpc.aio.ServicerContext) -> bool:
    """Whether nobody is left to be told of *error*: the call was cancelled, or ended already.

    A cancelled wait within a call that was not cancelled is a failure like others.
    """
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    return cancelled or context.cancelled() or isinstance(error, grpc.aio.AbortError | Gone)


def code_of_end(context: grpc.aio.ServicerContext) -> str:
    """gRPC cancels a call of which the caller has gone and one whose deadline has passed alike."""
    left = context.time_remaining()
    return "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"


SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def text_of(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def token_in(metadata: Metadata) -> str:
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    if not token or scheme.lower() != "bearer":
        raise Unauthenticated("no token came with the call", reason="TOKEN_MISSING")
    return token.strip()


@asynccontextmanager
async def serving(
    settings: ServiceSettings,
    telemetry: Telemetry,
    add: Callable[[grpc.aio.Server], None],
    *,
    service_names: Sequence[str],
    health: Mapping[str, Check],
    verifier: TokenVerifier | None = None,
    spared: frozenset[str] = frozenset(),
) -> AsyncIterator[str]:
    """Serve what *add* adds, and yield the address; at the end, let running calls finish.

    *health* names each dependency (`dependency.postgres`) and how to ask after it, once a second;
    the service is NOT_SERVING while one is missing that it cannot do without (those in *spared* it
    can), and from the moment it is told to stop. Then callers turn away (`calling.ACCEPTING`),
    calls that run or still arrive are answered, and what runs after the grace is cancelled.
    """
    async with opened_verifier(settings, verifier) as verified:
        gate = _Gate(telemetry, verified, settings)
        server = grpc.aio.server(interceptors=[gate], options=options_of(settings))
        add(server)
        states = grpc_health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        reflection.enable_server_reflection(
            (
                *service_names,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ),
            server,
        )
        address = bind(server, settings)
        await states.set(ACCEPTING, health_pb2.HealthCheckResponse.SERVING)
        found = measured_health(telemetry)
        await tell_health(states, service_names, health, spared, found)
        await server.start()
        watch = asyncio.create_task(watch_health(states, service_names, health, spared, found))
        try:
            yield address
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            try:
                await states.enter_graceful_shutdown()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(LEAVE_SECONDS, settings.grace_seconds)):
                        await gate.quiet()
            finally:  # also of one that is cancelled while it stops
                await server.stop(settings.grace_seconds)


@asynccontextmanager
async def opened_verifier(
    settings: ServiceSettings, verifier: TokenVerifier | None
) -> AsyncIterator[TokenVerifier]:
    if verifier is not None:
        yield verifier
        return
    async with open_verifier(settings) as opened:
        yield opened


def most_bytes_sent(settings: ServiceSettings) -> int:
    return 4 * settings.max_message_bytes


def options_of(settings: ServiceSettings) -> list[tuple[str, int]]:
    answered_within = int(1000 * min(PING_SECONDS, settings.keepalive_seconds))
    return [
        # A request past max_message_bytes is refused by the gate, with its reason. Past this one
        # gRPC refuses it before it is read, and can give none.
        ("grpc.max_receive_message_length", RECEIVED_BEYOND * settings.max_message_bytes),
        ("grpc.max_send_message_length", most_bytes_sent(settings)),
        ("grpc.keepalive_time_ms", int(1000 * settings.keepalive_seconds)),
        # A client that answers no ping reads nothing: it is gone, or holds what it was sent.
        ("grpc.keepalive_timeout_ms", answered_within),
        ("grpc.http2.ping_timeout_ms", answered_within),
        ("grpc.keepalive_permit_without_calls", 1),
        # What one connection may hold open; calls past the capacity are told so before that.
        ("grpc.max_concurrent_streams", 2 * settings.max_concurrent_calls),
        ("grpc.server_handshake_timeout_ms", int(1000 * settings.handshake_seconds)),
        ("grpc.absolute_max_metadata_size", MOST_HEADER_BYTES),
        # Half of what callers of ours leave between two (`calling.PINGS_OF_OURS`).
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.max_connection_age_ms", int(1000 * settings.max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", int(1000 * settings.grace_seconds)),
        ("grpc.so_reuseport", 0),
    ]


def bind(server: grpc.aio.Server, settings: ServiceSettings) -> str:
    """Bind where the settings say; return where that is. Raises SettingsError when it is taken."""
    credentials = server_credentials(settings)
    try:
        if credentials is not None:
            port = server.add_secure_port(settings.listen, credentials)
        else:
            port = server.add_insecure_port(settings.listen)
    except RuntimeError:
        taken = f"cannot listen on {settings.listen}: it is taken or not ours"
        raise SettingsError([taken]) from None
    if settings.listen.startswith("unix:"):
        return settings.listen
    return f"{settings.listen.rpartition(':')[0]}:{port}"


def measured_health(telemetry: Telemetry) -> dict[str, bool]:
    """Where to keep whether each dependency is there, for whoever reads the measurements."""
    found: dict[str, bool] = {}

    def told(_: CallbackOptions) -> Iterable[Observation]:
        for name, well in dict(found).items():
            about = {"gatehouse.dependency": name.removeprefix("dependency.")}
            yield Observation(int(well), about)

    telemetry.meter.create_observable_gauge(
        "gatehouse.dependency.up", [told], description="Whether a dependency answers: 1, else 0"
    )
    return found


async def watch_health(
    states: Any,
    service_names: Sequence[str],
    checks: Mapping[str, Check],
    spared: frozenset[str],
    found: dict[str, bool],
) -> None:
    """Ask after every dependency each second, and say what is found; needs no answer to go on."""
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        await tell_health(states, service_names, checks, spared, found)


async def tell_health(
    states: Any,
    service_names: Sequence[str],
    checks: Mapping[str, Check],
    spared: frozenset[str],
    found: dict[str, bool],
) -> None:
    serving, missing = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    found |= dict(zip(checks, await asyncio.gather(*map(holds, checks.values())), strict=True))
    for name, well in found.items():
        await states.set(name, serving if well else missing)
    needed = (well for name, well in found.items() if name not in spared)
    overall = serving if all(needed) else missing
    for name in ("", *service_names):
        await states.set(name, overall)


async def holds(check: Check) -> bool:
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await check()
    except Exception:  # whatever it is, the dependency is not there
        return False


def run(main: Callable[[], AbstractAsyncContextManager[object]], service: str) -> int:
    """Run a service until SIGTERM or SIGINT; the process's exit code.

    Prints one line of JSON once it serves: {"service": …, "listen": …}. Wrong settings are told on
    standard error, and end with 2; a store that never answers is told as well, and ends with 1.
    """

    async def until_stopped() -> None:
        stop = asyncio.Event()
        starting = asyncio.current_task()
        assert starting is not None

        def told() -> None:
            stop.set()
            if not serves:
                starting.cancel()  # it may wait for a store that never comes

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        serves = False
        try:
            async with main() as address:
                serves = True
                collect_less_often()
                sys.stdout.write(json.dumps({"service": service, "listen": address}) + "\n")
                sys.stdout.flush()
                await stop.wait()
        except asyncio.CancelledError:
            if not stop.is_set():
                raise

    log_as_json(service)
    try:
        uvloop.run(until_stopped())
    except SettingsError as error:
        sys.stderr.write(f"{service}: {error}\n")
        return 2
    except Failure as failure:  # what it needs to start is not there
        sys.stderr.write(f"{service}: {failure.message}\n")
        return 1
    return 0


def collect_less_often() -> None:
    """Spare the garbage collector what was made at the start, and do not run it with each call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])


def log_as_json(service: str) -> None:
    """What the libraries of this process log goes the way of what the service logs (ALL-4)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
