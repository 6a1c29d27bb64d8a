"""`python -m examples.clinic`: the three domains, until they are told to stop."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from examples.clinic.app import running
from examples.clinic.settings import Settings
from services.runtime.serving import run
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry


@asynccontextmanager
async def main() -> AsyncIterator[dict[str, str]]:
    settings = load(Settings)
    with open_telemetry(settings) as telemetry:
        async with running(settings, telemetry) as addresses:
            yield addresses


if __name__ == "__main__":
    sys.exit(run(main, Settings.service))
