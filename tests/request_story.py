"""A story of many requests at once, before domains that do whatever domains may do: what is asked
of it in the end is that every report is whole, and true to the domains' own tables.

Everything that varies is drawn from a seed, so that a story can be told again.
"""

import asyncio
import random
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.embedded_services import wait_until_serving
from services.runtime.failure import failure_from
from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    UPDATE,
    Stage,
    User,
    another_gateway,
    appointment,
    client,
    eventually,
    operation,
)
from tests.lab_domain import Lab, refusing

Request, Answer = domain_pb2.ExecuteBatchRequest, domain_pb2.ExecuteBatchResponse
DEADLINE, LATE = 1.2, 1.8
# What ends a call without an answer, and is no answer: the same call may be made again.
AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
)
# What was agreed to is asked anew: it was cancelled, or it would not do the same any more.
ASKED_ANEW = ("CONFIRMATION_EXPIRED", "CONFIRMATION_OUTDATED")
MANNERS = ("waits", "waits", "in a hurry", "cancels", "goes away")
WHIMS = (
    *("good", "good", "good", "refuses", "breaks before", "breaks after", "late"),
    *("late to begin", "half an answer", "contradicts itself", "another's answer", "in progress"),
)


async def whimsical(lab: Lab, request: Request) -> Answer:
    """What a domain makes of a batch whose operations name the whim."""
    whims = [each.fields["name"] for each in request.operations if "name" in each.fields]
    whim = whims[0] if whims and not request.validate_only else "good"
    if whim == "refuses":
        return refusing(request, "RECORD_LOCKED")
    if whim == "breaks before":
        raise RuntimeError
    if whim == "late to begin":
        await asyncio.sleep(LATE)
    return await spoiled(lab, request, await lab.apply(request), whim)


async def spoiled(lab: Lab, request: Request, answer: Answer, whim: str) -> Answer:
    """How what was applied is told, or not."""
    match whim:
        case "breaks after":
            raise RuntimeError
        case "late":
            await asyncio.sleep(LATE)
        case "half an answer":
            del answer.results[0]
        case "contradicts itself":
            answer.committed = not answer.committed
        case "another's answer":
            answer.results[0].operation_id = str(uuid.uuid4())
        case "in progress":
            lab.in_progress.update(each.operation_id for each in request.operations)
            raise RuntimeError
    return answer


@dataclass
class Told:
    """A request, and what its caller was told at last."""

    user: User
    request_id: str
    operations: list[pb.Operation]
    manner: str
    replica: int
    reports: list[pb.PartialOutcomeReport] = field(default_factory=list)

    async def ask(self, seconds: float) -> pb.PartialOutcomeReport | None:
        """Ask, agree at the other gateway where that is asked back, and note the report.

        None where the call ended without one.
        """
        about: dict[str, Any] = {"request_id": self.request_id, "timeout": seconds}
        try:
            answer = await self.user.execute(self.operations, replica=self.replica, **about)
            if answer.HasField("confirmation"):
                token = answer.confirmation.confirmation_token
                other = self.replica - 1
                answer = await self.user.execute(
                    None, replica=other, confirmation_token=token, **about
                )
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN and failure_from(error).reason not in ASKED_ANEW:
                raise
            return None
        assert answer.HasField("report"), answer
        self.reports.append(answer.report)
        return answer.report


async def tell(crew: Stage, seed: int, *, count: int, kill: bool = False) -> list[str]:
    """Have *count* requests at once over two gateways; what is wrong at the end.

    With *kill* the first of them is killed in the middle, and started again.
    """
    draw = random.Random(seed)
    async with another_gateway(crew.suite) as other, crew.lab() as one, crew.lab() as two:
        stage = replace(crew, gateways=[*crew.gateways, other])
        for lab in (one, two):
            lab.answers = partial(whimsical, lab)
        every = [
            Told(
                await stage.user(),
                str(uuid.uuid4()),
                drawn(draw, (one, two)),
                draw.choice(MANNERS),
                draw.randrange(len(stage.gateways)),
            )
            for _ in range(count)
        ]
        running = [asyncio.create_task(ask(told)) for told in every]
        if kill:
            await asyncio.sleep(draw.uniform(0.1, 0.6))
            await killed(stage)
        await asyncio.gather(*running)
        wrong = [fault for told in every for fault in await faults_of(told, (one, two))]
    return [f"seed {seed}: {each}" for each in wrong]


async def killed(stage: Stage) -> None:
    program = stage.suite.programs["gateway"]
    await program.kill()
    await program.start()
    await wait_until_serving(program, stage.suite.addresses["gateway"])


def drawn(draw: random.Random, labs: Sequence[Lab]) -> list[pb.Operation]:
    """Some operations of some domains, some of them so many that they must be confirmed."""
    operations: list[pb.Operation] = []
    used = draw.sample(labs, draw.randint(1, len(labs)))
    for lab in used:
        whim = draw.choice(WHIMS)
        operations.append(operation(lab.name, CREATE, name=whim))
        if draw.random() < 0.6:
            verb = draw.choice((UPDATE, DELETE, READ))
            writes = {"name": whim} if verb == UPDATE else {}
            operations.append(operation(lab.name, verb, record="7", **writes))
    if draw.random() < 0.3:
        operations += [operation(used[0].name, CREATE, name="good") for _ in range(6)]
    elif len(operations) < 4 and draw.random() < 0.7:
        operations.append(client("Ana"))
        if len(used) == 1:
            made = appointment("", "2099-01-01T10:00:00")
            del made.fields["client_name"]
            made.references.add(
                field="client_name", operation=len(operations) - 1, record_field="name"
            )
            operations.append(made)
    return operations


async def ask(told: Told) -> None:
    """Ask as the caller's manner is, and then again under the same id until all is known."""
    first = asyncio.create_task(told.ask(DEADLINE if told.manner == "in a hurry" else 15))
    if told.manner in ("cancels", "goes away"):
        await asyncio.sleep(0.15)
        if told.manner == "goes away":
            first.cancel()
        else:
            await cancelled(told)
    with suppress(asyncio.CancelledError):
        await first
    await eventually(lambda: is_known(told), 40)


async def cancelled(told: Told) -> None:
    """Over another connection, to the other gateway."""
    gateway = told.user.stage.gateways[told.replica - 1]
    try:
        await gateway.Cancel(pb.CancelRequest(request_id=told.request_id), **told.user.call)
    except grpc.aio.AioRpcError as error:
        if error.code() not in (*AGAIN, grpc.StatusCode.NOT_FOUND):
            raise


async def is_known(told: Told) -> bool:
    """Whether the report of a retry, which goes to either gateway, leaves nothing unknown."""
    told.replica = (told.replica + 1) % len(told.user.stage.gateways)
    report = await told.ask(15)
    return report is not None and not any(each.outcome_unknown for each in report.failures)


async def faults_of(told: Told, labs: Sequence[Lab]) -> list[str]:
    """What is wrong with the end of a request; empty when all is right."""
    report, wrong = told.reports[-1], list[str]()
    ends = [*report.successes, *report.failures]
    if sorted(each.index for each in ends) != list(range(len(told.operations))):
        wrong.append("an operation is not in the report once")
    for before in told.reports[:-1]:
        wrong += contradictions(before, report)
    done = {each for lab in labs for each in lab.done}
    succeeded = {each.index for each in report.successes}
    for each in ends:
        asked = told.operations[each.index]
        is_lab = any(asked.domain == lab.name for lab in labs) and asked.verb != READ
        if is_lab and (each.index in succeeded) != (each.operation_id in done):
            wrong.append(f"operation {each.index} is told otherwise than it was done")
    made = [
        each.index for each in report.successes if told.operations[each.index].domain == "clients"
    ]
    if await told.user.clients() != ["Ana"] * len(made):
        wrong.append("the clients are others than were told")
    changes = sum(each.verb != READ for each in report.successes)
    wrong += await unsettled(told, changes, {each.operation_id for each in ends}, report)
    return [
        f"{told.manner}, {[whims_of(each) for each in told.operations]}: {each}" for each in wrong
    ]


def contradictions(before: pb.PartialOutcomeReport, after: pb.PartialOutcomeReport) -> list[str]:
    """What was told for certain stays so."""
    then = {each.index for each in before.successes}
    now = {each.index for each in after.successes}
    not_done = {each.index for each in before.failures if not each.outcome_unknown}
    found = [] if then <= now else ["what was done is told as not done later"]
    return found if not not_done & now else [*found, "what was not done is told as done later"]


async def unsettled(
    told: Told, changes: int, ids: set[str], report: pb.PartialOutcomeReport
) -> list[str]:
    """What counts and log say otherwise than *report*, once they had time to settle."""
    logged: dict[str, list[str]] = {}

    async def settled() -> bool:
        logged.clear()
        rows = await told.user.stage.rows(
            "SELECT id::text, outcome FROM oplog.operation_log WHERE user_id = %s", told.user.id
        )
        for id_, outcome in rows:
            logged.setdefault(id_, []).append(outcome)
        good = {id_ for id_, outcomes in logged.items() if outcomes == ["succeeded"]}
        once = all(len(each) == 1 and each != ["unknown"] for each in logged.values())
        right = good == {each.operation_id for each in report.successes}
        return once and right and set(logged) == ids and (await told.user.usage())[1] == changes

    try:
        await eventually(settled, 20)
    except TimeoutError:
        counted = (await told.user.usage())[1]
        return [f"{counted} are counted of {changes}; the log has {logged}"]
    return []


def whims_of(each: pb.Operation) -> str:
    return each.fields["name"] if "name" in each.fields else domain_pb2.Verb.Name(each.verb)
