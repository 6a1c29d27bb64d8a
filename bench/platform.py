"""The suite as a whole: how soon it serves, how much memory its services take, what a new version
and TLS cost."""

import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import grpc.aio

from bench import echo, rolling
from bench.gateway import Reads
from bench.measuring import against, loaded, median_ratio, repeated, resident_mebibytes, say
from bench.programs import Started, free_ports, started
from bench.router import Completions
from bench.stand import PAYLOAD, Stand, surroundings
from deploy.local_secrets import Authority
from services.embedded import suite
from services.embedded_services import SERVICES

STARTS = 3
REQUESTS, CALLERS = 600, 16
ROUNDS, SECONDS = 3, 2.0


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


async def rolling_restart() -> dict[str, float]:
    """Both replicas of every service, one after another, under load."""
    findings = await rolling.carried_out(rolling.Plan(callers=4))
    for violation in findings.violations[:20]:
        say(f"  broken: {violation}")
    return {"platform.rolling_restart_failures": len(findings.violations)}


async def tls() -> dict[str, float]:
    """The bare echo over TCP, with TLS and certificates on both sides, and without."""
    with tempfile.TemporaryDirectory(prefix="gatehouse-bench-") as name:
        folder = Path(name)
        for file, text in Authority().issue("localhost").items():
            (folder / file).write_text(text)
        async with echoing() as plain, echoing(folder) as secret:

            async def measured(ways: tuple[Started, grpc.aio.Channel]) -> float:
                program, channel = ways
                ask = channel.unary_unary(echo.PATH)

                async def call() -> None:
                    await ask(PAYLOAD, timeout=10.0)

                load = await loaded(program.process, call, callers=CALLERS, seconds=SECONDS)
                return load.per_core_second

            pairs = await against(lambda: measured(secret), lambda: measured(plain), ROUNDS)
    return {"platform.tls_vs_plain": median_ratio(pairs)}


@asynccontextmanager
async def echoing(folder: Path | None = None) -> AsyncIterator[tuple[Started, grpc.aio.Channel]]:
    """The echo on loopback, by TLS with what is in *folder*."""
    listen = f"localhost:{next(free_ports())}"
    async with started("bench.echo", listen, *([str(folder)] if folder else [])) as program:
        if folder is None:
            opened = grpc.aio.insecure_channel(listen)
        else:
            files = ("ca.crt", "tls.key", "tls.crt")
            credentials = grpc.ssl_channel_credentials(*((folder / f).read_bytes() for f in files))
            opened = grpc.aio.secure_channel(listen, credentials)
        async with opened as channel:
            yield program, channel


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
