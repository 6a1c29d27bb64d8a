"""Who is in a cool-down, in Valkey: so that a flood of requests does little harm (USE-6).

It is a suspicion. Whoever is named here is decided on without taking locks, and the ledger still
has the last word: a name that is missing, after a restart or a failover, or one too many, only
costs the ledger more work (USE-7).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

from redis.exceptions import RedisClusterException, RedisError

from services.runtime.failure import StoreUnavailable
from services.runtime.valkey import Valkey

ANSWER_SECONDS = 0.25
# After it did not answer it is left alone for a while, so that only one batch waits for it.
REST_SECONDS = 1.0
# While it lasts it is said in the log so often.
WARN_SECONDS = 60.0
MILLISECOND = timedelta(milliseconds=1)


class CoolDowns:
    """The names of those in a cool-down. Every method raises StoreUnavailable."""

    def __init__(self, valkey: Valkey, log: logging.Logger) -> None:
        self._valkey = valkey
        self._log = log
        self._next_warning = float("-inf")
        self._resting_until = float("-inf")

    async def running(self, users: Collection[UUID]) -> set[UUID]:
        """Which of *users* are in one, as far as is known here."""
        async with self._answering("MGET"):
            found = await self._valkey.get_each([key_of(user_id) for user_id in users])
        return {user_id for user_id, known in zip(users, found, strict=True) if known}

    async def started(self, ends: Mapping[UUID, datetime], at: datetime) -> None:
        """Name the users whose cool-downs began at *at* until they end."""
        if not ends:
            return
        async with self._answering("SET", len(ends)):
            await self._valkey.set_each(
                {
                    key_of(user_id): (end.isoformat(), max((end - at) // MILLISECOND, 1))
                    for user_id, end in ends.items()
                }
            )

    async def cleared(self, user_id: UUID) -> None:
        async with self._answering("DEL"):
            await self._valkey.client.delete(key_of(user_id))

    async def check(self) -> bool:
        """Whether Valkey answers and takes what is written; for the service's health."""
        async with self._telling():
            return await self._valkey.probe()

    @asynccontextmanager
    async def _answering(self, command: str, size: int = 1) -> AsyncIterator[None]:
        """Around what asks the server, which has so long to answer."""
        clock = asyncio.get_running_loop().time
        if clock() < self._resting_until:
            raise StoreUnavailable("the cool-downs do not answer")
        try:
            async with self._telling(), asyncio.timeout(ANSWER_SECONDS):
                with self._valkey.asking(command, size):
                    yield
        except StoreUnavailable:
            self._resting_until = clock() + REST_SECONDS
            raise

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Turn what goes wrong into StoreUnavailable; say in the log what it is, now and then.

        Silence and refusals alike: a server that is no cluster's, or lacks a permission, is of no
        use, and nobody but the log would tell.
        """
        try:
            yield
        except (StoreUnavailable, RedisError, RedisClusterException, OSError) as error:
            what = error.__context__ if isinstance(error, StoreUnavailable) else error
            now = asyncio.get_running_loop().time()
            if now >= self._next_warning:
                self._log.warning(
                    "Valkey does not work (%s): Postgres answers alone", type(what).__name__
                )
                self._next_warning = now + WARN_SECONDS
            raise StoreUnavailable("the cool-downs do not answer") from None


def key_of(user_id: UUID) -> str:
    """The braces keep a user's key in one place of a cluster, whatever else it may get."""
    return f"usage:cool-down:{{{user_id}}}"
