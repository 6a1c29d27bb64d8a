"""Decides claims: many at once, each exactly (USE-1 to USE-7).

All that waits when the batch before is decided makes the next one: one look at who is in a
cool-down, one transaction in the ledger. There is no timer, so nobody waits while nothing else
is going on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
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
from services.usage.nouns import Claim, UserBusy

MOST_CLAIMS = 1000
MOST_WAITING = 20_000
DECIDE_SECONDS = 2.0
# A batch that takes longer holds up no other: another is begun beside it, until there are so many.
LATE_SECONDS, MOST_BESIDE = 0.1, 4
# How long the claims of a user whose row is held are tried again, and how soon each time. Claims of
# several users in one call wait less, because all are answered together.
BUSY_SECONDS, BUSY_TOGETHER_SECONDS, AGAIN_SECONDS = 2.0, 0.2, 0.005
RESTART_SECONDS = 1.0
REST_SECONDS = 0.05


@dataclass(eq=False)
class Waiting:
    """A caller's claims, and the decisions on them so far: None where there is none yet."""

    claims: Sequence[Claim]
    answer: asyncio.Future[list[Decided]]
    trace: otel_context.Context
    decided: list[Decided | None]
    # Until when claims of users whose rows are held are tried again, by the loop's clock.
    busy_until: float

    @property
    def open(self) -> list[Claim]:
        return [
            claim
            for claim, decided in zip(self.claims, self.decided, strict=True)
            if decided is None
        ]

    def enter(self, decisions: Iterator[Decided], *, at_last: bool) -> bool:
        """Take the decisions on what was open; answer and return True once nothing is.

        A user whose row was held stays open, unless *at_last*.
        """
        for place, before in enumerate(self.decided):
            if before is None:
                decided = next(decisions)
                if at_last or not isinstance(decided, UserBusy):
                    self.decided[place] = decided
        if None in self.decided:
            return False
        self.tell([each for each in self.decided if each is not None])
        return True

    def tell(self, answer: list[Decided] | Failure) -> None:
        """Answer, unless the caller went away; what is counted then stays until released."""
        if self.answer.done():
            return
        if isinstance(answer, Failure):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Meter:
    """Says of each claim whether it is granted, and counts it when it is."""

    def __init__(self, ledger: Ledger, cool_downs: CoolDowns, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._cool_downs = cool_downs
        self._telemetry = telemetry
        self._log = telemetry.log
        self._waiting: list[Waiting] = []
        self._busy: set[Waiting] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._some = asyncio.Event()
        self._stopped = False

    async def consume(self, claims: Sequence[Claim]) -> list[Decided]:
        """Decide *claims* in their order; the answers are committed.

        A user whose row another transaction holds is waited for, and is UserBusy after a while.
        Raises StoreUnavailable, Exhausted.
        """
        if self._stopped:
            raise StoreUnavailable("nothing can be counted at the moment")
        if len(self._waiting) + len(self._busy) >= MOST_WAITING:
            raise Exhausted("too many claims wait", retry_after=timedelta(milliseconds=200))
        loop = asyncio.get_running_loop()
        alone = len({each.user_id for each in claims}) == 1
        waiting = Waiting(
            claims,
            loop.create_future(),
            otel_context.get_current(),
            [None] * len(claims),
            loop.time() + (BUSY_SECONDS if alone else BUSY_TOGETHER_SECONDS),
        )
        self._waiting.append(waiting)
        self._some.set()
        return await waiting.answer

    async def run(self) -> None:
        """Decide what waits, for ever; run as a task. Nobody is left waiting when it ends."""
        try:
            self._stopped = False
            while True:
                await self._some.wait()
                await gathered(self._waiting)
                if batch := self._batch():
                    await self._begin(batch)
        finally:
            self._stop()

    def _stop(self) -> None:
        """Tell everybody who waits, and whoever comes, that nothing can be counted."""
        self._stopped = True
        for task in self._working:
            task.cancel()
        waiting = [*self._waiting, *self._busy]
        self._waiting, self._busy = [], set()
        self._some.clear()
        for each in waiting:
            each.tell(StoreUnavailable("nothing can be counted at the moment"))

    def _batch(self) -> list[Waiting]:
        """What waits, as far as it fits one transaction; one at least."""
        batch: list[Waiting] = []
        size = 0
        while self._waiting and (not batch or size < MOST_CLAIMS):
            each = self._waiting.pop(0)
            if not each.answer.done():  # its caller went away
                batch.append(each)
                size += len(each.claims)
        if not self._waiting:
            self._some.clear()
        return batch

    async def _begin(self, batch: Sequence[Waiting]) -> None:
        """Return once *batch* is decided, or is late and there may be one more beside it.

        One that hangs holds up no other (USE-9); each ends by the time-outs of its transaction.
        """
        work = asyncio.create_task(self._answer(batch))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        await asyncio.wait({work}, timeout=LATE_SECONDS)
        if len(self._working) >= MOST_BESIDE:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)

    async def _answer(self, batch: Sequence[Waiting]) -> None:
        """Have *batch* decided, or say in good time that it could not be.

        Whether it was committed all the same is found out by the next claim under the same id.
        """
        deciding = asyncio.create_task(self._decide(batch))
        try:
            done, _ = await asyncio.wait({deciding}, timeout=DECIDE_SECONDS)
            if not done:
                self._log.warning("the store does not answer")
        finally:
            deciding.cancel()
        await asyncio.wait({deciding})

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
        claims = [claim for each in batch for claim in each.open]
        try:
            suspects = await self._in_cool_down({claim.user_id for claim in claims})
            decided, books = await self._ledger.decide(claims, suspects=suspects)
        except asyncio.CancelledError:
            for each in batch:
                each.tell(StoreUnavailable("the store does not answer"))
            raise
        self._tell(batch, decided)
        await self._remember(books)

    def _tell(self, batch: Sequence[Waiting], decided: Sequence[Decided]) -> None:
        """Answer those whose claims are all decided; the others are tried again in a moment."""
        loop, decisions = asyncio.get_running_loop(), iter(decided)
        busy = [
            each
            for each in batch
            if not each.enter(decisions, at_last=loop.time() >= each.busy_until)
        ]
        if busy:
            self._busy.update(busy)
            loop.call_later(AGAIN_SECONDS, self._again, busy)

    def _again(self, busy: Sequence[Waiting]) -> None:
        self._busy.difference_update(busy)
        if not self._stopped:
            self._waiting += busy
            self._some.set()

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
