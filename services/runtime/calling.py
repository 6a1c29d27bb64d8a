"""Calls to peers: always a deadline, the trace and a token; retries where safe (ALL-1)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from services.runtime.failure import DeadlineExceeded, Failure
from services.runtime.identity import current_caller
from services.runtime.settings import LOOPBACK, ServiceSettings
from services.runtime.telemetry import context_out

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
# Kept back from a caller's deadline, so that the answer still gets out.
MARGIN_SECONDS = 0.05

_deadline: ContextVar[float | None] = ContextVar("gatehouse_deadline", default=None)

Metadata = Sequence[tuple[str, str]]


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


@dataclass(frozen=True)
class PeerTls:
    """What a peer's certificate must be signed by, and the certificate shown to it."""

    ca: bytes | None
    certificate: bytes | None = None
    key: bytes | None = None


def peer_tls(settings: ServiceSettings) -> PeerTls | None:
    """The TLS of calls to peers, or None where none is set up: then only this machine is called."""
    if settings.peer_ca_file is None:
        return None
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    return PeerTls(
        settings.peer_ca_file.read_bytes(),
        certificate.read_bytes() if certificate else None,
        key.read_bytes() if key else None,
    )


class TokenSource:
    """The service's own token, read again when its file changes."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._token = ""

    def token(self) -> str:
        if self._file is None:
            return ""
        stat = self._file.stat()
        seen = (stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._token, self._seen = self._file.read_text().strip(), seen
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


class _Outgoing(
    grpc.aio.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.aio.UnaryStreamClientInterceptor,  # type: ignore[misc]
):
    """Adds the trace context; refuses a unary call without a deadline."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        if details.timeout is None:
            raise WithoutDeadline(details.method)
        return await continuation(with_context(details), request)

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], details: Any, request: Any
    ) -> Any:
        return await continuation(with_context(details), request)


def with_context(details: Any) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    for name, value in context_out():
        if name not in metadata:
            metadata.add(name, value)
    return details._replace(metadata=metadata)


@asynccontextmanager
async def channel(
    target: str, *, tls: PeerTls | None = None, idempotent: Iterable[str] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a peer, spread over its replicas, that reconnects by itself.

    *idempotent* names services or methods (`pkg.Service` or `pkg.Service/Method`) whose UNAVAILABLE
    calls may be sent again. Raises Failure where plain text would leave this machine.
    """
    options = [
        ("grpc.service_config", json.dumps(service_config(idempotent))),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A channel of its own: services that share a process do not share fates.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    interceptors = [_Outgoing()]
    if tls is not None:
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
        opened = grpc.aio.secure_channel(target, credentials, options, interceptors=interceptors)
    elif target.startswith(LOOPBACK):
        opened = grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    else:
        raise Failure("plain text is for this machine only: TLS to the peer is not set up")
    try:
        yield opened
    finally:
        await opened.close(grace=None)


def service_config(idempotent: Iterable[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
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
