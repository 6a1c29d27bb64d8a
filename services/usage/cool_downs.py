"""Who is in a cool-down, in Valkey: so that a flood of requests does little harm (USE-6).

It is a suspicion. Whoever is named here is decided on without taking locks, and the ledger still
has the last word: a name that is missing, after a restart or a failover, or one too many, only
costs the ledger more work (USE-7).
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

from redis.exceptions import RedisError

from services.runtime.failure import StoreUnavailable
from services.runtime.valkey import Valkey

ANSWER_SECONDS = 0.25
# After it did not answer it is left alone for a while, so that only one batch waits for it.
REST_SECONDS = 1.0
MILLISECOND = timedelta(milliseconds=1)


class CoolDowns:
    """The names of those in a cool-down. Every method raises StoreUnavailable."""

    def __init__(self, valkey: Valkey) -> None:
        self._valkey = valkey
        self._resting_until = float("-inf")

    async def running(self, users: Collection[UUID]) -> set[UUID]:
        """Which of *users* are in one, as far as is known here."""
        async with self._answering("MGET"):
            found = await self._valkey.client.mget([key_of(user_id) for user_id in users])
        return {user_id for user_id, known in zip(users, found, strict=True) if known}

    async def started(self, ends: Mapping[UUID, datetime], at: datetime) -> None:
        """Name the users whose cool-downs began at *at* until they end."""
        if not ends:
            return
        async with self._answering("SET", len(ends)):
            pipeline = self._valkey.client.pipeline(transaction=False)
            for user_id, end in ends.items():
                pipeline.set(key_of(user_id), end.isoformat(), px=max((end - at) // MILLISECOND, 1))
            await pipeline.execute()

    async def cleared(self, user_id: UUID) -> None:
        async with self._answering("DEL"):
            await self._valkey.client.delete(key_of(user_id))

    @asynccontextmanager
    async def _answering(self, command: str, size: int = 1) -> AsyncIterator[None]:
        """Around what asks the server, which has so long to answer."""
        clock = asyncio.get_running_loop().time
        if clock() < self._resting_until:
            raise StoreUnavailable("the cool-downs do not answer")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with self._valkey.asking(command, size):
                    yield
        except (StoreUnavailable, RedisError, TimeoutError):
            self._resting_until = clock() + REST_SECONDS
            raise StoreUnavailable("the cool-downs do not answer") from None


def key_of(user_id: UUID) -> str:
    """The braces keep a user's key in one place of a cluster, whatever else it may get."""
    return f"usage:cool-down:{{{user_id}}}"
