"""A service as a process, whose calls break while a library warns; its settings are argument 1."""

import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from gatehouse.usage.v1 import usage_pb2_grpc

from services.runtime.serving import run, serving
from services.runtime.telemetry import open_telemetry
from tests.contract.rpc.runtime_stand import SERVICE, Settings, UsageDesk


async def breaking(_: Any, __: Any) -> Any:
    logging.getLogger("a.library").warning("it warns")
    raise RuntimeError("it breaks")


@asynccontextmanager
async def main() -> AsyncIterator[str]:
    settings = Settings(**json.loads(sys.argv[1]))
    add = partial(usage_pb2_grpc.add_UsageServiceServicer_to_server, UsageDesk(breaking))
    with open_telemetry(settings) as telemetry:
        async with serving(settings, telemetry, add, service_names=[SERVICE], health={}) as address:
            yield address


if __name__ == "__main__":
    sys.exit(run(main, "stand"))
