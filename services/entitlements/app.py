"""Where the parts of the service meet: what is opened here is closed here."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as pb_grpc

from services.entitlements.answers import Answers
from services.entitlements.journal import Journal, Recorder
from services.entitlements.pages import PageTokens
from services.entitlements.postgres import ITSELF, SCHEMA, Store
from services.entitlements.servicer import EntitlementsServicer
from services.entitlements.settings import Settings
from services.entitlements.watch import Feed, Followers, open_feed
from services.runtime.calling import TokenSource, peer_tls
from services.runtime.postgres import open_pool_of, wait_for_schema
from services.runtime.recording import RecorderSettings, open_recorder
from services.runtime.serving import serving
from services.runtime.telemetry import Telemetry

SERVICE_NAME = "gatehouse.entitlements.v1.EntitlementsService"
SCHEMA_VERSION = "20261130000120"


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def recording(
    settings: Settings, telemetry: Telemetry, now: Callable[[], datetime]
) -> AsyncIterator[Recorder | None]:
    """The recorder that the settings name, or None where they let writes go unrecorded.

    The log is not among the health checks: while it is gone writes are refused, and reads go on.
    """
    if settings.oplog_target is None or settings.spool_directory is None:
        yield None
        return
    to = RecorderSettings(SCHEMA, settings.oplog_target, settings.spool_directory)
    own_token = TokenSource(settings.service_token_file)
    opened = open_recorder(to, own_token, tls=peer_tls(settings), telemetry=telemetry, now=now)
    async with opened as (recorder, _):
        yield recorder


@asynccontextmanager
async def running(
    settings: Settings,
    telemetry: Telemetry,
    recorder: Recorder | None = None,
    now: Callable[[], datetime] = utc_now,
) -> AsyncIterator[str]:
    """The service, serving; yields its address.

    A *recorder* that is given takes the place of the one that the settings name. *now* dates what
    the operation log gets; the history of changes goes by the store's clock, and what is compared
    with it by this machine's.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(open_pool_of(settings, SCHEMA, telemetry))
        await wait_for_schema(pool, SCHEMA, SCHEMA_VERSION)
        store = Store(pool)
        tokens = PageTokens(await store.page_token_key(ITSELF))
        if recorder is None:
            recorder = await enter(recording(settings, telemetry, now))
        feed = await enter(
            open_feed(store, settings.listen_url, settings.heartbeat_seconds, telemetry.log)
        )
        servicer = servicer_over(settings, store, feed, Journal(recorder, now=now), tokens)

        def add(server: grpc.aio.Server) -> None:
            pb_grpc.add_EntitlementsServiceServicer_to_server(servicer, server)

        serve = serving(
            settings,
            telemetry,
            add,
            service_names=[SERVICE_NAME],
            health={
                "dependency.postgres": pool.check,
                "dependency.postgres.writes": store.check_writes,
            },
            # Reads go on while somebody holds up the writers.
            spared=frozenset({"dependency.postgres.writes"}),
        )
        address = await enter(serve)
        # First of all to close: a stream without end would hold up the drain.
        stack.callback(feed.close)
        yield address


def servicer_over(
    settings: Settings, store: Store, feed: Feed, journal: Journal, tokens: PageTokens
) -> EntitlementsServicer:
    answers = Answers(
        store,
        feed,
        valid_for=timedelta(seconds=settings.valid_seconds),
        revision_wait=settings.revision_wait_seconds,
    )
    followers = Followers(store, feed, replay_limit=settings.replay_limit, now=utc_now)
    return EntitlementsServicer(store, answers, followers, journal, tokens, now=utc_now)
