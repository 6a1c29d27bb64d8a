"""A completion through the router: against aiohttp calling the same provider, what it adds, what a
failover costs, and whether its memory grows."""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import tier_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub

from bench.litellm import NotThere, litellm_proxy
from bench.measuring import (
    Call,
    added,
    against,
    in_turn,
    loaded,
    median_ratio,
    milliseconds,
    repeated,
    resident_mebibytes,
    say,
)
from bench.stand import FIRST_TOKEN_SECONDS, Stand

ROUNDS = 3
SECONDS = 2.0
CALLERS = 16
PAIRS = 200
# Fewer than would take the model out.
FAILOVERS = 9
PARTS, CALLS_A_PART = 20, 500
MESSAGE = "hello there"
BODY = {
    "model": "fast",
    "messages": [{"role": "user", "content": MESSAGE}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


class Completions:
    """The same completion, through the router and directly."""

    def __init__(self, stand: Stand, session: aiohttp.ClientSession) -> None:
        self._router: Any = RouterServiceStub(stand.channels["router"])
        self._call = stand.service
        self._session = session
        self._url = self.provider_url = stand.provider_url

    async def complete(self, task: pb.TaskKind.ValueType = pb.TASK_KIND_INTERPRET) -> None:
        await self._router.Complete(self._request(task), **self._call)

    def _request(self, task: pb.TaskKind.ValueType) -> pb.CompleteRequest:
        return pb.CompleteRequest(
            task=task,
            messages=[pb.Message(role=pb.ROLE_USER, content=MESSAGE)],
            model_tiers=[tier_pb2.MODEL_SPEED, tier_pb2.MODEL_BASIC],
        )

    async def directly(self) -> None:
        async with self._session.post(f"{self._url}/chat/completions", json=BODY) as response:
            await response.read()

    async def by_litellm(self, url: str) -> None:
        body = {"model": "fast", "messages": BODY["messages"]}
        async with self._session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            await response.read()

    async def streamed(self) -> None:
        request = pb.StreamCompleteRequest(request=self._request(pb.TASK_KIND_INTERPRET))
        finished = False
        async for event in self._router.StreamComplete(request, **self._call):
            finished = event.HasField("finished")
        assert finished

    async def streamed_by_litellm(self, url: str) -> None:
        async with self._session.post(f"{url}/v1/chat/completions", json=BODY) as response:
            assert response.status == 200
            assert (await response.read()).rstrip().endswith(b"[DONE]")

    async def first_delta(self) -> float:
        """The milliseconds until the first text of a stream."""
        request = pb.StreamCompleteRequest(request=self._request(pb.TASK_KIND_INTERPRET))
        begun = time.perf_counter()
        async for event in self._router.StreamComplete(request, **self._call):
            if event.HasField("delta"):
                return 1000 * (time.perf_counter() - begun)
        raise AssertionError("no text came")

    async def first_event(self) -> float:
        """The milliseconds until the first event of the same stream, asked directly."""
        begun = time.perf_counter()
        async with self._session.post(f"{self._url}/chat/completions", json=BODY) as response:
            await response.content.readany()
            return 1000 * (time.perf_counter() - begun)

    async def failing_over(self) -> None:
        await self.complete(pb.TASK_KIND_ANALYZE)

    async def hang(self) -> None:
        """From now on the model of the first tier takes requests and says nothing."""
        await self._session.put(self._admin, data=json.dumps({"fault": "hang"}))

    async def behave(self) -> None:
        await self._session.delete(self._admin)

    @property
    def _admin(self) -> str:
        return self._url.removesuffix("/v1") + "/admin/models/fast"


async def measure(stand: Stand) -> dict[str, float]:
    process = stand.process("router")
    async with aiohttp.ClientSession() as session:
        completions = Completions(stand, session)
        await repeated(completions.complete, count=3000, callers=CALLERS)

        async def through() -> float:
            return await by_core(process, completions.complete)

        async def direct() -> float:
            return await by_core(psutil.Process(), completions.directly)

        pairs = await against(through, direct, ROUNDS)
        answers, directly = await in_turn(completions.complete, completions.directly, PAIRS)
        streams = [
            (await completions.first_delta(), await completions.first_event()) for _ in range(PAIRS)
        ]
        compared = await against_litellm(process, completions)
        growth = await growth_per_100k(process, completions.complete)
        await completions.hang()
        failovers = [await milliseconds(completions.failing_over) for _ in range(FAILOVERS)]
        await completions.behave()
    return {
        "router.rps_per_core_vs_aiohttp": median_ratio(pairs),
        "router.answers_per_core_s": statistics.median(one for one, _ in pairs),
        "router.added_ms_p50": added(answers, directly),
        "router.stream_ttft_added_ms": statistics.median(a - b for a, b in streams),
        **compared,
        "router.failover_overhead_ms": statistics.median(failovers) - 1000 * FIRST_TOKEN_SECONDS,
        "router.rss_growth_mib_per_100k": growth,
    }


async def against_litellm(process: psutil.Process, completions: Completions) -> dict[str, float]:
    """The same completion by LiteLLM's proxy, in turn with the router, both on one core."""
    names = (
        "router.vs_litellm_throughput",
        "router.vs_litellm_stream_throughput",
        "router.vs_litellm_added_latency",
    )
    try:
        with tempfile.TemporaryDirectory(prefix="gatehouse-litellm-") as folder:
            async with litellm_proxy(completions.provider_url, Path(folder)) as (url, theirs):
                with on_one_core(process, theirs):
                    return dict(
                        zip(names, await compared(process, theirs, completions, url), strict=True)
                    )
    except NotThere as reason:
        say(f"router: LiteLLM is left out: {reason}")
        return dict.fromkeys(names, math.nan)


async def compared(
    process: psutil.Process, theirs: psutil.Process, completions: Completions, url: str
) -> tuple[float, float, float]:
    by_litellm = partial(completions.by_litellm, url)
    streamed_by_litellm = partial(completions.streamed_by_litellm, url)
    await repeated(by_litellm, count=300, callers=CALLERS)
    pairs = await against(
        partial(by_core, process, completions.complete),
        partial(by_core, theirs, by_litellm),
        ROUNDS,
    )
    streams = await against(
        partial(by_core, process, completions.streamed),
        partial(by_core, theirs, streamed_by_litellm),
        ROUNDS,
    )
    with_us, without = await in_turn(completions.complete, completions.directly, PAIRS)
    with_them, besides = await in_turn(by_litellm, completions.directly, PAIRS)
    latency = added(with_us, without) / added(with_them, besides)
    return median_ratio(pairs), median_ratio(streams), latency


@contextmanager
def on_one_core(*processes: psutil.Process) -> Iterator[None]:
    """Both use the same core, one after the other; whoever calls them has the others."""
    before = [process.cpu_affinity() for process in processes]
    try:
        for process in processes:
            process.cpu_affinity([before[0][-1]])
        yield
    finally:
        for process, cores in zip(processes, before, strict=True):
            if process.is_running():
                process.cpu_affinity(cores)


async def by_core(process: psutil.Process, call: Call) -> float:
    load = await loaded(process, call, callers=CALLERS, seconds=SECONDS)
    return load.per_core_second


async def growth_per_100k(process: psutil.Process, call: Call) -> float:
    """The slope of the resident memory over some thousand calls, drawn out to 100,000."""
    calls, sizes = [0], [resident_mebibytes(process)]
    for _ in range(PARTS):
        await repeated(call, count=CALLS_A_PART, callers=CALLERS)
        calls.append(calls[-1] + CALLS_A_PART)
        sizes.append(resident_mebibytes(process))
    return 100_000 * statistics.linear_regression(calls, sizes).slope
