"""A service as a process: how it starts, or says why not, and how it is told to stop."""

import asyncio
import json
import os
import secrets
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from tests.contract.rpc.runtime_stand import failure_of

PREFIX = "GATEHOUSE_USAGE_"


def environment(tokens: Any, **more: str) -> dict[str, str]:
    settings = {
        **tokens.settings,
        "database_url": "postgresql://gatehouse_usage@/nowhere?host=/nowhere",
        "valkey_url": "unix:///nowhere",
        "unrecorded_writes": "true",
        **more,
    }
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("GATEHOUSE_")}
    return {**inherited, **{f"{PREFIX}{name.upper()}": v for name, v in settings.items()}}


@asynccontextmanager
async def usage(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.usage", env=environ, stdout=-1, stderr=-1
    )
    try:
        async with asyncio.timeout(30):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_service_that_waits_for_its_store_stops_when_told(tokens: Any) -> None:
    """ALL-1: at once, not after the wait; what its libraries log are JSON lines as well (ALL-4)."""
    async with usage(environment(tokens)) as process:
        assert process.stderr is not None
        line = json.loads(await process.stderr.readline())
        assert (line["service"], line["level"]) == ("usage", "WARNING")
        process.terminate()
        out, errors = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    assert all(json.loads(each) for each in errors.splitlines())


async def test_a_file_that_is_none_is_named_without_a_stack_trace(
    tokens: Any, tmp_path: Path
) -> None:
    """ALL-5: keys, and everything else that is wrong besides, with the exit code for it."""
    environ = environment(
        tokens, listen="0.0.0.0:0", tls_key_file=str(tmp_path / "none"), grace_seconds="soon"
    )
    async with usage(environ) as process:
        out, errors = await process.communicate()
    told = errors.decode()
    assert process.returncode == 2
    assert out == b""
    for each in (
        f"{PREFIX}TLS_KEY_FILE",
        f"{PREFIX}GRACE_SECONDS",
        "listen is not on this machine",
    ):
        assert each in told
    assert "Traceback" not in told


async def test_what_a_call_logs_leads_to_its_trace(tokens: Any) -> None:
    """ALL-4: what the service logs and what its libraries do, sampled or not."""
    trace_id = secrets.token_hex(16)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.rpc.breaking_service"),
        json.dumps(tokens.settings),
        stdout=-1,
        stderr=-1,
    )
    try:
        async with asyncio.timeout(30):
            assert process.stdout is not None
            address = json.loads(await process.stdout.readline())["listen"]
            async with grpc.aio.insecure_channel(address) as channel:
                metadata = [
                    ("authorization", f"Bearer {tokens.user()}"),
                    ("traceparent", f"00-{trace_id}-{'ab' * 8}-00"),
                ]
                request = usage_pb2.GetUsageRequest(user_id=str(uuid.uuid4()))
                call = UsageServiceStub(channel).GetUsage(request, timeout=10, metadata=metadata)
                assert (await failure_of(call)).reason == "INTERNAL"
            process.terminate()
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    lines = [json.loads(each) for each in errors.splitlines()]
    assert [each["message"] for each in lines] == [
        "it warns",
        "a call to /gatehouse.usage.v1.UsageService/GetUsage broke",
    ]
    assert {each["trace_id"] for each in lines} == {trace_id}
    assert len({each["span_id"] for each in lines}) == 1
    assert {each["service"] for each in lines} == {"stand"}
    assert "RuntimeError: it breaks" in lines[1]["exception"]
