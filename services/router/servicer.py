"""The RPCs: translate, ask, translate."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import router_pb2_grpc as rpc
from gatehouse.router.v1 import tier_pb2

from services.router.accounts import SpendingQuery
from services.router.answering import Answering, need_of
from services.router.catalog import TIERS, Catalogue, Model
from services.router.circuit import State
from services.router.exchange import Clock
from services.router.fleet import Fleet
from services.router.journal import Journal
from services.router.ledger import Ledger
from services.router.nouns import Ask, Began, Completed, Event, Text
from services.router.repeats import Key, Repeats, Reused
from services.router.selection import Judged, Reason, ordered
from services.router.translation import (
    Health,
    ask_from,
    attempts_query_from,
    attempts_to,
    candidate_to,
    finished_to,
    keys_from,
    model_to,
    payload_of,
    spending_to,
)
from services.runtime.calling import deadline_left
from services.runtime.failure import InvalidInput
from services.runtime.identity import current_caller

Context = Any


class RouterServicer(rpc.RouterServiceServicer):
    """Stands before `Answering`; knows the wire and nothing else."""

    def __init__(
        self,
        answering: Answering,
        repeats: Repeats,
        catalogue: Callable[[], Catalogue],
        fleet: Fleet,
        journal: Journal,
        ledger: Ledger,
        clock: Clock,
        longest_answer_seconds: float,
    ) -> None:
        self._answering = answering
        self._repeats = repeats
        self._catalogue = catalogue
        self._fleet = fleet
        self._journal = journal
        self._ledger = ledger
        self._clock = clock
        self._longest_answer_seconds = longest_answer_seconds

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        _require_service()
        texts: list[str] = []
        finished = pb.Finished()
        async with aclosing(self._events(request, streamed=False)) as events:
            async for event in events:
                if isinstance(event, Text):
                    texts.append(event.content)
                elif isinstance(event, Completed):
                    finished = finished_to(event, request.locale)
        return pb.CompleteResponse(content="".join(texts), finished=finished)

    async def StreamComplete(
        self, request: pb.StreamCompleteRequest, context: Context
    ) -> AsyncIterator[pb.StreamCompleteResponse]:
        _require_service()
        async with aclosing(self._events(request.request, streamed=True)) as events:
            async for event in events:
                yield _response_from(event, request.request.locale)

    async def ExplainRoute(
        self, request: pb.ExplainRouteRequest, context: Context
    ) -> pb.ExplainRouteResponse:
        _require_service()
        ask = ask_from(request.request, streamed=request.streamed)
        judged = [self._with_health(one) for one in ordered(self._catalogue(), need_of(ask))]
        in_order = sorted(judged, key=lambda one: not one.eligible)
        return pb.ExplainRouteResponse(
            candidates=[candidate_to(one, self._health(one.model)) for one in in_order]
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        _require_service()
        catalogue = self._catalogue()
        wanted = {tier_pb2.Tier.Name(tier) for tier in request.model_tiers} or set(TIERS)
        models = sorted(
            (model for model in catalogue.models if model.tier in wanted),
            key=lambda model: (TIERS.index(model.tier), model.id),
        )
        return pb.ListModelsResponse(
            models=[model_to(model, catalogue.currency, self._health(model)) for model in models],
            catalogue_digest=catalogue.digest,
        )

    async def GetSpending(
        self, request: pb.GetSpendingRequest, context: Context
    ) -> pb.GetSpendingResponse:
        _require_service()
        start, end = date.fromisoformat(request.start_date), date.fromisoformat(request.end_date)
        if end < start:
            raise InvalidInput([("end_date", "is before start_date")])
        query = SpendingQuery(start, end, request.user_id, request.clinic_id, *keys_from(request))
        # What this replica has not sent yet belongs to it.
        await self._journal.send()
        rows = await self._ledger.spending(query)
        return pb.GetSpendingResponse(spending=[spending_to(row) for row in rows])

    async def ListAttempts(
        self, request: pb.ListAttemptsRequest, context: Context
    ) -> pb.ListAttemptsResponse:
        _require_service()
        query = attempts_query_from(request)
        # What this replica has not sent yet belongs to it.
        await self._journal.send()
        return attempts_to(await self._ledger.attempts(query), query.size)

    def _events(self, request: pb.CompleteRequest, *, streamed: bool) -> AsyncGenerator[Event]:
        if request.HasField("daily_budget_micros") and not request.user_id:
            raise InvalidInput([("user_id", "is needed where there is a budget")])
        ask = ask_from(request, streamed=streamed)
        deadline = self._deadline()
        if not request.idempotency_key:
            return self._answering.answer(ask, deadline)
        return self._shared_events(request, ask, deadline)

    async def _shared_events(
        self, request: pb.CompleteRequest, ask: Ask, deadline: float
    ) -> AsyncGenerator[Event]:
        followed = self._repeats.follow(
            Key(request.user_id, request.idempotency_key),
            payload_of(request),
            deadline,
            lambda: self._answering.answer(ask, deadline),
        )
        try:
            async with aclosing(followed) as events:
                async for event in events:
                    yield event
        except Reused:
            violation = ("idempotency_key", "was used for another request")
            raise InvalidInput([violation]) from None

    def _deadline(self) -> float:
        return self._clock.now() + deadline_left(self._longest_answer_seconds)

    def _with_health(self, judged: Judged) -> Judged:
        model = judged.model
        if not judged.eligible or self._fleet.admits(model, self._clock.now()):
            return judged
        if self._fleet.is_full(model):
            return replace(judged, reason=Reason.BUSY, explanation="Its provider is busy.")
        text = "It is taken out after failures."
        return replace(judged, reason=Reason.TAKEN_OUT, explanation=text)

    def _health(self, model: Model) -> Health:
        now = self._clock.now()
        state = self._fleet.state(model, now)
        if state is not State.OPEN:
            return Health(state)
        rest = timedelta(seconds=self._fleet.retry_at(model) - now)
        return Health(state, self._clock.utc_now() + rest)


def _require_service() -> None:
    """Models cost money: end users reach them through the gateway alone."""
    current_caller().require("service", "admin")


def _response_from(event: Event, locale: str) -> pb.StreamCompleteResponse:
    match event:
        case Began(model):
            tier = tier_pb2.Tier.Value(model.tier)
            return pb.StreamCompleteResponse(started=pb.Started(model_used=model.id, tier=tier))
        case Text(content):
            return pb.StreamCompleteResponse(delta=pb.Delta(content=content))
        case Completed():
            return pb.StreamCompleteResponse(finished=finished_to(event, locale))
