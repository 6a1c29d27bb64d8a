"""Decides claims: many at once, each exactly (USE-1 to USE-7).

All that waits when the batch before is decided makes the next one: one look at who is in a
cool-down, one transaction in the ledger. There is no timer, so nobody waits while nothing else
is going on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from opentelemetry import context as otel_context

from services.runtime.failure import Exhausted, Failure, Internal, StoreUnavailable
from services.runtime.gathering import gathered
from services.runtime.telemetry import Telemetry
from services.usage.books import Books, Decided
from services.usage.cool_downs import CoolDowns
from services.usage.ledger import MOST_FORGOTTEN, Ledger
from services.usage.nouns import Claim

MOST_CLAIMS = 1000
MOST_WAITING = 20_000
# A store that neither answers nor refuses for so long is away, as far as callers are concerned.
DECIDE_SECONDS = 2.0
RESTART_SECONDS = 1.0
REST_SECONDS = 0.05


@dataclass
class Waiting:
    claims: Sequence[Claim]
    decided: asyncio.Future[list[Decided]]
    trace: otel_context.Context

    def tell(self, answer: list[Decided] | Failure) -> None:
        """Answer, unless the caller went away; what is counted then stays until released."""
        if self.decided.done():
            return
        if isinstance(answer, Failure):
            self.decided.set_exception(answer)
        else:
            self.decided.set_result(answer)


class Meter:
    """Says of each claim whether it is granted, and counts it when it is."""

    def __init__(self, ledger: Ledger, cool_downs: CoolDowns, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._cool_downs = cool_downs
        self._telemetry = telemetry
        self._log = telemetry.log
        self._waiting: list[Waiting] = []
        self._some = asyncio.Event()
        self._deaf = False

    async def consume(self, claims: Sequence[Claim]) -> list[Decided]:
        """Decide *claims* in their order; the answers stand. Raises StoreUnavailable, Exhausted."""
        if self._deaf:
            raise StoreUnavailable("nothing can be counted at the moment")
        if len(self._waiting) >= MOST_WAITING:
            raise Exhausted("too many claims wait", retry_after=timedelta(milliseconds=200))
        decided = asyncio.get_running_loop().create_future()
        waiting = Waiting(claims, decided, otel_context.get_current())
        self._waiting.append(waiting)
        self._some.set()
        return await waiting.decided

    async def run(self) -> None:
        """Decide what waits, for ever; run as a task. Nobody is left waiting when it ends."""
        try:
            self._deaf = False
            while True:
                await self._some.wait()
                await gathered(self._waiting)
                await self._answer(self._batch())
        finally:
            self._refuse()

    def _refuse(self) -> None:
        """Tell everybody who waits, and whoever comes, that nothing can be counted."""
        self._deaf = True
        waiting, self._waiting = self._waiting, []
        self._some.clear()
        for each in waiting:
            each.tell(StoreUnavailable("nothing can be counted at the moment"))

    def _batch(self) -> list[Waiting]:
        """What waits, as far as it fits one transaction; one at least."""
        batch: list[Waiting] = []
        size = 0
        while self._waiting and (not batch or size < MOST_CLAIMS):
            batch.append(self._waiting.pop(0))
            size += len(batch[-1].claims)
        if not self._waiting:
            self._some.clear()
        return batch

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        """Have *batch* decided, or say in good time that it could not be."""
        deciding = asyncio.ensure_future(self._decide(batch))
        try:
            done, _ = await asyncio.wait({deciding}, timeout=DECIDE_SECONDS)
            if not done:
                self._log.warning("the store does not answer")
                for each in batch:
                    each.tell(StoreUnavailable("the store does not answer"))
                self._refuse()
            await deciding
            self._deaf = False
        finally:
            deciding.cancel()
            for each in batch:
                each.tell(StoreUnavailable("nothing can be counted at the moment"))

    async def _decide(self, batch: Sequence[Waiting]) -> None:
        """Answer everybody in *batch*. What breaks on one caller's claims is told to that one."""
        try:
            with self._telemetry.together("decide claims", [each.trace for each in batch]):
                await self._decide_together(batch)
        except Failure as failure:
            for each in batch:
                each.tell(failure)
        except Exception as error:
            self._log.error("claims could not be decided", exc_info=error)
            if len(batch) == 1:
                batch[0].tell(Internal())
                return
            for each in batch:
                await self._decide([each])

    async def _decide_together(self, batch: Sequence[Waiting]) -> None:
        claims = [claim for each in batch for claim in each.claims]
        suspects = await self._in_cool_down({claim.user_id for claim in claims})
        decided, books = await self._ledger.decide(claims, suspects=suspects)
        place = 0
        for each in batch:
            each.tell(decided[place : place + len(each.claims)])
            place += len(each.claims)
        await self._remember(books)

    async def _in_cool_down(self, users: set[UUID]) -> set[UUID]:
        try:
            return await self._cool_downs.running(users)
        except StoreUnavailable:
            return set()  # then the ledger does without

    async def _remember(self, books: Books) -> None:
        """Tell Valkey which cool-downs began; what it misses the ledger knows."""
        try:
            ends = {user_id: over.until for user_id, over in books.started.items()}
            await self._cool_downs.started(ends, books.at)
        except StoreUnavailable:
            self._log.debug("cool-downs that began could not be passed on")

    async def forget(self, user_id: UUID) -> None:
        """Have Valkey forget a user's cool-down; what is left there is only a suspicion."""
        try:
            await self._cool_downs.cleared(user_id)
        except StoreUnavailable:
            self._log.debug("a cool-down that was cleared could not be passed on")


@asynccontextmanager
async def open_meter(
    meter: Meter, ledger: Ledger, log: logging.Logger, *, sweep_seconds: float
) -> AsyncIterator[Meter]:
    """*meter* at work, with the ledger looked after and the sweeper beside it."""

    async def sweep() -> None:
        await sweeping(ledger, log, sweep_seconds)

    running = [asyncio.create_task(kept_going(work, log)) for work in (meter.run, sweep)]
    try:
        yield meter
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def kept_going(work: Callable[[], Awaitable[None]], log: logging.Logger) -> None:
    """*work*, for ever: what breaks it is told in the log, and it begins anew."""
    while True:
        try:
            await work()
        except Exception as error:
            log.error("a task of the meter broke", exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)


async def sweeping(ledger: Ledger, log: logging.Logger, every_seconds: float) -> None:
    """Release what nobody settled, and forget old receipts, now and then; run as a task."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            released = await ledger.sweep()
            while await ledger.forget() == MOST_FORGOTTEN:  # noqa: ASYNC110  it works
                await asyncio.sleep(REST_SECONDS)  # the counting comes first
        except StoreUnavailable:
            continue  # what is late stays late until it is back
        if released:
            log.info("released %d claims that were never settled", released)
