"""What is asked side by side is done together: all that has gathered while the last was done.

There is no timer, so nobody waits while nothing else is going on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from opentelemetry import context as otel_context

from services.runtime.failure import Failure
from services.runtime.telemetry import Telemetry

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# How often the loop turns without bringing more before a batch is begun, and at most: those who
# wait already must not wait for as long as others keep coming.
QUIET_TURNS, MOST_TURNS = 10, 100
# A batch that takes longer holds up no other, as where one replica of several hangs: another is
# begun beside it, until there are so many.
LATE_SECONDS, MOST_BESIDE = 0.25, 8


async def gathered(waiting: Sized) -> None:
    """Return once the loop brings no more to *waiting*, or has turned often enough.

    Calls that arrive side by side come one after another, so a batch begun at the first would be
    small, and each costs much the same. An idle loop turns in no time.
    """
    quiet = 0
    for _ in range(MOST_TURNS):
        count = len(waiting)
        await asyncio.sleep(0)
        quiet = quiet + 1 if len(waiting) == count else 0
        if quiet == QUIET_TURNS:
            return


@dataclass(frozen=True)
class Asked(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    trace: otel_context.Context = field(default_factory=otel_context.get_current)


class Together(Generic[Item, Answer]):
    """Has *do* answer many items at once, in their order.

    A Failure that it raises is everybody's. What else breaks it, or a Failure for which *is_ones*
    says that one item is to blame, is found out by asking about each alone. An item that nobody
    waits for any more is left out; of one that was in work already, *unwanted* is told the answer.
    A batch has items of *most* in all by *size*, one at least. One goes after the other, unless one
    is late.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        telemetry: Telemetry | None,
        *,
        most: int,
        size: Callable[[Item], int] = lambda _: 1,
        is_ones: Callable[[Failure], bool] = lambda _: False,
        unwanted: Callable[[Item, Answer], Awaitable[None]] | None = None,
    ) -> None:
        self._name = name
        self._do = do
        self._telemetry = telemetry
        self._most = most
        self._size = size
        self._is_ones = is_ones
        self._unwanted = unwanted
        self._waiting: list[Asked[Item, Answer]] = []
        self._going: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item) -> Answer:
        """The answer to *item*. Raises what *do* raises."""
        asked = Asked[Item, Answer](item, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._going is None:  # in a context of its own: it is nobody's call
            self._going = asyncio.create_task(self._go(), context=Context())
        return await asked.answer

    async def _go(self) -> None:
        """Begin batches until nothing waits. Nobody is left waiting when it ends."""
        try:
            while self._waiting:
                await gathered(self._waiting)
                if batch := self._batch():
                    await self._begin(batch)
        except asyncio.CancelledError:
            for work in self._working:
                work.cancel()
            raise
        finally:
            self._going = None
            for each in self._waiting:
                each.answer.cancel()
            self._waiting = []

    async def _begin(self, batch: Sequence[Asked[Item, Answer]]) -> None:
        """Return once *batch* is answered, or is late and there may be one more beside it."""
        work = asyncio.create_task(self._work(batch))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        await asyncio.wait({work}, timeout=LATE_SECONDS)
        if len(self._working) >= MOST_BESIDE:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)

    async def _work(self, batch: Sequence[Asked[Item, Answer]]) -> None:
        try:
            await self._answer(batch)
        finally:
            for each in batch:
                each.answer.cancel()  # of one who is answered it changes nothing

    def _batch(self) -> list[Asked[Item, Answer]]:
        waiting = [each for each in self._waiting if not each.answer.done()]
        size = count = 0
        while count < len(waiting) and (not count or size < self._most):
            size += self._size(waiting[count].item)
            count += 1
        self._waiting = waiting[count:]
        return waiting[:count]

    async def _answer(self, batch: Sequence[Asked[Item, Answer]]) -> None:
        try:
            with self._traced(batch):
                answers = await self._do([each.item for each in batch])
            told = list(zip(batch, answers, strict=True))
        except Exception as error:
            if len(batch) == 1 or (isinstance(error, Failure) and not self._is_ones(error)):
                for each in batch:
                    tell(each.answer, error)
                return
            for each in batch:
                await self._answer([each])
            return
        for each, answer in told:
            if not each.answer.done():
                each.answer.set_result(answer)
            elif self._unwanted is not None:
                await self._unwanted(each.item, answer)

    def _traced(self, batch: Sequence[Asked[Item, Answer]]) -> AbstractContextManager[None]:
        if self._telemetry is None:
            return nullcontext()
        return self._telemetry.together(self._name, [each.trace for each in batch])


def tell(answer: asyncio.Future[Answer], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
