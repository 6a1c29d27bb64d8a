"""The faults of `bench.faults requests`: what is broken, how long, and whose calls it touches."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass, field
from functools import partial

import psycopg
from psycopg import sql

from bench.faults.network import Link
from bench.faults.requests_callers import Callers
from bench.faults.requests_world import (
    DOMAIN_LINKS,
    ENTITLEMENTS,
    GATEWAYS,
    LOGS,
    OVER_A_LINK,
    USAGES,
    World,
)

KINDS = ("freeze", "kill", "cut", "delay", "lock", "fill")
# How long a fault of a kind lasts. What hangs does so for longer than anybody may wait for it.
SECONDS = {
    "freeze": (4.0, 6.0),
    "kill": (0.0, 0.6),
    "cut": (0.0, 1.5),
    "delay": (4.0, 6.0),
    "lock": (4.0, 6.0),
    "fill": (4.0, 6.0),
}
# A gateway hangs for longer than its leases, so that others take over what it has begun.
PAST_ITS_LEASES_SECONDS = (7.0, 10.0)
PAUSE_SECONDS = (0.4, 1.4)
# After a process was killed callers find it again within this time; after it went on again, within
# the second.
RECOVERY_SECONDS, RESUMED_SECONDS = 3.0, 1.0
# How often another kind of fault is injected at the same time.
AT_ONCE = 0.3
# What keeps callers waiting, rather than telling them.
HANGS = ("freeze", "lock", "delay", "fill")
HANGS_FIRST = 0.7
SLOW_SECONDS = 0.15
RECOVERED_SECONDS = 60.0
LOCKED_USERS = 2
ROLES = ("gatehouse_usage", "gatehouse_gateway", "gatehouse_oplog")


@dataclass
class Touched:
    """Whose calls a fault may hang: nobody but these (USE-9)."""

    everybody: bool = False
    changes: bool = False
    gateways: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)


@dataclass
class Injected:
    """A fault that was injected, when, and whether it was the only one."""

    name: str
    kind: str
    touched: Touched
    began: float
    ended: float = float("inf")
    alone: bool = True


Injection = Callable[[Touched], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One thing to break: *inject* breaks it and, at the end of the block, mends it."""

    name: str
    kind: str
    # What it is done to: no two faults at once are of the same.
    victim: str
    inject: Injection
    everybody: bool = False
    changes: bool = False
    gateways: tuple[str, ...] = ()

    @property
    def seconds(self) -> tuple[float, float]:
        """How long it lasts: from, and to."""
        is_gateway = self.kind == "freeze" and self.victim in GATEWAYS
        return PAST_ITS_LEASES_SECONDS if is_gateway else SECONDS[self.kind]

    def touched(self) -> Touched:
        return Touched(self.everybody, self.changes, set(self.gateways))


def all_faults(world: World, callers: Callers) -> list[Fault]:
    return [
        *freezes(world, callers),
        *kills(world),
        *network_faults(world),
        *locks(world, callers),
        *fills(world),
    ]


def own_callers(name: str) -> tuple[str, ...]:
    """The gateways whose callers are touched by what is done to a replica."""
    return (name,) if name in GATEWAYS else ()


def freezes(world: World, callers: Callers) -> list[Fault]:
    @asynccontextmanager
    async def program(name: str, touched: Touched) -> AsyncIterator[None]:
        # What it had locked for their calls stays locked as long as a time-out lets it.
        touched.users |= set(callers.in_flight)
        world.programs[name].pause()
        try:
            yield
        finally:
            world.programs[name].resume()

    @asynccontextmanager
    async def postgres(touched: Touched) -> AsyncIterator[None]:
        pids = [row[0] for row in await world.rows("SELECT pid FROM pg_stat_activity")]
        for pid in pids:
            signalled(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                signalled(pid, signal.SIGCONT)

    @asynccontextmanager
    async def valkey(touched: Touched) -> AsyncIterator[None]:
        world.place.valkey.pause()
        try:
            yield
        finally:
            world.place.valkey.resume()

    @asynccontextmanager
    async def backend(role: str, touched: Touched) -> AsyncIterator[None]:
        touched.users |= set(callers.in_flight)
        pids = await backends_of(world, role)
        for pid in pids[:1]:
            signalled(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids[:1]:
                signalled(pid, signal.SIGCONT)

    replicas = [
        Fault(f"freeze {name}", "freeze", name, partial(program, name), gateways=own_callers(name))
        for name in (*USAGES, *LOGS, *ENTITLEMENTS, *GATEWAYS)
    ]
    single = [Fault("freeze clinic", "freeze", "clinic", partial(program, "clinic"), True)]
    backends = [
        Fault(
            f"freeze a backend of {role}",
            "freeze",
            "Postgres",
            partial(backend, role),
            changes=role == "gatehouse_oplog",
        )
        for role in ROLES
    ]
    stores = [
        Fault("freeze Valkey", "freeze", "Valkey", valkey),
        Fault("freeze Postgres", "freeze", "Postgres", postgres, everybody=True),
    ]
    return [*replicas, *single, *backends, *stores]


def kills(world: World) -> list[Fault]:
    @asynccontextmanager
    async def program(name: str, touched: Touched) -> AsyncIterator[None]:
        await world.programs[name].kill()
        try:
            yield
        finally:
            await world.start(name)

    @asynccontextmanager
    async def postgres(touched: Touched) -> AsyncIterator[None]:
        await world.place.postgres.kill()
        try:
            yield
        finally:
            await world.place.postgres.start()

    @asynccontextmanager
    async def valkey(touched: Touched) -> AsyncIterator[None]:
        await world.place.valkey.kill()
        try:
            yield
        finally:
            await world.place.valkey.start()

    @asynccontextmanager
    async def sessions(role: str, touched: Touched) -> AsyncIterator[None]:
        """End every session of a service, as an administrator or a pooler may."""
        with suppress(psycopg.OperationalError):
            await world.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", role
            )
        yield

    @asynccontextmanager
    async def backend(role: str, touched: Touched) -> AsyncIterator[None]:
        """Crash one backend: Postgres ends all others and recovers."""
        for pid in (await backends_of(world, role))[:1]:
            signalled(pid, signal.SIGKILL)
        yield

    names = (*USAGES, *LOGS, *ENTITLEMENTS, *GATEWAYS, "clinic")
    return [
        *(Fault(f"kill {each}", "kill", each, partial(program, each), True) for each in names),
        Fault("kill Postgres", "kill", "Postgres", postgres, True),
        Fault("kill Valkey", "kill", "Valkey", valkey, True),
        *(
            Fault(f"end the sessions of {role}", "kill", "Postgres", partial(sessions, role), True)
            for role in ROLES
        ),
        Fault("kill a backend", "kill", "Postgres", partial(backend, ROLES[0]), True),
    ]


def network_faults(world: World) -> list[Fault]:
    @asynccontextmanager
    async def broken(
        names: Sequence[str], how: Callable[[Link], None], touched: Touched
    ) -> AsyncIterator[None]:
        for name in names:
            how(world.links[name])
        try:
            yield
        finally:
            for name in names:
                world.links[name].heal()

    links: dict[str, tuple[str, ...]] = {
        name: (name,) for name in (*GATEWAYS, *USAGES, *LOGS, *ENTITLEMENTS)
    }
    links["the clinic"] = DOMAIN_LINKS
    links |= {f"Postgres of {name}": (f"Postgres of {name}",) for name in OVER_A_LINK}
    slow = partial(Link.slow, seconds=SLOW_SECONDS)
    manners: list[tuple[str, str, Callable[[Link], None]]] = [
        ("cut", "cut", Link.cut),
        ("silence", "delay", Link.silent),
        ("half-open", "delay", Link.half_open),
        ("slow", "delay", slow),
    ]
    return [
        Fault(
            f"{manner} link to {title}",
            kind,
            title.removeprefix("Postgres of "),
            partial(broken, names, how),
            # What is slow answers, and does not hang.
            everybody=title == "the clinic" or kind == "cut" or manner == "slow",
            gateways=own_callers(title.removeprefix("Postgres of ")),
        )
        for title, names in links.items()
        for manner, kind, how in manners
    ]


def locks(world: World, callers: Callers) -> list[Fault]:
    @asynccontextmanager
    async def rows(statement: str, touched: Touched) -> AsyncIterator[None]:
        """Hold rows of users who are calling, as somebody in psql may."""
        users = list(callers.in_flight)[:LOCKED_USERS]
        touched.users |= set(users)
        async with held(world, statement, users):
            yield

    @asynccontextmanager
    async def head(touched: Touched) -> AsyncIterator[None]:
        async with held(world, "SELECT FROM oplog.head FOR UPDATE"):
            yield

    of_users = "FROM usage.users WHERE user_id = ANY (%s::uuid[]) FOR UPDATE"
    counters = "FROM usage.usage_counters WHERE user_id = ANY (%s::uuid[]) FOR UPDATE"
    requests = "FROM gateway.requests WHERE user_id = ANY (%s::uuid[]) FOR UPDATE"
    return [
        Fault("lock rows of users", "lock", "rows", partial(rows, f"SELECT {of_users}")),
        Fault("lock rows of counters", "lock", "rows", partial(rows, f"SELECT {counters}")),
        Fault("lock rows of requests", "lock", "rows", partial(rows, f"SELECT {requests}")),
        Fault("lock the head of the log", "lock", "rows", head, changes=True),
    ]


def fills(world: World) -> list[Fault]:
    @asynccontextmanager
    async def slots(role: str, touched: Touched) -> AsyncIterator[None]:
        """No connection slot is left for newcomers; the connections that are open work."""
        await limit_connections(world, role, 0)
        try:
            yield
        finally:
            await limit_connections(world, role, -1)

    @asynccontextmanager
    async def disk(name: str, touched: Touched) -> AsyncIterator[None]:
        """The spool's disk is full while the log cannot be reached."""
        for log in LOGS:
            world.links[log].cut()
        pid = world.programs[name].pid
        world.disks[name].fill(pid)
        try:
            yield
        finally:
            for log in LOGS:
                world.links[log].heal()
            world.disks[name].free(pid)

    return [
        *(
            Fault(f"no connection slot for {role}", "fill", "slots", partial(slots, role))
            for role in ROLES
        ),
        *(
            Fault(f"full disk of {name}", "fill", name, partial(disk, name), True)
            for name in GATEWAYS
        ),
    ]


@asynccontextmanager
async def held(world: World, statement: str, users: Sequence[str] = ()) -> AsyncIterator[None]:
    """Locks that a transaction of an administrator holds, which nobody bounds."""
    values = (list(users),) if "%s" in statement else ()
    async with AsyncExitStack() as stack:
        # The lock ends with the connection where Postgres is killed meanwhile.
        stack.enter_context(suppress(psycopg.OperationalError))
        connection = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(world.admin_url)
        )
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        await connection.execute(statement, values)
        yield


async def limit_connections(world: World, role: str, most: int) -> None:
    """Set how many connections a role may have; -1 is no limit.

    Waits for a Postgres that was killed meanwhile. Raises TimeoutError.
    """
    statement = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(
        sql.Identifier(role), sql.Literal(most)
    )
    url = world.place.postgres.url()
    async with asyncio.timeout(RECOVERED_SECONDS):
        while True:
            with suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as opened:
                    await opened.execute(statement)
                return
            await asyncio.sleep(0.1)


async def backends_of(world: World, role: str) -> list[int]:
    """The backends of a role, those that run a statement or a transaction first."""
    with suppress(psycopg.OperationalError):
        found = await world.rows(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s"
            " ORDER BY state = 'idle', state_change DESC",
            role,
        )
        return [row[0] for row in found]
    return []


def signalled(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class Injector:
    """Injects one fault after another, at times two at once, and keeps what it did."""

    def __init__(self, faults: Sequence[Fault], chance: random.Random) -> None:
        self._faults = list(faults)
        self._chance = chance
        self._queues: dict[bool, list[Fault]] = {}
        self.injected: list[Injected] = []

    async def run(self, ends: float, *, each_once: bool = False) -> None:
        """Until *ends* (monotonic); with *each_once* every fault alone, in order, however long."""
        if each_once:
            for fault in self._faults:
                await asyncio.sleep(PAUSE_SECONDS[0])
                await self._inject([fault])
            return
        before = ""
        while time.monotonic() < ends:
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
            faults = self._drawn()
            if len(faults) == 1 and faults[0].kind in HANGS and before not in HANGS:
                await asyncio.sleep(RECOVERY_SECONDS)
            await self._inject(faults)
            before = faults[-1].kind

    def _drawn(self) -> list[Fault]:
        """One fault, or two of different kinds and victims.

        Each comes before any comes again. What hangs alone comes more often than what it takes
        seconds to recover from: only then it can be seen whom it hangs.
        """
        first = self._next(self._chance.random() < HANGS_FIRST)
        if self._chance.random() < AT_ONCE:
            second = self._next(first.kind not in HANGS)
            if second.victim != first.victim and second.kind != first.kind:
                return [first, second]
        return [first]

    def _next(self, hangs: bool) -> Fault:
        """The next fault that hangs, or that does not, where there is one."""
        if not self._queues.get(hangs):
            found = [each for each in self._faults if (each.kind in HANGS) is hangs]
            if not found:
                return self._next(not hangs)
            self._queues[hangs] = self._chance.sample(found, len(found))
        return self._queues[hangs].pop()

    async def _inject(self, faults: Sequence[Fault]) -> None:
        alone = len(faults) == 1
        await asyncio.gather(*(self._injected(each, alone=alone) for each in faults))

    async def _injected(self, fault: Fault, *, alone: bool) -> None:
        record = Injected(fault.name, fault.kind, fault.touched(), time.monotonic(), alone=alone)
        self.injected.append(record)
        async with fault.inject(record.touched):
            await asyncio.sleep(self._chance.uniform(*fault.seconds))
        record.ended = time.monotonic()
