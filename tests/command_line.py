"""`gatehouse` as people use it: a suite that runs, and commands that find it."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.programs import free_ports
from tests.conftest import ROOT
from tests.gateway_calls import eventually

GATEHOUSE = (sys.executable, "-c", "from services.cli import main; main()")
START_SECONDS = 80.0


@dataclass
class Running:
    """`gatehouse run` in a process of its own, with a state folder of its own."""

    process: Process
    environment: dict[str, str]
    state_file: Path

    async def gatehouse(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """The exit code, output and errors of a command."""
        command = await asyncio.create_subprocess_exec(
            *GATEHOUSE,
            *arguments,
            env=self.environment | environment,
            stdout=PIPE,
            stderr=PIPE,
        )
        out, err = await command.communicate()
        assert command.returncode is not None
        return command.returncode, out.decode(), err.decode()

    async def told(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        code, out, err = await self.gatehouse(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    @property
    def known(self) -> dict[str, str]:
        """What the suite says of itself: where its services listen, and what tokens they take."""
        told: dict[str, str] = json.loads(self.state_file.read_text())
        return told

    def family(self) -> list[psutil.Process]:
        """Every process that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)


@asynccontextmanager
async def running(folder: Path, *arguments: str) -> AsyncIterator[Running]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GATEHOUSE_")},
        "XDG_STATE_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")]),
        "COLUMNS": "160",
        "TERM": "dumb",
        "TZ": "UTC",
    }
    process = await asyncio.create_subprocess_exec(
        *(
            *GATEHOUSE,
            "run",
            "--no-model",
            "--listen",
            f"127.0.0.1:{next(free_ports())}",
            *arguments,
        ),
        env=environment,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    made = Running(process, environment, folder / "gatehouse" / "suite.json")
    try:

        async def is_told() -> bool:
            if process.returncode is not None:
                assert process.stdout is not None
                raise AssertionError((await process.stdout.read()).decode())
            return made.state_file.exists()

        await eventually(is_told, START_SECONDS)
        yield made
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.communicate()
