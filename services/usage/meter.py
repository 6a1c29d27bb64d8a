"""Decides claims: many at once, each exactly (USE-1 to USE-7).

All that waits when the batch before is decided makes the next one: one look at who is in a
cool-down, one transaction in the ledger. There is no timer, so nobody waits while nothing else
is going on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
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
BUSY_SECONDS, BUSY_TOGETHER_SECONDS, AGAIN_SECONDS = 2.0, 0.2, 0.02
# For how many users at a time a connection waits until their row is free.
MOST_QUEUES = 2
RESTART_SECONDS = 1.0
REST_SECONDS = 0.05


@dataclass(eq=False)
class Call:
    """A call, and the decisions on its claims so far: None where there is none yet."""

    decided: list[Decided | None]
    answer: asyncio.Future[list[Decided]]
    trace: otel_context.Context

    def tell(self, answer: list[Decided] | Failure) -> None:
        """Answer, unless the caller went away; what is counted then stays until released."""
        if self.answer.done():
            return
        if isinstance(answer, Failure):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


@dataclass(eq=False)
class Pending:
    """The claims of one user in a call, with their places in it."""

    call: Call
    user_id: UUID
    claims: list[Claim]
    places: list[int]
    # Until when they are tried again while others hold the user's row, by the loop's clock.
    busy_until: float

    def take(self, decided: Sequence[Decided], *, at_last: bool) -> bool:
        """Take the decisions; False, and nothing is taken, where the user is busy.

        Unless *at_last*, or they were waited for already. The last of a call answers it.
        """
        for each in decided:
            if isinstance(each, UserBusy) and not (at_last or each.at_last):
                return False
        for place, each in zip(self.places, decided, strict=True):
            self.call.decided[place] = each
        if None not in self.call.decided:
            self.call.tell([each for each in self.call.decided if each is not None])
        return True


class Meter:
    """Says of each claim whether it is granted, and counts it when it is."""

    def __init__(self, ledger: Ledger, cool_downs: CoolDowns, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._cool_downs = cool_downs
        self._telemetry = telemetry
        self._log = telemetry.log
        self._waiting: list[Pending] = []
        # Of users whose rows others hold: tried again in a moment, or waiting for that row.
        self._again: set[Pending] = set()
        self._queues: dict[UUID, list[Pending]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._queueing: set[asyncio.Task[None]] = set()
        self._some = asyncio.Event()
        self._stopped = False

    async def consume(self, claims: Sequence[Claim]) -> list[Decided]:
        """Decide *claims* in their order; the answers are committed.

        A user whose row another transaction holds is waited for, and is UserBusy after a while.
        Raises StoreUnavailable, StoreBusy, Exhausted.
        """
        if self._stopped:
            raise StoreUnavailable("nothing can be counted at the moment")
        if len(self._waiting) + len(self._again) >= MOST_WAITING:
            raise Exhausted("too many claims wait", retry_after=timedelta(milliseconds=200))
        loop = asyncio.get_running_loop()
        call = Call([None] * len(claims), loop.create_future(), otel_context.get_current())
        self._waiting += pending_in(call, claims, loop.time())
        self._some.set()
        return await call.answer

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
        for task in (*self._working, *self._queueing):
            task.cancel()
        waiting = [*self._waiting, *self._again]
        self._waiting, self._again = [], set()
        self._some.clear()
        tell(waiting, StoreUnavailable("nothing can be counted at the moment"))

    def _batch(self) -> list[Pending]:
        """What waits, as far as it fits one transaction; one at least."""
        batch: list[Pending] = []
        size = 0
        while self._waiting and (not batch or size < MOST_CLAIMS):
            each = self._waiting.pop(0)
            if each.call.answer.done():
                continue  # its caller went away
            if each.user_id in self._queues:
                self._queues[each.user_id].append(each)
                continue
            batch.append(each)
            size += len(each.claims)
        if not self._waiting:
            self._some.clear()
        return batch

    async def _begin(self, batch: Sequence[Pending]) -> None:
        """Return once *batch* is decided, or is late and there may be one more beside it.

        One that hangs holds up no other (USE-9); each ends by the time-outs of its transaction.
        """
        work = asyncio.create_task(self._answer(batch))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        await asyncio.wait({work}, timeout=LATE_SECONDS)
        if len(self._working) >= MOST_BESIDE:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)

    async def _answer(self, batch: Sequence[Pending]) -> None:
        """Have *batch* decided, or say in good time that it could not be.

        Whether it was committed all the same is found out by the next claim under the same id.
        """
        try:
            async with asyncio.timeout(DECIDE_SECONDS):
                await self._decide(batch)
        except TimeoutError:
            self._log.warning("the store does not answer")

    async def _decide(self, batch: Sequence[Pending], *, wait: bool = False) -> None:
        """Answer everybody in *batch*. What breaks on one caller's claims is told to that one."""
        try:
            with self._telemetry.together("decide claims", [each.call.trace for each in batch]):
                await self._decide_together(batch, wait=wait)
        except Failure as failure:
            tell(batch, failure)
        except asyncio.CancelledError:
            tell(batch, StoreUnavailable("the store does not answer"))
            raise
        except Exception as error:
            self._log.error("claims could not be decided", exc_info=error)
            if len(batch) == 1:
                tell(batch, Internal())
                return
            for each in batch:
                await self._decide([each], wait=wait)

    async def _decide_together(self, batch: Sequence[Pending], *, wait: bool) -> None:
        claims = [claim for each in batch for claim in each.claims]
        suspects = await self._in_cool_down({each.user_id for each in batch})
        decided, books = await self._ledger.decide(claims, suspects=suspects, wait=wait)
        now, place = asyncio.get_running_loop().time(), 0
        for each in batch:
            theirs = decided[place : place + len(each.claims)]
            place += len(each.claims)
            if not each.take(theirs, at_last=now >= each.busy_until):
                self._put_back(each)
        await self._remember(books)

    def _put_back(self, pending: Pending) -> None:
        """Another transaction holds the user's row: queue for it, or try again in a moment.

        Postgres serves a queue in its order, so that replicas take turns at a user whom all of
        them are asked about. There are few queues: each takes a connection.
        """
        queue = self._queues.get(pending.user_id)
        if queue is not None:
            queue.append(pending)
        elif len(self._queues) < MOST_QUEUES:
            self._queues[pending.user_id] = [pending]
            task = asyncio.create_task(self._serve_queue(pending.user_id), context=Context())
            self._queueing.add(task)
            task.add_done_callback(self._queueing.discard)
        else:
            self._again.add(pending)
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._try_again, pending)

    def _try_again(self, pending: Pending) -> None:
        if pending in self._again:
            self._again.discard(pending)
            self._waiting.append(pending)
            self._some.set()

    async def _serve_queue(self, user_id: UUID) -> None:
        """Decide what comes of one user, waiting for the row, until nothing comes any more."""
        batch: list[Pending] = []
        try:
            while batch := [each for each in self._queues[user_id] if not each.call.answer.done()]:
                self._queues[user_id] = []
                await self._decide(batch, wait=True)
        finally:
            left = [*batch, *self._queues.pop(user_id)]
            tell(left, StoreUnavailable("nothing can be counted at the moment"))

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


def pending_in(call: Call, claims: Sequence[Claim], now: float) -> list[Pending]:
    """*claims* of *call*, those of each user together, in their order."""
    found: dict[UUID, Pending] = {}
    users = {each.user_id for each in claims}
    until = now + (BUSY_SECONDS if len(users) == 1 else BUSY_TOGETHER_SECONDS)
    for place, claim in enumerate(claims):
        user_id = claim.user_id
        if user_id not in found:
            found[user_id] = Pending(call, user_id, [], [], until)
        found[user_id].claims.append(claim)
        found[user_id].places.append(place)
    return list(found.values())


def tell(pending: Iterable[Pending], failure: Failure) -> None:
    for each in pending:
        each.call.tell(failure)


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
