"""The service's calls: translates, and does nothing else."""

from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Protocol, TypeAlias, TypeVar
from uuid import UUID, uuid4

import grpc
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceServicer

from services.runtime.failure import Denied, Failure, InvalidInput
from services.runtime.identity import Caller, current_caller
from services.runtime.recording import RecordedOperation, RecordedOutcome
from services.usage import quota
from services.usage.failures import BusyUser, ReleasedClaim, ReusedId
from services.usage.ledger import Ledger
from services.usage.meter import Meter
from services.usage.nouns import (
    Admission,
    ClaimReleased,
    OperationIdReused,
    Thresholds,
    UserBusy,
)
from services.usage.translation import (
    admission_to,
    batched_to,
    claim_from,
    counter_to,
    day_from,
    limits_from,
    remaining_to,
    stamp,
    window_to,
)

Context: TypeAlias = grpc.aio.ServicerContext
DEFAULT_PAGE = 50
T = TypeVar("T")


class Recorder(Protocol):
    """The part of the runtime's recorder that is used here."""

    async def intents(self, operations: list[RecordedOperation]) -> None: ...

    async def outcomes(self, outcomes: list[RecordedOutcome]) -> None: ...


class UsageServicer(UsageServiceServicer):
    def __init__(
        self,
        meter: Meter,
        ledger: Ledger,
        thresholds: Thresholds,
        recorder: Recorder | None,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._meter = meter
        self._ledger = ledger
        self._thresholds = thresholds
        self._recorder = recorder
        self._now = now

    async def Consume(self, request: pb.ConsumeRequest, context: Context) -> pb.ConsumeResponse:
        require_acting_for(request.claim.user_id)
        (decided,) = await self._meter.consume([claim_from(request.claim)])
        match decided:
            case OperationIdReused():
                raise ReusedId
            case ClaimReleased(attempt):
                raise ReleasedClaim(attempt)
            case UserBusy():
                raise BusyUser
            case Admission():
                return pb.ConsumeResponse(admission=admission_to(decided))

    async def ConsumeBatch(
        self, request: pb.ConsumeBatchRequest, context: Context
    ) -> pb.ConsumeBatchResponse:
        for claim in request.claims:
            require_acting_for(claim.user_id)
        claims = [
            claim_from(claim, f"claims[{index}]") for index, claim in enumerate(request.claims)
        ]
        decided = await self._meter.consume(claims)
        return pb.ConsumeBatchResponse(admissions=[batched_to(each) for each in decided])

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseResponse:
        require_acting_for(request.user_id)
        given = await self._ledger.release(
            UUID(request.user_id), UUID(request.operation_id), request.count, request.attempt
        )
        if given is None:
            return pb.ReleaseResponse()
        released, day, balance = given
        return pb.ReleaseResponse(
            released=released, counter=counter_to(request.user_id, day, balance)
        )

    async def Settle(self, request: pb.SettleRequest, context: Context) -> pb.SettleResponse:
        require_acting_for(request.user_id)
        count = await self._ledger.settle(UUID(request.user_id), UUID(request.operation_id))
        return pb.SettleResponse(count=count)

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        caller = require_acting_for(request.user_id)
        today = await self._ledger.today(caller, UUID(request.user_id), request.time_zone)
        response = pb.GetUsageResponse(
            counter=counter_to(request.user_id, today.day, today.balance),
            abuse_window=window_to(today.window, today.at, self._thresholds),
        )
        if request.HasField("limits"):
            limits = limits_from(request.limits)
            remaining = remaining_to(limits, today.balance, today.day, request.time_zone)
            response.remaining.CopyFrom(remaining)
            response.approaching_quota = quota.approaching(today.balance, limits)
        return response

    async def ListUsage(
        self, request: pb.ListUsageRequest, context: Context
    ) -> pb.ListUsageResponse:
        caller = require_acting_for(request.user_id)
        first, last = day_from(request.start_date), day_from(request.end_date)
        if last < first:
            raise InvalidInput([("end_date", "must not be before start_date")])
        last = min(last, last_of_page(request.page_token, last))
        size = request.page_size or DEFAULT_PAGE
        days = await self._ledger.days(caller, UUID(request.user_id), first, last, size + 1)
        response = pb.ListUsageResponse(
            counters=[counter_to(request.user_id, *each) for each in days[:size]]
        )
        if len(days) > size:
            # The day to go on with: it tells nothing that the caller does not see anyway.
            response.next_page_token = days[size][0].isoformat()
        return response

    async def ClearCoolDown(
        self, request: pb.ClearCoolDownRequest, context: Context
    ) -> pb.ClearCoolDownResponse:
        caller = current_caller()
        caller.require("admin")
        user_id = UUID(request.user_id)

        async def clear() -> pb.ClearCoolDownResponse:
            ended = await self._ledger.clear_cool_down(caller, user_id)
            await self._meter.forget(user_id)
            response = pb.ClearCoolDownResponse()
            if ended is not None:
                response.cleared.CopyFrom(stamp(ended))
            return response

        return await self._recorded(caller, "admin.cool_down.clear", clear)

    async def CorrectUsage(
        self, request: pb.CorrectUsageRequest, context: Context
    ) -> pb.CorrectUsageResponse:
        caller = current_caller()
        caller.require("admin")
        user_id, day = UUID(request.user_id), day_from(request.usage_date)

        async def correct() -> pb.CorrectUsageResponse:
            before, after = await self._ledger.correct(
                caller,
                user_id,
                day,
                request.read_count if request.HasField("read_count") else None,
                request.modify_count if request.HasField("modify_count") else None,
            )
            return pb.CorrectUsageResponse(
                before=counter_to(request.user_id, day, before),
                after=counter_to(request.user_id, day, after),
            )

        return await self._recorded(caller, "admin.usage.correct", correct)

    async def _recorded(self, caller: Caller, action: str, write: Callable[[], Awaitable[T]]) -> T:
        """Carry out an admin's write between its intent and its outcome (LOG-2)."""
        if self._recorder is None:
            return await write()
        id_ = str(uuid4())
        operation = RecordedOperation(id_, id_, action, "usage", caller.user_id, caller.clinic_id)
        await self._recorder.intents([operation])
        started_at, outcome, reason = self._now(), "unknown", ""
        try:
            written = await write()
            outcome = "succeeded"
        except Failure as failure:
            outcome, reason = "failed", failure.reason
            raise
        finally:
            recorded = RecordedOutcome(operation, outcome, started_at, self._now(), reason)
            await self._recorder.outcomes([recorded])
        return written


def require_acting_for(user_id: str) -> Caller:
    """The caller. Raises Denied unless it may ask about *user_id*."""
    caller = current_caller()
    if not caller.may_act_for(user_id):
        raise Denied("this is about another user")
    return caller


def last_of_page(page_token: str, last: date) -> date:
    if not page_token:
        return last
    try:
        return date.fromisoformat(page_token)
    except ValueError:
        raise InvalidInput(
            [("page_token", "is not the next_page_token of a page of this listing")]
        ) from None
