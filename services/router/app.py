"""Where the router's parts meet."""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import grpc.aio
import psycopg
from gatehouse.router.v1.router_pb2_grpc import add_RouterServiceServicer_to_server

from services.router.answering import Answering
from services.router.catalog import Catalogue, Model
from services.router.catalog_file import CatalogueFile
from services.router.circuit import State
from services.router.exchange import Clock
from services.router.fleet import Fleet
from services.router.journal import Journal, open_journal
from services.router.ledger import SCHEMA, Ledger
from services.router.observing import AttemptObserver
from services.router.repeats import open_repeats
from services.router.servicer import RouterServicer
from services.router.settings import Settings
from services.router.transport import open_transport
from services.router.warming import Warming, open_warming
from services.runtime.failure import StoreUnavailable
from services.runtime.postgres import open_pool_of
from services.runtime.serving import serving
from services.runtime.telemetry import Telemetry

SERVICE = "gatehouse.router.v1.RouterService"
FORGET_SECONDS = 3600.0


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def running(
    settings: Settings, telemetry: Telemetry, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[str]:
    """Serve, and yield the bound address. Providers' keys come from *environ*, as the catalogue
    says.

    Raises CatalogueWrong with every mistake of the catalogue. No provider has to be up: the health
    of this service is its own, since all that needs no model works without one (GAT-12).
    """
    clock = Clock(asyncio.get_running_loop().time, utc_now)
    catalogue = CatalogueFile(settings.catalogue_file, environ, telemetry.log)
    # It spreads load and jitter; nothing is kept secret by it.
    draw = random.random
    fleet = Fleet(draw)
    observer = AttemptObserver(telemetry)

    def open_circuits() -> list[tuple[Model, bool]]:
        models, now = catalogue.current.models, clock.now()
        return [(each, fleet.state(each, now) is not State.CLOSED) for each in models]

    observer.follow(open_circuits)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool_of(settings, SCHEMA, telemetry))
        ledger = Ledger(pool)
        journal = await stack.enter_async_context(
            open_journal(Journal(settings.spool_directory, ledger.record, telemetry.log))
        )
        observer.count_unrecorded(lambda: journal.unrecorded)
        transport = await stack.enter_async_context(open_transport())
        warming = await stack.enter_async_context(open_warming(transport, telemetry.log))
        warming.warm(catalogue.current)
        answering = Answering(
            lambda: catalogue.current,
            transport,
            fleet,
            journal,
            ledger,
            observer,
            clock,
            draw,
        )
        repeats = await stack.enter_async_context(open_repeats(clock.now))
        servicer = RouterServicer(
            answering,
            repeats,
            lambda: catalogue.current,
            fleet,
            journal,
            ledger,
            clock,
            settings.longest_answer_seconds,
        )
        await stack.enter_async_context(
            following(catalogue, settings.catalogue_poll_seconds, fleet, warming)
        )
        await stack.enter_async_context(forgetting(ledger, settings.spending_days, telemetry.log))

        def add(server: grpc.aio.Server) -> None:
            add_RouterServiceServicer_to_server(servicer, server)

        yield await stack.enter_async_context(
            serving(
                settings,
                telemetry,
                add,
                service_names=[SERVICE],
                health={"dependency.postgres": pool.check},
                # Without it answers are recorded later.
                spared=frozenset({"dependency.postgres"}),
            )
        )


@asynccontextmanager
async def following(
    catalogue: CatalogueFile, seconds: float, fleet: Fleet, warming: Warming
) -> AsyncIterator[None]:
    """Keep the catalogue in step with its file meanwhile."""

    def changed(current: Catalogue) -> None:
        fleet.forget_others(current.models)
        warming.warm(current)

    task = asyncio.create_task(catalogue.follow(seconds, changed))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


@asynccontextmanager
async def forgetting(ledger: Ledger, days: int, log: logging.Logger) -> AsyncIterator[None]:
    """Delete records that are too old meanwhile, once an hour."""

    async def forget() -> None:
        while True:
            try:
                await ledger.forget(utc_now(), days)
            except (StoreUnavailable, psycopg.Error) as error:
                log.warning("old attempts are not deleted: %s", type(error).__name__)
            await asyncio.sleep(FORGET_SECONDS)

    task = asyncio.create_task(forget())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
