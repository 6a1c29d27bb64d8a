"""LiteLLM's proxy, to measure the router against: in a virtual environment made for it."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from bench.measuring import say
from bench.programs import ROOT

# Pinned, so that a figure is of something. Later releases need packages that not every index has.
VERSION = "1.83.14"
PLACE = ROOT / ".cache" / f"litellm-{VERSION}"
START_SECONDS = 90.0
CONFIG = """
model_list:
  - model_name: fast
    litellm_params: {{model: openai/fast, api_base: "{url}", api_key: none}}
"""
# As its documentation has it for production: no debug lines, no price list from elsewhere.
ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "DO_NOT_TRACK": "1",
}


class NotThere(Exception):
    """It could not be installed or started; the message says why."""


async def installed() -> Path:
    """The proxy's program. Raises NotThere."""
    program = PLACE / "bin" / "litellm"
    if not program.exists():
        say(f"router: installing LiteLLM {VERSION} into {PLACE.relative_to(ROOT)}, once")
        await ran(sys.executable, "-m", "venv", "--clear", str(PLACE))
        await ran(
            *(str(PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet"),
            *("--only-binary", ":all:", f"litellm[proxy]=={VERSION}"),
        )
    return program


async def ran(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode != 0:
        raise NotThere((errors.decode().strip().splitlines() or ["no reason given"])[-1])


@asynccontextmanager
async def litellm_proxy(
    provider_url: str, folder: Path
) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Its URL and its process, one worker, before the provider. Raises NotThere."""
    program = await installed()
    config, log = folder / "litellm.yaml", folder / "litellm.log"
    config.write_text(CONFIG.format(url=provider_url))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
            *("--telemetry", "False", "--num_workers", "1"),
            env={**os.environ, **ENVIRONMENT},
            cwd=folder,
            stdout=out,
            stderr=out,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        await started(url, process, log)
        yield url, psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def started(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while process.returncode is None and time.monotonic() < until:
            try:
                async with session.get(f"{url}/health/liveliness") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
    last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    raise NotThere(f"it did not start: {last}")
