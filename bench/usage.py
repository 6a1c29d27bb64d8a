"""Deciding claims: unary against the echo, batched against unary, under half load, and of users who
were counted often before against new ones; and the plan that the gateway has in its cache."""

import itertools
import logging
import statistics
import time
import uuid
from collections.abc import Sequence
from typing import Any

import psutil
import psycopg
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from bench.measuring import against, at_rate, cpu_seconds, loaded, median_ratio, quantile, repeated
from bench.stand import Stand, new_users
from examples.clinic.cli import DEMO_CLINIC
from services.embedded import ADMIN, PREMIUM_USER
from services.gateway.entitlements import Entitlements
from services.gateway.peers import at_work
from services.runtime.calling import TokenSource
from services.runtime.identity import Caller

ROUNDS = 3
SECONDS = 2.0
CALLERS = 64
BATCH = 100
BATCHES_AT_A_TIME = 8
# How often a user was counted in the two days that receipts are kept, and how many such users there
# are: none is asked about more often in a minute than the window of the stand allows.
RECEIPTS = 34_000
OLD_USERS, CLAIMS_A_USER = 5, 180
OLD_ROUNDS = 5
LOOKUPS = 20_000


class Claims:
    """Claims of one after another of many users, sent to the service."""

    def __init__(self, stand: Stand) -> None:
        self._stub: Any = UsageServiceStub(stand.channels["usage"])
        self._call = stand.service
        self._users = new_users()

    def claim(self, user_id: str = "") -> pb.Claim:
        return pb.Claim(
            operation_id=str(uuid.uuid4()),
            user_id=user_id or next(self._users),
            clinic_id=DEMO_CLINIC,
            query=pb.Query(counts_read=True),
            limits=pb.DailyLimits(reads=1000, modifies=1000, plan_name="premium"),
            time_zone="America/Sao_Paulo",
        )

    async def one(self, user_id: str = "") -> None:
        request = pb.ConsumeRequest(claim=self.claim(user_id))
        answer = await self._stub.Consume(request, **self._call)
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
        "usage.cost_after_34000_vs_new": await cost_of_old_users(stand, claims),
        "usage.entitlement_cached_us": await cached_microseconds(stand),
    }


async def cost_of_old_users(stand: Stand, claims: Claims) -> float:
    """What a decision costs usage and Postgres of users with 34,000 receipts, over one of new ones.

    In turn, on the same number of users; the median of the ratios of neighbours.
    """
    old = [str(uuid.uuid4()) for _ in range(OLD_USERS)]
    await count_often(stand, old)
    processes = [stand.process("usage"), *backends()]

    async def cost(users: Sequence[str]) -> float:
        await clear_windows(stand, users)
        claimed = itertools.cycle(users)
        before = sum(map(cpu_seconds, processes))
        count = OLD_USERS * CLAIMS_A_USER
        await repeated(lambda: claims.one(next(claimed)), count=count, callers=CALLERS)
        return sum(map(cpu_seconds, processes)) - before

    async def of_new() -> float:
        return await cost([str(uuid.uuid4()) for _ in range(OLD_USERS)])

    return median_ratio(await against(lambda: cost(old), of_new, OLD_ROUNDS))


def backends() -> list[psutil.Process]:
    """Postgres with all that it has started for its connections and for itself."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if each.name().startswith("postgres")]


async def count_often(stand: Stand, users: Sequence[str]) -> None:
    """Give *users* the receipts of two busy days, and their counts."""
    url = stand.suite.database_url("postgres")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for statement in (
            "INSERT INTO usage.users (user_id) SELECT unnest(%(users)s::uuid[])",
            "INSERT INTO usage.receipts (user_id, operation_id, kind, usage_date, claimed, granted,"
            " claimed_at) SELECT unnest(%(users)s::uuid[]), gen_random_uuid(), 'query',"
            " current_date, 1, 1, now() - g * INTERVAL '5 s'"
            " FROM generate_series(1, %(receipts)s) AS g",
            "INSERT INTO usage.usage_counters SELECT user_id, usage_date, 1, 0 FROM"
            " (SELECT DISTINCT user_id, usage_date FROM usage.receipts"
            " WHERE user_id = ANY (%(users)s::uuid[])) AS days",
        ):
            await connection.execute(statement, {"users": list(users), "receipts": RECEIPTS})
        await connection.execute("VACUUM ANALYZE usage.receipts")
        await connection.execute("CHECKPOINT")


async def clear_windows(stand: Stand, users: Sequence[str]) -> None:
    """Let the windows of *users* begin anew, and have their rows made where they are new."""
    stub: Any = UsageServiceStub(stand.channels["usage"])
    admin = stand.as_user(ADMIN, "admin")
    for user_id in users:
        await stub.ClearCoolDown(pb.ClearCoolDownRequest(user_id=user_id), **admin)


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
