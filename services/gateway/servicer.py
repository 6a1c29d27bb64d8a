"""The gateway's calls: translates, and does nothing else."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias, TypeVar

import grpc
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceServicer
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1 import router_pb2, tier_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub
from gatehouse.usage.v1 import usage_pb2

from services.gateway import confirmation, figures, settlement
from services.gateway.admission import Admission, operation_id
from services.gateway.analytics import Analyst
from services.gateway.authorization import authorized
from services.gateway.cancelling import Canceller
from services.gateway.counting import Counting
from services.gateway.execution import Executor, Parts, operations_of
from services.gateway.failures import WindowNotAllowed, told
from services.gateway.peers import answered
from services.gateway.reading import Reading, reading_of
from services.gateway.recommendations import Adviser
from services.runtime import validation
from services.runtime.calling import TokenSource, as_service, deadline_left
from services.runtime.failure import Failure, InvalidInput, Unauthenticated
from services.runtime.identity import Caller, current_caller
from services.runtime.recording import RecordedOperation, RecordedOutcome
from services.runtime.telemetry import trace_id

Context: TypeAlias = grpc.aio.ServicerContext
Response = TypeVar("Response")
CALL_SECONDS = 5.0
LONGEST_LISTING_DAYS = 400
DEFAULT_WINDOW_DAYS = 30


@dataclass
class Session:
    """One read of a caller that is neither words nor operations."""

    caller: Caller
    reading: Reading
    admission: Admission
    operation_id: str
    plan_name: str
    model_tiers: list[tier_pb2.Tier.ValueType]
    window_days: int
    outcome: str = "cancelled"
    reason: str = ""
    model_used: str = ""
    failover: bool = False


class GatewayServicer(GatewayServiceServicer):
    def __init__(
        self,
        parts: Parts,
        executor: Executor,
        canceller: Canceller,
        analyst: Analyst,
        adviser: Adviser,
        log: OperationLogServiceStub,
        router: RouterServiceStub | None,
        tokens: TokenSource,
        counting: Counting,
    ) -> None:
        self._parts = parts
        self._executor = executor
        self._canceller = canceller
        self._analyst = analyst
        self._adviser = adviser
        self._log = log
        self._router = router
        self._tokens = tokens
        self._counting = counting

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> pb.ExecuteResponse:
        if request.validate_only:  # nothing is asked for yet
            return await self._executor.execute(request, user())
        with self._counting.query("execute") as counted:
            answer = await self._executor.execute(request, user())
            return answer if answer.replayed else counted(answer)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        outcome = await self._canceller.cancel(user(), request.request_id)
        return pb.CancelResponse(outcome=outcome)

    async def Interpret(
        self, request: pb.InterpretRequest, context: Context
    ) -> pb.InterpretResponse:
        caller = user()
        entitlements = await self._parts.entitlements.of(caller, request.min_revision)
        reading = reading_of(
            caller,
            request.locale,
            request.time_zone,
            self._parts.now(),
            entitlements.time_zone,
        )
        descriptors = await self._parts.entitlements.descriptors(request.min_revision)
        interpreted = await self._parts.interpreter.interpret(
            request.instruction,
            descriptors,
            reading,
            model_tiers=entitlements.plan.model_tiers,
            rules_only=request.rules_only,
        )
        operations = operations_of(interpreted)
        ids = [operation_id(caller, "interpret", index) for index in range(len(operations))]
        planned = authorized(operations, ids, entitlements.plan, descriptors)
        return pb.InterpretResponse(
            interpretation=interpreted.interpretation,
            clarification=interpreted.clarification,
            confirmation_reasons=confirmation.reasons_of(
                planned,
                descriptors,
                interpreted.interpretation.confidence,
                self._parts.settings,
            ),
            trace_id=trace_id(),
        )

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        finished = pb.AnalyzeResponse()
        async for part in self._analyzed(request):
            if part.HasField("finished"):
                finished = part.finished
        return finished

    async def StreamAnalyze(
        self, request: pb.StreamAnalyzeRequest, context: Context
    ) -> AsyncIterator[pb.StreamAnalyzeResponse]:
        async with aclosing(self._analyzed(request.request)) as parts:
            async for part in parts:
                yield part

    async def _analyzed(
        self, request: pb.AnalyzeRequest
    ) -> AsyncGenerator[pb.StreamAnalyzeResponse, None]:
        with self._counting.query("analyze") as counted:
            async with aclosing(self._analysis(request)) as parts:
                async for part in parts:
                    if part.HasField("finished"):
                        counted(part.finished)
                    yield part

    async def _analysis(
        self, request: pb.AnalyzeRequest
    ) -> AsyncGenerator[pb.StreamAnalyzeResponse, None]:
        figures.check_metrics(request.metrics)
        session = await self._session(request, request.time_zone)
        self._check_window(request.window, session, twice=request.compare_with_previous)
        descriptors = await self._parts.entitlements.descriptors(request.min_revision)
        async with self._read(session, request.request_id, "analyze"):
            async for part in self._analyst.analyze(
                request,
                descriptors,
                session.reading,
                model_tiers=session.model_tiers,
            ):
                if part.HasField("finished"):
                    await self._analysis_ended(session, part.finished)
                yield part

    async def _analysis_ended(self, session: Session, finished: pb.AnalyzeResponse) -> None:
        session.model_used = finished.completion.model_used
        session.failover = finished.completion.failover
        session.outcome = "succeeded" if finished.results else "failed"
        if not finished.results:  # nothing could be computed, so nothing is counted (USE-2)
            session.reason = settlement.reason_in(finished.failures[0].status)
            await self._given_back(session)
        finished.trace_id = trace_id()
        await self._add_usage(session, finished)

    async def Recommend(
        self, request: pb.RecommendRequest, context: Context
    ) -> pb.RecommendResponse:
        with self._counting.query("recommend") as counted:
            return counted(await self._recommended(request))

    async def _recommended(self, request: pb.RecommendRequest) -> pb.RecommendResponse:
        session = await self._session(request, "")
        if request.HasField("window"):
            self._check_window(request.window, session)
        else:
            days = min(DEFAULT_WINDOW_DAYS, session.window_days)
            request.window.last_days = days
        descriptors = await self._parts.entitlements.descriptors(request.min_revision)
        async with self._read(session, request.request_id, "recommend"):
            response = await self._adviser.recommend(
                request,
                descriptors,
                session.reading,
                caller=session.caller,
                model_tiers=session.model_tiers,
            )
            session.model_used = response.completion.model_used
            session.failover = response.completion.failover
            session.outcome = "succeeded"
            response.trace_id = trace_id()
            await self._add_usage(session, response)
        return response

    async def _session(
        self, request: pb.AnalyzeRequest | pb.RecommendRequest | pb.GetUsageRequest, time_zone: str
    ) -> Session:
        caller = user()
        locale, counted_as = "", ""
        if not isinstance(request, pb.GetUsageRequest):  # which is no query
            # Counted once as long as the same is asked: another question is another query.
            locale, counted_as = request.locale, place_of(request)
        now = self._parts.now()
        entitlements = await self._parts.entitlements.of(caller, request.min_revision)
        reading = reading_of(caller, locale, time_zone, now, entitlements.time_zone)
        admission = Admission(
            self._parts.usage, self._parts.notices, caller, entitlements, reading, counted_as
        )
        plan = entitlements.plan
        return Session(
            caller,
            reading,
            admission,
            operation_id(caller, counted_as, 0),
            plan.name,
            list(plan.model_tiers),
            plan.analytics_window_days,
        )

    def _check_window(self, window: pb.Window, session: Session, *, twice: bool = False) -> None:
        """Raises WindowNotAllowed, with what an upgrade brings, before anything is counted.

        With *twice*, the days of the same number before the window count as well.
        """
        days = figures.reaches_back(window, session.reading, twice=twice)
        if days > session.window_days:
            notice = self._parts.notices.upgrade(
                session.reading.locale, plan_name=session.plan_name
            )
            raise WindowNotAllowed(
                f"the plan looks back {session.window_days} days, the window {days}",
                metadata={"allowed_days": str(session.window_days), "asked_days": str(days)},
                details=told(notice),
            )

    @asynccontextmanager
    async def _read(self, session: Session, request_id: str, action: str) -> AsyncIterator[None]:
        """One read: admitted before, logged after, given back when it came to nothing."""
        self._parts.recorder.require_room()
        await session.admission.query(counts_read=True)
        try:
            yield
        except Failure as failure:
            session.outcome, session.reason = "failed", failure.reason
            raise
        except Exception:
            session.outcome, session.reason = "failed", "INTERNAL"
            raise
        finally:  # a caller that goes away leaves it at `cancelled`
            await asyncio.shield(self._read_ended(session, request_id, action))

    async def _read_ended(self, session: Session, request_id: str, action: str) -> None:
        if session.outcome != "succeeded":
            await self._given_back(session)
        caller = session.caller
        operation = RecordedOperation(
            session.operation_id, request_id, action, "", caller.user_id, caller.clinic_id
        )
        await self._parts.recorder.outcomes(
            [
                RecordedOutcome(
                    operation,
                    session.outcome,
                    session.reading.now,
                    max(self._parts.now(), session.reading.now),
                    reason=session.reason,
                    model_used=session.model_used,
                    failover=session.failover,
                )
            ]
        )

    async def _given_back(self, session: Session) -> None:
        try:
            await session.admission.release_read()
        except Failure as failure:
            self._parts.log.warning("a read could not be given back: %s", failure.reason)

    async def _add_usage(
        self, session: Session, response: pb.AnalyzeResponse | pb.RecommendResponse
    ) -> None:
        try:
            snapshot = await session.admission.snapshot()
        except Failure:
            return  # an answer is one without it too
        response.usage.CopyFrom(snapshot)
        response.notices.extend(session.admission.notices(snapshot))

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        session = await self._session(request, "")
        response = pb.GetUsageResponse(usage=await session.admission.snapshot())
        if request.start_date or request.end_date:
            listed = await self._parts.usage.list(listing_of(request, session))
            response.days.extend(
                pb.DailyUsage(
                    usage_date=each.usage_date,
                    read_count=each.read_count,
                    modify_count=each.modify_count,
                )
                for each in listed.counters
            )
        return response

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        if self._router is None:
            return pb.ListModelsResponse()
        entitlements = await self._parts.entitlements.of(user(), request.min_revision)
        wanted = router_pb2.ListModelsRequest(model_tiers=entitlements.plan.model_tiers)
        found = await self._as_service(self._router.ListModels, wanted)
        return pb.ListModelsResponse(models=found.models)

    async def ListOperations(
        self, request: pb.ListOperationsRequest, context: Context
    ) -> pb.ListOperationsResponse:
        await self._parts.outbox.brought()
        wanted = oplog_pb2.ListOperationsRequest(
            filter=oplog_pb2.Filter(
                user_id=user().user_id,
                domain=request.domain,
                outcomes=request.outcomes,
            ),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        if request.HasField("start_time"):
            wanted.filter.start_time.CopyFrom(request.start_time)
        if request.HasField("end_time"):
            wanted.filter.end_time.CopyFrom(request.end_time)
        found = await self._as_service(self._log.ListOperations, wanted)
        return pb.ListOperationsResponse(
            operations=found.operations, next_page_token=found.next_page_token
        )

    async def _as_service(
        self, method: Callable[..., Awaitable[Response]], request: object
    ) -> Response:
        return await answered(
            method(request, timeout=deadline_left(CALL_SECONDS), metadata=as_service(self._tokens))
        )


def user() -> Caller:
    """The caller, who must be a user of a clinic. Raises Unauthenticated for claims that are none.

    Checked once at the door: what is counted and kept is counted and kept by these ids.
    """
    caller = current_caller()
    ids = [caller.user_id, *([caller.clinic_id] if caller.clinic_id else [])]
    if not all(validation.is_uuid(each) for each in ids):
        raise Unauthenticated("the token must name its user and clinic by UUIDs in lower case")
    return caller


def place_of(request: pb.AnalyzeRequest | pb.RecommendRequest) -> str:
    """What tells one question of a user from another: its id and what is asked."""
    asked: Any = type(request)()
    asked.CopyFrom(request)
    asked.ClearField("min_revision")
    payload = hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()
    return f"{request.request_id}/{type(request).__name__}/{payload}"


def listing_of(request: pb.GetUsageRequest, session: Session) -> usage_pb2.ListUsageRequest:
    """The days asked for. Raises InvalidInput for days that are not in order, or too many."""
    today = session.reading.now.astimezone(session.reading.day_zone).date()
    start = date.fromisoformat(request.start_date) if request.start_date else today
    end = date.fromisoformat(request.end_date) if request.end_date else today
    if end < start:
        raise InvalidInput([("end_date", "must not be before start_date")])
    if (end - start).days >= LONGEST_LISTING_DAYS:
        raise InvalidInput([("end_date", f"must be within {LONGEST_LISTING_DAYS} days")])
    return usage_pb2.ListUsageRequest(
        user_id=session.caller.user_id,
        start_date=start.isoformat(),
        end_date=end.isoformat(),
        page_size=LONGEST_LISTING_DAYS,
    )
