"""The services on this machine: what each is told, and how it runs.

What a service is told is the same whether it shares this process or has one of its own: variables
of an environment, as in production.
"""

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from joserfc.jwk import OKPKey

from examples.clinic import app as clinic
from examples.clinic.entities import descriptors
from examples.clinic.settings import Settings as ClinicSettings
from services.embedded_clock import Clock
from services.embedded_identity import Issuer
from services.embedded_stores import GuardedProgram, PostgresServer, StartFailed, ValkeyServer
from services.entitlements import app as entitlements
from services.entitlements.settings import Settings as EntitlementsSettings
from services.gateway import app as gateway
from services.gateway.settings import Settings as GatewaySettings
from services.oplog import app as oplog
from services.oplog.settings import Settings as OplogSettings
from services.router import app as router
from services.router.settings import Settings as RouterSettings
from services.runtime.failure import Failure
from services.runtime.settings import ServiceSettings, SettingsError, load, prefix_of
from services.runtime.telemetry import JsonLines, open_telemetry
from services.usage import app as usage
from services.usage.settings import Settings as UsageSettings

DATABASE = "gatehouse"
# Six programs start at once, maybe on a machine whose cores have ten others to run.
SERVING_SECONDS = 60.0
# With a clock that was set nothing is old enough to be dropped from the log.
LONGEST_RETENTION_DAYS = "36600"


@dataclass(frozen=True)
class Service:
    """One service: its module, its settings, and how it runs inside this process."""

    module: str
    settings: type[ServiceSettings]
    running: Callable[..., AbstractAsyncContextManager[Any]]
    # The router's times are those of its providers: Retry-After, prices, a day's spending.
    has_clock: bool = True

    def timed_by(self, clock: Clock | None) -> dict[str, Any]:
        """The argument of `running` that hands over *clock*; none, and it has its own."""
        return {"now": clock.now} if clock is not None and self.has_clock else {}


# In the order in which they start; they stop in the reverse, so that callers go first.
SERVICES = {
    "oplog": Service("services.oplog", OplogSettings, oplog.running),
    "entitlements": Service("services.entitlements", EntitlementsSettings, entitlements.running),
    "usage": Service("services.usage", UsageSettings, usage.running),
    "router": Service("services.router", RouterSettings, router.running, has_clock=False),
    "clinic": Service("examples.clinic", ClinicSettings, clinic.running),
    "gateway": Service("services.gateway", GatewaySettings, gateway.running),
}


@dataclass(frozen=True)
class Place:
    """What the services stand on: where their files and sockets are, the stores, the issuer."""

    folder: Path
    sockets: Path
    postgres: PostgresServer
    valkey: ValkeyServer
    issuer: Issuer
    catalogue: Path | None
    # None: each service goes by the clocks that it has in production.
    clock: Clock | None = None

    def address(self, name: str) -> str:
        """Where a service or a domain listens: a socket that only its owner's programs reach."""
        return f"unix:{self.sockets / name}.sock"

    def token_file(self, service: str) -> Path:
        return self.folder / f"{service}.token"

    def log_file(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    @property
    def names(self) -> list[str]:
        """The services that run here: without a catalogue there is no router (GAT-12)."""
        return [name for name in SERVICES if name != "router" or self.catalogue]


def told(place: Place, gateway_listen: str) -> dict[str, dict[str, str]]:
    """The settings of each service, in lower case and without their prefix."""
    own: dict[str, dict[str, str]] = {
        "oplog": {
            "entitlements_target": place.address("entitlements"),
            "sealing_key_file": str(kept_key(place.folder / "sealing.key")),
            **({"retention_days": LONGEST_RETENTION_DAYS} if place.clock else {}),
        },
        "entitlements": recorded(place, "entitlements"),
        "usage": {**recorded(place, "usage"), "valkey_url": place.valkey.url},
        "router": {
            "catalogue_file": str(place.catalogue),
            "spool_directory": str(place.folder / "spool" / "router"),
        },
        "clinic": {f"{name}_listen": place.address(name) for name in descriptors()},
        "gateway": {
            **recorded(place, "gateway"),
            "entitlements_target": place.address("entitlements"),
            "usage_target": place.address("usage"),
            "router_target": place.address("router") if place.catalogue else "",
            "confirmation_key": kept_secret(place.folder / "confirmation.key"),
            "listen": gateway_listen,
        },
    }
    return {name: {**common(place, name), **own[name]} for name in place.names}


def common(place: Place, name: str) -> dict[str, str]:
    return {
        "listen": place.address(name),
        "grace_seconds": "5",
        "jwt_issuer": place.issuer.issuer,
        "jwt_audience": place.issuer.audience,
        "jwks": str(place.issuer.jwks_file),
        "service_token_file": str(place.token_file(name)),
        "otlp_endpoint": os.environ.get("GATEHOUSE_OTLP_ENDPOINT", ""),
        "database_url": place.postgres.url(f"gatehouse_{name}", DATABASE),
    }


def recorded(place: Place, name: str) -> dict[str, str]:
    """Where a service that changes things logs them, and where outcomes wait for the log."""
    spool = place.folder / "spool" / name
    return {"oplog_target": place.address("oplog"), "spool_directory": str(spool)}


def kept_secret(file: Path) -> str:
    """A secret of this folder's, made when there is none; for its user alone."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(48))
    return file.read_text()


def kept_key(file: Path) -> Path:
    """An Ed25519 key of this folder's, made when there is none; for its user alone."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(OKPKey.generate_key("Ed25519").as_pem(private=True))
    return file


def environment_of(name: str, settings: Mapping[str, str]) -> dict[str, str]:
    prefix = prefix_of(SERVICES[name].settings)
    return {f"{prefix}{key.upper()}": value for key, value in settings.items()}


@asynccontextmanager
async def inside(place: Place, name: str, settings: Mapping[str, str]) -> AsyncIterator[Any]:
    """A service in this process; yields what it yields: its address, or those of its domains.

    Raises StartFailed.
    """
    service = SERVICES[name]
    try:
        made = load(service.settings, environment_of(name, settings))
    except SettingsError as error:
        raise StartFailed(f"the {name} service: {error}") from None
    async with AsyncExitStack() as stack:
        stack.enter_context(logging_to(place.log_file(name), name))
        telemetry = stack.enter_context(open_telemetry(made))
        try:
            serving = service.running(made, telemetry, **service.timed_by(place.clock))
            addresses = await stack.enter_async_context(serving)
        except (SettingsError, Failure) as error:
            raise StartFailed(f"the {name} service: {error}") from None
        yield addresses


@contextmanager
def logging_to(file: Path, name: str) -> Iterator[None]:
    """Send a service's log lines into a file instead of the terminal."""
    log = logging.getLogger(f"gatehouse.{name}")
    handler = logging.FileHandler(file, delay=True)
    handler.setFormatter(JsonLines(name))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@asynccontextmanager
async def beside(
    place: Place, name: str, settings: Mapping[str, str]
) -> AsyncIterator[GuardedProgram]:
    """A service in a process of its own, serving; it never outlives this one.

    Raises StartFailed.
    """
    prefix = prefix_of(SERVICES[name].settings)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(prefix)}
    module = [SERVICES[name].module]
    if place.clock is not None:
        module = ["services.embedded_program", name, str(place.clock.ahead.total_seconds())]
    program = GuardedProgram(
        f"the {name} service",
        [sys.executable, "-m", *module],
        place.log_file(name),
        environment={**inherited, **environment_of(name, settings)},
    )
    await program.start()
    try:
        yield program
    finally:
        await program.stop()


async def wait_until_serving(program: GuardedProgram, address: str) -> None:
    """Return once *address* says SERVING. Raises StartFailed when it ends instead."""
    try:
        async with asyncio.timeout(SERVING_SECONDS), grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not await is_serving(health):
                if not program.running:
                    raise StartFailed(f"{program.name} ended: {program.last_words()}")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise StartFailed(f"{program.name} does not serve: {program.last_words()}") from None


async def is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
