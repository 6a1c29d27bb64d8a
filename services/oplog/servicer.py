"""Answers questions about the log: translates, and does nothing else."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import grpc
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceServicer
from google.protobuf.timestamp_pb2 import Timestamp

from services.oplog.pages import PageTokens
from services.oplog.postgres import Store
from services.oplog.projection import INTENT, OPERATION, OperationSpan, Row
from services.oplog.seals import Sealing
from services.oplog.tail import Growth, grown
from services.oplog.verification import Verification, Walk, compared
from services.runtime.failure import Denied, InvalidInput, NotFound, Precondition
from services.runtime.identity import Caller, current_caller

DEFAULT_PAGE = 50
DEFAULT_DIGESTS = 500
TAIL_PAGE = 500
READERS = ("auditor", "admin", "service")
Context: TypeAlias = grpc.aio.ServicerContext
Conditions = Sequence[tuple[str, Sequence[Any]]]


class SealingKeyMissing(Precondition):
    """Without a public key no digest can be told from a made-up one."""

    reason = "SEALING_KEY_MISSING"

    def __init__(self) -> None:
        super().__init__("the log has no key to check signatures by")


class OperationLogServicer(OperationLogServiceServicer):
    def __init__(
        self,
        store: Store,
        sealing: Sealing,
        tokens: PageTokens,
        growth: Growth,
        heartbeat_seconds: float,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._sealing = sealing
        self._now = now
        self._tokens = tokens
        self._growth = growth
        self._heartbeat_seconds = heartbeat_seconds

    async def ListOperations(
        self, request: pb.ListOperationsRequest, context: Context
    ) -> pb.ListOperationsResponse:
        caller = reader_of(request.filter)
        wanted = request.filter.SerializeToString(deterministic=True).hex()
        listing = f"operations {caller.user_id} {wanted}"
        before = place_in(self._tokens.read(listing, request.page_token))
        size = request.page_size or DEFAULT_PAGE
        rows = await self._store.page(caller, conditions_of(request.filter), before, size + 1)
        response = pb.ListOperationsResponse(operations=map(operation_of, rows[:size]))
        if len(rows) > size:
            last = rows[size - 1]
            place = f"{last.created_at.isoformat()} {last.id}"
            response.next_page_token = self._tokens.write(listing, place)
        return response

    async def GetOperation(
        self, request: pb.GetOperationRequest, context: Context
    ) -> pb.GetOperationResponse:
        condition = ("id = %s", (UUID(request.id),))
        rows = await self._store.page(current_caller(), [condition], None, 1)
        if not rows:
            raise NotFound("there is no such operation")
        return pb.GetOperationResponse(operation=operation_of(rows[0]))

    async def TailOperations(
        self, request: pb.TailOperationsRequest, context: Context
    ) -> AsyncIterator[pb.TailOperationsResponse]:
        caller = reader_of(request.filter)
        conditions = conditions_of(request.filter)
        position = (
            request.after_position
            if request.HasField("after_position")
            else await self._store.position()
        )
        yield pb.TailOperationsResponse(position=position)
        while True:
            growth = self._growth.next()
            reached = await self._store.position()
            rows = await self._store.after(caller, conditions, position, TAIL_PAGE)
            for row in rows:
                position = row.position
                yield pb.TailOperationsResponse(operation=operation_of(row), position=position)
            if len(rows) < TAIL_PAGE:
                position = max(position, reached)
                await grown(growth, self._heartbeat_seconds)
                yield pb.TailOperationsResponse(position=position)

    async def GetTrace(self, request: pb.GetTraceRequest, context: Context) -> pb.GetTraceResponse:
        spans = await self._store.trace(current_caller(), request.trace_id)
        return pb.GetTraceResponse(spans=map(span_of, spans))

    async def VerifyChain(
        self, request: pb.VerifyChainRequest, context: Context
    ) -> pb.VerifyChainResponse:
        caller = current_caller()
        caller.require("auditor", "admin")
        start = (
            moment_in(request.start_time, "start_time") if request.HasField("start_time") else None
        )
        end = moment_in(request.end_time, "end_time") if request.HasField("end_time") else None
        listing = f"verification {caller.user_id} {start} {end}"
        place = self._tokens.read(listing, request.page_token)
        verifying = Verification(self._store, self._sealing, caller, self._now())
        walk = Walk.at(place) if place else await verifying.begun(start)
        await verifying.proceed(walk, end, request.page_size or None)
        response = walk.answer()
        if walk.fault is None and not walk.finished:
            response.next_page_token = self._tokens.write(listing, walk.place())
        return response

    async def ListDigests(
        self, request: pb.ListDigestsRequest, context: Context
    ) -> pb.ListDigestsResponse:
        caller = current_caller()
        caller.require("auditor", "admin")
        size = request.page_size or DEFAULT_DIGESTS
        seals = await self._store.seals(caller, request.after_position, None, size)
        return pb.ListDigestsResponse(
            digests=[
                pb.Digest(jws=jws, position=position, sealed_at=stamp(sealed_at))
                for position, jws, sealed_at in seals
            ]
        )

    async def CompareDigests(
        self, request: pb.CompareDigestsRequest, context: Context
    ) -> pb.CompareDigestsResponse:
        caller = current_caller()
        caller.require("auditor", "admin")
        if not self._sealing.checks:
            raise SealingKeyMissing
        found = await compared(self._store, self._sealing, caller, request.digests, self._now())
        return pb.CompareDigestsResponse(comparisons=found)

    async def ListQuarantine(
        self, request: pb.ListQuarantineRequest, context: Context
    ) -> pb.ListQuarantineResponse:
        caller = current_caller()
        caller.require("auditor", "admin")
        listing = f"quarantine {caller.user_id}"
        before = self._tokens.read(listing, request.page_token)
        size = request.page_size or DEFAULT_PAGE
        rows = await self._store.quarantined(caller, int(before) if before else None, size + 1)
        response = pb.ListQuarantineResponse()
        for id_, received_at, trace_id, span_id, problem in rows[:size]:
            response.spans.append(
                pb.QuarantinedSpan(
                    id=id_,
                    received_at=stamp(received_at),
                    trace_id=trace_id,
                    span_id=span_id,
                    problem=problem,
                )
            )
        if len(rows) > size:
            response.next_page_token = self._tokens.write(listing, str(rows[size - 1][0]))
        return response


def reader_of(wanted: pb.Filter) -> Caller:
    """The caller, who reads everybody's rows or asks for its own. Raises Denied."""
    caller = current_caller()
    if not caller.roles.intersection(READERS) and wanted.user_id != caller.user_id:
        raise Denied(
            "other users' operations need the role auditor; your own need the filter user_id",
            reason="ROLE_REQUIRED",
        )
    return caller


def conditions_of(wanted: pb.Filter) -> Conditions:
    """What a filter comes to in SQL. Raises InvalidInput for times that are none."""
    found: list[tuple[str, Sequence[Any]]] = [
        (f"{column} = %s", (value,))
        for column, value in (
            ("user_id", wanted.user_id),
            ("clinic_id", wanted.clinic_id),
            ("domain", wanted.domain),
            ("request_id", wanted.request_id),
            ("trace_id", wanted.trace_id),
        )
        if value
    ]
    if wanted.outcomes:
        names = [outcome_name(each) for each in wanted.outcomes]
        found.append(("outcome = ANY (%s)", (names,)))
    if wanted.action.endswith(".*"):
        found.append(("starts_with(action, %s)", (wanted.action[:-1],)))
    elif wanted.action:
        found.append(("action = %s", (wanted.action,)))
    if wanted.HasField("start_time"):
        start = moment_in(wanted.start_time, "filter.start_time")
        found.append(("created_at >= %s", (start,)))
    if wanted.HasField("end_time"):
        end = moment_in(wanted.end_time, "filter.end_time")
        found.append(("created_at < %s", (end,)))
    return found


def place_in(text: str) -> tuple[datetime, UUID] | None:
    if not text:
        return None
    created_at, _, id_ = text.partition(" ")
    return datetime.fromisoformat(created_at), UUID(id_)


def moment_in(given: Timestamp, field: str) -> datetime:
    try:
        return given.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidInput([(field, "is not a moment between the years 1 and 9999")]) from None


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def outcome_name(value: pb.Outcome.ValueType) -> str:
    return pb.Outcome.Name(value).removeprefix("OUTCOME_").lower()


def outcome_of(name: str) -> pb.Outcome.ValueType:
    return pb.Outcome.Value(f"OUTCOME_{name.upper()}")


def operation_of(row: Row) -> pb.OperationLog:
    return pb.OperationLog(
        id=str(row.id),
        user_id=str(row.user_id),
        clinic_id=str(row.clinic_id or ""),
        action=row.action,
        domain=row.domain,
        outcome=outcome_of(row.outcome),
        latency_ms=row.latency_ms,
        model_used=row.model_used,
        failover=row.failover,
        created_at=stamp(row.created_at),
        request_id=row.request_id,
        trace_id=row.trace_id,
        span_id=row.span_id,
        reason=row.reason,
        position=row.position,
        settled_later=row.settled_later,
    )


def span_of(told: OperationSpan) -> pb.Span:
    span = pb.Span(
        span_id=told.span_id,
        parent_span_id=told.parent_span_id,
        name=INTENT if told.kind == "intent" else OPERATION,
        service=told.service,
        started_at=stamp(told.started_at),
        error=told.kind != "intent" and told.outcome not in ("succeeded", "unknown"),
        operation_id=str(told.operation_id),
        action=told.action,
        domain=told.domain,
        outcome=outcome_of(told.outcome),
        reason=told.reason,
        model_used=told.model_used,
        settled_later=told.kind == "settled",
    )
    span.duration.FromTimedelta(max(told.ended_at - told.started_at, timedelta(0)))
    return span
