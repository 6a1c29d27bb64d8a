"""Tells followers that the log has grown: Postgres notifies, every follower reads for itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg

from services.oplog.postgres import CHANNEL
from services.runtime.connection import listening

RECONNECT_SECONDS = 0.5


class Growth:
    """Wakes whoever waits for new rows."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """What is set when the log grows after now: taken before a look, nothing is missed."""
        return self._next


async def grown(growth: asyncio.Event, seconds: float) -> None:
    """Return when the log has grown, or after *seconds*."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await growth.wait()


async def listen(url: str, growth: Growth) -> None:
    """Pass on what Postgres notifies, for ever; followers look by themselves now and then too."""
    while True:
        try:
            async with listening(url, CHANNEL) as connection:
                growth.tell()
                async for _ in connection.notifies():
                    growth.tell()
        except psycopg.Error:
            await asyncio.sleep(RECONNECT_SECONDS)


@asynccontextmanager
async def open_growth(url: str) -> AsyncIterator[Growth]:
    growth = Growth()
    listening = asyncio.create_task(listen(url, growth))
    try:
        yield growth
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
