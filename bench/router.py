"""A completion through the router: against aiohttp calling the same provider, what it adds, what a
failover costs, and whether its memory grows."""

import json
import statistics
from typing import Any

import aiohttp
import psutil
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import tier_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub

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
        self._url = stand.provider_url

    async def complete(self, task: pb.TaskKind.ValueType = pb.TASK_KIND_INTERPRET) -> None:
        request = pb.CompleteRequest(
            task=task,
            messages=[pb.Message(role=pb.ROLE_USER, content=MESSAGE)],
            model_tiers=[tier_pb2.MODEL_SPEED, tier_pb2.MODEL_BASIC],
        )
        await self._router.Complete(request, **self._call)

    async def directly(self) -> None:
        async with self._session.post(f"{self._url}/chat/completions", json=BODY) as response:
            await response.read()

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
        growth = await growth_per_100k(process, completions.complete)
        await completions.hang()
        failovers = [await milliseconds(completions.failing_over) for _ in range(FAILOVERS)]
        await completions.behave()
    return {
        "router.rps_per_core_vs_aiohttp": median_ratio(pairs),
        "router.answers_per_core_s": statistics.median(one for one, _ in pairs),
        "router.added_ms_p50": added(answers, directly),
        "router.failover_overhead_ms": statistics.median(failovers) - 1000 * FIRST_TOKEN_SECONDS,
        "router.rss_growth_mib_per_100k": growth,
    }


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
