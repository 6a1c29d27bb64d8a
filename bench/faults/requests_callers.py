"""The callers of `bench.faults requests`: users with plans, habits, deadlines and retries.

What a caller asks for, its deadlines and where it sends its tries depend on the seed alone.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from grpc_status import rpc_status

from bench.faults import erratic_domain
from bench.faults.requests_record import AGAIN, Answer, Asked, Try, reason_of
from bench.faults.requests_world import CLINICS, GATEWAYS, World

METRICS = ("no_show_rate", "cancellation_rate", "engagement_rate", "overdue_ratio")
# How often a caller ends a call itself, has an Execute cancelled, and sends a request to both
# gateways at once.
LEAVES, CANCELS, HEDGES = 0.12, 0.05, 0.08
PATIENT_SECONDS = 5.0
PATIENT_FOR_SECONDS = 10.0
CANCEL_SECONDS = 2.0
RETRY_PAUSE_SECONDS = 0.1
BULK = 6
# With these a confirmation is asked for anew.
ASKED_ANEW = ("CONFIRMATION_EXPIRED", "CONFIRMATION_OUTDATED", "CONFIRMATION_INVALID")
# What the caller is told of a whole request, and does not send again.
REFUSALS = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED")


@dataclass(frozen=True)
class Habit:
    """How a user behaves: the plan, how many requests, and how many of them at a time."""

    clinic: str
    requests: int
    at_a_time: int
    # How often the user reads, changes, changes several, across domains, in bulk, analyzes,
    # streams, asks for recommendations, asks in words.
    weights: tuple[int, ...]


STEADY = Habit("unlimited", 10, 2, (20, 15, 10, 15, 6, 15, 14, 8, 15))
LIMITED = Habit("small", 24, 4, (24, 20, 8, 0, 4, 16, 16, 12, 15))
FLOODING = Habit("unlimited", 36, 8, (40, 0, 0, 0, 0, 20, 20, 20, 0))
READING = Habit("basic", 8, 1, (50, 6, 0, 0, 0, 0, 0, 0, 10))
HABITS = (STEADY, STEADY, LIMITED, LIMITED, FLOODING, READING)


# One that reads, one that changes, one that is not sure and is confirmed, one that is asked about.
WORDS = (
    "Show the appointments of today",
    "Create a client named {name}",
    "Save {name} as a new client",
    "We have a new client, {name}",
)


class Wishes:
    """What one user asks for, one request after another."""

    def __init__(self, chance: random.Random, world: World, habit: Habit) -> None:
        self._chance = chance
        self._habit = habit
        self.user_id = self._id()
        self._metadata = world.call(self.user_id, CLINICS[habit.clinic])
        self._names: list[str] = []
        self._name = ""

    def _id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def next(self, kind: int | None = None) -> Asked:
        makers = (
            self._read,
            self._change,
            self._several,
            self._across,
            self._bulk,
            self._analyze,
            self._stream,
            self._recommend,
            self._words,
        )
        if kind is None:
            (maker,) = self._chance.choices(makers, weights=self._habit.weights)
        else:
            maker = makers[kind]
        method, request = maker()
        request.request_id = self._id()
        patient = self._chance.random() < 0.4
        asked = Asked(
            method, request, self.user_id, self._habit.clinic, self._metadata, patient=patient
        )
        if method == "Execute" and "Client" in request.instruction:
            asked.name_in_words = self._name
        return asked

    def _execute(self, *operations: pb.Operation) -> tuple[str, pb.ExecuteRequest]:
        request = pb.ExecuteRequest()
        request.operations.operations.extend(operations)
        return "Execute", request

    def _read(self) -> tuple[str, Any]:
        return self._execute(self._of_client(domain_pb2.VERB_READ))

    def _change(self) -> tuple[str, Any]:
        return self._execute(self._new_client())

    def _several(self) -> tuple[str, Any]:
        """One batch that is committed or rolled back as one; its second operation may fail."""
        phone = self._of_client(domain_pb2.VERB_UPDATE)
        phone.fields["phone"] = self._id()
        return self._execute(self._new_client(), phone)

    def _across(self) -> tuple[str, Any]:
        thing = pb.Operation(
            domain=erratic_domain.NAME, verb=domain_pb2.VERB_CREATE, entity="thing"
        )
        thing.fields["name"] = self._chance.choice(erratic_domain.WHIMS)
        return self._execute(self._of_client(domain_pb2.VERB_READ), thing, self._new_client())

    def _bulk(self) -> tuple[str, Any]:
        """More changes than are carried out without a confirmation."""
        return self._execute(*(self._new_client() for _ in range(BULK)))

    def _analyze(self) -> tuple[str, Any]:
        request = pb.AnalyzeRequest(plain_summary=True)
        request.metrics.extend(self._chance.sample(METRICS, self._chance.randint(1, 3)))
        request.window.last_days = self._chance.choice((7, 14, 28))
        return "Analyze", request

    def _stream(self) -> tuple[str, Any]:
        return "StreamAnalyze", self._analyze()[1]

    def _recommend(self) -> tuple[str, Any]:
        request = pb.RecommendRequest(plain=True, limit=3)
        request.window.last_days = 28
        return "Recommend", request

    def _words(self) -> tuple[str, Any]:
        """What is counted as a read until it is known whether it changes something."""
        letters = "".join(self._chance.choices("abdefgiklmnorstu", k=12))
        self._name = f"Client{letters[:6]} {letters[6:].capitalize()}"
        words = self._chance.choice(WORDS)
        return "Execute", pb.ExecuteRequest(instruction=words.format(name=self._name))

    def _new_client(self) -> pb.Operation:
        name = f"c-{self._id()}"
        self._names.append(name)
        operation = pb.Operation(domain="clients", verb=domain_pb2.VERB_CREATE, entity="client")
        operation.fields["name"] = name
        return operation

    def _of_client(self, verb: domain_pb2.Verb.ValueType) -> pb.Operation:
        operation = pb.Operation(domain="clients", verb=verb, entity="client")
        condition = operation.selector.conditions.conditions.add(
            field="name", comparison=domain_pb2.COMPARISON_EQUAL
        )
        condition.value.string_value = (
            self._chance.choice(self._names) if self._names else "Ana Souza"
        )
        return operation


class Callers:
    """Everybody who calls, and what they were answered."""

    def __init__(self, world: World, seed: int, *, lanes: int) -> None:
        self._world = world
        self._seed = seed
        self._lanes = lanes
        self.asked: list[Asked] = []
        # Users who are calling now, and the tries of theirs that run.
        self.in_flight: dict[str, int] = {}

    async def run(self, until: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._lanes):
                tasks.create_task(self._lane(number, until))
            tasks.create_task(self._witnesses(until))

    async def _lane(self, number: int, until: Callable[[], bool]) -> None:
        """One user after another, each with a habit."""
        chance = random.Random(f"{self._seed}/{number}")
        while not until():
            habit = chance.choice(HABITS)
            wishes = Wishes(chance, self._world, habit)
            slots = asyncio.Semaphore(habit.at_a_time)

            async def one(asked: Asked, draw: random.Random, slots: asyncio.Semaphore) -> None:
                try:
                    await self._until_settled(asked, draw)
                finally:
                    slots.release()

            async with asyncio.TaskGroup() as tasks:
                for _ in range(habit.requests):
                    await slots.acquire()
                    if until():
                        slots.release()
                        break
                    asked = wishes.next()
                    self.asked.append(asked)
                    tasks.create_task(one(asked, random.Random(chance.random()), slots))
                    await asyncio.sleep(chance.uniform(0.02, 0.2))

    async def _witnesses(self, until: Callable[[], bool]) -> None:
        """A patient request of a new user, again and again: whoever hangs is none of theirs."""
        chance = random.Random(f"{self._seed}/witnesses")
        async with asyncio.TaskGroup() as tasks:
            kinds = (0, 1, 5, 7)
            place = 0
            while not until():
                asked = Wishes(chance, self._world, STEADY).next(kinds[place % len(kinds)])
                asked.patient = True
                place += 1
                self.asked.append(asked)
                tasks.create_task(self._until_settled(asked, random.Random(chance.random())))
                await asyncio.sleep(0.25)

    async def _until_settled(self, asked: Asked, chance: random.Random) -> None:
        """Send it, and have some of them cancelled meanwhile, from the other gateway."""
        replica = chance.randrange(len(GATEWAYS))
        async with asyncio.TaskGroup() as tasks:
            if asked.method == "Execute" and not asked.patient and chance.random() < CANCELS:
                other = chance.choice(self._world.gateways[GATEWAYS[1 - replica]])
                tasks.create_task(cancel(asked, other, chance.uniform(0.02, 0.4)))
            elif not asked.patient and chance.random() < HEDGES:
                asked.twice_at_once = True
                other_gateway, seconds = GATEWAYS[1 - replica], deadline(chance)
                tasks.create_task(self.attempt(asked, other_gateway, seconds, chance))
            await self._try(asked, replica, chance)

    async def _try(self, asked: Asked, replica: int, chance: random.Random) -> None:
        """Send it again under its id until it is answered, or the caller leaves it for later."""
        tries = chance.choice((1, 2, 3, 6))
        until = time.monotonic() + PATIENT_FOR_SECONDS
        while time.monotonic() < until if asked.patient else len(asked.tries) < tries:
            seconds = PATIENT_SECONDS if asked.patient else deadline(chance)
            leave = None
            if not asked.patient and chance.random() < LEAVES:
                leave = chance.uniform(0.01, 0.4)
            await self.attempt(asked, GATEWAYS[replica], seconds, chance, cancel_after=leave)
            if asked.is_settled:
                return
            await asyncio.sleep(RETRY_PAUSE_SECONDS * chance.uniform(0.5, 2))
            replica = (replica + chance.choice((0, 1, 1))) % len(GATEWAYS)

    async def attempt(
        self,
        asked: Asked,
        gateway: str,
        seconds: float,
        chance: random.Random,
        *,
        cancel_after: float | None = None,
    ) -> Try:
        """One try: the call, and where it asks for a confirmation the call that confirms."""
        made = Try(gateway, seconds, time.monotonic())
        asked.tries.append(made)
        self.in_flight[asked.user_id] = self.in_flight.get(asked.user_id, 0) + 1
        stub = chance.choice(self._world.gateways[gateway])
        cancels_stream = cancel_after is not None and asked.method == "StreamAnalyze"
        try:
            async with asyncio.timeout(None if cancels_stream else cancel_after):
                answer = await self._called(
                    asked, stub, seconds, made, cancels_after_figures=cancels_stream
                )
        except TimeoutError:
            made.cancelled, made.outcome = True, "CANCELLED by the caller"
        except grpc.aio.AioRpcError as error:
            made.outcome = outcome_of(error)
            self._refused(asked, made.outcome)
        else:
            if answer is not None:
                made.outcome = "OK"
                asked.hear(answer)
        finally:
            made.ended = time.monotonic()
            self.in_flight[asked.user_id] -= 1
            if not self.in_flight[asked.user_id]:
                del self.in_flight[asked.user_id]
        return made

    def _refused(self, asked: Asked, outcome: str) -> None:
        code, _, reason = outcome.partition(" ")
        if code in AGAIN or reason in ASKED_ANEW or reason == "OVERLOADED":
            return
        if code in REFUSALS:
            asked.refuse(outcome)
        else:
            asked.contradictions.append(f"was answered {outcome}")

    async def _called(
        self, asked: Asked, stub: Any, seconds: float, made: Try, *, cancels_after_figures: bool
    ) -> Answer | None:
        """The answer; None where the caller cancelled the stream once it had figures."""
        call = {"timeout": seconds, "metadata": asked.metadata}
        if asked.method == "StreamAnalyze":
            return await streamed(asked, stub, made, call, cancels=cancels_after_figures)
        answer: Answer = await getattr(stub, asked.method)(asked.request, **call)
        if isinstance(answer, pb.ExecuteResponse) and answer.HasField("confirmation"):
            asked.hear(answer)
            confirming = pb.ExecuteRequest(
                request_id=asked.request_id,
                confirmation_token=answer.confirmation.confirmation_token,
            )
            answer = await stub.Execute(confirming, **call)
        return answer


async def cancel(asked: Asked, gateway: Any, after_seconds: float) -> None:
    await asyncio.sleep(after_seconds)
    asked.cancelled = True
    with suppress(grpc.aio.AioRpcError):
        await gateway.Cancel(
            pb.CancelRequest(request_id=asked.request_id),
            timeout=CANCEL_SECONDS,
            metadata=asked.metadata,
        )


async def streamed(
    asked: Asked, stub: Any, made: Try, call: dict[str, Any], *, cancels: bool
) -> Answer | None:
    stream = stub.StreamAnalyze(pb.StreamAnalyzeRequest(request=asked.request), **call)
    parts: list[pb.MetricResult] = []
    async for part in stream:
        if part.HasField("result"):
            asked.partly = True
            parts.append(part.result)
            if cancels:
                stream.cancel()
                made.cancelled, made.outcome = True, "CANCELLED by the caller, with figures"
                return None
        if part.HasField("finished"):
            if by_metric(parts) != by_metric(part.finished.results):
                asked.contradictions.append("its stream and its whole differ in their figures")
            return part.finished
    asked.contradictions.append("its stream ended without a whole")
    return None


def by_metric(results: Sequence[pb.MetricResult]) -> list[bytes]:
    return sorted(each.SerializeToString(deterministic=True) for each in results)


def deadline(chance: random.Random) -> float:
    """From 50 ms to 5 s, short ones as often as long ones."""
    low, high = chance.choice(((0.05, 0.15), (0.15, 0.5), (0.5, 2.0), (2.0, 5.0)))
    return chance.uniform(low, high)


def outcome_of(error: grpc.aio.AioRpcError) -> str:
    """The status of a call, and its machine-readable reason."""
    status = rpc_status.from_call(error)
    reason = reason_of(status) if status is not None else ""
    return f"{error.code().name} {reason}".strip()
