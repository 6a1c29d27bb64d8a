"""The gateway's calls: translates, and does nothing else."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import date
from typing import TypeAlias, TypeVar
from uuid import uuid4

import grpc
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceServicer
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.router.v1 import router_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub
from gatehouse.usage.v1 import usage_pb2

from services.gateway import confirmation
from services.gateway.admission import Admission, operation_id, uncounted
from services.gateway.authorization import authorized
from services.gateway.cancelling import Canceller
from services.gateway.counting import Counting
from services.gateway.execution import Executor, Parts, operations_of
from services.gateway.peers import answered
from services.gateway.reading import Reading, reading_of
from services.gateway.reads import Reads
from services.runtime import validation
from services.runtime.calling import TokenSource, as_service, deadline_left
from services.runtime.failure import InvalidInput, Unauthenticated
from services.runtime.identity import Caller, current_caller
from services.runtime.telemetry import trace_id

Context: TypeAlias = grpc.aio.ServicerContext
Response = TypeVar("Response")
CALL_SECONDS = 5.0
LONGEST_LISTING_DAYS = 400


class GatewayServicer(GatewayServiceServicer):
    def __init__(
        self,
        parts: Parts,
        executor: Executor,
        canceller: Canceller,
        reads: Reads,
        log: OperationLogServiceStub,
        router: RouterServiceStub | None,
        tokens: TokenSource,
        counting: Counting,
    ) -> None:
        self._parts = parts
        self._executor = executor
        self._canceller = canceller
        self._reads = reads
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
        use_id = uuid4()  # nothing is executed under it
        ids = [operation_id(use_id, index) for index in range(len(operations))]
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
        with self._counting.query("analyze") as counted:
            answer = await self._reads.analyze(request, user())
            return answer if answer.replayed else counted(answer)

    async def StreamAnalyze(
        self, request: pb.StreamAnalyzeRequest, context: Context
    ) -> AsyncIterator[pb.StreamAnalyzeResponse]:
        with self._counting.query("analyze") as counted:
            async with aclosing(self._reads.stream(request.request, user())) as parts:
                async for part in parts:
                    if part.HasField("finished") and not part.finished.replayed:
                        counted(part.finished)
                    yield part

    async def Recommend(
        self, request: pb.RecommendRequest, context: Context
    ) -> pb.RecommendResponse:
        with self._counting.query("recommend") as counted:
            answer = await self._reads.recommend(request, user())
            return answer if answer.replayed else counted(answer)

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        caller, parts = user(), self._parts
        entitlements = await parts.entitlements.of(caller, request.min_revision)
        reading = reading_of(caller, "", "", parts.now(), entitlements.time_zone)
        claims = uncounted(parts.usage, caller)
        admission = Admission(parts.usage, parts.notices, caller, entitlements, reading, claims)
        response = pb.GetUsageResponse(usage=await admission.snapshot())
        if request.start_date or request.end_date:
            listed = await parts.usage.list(listing_of(request, caller, reading))
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


def listing_of(
    request: pb.GetUsageRequest, caller: Caller, reading: Reading
) -> usage_pb2.ListUsageRequest:
    """The days asked for. Raises InvalidInput for days that are not in order, or too many."""
    today = reading.now.astimezone(reading.day_zone).date()
    start = date.fromisoformat(request.start_date) if request.start_date else today
    end = date.fromisoformat(request.end_date) if request.end_date else today
    if end < start:
        raise InvalidInput([("end_date", "must not be before start_date")])
    if (end - start).days >= LONGEST_LISTING_DAYS:
        raise InvalidInput([("end_date", f"must be within {LONGEST_LISTING_DAYS} days")])
    return usage_pb2.ListUsageRequest(
        user_id=caller.user_id,
        start_date=start.isoformat(),
        end_date=end.isoformat(),
        page_size=LONGEST_LISTING_DAYS,
    )
