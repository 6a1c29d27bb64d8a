"""One answer for one key: shared while it is written, kept for a while, bounded."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.router.failures import TooLate
from services.router.nouns import Event, Text
from services.router.repeats import Key, Repeats, Reused, open_repeats


class Source:
    """Answers with one text once it is let to; counts how often it was started and cancelled."""

    def __init__(self, text: str = "answer") -> None:
        self.text = text
        self.starts = 0
        self.cancelled = 0
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[Event]:
        self.starts += 1
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        yield Text(self.text)


def key(name: str) -> Key:
    return Key("user", name)


async def told(repeats: Repeats, name: str, source: Source, deadline: float = 1e9) -> list[Event]:
    return [event async for event in repeats.follow(key(name), b"payload", deadline, source)]


async def test_all_who_ask_at_once_get_the_one_answer() -> None:
    """ROU-6."""
    source = Source()
    async with open_repeats(asyncio.get_running_loop().time) as repeats:
        asking = [asyncio.ensure_future(told(repeats, "a", source)) for _ in range(20)]
        await source.begun.wait()
        source.go_on.set()
        assert await asyncio.gather(*asking) == [[Text("answer")]] * 20
        assert source.starts == 1


async def test_an_answer_is_kept_for_ten_minutes() -> None:
    """ROU-6."""
    now = 0.0
    source = Source()
    source.go_on.set()
    async with open_repeats(lambda: now) as repeats:
        await told(repeats, "a", source)
        now = 599.0
        await told(repeats, "a", source)
        assert source.starts == 1
        now = 600.0
        await told(repeats, "a", source)
        assert source.starts == 2


async def test_what_is_kept_is_bounded() -> None:
    """ROU-6: memory stays flat; the oldest goes first."""
    async with open_repeats(lambda: 0.0, most=3, most_characters=20) as repeats:
        source = Source()
        source.go_on.set()
        for name in "abcd":
            await told(repeats, name, source)
        assert source.starts == 4
        await told(repeats, "d", source)
        assert source.starts == 4
        await told(repeats, "a", source)
        assert source.starts == 5
        long = Source("x" * 30)
        long.go_on.set()
        await told(repeats, "long", long)
        await told(repeats, "d", source)
        assert source.starts == 6


async def test_the_last_one_to_go_away_ends_the_writing() -> None:
    """ROU-8: and not the one before."""
    source = Source()
    async with open_repeats(asyncio.get_running_loop().time) as repeats:
        first, second = (asyncio.ensure_future(told(repeats, "a", source)) for _ in range(2))
        await source.begun.wait()
        first.cancel()
        await asyncio.wait((first,))
        assert source.cancelled == 0
        second.cancel()
        await asyncio.wait((second,))
        assert source.cancelled == 1


async def test_one_who_may_wait_longer_is_not_bound_by_anothers_deadline() -> None:
    """ROU-8: each waits as long as it may."""
    now = asyncio.get_running_loop().time
    source = Source()
    async with open_repeats(now) as repeats:
        hurried = asyncio.ensure_future(told(repeats, "a", source, deadline=now() + 0.05))
        await source.begun.wait()
        patient = asyncio.ensure_future(told(repeats, "a", source))
        with pytest.raises(TooLate):
            await hurried
        source.go_on.set()
        assert await patient == [Text("answer")]


async def test_when_the_first_ones_deadline_ends_the_answer_the_others_ask_once_more() -> None:
    """ROU-8: together, not each alone."""
    now = asyncio.get_running_loop().time
    failing, second = Source(), Source()
    second.go_on.set()

    async def too_late() -> AsyncGenerator[Event]:
        async for _ in failing():
            raise TooLate([])
            yield Text("")

    async with open_repeats(now) as repeats:
        hurried = repeats.follow(key("a"), b"payload", now() + 60, too_late)
        first = asyncio.ensure_future(anext(hurried))
        await failing.begun.wait()
        others = [asyncio.ensure_future(told(repeats, "a", second)) for _ in range(3)]
        await asyncio.sleep(0)
        failing.go_on.set()
        assert await asyncio.gather(*others) == [[Text("answer")]] * 3
        assert second.starts == 1
        with pytest.raises(TooLate):
            await first


async def test_a_key_with_another_payload_is_refused() -> None:
    """ROU-6."""
    source = Source()
    source.go_on.set()
    async with open_repeats(lambda: 0.0) as repeats:
        await told(repeats, "a", source)
        with pytest.raises(Reused):
            async for _ in repeats.follow(key("a"), b"another", 1e9, source):
                pass
