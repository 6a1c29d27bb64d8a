"""The suite as a whole: how soon it serves, and how much memory its services take."""

import statistics
import time

import aiohttp

from bench.gateway import Reads
from bench.measuring import repeated, resident_mebibytes, say
from bench.router import Completions
from bench.stand import Stand, surroundings
from services.embedded import suite
from services.embedded_services import SERVICES

STARTS = 3
REQUESTS, CALLERS = 600, 16


async def starts() -> dict[str, float]:
    """From the call to a suite that serves, without a model; each time from nothing."""
    return {
        "platform.start_s": await median_start(processes=False),
        "platform.start_processes_s": await median_start(processes=True),
    }


async def median_start(*, processes: bool) -> float:
    took = []
    with surroundings():
        for _ in range(STARTS):
            begun = time.monotonic()
            async with suite(processes=processes, model_tiers=()):
                took.append(time.monotonic() - begun)
    return statistics.median(took)


async def measure(stand: Stand) -> dict[str, float]:
    """The largest service after some work of all of them."""
    reads = Reads(stand)
    async with aiohttp.ClientSession() as session:
        completions = Completions(stand, session)
        await repeated(reads.execute, count=REQUESTS, callers=CALLERS)
        await repeated(completions.complete, count=REQUESTS, callers=CALLERS)
    sizes = {name: resident_mebibytes(stand.process(name)) for name in SERVICES}
    say("  MiB: " + ", ".join(f"{name} {size:.0f}" for name, size in sizes.items()))
    return {"platform.rss_mib_max_service": max(sizes.values())}
