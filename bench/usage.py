"""Deciding claims: unary against the echo, batched against unary, under half load; and the plan
that the gateway has in its cache."""

import logging
import statistics
import time
import uuid
from typing import Any

from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from bench.measuring import against, at_rate, loaded, median_ratio, quantile, repeated
from bench.stand import Stand, new_users
from examples.clinic.cli import DEMO_CLINIC
from services.embedded import PREMIUM_USER
from services.gateway.entitlements import Entitlements
from services.gateway.peers import at_work
from services.runtime.calling import TokenSource
from services.runtime.identity import Caller

ROUNDS = 3
SECONDS = 2.0
CALLERS = 64
BATCH = 100
BATCHES_AT_A_TIME = 8
LOOKUPS = 20_000


class Claims:
    """Claims of one after another of many users, sent to the service."""

    def __init__(self, stand: Stand) -> None:
        self._stub: Any = UsageServiceStub(stand.channels["usage"])
        self._call = stand.service
        self._users = new_users()

    def claim(self) -> pb.Claim:
        return pb.Claim(
            operation_id=str(uuid.uuid4()),
            user_id=next(self._users),
            clinic_id=DEMO_CLINIC,
            query=pb.Query(counts_read=True),
            limits=pb.DailyLimits(reads=1000, modifies=1000, plan_name="premium"),
            time_zone="America/Sao_Paulo",
        )

    async def one(self) -> None:
        answer = await self._stub.Consume(pb.ConsumeRequest(claim=self.claim()), **self._call)
        assert answer.admission.HasField("granted")

    async def many(self) -> None:
        request = pb.ConsumeBatchRequest(claims=[self.claim() for _ in range(BATCH)])
        answer = await self._stub.ConsumeBatch(request, **self._call)
        assert all(each.admission.HasField("granted") for each in answer.admissions)


async def measure(stand: Stand) -> dict[str, float]:
    claims, process = Claims(stand), stand.process("usage")
    await repeated(claims.one, count=1000, callers=CALLERS)
    await repeated(claims.many, count=20, callers=BATCHES_AT_A_TIME)
    at_most: list[float] = []
    batched: list[float] = []

    async def unary() -> float:
        load = await loaded(process, claims.one, callers=CALLERS, seconds=SECONDS)
        at_most.append(load.per_second)
        many = await loaded(process, claims.many, callers=BATCHES_AT_A_TIME, seconds=SECONDS)
        batched.append(BATCH * many.per_core_second)
        return load.per_core_second

    async def echo() -> float:
        return (await stand.echoed(callers=CALLERS, seconds=SECONDS)).per_core_second

    pairs = await against(unary, echo, ROUNDS)
    half = statistics.median(at_most) / 2
    took = await at_rate(claims.one, per_second=half, seconds=6.0)
    return {
        "usage.decision_vs_echo": median_ratio(pairs),
        "usage.batch_vs_unary": median_ratio(
            [(many, one) for many, (one, _) in zip(batched, pairs, strict=True)]
        ),
        "usage.decisions_per_core_s": statistics.median(one for one, _ in pairs),
        "usage.p99_ms_at_half_load": quantile(took, 0.99),
        "usage.entitlement_cached_us": await cached_microseconds(stand),
    }


async def cached_microseconds(stand: Stand) -> float:
    """The time of one lookup of a plan that is cached, while the changes are followed."""
    stub = EntitlementsServiceStub(stand.channels["entitlements"])
    plans = Entitlements(stub, TokenSource(stand.suite.folder / "gateway.token"))
    caller = Caller(PREMIUM_USER, DEMO_CLINIC, frozenset({"user"}))
    took = []
    async with at_work(logging.getLogger(__name__), plans.follow):
        await repeated(lambda: plans.of(caller), count=100, callers=1)
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(LOOKUPS):
                await plans.of(caller)
            took.append(1e6 * (time.perf_counter() - begun) / LOOKUPS)
    return statistics.median(took)
