"""Two replicas of usage race over one Postgres and one Valkey, and all of them fail.

They are killed, frozen, cut off, delayed, locked out and left without connections. Every call, with
a deadline from 50 ms on, is made again under its operation's id until it is answered; or its caller
gives the attempt up and releases it, and whatever executes it later counts nothing. At the end what
was answered, what is counted and what the receipts say have to be the same, and within every limit
and window; and whoever hung harmed only himself (USE-2, USE-3, USE-6, USE-7, USE-9).
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import grpc
import grpc.aio
import psycopg
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from psycopg import sql

from bench.faults.breaking import RECONNECT, Fault, Findings, Unsettled, breaking
from bench.faults.network import Link, linked, over, socket_of
from services.embedded_identity import Issuer, open_issuer
from services.embedded_services import wait_until_serving
from services.embedded_stores import (
    MIGRATOR,
    GuardedProgram,
    PostgresServer,
    ValkeyServer,
    create_database,
    postgres_server,
    temporary_folder,
    valkey_server,
)
from services.runtime.failure import reason_of
from services.runtime.migrations import migrate

DATABASE = "faults"
REPLICAS = 2
ROLE = "gatehouse_usage"
POSTGRES_LINK = f"Postgres of replica {REPLICAS - 1}"
# The deadlines of calls: short ones as often as long ones.
CALL_SECONDS = ((0.05, 0.2), (0.2, 1.0), (1.0, 5.0))
# A call that ends so was answered by nobody: it is made again.
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
SLOW_SECONDS = 0.1
# How much longer than it is away what is killed something hangs: up to 2 s.
HANG = 4
LOCKED_USERS = 3
# Users whom nobody hinders: how many of them claim while others hang, and how long they may wait.
BYSTANDERS, BYSTANDER_SECONDS = 8, 5.0
Rows = list[Any]
PAUSE_SECONDS = 0.02
# Used up by the users of the hour, and left alone by most of the others.
LIMITS = {"query": 25, "modify": 25}
# Windows that fill and slide, and cool-downs that end, many times in a run.
WINDOWS = {"query": (40, timedelta(seconds=2)), "modify": (15, timedelta(seconds=3))}
COOL_DOWN_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """How long, how hard, and by which chances."""

    seconds: float = 60.0
    seed: int = 1
    callers: int = 64
    hot_users: int = 6
    other_users: int = 400
    # After so long others are hot: those of before have used up their limits.
    hot_seconds: float = 6.0
    # From one fault to the next, at random up to twice as long.
    every_seconds: float = 1.0
    # Each once, however long that takes, and only then by chance; all of them without.
    faults: tuple[str, ...] = ()


@dataclass
class Asked:
    """A claim and what was answered about it. Its calls are made one after another."""

    claim: pb.Claim
    granted: int = 0
    day: str = ""
    released: int = 0
    calling: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def stands(self) -> int:
        """How many of it are counted."""
        return self.granted - self.released


@dataclass
class UsageFindings(Findings):
    """What the run counted, and what it found to be wrong."""

    granted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    released: int = 0
    given_up: int = 0
    replayed: int = 0
    bystanders: int = 0

    def counted(self) -> dict[str, int]:
        return {
            "claims granted": self.granted,
            **{f"claims refused, {name}": count for name, count in sorted(self.refused.items())},
            "claims released, in part or whole": self.released,
            "attempts given up": self.given_up,
            "claims asked again later": self.replayed,
            "claims of bystanders of a hang": self.bystanders,
        }


@dataclass
class Ground:
    """What runs: the stores, the replicas, and stubs to them."""

    postgres: PostgresServer
    valkey: ValkeyServer
    replicas: list[GuardedProgram]
    addresses: list[str]
    # To each replica, and from the last one to Postgres.
    links: dict[str, Link]
    stubs: list[Any]
    metadata: list[tuple[str, str]]

    @property
    def admin_url(self) -> str:
        return self.postgres.url(database=DATABASE)


@asynccontextmanager
async def grounded(*, durable: bool) -> AsyncIterator[Ground]:
    """The stores, laid out, and the replicas, each a process of its own, serving."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehouse-faults-")))
        sockets = temporary_folder("faults")
        stack.callback(sockets.rmdir)
        postgres = await stack.enter_async_context(postgres_server(durable=durable))
        valkey = await stack.enter_async_context(valkey_server())
        await create_database(postgres, DATABASE)
        await asyncio.to_thread(migrate, postgres.url(MIGRATOR, DATABASE), "usage")
        issuer = open_issuer(folder)
        made = Ground(postgres, valkey, [], [], {}, [], metadata_of(issuer))
        made.links[POSTGRES_LINK] = await stack.enter_async_context(linked(socket_of(postgres)))
        for number in range(REPLICAS):
            socket = sockets / f"usage-{number}.sock"
            stack.callback(socket.unlink, missing_ok=True)
            made.addresses.append(f"unix:{socket}")
            told = told_to(made, issuer, number)
            program = GuardedProgram(
                f"replica {number}",
                [sys.executable, "-m", "services.usage"],
                folder / f"usage-{number}.log",
                environment={**os.environ, **told},
            )
            stack.push_async_callback(program.stop)
            made.replicas.append(program)
            link = await stack.enter_async_context(linked(made.addresses[number]))
            made.links[f"replica {number}"] = link
            channel = grpc.aio.insecure_channel(link.address, options=RECONNECT)
            await stack.enter_async_context(channel)
            made.stubs.append(UsageServiceStub(channel))
        await asyncio.gather(*(started(made, number) for number in range(REPLICAS)))
        yield made


async def started(ground: Ground, number: int) -> None:
    await ground.replicas[number].start()
    await wait_until_serving(ground.replicas[number], ground.addresses[number])


def metadata_of(issuer: Issuer) -> list[tuple[str, str]]:
    token = issuer.mint(user_id="faults", roles=("service",))
    return [("authorization", f"Bearer {token}")]


def database_url(ground: Ground, number: int) -> str:
    """The last replica reaches Postgres over a link."""
    url = ground.postgres.url(ROLE, DATABASE)
    return over(ground.links[POSTGRES_LINK], url) if number == REPLICAS - 1 else url


def told_to(ground: Ground, issuer: Issuer, number: int) -> dict[str, str]:
    """A replica's environment."""
    settings = {
        "listen": ground.addresses[number],
        "jwt_issuer": issuer.issuer,
        "jwt_audience": issuer.audience,
        "jwks": str(issuer.jwks_file),
        "database_url": database_url(ground, number),
        "valkey_url": ground.valkey.url,
        "unrecorded_writes": "true",
        "abuse_queries": str(WINDOWS["query"][0]),
        "abuse_query_window_seconds": str(WINDOWS["query"][1].total_seconds()),
        "abuse_modifies": str(WINDOWS["modify"][0]),
        "abuse_modify_window_seconds": str(WINDOWS["modify"][1].total_seconds()),
        "cool_down_seconds": str(COOL_DOWN_SECONDS),
        "sweep_seconds": "1",
    }
    return {f"GATEHOUSE_USAGE_{name.upper()}": value for name, value in settings.items()}


class Race:
    """The callers, and what they know of what they were answered."""

    def __init__(self, ground: Ground, plan: Plan, findings: UsageFindings) -> None:
        self._ground = ground
        self._plan = plan
        self._findings = findings
        self.chance = random.Random(plan.seed)
        self._others = [self._id() for _ in range(plan.other_users)]
        self._hot: list[str] = []
        self._cool_at = 0.0
        self.asked: list[Asked] = []

    def _id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    async def run(self, until: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as together:
            for number in range(self._plan.callers):
                together.create_task(self._caller(number, until))

    async def _caller(self, number: int, until: Callable[[], bool]) -> None:
        """Claim, and now and then claim the same again, give back some of it, or confirm it."""
        while not until():
            with suppress(Unsettled):
                await self._one(number)

    async def _one(self, number: int) -> None:
        asked = Asked(self._claim())
        self.asked.append(asked)
        async with asked.calling:
            if self.chance.random() < 0.4 and not await self._impatient(asked, number):
                return
            await self._consume(asked, number, first=True)
        if self.chance.random() < 0.1:
            again = self.chance.choice(self.asked[-200:])
            async with again.calling:
                await self._consume(again, number + 1, first=False)
        async with asked.calling:
            if asked.stands and self.chance.random() < 0.25:
                await self._release(asked, number + 1)
            elif asked.stands and self.chance.random() < 0.3:
                await self._settle(asked, number)

    def _user(self) -> str:
        if time.monotonic() > self._cool_at:
            self._cool_at = time.monotonic() + self._plan.hot_seconds
            self._hot = [self._id() for _ in range(self._plan.hot_users)]
        return self.chance.choice(self._hot if self.chance.random() < 0.6 else self._others)

    def _claim(self) -> pb.Claim:
        claim = pb.Claim(
            operation_id=self._id(),
            user_id=self._user(),
            limits=pb.DailyLimits(
                reads=LIMITS["query"], modifies=LIMITS["modify"], plan_name="faults"
            ),
            # Two days at once of one user, whose windows are one.
            time_zone=self.chance.choice(["Pacific/Kiritimati", "Pacific/Pago_Pago"]),
        )
        if self.chance.random() < 0.6:
            claim.query.counts_read = True
        else:
            claim.modify.count = self.chance.randint(1, 4)
            claim.allow_partial = self.chance.random() < 0.5
        return claim

    async def _tried(self, method: str, request: Any, replica: int, seconds: float) -> Any:
        """The answer of a replica, or None where there is none in time."""
        call = {"timeout": seconds, "metadata": self._ground.metadata}
        try:
            answer = await getattr(self._ground.stubs[replica % REPLICAS], method)(request, **call)
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                words = self._ground.replicas[replica % REPLICAS].last_words()
                told = f"{error.code().name} {reason_of(error)}"
                self._findings.broken(f"{method} was answered {told}: {words}")
                raise Unsettled from None
            self._findings.retries += 1
            return None
        self._findings.calls += 1
        return answer

    async def _answered(self, method: str, request: Any, replica: int) -> Any:
        """The answer of one replica or the other, however long it takes."""
        answer, _ = await self._insisted(method, request, replica)
        return answer

    async def _insisted(self, method: str, request: Any, replica: int) -> tuple[Any, bool]:
        """As `_answered`, and whether it was the first try that was answered."""
        tries = 1
        while True:
            seconds = self.chance.uniform(*self.chance.choice(CALL_SECONDS))
            answer = await self._tried(method, request, replica, seconds)
            if answer is not None:
                return answer, tries == 1
            tries += 1
            replica += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _impatient(self, asked: Asked, replica: int) -> bool:
        """Try once, and give the attempt up where it is not answered; whether to go on with it."""
        asked.claim.attempt += 1
        request = pb.ConsumeRequest(claim=asked.claim)
        seconds = self.chance.uniform(*CALL_SECONDS[0])
        answer = await self._tried("Consume", request, replica, seconds)
        if answer is not None and answer.admission.HasField("granted"):
            self._granted(asked, answer.admission.granted)
        await self._give_up(asked, replica + 1)
        if self.chance.random() < 0.3:
            await self._late(asked, replica)
        return self.chance.random() < 0.5

    async def _give_up(self, asked: Asked, replica: int) -> None:
        """Release the attempt, whatever has become of it."""
        claim = asked.claim
        request = pb.ReleaseRequest(
            operation_id=claim.operation_id, user_id=claim.user_id, attempt=claim.attempt
        )
        await self._answered("Release", request, replica)
        asked.released = asked.granted
        self._findings.given_up += 1

    async def _late(self, asked: Asked, replica: int) -> None:
        """A Consume of an attempt that was given up, as one that was long on its way."""
        request = pb.ConsumeBatchRequest(claims=[asked.claim])
        (answer,) = (await self._answered("ConsumeBatch", request, replica)).admissions
        if answer.error == pb.ERROR_REASON_USER_BUSY:
            return
        if answer.error != pb.ERROR_REASON_CLAIM_RELEASED:
            self._findings.broken(f"{asked.claim.operation_id} was released, then {answer}")

    def _granted(self, asked: Asked, granted: pb.Granted) -> None:
        self._findings.granted += 1
        asked.granted, asked.released, asked.day = granted.count, 0, granted.usage_date

    async def _consume(self, asked: Asked, replica: int, *, first: bool) -> None:
        """Claim; what was released whole is claimed anew, by a higher attempt.

        The attempt fences: a Consume that was frozen on its way counts nothing once its attempt was
        released. So it is released too when it is refused after a try without an answer.
        """
        stood = asked.stands
        if not stood:
            asked.claim.attempt += 1
        request = pb.ConsumeRequest(claim=asked.claim)
        answer, is_first = await self._insisted("Consume", request, replica)
        admission = answer.admission
        self._findings.replayed += not first
        if admission.HasField("refused"):
            if stood:
                self._findings.broken(f"{asked.claim.operation_id} was granted, then refused")
            self._findings.refused[pb.ErrorReason.Name(admission.refused.reason)[13:]] += 1
            if not is_first:
                await self._give_up(asked, replica)
            return
        told = admission.granted.count, admission.granted.usage_date
        if stood and told != (stood, asked.day):
            self._findings.broken(f"{asked.claim.operation_id} was granted twice, differently")
        if not stood:
            self._granted(asked, admission.granted)

    async def _release(self, asked: Asked, replica: int) -> None:
        """Release some or all; the number is a total, and never shrinks."""
        count = self.chance.randint(0, asked.granted)
        claim = asked.claim
        request = pb.ReleaseRequest(
            operation_id=claim.operation_id,
            user_id=claim.user_id,
            count=count,
            attempt=claim.attempt,
        )
        released = (await self._answered("Release", request, replica)).released
        asked.released = max(count or asked.granted, asked.released)
        if released != asked.released:
            self._findings.broken(
                f"{claim.operation_id}: {released} released instead of {asked.released}"
            )
        self._findings.released += 1

    async def _settle(self, asked: Asked, replica: int) -> None:
        claim = asked.claim
        request = pb.SettleRequest(operation_id=claim.operation_id, user_id=claim.user_id)
        count = (await self._answered("Settle", request, replica)).count
        if count != asked.stands:
            self._findings.broken(f"{claim.operation_id}: {count} stand instead of {asked.stands}")

    async def bystand(self, replica: int, what: str) -> None:
        """Claims of users whom nobody hinders: each is answered, at once (USE-9)."""

        async def one() -> None:
            asked = Asked(self._claim())
            asked.claim.user_id = self._id()
            request = pb.ConsumeRequest(claim=asked.claim)
            answer = await self._tried("Consume", request, replica, BYSTANDER_SECONDS)
            self._findings.bystanders += 1
            if answer is None or not answer.admission.HasField("granted"):
                self._findings.broken(f"a bystander was not granted its claim: {what}")
            else:
                self._granted(asked, answer.admission.granted)
                self.asked.append(asked)

        await asyncio.gather(*(one() for _ in range(BYSTANDERS)))

    def hot(self) -> list[str]:
        """Users who are asked for the most."""
        return self._hot


def kills(ground: Ground) -> dict[str, Fault]:
    async def replica(number: int, seconds: float) -> None:
        await ground.replicas[number].kill()
        await asyncio.sleep(seconds)
        await started(ground, number)

    async def server(store: PostgresServer | ValkeyServer, seconds: float) -> None:
        await store.kill()
        await asyncio.sleep(seconds)
        await store.start()

    return {
        "kills of replica 0": partial(replica, 0),
        "kills of Valkey": partial(server, ground.valkey),
        "kills of Postgres": partial(server, ground.postgres),
        "kills of replica 1": partial(replica, 1),
    }


def freezes(ground: Ground, race: Race) -> dict[str, Fault]:
    async def valkey(seconds: float) -> None:
        ground.valkey.pause()
        await asyncio.sleep(HANG * seconds)
        ground.valkey.resume()

    async def replica(number: int, seconds: float) -> None:
        ground.replicas[number].pause()
        try:
            await race.bystand(number + 1, f"replica {number} was frozen")
            await asyncio.sleep(HANG * seconds)
        finally:
            ground.replicas[number].resume()

    async def backend(seconds: float) -> None:
        """One that runs a statement or holds a transaction, where there is one."""
        rows = await asked_of(
            ground,
            "SELECT pid FROM pg_stat_activity WHERE usename = %s"
            " ORDER BY state = 'idle', state_change DESC LIMIT 1",
            ROLE,
        )
        for (pid,) in rows:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(HANG * seconds)
        for (pid,) in rows:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return {
        "freezes of replica 0": partial(replica, 0),
        "freezes of Valkey": valkey,
        "freezes of replica 1": partial(replica, 1),
        "freezes of a backend": backend,
    }


def disturbances(ground: Ground, race: Race) -> dict[str, Fault]:
    """Networks that are cut, silent, half-open or slow; held rows; no connection slot."""

    async def link(name: str, how: Callable[[Link], None], seconds: float) -> None:
        how(ground.links[name])
        await asyncio.sleep(HANG * seconds)
        ground.links[name].heal()

    async def locks(table: str, seconds: float) -> None:
        statement = sql.SQL(
            "SELECT FROM {} WHERE user_id = ANY (%s::uuid[]) ORDER BY user_id FOR UPDATE"
        ).format(sql.Identifier("usage", table))
        async with await psycopg.AsyncConnection.connect(ground.admin_url) as connection:
            await connection.execute(statement, (race.hot()[:LOCKED_USERS],))
            for number in range(REPLICAS):
                await race.bystand(number, f"rows of {table} were held")
            await asyncio.sleep(HANG * seconds)

    async def slots(seconds: float) -> None:
        """No connection slot for newcomers: the connections that are open work."""
        await asked_of(ground, f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
        await asyncio.sleep(HANG * seconds)
        await asked_of(ground, f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")

    manners = {
        "cuts": Link.cut,
        "silences": Link.silent,
        "half-open links": Link.half_open,
        "slow links": partial(Link.slow, seconds=SLOW_SECONDS),
    }
    links = {
        f"{manner} of {name}": partial(link, name, how)
        for name in ("replica 0", POSTGRES_LINK)
        for manner, how in manners.items()
    }
    return {
        **{f"locks of {table}": partial(locks, table) for table in ("users", "usage_counters")},
        "no connection slots": slots,
        **links,
    }


async def asked_of(ground: Ground, statement: LiteralString, *values: Any) -> Rows:
    """What the superuser reads or does."""
    url = ground.admin_url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute(statement, values or None)
        return await found.fetchall() if found.description else []


async def carried_out(plan: Plan, *, durable: bool = True) -> Findings:
    """Race and break by *plan*, then judge."""
    findings = UsageFindings(plan.seed)
    ends = time.monotonic() + plan.seconds

    async with grounded(durable=durable) as ground:
        race = Race(ground, plan, findings)
        faults = {**kills(ground), **freezes(ground, race), **disturbances(ground, race)}
        wanted = {name: faults[name] for name in plan.faults or faults}
        chance = random.Random(plan.seed + 1)
        async with asyncio.TaskGroup() as together:
            breaks = breaking(wanted, plan.every_seconds, chance, findings, ends)
            breaker = together.create_task(breaks)
            together.create_task(race.run(breaker.done))
        # What was frozen may still execute what nobody waits for: it has until it stops.
        for replica in ground.replicas:
            await replica.stop()
        await judge(ground, race.asked, findings)
    return findings


async def judge(ground: Ground, asked: list[Asked], findings: UsageFindings) -> None:
    """Hold what was answered against what is kept."""
    async with await psycopg.AsyncConnection.connect(ground.admin_url) as connection:

        async def rows(question: str) -> list[Any]:
            return await (await connection.execute(question)).fetchall()

        receipts = await rows(
            "SELECT user_id::text, operation_id::text, kind, usage_date, granted, released,"
            " claimed_at FROM usage.receipts WHERE kind IS NOT NULL"
        )
        counters = await rows(
            "SELECT user_id::text, usage_date, read_count, modify_count FROM usage.usage_counters"
        )
    judged(asked, receipts, counters, findings)


def judged(asked: list[Asked], receipts: Rows, counters: Rows, findings: UsageFindings) -> None:
    answers_and_receipts(asked, receipts, findings)
    counts_and_limits(receipts, counters, findings)
    windows(receipts, findings)


def answers_and_receipts(asked: list[Asked], receipts: Rows, findings: UsageFindings) -> None:
    """What stands of each claim is what its one receipt says."""
    kept = Counter(row[1] for row in receipts)
    for operation_id, times in kept.items():
        if times > 1:
            findings.broken(f"{operation_id} has {times} receipts")
    answered = {each.claim.operation_id: (each.stands, each.day) for each in asked if each.stands}
    written = {row[1]: (row[4] - row[5], row[3].isoformat()) for row in receipts if row[4] > row[5]}
    for operation_id in answered.keys() | written.keys():
        told, found = answered.get(operation_id), written.get(operation_id)
        if told != found:
            findings.broken(f"{operation_id} was answered {told}, and its receipt says {found}")


def counts_and_limits(receipts: Rows, counters: Rows, findings: UsageFindings) -> None:
    """A day's count is what its receipts say, and within its limit."""
    said: dict[tuple[str, date, str], int] = defaultdict(int)
    for user, _id, kind, day, granted, released, _at in receipts:
        said[user, day, kind] += granted - released
    counted = {
        (row[0], row[1], kind): count
        for row in counters
        for kind, count in zip(LIMITS, row[2:], strict=True)
    }
    for place in said.keys() | counted.keys():
        if said.get(place, 0) != counted.get(place, 0):
            findings.broken(
                f"{place} counts {counted.get(place, 0)}, its receipts {said.get(place, 0)}"
            )
        if counted.get(place, 0) > LIMITS[place[2]]:
            findings.broken(f"{place} counts {counted[place]}, more than its limit")


def windows(receipts: Rows, findings: UsageFindings) -> None:
    """No window of a user ever held more than it may."""
    times: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for user, _id, kind, _day, _granted, _released, at in receipts:
        times[user, kind].append(at)
    for (user, kind), moments in times.items():
        most, width = WINDOWS[kind]
        moments.sort()
        for first, beyond in zip(moments, moments[most:], strict=False):
            if beyond - first < width:
                findings.broken(f"{user}: more than {most} of {kind} in {width} from {first}")
