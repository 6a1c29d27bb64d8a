"""A replica of the log as a process of its own, for tests that kill it or try to."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.programs import free_ports
from services.embedded_services import wait_until_serving
from services.embedded_stores import GuardedProgram
from tests.conftest import Database


@dataclass
class LogProcess:
    """A replica on ports that it keeps, and a token for those who send to it."""

    program: GuardedProgram
    address: str
    http: str
    token: str
    admin_url: str
    log_file: Path

    async def start(self) -> None:
        await self.program.start()
        await wait_until_serving(self.program, self.address)


@asynccontextmanager
async def log_process(
    database: Database, tokens: Any, folder: Path, **more: str
) -> AsyncIterator[LogProcess]:
    address, http = f"127.0.0.1:{next(free_ports())}", f"127.0.0.1:{next(free_ports())}"
    told = {
        **tokens.settings,
        "database_url": database.url_for("oplog"),
        "listen": address,
        "http_listen": http,
        **more,
    }
    environment = {f"GATEHOUSE_OPLOG_{name.upper()}": value for name, value in told.items()}
    program = GuardedProgram(
        "the log",
        [sys.executable, "-m", "services.oplog"],
        folder / "log",
        environment={**os.environ, **environment},
    )
    token = tokens.user(roles=["service", "auditor"])
    made = LogProcess(program, address, http, token, database.admin_url, folder / "log")
    try:
        await made.start()
        yield made
    finally:
        await program.stop()
