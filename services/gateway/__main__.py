"""`python -m services.gateway`: one replica, until it is told to stop."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.app import running
from services.gateway.settings import Settings
from services.runtime.serving import run
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry


@asynccontextmanager
async def main() -> AsyncIterator[str]:
    settings = load(Settings)
    with open_telemetry(settings) as telemetry:
        async with running(settings, telemetry) as address:
            yield address


if __name__ == "__main__":
    sys.exit(run(main, Settings.service))
