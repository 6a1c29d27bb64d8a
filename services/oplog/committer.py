"""Commits what many senders send together: one transaction as soon as the one before is done."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.oplog.postgres import Store
from services.oplog.projection import Malformed, OperationSpan
from services.runtime.failure import Exhausted, Failure, Internal

MOST_SPANS = 2000


class LogOverloaded(Exhausted):
    """The log cannot keep up; send again after a while."""

    reason = "LOG_OVERLOADED"


@dataclass
class Waiting:
    spans: Sequence[OperationSpan]
    malformed: Sequence[Malformed]
    committed: asyncio.Future[None]


class Committer:
    """Answers a sender once what it sent is committed."""

    def __init__(self, store: Store, *, most_waiting: int, now: Callable[[], datetime]) -> None:
        self._store = store
        self._most_waiting = most_waiting
        self._now = now
        self._waiting: list[Waiting] = []
        self._some = asyncio.Event()

    async def commit(self, spans: Sequence[OperationSpan], malformed: Sequence[Malformed]) -> None:
        """Return once it is committed. Raises LogOverloaded, StoreUnavailable."""
        if len(self._waiting) >= self._most_waiting:
            raise LogOverloaded("the log cannot keep up", retry_after=timedelta(milliseconds=500))
        waiting = Waiting(spans, malformed, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._some.set()
        await waiting.committed

    async def run(self) -> None:
        """Commit what waits, for ever; run as a task."""
        while True:
            await self._some.wait()
            batch = self._batch()
            try:
                await self._store.append(
                    [span for each in batch for span in each.spans],
                    [span for each in batch for span in each.malformed],
                    self._now(),
                )
            except Failure as failure:
                tell(batch, failure)
            except Exception:
                tell(batch, Internal())
                raise
            else:
                tell(batch, None)

    def _batch(self) -> list[Waiting]:
        """What waits, as far as it fits one transaction; one at least."""
        batch: list[Waiting] = []
        size = 0
        while self._waiting and (not batch or size < MOST_SPANS):
            batch.append(self._waiting.pop(0))
            size += len(batch[-1].spans) + len(batch[-1].malformed)
        if not self._waiting:
            self._some.clear()
        return batch


def tell(batch: Sequence[Waiting], failure: Failure | None) -> None:
    for each in batch:
        if each.committed.done():  # its sender went away; what it sent is committed all the same
            continue
        if failure is None:
            each.committed.set_result(None)
        else:
            each.committed.set_exception(failure)


@asynccontextmanager
async def open_committer(
    store: Store, *, most_waiting: int, now: Callable[[], datetime]
) -> AsyncIterator[Committer]:
    committer = Committer(store, most_waiting=most_waiting, now=now)
    running = asyncio.create_task(committer.run())
    try:
        yield committer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
