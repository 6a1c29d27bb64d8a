"""How things are timed: calls for each second of a core, latencies, and ratios within one run."""

import asyncio
import itertools
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psutil

Call = Callable[[], Awaitable[object]]
Measure = Callable[[], Awaitable[float]]
SEED = 1


@dataclass(frozen=True)
class Load:
    """Calls that were made, the seconds that it took, and what a process worked meanwhile."""

    calls: int
    seconds: float
    cpu_seconds: float

    @property
    def per_core_second(self) -> float:
        return self.calls / self.cpu_seconds

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds


def say(text: str) -> None:
    """Progress goes to standard error, so that the results can be piped."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def cpu_seconds(process: psutil.Process) -> float:
    """What *process* has worked so far, all its threads, in user mode and in the kernel."""
    times = process.cpu_times()
    return float(times.user + times.system)


def resident_mebibytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 2**20)


async def loaded(process: psutil.Process, call: Call, *, callers: int, seconds: float) -> Load:
    """Make calls for *seconds*, *callers* at a time, each as soon as its last one is answered."""
    begun, worked = time.monotonic(), cpu_seconds(process)
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while time.monotonic() - begun < seconds:
            await call()
            calls += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Load(calls, time.monotonic() - begun, cpu_seconds(process) - worked)


async def repeated(call: Call, *, count: int, callers: int) -> float:
    """Make *count* calls, *callers* at a time; the seconds that it took."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    begun = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.monotonic() - begun


async def milliseconds(call: Call) -> float:
    begun = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - begun)


async def in_turn(one: Call, other: Call, count: int) -> tuple[list[float], list[float]]:
    """The milliseconds of *count* calls of each, one after another: both see the same machine."""
    ones, others = [], []
    for _ in range(count):
        ones.append(await milliseconds(one))
        others.append(await milliseconds(other))
    return ones, others


def added(with_it: Sequence[float], without: Sequence[float]) -> float:
    """The median of what each call took more than its neighbour."""
    return statistics.median(more - less for more, less in zip(with_it, without, strict=True))


async def at_rate(call: Call, *, per_second: float, seconds: float) -> list[float]:
    """The milliseconds of calls that come at random moments, *per_second* on average.

    Each is timed from when it was due, and none waits for another: what falls behind shows.
    """
    chance = random.Random(SEED)
    begun = time.perf_counter()
    took: list[float] = []

    async def due_at(moment: float) -> None:
        await call()
        took.append(1000 * (time.perf_counter() - moment))

    async with asyncio.TaskGroup() as together:
        moment = begun
        while (moment := moment + chance.expovariate(per_second)) < begun + seconds:
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            together.create_task(due_at(moment))
    return took


async def against(thing: Measure, reference: Measure, rounds: int) -> list[tuple[float, float]]:
    """*thing* and *reference* in turn, each thing with the mean of the references around it."""
    references, things = [await reference()], []
    for _ in range(rounds):
        things.append(await thing())
        references.append(await reference())
    around = [(before + after) / 2 for before, after in itertools.pairwise(references)]
    return list(zip(things, around, strict=True))


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(thing / reference for thing, reference in pairs)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that *share* of *values* do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
