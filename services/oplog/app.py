"""Where the parts of the service meet: what is opened here is closed here."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
from gatehouse.oplog.v1 import oplog_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from services.oplog import receiver
from services.oplog.committer import open_committer
from services.oplog.pages import PageTokens
from services.oplog.postgres import SCHEMA, VERSION, Store
from services.oplog.receiver import Receiver, TraceServicer, serving_http
from services.oplog.retention import open_retention
from services.oplog.seals import read_sealing
from services.oplog.servicer import OperationLogServicer
from services.oplog.settings import Settings
from services.oplog.settle import open_settler
from services.oplog.tail import open_growth
from services.oplog.watching import open_watch
from services.runtime.identity import open_verifier
from services.runtime.postgres import open_pool_of, wait_for_schema
from services.runtime.serving import serving
from services.runtime.telemetry import Telemetry

SERVICE_NAME = "gatehouse.oplog.v1.OperationLogService"


def utc_now() -> datetime:
    return datetime.now(UTC)


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
        sealing = read_sealing(settings.sealing_key_file, settings.sealing_public_keys_file)
        store = Store(pool, sealing, now)
        tokens = PageTokens(await store.page_token_key())
        age = timedelta(days=settings.retention_days)
        await enter(open_retention(store, age, settings.retain_every_seconds, telemetry.log))
        growth = await enter(open_growth(settings.listen_url))
        committer = await enter(
            open_committer(store, telemetry, most_waiting=settings.max_waiting_exports)
        )
        verifier = await enter(open_verifier(settings))
        taking = Receiver(committer, telemetry.meter, now=clock)
        if settings.http_listen:
            http = serving_http(
                taking,
                verifier,
                telemetry.log,
                listen=settings.http_listen,
                most_bytes=settings.max_message_bytes,
            )
            telemetry.log.info("OTLP over HTTP at %s", await enter(http))
        await enter(open_watch(store, sealing, settings, telemetry, clock))
        await enter(open_settler(settings, store, committer, telemetry.log, clock))
        answering = OperationLogServicer(
            store, sealing, tokens, growth, settings.heartbeat_seconds, now=clock
        )

        def add(server: grpc.aio.Server) -> None:
            oplog_pb2_grpc.add_OperationLogServiceServicer_to_server(answering, server)
            trace_service_pb2_grpc.add_TraceServiceServicer_to_server(TraceServicer(taking), server)

        yield await enter(
            serving(
                settings,
                telemetry,
                add,
                service_names=[SERVICE_NAME, receiver.SERVICE_NAME],
                health={
                    "dependency.postgres": pool.check,
                    "dependency.postgres.writes": store.check_writes,
                },
                # The log can be read while somebody holds its end.
                spared=frozenset({"dependency.postgres.writes"}),
                verifier=verifier,
            )
        )
