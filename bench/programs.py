"""Programs that a measurement starts beside itself, each a process of its own."""

import asyncio
import json
import random
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
# Below those that a system gives to whoever connects: none is taken while a replica is away.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Started:
    """A program that said in one JSON line where it listens."""

    said: dict[str, str]
    process: psutil.Process


@asynccontextmanager
async def started(module: str, *arguments: str) -> AsyncIterator[Started]:
    """Run *module*; it is told to stop at the end."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    try:
        line = await program.stdout.readline()
        yield Started(json.loads(line), psutil.Process(program.pid))
    finally:
        program.terminate()
        await program.wait()


def running(module: str) -> psutil.Process:
    """The process that runs *module*, among those that this one started, however deep."""
    for process in psutil.Process().children(recursive=True):
        if process.cmdline()[1:] == ["-m", module]:
            return process
    raise LookupError(f"{module} does not run")


def free_ports() -> Iterator[int]:
    """Ports of this machine that nobody listens on, in no order, none of them twice."""
    for number in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
        yield number
