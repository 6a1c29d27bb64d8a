"""Serves a service: who calls, what is checked, what is told, and how it stops (ALL-1, ALL-2)."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.runtime import validation
from services.runtime.calling import set_deadline
from services.runtime.failure import (
    DeadlineExceeded,
    Exhausted,
    Failure,
    Internal,
    Unauthenticated,
    failure_from,
)
from services.runtime.identity import TokenVerifier, open_verifier, set_caller
from services.runtime.settings import ServiceSettings, SettingsError
from services.runtime.telemetry import Telemetry, context_in

Check = Callable[[], Awaitable[bool]]

# Where google.rpc.Status travels, by the convention of gRPC's libraries.
STATUS_DETAILS = "grpc-status-details-bin"
RETRY_OVERLOADED = timedelta(milliseconds=200)
# They tell nothing of anybody, and what asks for them has no token.
PUBLIC = ("/grpc.health.v1.Health/", "/grpc.reflection.")
HEALTH_SECONDS = 1.0


class _Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Stands before every handler: token, rules, span, and the mapping of failures."""

    def __init__(
        self,
        telemetry: Telemetry,
        verifier: TokenVerifier,
        public_methods: frozenset[str],
        max_concurrent_calls: int,
    ) -> None:
        self._telemetry = telemetry
        self._verifier = verifier
        self._public = (*PUBLIC, *public_methods)
        self._most = max_concurrent_calls
        self._running = 0
        self._duration = telemetry.meter.create_histogram(
            "rpc.server.call.duration", unit="s", description="The duration of calls served"
        )

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(details)
        if handler is None or details.method.startswith(PUBLIC):
            return handler
        if handler.request_streaming:
            raise NotImplementedError("no service of ours takes a stream")
        if handler.response_streaming:
            behaviour = self._streaming(handler.unary_stream, details.method)
            make = grpc.unary_stream_rpc_method_handler
        else:
            behaviour = self._unary(handler.unary_unary, details.method)
            make = grpc.unary_unary_rpc_method_handler
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _unary(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            async with self._call(method, request, context):
                return await behaviour(request, context)

        return call

    def _streaming(self, behaviour: Any, method: str) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            async with self._call(method, request, context):
                async for response in behaviour(request, context):
                    yield response

        return call

    @asynccontextmanager
    async def _call(
        self, method: str, request: Any, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[None]:
        """Everything around one call. Ends it with a status when something is raised within."""
        metadata = text_of(context.invocation_metadata())
        started = time.monotonic()
        attributes = {"rpc.system.name": "grpc", "rpc.method": method.removeprefix("/")}
        failure: Failure | None = None
        self._running += 1
        try:
            with self._telemetry.tracer.start_as_current_span(
                method.removeprefix("/"),
                context=context_in(metadata),
                kind=SpanKind.SERVER,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    await self._admit(method, metadata, request, context)
                    yield
                except asyncio.CancelledError:
                    span.set_attribute("rpc.response.status_code", "CANCELLED")
                    raise
                except Exception as error:
                    failure = self._failure_of(error, method)
                    span.set_attribute("rpc.response.status_code", failure.code.name)
                    span.set_attribute("error.type", failure.reason)
                    if failure.code in SERVER_FAULTS:
                        span.set_status(Status(StatusCode.ERROR))
                else:
                    span.set_attribute("rpc.response.status_code", "OK")
        finally:
            self._running -= 1
            code = failure.code.name if failure else "OK"
            self._duration.record(
                time.monotonic() - started, {**attributes, "rpc.response.status_code": code}
            )
        if failure is not None:
            details = (STATUS_DETAILS, failure.status().SerializeToString())
            await context.abort(failure.code, failure.message, trailing_metadata=(details,))

    async def _admit(
        self, method: str, metadata: Mapping[str, str], request: Any, context: Any
    ) -> None:
        """Raises Failure unless the call may go on: capacity, token, deadline, rules of fields."""
        if self._running > self._most:
            raise Exhausted("the service is at its limit of calls", retry_after=RETRY_OVERLOADED)
        set_deadline(context.time_remaining())
        if not method.startswith(self._public):
            set_caller(await self._verifier.verify(token_in(metadata)))
        validation.check(request)

    def _failure_of(self, error: Exception, method: str) -> Failure:
        if isinstance(error, Failure):
            return error
        if isinstance(error, grpc.aio.AioRpcError):
            return failure_from(error)
        if isinstance(error, TimeoutError):
            return DeadlineExceeded()
        self._telemetry.log.error("a call to %s broke", method, exc_info=error)
        return Internal()


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


def token_in(metadata: Mapping[str, str]) -> str:
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
    public_methods: frozenset[str] = frozenset(),
    spared: frozenset[str] = frozenset(),
) -> AsyncIterator[str]:
    """Serve what *add* adds, and yield the address; at the end, let running calls finish.

    *health* names each dependency (`dependency.postgres`) and how to ask after it, once a second;
    the service is NOT_SERVING while one is missing that it cannot do without (those in *spared* it
    can), and from the moment it is told to stop.
    """
    async with opened_verifier(settings, verifier) as verified:
        gate = _Gate(telemetry, verified, public_methods, settings.max_concurrent_calls)
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
        await server.start()
        watch = asyncio.create_task(watch_health(states, service_names, health, spared))
        try:
            yield address
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await states.enter_graceful_shutdown()
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


def options_of(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", 4 * settings.max_message_bytes),
        ("grpc.keepalive_time_ms", int(1000 * settings.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.max_connection_age_ms", int(1000 * settings.max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", int(1000 * settings.grace_seconds)),
        ("grpc.so_reuseport", 0),
    ]


def bind(server: grpc.aio.Server, settings: ServiceSettings) -> str:
    """Bind where the settings say; return where that is. Raises SettingsError when it is taken."""
    try:
        if settings.tls_certificate_file and settings.tls_key_file:
            ca = settings.tls_client_ca_file
            credentials = grpc.ssl_server_credentials(
                [(settings.tls_key_file.read_bytes(), settings.tls_certificate_file.read_bytes())],
                ca.read_bytes() if ca else None,
                require_client_auth=ca is not None,
            )
            port = server.add_secure_port(settings.listen, credentials)
        else:
            port = server.add_insecure_port(settings.listen)
    except RuntimeError:
        taken = f"cannot listen on {settings.listen}: it is taken or not ours"
        raise SettingsError([taken]) from None
    if settings.listen.startswith("unix:"):
        return settings.listen
    return f"{settings.listen.rpartition(':')[0]}:{port}"


async def watch_health(
    states: Any, service_names: Sequence[str], checks: Mapping[str, Check], spared: frozenset[str]
) -> None:
    """Ask after every dependency each second, and say what is found; needs no answer to go on."""
    serving, missing = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    while True:
        found = dict(zip(checks, await asyncio.gather(*map(holds, checks.values())), strict=True))
        for name, well in found.items():
            await states.set(name, serving if well else missing)
        needed = (well for name, well in found.items() if name not in spared)
        overall = serving if all(needed) else missing
        for name in ("", *service_names):
            await states.set(name, overall)
        await asyncio.sleep(HEALTH_SECONDS)


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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with main() as address:
            sys.stdout.write(json.dumps({"service": service, "listen": address}) + "\n")
            sys.stdout.flush()
            await stop.wait()

    try:
        uvloop.run(until_stopped())
    except SettingsError as error:
        sys.stderr.write(f"{service}: {error}\n")
        return 2
    except Failure as failure:  # what it needs to start is not there
        sys.stderr.write(f"{service}: {failure.message}\n")
        return 1
    return 0
