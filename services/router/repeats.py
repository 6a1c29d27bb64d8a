"""One answer for one idempotency key: a repeated request joins the first, or is told its answer
again.

Answers cost money; a caller that lost its connection and asks again must not pay twice.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from services.router.failures import TooLate
from services.router.nouns import Event, Text

KEPT_SECONDS = 600.0
MOST_KEPT = 2000
MOST_KEPT_CHARACTERS = 16 << 20


class Key(NamedTuple):
    """Whose request, and which."""

    user_id: str
    idempotency_key: str


class Reused(Exception):
    """The key came before with another request."""


class SharedAnswer:
    """An answer that is written once and followed by everybody who asked for it."""

    def __init__(self, payload: bytes, source: AsyncGenerator[Event], deadline: float) -> None:
        self.payload = payload
        self.deadline = deadline
        self.followers = 0
        self.over = False
        self.failure: BaseException | None = None
        self.characters = 0
        self._events: list[Event] = []
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._write(source))

    async def _write(self, source: AsyncGenerator[Event]) -> None:
        try:
            async with aclosing(source) as events:
                async for event in events:
                    self._events.append(event)
                    self.characters += len(event.content) if isinstance(event, Text) else 0
                    self._wake()
        except Exception as error:
            # The followers raise it; this task has nobody else to tell.
            self.failure = error
        finally:
            self.over = True
            self._wake()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    async def events(self, deadline: float) -> AsyncGenerator[Event]:
        """Every event from the first on.

        Raises what the answer failed with; TooLate at *deadline*.
        """
        place = 0
        while True:
            while place < len(self._events):
                yield self._events[place]
                place += 1
            if self.over:
                break
            try:
                async with asyncio.timeout_at(deadline):
                    await self._grown.wait()
            except TimeoutError:
                raise TooLate([]) from None
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Cancel the writing, and with it the provider's call."""
        self._task.cancel()
        await asyncio.wait((self._task,))


class Repeats:
    """The answers of the last ten minutes by key, as far as they fit."""

    def __init__(
        self,
        now: Callable[[], float],
        most: int = MOST_KEPT,
        most_characters: int = MOST_KEPT_CHARACTERS,
    ) -> None:
        self._now = now
        self._most = most
        self._most_characters = most_characters
        self._shared: dict[Key, SharedAnswer] = {}
        self._kept: OrderedDict[Key, float] = OrderedDict()
        self._kept_characters = 0

    async def follow(
        self,
        key: Key,
        payload: bytes,
        deadline: float,
        start: Callable[[], AsyncGenerator[Event]],
    ) -> AsyncGenerator[Event]:
        """The events of the answer to *key*, which *start* begins when there is none yet.

        Raises Reused, and what the answer fails with. An answer that failed is not kept: the next
        one who asks starts anew, and so does one who may wait longer than the deadline that ended
        it.
        """
        while True:
            shared = self._join(key, payload, deadline, start)
            told = False
            try:
                async with aclosing(shared.events(deadline)) as events:
                    async for event in events:
                        told = True
                        yield event
                return
            except TooLate:
                if told or self._now() >= deadline or shared.deadline >= deadline:
                    raise
            finally:
                await self._part(key, shared)

    def _join(
        self,
        key: Key,
        payload: bytes,
        deadline: float,
        start: Callable[[], AsyncGenerator[Event]],
    ) -> SharedAnswer:
        self._forget_old()
        shared = self._shared.get(key)
        if shared is not None and shared.payload != payload:
            raise Reused
        if shared is None or shared.failure is not None:
            shared = self._shared[key] = SharedAnswer(payload, start(), deadline)
        shared.followers += 1
        return shared

    async def _part(self, key: Key, shared: SharedAnswer) -> None:
        shared.followers -= 1
        if shared.followers or self._shared.get(key) is not shared or key in self._kept:
            return
        if shared.over and shared.failure is None:
            self._keep(key, shared)
            return
        # Nobody waits for it any more, or it failed: it must neither go on nor be told again.
        del self._shared[key]
        await shared.stop()

    def _keep(self, key: Key, shared: SharedAnswer) -> None:
        self._kept[key] = self._now() + KEPT_SECONDS
        self._kept_characters += shared.characters
        while len(self._kept) > self._most or self._kept_characters > self._most_characters:
            self._forget_oldest()

    def _forget_old(self) -> None:
        now = self._now()
        while self._kept and next(iter(self._kept.values())) <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        key, _ = self._kept.popitem(last=False)
        self._kept_characters -= self._shared.pop(key).characters

    async def stop(self) -> None:
        for shared in list(self._shared.values()):
            await shared.stop()
        self._shared.clear()
        self._kept.clear()


@asynccontextmanager
async def open_repeats(
    now: Callable[[], float],
    most: int = MOST_KEPT,
    most_characters: int = MOST_KEPT_CHARACTERS,
) -> AsyncIterator[Repeats]:
    repeats = Repeats(now, most, most_characters)
    try:
        yield repeats
    finally:
        await repeats.stop()
