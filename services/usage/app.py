"""Where the parts of the service meet: what is opened here is closed here."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

import grpc
from gatehouse.usage.v1 import usage_pb2_grpc

from services.runtime.calling import TokenSource, peer_tls
from services.runtime.postgres import open_pool_of, wait_for_schema
from services.runtime.recording import Recorder, RecorderSettings, open_recorder
from services.runtime.serving import serving
from services.runtime.telemetry import Telemetry
from services.runtime.valkey import open_valkey
from services.usage.cool_downs import CoolDowns
from services.usage.ledger import SCHEMA, VERSION, Ledger, utc_now
from services.usage.meter import Meter, open_meter
from services.usage.servicer import UsageServicer
from services.usage.settings import Settings

SERVICE_NAME = "gatehouse.usage.v1.UsageService"


@asynccontextmanager
async def running(
    settings: Settings, telemetry: Telemetry, now: Callable[[], datetime] | None = None
) -> AsyncIterator[str]:
    """The service, serving; yields its address. A *now* given takes the place of the clocks."""
    clock = now or utc_now
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(open_pool_of(settings, SCHEMA, telemetry))
        await wait_for_schema(pool, SCHEMA, VERSION)
        valkey_url = settings.valkey_url.get_secret_value()
        valkey = await enter(open_valkey(valkey_url, telemetry=telemetry))
        ledger = Ledger(pool, settings.thresholds, now)
        cool_downs = CoolDowns(valkey, telemetry.log)
        meter = Meter(ledger, cool_downs, telemetry)
        await enter(open_meter(meter, ledger, telemetry.log, sweep_seconds=settings.sweep_seconds))
        recorder = await opened_recorder(settings, telemetry, stack, clock)
        servicer = UsageServicer(meter, ledger, settings.thresholds, recorder, now=clock)

        def add(server: grpc.aio.Server) -> None:
            usage_pb2_grpc.add_UsageServiceServicer_to_server(servicer, server)

        yield await enter(
            serving(
                settings,
                telemetry,
                add,
                service_names=[SERVICE_NAME],
                health={
                    "dependency.postgres": pool.check,
                    "dependency.postgres.writes": ledger.check_writes,
                    "dependency.valkey": cool_downs.check,
                },
                # Without Valkey the ledger answers the windows alone (USE-7). While somebody holds
                # a table callers hear so from the service, not from a channel without replicas.
                spared=frozenset({"dependency.valkey", "dependency.postgres.writes"}),
            )
        )


async def opened_recorder(
    settings: Settings, telemetry: Telemetry, stack: AsyncExitStack, now: Callable[[], datetime]
) -> Recorder | None:
    if settings.oplog_target is None or settings.spool_directory is None:
        return None
    where = RecorderSettings(settings.service, settings.oplog_target, settings.spool_directory)
    tokens = TokenSource(settings.service_token_file)
    recorder, _ = await stack.enter_async_context(
        open_recorder(where, tokens, tls=peer_tls(settings), telemetry=telemetry, now=now)
    )
    return recorder
