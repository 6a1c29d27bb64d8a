"""How many answers a second the router gives a core, what it adds, and what a failover costs.

    python -m bench.router [--requests 3000] [--callers 16]

Starts a provider that answers at once and a router, each a process of its own, and prints one JSON
line. Carry the ratios, not the absolutes: the calls without a model are of the same minute.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import uvloop
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import router_pb2_grpc as rpc
from gatehouse.router.v1 import tier_pb2

from services.embedded_identity import Issuer, open_issuer

ROOT = Path(__file__).parent.parent
USER = "11111111-1111-4111-8111-111111111111"
FIRST_TOKEN_SECONDS = 0.5
CATALOGUE = """
providers: {{p: {{base_url: "{url}", max_concurrent_calls: 1000}}}}
models:
  fast: {{tier: MODEL_SPEED, provider: p, context_tokens: 9999, prices: &p {{input: 1, output: 1}}}}
  small: {{tier: MODEL_BASIC, provider: p, context_tokens: 9999, prices: *p}}
tasks: {{ANALYZE: {{tiers: [MODEL_SPEED, MODEL_BASIC], first_token_seconds: {first_token}}}}}
circuit: {{failures_to_open: 1000}}
"""


@dataclass
class Started:
    """A process that said in one JSON line where it listens."""

    said: dict[str, str]
    pid: int

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mebibytes(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def started(module: str, environ: dict[str, str] | None = None) -> AsyncIterator[Started]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, cwd=ROOT, stdout=-1, env={**os.environ, **(environ or {})}
    )
    assert process.stdout is not None
    try:
        yield Started(json.loads(await process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        await process.wait()


def environment(issuer: Issuer, catalogue: Path) -> dict[str, str]:
    settings = {
        "CATALOGUE_FILE": str(catalogue),
        "JWT_ISSUER": issuer.issuer,
        "JWT_AUDIENCE": issuer.audience,
        "JWKS": str(issuer.jwks_file),
    }
    return {f"GATEHOUSE_ROUTER_{name}": value for name, value in settings.items()}


async def hurried(count: int, callers: int, call: Callable[[], Awaitable[Any]]) -> float:
    """Make *count* calls, *callers* at a time; the seconds that it took."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    begun = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.monotonic() - begun


async def median_ms(count: int, call: Callable[[], Awaitable[Any]]) -> float:
    """The median of *count* calls, one after another, in milliseconds."""
    took = [await hurried(1, 1, call) for _ in range(count)]
    return 1000 * statistics.median(took)


def completion(task: int) -> pb.CompleteRequest:
    return pb.CompleteRequest(
        task=task,  # type: ignore[arg-type]
        messages=[pb.Message(role=pb.ROLE_USER, content="hello there")],
        model_tiers=[tier_pb2.MODEL_SPEED, tier_pb2.MODEL_BASIC],
    )


async def measure(requests: int, callers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        issuer = open_issuer(folder)
        async with started("bench.fault_provider") as provider:
            url = provider.said["base_url"]
            catalogue = folder / "catalogue.yaml"
            text = CATALOGUE.format(url=url, first_token=FIRST_TOKEN_SECONDS)
            catalogue.write_text(text)
            async with started("services.router", environment(issuer, catalogue)) as router:
                return await measured(requests, callers, url, router, issuer)


async def measured(
    requests: int, callers: int, url: str, router: Started, issuer: Issuer
) -> dict[str, float]:
    token = issuer.mint(user_id=USER, roles=("service",))
    metadata = [("authorization", f"Bearer {token}")]
    body = {"model": "fast", "messages": [{"role": "user", "content": "hello there"}]}
    async with (
        grpc.aio.insecure_channel(router.said["listen"]) as channel,
        aiohttp.ClientSession() as session,
    ):
        stub: Any = rpc.RouterServiceStub(channel)

        async def directly() -> None:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                await response.read()

        async def complete(task: int = pb.TASK_KIND_INTERPRET) -> None:
            await stub.Complete(completion(task), timeout=30, metadata=metadata)

        async def listing() -> None:
            await stub.ListModels(pb.ListModelsRequest(), timeout=30, metadata=metadata)

        async def failing_over() -> None:
            await complete(pb.TASK_KIND_ANALYZE)

        await hurried(200, callers, complete)
        answers = await by_core(requests, callers, complete, router)
        listings = await by_core(requests, callers, listing, router)
        direct_ms, answer_ms = await median_ms(200, directly), await median_ms(200, complete)
        await session.put(url.removesuffix("/v1") + "/admin/models/fast", data='{"fault": "hang"}')
        # Fewer than would take the model out.
        failover_ms = await median_ms(9, failing_over)
    return {
        "answers_a_core_second": round(answers),
        "calls_without_a_model_a_core_second": round(listings),
        "ratio": round(answers / listings, 3),
        "direct_p50_ms": round(direct_ms, 2),
        "added_p50_ms": round(answer_ms - direct_ms, 2),
        "failover_beyond_the_time_out_p50_ms": round(failover_ms - 1000 * FIRST_TOKEN_SECONDS, 2),
        "resident_mebibytes": round(router.resident_mebibytes()),
    }


async def by_core(
    requests: int, callers: int, call: Callable[[], Awaitable[Any]], router: Started
) -> float:
    """Calls for each second of a core that the router worked."""
    before = router.cpu_seconds()
    await hurried(requests, callers, call)
    return requests / (router.cpu_seconds() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast the router is.")
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--callers", type=int, default=16)
    asked = parser.parse_args()
    print(json.dumps(uvloop.run(measure(asked.requests, asked.callers))))


if __name__ == "__main__":
    main()
