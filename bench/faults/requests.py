"""Users send every counted call while things are killed, frozen, cut, delayed, locked and filled.

Two gateways, two replicas of usage and two of the log run over one Postgres and one Valkey. Every
request is sent again under its id until it has its final answer; what was answered, counted, logged
and stored must agree then, exactly, and nobody may have waited for what hung elsewhere (USE-2,
USE-3, USE-9, GAT-2, GAT-6, GAT-7, LOG-2).
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.oplog.v1 import oplog_pb2

from bench.faults import requests_judge
from bench.faults.requests_callers import Callers, outcome_of
from bench.faults.requests_faults import KINDS, Fault, Injector, all_faults
from bench.faults.requests_health import Observed, Observer
from bench.faults.requests_judge import RequestFindings, Stored
from bench.faults.requests_record import Asked
from bench.faults.requests_world import GATEWAYS, World, running_world
from bench.measuring import say
from services.embedded import ADMIN

WARM_UP_SECONDS = 1.5
# After everything is mended a request has so long to get its final answer.
ANSWERED_SECONDS = 60.0
CALL_SECONDS = 10.0
AT_A_TIME = 12
# In peace nothing is unavailable any more once callers have found what was restarted.
FOUND_SECONDS = 8.0
MOST_REUSED = 60
PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Plan:
    """How long, by which chances, and what is broken."""

    seconds: float = 60.0
    seed: int = 1
    lanes: int = 8
    kinds: tuple[str, ...] = KINDS
    # Those that are injected, each once, alone and in this order; without, by chance.
    faults: tuple[str, ...] = ()
    # Of the answers that are asked for again at the end, so many at most.
    replays: int = 800
    # How long counts and the log may take to settle after that.
    settle_seconds: float = 75.0


def wanted(plan: Plan, faults: Sequence[Fault]) -> list[Fault]:
    if not plan.faults:
        return [each for each in faults if each.kind in plan.kinds]
    by_name = {each.name: each for each in faults}
    return [by_name[name] for name in plan.faults]


async def carried_out(plan: Plan) -> RequestFindings:
    """Call and break by *plan*, mend everything, let it settle, then judge."""
    findings = RequestFindings(plan.seed)
    async with running_world() as world:
        callers = Callers(world, plan.seed, lanes=plan.lanes)
        injector = Injector(
            wanted(plan, all_faults(world, callers)), random.Random(f"{plan.seed}/faults")
        )
        observed = Observed()
        say("calling and breaking")
        await call_and_break(world, plan, callers, injector, observed)
        findings.faults = Counter(each.name for each in injector.injected)
        say("everything is mended: asking until all is answered")
        await answer_the_rest(world, callers, findings)
        await ask_again(callers, plan, findings)
        say("settling")
        stored = await settled(world, callers.asked, plan.settle_seconds)
        requests_judge.judge(callers.asked, stored, injector.injected, observed, findings)
        await reuse_ids(world, callers, plan, findings)
        await verify_chain(world, findings)
    findings.calls = sum(one.is_settled for one in callers.asked)
    findings.retries = sum(len(one.tries) for one in callers.asked) - len(callers.asked)
    return findings


async def call_and_break(
    world: World, plan: Plan, callers: Callers, injector: Injector, observed: Observed
) -> None:
    async with asyncio.TaskGroup() as tasks:

        async def inject() -> None:
            await asyncio.sleep(WARM_UP_SECONDS)
            await injector.run(time.monotonic() + plan.seconds, each_once=bool(plan.faults))
            await asyncio.sleep(WARM_UP_SECONDS)

        injecting = tasks.create_task(inject())
        tasks.create_task(callers.run(injecting.done))
        tasks.create_task(Observer(world, observed).run(injecting.done))


async def answer_the_rest(world: World, callers: Callers, findings: RequestFindings) -> None:
    """Send every request that is open again under its id until it has its final answer."""
    chance = random.Random("the rest")
    slots = asyncio.Semaphore(AT_A_TIME)
    peaceful = time.monotonic() + FOUND_SECONDS

    async def one(asked: Asked) -> None:
        async with slots:
            until = time.monotonic() + ANSWERED_SECONDS
            while not asked.is_settled and time.monotonic() < until and not asked.contradictions:
                gateway = chance.choice(GATEWAYS)
                made = await callers.attempt(asked, gateway, CALL_SECONDS, chance)
                if made.outcome.startswith("UNAVAILABLE") and made.began > peaceful:
                    findings.violated(
                        "unavailable in peace",
                        f"{made.gateway}: {made.outcome} {time.monotonic() - peaceful:.0f} s after"
                        " everything was mended",
                    )
                if not asked.is_settled:
                    await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(one(each) for each in callers.asked if not each.is_settled))


async def ask_again(callers: Callers, plan: Plan, findings: RequestFindings) -> None:
    """Ask for answers that were given once more, at either gateway: each is the same."""
    chance = random.Random(f"{plan.seed}/again")
    given = [each for each in callers.asked if each.final is not None]
    slots = asyncio.Semaphore(AT_A_TIME)

    async def one(asked: Asked) -> None:
        async with slots:
            await callers.attempt(asked, chance.choice(GATEWAYS), CALL_SECONDS, chance)
            findings.replays += 1

    await asyncio.gather(
        *(one(each) for each in chance.sample(given, min(len(given), plan.replays)))
    )


async def reuse_ids(world: World, callers: Callers, plan: Plan, findings: RequestFindings) -> None:
    """Use ids of answered requests for something else: each is refused."""
    chance = random.Random(f"{plan.seed}/reused")
    given = [each for each in callers.asked if each.final is not None]
    for asked in chance.sample(given, min(len(given), MOST_REUSED)):
        other = type(asked.request)()
        other.CopyFrom(asked.request)
        if isinstance(other, pb.ExecuteRequest):
            other.locale = "pt-BR"
        elif isinstance(other, pb.AnalyzeRequest):
            other.window.last_days = 3
        else:
            other.limit = 1
        method = "Analyze" if asked.method == "StreamAnalyze" else asked.method
        stub = world.gateways[chance.choice(GATEWAYS)][0]
        try:
            await getattr(stub, method)(other, timeout=CALL_SECONDS, metadata=asked.metadata)
            outcome = "OK"
        except grpc.aio.AioRpcError as error:
            outcome = outcome_of(error)
        if outcome != "FAILED_PRECONDITION REQUEST_ID_REUSED":
            findings.violated(
                "id reused", f"{method} under the id of another payload is answered {outcome}"
            )


async def settled(world: World, asked: Sequence[Asked], seconds: float) -> Stored:
    """What is stored once nothing is open any more, or after *seconds*."""
    until = time.monotonic() + seconds
    while True:
        stored = await look_up(world)
        is_open = (
            stored.spooled
            or any(row.outcome == "unknown" for row in stored.rows)
            or await unlogged(world)
            or requests_judge.mismatched(asked, stored)
        )
        if not is_open or time.monotonic() > until:
            return stored
        await asyncio.sleep(0.5)


async def unlogged(world: World) -> int:
    """How many answers may lack their rows still."""
    found = await world.rows("SELECT count(*) FROM gateway.requests WHERE state = 'answered'")
    return int(found[0][0])


async def look_up(world: World) -> Stored:
    counts, rows = requests_judge.as_stored(
        await world.rows(
            "SELECT user_id::text, sum(read_count), sum(modify_count)"
            " FROM usage.usage_counters GROUP BY user_id"
        ),
        await world.rows(
            "SELECT user_id::text, request_id, id::text, action, outcome, reason"
            " FROM oplog.operation_log WHERE action NOT LIKE 'admin.%'"
        ),
    )
    applied = await world.rows(
        "SELECT operation_id::text FROM clinic.operations WHERE state = 'applied'"
    )
    clients = await world.rows(
        "SELECT name, count(*) FROM clinic.clients WHERE name ~ '^(c-|Client)' GROUP BY name"
    )
    quarantined = await world.rows("SELECT problem FROM oplog.quarantine")
    return Stored(
        counts,
        rows,
        Counter(row[0] for row in applied) + world.erratic.applied,
        Counter({row[0]: row[1] for row in clients}),
        [file.name for spool in world.spools.values() for file in spool.iterdir()],
        [row[0] for row in quarantined],
    )


async def verify_chain(world: World, findings: RequestFindings) -> None:
    found = await world.log.VerifyChain(
        oplog_pb2.VerifyChainRequest(), timeout=60, metadata=world.call(ADMIN, "", "auditor")
    )
    if not found.intact:
        findings.violated("log", "the chain does not verify")
