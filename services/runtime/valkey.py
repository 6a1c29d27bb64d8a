"""Connections to Valkey."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from services.runtime.failure import StoreUnavailable

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
    """A service's connections to Valkey; `client` speaks, `outages_told` around it tells."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client

    async def check(self) -> bool:
        """Whether the server answers; for the service's health."""
        try:
            return bool(await self.client.ping())
        except (RedisError, OSError):
            return False


@asynccontextmanager
async def open_valkey(url: str, *, max_connections: int = 64) -> AsyncIterator[Valkey]:
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
        yield Valkey(client)
    finally:
        await client.aclose()
