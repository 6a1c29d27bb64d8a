"""A service as a process: how it starts, or says why not, and how it is told to stop."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

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
