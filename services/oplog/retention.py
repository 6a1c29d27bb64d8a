"""Drops what is too old to be kept, whole partitions of it, and makes new ones in time (LOG-4)."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from services.oplog.postgres import Store
from services.runtime.failure import StoreUnavailable


async def retain(store: Store, age: timedelta, log: logging.Logger) -> None:
    """Once: the partitions of this quarter and the next are there, those past *age* are not."""
    await store.prepare()
    if dropped := await store.drop(age):
        log.info("dropped %d quarters of the log that were older than %s", dropped, age)


async def retaining(
    store: Store, age: timedelta, every_seconds: float, log: logging.Logger
) -> None:
    """Now and then, for ever; run as a task."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await retain(store, age, log)
        except StoreUnavailable as failure:  # there is time: a quarter is made three months ahead
            log.warning("quarters of the log could not be looked after: %s", failure.reason)
        except Exception as error:
            log.error("what is old could not be dropped", exc_info=error)


@asynccontextmanager
async def open_retention(
    store: Store, age: timedelta, every_seconds: float, log: logging.Logger
) -> AsyncIterator[None]:
    """Retention at work; the partitions that are needed now are there from the start."""
    await retain(store, age, log)
    running = asyncio.create_task(retaining(store, age, every_seconds, log))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
