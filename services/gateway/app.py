"""Where the parts of the service meet: what is opened here is closed here."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1 import gateway_pb2_grpc
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from services.gateway.analytics import Analyst
from services.gateway.cancelling import Canceller
from services.gateway.execution import Executor, Parts
from services.gateway.interpret import Interpreter
from services.gateway.notices import open_notices
from services.gateway.peers import Entitlements, Usage, at_work, completing, open_domains
from services.gateway.recommendations import Adviser, RecommendationStore
from services.gateway.requests import SCHEMA, VERSION, Requests
from services.gateway.servicer import GatewayServicer
from services.gateway.settings import Settings
from services.gateway.settlement import Settlement
from services.runtime.calling import TokenSource, channel, peer_tls, reachable
from services.runtime.postgres import open_pool, wait_for_schema
from services.runtime.recording import RecorderSettings, open_recorder
from services.runtime.serving import serving
from services.runtime.telemetry import Telemetry

SERVICE_NAME = "gatehouse.gateway.v1.GatewayService"

# Methods of peers whose calls may be sent again when nobody answered (ALL-1).
SAFE = {
    "entitlements": ["gatehouse.entitlements.v1.EntitlementsService"],
    "usage": ["gatehouse.usage.v1.UsageService"],
    "oplog": ["gatehouse.oplog.v1.OperationLogService"],
    "router": ["gatehouse.router.v1.RouterService/ListModels"],
}


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def running(settings: Settings, telemetry: Telemetry) -> AsyncIterator[str]:
    """The service, serving; yields its address."""
    notices = open_notices()
    url = settings.database_url.get_secret_value()
    tls, tokens = peer_tls(settings), TokenSource(settings.service_token_file)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(
            open_pool(
                url,
                min_size=settings.pool_min_size,
                max_size=settings.pool_max_size,
                name=SCHEMA,
            )
        )
        await wait_for_schema(pool, SCHEMA, VERSION)

        async def peer(name: str, target: str) -> grpc.aio.Channel:
            opened = channel(target, tls=tls, idempotent=SAFE[name], told_of_stops=True)
            return await enter(opened)

        entitlements_channel = await peer("entitlements", settings.entitlements_target)
        usage_channel = await peer("usage", settings.usage_target)
        oplog_channel = await peer("oplog", settings.oplog_target)
        entitlements = Entitlements(EntitlementsServiceStub(entitlements_channel), tokens)
        usage = Usage(UsageServiceStub(usage_channel), tokens)
        router = None
        health: dict[str, Callable[[], Awaitable[bool]]] = {
            "dependency.postgres": pool.check,
            "dependency.entitlements": lambda: reachable(entitlements_channel),
            "dependency.usage": lambda: reachable(usage_channel),
            "dependency.oplog": lambda: reachable(oplog_channel),
        }
        if settings.router_target:
            router_channel = await peer("router", settings.router_target)
            router = RouterServiceStub(router_channel)
            health["dependency.router"] = lambda: reachable(router_channel)
        complete = completing(router, tokens) if router else None
        recorder, _ = await enter(
            open_recorder(
                RecorderSettings(settings.service, settings.oplog_target, settings.spool_directory),
                tokens,
                tls=tls,
            )
        )
        domains = await enter(open_domains(tls, tokens, settings.domain_seconds))
        requests = Requests(pool, keep=timedelta(hours=settings.replay_hours))
        settlement = Settlement(
            entitlements, usage, domains, requests, recorder, notices, telemetry.log, now=utc_now
        )
        parts = Parts(
            settings=settings,
            entitlements=entitlements,
            usage=usage,
            domains=domains,
            interpreter=Interpreter(complete, notices),
            notices=notices,
            requests=requests,
            recorder=recorder,
            settlement=settlement,
            log=telemetry.log,
            now=utc_now,
        )
        executor = Executor(parts)
        canceller = Canceller(executor, requests, pool, url)
        analyst = Analyst(domains, complete, notices)
        store = RecommendationStore(pool) if settings.keep_recommendations else None
        servicer = GatewayServicer(
            parts,
            executor,
            canceller,
            analyst,
            Adviser(analyst, complete, notices, store),
            OperationLogServiceStub(oplog_channel),
            router,
            tokens,
        )
        loops = (entitlements.follow, usage.run, canceller.listen, settlement.sweeping)
        await enter(at_work(telemetry.log, *loops))
        stack.push_async_callback(executor.drain)

        def add(server: grpc.aio.Server) -> None:
            gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, server)

        yield await enter(
            serving(
                settings,
                telemetry,
                add,
                service_names=[SERVICE_NAME],
                health=health,
                # Reads go on without the log, rules without models, plans from the cache (GAT-12).
                spared=frozenset(
                    {"dependency.oplog", "dependency.router", "dependency.entitlements"}
                ),
            )
        )
