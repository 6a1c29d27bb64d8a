"""`python -m services.embedded_program SERVICE SECONDS_AHEAD`: a service of the embedded suite.

It runs as `python -m services.usage` does, with the same settings from the environment, but by a
clock that is ahead of the machine's. Only the embedded suite starts it, where its clock was set.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from services.embedded_clock import Clock
from services.embedded_services import SERVICES
from services.runtime.serving import run
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry


def main(name: str, seconds_ahead: str) -> int:
    service, clock = SERVICES[name], Clock(timedelta(seconds=float(seconds_ahead)))

    @asynccontextmanager
    async def serve() -> AsyncIterator[Any]:
        settings = load(service.settings)
        with open_telemetry(settings) as telemetry:
            async with service.running(settings, telemetry, **service.timed_by(clock)) as address:
                yield address

    return run(serve, service.settings.service)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
