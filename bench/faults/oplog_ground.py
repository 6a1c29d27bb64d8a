"""What the run over the operation log stands on: two gateways, and a network before all others."""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub

from bench.faults.breaking import RECONNECT
from bench.faults.disk import Disk, small_disk
from bench.faults.network import Link, linked
from bench.stand import surroundings
from examples.clinic.entities import descriptors
from services.embedded import ADMIN, PREMIUM_USER, grounded
from services.embedded_fill import fill
from services.embedded_services import (
    DATABASE,
    SERVICES,
    Place,
    environment_of,
    told,
    wait_until_serving,
)
from services.embedded_stores import GuardedProgram
from services.runtime.settings import prefix_of

GATEWAYS = ("gateway 0", "gateway 1")
CLINICS = 3
# Counts that nobody comes near: what they come to is the other run's.
NO_LIMITS = {"abuse_queries": "200", "abuse_modifies": "200"}
# The log asks domains while the gateways still do, so that they race.
EARLY_SETTLING = {"settle_after_seconds": "2", "settle_every_seconds": "0.5"}


@dataclass
class Ground:
    """What runs, and how it is reached."""

    place: Place
    programs: dict[str, GuardedProgram]
    addresses: dict[str, str]
    links: dict[str, Link]
    disks: dict[str, Disk]
    spools: dict[str, Path]
    gateways: list[Any]
    log: Any
    # What cannot write where it listens cannot start.
    starting: set[str] = field(default_factory=set)

    @property
    def admin_url(self) -> str:
        return self.place.postgres.url(database=DATABASE)

    def call(self, user_id: str, clinic_id: str = "", *roles: str) -> dict[str, Any]:
        token = self.place.issuer.mint(user_id=user_id, clinic_id=clinic_id, roles=("user", *roles))
        return {"metadata": [("authorization", f"Bearer {token}")]}

    async def start(self, name: str) -> None:
        self.starting.add(name)
        await self.programs[name].start()
        await wait_until_serving(self.programs[name], self.addresses[name])
        self.starting.discard(name)


@asynccontextmanager
async def standing() -> AsyncIterator[Ground]:
    """Everything started and filled; between the gateways and the others lies the network."""
    async with AsyncExitStack() as stack:
        stack.enter_context(surroundings())
        place, _ = await grounded(stack, None, ())
        links = {
            name: await stack.enter_async_context(linked(place.address(name)))
            for name in ("oplog", *descriptors())
        }
        made = Ground(place, {}, {}, links, {}, {}, [], None)
        for name, service, settings in programs(made, stack):
            made.programs[name] = program_of(place, name, service, settings)
            stack.push_async_callback(made.programs[name].stop)
            made.addresses[name] = settings["listen"]
        made.addresses["clinic"] = place.address("clients")
        await asyncio.gather(*(made.start(name) for name in made.programs))
        channels = {
            name: await stack.enter_async_context(
                grpc.aio.insecure_channel(made.addresses[name], options=RECONNECT)
            )
            for name in (*GATEWAYS, "oplog", "entitlements")
        }
        made.gateways = [GatewayServiceStub(channels[name]) for name in GATEWAYS]
        made.log = OperationLogServiceStub(channels["oplog"])
        targets = {name: link.address for name, link in links.items()}
        targets["entitlements"] = made.addresses["entitlements"]
        await filled(made, EntitlementsServiceStub(channels["entitlements"]), targets)
        yield made


def programs(made: Ground, stack: AsyncExitStack) -> list[tuple[str, str, dict[str, str]]]:
    """Each program's name, its service, and what that is told."""
    settings = told(made.place, made.place.address("gateway"))
    settings["usage"] |= NO_LIMITS
    settings["oplog"] |= EARLY_SETTLING
    gateway = settings.pop("gateway")
    wanted = [(name, name, each) for name, each in settings.items()]
    for number, name in enumerate(GATEWAYS):
        spool = made.place.folder / "spool" / name.replace(" ", "-")
        made.spools[name] = spool
        made.disks[name] = stack.enter_context(small_disk(spool))
        own = {
            "listen": made.place.address(f"gateway-{number}"),
            "oplog_target": made.links["oplog"].address,
            "spool_directory": str(spool),
        }
        wanted.append((name, "gateway", {**gateway, **own}))
    return wanted


def program_of(place: Place, name: str, service: str, settings: dict[str, str]) -> GuardedProgram:
    prefix = prefix_of(SERVICES[service].settings)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(prefix)}
    return GuardedProgram(
        name,
        [sys.executable, "-m", SERVICES[service].module],
        place.log_file(name.replace(" ", "-")),
        environment={**inherited, **environment_of(service, settings)},
    )


def clinic_of(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"clinic {number}"))


async def filled(made: Ground, entitlements: Any, targets: Mapping[str, str]) -> None:
    """The domains, where *targets* says, and clinics whose users may change things."""
    admin = made.call(ADMIN, "", "admin", "auditor")
    token = admin["metadata"][0][1].removeprefix("Bearer ")
    await fill(targets, token, PREMIUM_USER)
    for number in range(CLINICS):
        request = entitlements_pb2.SetClinicPlanRequest(
            clinic_id=clinic_of(number), plan_name="premium"
        )
        await entitlements.SetClinicPlan(request, timeout=10, **admin)
