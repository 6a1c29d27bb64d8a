"""The router as the process that a deployment starts."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import router_pb2_grpc as rpc
from gatehouse.router.v1 import tier_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.fault_provider import Behaviour, fault_provider

PREFIX = "GATEHOUSE_ROUTER_"
CATALOGUE = """
providers: {{p: {{base_url: "{url}", api_key_env: PROVIDER_KEY}}}}
models:
  m: {{tier: MODEL_BASIC, provider: p, context_tokens: 999, prices: {{input: 1, output: 1}}}}
"""


def environment(
    tokens: Any, catalogue: Path, database_url: str = "postgresql://", **more: str
) -> dict[str, str]:
    settings = {
        **tokens.settings,
        "catalogue_file": str(catalogue),
        "database_url": database_url,
        "spool_directory": str(catalogue.parent / "spool"),
    }
    own = {f"{PREFIX}{name.upper()}": value for name, value in settings.items()}
    return {**os.environ, **own, **more}


@asynccontextmanager
async def router(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.router", env=environ, stdout=-1, stderr=-1
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_serves_and_drains_what_runs(tmp_path: Path, tokens: Any) -> None:
    """ALL-1: a call that runs when the stop comes is answered; the exit code is 0."""
    catalogue = tmp_path / "catalogue.yaml"
    async with fault_provider() as provider:
        catalogue.write_text(CATALOGUE.format(url=provider.base_url))
        provider.behave("m", Behaviour(first_token_seconds=0.5))
        environ = environment(tokens, catalogue, PROVIDER_KEY="sk-1")
        async with router(environ) as process, asyncio.timeout(30):
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            assert line["service"] == "router"
            async with grpc.aio.insecure_channel(line["listen"]) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                state = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert state.status == health_pb2.HealthCheckResponse.SERVING
                call = rpc.RouterServiceStub(channel).Complete(
                    pb.CompleteRequest(
                        task=pb.TASK_KIND_INTERPRET,
                        messages=[pb.Message(role=pb.ROLE_USER, content="hello")],
                        model_tiers=[tier_pb2.MODEL_BASIC],
                    ),
                    timeout=10,
                    metadata=[("authorization", f"Bearer {tokens.user(roles=('service',))}")],
                )
                answering = asyncio.ensure_future(call)
                await provider.until("m", "running", 1)
                process.terminate()
                assert (await answering).content == "You said: hello"
            assert await process.wait() == 0


async def test_a_wrong_catalogue_stops_the_start_with_every_mistake(
    tmp_path: Path, tokens: Any
) -> None:
    """ROU-1, ALL-5: and without a stack trace."""
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(CATALOGUE.format(url="http://example.org").replace("999", "lots"))
    environ = environment(tokens, catalogue)
    environ.pop("PROVIDER_KEY", None)
    async with router(environ) as process, asyncio.timeout(30):
        out, errors = await process.communicate()
    told = errors.decode()
    assert process.returncode == 2
    assert out == b""
    assert "line 2: providers.p.base_url: plain http leaves this machine" in told
    assert "line 2: providers.p.api_key_env: the environment has no PROVIDER_KEY" in told
    assert "line 4: models.m.context_tokens: must be a number, not 'lots'" in told
    assert "Traceback" not in told


async def test_settings_that_are_wrong_are_named_all_at_once(tmp_path: Path) -> None:
    """ALL-5."""
    environ = {name: v for name, v in os.environ.items() if not name.startswith(PREFIX)}
    environ[f"{PREFIX}SPENDING_DAYS"] = "none"
    async with router(environ) as process, asyncio.timeout(30):
        _, errors = await process.communicate()
    told = errors.decode()
    assert process.returncode == 2
    assert f"{PREFIX}CATALOGUE_FILE is not set" in told
    assert f"{PREFIX}SPENDING_DAYS" in told
    assert "Traceback" not in told
