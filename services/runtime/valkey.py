"""Connections to Valkey."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import redis.asyncio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from services.runtime.failure import StoreUnavailable
from services.runtime.telemetry import Telemetry

ANSWER_SECONDS = 0.25
CONNECT_SECONDS = 0.25
# A server that is missing, loading, a replica, out of its cluster, or out of memory.
AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.OutOfMemoryError,
)


@contextmanager
def outages_told() -> Iterator[None]:
    """Turn what a missing, loading or read-only server raises into StoreUnavailable."""
    try:
        yield
    except (*AWAY, OSError):
        raise StoreUnavailable("the store does not answer") from None
    except ResponseError as error:
        if str(error).startswith(("MISCONF", "NOREPLICAS")):  # it takes no writes
            raise StoreUnavailable("the store does not answer") from None
        raise


class Valkey:
    """A service's connections to Valkey; `client` speaks, `asking` around it tells."""

    def __init__(self, client: redis.asyncio.Redis, telemetry: Telemetry | None = None) -> None:
        self.client = client
        self._telemetry = telemetry
        told = client.connection_pool.connection_kwargs
        self._about: dict[str, str | int] = {
            "db.system.name": "valkey",
            "db.namespace": str(told.get("db", 0)),
            "server.address": str(told.get("path") or told.get("host", "")),
        }
        if told.get("port", 6379) != 6379:
            self._about["server.port"] = int(told["port"])

    @contextmanager
    def asking(self, command: str, size: int = 1) -> Iterator[None]:
        """Around *command*, or *size* of them in a pipeline. Raises StoreUnavailable.

        Neither keys nor values are in its span (LOG-6).
        """
        with outages_told():
            span = self._begun(command, size)
            if span is None:
                yield
                return
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.end()

    def _begun(self, command: str, size: int) -> Span | None:
        if self._telemetry is None:
            return None
        name = command if size == 1 else f"PIPELINE {command}"
        about = {**self._about, "db.operation.name": name}
        if size != 1:
            about["db.operation.batch.size"] = size
        return self._telemetry.begun(name, SpanKind.CLIENT, about)

    async def check(self) -> bool:
        """Whether the server answers; for the service's health."""
        try:
            return bool(await self.client.ping())
        except (RedisError, OSError):
            return False


@asynccontextmanager
async def open_valkey(
    url: str, *, max_connections: int = 64, telemetry: Telemetry | None = None
) -> AsyncIterator[Valkey]:
    """Connections with time-outs. A missing server is found out by each call, not here."""
    client = redis.asyncio.Redis.from_url(
        url,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        max_connections=max_connections,
        # The caller knows better what to do instead, and has no time to lose.
        retry=Retry(NoBackoff(), 0),
        protocol=3,
    )
    try:
        yield Valkey(client, telemetry)
    finally:
        await client.aclose()
