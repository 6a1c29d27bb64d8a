"""What health says of a replica, beside what its callers get (USE-9)."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc.aio
from gatehouse.usage.v1 import usage_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.faults.requests_faults import Injected
from bench.faults.requests_record import Asked, Try
from bench.faults.requests_world import GATEWAYS, USAGES, World

EVERY_SECONDS = 0.4
ANSWER_SECONDS = 1.0
# A call without an answer and with a shorter deadline than this says nothing of its replica.
SERVED_SECONDS = 2.0
# Health may lag behind for so long: it is measured once a second, and a check may take a second.
LAG_SECONDS = 3.0
# So many calls in a row, begun over so long or longer, tell what callers get.
FEWEST_CALLS, SHORTEST_SECONDS = 4, 1.5
BESIDE_HEALTH = ("clinic",)

# Where an exact time-out matters the lag of this process is added to it.
LAG_EVERY_SECONDS = 0.05


@dataclass(frozen=True)
class Sample:
    at: float
    serving: bool


@dataclass
class Observed:
    """Samples of health by replica, probes of usage, and how late this process itself ran."""

    health: dict[str, list[Sample]] = field(default_factory=dict)
    probes: dict[str, list[Try]] = field(default_factory=dict)
    lags: list[tuple[float, float]] = field(default_factory=list)

    def lag(self, began: float, ended: float) -> float:
        """The most that this process was late from *began* to *ended*, in seconds."""
        return max((late for at, late in self.lags if began <= at <= ended), default=0.0)


class Observer:
    """Asks the health of gateways and usage replicas, and calls usage beside it, until done."""

    def __init__(self, world: World, observed: Observed) -> None:
        self._world = world
        self._observed = observed
        self._call = {
            "metadata": world.call(str(uuid.uuid4()), "", "service"),
            "timeout": SERVED_SECONDS,
        }

    async def run(self, until: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure_lag(until))
            for name in (*GATEWAYS, *USAGES):
                tasks.create_task(self._ask(name, until))
            for name in USAGES:
                tasks.create_task(self._probe(name, until))

    async def _measure_lag(self, until: Callable[[], bool]) -> None:
        while not until():
            began = time.monotonic()
            await asyncio.sleep(LAG_EVERY_SECONDS)
            late = time.monotonic() - began - LAG_EVERY_SECONDS
            if late > 0.1:
                self._observed.lags.append((began, late))

    async def _ask(self, name: str, until: Callable[[], bool]) -> None:
        stub = health_pb2_grpc.HealthStub(self._world.channels[name])
        samples = self._observed.health.setdefault(name, [])
        while not until():
            began = time.monotonic()
            try:
                found = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS)
                serving = found.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.aio.AioRpcError:
                serving = False
            samples.append(Sample(began, serving))
            await asyncio.sleep(EVERY_SECONDS)

    async def _probe(self, name: str, until: Callable[[], bool]) -> None:
        """Count a query of a new user, again and again: what callers of this replica get."""
        stub, probes = self._world.usage[name], self._observed.probes.setdefault(name, [])
        while not until():
            claim = usage_pb2.Claim(
                operation_id=str(uuid.uuid4()),
                user_id=str(uuid.uuid4()),
                limits=usage_pb2.DailyLimits(plan_name="premium"),
            )
            claim.query.counts_read = True
            made = Try(name, SERVED_SECONDS, time.monotonic())
            try:
                await stub.Consume(usage_pb2.ConsumeRequest(claim=claim), **self._call)
                made.outcome = "OK"
            except grpc.aio.AioRpcError as error:
                made.outcome = error.code().name
            made.ended = time.monotonic()
            probes.append(made)
            await asyncio.sleep(EVERY_SECONDS)


def contradictions(
    observed: Observed, asked: Sequence[Asked], injected: Sequence[Injected]
) -> list[str]:
    """Where health says otherwise than callers get for longer than it may lag behind.

    Domains are no part of a gateway's health: what is done to these is not compared.
    """
    tries: dict[str, list[Try]] = {name: list(made) for name, made in observed.probes.items()}
    beside = [each for each in injected if any(name in each.name for name in BESIDE_HEALTH)]
    for one in asked:
        for each in one.tries:
            if each.deadline < SERVED_SECONDS or each.cancelled:
                continue
            if not any(fault.began <= each.ended and each.began <= fault.ended for fault in beside):
                tries.setdefault(each.gateway, []).append(each)
    return [
        found
        for name, samples in observed.health.items()
        for found in contradictions_of(name, samples, tries.get(name, []))
    ]


def contradictions_of(name: str, samples: Sequence[Sample], tries: Sequence[Try]) -> list[str]:
    found = []
    for serving, began, ended in stretches(samples):
        # What begins once health has had its time to follow, and ends before it changes again.
        within = sorted(
            (each for each in tries if began + LAG_SECONDS <= each.began <= ended - SERVED_SECONDS),
            key=lambda each: each.began,
        )
        if len(within) < FEWEST_CALLS:
            continue
        served = [each.is_answered for each in within]
        for first in range(len(within) - FEWEST_CALLS + 1):
            window = served[first : first + FEWEST_CALLS]
            lasts = within[first + FEWEST_CALLS - 1].began - within[first].began
            if lasts >= SHORTEST_SECONDS and all(each != serving for each in window):
                says = "SERVING" if serving else "NOT_SERVING"
                gets = "none of" if serving else "each of"
                outcomes = sorted({each.outcome for each in within[first : first + FEWEST_CALLS]})
                found.append(
                    f"{name} says {says} for {ended - began:.1f} s, and {gets} {FEWEST_CALLS}"
                    f" calls within {lasts:.1f} s is answered: {', '.join(outcomes)}"
                )
                break
    return found


def stretches(samples: Sequence[Sample]) -> list[tuple[bool, float, float]]:
    """The stretches of time in which health says the same: what, from when, until when."""
    found: list[tuple[bool, float, float]] = []
    for each in samples:
        if found and found[-1][0] == each.serving:
            found[-1] = (each.serving, found[-1][1], each.at)
        else:
            found.append((each.serving, each.at, each.at))
    return found
