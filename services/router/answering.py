"""Answers a request with the first candidate that can, and says how it came to be (ROU-3 to
ROU-8).
"""

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import jsonschema_rs

from services.router import failover
from services.router.accounts import Record, begun_record, cost_of, ended_record, midnight
from services.router.catalog import Catalogue, Model, TaskPolicy
from services.router.chat import estimated_tokens, most_characters, most_tokens, request_body
from services.router.circuit import State
from services.router.exchange import Clock, DeadlinePassed, Exchange
from services.router.failover import RetryBudget, Tried
from services.router.failures import (
    BudgetExhausted,
    ContentRefused,
    ContextTooLong,
    NoModelAvailable,
    ProviderRejected,
    SchemaInvalid,
    TierNotAllowed,
    TooLate,
)
from services.router.fleet import Fleet, Seat
from services.router.joining import Joiner
from services.router.journal import Journal
from services.router.ledger import Ledger
from services.router.nouns import (
    NO_TOKENS,
    Ask,
    Attempt,
    Began,
    Blame,
    Completed,
    Event,
    Fault,
    Faulty,
    Outcome,
    Text,
    Tokens,
)
from services.router.schema import NotSatisfied, SchemaUnusable, satisfying, validator_for
from services.router.selection import (
    Capability,
    Judged,
    Need,
    Reason,
    continuing,
    ordered,
    tiers_for,
)
from services.router.transport import Transport

SHORTEST_RETRY_SECONDS = 0.1
USUAL_RETRY_SECONDS = 1.0


class Sighted(Protocol):
    """What is written down of one attempt while it runs."""

    headers: Mapping[str, str]

    def ended(self, attempt: Attempt, cut: bool) -> None: ...


class Observer(Protocol):
    """Sees the attempts; the texts it is never shown."""

    def attempt(self, model: Model, ask: Ask) -> Sighted: ...

    def key_rejected(self, model: Model) -> None: ...

    def failed_over(self, first: Model, answered: Model) -> None: ...


@dataclass(slots=True)
class Trip:
    """One request on its way through the candidates."""

    ask: Ask
    catalogue: Catalogue
    policy: TaskPolicy
    candidates: Sequence[Model]
    deadline: float
    validator: jsonschema_rs.Draft202012Validator | None
    tried: list[Tried] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    billed: Tokens = NO_TOKENS
    cost: int = 0
    said: str = ""
    began: bool = False
    retried: bool = False
    last_resort_used: bool = False
    fault: Fault | None = None
    cut: bool = False


class Answering:
    """Owns what the requests of this replica share: circuits, retries, accounts."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        transport: Transport,
        fleet: Fleet,
        journal: Journal,
        ledger: Ledger,
        observer: Observer,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._catalogue = catalogue
        self._transport = transport
        self._fleet = fleet
        self._journal = journal
        self._ledger = ledger
        self._observer = observer
        self._clock = clock
        self._draw = draw
        self._retries = RetryBudget()

    async def answer(self, ask: Ask, deadline: float) -> AsyncGenerator[Event]:
        """Began, Text (more than once when the ask is live) and at last Completed.

        *deadline* is a time of the clock's `now`. Raises the Failures of `failures.py`; after a
        Text too, when nobody is left who could go on.
        """
        trip = self._set_out(ask, deadline)
        while True:
            model = self._choose(trip)
            async with aclosing(self._visit(trip, model)) as texts:
                async for text in texts:
                    if not trip.began:
                        trip.began = True
                        yield Began(model)
                    if trip.ask.live:
                        trip.said += text
                    yield Text(text)
            if trip.fault is None:
                yield self._completed(trip, model)
                return
            await self._go_on(trip, model, trip.fault)

    # Before the first candidate

    def _set_out(self, ask: Ask, deadline: float) -> Trip:
        catalogue = self._catalogue()
        policy = catalogue.tasks[ask.task]
        if not tiers_for(policy, ask.tiers):
            raise TierNotAllowed(ask.task, policy.tiers)
        judged = ordered(catalogue, need_of(ask), self._draw)
        candidates = [one.model for one in judged if one.eligible]
        if not candidates:
            raise _nobody(judged)
        validator = None
        if ask.schema is not None:
            try:
                validator = validator_for(ask.schema)
            except SchemaUnusable:
                raise SchemaInvalid from None
        self._retries = self._retries.earned()
        return Trip(ask, catalogue, policy, candidates, deadline, validator)

    # From candidate to candidate

    def _choose(self, trip: Trip) -> Model:
        """The next model to ask. Raises the failure of the whole request when there is none."""
        now = self._clock.now()
        if now >= trip.deadline:
            raise TooLate(trip.attempts)
        left = failover.left_over(trip.candidates, trip.tried)
        for model in continuing(left) if trip.said else left:
            if self._fleet.admits(model, now):
                return model
            self._note_skipped(trip, model)
        rested = None if trip.last_resort_used else self._fleet.longest_rested(left, now)
        if rested is None:
            raise self._none_left(trip, now)
        trip.last_resort_used = True
        return rested

    def has_another(self, trip: Trip, model: Model) -> bool:
        """Say whether somebody else could be asked after *model*."""
        now = self._clock.now()
        left = failover.left_over(trip.candidates, trip.tried)
        return any(other is not model and self._fleet.admits(other, now) for other in left)

    def _note_skipped(self, trip: Trip, model: Model) -> None:
        if any(attempt.model is model for attempt in trip.attempts):
            return
        skipped = Attempt(model, Outcome.SKIPPED, 0, self._clock.utc_now(), timedelta())
        trip.attempts.append(skipped)

    def _none_left(self, trip: Trip, now: float) -> Exception:
        faults = [one.fault for one in trip.tried]
        too_long = any(fault.outcome is Outcome.CONTEXT_TOO_LONG for fault in faults)
        if too_long and all(fault.blame is Blame.NOBODY for fault in faults):
            return ContextTooLong(trip.attempts)
        if any(fault.outcome is Outcome.OVER_BUDGET for fault in faults):
            utc_now = self._clock.utc_now()
            tomorrow = midnight(utc_now.date() + timedelta(days=1))
            return BudgetExhausted(trip.attempts, trip.ask.user_id, tomorrow - utc_now)
        out = [m for m in trip.candidates if self._fleet.state(m, now) is not State.CLOSED]
        rests = [self._fleet.retry_at(model) - now for model in out]
        asked = [fault.retry_after for fault in faults if fault.retry_after is not None]
        wait = min(rests + asked, default=USUAL_RETRY_SECONDS)
        return NoModelAvailable(trip.attempts, timedelta(seconds=max(wait, SHORTEST_RETRY_SECONDS)))

    async def _go_on(self, trip: Trip, model: Model, fault: Fault) -> None:
        """Decide what follows *fault*: returns when another candidate, or the same, is to be
        asked.
        """
        if fault.outcome is Outcome.CONTENT_REFUSED:
            raise ContentRefused(trip.attempts, fault.code)
        if failover.ends_request(fault):
            raise ProviderRejected(trip.attempts, fault.http_status)
        pause = failover.retry_pause(
            fault,
            trip.policy,
            retried=trip.retried or bool(trip.said),
            seconds_left=trip.deadline - self._clock.now(),
            draw=self._draw(),
        )
        retries = None if pause is None else self._retries.spent()
        if pause is None or retries is None:
            trip.tried.append(Tried(model, fault))
            trip.retried = False
            return
        self._retries = retries
        trip.retried = True
        await asyncio.sleep(pause)

    # One candidate

    async def write_ahead(self, trip: Trip, model: Model, attempt_id: str, now: datetime) -> Record:
        """The record of an attempt that is about to begin, kept. With a budget, which must hold
        over all replicas, in Postgres; else on this machine.

        Raises Faulty when it would go beyond the budget, StoreUnavailable, DeadlinePassed.
        """
        ask, currency = trip.ask, trip.catalogue.currency
        limit = ask.daily_budget_micros
        if limit is None:
            least = estimated_tokens(ask, 0)
            record = begun_record(attempt_id, ask, model, least, currency, now)
            self._journal.append(record)
            return record
        most = most_tokens(model, ask)
        record = begun_record(attempt_id, ask, model, most, currency, now)
        try:
            async with asyncio.timeout_at(trip.deadline):
                fits = await self._ledger.reserve(record, now, limit)
        except TimeoutError:
            raise DeadlinePassed from None
        if not fits:
            raise Faulty(Fault(Outcome.OVER_BUDGET, blame=Blame.NOBODY))
        return record

    async def _visit(self, trip: Trip, model: Model) -> AsyncGenerator[str]:
        """The texts that the caller may see; afterwards `trip.fault` says whether it went well."""
        visit = Visit(self, trip, model)
        try:
            async with aclosing(visit.texts()) as texts:
                async for text in texts:
                    yield text
        except Faulty as error:
            visit.end(error.fault.outcome, error.fault)
        except DeadlinePassed:
            visit.end(Outcome.CANCELLED, None)
            raise TooLate(trip.attempts) from None
        except BaseException:
            # The caller went away, here or while it was handed a text. What was asked is still
            # billed.
            visit.end(Outcome.CANCELLED, None)
            raise
        else:
            visit.end(Outcome.SUCCEEDED, None)

    def _completed(self, trip: Trip, model: Model) -> Completed:
        first = trip.candidates[0]
        if model is not first:
            self._observer.failed_over(first, model)
        return Completed(
            model=model,
            failover=model is not first,
            other_tier=model.tier != first.tier,
            attempts=tuple(trip.attempts),
            tokens=trip.billed,
            cost=trip.cost,
            currency=trip.catalogue.currency,
            cut=trip.cut,
        )


class Visit:
    """One attempt at one model: asked, read, judged, counted."""

    def __init__(self, answering: Answering, trip: Trip, model: Model) -> None:
        self._answering = answering
        self._trip = trip
        self._model = model
        self._clock = answering._clock
        self._seat: Seat = answering._fleet.take_seat(model)
        self._sighted = answering._observer.attempt(model, trip.ask)
        self._attempt_id = str(uuid.uuid4())
        self._record: Record | None = None
        self._began_at: datetime = self._clock.utc_now()
        self._exchange = Exchange(
            answering._transport,
            model,
            trip.policy,
            trip.deadline,
            self._clock,
            alone=not answering.has_another(trip, model),
            most_characters=most_characters(model, trip.ask),
        )

    async def texts(self) -> AsyncGenerator[str]:
        """Texts as they come when the ask is live, else one: the whole answer, judged."""
        trip = self._trip
        trip.fault = None
        self._record = await self._answering.write_ahead(
            trip, self._model, self._attempt_id, self._began_at
        )
        body = request_body(self._model, trip.ask, trip.said)
        await self._exchange.send(body, self._sighted.headers)
        if trip.ask.live:
            joiner = Joiner(trip.said, exact=self._model.continuation == "prefill")
            while (piece := await self._exchange.next_text()) is not None:
                if text := joiner.feed(piece):
                    yield text
            if text := joiner.end():
                yield text
        else:
            pieces = []
            while (piece := await self._exchange.next_text()) is not None:
                pieces.append(piece)
            yield self._judged("".join(pieces))
        trip.cut = self._exchange.reader.cut

    def _judged(self, answer: str) -> str:
        validator = self._trip.validator
        if validator is None:
            return answer
        try:
            return satisfying(validator, answer)
        except NotSatisfied:
            # The model is up and answers; it is only not good at this.
            raise Faulty(Fault(Outcome.INVALID_ANSWER, blame=Blame.MODEL)) from None

    def end(self, outcome: Outcome, fault: Fault | None) -> None:
        """Give the connection and the seat back, note the attempt, bill it. Never waits."""
        self._exchange.leave()
        self._trip.fault = fault
        self._leave_seat(outcome, fault)
        attempt = self._noted(outcome, fault)
        self._trip.attempts.append(attempt)
        self._sighted.ended(attempt, self._exchange.reader.cut)
        if attempt.tokens is not None:
            self._trip.billed += attempt.tokens
            self._trip.cost += cost_of(attempt.tokens, self._model.prices)
        if outcome is not Outcome.OVER_BUDGET:
            self._write_down(attempt)

    def _write_down(self, attempt: Attempt) -> None:
        trip, trace = self._trip, self._sighted.headers.get("traceparent", "")
        # Whoever was cut off while it reserved may have a record all the same: this one ends it.
        record = self._record or begun_record(
            self._attempt_id,
            trip.ask,
            self._model,
            NO_TOKENS,
            trip.catalogue.currency,
            self._began_at,
        )
        ended = ended_record(record, attempt, "".join(trace.split("-")[1:2]))
        self._answering._journal.append(ended)

    def _leave_seat(self, outcome: Outcome, fault: Fault | None) -> None:
        fleet, policy = self._answering._fleet, self._trip.catalogue.circuit
        now = self._clock.now()
        if outcome is Outcome.CANCELLED:
            fleet.abandoned(self._seat)
        elif fault is None:
            fleet.answered(self._seat, policy, now, slow=self._exchange.was_slow)
        else:
            fleet.failed(self._seat, fault, policy, now)
            if fault.outcome is Outcome.KEY_REJECTED:
                self._answering._observer.key_rejected(self._model)

    def _noted(self, outcome: Outcome, fault: Fault | None) -> Attempt:
        exchange = self._exchange
        first = exchange.first_token_at
        return Attempt(
            model=self._model,
            outcome=outcome,
            http_status=exchange.http_status or (fault.http_status if fault else 0),
            started_at=self._began_at,
            duration=timedelta(seconds=self._clock.now() - exchange.started),
            time_to_first_token=None
            if first is None
            else timedelta(seconds=first - exchange.started),
            tokens=self._tokens(outcome),
            response_model=exchange.reader.model,
        )

    def _tokens(self, outcome: Outcome) -> Tokens | None:
        """What the provider said, else an estimate where it surely worked, else nothing."""
        reader = self._exchange.reader
        if reader.tokens is not None:
            return reader.tokens
        if outcome is Outcome.SUCCEEDED or reader.token_events:
            return estimated_tokens(self._trip.ask, reader.characters)
        return None


def need_of(ask: Ask) -> Need:
    wants = {Capability.JSON_SCHEMA} if ask.schema is not None else set()
    if ask.live:
        wants.add(Capability.STREAMING)
    return Need(ask.task, ask.tiers, ask.excluded_models, ask.characters, frozenset(wants))


def _nobody(judged: Sequence[Judged]) -> Exception:
    if any(one.reason is Reason.CONTEXT_TOO_SMALL for one in judged):
        return ContextTooLong([])
    return NoModelAvailable([], timedelta(seconds=math.ceil(USUAL_RETRY_SECONDS)))
