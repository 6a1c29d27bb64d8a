"""Connections to Valkey."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.runtime.failure import StoreUnavailable

ANSWER_SECONDS = 0.25
CONNECT_SECONDS = 0.25


@contextmanager
def outages_told() -> Iterator[None]:
    """Turn what a missing, loading or read-only server raises into StoreUnavailable."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError):
        raise StoreUnavailable("the store does not answer") from None
    except ResponseError as error:
        if str(error).startswith(("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")):
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
        retry_on_timeout=False,
        protocol=3,
    )
    try:
        yield Valkey(client)
    finally:
        await client.aclose()
