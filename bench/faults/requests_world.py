"""What `bench.faults requests` runs: two of everything that has replicas, over a faulty network.

Each service is a process of its own. Callers reach the gateways, the gateways reach usage, the log
and the domains, and one replica of each kind reaches Postgres, over links that can be slow, silent,
half-open or cut.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import grpc.aio
import psycopg
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1 import tier_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from bench.faults import erratic_domain
from bench.faults.breaking import RECONNECT
from bench.faults.disk import Disk, small_disk
from bench.faults.network import Link, linked, over, socket_of
from bench.faults.oplog_ground import program_of
from bench.stand import surroundings
from examples.clinic.entities import descriptors
from services.embedded import ADMIN, PREMIUM_USER, grounded
from services.embedded_fill import fill, store_sample
from services.embedded_services import DATABASE, Place, told, wait_until_serving
from services.embedded_stores import GuardedProgram

GATEWAYS = ("gateway 0", "gateway 1")
USAGES = ("usage 0", "usage 1")
LOGS = ("oplog 0", "oplog 1")
ENTITLEMENTS = ("entitlements 0", "entitlements 1")
# These replicas reach Postgres over a link; their twins reach it directly.
OVER_A_LINK = ("usage 1", "oplog 1", "gateway 1")
DOMAIN_LINKS = tuple(descriptors())
CHANNELS_TO_A_GATEWAY = 3

# The plan whose limits users reach, and how many of each a day it grants.
SMALL_PLAN = "faults-small"
READ_LIMIT, MODIFY_LIMIT = 10, 7
# Floods exceed these within a run; everybody else stays below.
ABUSE = {
    "abuse_queries": "28",
    "abuse_query_window_seconds": "10",
    "abuse_modifies": "14",
    "abuse_modify_window_seconds": "10",
    "cool_down_seconds": "2",
    "sweep_seconds": "1",
}
# The log asks domains while the gateways still do, so that they race.
EARLY_SETTLING = {"settle_after_seconds": "2", "settle_every_seconds": "0.5"}
ADMIN_SECONDS = 15.0

# Clinics by the plan of their users.
CLINICS = {
    name: str(uuid.uuid5(uuid.NAMESPACE_OID, f"requests {name}"))
    for name in ("unlimited", "small", "basic")
}


@dataclass
class World:
    """What runs, and how it is reached."""

    place: Place
    programs: dict[str, GuardedProgram] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    spools: dict[str, Path] = field(default_factory=dict)
    # By gateway, each over its link; health is asked over the same link.
    gateways: dict[str, list[Any]] = field(default_factory=dict)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    log: Any = None
    erratic: erratic_domain.ErraticDomain = field(default_factory=erratic_domain.ErraticDomain)
    # A zone in which no day ends during the run.
    time_zone: str = "UTC"

    @property
    def admin_url(self) -> str:
        return self.place.postgres.url(database=DATABASE)

    def call(self, user_id: str, clinic_id: str = "", *roles: str) -> list[tuple[str, str]]:
        """The metadata of a call by a user."""
        token = self.place.issuer.mint(
            user_id=user_id,
            clinic_id=clinic_id,
            roles=("user", *roles),
            time_zone=self.time_zone,
        )
        return [("authorization", f"Bearer {token}")]

    async def start(self, name: str) -> None:
        await self.programs[name].start()
        await wait_until_serving(self.programs[name], self.addresses[name])

    async def rows(self, query: str, *values: Any) -> list[Any]:
        """What the superuser reads."""
        async with await psycopg.AsyncConnection.connect(
            self.admin_url, autocommit=True
        ) as connection:
            found = await connection.execute(query, values or None)
            return await found.fetchall() if found.description else []


@asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    """Start and fill everything; stop it at the end. Raises StartFailed."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.enter_context(surroundings())
        place, _ = await grounded(stack, None, ())
        world = World(place, time_zone=zone_far_from_midnight())
        world.erratic = await enter(erratic_domain.erratic_domain(place.address("erratic")))
        await open_links(world, stack)
        for name, service, settings in programs(world, stack):
            world.programs[name] = program_of(place, name, service, settings)
            world.addresses[name] = settings.get("clients_listen", settings["listen"])
            stack.push_async_callback(world.programs[name].stop)
        await asyncio.gather(*(world.start(name) for name in world.programs))
        for name in GATEWAYS:
            opened = [
                await enter(open_channel(world.links[name].address))
                for _ in range(CHANNELS_TO_A_GATEWAY)
            ]
            world.gateways[name] = [GatewayServiceStub(each) for each in opened]
            world.channels[name] = opened[0]
        for name in (*USAGES, LOGS[0], ENTITLEMENTS[0]):
            world.channels[name] = await enter(open_channel(world.addresses[name]))
        world.usage = {name: UsageServiceStub(world.channels[name]) for name in USAGES}
        world.log = OperationLogServiceStub(world.channels[LOGS[0]])
        await fill_world(world)
        yield world


def zone_far_from_midnight() -> str:
    zones = ("America/Sao_Paulo", "Asia/Tokyo")
    return next(
        name for name in zones if 1 <= datetime.now(UTC).astimezone(ZoneInfo(name)).hour < 23
    )


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    return grpc.aio.insecure_channel(address, [*RECONNECT, ("grpc.use_local_subchannel_pool", 1)])


async def open_links(world: World, stack: AsyncExitStack) -> None:
    for name in (*GATEWAYS, *USAGES, *LOGS, *ENTITLEMENTS, *DOMAIN_LINKS):
        link = linked(world.place.address(name.replace(" ", "-")))
        world.links[name] = await stack.enter_async_context(link)
    socket = socket_of(world.place.postgres)
    for name in OVER_A_LINK:
        world.links[f"Postgres of {name}"] = await stack.enter_async_context(linked(socket))


def programs(world: World, stack: AsyncExitStack) -> list[tuple[str, str, dict[str, str]]]:
    """Each program's name, its service, and its settings."""
    place = world.place
    shared = told(place, "")
    shared["usage"] |= ABUSE
    shared["oplog"] |= EARLY_SETTLING
    shared["entitlements"]["oplog_target"] = shared["usage"]["oplog_target"] = place.address(
        "oplog-0"
    )
    shared["gateway"] |= {
        "usage_target": target([world.links[name] for name in USAGES]),
        "oplog_target": target([world.links[name] for name in LOGS]),
        "entitlements_target": target([world.links[name] for name in ENTITLEMENTS]),
    }
    shared["oplog"]["entitlements_target"] = shared["gateway"]["entitlements_target"]
    found = [("clinic", "clinic", shared["clinic"])]
    for name in (*LOGS, *ENTITLEMENTS, *USAGES, *GATEWAYS):
        service, number = name.split()
        own = {"listen": place.address(f"{service}-{number}")}
        if service != "oplog":
            spool = place.folder / "spool" / f"{service}-{number}"
            own["spool_directory"] = str(spool)
            if service == "gateway":
                world.spools[name] = spool
                world.disks[name] = stack.enter_context(small_disk(spool))
        if name in OVER_A_LINK:
            own["database_url"] = over(
                world.links[f"Postgres of {name}"], shared[service]["database_url"]
            )
        found.append((name, service, {**shared[service], **own}))
    return found


def target(links: list[Link]) -> str:
    """All replicas of a service in one address, as DNS would have them."""
    return "ipv4:" + ",".join(link.address for link in links)


async def fill_world(world: World) -> None:
    """The domains, the plans, and records to compute figures from."""
    metadata = world.call(ADMIN, "", "admin", "auditor")
    token = metadata[0][1].removeprefix("Bearer ")
    clinic_url = world.place.postgres.url("gatehouse_clinic", DATABASE)
    targets = {name: world.links[name].address for name in DOMAIN_LINKS}
    targets["entitlements"] = world.addresses[ENTITLEMENTS[0]]
    await fill(targets, token, PREMIUM_USER)
    entitlements: Any = EntitlementsServiceStub(world.channels[ENTITLEMENTS[0]])
    call = {"metadata": metadata, "timeout": ADMIN_SECONDS}
    await entitlements.CreateDescriptor(
        entitlements_pb2.CreateDescriptorRequest(
            descriptor=erratic_domain.descriptor(world.place.address("erratic")),
            request_id=str(uuid.uuid4()),
        ),
        **call,
    )
    small = entitlements_pb2.Plan(
        name=SMALL_PLAN,
        allows_crud=True,
        analytics_window_days=365,
        model_tiers=[tier_pb2.MODEL_BASIC],
        daily_read_limit=READ_LIMIT,
        daily_modify_limit=MODIFY_LIMIT,
    )
    await entitlements.CreatePlan(
        entitlements_pb2.CreatePlanRequest(plan=small, request_id=str(uuid.uuid4())), **call
    )
    for clinic, plan in (("unlimited", "premium"), ("small", SMALL_PLAN)):
        await entitlements.SetClinicPlan(
            entitlements_pb2.SetClinicPlanRequest(clinic_id=CLINICS[clinic], plan_name=plan), **call
        )
    for clinic_id in CLINICS.values():
        await store_sample(clinic_url, clinic_id, datetime.now(UTC), world.time_zone)
