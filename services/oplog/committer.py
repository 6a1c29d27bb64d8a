"""Commits what many senders send together: one transaction as soon as the one before is done."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry import context as otel_context

from services.oplog.postgres import Store
from services.oplog.projection import Malformed, OperationSpan
from services.runtime.failure import Exhausted, Failure, Internal, StoreBusy, StoreUnavailable
from services.runtime.telemetry import Telemetry

MOST_SPANS = 2000
# So many are kept in memory however few Exports they come in: about 30 MiB.
MOST_WAITING_SPANS = 20_000


class LogOverloaded(Exhausted):
    """The log cannot keep up; send again after a while."""

    reason = "LOG_OVERLOADED"


@dataclass
class Waiting:
    spans: Sequence[OperationSpan]
    malformed: Sequence[Malformed]
    committed: asyncio.Future[list[Malformed]]
    trace: otel_context.Context

    @property
    def size(self) -> int:
        return len(self.spans) + len(self.malformed)

    def tell(self, answer: list[Malformed] | Failure) -> None:
        """Answer, unless the sender went away; what it sent is committed all the same."""
        if self.committed.done():
            return
        if isinstance(answer, Failure):
            self.committed.set_exception(answer)
        else:
            self.committed.set_result(answer)


class Committer:
    """Answers a sender once what it sent is committed."""

    def __init__(self, store: Store, telemetry: Telemetry, *, most_waiting: int) -> None:
        self._store = store
        self._telemetry = telemetry
        self._most_waiting = most_waiting
        self._waiting: list[Waiting] = []
        self._waiting_spans = 0
        self._some = asyncio.Event()
        self._stopped = False

    async def commit(
        self, spans: Sequence[OperationSpan], malformed: Sequence[Malformed]
    ) -> list[Malformed]:
        """Return once it is committed; what of *spans* contradicts the log, and is kept aside.

        Raises LogOverloaded, StoreUnavailable.
        """
        if self._stopped:
            raise StoreUnavailable("the log is stopping")
        committed = asyncio.get_running_loop().create_future()
        waiting = Waiting(spans, malformed, committed, otel_context.get_current())
        if self._is_full(waiting.size):
            raise LogOverloaded("the log cannot keep up", retry_after=timedelta(milliseconds=500))
        self._waiting.append(waiting)
        self._waiting_spans += waiting.size
        self._some.set()
        return await waiting.committed

    def _is_full(self, more: int) -> bool:
        """Whether so many spans more find no place; where nothing waits, any number does."""
        too_many = bool(self._waiting) and self._waiting_spans + more > MOST_WAITING_SPANS
        return too_many or len(self._waiting) >= self._most_waiting

    async def run(self) -> None:
        """Commit what waits, for ever; run as a task. Nobody is left waiting when it ends."""
        batch: list[Waiting] = []
        try:
            while True:
                await self._some.wait()
                batch = self._batch()
                await self._commit(batch)
        finally:
            self._stopped = True
            for each in [*batch, *self._waiting]:
                each.tell(StoreUnavailable("the log is stopping"))

    async def _commit(self, batch: Sequence[Waiting]) -> None:
        """Answer everybody in *batch*. What breaks on one sender's spans is told to that one."""
        try:
            with self._telemetry.together("commit operations", [each.trace for each in batch]):
                refused = await self._append(batch)
        except StoreBusy as failure:
            # Who waits already has waited for the same lock: nobody's refusal takes longer.
            for each in (*batch, *self._take_all()):
                each.tell(failure)
        except Failure as failure:
            for each in batch:
                each.tell(failure)
        except Exception as error:
            self._telemetry.log.error("spans could not be committed", exc_info=error)
            if len(batch) == 1:
                batch[0].tell(Internal())
                return
            for each in batch:
                await self._commit([each])
        else:
            for each in batch:
                sent = {(span.trace_id, span.span_id) for span in each.spans}
                each.tell([one for one in refused if (one.trace_id, one.span_id) in sent])

    async def _append(self, batch: Sequence[Waiting]) -> list[Malformed]:
        """Append what *batch* holds. Raises StoreBusy where the head stays locked by another.

        Another replica that hangs is ended by Postgres: mostly within the first wait for its lock.
        """
        spans = [span for each in batch for span in each.spans]
        malformed = [span for each in batch for span in each.malformed]
        try:
            return await self._store.append(spans, malformed)
        except StoreBusy:
            return await self._store.append(spans, malformed)

    def _take_all(self) -> list[Waiting]:
        waiting, self._waiting, self._waiting_spans = self._waiting, [], 0
        self._some.clear()
        return waiting

    def _batch(self) -> list[Waiting]:
        """What waits, as far as it fits one transaction; one at least."""
        batch: list[Waiting] = []
        size = 0
        while self._waiting and (not batch or size < MOST_SPANS):
            batch.append(self._waiting.pop(0))
            size += batch[-1].size
        self._waiting_spans -= size
        if not self._waiting:
            self._some.clear()
        return batch


@asynccontextmanager
async def open_committer(
    store: Store, telemetry: Telemetry, *, most_waiting: int
) -> AsyncIterator[Committer]:
    committer = Committer(store, telemetry, most_waiting=most_waiting)
    running = asyncio.create_task(committer.run())
    try:
        yield committer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
