"""Where the parts of the example meet: three domains, each on its own address, over one schema."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import grpc
from gatehouse.domain.v1 import domain_pb2_grpc

from examples.clinic.entities import descriptors
from examples.clinic.servicer import ClinicServicer
from examples.clinic.settings import Settings
from services.runtime.identity import open_verifier
from services.runtime.postgres import Pool, open_pool_of, wait_for_schema
from services.runtime.serving import serving
from services.runtime.telemetry import Telemetry

SERVICE_NAME = "gatehouse.domain.v1.DomainService"
SCHEMA = "clinic"
VERSION = "20261130000500"


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def running(
    settings: Settings, telemetry: Telemetry, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[dict[str, str]]:
    """The three domains, serving; yields their addresses by name. What is due is so by *now*."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(open_pool_of(settings, SCHEMA, telemetry))
        await wait_for_schema(pool, SCHEMA, VERSION)
        verifier = await enter(open_verifier(settings))
        addresses = {}
        for domain in descriptors():
            serve = serving(
                settings.model_copy(update={"listen": settings.listen_of(domain)}),
                telemetry,
                adding(domain, pool, now),
                service_names=[SERVICE_NAME],
                health={"dependency.postgres": pool.check},
                verifier=verifier,
            )
            addresses[domain] = await enter(serve)
        yield addresses


def adding(
    domain: str, pool: Pool, now: Callable[[], datetime]
) -> Callable[[grpc.aio.Server], None]:
    def add(server: grpc.aio.Server) -> None:
        servicer = ClinicServicer(domain, pool, now=now)
        domain_pb2_grpc.add_DomainServiceServicer_to_server(servicer, server)

    return add
