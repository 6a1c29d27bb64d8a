"""`python -m services.entitlements`: one replica, until it is told to stop."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.entitlements.app import running
from services.entitlements.settings import Settings
from services.runtime.serving import run
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry


@asynccontextmanager
async def entitlements() -> AsyncIterator[str]:
    settings = load(Settings)
    with open_telemetry(settings) as telemetry:
        async with running(settings, telemetry) as address:
            yield address


if __name__ == "__main__":
    sys.exit(run(entitlements, Settings.service))
