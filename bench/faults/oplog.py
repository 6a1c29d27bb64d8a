"""Two gateways, a clinic and the log work, and all of them are killed, cut off and left no disk.

Every request is sent again under its id until it is answered for good. At the end the answers, the
clinic's tables and the log have to say the same of every operation, once (LOG-2, LOG-4, GAT-6).
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
import psycopg
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.oplog.v1 import oplog_pb2

from bench.faults.breaking import Fault, Unsettled, breaking
from bench.faults.network import Link
from bench.faults.oplog_ground import CLINICS, GATEWAYS, Ground, clinic_of, standing
from bench.faults.oplog_judge import Asked, Kept, LogFindings, Row, judged, said_in
from bench.measuring import say
from examples.clinic.entities import descriptors
from services.embedded import ADMIN
from services.gateway.admission import operation_id
from services.runtime.identity import Caller

REQUESTS_A_USER = 25
# How often a user reads, makes a client, a batch, changes in several domains, and what fails.
KINDS = (30, 30, 15, 15, 10)
CALL_SECONDS = 20.0
PAUSE_SECONDS = 0.1
SETTLED_SECONDS = 90.0
# With these nothing is said of the request: it is sent again.
AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
)


@dataclass(frozen=True)
class Plan:
    """How long, how hard, and by which chances."""

    seconds: float = 60.0
    seed: int = 1
    callers: int = 16
    # From one kill, and from one disturbance, to the next, at random up to twice as long.
    every_seconds: float = 1.5
    # Those that are made, by their names; all of them without.
    faults: tuple[str, ...] = ()


class Race:
    """The callers, and what they were told."""

    def __init__(self, made: Ground, plan: Plan, findings: LogFindings) -> None:
        self._made = made
        self._plan = plan
        self._findings = findings
        self.asked: list[Asked] = []

    async def run(self, until: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as together:
            for number in range(self._plan.callers):
                together.create_task(self._caller(number, until))

    async def _caller(self, number: int, until: Callable[[], bool]) -> None:
        """One user after another; what they ask for depends on the seed alone."""
        chance = random.Random(f"{self._plan.seed}/{number}")
        while not until():
            user = Requests(chance, self._made)
            for _ in range(REQUESTS_A_USER):
                if until():
                    return
                asked = user.next()
                self.asked.append(asked)
                with suppress(Unsettled):
                    await self._settled(asked, chance)
                    if chance.random() < 0.1:
                        again = chance.choice(self.asked[-100:])
                        self._findings.replayed += 1
                        await self._settled(again, chance)

    async def _settled(self, asked: Asked, chance: random.Random) -> None:
        """Send it until every operation of it has its end. Raises Unsettled."""
        replica = chance.randrange(len(GATEWAYS))
        # Some callers go away before they are answered; of those some never come back.
        goes_away = chance.random() < 0.15
        seconds = chance.uniform(0.01, 0.4) if goes_away else CALL_SECONDS
        given_up = goes_away and chance.random() < 0.3
        while not await self._answered(asked, replica, seconds):
            if given_up and not asked.said:
                asked.given_up = True
                return
            self._findings.retries += 1
            seconds, replica = CALL_SECONDS, (replica + 1) % len(GATEWAYS)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _answered(self, asked: Asked, replica: int, seconds: float) -> bool:
        try:
            answer = await self._made.gateways[replica].Execute(
                asked.request, timeout=seconds, **asked.call
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                words = self._made.programs[GATEWAYS[replica]].last_words()
                self._findings.broken(
                    f"{asked.request.request_id} was answered {error.code().name}"
                    f" {error.details()}: {words}"
                )
                raise Unsettled from None
            return False
        self._findings.calls += 1
        if any(each.retryable for each in answer.report.failures):
            await asyncio.sleep(PAUSE_SECONDS)
        return self._heard(asked, answer)

    def _heard(self, asked: Asked, answer: pb.ExecuteResponse) -> bool:
        """Whether all is known now. What was said once may not be said otherwise later."""
        said, count = said_in(answer), len(asked.request.operations.operations)
        if sorted(index for index, _ in said) != list(range(count)):
            self._findings.broken(f"{asked.request.request_id} has a report of {len(said)}")
            raise Unsettled
        for index, each in said:
            if each is not None and not asked.hears(index, each):
                before = asked.said[index]
                id_ = before.operation_id
                self._findings.broken(f"{id_} was told as {before}, then as {each}")
        return all(each for _, each in said)


class Requests:
    """What one user asks for, one request after another."""

    def __init__(self, chance: random.Random, made: Ground, weights: Sequence[int] = KINDS) -> None:
        self._chance = chance
        self._weights = weights
        clinic = clinic_of(chance.randrange(CLINICS))
        self._caller = Caller(self._id(), clinic, frozenset({"user"}))
        self._call = made.call(self._caller.user_id, clinic)
        self._clients: list[str] = []

    def _id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def next(self) -> Asked:
        kinds = (self._read, self._create, self._several, self._across, self._failing)
        operations = self._chance.choices(kinds, weights=self._weights)[0]()
        request = pb.ExecuteRequest(request_id=self._id())
        request.operations.operations.extend(operations)
        return Asked(request, self._call)

    def _read(self) -> list[pb.Operation]:
        return [self._of_client(domain_pb2.VERB_READ)]

    def _create(self) -> list[pb.Operation]:
        return [self._new_client()]

    def _several(self) -> list[pb.Operation]:
        """One batch, that stands or falls as one."""
        return [self._new_client(), self._renamed_phone(), self._new_client()]

    def _across(self) -> list[pb.Operation]:
        """Batches in several domains; the invoice's client may not be there."""
        invoice = pb.Operation(domain="finance", verb=domain_pb2.VERB_CREATE, entity="invoice")
        invoice.fields.update(
            {
                "number": self._id()[:18],
                "client_name": self._known(),
                "amount": 10,
                "due_date": "2099-01-01",
            }
        )
        return [self._of_client(domain_pb2.VERB_READ), invoice, self._new_client()]

    def _failing(self) -> list[pb.Operation]:
        """A change of nobody, that takes its neighbour with it."""
        nobody = pb.Operation(domain="clients", verb=domain_pb2.VERB_UPDATE, entity="client")
        nobody.selector.id = self._id()
        nobody.fields["phone"] = "1"
        return [self._new_client(), nobody]

    def _new_client(self) -> pb.Operation:
        name = f"c-{self._id()}"
        self._clients.append(name)
        operation = pb.Operation(domain="clients", verb=domain_pb2.VERB_CREATE, entity="client")
        operation.fields["name"] = name
        return operation

    def _renamed_phone(self) -> pb.Operation:
        operation = self._of_client(domain_pb2.VERB_UPDATE)
        operation.fields["phone"] = self._id()
        return operation

    def _known(self) -> str:
        return self._chance.choice(self._clients) if self._clients else "nobody"

    def _of_client(self, verb: domain_pb2.Verb.ValueType) -> pb.Operation:
        operation = pb.Operation(domain="clients", verb=verb, entity="client")
        condition = operation.selector.conditions.conditions.add(
            field="name", comparison=domain_pb2.COMPARISON_EQUAL
        )
        condition.value.string_value = self._known()
        return operation


def kills(made: Ground) -> dict[str, Fault]:
    """Every process, ended at once or asked to stop, and started again."""

    async def killed(name: str, seconds: float) -> None:
        await made.programs[name].kill()
        await asyncio.sleep(seconds)
        await made.start(name)

    async def restarted(name: str, seconds: float) -> None:
        await made.programs[name].stop()
        await made.start(name)

    async def store_killed(seconds: float) -> None:
        await made.place.postgres.kill()
        await asyncio.sleep(seconds)
        await made.place.postgres.start()

    victims = ("oplog", "clinic", *GATEWAYS)
    return {
        "kills of gateway 0": partial(killed, "gateway 0"),
        "kills of Postgres": store_killed,
        **{f"kills of {name}": partial(killed, name) for name in victims[:2]},
        "kills of gateway 1": partial(killed, "gateway 1"),
        **{f"restarts of {name}": partial(restarted, name) for name in victims},
    }


def disturbances(made: Ground) -> dict[str, Fault]:
    """The network between them, slow, silent or cut, and their disks, full while it is."""

    async def disturbed(names: list[str], how: Callable[[Link], None], seconds: float) -> None:
        for name in names:
            how(made.links[name])
        await asyncio.sleep(4 * seconds)
        for name in names:
            made.links[name].heal()

    async def filled_up(name: str, seconds: float) -> None:
        made.links["oplog"].cut()
        await asyncio.sleep(seconds)
        while name in made.starting:  # noqa: ASYNC110  it may start again at any moment
            await asyncio.sleep(0.05)
        pid = made.programs[name].pid
        made.disks[name].fill(pid)
        await asyncio.sleep(4 * seconds)
        made.links["oplog"].heal()
        made.disks[name].free(pid)

    log, domains = ["oplog"], list(descriptors())
    slow = partial(Link.slow, seconds=0.1)
    return {
        "cuts of the log": partial(disturbed, log, Link.cut),
        "cuts of the clinic": partial(disturbed, domains, Link.cut),
        **{f"full disks of {name}": partial(filled_up, name) for name in GATEWAYS},
        "silences of the clinic": partial(disturbed, domains, Link.silent),
        "silences of the log": partial(disturbed, log, Link.silent),
        "slow links to the log": partial(disturbed, log, slow),
        "slow links to the clinic": partial(disturbed, domains, slow),
    }


def wanted(plan: Plan, faults: dict[str, Fault]) -> dict[str, Fault]:
    return {name: each for name, each in faults.items() if name in (plan.faults or faults)}


async def carried_out(plan: Plan) -> LogFindings:
    """Race and break by *plan*, let it settle, then judge."""
    findings = LogFindings(plan.seed)
    ends = time.monotonic() + plan.seconds
    async with standing() as made:
        faults = [wanted(plan, kills(made)), wanted(plan, disturbances(made))]
        say("racing and breaking")
        race = Race(made, plan, findings)
        async with asyncio.TaskGroup() as together:
            breakers = [
                together.create_task(
                    breaking(
                        each,
                        plan.every_seconds,
                        random.Random(f"{plan.seed}/faults/{number}"),
                        findings,
                        ends,
                    )
                )
                for number, each in enumerate(faults)
            ]
            together.create_task(race.run(lambda: all(each.done() for each in breakers)))
        say("settling")
        kept = await settled(made)
        await name_operations(made, race.asked)
        judged(race.asked, kept, findings)
        await verified(made, findings)
    return findings


async def settled(made: Ground) -> Kept:
    """What is kept once nothing is open any more, or nothing changes by waiting."""
    until = time.monotonic() + SETTLED_SECONDS
    while True:
        files = [file.name for spool in made.spools.values() for file in spool.iterdir()]
        kept = await looked_up(made, files)
        is_open = files or any(row.outcome == "unknown" for row in kept.rows)
        if not is_open and not await unlogged(made):
            return kept
        if time.monotonic() > until:
            return kept
        await asyncio.sleep(0.5)


async def unlogged(made: Ground) -> int:
    """How many answers of gateways that are gone may lack their rows still."""
    async with await psycopg.AsyncConnection.connect(made.admin_url) as connection:
        found = await connection.execute(
            "SELECT count(*) FROM gateway.requests WHERE state = 'answered'"
        )
        return sum([row[0] for row in await found.fetchall()])


async def name_operations(made: Ground, asked: Sequence[Asked]) -> None:
    """Look up the ids of the operations: they derive from the use of the request_id."""
    async with await psycopg.AsyncConnection.connect(made.admin_url) as connection:
        found = await connection.execute("SELECT request_id, use_id FROM gateway.requests")
        uses = dict(await found.fetchall())
    for one in asked:
        if (use_id := uses.get(one.request.request_id)) is not None:
            count = len(one.request.operations.operations)
            one.ids = [operation_id(use_id, index) for index in range(count)]


async def looked_up(made: Ground, files: list[str]) -> Kept:
    async with await psycopg.AsyncConnection.connect(made.admin_url) as connection:

        async def rows(question: str) -> list[Any]:
            return await (await connection.execute(question)).fetchall()

        logged = await rows(
            "SELECT id::text, outcome, reason FROM oplog.operation_log"
            " WHERE action NOT LIKE 'admin.%'"
        )
        return Kept(
            [Row(*each) for each in logged],
            dict(
                await rows(
                    "SELECT operation_id::text, min(recorded_at) FROM oplog.links"
                    " WHERE kind = 'intent' GROUP BY operation_id"
                )
            ),
            (await rows("SELECT count(*) FROM oplog.links WHERE kind = 'settled'"))[0][0],
            dict(
                await rows(
                    "SELECT operation_id::text, recorded_at FROM clinic.operations"
                    " WHERE state = 'applied'"
                )
            ),
            Counter({row[0]: row[1] for row in await rows(CLIENTS)}),
            [row[0] for row in await rows("SELECT problem FROM oplog.quarantine")],
            files,
        )


CLIENTS = "SELECT name, count(*) FROM clinic.clients GROUP BY name"


async def verified(made: Ground, findings: LogFindings) -> None:
    """The chain holds."""
    call = made.call(ADMIN, "", "auditor")
    found = await made.log.VerifyChain(oplog_pb2.VerifyChainRequest(), timeout=60, **call)
    if not found.intact:
        findings.broken(f"the chain does not hold: {found.broken}")
