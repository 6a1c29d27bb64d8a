"""What is asked side by side is answered together, each its own."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import pytest

from services.runtime.failure import Exhausted, Failure, InvalidInput, Unavailable
from services.runtime.gathering import (
    LATE_SECONDS,
    MOST_BESIDE,
    MOST_TURNS,
    Together,
    gathered,
)

CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


class Peer:
    """Answers what it is asked, squared, once it is let; remembers in which batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.callers: set[str] = set()
        self.lets = asyncio.Event()
        self.lets.set()
        self.unwanted: list[int] = []
        self.fails: Callable[[Sequence[int]], Exception | None] = lambda _: None

    async def square(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.callers.add(CALLER.get())
        await self.lets.wait()
        if (error := self.fails(numbers)) is not None:
            raise error
        return [number * number for number in numbers]

    async def not_wanted(self, number: int, answer: int) -> None:
        self.unwanted.append(number)

    def together(self, most: int = 100) -> Together[int, int]:
        return Together(
            "square",
            self.square,
            None,
            most=most,
            size=lambda number: number,
            is_ones=lambda failure: isinstance(failure, InvalidInput),
            unwanted=self.not_wanted,
        )


def asked(together: Together[int, int], numbers: Sequence[int]) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(together.ask(number)) for number in numbers]


async def begun(peer: Peer, batches: int) -> None:
    async with asyncio.timeout(5):
        while len(peer.batches) < batches:
            await asyncio.sleep(0)


async def test_what_comes_while_others_are_answered_goes_together_after_them() -> None:
    """ALL-1: in order, each with its own answer, and nothing waits when nothing goes on."""
    peer = Peer()
    together = peer.together()
    peer.lets.clear()
    first = asked(together, [1])
    await begun(peer, 1)
    others = asked(together, [2, 3, 4])
    await asyncio.sleep(0)
    peer.lets.set()
    assert await asyncio.gather(*first, *others) == [1, 4, 9, 16]
    assert peer.batches == [[1], [2, 3, 4]]
    assert await together.ask(5) == 25


async def test_a_batch_is_as_large_as_it_may_be_and_never_empty() -> None:
    """ALL-1: one that is too large for a batch is one by itself."""
    peer = Peer()
    together = peer.together(most=10)
    answers = await asyncio.gather(*asked(together, [4, 4, 4, 50, 1]))
    assert answers == [16, 16, 16, 2500, 1]
    assert peer.batches == [[4, 4, 4], [50], [1]]


async def test_a_failure_is_everybodys() -> None:
    """ALL-1: the store that is away is away for all, and is not asked about each alone."""
    peer = Peer()
    peer.fails = lambda _: Unavailable("away")
    together = peer.together()
    told = await asyncio.gather(*asked(together, [1, 2]), return_exceptions=True)
    assert [type(each) for each in told] == [Unavailable, Unavailable]
    assert peer.batches == [[1, 2]]
    peer.fails = lambda _: None
    assert await together.ask(3) == 9


@pytest.mark.parametrize("error", [InvalidInput([("number", "is wrong")]), ValueError("broken")])
async def test_what_is_wrong_with_one_costs_no_other(error: Exception) -> None:
    """ALL-2: neither a refusal of one nor what breaks on it."""
    peer = Peer()
    peer.fails = lambda numbers: error if 2 in numbers else None
    told = await asyncio.gather(*asked(peer.together(), [1, 2, 3]), return_exceptions=True)
    assert told == [1, error, 9]


async def test_too_few_answers_are_none() -> None:
    """ALL-2: nobody is told another's answer."""
    peer = Peer()

    async def forgetful(numbers: Sequence[int]) -> list[int]:
        return (await peer.square(numbers))[:1]

    together = Together("square", forgetful, None, most=100)
    assert await asyncio.gather(*asked(together, [1, 2, 3])) == [1, 4, 9]  # each alone


async def test_what_nobody_waits_for_is_not_begun_and_what_is_begun_is_told() -> None:
    """USE-2: whoever left while it was done can have it undone."""
    peer = Peer()
    together = peer.together()
    peer.lets.clear()
    early, left = asked(together, [1]), asked(together, [2, 3])
    await begun(peer, 1)
    late = asked(together, [4, 5])
    await asyncio.sleep(0)
    left[0].cancel()
    late[0].cancel()
    await asyncio.sleep(0)
    peer.lets.set()
    assert await asyncio.gather(*early, left[1], late[1]) == [1, 9, 25]
    assert peer.batches == [[1, 2, 3], [5]]
    assert peer.unwanted == [2]


async def test_a_batch_that_hangs_holds_up_no_other() -> None:
    """ALL-1: as where one replica of several does not answer; each has its own answer at last."""
    peer = Peer()
    together = peer.together()
    peer.lets.clear()
    hanging = asked(together, [1, 2])
    await begun(peer, 1)
    peer.lets, hung = asyncio.Event(), peer.lets
    peer.lets.set()
    assert await asyncio.gather(*asked(together, [3, 4])) == [9, 16]
    assert not any(each.done() for each in hanging)
    hung.set()
    assert await asyncio.gather(*hanging) == [1, 4]


async def test_no_more_batches_than_so_many_are_beside_one_another() -> None:
    """ALL-1: a peer that hangs is not asked by all the world."""
    peer = Peer()
    together = peer.together(most=1)
    peer.lets.clear()
    waiting = asked(together, range(1, 3 * MOST_BESIDE))
    await begun(peer, MOST_BESIDE)
    await asyncio.sleep(2 * LATE_SECONDS)
    assert len(peer.batches) == MOST_BESIDE
    peer.lets.set()
    assert await asyncio.gather(*waiting) == [each * each for each in range(1, 3 * MOST_BESIDE)]


async def test_a_batch_is_nobodys_call() -> None:
    """ALL-3: neither its caller nor its deadline is that of whoever came first."""
    peer = Peer()
    CALLER.set("Ana")
    assert await peer.together().ask(2) == 4
    assert peer.callers == {"nobody"}


async def test_nobody_is_left_waiting_when_the_loop_ends() -> None:
    """ALL-1: what is cancelled in the middle cancels those who wait for it."""
    peer = Peer()
    together = peer.together()
    peer.lets.clear()
    waiting = asked(together, [1, 2])
    await begun(peer, 1)
    behind = asked(together, [3])
    await asyncio.sleep(0)
    assert together._going is not None
    together._going.cancel()
    told = await asyncio.gather(*waiting, *behind, return_exceptions=True)
    assert [type(each) for each in told] == [asyncio.CancelledError] * 3


async def test_a_batch_is_begun_though_others_keep_coming() -> None:
    """ALL-1: those who wait already do not wait for ever."""
    waiting = [0]

    async def coming() -> None:
        while True:
            waiting.append(0)
            await asyncio.sleep(0)

    more = asyncio.create_task(coming())
    async with asyncio.timeout(5):
        await gathered(waiting)
    more.cancel()
    assert 1 < len(waiting) <= MOST_TURNS + 2


async def test_a_failure_that_is_not_one_items_is_not_looked_into() -> None:
    """ALL-1: an overloaded peer is not asked ten times more."""
    peer = Peer()
    peer.fails = lambda _: Exhausted("too much")
    told = await asyncio.gather(*asked(peer.together(), [1, 2]), return_exceptions=True)
    assert all(isinstance(each, Failure) for each in told)
    assert len(peer.batches) == 1
