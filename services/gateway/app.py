"""Where the parts of the service meet: what is opened here is closed here."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1 import gateway_pb2_grpc
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from services.gateway.analytics import Analyst
from services.gateway.answers import Answers
from services.gateway.cancelling import Canceller
from services.gateway.completing import completing
from services.gateway.counting import Counting
from services.gateway.entitlements import Entitlements
from services.gateway.execution import Executor, Parts
from services.gateway.interpret import Interpreter
from services.gateway.notices import Notices, open_notices
from services.gateway.offers import Offers
from services.gateway.outbox import Outbox
from services.gateway.peers import Complete, Usage, at_work, open_domains
from services.gateway.reads import Reads
from services.gateway.recommendations import Adviser, RecommendationStore
from services.gateway.requests import SCHEMA, VERSION, Requests
from services.gateway.runner import Runner
from services.gateway.servicer import GatewayServicer
from services.gateway.settings import Settings
from services.gateway.settlement import Settlement
from services.runtime.calling import ACCEPTING, OVERALL, Tls, TokenSource, channel, peer_tls, serves
from services.runtime.postgres import Pool, open_pool_of, wait_for_schema
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

# What a peer's health is asked about, where that is not the whole of it: intents are written.
NEEDED = {"oplog": "dependency.postgres.writes"}

# Reads go on without the log, rules without models, plans from the cache (GAT-12).
SPARED = frozenset(
    {
        *("dependency.oplog", "dependency.router", "dependency.entitlements"),
        "dependency.postgres.writes",  # it is told with the reason, by a gateway that serves
    }
)


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Peers:
    """Channels to the services that the gateway asks; no router where none is set up."""

    entitlements: grpc.aio.Channel
    usage: grpc.aio.Channel
    oplog: grpc.aio.Channel
    router: grpc.aio.Channel | None

    @property
    def health(self) -> dict[str, Callable[[], Awaitable[bool]]]:
        channels = {
            "entitlements": self.entitlements,
            "usage": self.usage,
            "oplog": self.oplog,
            "router": self.router,
        }
        return {
            f"dependency.{name}": partial(serves, opened, NEEDED.get(name, OVERALL))
            for name, opened in channels.items()
            if opened is not None
        }


async def open_peers(
    stack: AsyncExitStack, settings: Settings, telemetry: Telemetry, tls: Tls | None
) -> Peers:
    """Channels that are open as long as *stack*."""

    async def peer(name: str, target: str) -> grpc.aio.Channel:
        opened = channel(
            target, tls=tls, idempotent=SAFE[name], watching=ACCEPTING, telemetry=telemetry
        )
        return await stack.enter_async_context(opened)

    return Peers(
        await peer("entitlements", settings.entitlements_target),
        await peer("usage", settings.usage_target),
        await peer("oplog", settings.oplog_target),
        await peer("router", settings.router_target) if settings.router_target else None,
    )


async def open_parts(
    stack: AsyncExitStack,
    settings: Settings,
    telemetry: Telemetry,
    pool: Pool,
    peers: Peers,
    notices: Notices,
    entitlements: Entitlements,
    complete: Complete | None,
    now: Callable[[], datetime],
) -> Parts:
    """What execution stands on, open as long as *stack*."""
    tls, tokens = peer_tls(settings), TokenSource(settings.service_token_file)
    log_settings = RecorderSettings(
        settings.service,
        settings.oplog_target,
        settings.spool_directory,
        settings.spool_max_bytes,
    )
    recorder, _ = await stack.enter_async_context(
        open_recorder(log_settings, tokens, tls=tls, telemetry=telemetry, now=now)
    )
    domains = await stack.enter_async_context(
        open_domains(tls, tokens, settings.domain_seconds, telemetry)
    )
    usage = Usage(UsageServiceStub(peers.usage), tokens, telemetry)
    keep = timedelta(hours=settings.replay_hours)
    requests = Requests(pool, keep=keep, telemetry=telemetry)
    log = telemetry.log
    settlement = Settlement(entitlements, usage, domains, requests, recorder, notices, log, now=now)
    outbox = Outbox(requests, recorder, telemetry)
    return Parts(
        settings=settings,
        entitlements=entitlements,
        usage=usage,
        domains=domains,
        interpreter=Interpreter(complete, notices),
        notices=notices,
        offers=Offers(entitlements, notices),
        requests=requests,
        recorder=recorder,
        settlement=settlement,
        outbox=outbox,
        answers=Answers(requests, outbox, recorder, log),
        runner=Runner(requests, usage, settlement, log, request_seconds=settings.request_seconds),
        log=log,
        now=now,
    )


@asynccontextmanager
async def running(
    settings: Settings, telemetry: Telemetry, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[str]:
    """The service, serving; yields its address. *now* says what day it is, and dates reports."""
    notices = open_notices()
    tokens = TokenSource(settings.service_token_file)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool_of(settings, SCHEMA, telemetry))
        await wait_for_schema(pool, SCHEMA, VERSION)
        peers = await open_peers(stack, settings, telemetry, peer_tls(settings))
        router = RouterServiceStub(peers.router) if peers.router else None
        entitlements = Entitlements(EntitlementsServiceStub(peers.entitlements), tokens)
        complete = completing(router, tokens, entitlements) if router else None
        parts = await open_parts(
            stack, settings, telemetry, pool, peers, notices, entitlements, complete, now
        )
        executor = Executor(parts)
        canceller = Canceller(parts.runner, parts.requests, pool, settings.listen_url)
        analyst = Analyst(parts.domains, complete, notices)
        store = RecommendationStore(pool) if settings.keep_recommendations else None
        adviser = Adviser(analyst, complete, notices, store)
        log = OperationLogServiceStub(peers.oplog)
        servicer = GatewayServicer(
            parts,
            executor,
            canceller,
            Reads(parts, analyst, adviser),
            log,
            router,
            tokens,
            Counting(telemetry.meter),
        )
        await stack.enter_async_context(
            at_work(
                telemetry.log,
                parts.entitlements.follow,
                canceller.listen,
                parts.settlement.sweeping,
            )
        )
        stack.push_async_callback(parts.answers.drain)
        stack.push_async_callback(parts.runner.drain)
        server = serving(
            settings,
            telemetry,
            partial(gateway_pb2_grpc.add_GatewayServiceServicer_to_server, servicer),
            service_names=[SERVICE_NAME],
            health={
                "dependency.postgres": pool.check,
                "dependency.postgres.writes": parts.requests.check_writes,
                **peers.health,
            },
            spared=SPARED,
        )
        yield await stack.enter_async_context(server)
