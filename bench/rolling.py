"""A new version, as a cluster brings it: every replica of every service stopped and started again,
one after another, under load.

Two replicas a service; who calls one knows both addresses, spreads its calls over them and turns
away from the one that stops. Every request has to be answered as if nothing had happened, and
afterwards the answers, the clinic's tables and the log have to agree (ALL-1, GAT-6, LOG-2).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1 import router_pb2, tier_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub

from bench.faults.oplog import Requests, name_operations, settled, verified
from bench.faults.oplog_ground import NO_LIMITS, Ground, filled, program_of
from bench.faults.oplog_judge import Asked, LogFindings, judged, said_in
from bench.measuring import say
from bench.programs import free_ports, started
from bench.stand import CATALOGUE, FIRST_TOKEN_SECONDS, surroundings
from examples.clinic.entities import descriptors
from services.embedded import grounded
from services.embedded_services import SERVICES, Place, told, wait_until_serving
from services.runtime.calling import ACCEPTING, channel

REPLICAS = 2
CALL_SECONDS = 10.0
PAUSE_SECONDS = 0.05
# After a replica serves again, before the other one of its service goes: callers' channels look for
# it every two seconds or so (`calling.channel`). On a cluster it is minReadySeconds.
FOUND_SECONDS = 2.5
# Reads, new clients and batches of three: what has to succeed, whoever is restarted.
KINDS = (40, 40, 20, 0, 0)


@dataclass(frozen=True)
class Plan:
    """How hard, by which chances, which services are restarted, and how many replicas of each."""

    seed: int = 1
    callers: int = 4
    services: tuple[str, ...] = tuple(SERVICES)
    replicas: int = REPLICAS


@dataclass
class RollingFindings(LogFindings):
    """Calls that were not answered as they should, besides what the tables contradict."""

    failed: int = 0
    completions: int = 0
    restarted: list[str] = field(default_factory=list)

    def failing(self, what: str) -> None:
        self.failed += 1
        self.broken(what)


@dataclass
class Suite:
    """Every service twice, and one address for both of each."""

    ground: Ground
    gateway: Any
    router: Any
    service_call: dict[str, Any]

    def replicas(self, service: str) -> list[str]:
        return [f"{service} {number}" for number in range(REPLICAS)]


def target(addresses: list[str]) -> str:
    """All replicas in one; on a cluster this is `dns:///name:8443`."""
    return "ipv4:" + ",".join(addresses)


@asynccontextmanager
async def standing() -> AsyncIterator[Suite]:
    """Everything started and filled. Raises StartFailed."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.enter_context(surroundings())
        provider = await enter(started("bench.fault_provider"))
        place, _ = await grounded(stack, None, ())
        catalogue = place.folder / "catalogue.yaml"
        url = provider.said["base_url"]
        catalogue.write_text(CATALOGUE.format(url=url, first_token=FIRST_TOKEN_SECONDS))
        place = Place(**{**vars(place), "catalogue": catalogue})
        listens = listening()
        ground = Ground(place, {}, {}, {}, {}, {}, [], None)
        for name, service, settings in replicas(place, listens):
            ground.programs[name] = program_of(place, name, service, settings)
            ground.addresses[name] = settings.get("clients_listen", settings["listen"])
            stack.push_async_callback(ground.programs[name].stop)
        for service in SERVICES:  # two at a time: twelve at once are slower than six pairs
            await asyncio.gather(*(ground.start(f"{service} {n}") for n in range(REPLICAS)))
        opened = {
            name: await enter(channel(target(listens[name]), idempotent=resent, watching=ACCEPTING))
            for name, resent in RESENT.items()
        }
        ground.log = OperationLogServiceStub(opened["oplog"])
        targets = {name: target(listens[name]) for name in descriptors()}
        targets["entitlements"] = listens["entitlements"][0]
        await filled(ground, EntitlementsServiceStub(opened["entitlements"]), targets)
        token = place.issuer.mint(user_id="rolling", roles=("service",))
        call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": CALL_SECONDS}
        gateway, router = GatewayServiceStub(opened["gateway"]), RouterServiceStub(opened["router"])
        yield Suite(ground, gateway, router, call)


# What a caller may send again by itself, as docs and the gateway's own channels have it.
RESENT: dict[str, list[str]] = {
    "gateway": ["gatehouse.gateway.v1.GatewayService"],
    "entitlements": ["gatehouse.entitlements.v1.EntitlementsService"],
    "oplog": ["gatehouse.oplog.v1.OperationLogService"],
    "router": [],
}


def listening() -> dict[str, list[str]]:
    """Where the replicas of each service and domain listen."""
    free = free_ports()
    names = [*SERVICES, *descriptors()]
    return {name: [f"127.0.0.1:{next(free)}" for _ in range(REPLICAS)] for name in names}


def replicas(
    place: Place, listens: Mapping[str, list[str]]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each replica's name, its service, and what it is told."""
    for service, shared in told(place, "").items():
        peers = {
            key: target(listens[key.removesuffix("_target")])
            for key in shared
            if key.endswith("_target")
        }
        limits = NO_LIMITS if service == "usage" else {}
        for number in range(REPLICAS):
            own = {"listen": listens[service][number]}
            if "spool_directory" in shared:
                own["spool_directory"] = f"{shared['spool_directory']}-{number}"
            if service == "clinic":
                own = {f"{name}_listen": listens[name][number] for name in descriptors()}
            yield f"{service} {number}", service, {**shared, **peers, **limits, **own}


class Callers:
    """They ask all the time, and never twice: what is not answered well has failed."""

    def __init__(self, suite: Suite, plan: Plan, findings: RollingFindings) -> None:
        self._suite = suite
        self._plan = plan
        self._findings = findings
        self._over = asyncio.Event()
        self.asked: list[Asked] = []

    def stop(self) -> None:
        self._over.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as together:
            for number in range(self._plan.callers):
                together.create_task(self._requests(number))
            together.create_task(self._completions())

    async def _requests(self, number: int) -> None:
        chance = random.Random(f"{self._plan.seed}/{number}")
        while not self._over.is_set():
            user = Requests(chance, self._suite.ground, KINDS)
            for _ in range(REQUESTS_A_USER):
                if self._over.is_set():
                    return
                await self._ask(user.next())
                await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, asked: Asked) -> None:
        self.asked.append(asked)
        name = asked.request.request_id
        try:
            answer = await self._suite.gateway.Execute(
                asked.request, timeout=CALL_SECONDS, **asked.call
            )
        except grpc.aio.AioRpcError as error:
            self._findings.failing(f"{name} was answered {error.code().name} {error.details()}")
            return
        self._findings.calls += 1
        for index, said in said_in(answer):
            if said is not None:
                asked.hears(index, said)
        if answer.report.outcome != pb.OUTCOME_SUCCEEDED:
            told = ", ".join(str(each) for _, each in said_in(answer))
            self._findings.failing(f"{name} was carried out in part: {told}")

    async def _completions(self) -> None:
        """What the gateway asks of the router, with its channel's settings: never sent again."""
        request = router_pb2.CompleteRequest(
            task=router_pb2.TASK_KIND_ANALYZE,
            messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content="hello there")],
            model_tiers=[tier_pb2.MODEL_SPEED, tier_pb2.MODEL_BASIC],
        )
        while not self._over.is_set():
            try:
                await self._suite.router.Complete(request, **self._suite.service_call)
                self._findings.completions += 1
            except grpc.aio.AioRpcError as error:
                words = f"{error.code().name} {error.details()}"
                self._findings.failing(f"a completion was answered {words}")
            await asyncio.sleep(PAUSE_SECONDS)


REQUESTS_A_USER = 25


async def restarted(suite: Suite, plan: Plan, findings: RollingFindings) -> None:
    """Each replica in its turn: asked to stop, waited for, started, waited for."""
    for service in plan.services:
        for number, name in enumerate(suite.replicas(service)[: plan.replicas]):
            if number:
                await asyncio.sleep(FOUND_SECONDS)
            await suite.ground.programs[name].stop()
            await suite.ground.programs[name].start()
            await wait_until_serving(suite.ground.programs[name], suite.ground.addresses[name])
            findings.restarted.append(name)


async def carried_out(plan: Plan) -> RollingFindings:
    """Load, restart by *plan*, let it settle, then judge."""
    findings = RollingFindings(plan.seed)
    async with standing() as suite:
        callers = Callers(suite, plan, findings)
        async with asyncio.TaskGroup() as together:
            together.create_task(callers.run())
            try:
                await restarted(suite, plan, findings)
            finally:
                callers.stop()
        kept = await settled(suite.ground)
        await name_operations(suite.ground, callers.asked)
        judged(callers.asked, kept, findings)
        await verified(suite.ground, findings)
    say(
        f"  {findings.calls} requests, {findings.completions} completions while"
        f" {len(findings.restarted)} replicas were restarted"
    )
    return findings
