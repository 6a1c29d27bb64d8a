"""Analyze, StreamAnalyze and Recommend as counted calls: one read each, its answer kept (GAT-2)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeVar

from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import tier_pb2

from services.gateway import figures, settlement
from services.gateway.admission import Admission, operation_id
from services.gateway.analytics import Analyst
from services.gateway.dispatch import Interrupted, unless
from services.gateway.execution import Parts
from services.gateway.failures import Superseded, WindowNotAllowed, localized
from services.gateway.offers import looks_back
from services.gateway.reading import Reading, reading_of
from services.gateway.recommendations import Adviser
from services.gateway.replay import Call, fingerprint_of
from services.gateway.runner import Attempt
from services.runtime.calling import set_deadline
from services.runtime.failure import DeadlineExceeded, Failure
from services.runtime.identity import Caller
from services.runtime.recording import RecordedOperation, RecordedOutcome
from services.runtime.telemetry import trace_id

DEFAULT_WINDOW_DAYS = 30

Request: TypeAlias = pb.AnalyzeRequest | pb.RecommendRequest
Answer = TypeVar("Answer", pb.AnalyzeResponse, pb.RecommendResponse)
# Takes a part of an answer that is not whole yet; None where nobody is shown any.
Emit = Callable[[pb.StreamAnalyzeResponse], None] | None


@dataclass(frozen=True)
class Session:
    """What the steps of one read share."""

    attempt: Attempt
    reading: Reading
    admission: Admission
    plan_name: str
    model_tiers: list[tier_pb2.Tier.ValueType]
    window_days: int

    @property
    def caller(self) -> Caller:
        return self.attempt.lease.caller


class Reads:
    """Runs the counted calls that only read figures."""

    def __init__(self, parts: Parts, analyst: Analyst, adviser: Adviser) -> None:
        self._parts = parts
        self._analyst = analyst
        self._adviser = adviser

    async def analyze(
        self, request: pb.AnalyzeRequest, caller: Caller, emit: Emit = None
    ) -> pb.AnalyzeResponse:
        """Compute and word figures; *emit* gets each part as it is known, unless replayed.

        Raises Failure, InvalidInput for an unknown metric, WindowNotAllowed.
        """
        figures.check_metrics(request.metrics)
        call = self._call(request, caller, request.time_zone)
        work = partial(self._analyzed, request, emit)
        return await self._parts.runner.run(call, work, pb.AnalyzeResponse)

    async def stream(
        self, request: pb.AnalyzeRequest, caller: Caller
    ) -> AsyncGenerator[pb.StreamAnalyzeResponse, None]:
        """Yield the parts as they are known, and the whole last; a replay yields the same parts.

        Whoever stops reading cancels nothing: the answer is finished and kept.
        """
        parts: asyncio.Queue[pb.StreamAnalyzeResponse | None] = asyncio.Queue()
        running = asyncio.create_task(self.analyze(request, caller, parts.put_nowait))
        running.add_done_callback(lambda _: parts.put_nowait(None))
        try:
            while (part := await parts.get()) is not None:
                yield part
            finished = await running
        finally:
            running.cancel()  # nobody waits here any more; the runner still does
        if finished.replayed:
            for part in parts_of(finished):
                yield part
        yield pb.StreamAnalyzeResponse(finished=finished)

    async def recommend(self, request: pb.RecommendRequest, caller: Caller) -> pb.RecommendResponse:
        """Advise by the clinic's figures. Raises Failure, WindowNotAllowed."""
        call = self._call(request, caller, "")
        work = partial(self._recommended, request)
        return await self._parts.runner.run(call, work, pb.RecommendResponse)

    def _call(self, request: Request, caller: Caller, time_zone: str) -> Call:
        reading = reading_of(caller, request.locale, time_zone, self._parts.now())
        mark = fingerprint_of(request, caller.clinic_id)
        return Call(caller, request.request_id, mark, reading.locale, reading.time_zone.key)

    async def _session(self, request: Request, time_zone: str, attempt: Attempt) -> Session:
        caller, parts = attempt.lease.caller, self._parts
        entitlements = await parts.entitlements.of(caller, request.min_revision)
        zone = entitlements.time_zone
        reading = reading_of(caller, request.locale, time_zone, parts.now(), zone)
        admission = Admission(
            parts.usage, parts.notices, caller, entitlements, reading, attempt.claims
        )
        plan = entitlements.plan
        return Session(
            attempt,
            reading,
            admission,
            plan.name,
            list(plan.model_tiers),
            plan.analytics_window_days,
        )

    async def _analyzed(
        self, request: pb.AnalyzeRequest, emit: Emit, attempt: Attempt
    ) -> pb.AnalyzeResponse:
        session = await self._session(request, request.time_zone, attempt)
        await self._check_window(request.window, session, twice=request.compare_with_previous)
        async with self._read(session, request.request_id, "analyze"):
            computing = self._computed(request, session, emit)
            finished = await unless(attempt.cancelled, computing)
        reason = ""
        if not finished.results:
            reason = settlement.reason_in(finished.failures[0].status)
        return await self._answered(session, request.request_id, finished, reason)

    async def _computed(
        self, request: pb.AnalyzeRequest, session: Session, emit: Emit
    ) -> pb.AnalyzeResponse:
        """Compute all parts. Raises DeadlineExceeded where it left no time for a single one."""
        finished = pb.AnalyzeResponse()
        descriptors = await self._parts.entitlements.descriptors(request.min_revision)
        async for part in self._analyst.analyze(
            request, descriptors, session.reading, model_tiers=session.model_tiers
        ):
            if part.HasField("finished"):
                finished = part.finished
            elif emit is not None:
                await self._deliver(part, session.attempt)
                emit(part)
        if not finished.results and "DEADLINE_EXCEEDED" in reasons_of(finished):
            raise DeadlineExceeded
        return finished

    async def _deliver(self, part: pb.StreamAnalyzeResponse, attempt: Attempt) -> None:
        """Before the first figure is shown, store that it was: it is never released then (USE-2).

        Raises Superseded.
        """
        if not part.HasField("result") or attempt.claims.delivered:
            return
        if not await self._parts.requests.delivering(attempt.lease):
            raise Superseded
        attempt.claims.delivered = True

    async def _recommended(
        self, request: pb.RecommendRequest, attempt: Attempt
    ) -> pb.RecommendResponse:
        session = await self._session(request, "", attempt)
        if request.HasField("window"):
            await self._check_window(request.window, session)
        else:
            request.window.last_days = min(DEFAULT_WINDOW_DAYS, session.window_days)
        async with self._read(session, request.request_id, "recommend"):
            descriptors = await self._parts.entitlements.descriptors(request.min_revision)
            advising = self._adviser.recommend(
                request,
                descriptors,
                session.reading,
                caller=session.caller,
                model_tiers=session.model_tiers,
            )
            advised = await unless(attempt.cancelled, advising)
            if advised.failed == "DEADLINE_EXCEEDED":
                raise DeadlineExceeded
        advised.response.request_id = request.request_id
        return await self._answered(session, request.request_id, advised.response, advised.failed)

    async def _check_window(
        self, window: pb.Window, session: Session, *, twice: bool = False
    ) -> None:
        """Raises WindowNotAllowed before anything is counted: with the plan's limit, and an offer.

        With *twice*, the days of the same number before the window count as well.
        """
        days, allowed = (
            figures.reaches_back(window, session.reading, twice=twice),
            session.window_days,
        )
        if days <= allowed:
            return
        locale, notices = session.reading.locale, self._parts.notices
        said = notices.sentence("notice-window", locale, allowed=allowed, asked=days)
        offer = await self._parts.offers.upgrade(session.plan_name, locale, looks_back(days))
        if offer is not None:
            said = f"{said} {offer.message}"
        refusal = WindowNotAllowed(
            f"the plan looks back {allowed} days, the window {days}",
            metadata={"allowed_days": str(allowed), "asked_days": str(days)},
            details=localized(said, locale),
        )
        refusal.is_offered = offer is not None
        raise refusal

    @asynccontextmanager
    async def _read(self, session: Session, request_id: str, action: str) -> AsyncIterator[None]:
        """Admit one read; log it where it fails, under an id of its own, as it may come again."""
        self._parts.recorder.require_room()
        await session.admission.query(counts_read=True)
        try:
            yield
        except Superseded:
            raise
        except Exception as error:
            reason = error.reason if isinstance(error, Failure) else "INTERNAL"
            outcome = "cancelled" if isinstance(error, Interrupted) else "failed"
            place = f"attempt/{session.attempt.lease.attempt}"
            failed = self._outcome(session, request_id, action, outcome, reason, place)
            await self._parts.recorder.outcomes([failed])
            raise

    async def _answered(
        self, session: Session, request_id: str, answer: Answer, reason: str
    ) -> Answer:
        """Complete and store *answer*; with a *reason*, nothing could be computed."""
        set_deadline(None)  # what follows has to be done whatever is left of the caller's time
        if reason:  # then nothing is counted (USE-2)
            await session.admission.release_read()
        answer.trace_id = trace_id()
        await self._add_usage(session, answer)
        action = "analyze" if isinstance(answer, pb.AnalyzeResponse) else "recommend"
        outcome = "failed" if reason else "succeeded"
        recorded = replace(
            self._outcome(session, request_id, action, outcome, reason),
            model_used=answer.completion.model_used,
            failover=answer.completion.failover,
        )
        await self._parts.answers.store_read(session.attempt.lease, answer, [recorded])
        return answer

    def _outcome(
        self,
        session: Session,
        request_id: str,
        action: str,
        outcome: str,
        reason: str,
        place: int | str = 0,
    ) -> RecordedOutcome:
        caller, began_at = session.caller, session.reading.now
        id_ = operation_id(session.attempt.lease.use_id, place)
        operation = RecordedOperation(id_, request_id, action, "", caller.user_id, caller.clinic_id)
        ended_at = max(self._parts.now(), began_at)
        return RecordedOutcome(operation, outcome, began_at, ended_at, reason=reason)

    async def _add_usage(self, session: Session, answer: Answer) -> None:
        try:
            snapshot = await session.admission.snapshot()
        except Failure:
            return  # an answer is one without it too
        answer.usage.CopyFrom(snapshot)
        answer.notices.extend(session.admission.notices(snapshot))


def reasons_of(finished: pb.AnalyzeResponse) -> set[str]:
    """Why metrics could not be computed."""
    return {settlement.reason_in(each.status) for each in finished.failures}


def parts_of(finished: pb.AnalyzeResponse) -> list[pb.StreamAnalyzeResponse]:
    """The parts that a whole answer was put together from."""
    return [
        *(pb.StreamAnalyzeResponse(result=each) for each in finished.results),
        *(pb.StreamAnalyzeResponse(failure=each) for each in finished.failures),
        pb.StreamAnalyzeResponse(summary_delta=finished.summary),
    ]
