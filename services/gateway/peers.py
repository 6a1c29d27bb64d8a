"""The services that the gateway asks: usage, router, domains."""

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2
from gatehouse.router.v1 import router_pb2
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from google.protobuf.struct_pb2 import Value

from services.gateway.failures import (
    DomainMalfunction,
    DomainUnavailable,
    DomainUnreachable,
    Superseded,
    UserBusy,
)
from services.gateway.refusals import message_for, passable_details
from services.runtime.calling import (
    OVERALL,
    Metadata,
    Tls,
    TokenSource,
    as_caller,
    as_service,
    channel,
    deadline_left,
    passing_over,
)
from services.runtime.failure import (
    DeadlineExceeded,
    Failure,
    PeerFailure,
    PeerUnavailable,
    StoreUnavailable,
    failure_from,
)
from services.runtime.gathering import Together
from services.runtime.telemetry import Telemetry

CALL_SECONDS = 5.0
MOST_CLAIMS = 500
# How long a claim is asked about again while another transaction holds its user's counts.
BUSY_SECONDS = 2.0
CONNECT_SECONDS = 1.0
DOMAIN_SERVICE = "gatehouse.domain.v1.DomainService"
LOOP_PAUSE_SECONDS = 0.5
# What ErrorInfo.reason looks like; anything else that a domain says is not passed on (LOG-6).
REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")

# Where a double of a Value is not finite; other bytes may look alike, so that it is only a hint.
MAYBE_NO_NUMBER = re.compile(rb"\x11[\x00-\xff]{6}[\xf0-\xff][\x7f\xff]")
MOST_GROUPS = 500

Complete = Callable[[router_pb2.CompleteRequest], Awaitable[router_pb2.CompleteResponse]]
"""Asks the router; raises Failure when no model answers within the deadline."""

Answer = TypeVar("Answer")


async def answered(call: Awaitable[Answer]) -> Answer:
    """What a peer answered. Raises the Failure that it told, or PeerUnavailable."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise failure_from(error) from None


class Decision(NamedTuple):
    """The answer about a claim, and whether it is that of the first try."""

    answer: usage_pb2.BatchedAdmission
    is_first_try: bool


class Usage:
    """Usage: what it counts, decides and gives back. Claims go together (see Together)."""

    def __init__(self, stub: UsageServiceStub, tokens: TokenSource, telemetry: Telemetry) -> None:
        self._stub = stub
        self._tokens = tokens
        self._claims = Together(
            "consume claims",
            self._decide,
            telemetry,
            most=MOST_CLAIMS,
            is_ones=lambda failure: failure.code is grpc.StatusCode.INVALID_ARGUMENT,
            unwanted=self._unwanted,
        )

    async def consume(self, claim: usage_pb2.Claim) -> usage_pb2.Admission:
        """The decision on *claim*. Raises StoreUnavailable, UserBusy, DeadlineExceeded, Superseded.

        A claim whose decision comes too late for whoever made it is given back. One whose user is
        busy is asked about again for a while; those of others in its batch are answered already.
        A refusal is released where an earlier try had no answer: that one may be executed later,
        when there is room, and would stay counted.
        """
        until = asyncio.get_running_loop().time() + BUSY_SECONDS
        try:
            async with asyncio.timeout(deadline_left(CALL_SECONDS)):
                answer, is_first = await self._claims.ask(claim)
                while is_busy(answer) and asyncio.get_running_loop().time() < until:
                    answer, is_first = await self._claims.ask(claim)
            if answer.admission.HasField("refused") and not is_first and claim.attempt:
                await self.release(claim.user_id, claim.operation_id, attempt=claim.attempt)
        except TimeoutError:
            raise DeadlineExceeded from None
        except Failure as failure:
            raise store_failure(failure) from None
        if answer.error == usage_pb2.ERROR_REASON_CLAIM_RELEASED:
            raise Superseded  # whoever took the request over released this attempt
        if is_busy(answer):
            raise UserBusy("the counts of this user are held by another call")
        if not answer.HasField("admission"):
            raise PeerUnavailable("a claim could not be decided")
        return answer.admission

    async def _decide(self, claims: Sequence[usage_pb2.Claim]) -> Sequence[Decision]:
        request = usage_pb2.ConsumeBatchRequest(claims=claims)
        metadata, tries = as_service(self._tokens), 0

        def one_try(timeout: float) -> Any:
            nonlocal tries
            tries += 1
            return self._stub.ConsumeBatch(request, timeout=timeout, metadata=metadata)

        response: usage_pb2.ConsumeBatchResponse = await answered(
            passing_over(one_try, CALL_SECONDS)
        )
        return [Decision(each, tries == 1) for each in response.admissions]

    async def _unwanted(self, claim: usage_pb2.Claim, decision: Decision) -> None:
        admission = decision.answer.admission
        if admission.HasField("granted") and not admission.replayed:
            await self._give_back(claim)

    async def _give_back(self, claim: usage_pb2.Claim) -> None:
        """Nobody waits for the decision any more, so nothing will be carried out for it."""
        try:
            await self.release(claim.user_id, claim.operation_id, attempt=claim.attempt)
        except Failure:
            return  # a modify's reservation ends by itself

    async def release(
        self, user_id: str, operation_id: str, count: int = 0, *, attempt: int = 0
    ) -> None:
        """Give back what was not executed, *count* of it or all. Raises Failure.

        *attempt* fences every Consume up to it that usage has not executed yet.
        """
        request = usage_pb2.ReleaseRequest(
            user_id=user_id, operation_id=operation_id, count=count, attempt=attempt
        )
        await answered(self._settling(self._stub.Release, request))

    async def settle(self, user_id: str, operation_id: str) -> None:
        request = usage_pb2.SettleRequest(user_id=user_id, operation_id=operation_id)
        await answered(self._settling(self._stub.Settle, request))

    def _settling(self, method: Callable[..., Any], request: Any) -> Any:
        """A call that is made whatever is left of the caller's deadline; all are idempotent."""
        metadata = as_service(self._tokens)
        return passing_over(
            lambda timeout: method(request, timeout=timeout, metadata=metadata), CALL_SECONDS
        )

    async def get(self, request: usage_pb2.GetUsageRequest) -> usage_pb2.GetUsageResponse:
        found: usage_pb2.GetUsageResponse = await answered(
            self._settling(self._stub.GetUsage, request)
        )
        return found

    async def list(self, request: usage_pb2.ListUsageRequest) -> usage_pb2.ListUsageResponse:
        found: usage_pb2.ListUsageResponse = await answered(
            self._settling(self._stub.ListUsage, request)
        )
        return found


def is_busy(answer: usage_pb2.BatchedAdmission) -> bool:
    return answer.error == usage_pb2.ERROR_REASON_USER_BUSY


def store_failure(failure: Failure) -> Failure:
    """Usage away, or its store: to a caller the counts cannot be kept either way (USE-7)."""
    if failure.reason != "PEER_UNAVAILABLE":
        return failure
    return StoreUnavailable("usage cannot be counted at the moment")


class Domains:
    """The domains' own services, over channels that are kept; the caller's token goes along."""

    def __init__(
        self,
        stack: AsyncExitStack,
        tls: Tls | None,
        tokens: TokenSource,
        seconds: float,
        telemetry: Telemetry,
    ) -> None:
        self._stack = stack
        self._tls = tls
        self._telemetry = telemetry
        self._tokens = tokens
        self._seconds = seconds
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._opening = asyncio.Lock()

    async def execute_batch(
        self, descriptor: DomainDescriptor, request: domain_pb2.ExecuteBatchRequest
    ) -> domain_pb2.ExecuteBatchResponse:
        """Raises Failure: DOMAIN_UNAVAILABLE, DEADLINE_EXCEEDED, DOMAIN_MALFUNCTION and others."""
        response: domain_pb2.ExecuteBatchResponse = await self._ask(
            descriptor, "ExecuteBatch", request, deadline_left(self._seconds), as_caller()
        )
        check_batch(request, response)
        return response

    async def get_operation(
        self,
        descriptor: DomainDescriptor,
        operation_id: str,
        seconds: float,
        *,
        for_itself: bool = False,
    ) -> domain_pb2.GetOperationResponse:
        """Asked in the caller's name; *for_itself* where there is no caller any more."""
        request = domain_pb2.GetOperationRequest(operation_id=operation_id)
        metadata = as_service(self._tokens) if for_itself else as_caller()
        answer: domain_pb2.GetOperationResponse = await self._ask(
            descriptor, "GetOperation", request, seconds, metadata
        )
        return answer

    async def aggregate(
        self, descriptor: DomainDescriptor, request: domain_pb2.AggregateRequest
    ) -> domain_pb2.AggregateResponse:
        answer: domain_pb2.AggregateResponse = await self._ask(
            descriptor, "Aggregate", request, deadline_left(self._seconds), as_caller()
        )
        check_aggregate(request, answer)
        return answer

    async def _ask(
        self,
        descriptor: DomainDescriptor,
        method: str,
        request: Any,
        seconds: float,
        metadata: Metadata,
    ) -> Any:
        opened = await self._channel(descriptor.endpoint)
        if not await is_connected(opened, min(seconds, CONNECT_SECONDS)):
            raise DomainUnreachable("the domain does not answer")
        try:
            call = getattr(DomainServiceStub(opened), method)
            answer = await call(request, timeout=seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise told_by_domain(failure_from(error), error.code()) from None
        if answer is None:  # gRPC's word for bytes that are not of this message
            raise DomainMalfunction("the domain's answer cannot be read")
        return answer

    async def _channel(self, endpoint: str) -> grpc.aio.Channel:
        async with self._opening:
            if endpoint not in self._channels:
                try:
                    opened = await self._stack.enter_async_context(
                        channel(
                            endpoint,
                            tls=self._tls,
                            # A domain does what it is asked once, by the operation's id (DOM-1).
                            idempotent=[DOMAIN_SERVICE],
                            watching=OVERALL,
                            telemetry=self._telemetry,
                        )
                    )
                except Failure:  # where it is said to be cannot be called
                    raise DomainUnreachable("the domain does not answer") from None
                self._channels[endpoint] = opened
            return self._channels[endpoint]


@asynccontextmanager
async def open_domains(
    tls: Tls | None, tokens: TokenSource, seconds: float, telemetry: Telemetry
) -> AsyncIterator[Domains]:
    """The domains, whose channels are kept as long as the block: running requests need them."""
    async with AsyncExitStack() as stack:
        yield Domains(stack, tls, tokens, seconds, telemetry)


async def is_connected(opened: grpc.aio.Channel, seconds: float) -> bool:
    """Whether *opened* has a connection, or gets one within *seconds* at the first attempt.

    Asked before a call is made: one that was not sent has certainly done nothing.
    """
    failed = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)
    try:
        async with asyncio.timeout(seconds):
            state = opened.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state in failed:
                    return False
                await opened.wait_for_state_change(state)
                state = opened.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True


def told_by_domain(failure: Failure, code: grpc.StatusCode) -> Failure:
    """A domain's refusal by its code, reason and fields; its absence and breakdowns by our names.

    What else it says may hold anything, and goes no further.
    """
    if failure.reason == "PEER_UNAVAILABLE":
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return DomainUnavailable("the domain does not answer")
        return DomainMalfunction("the domain's answer makes no sense")
    if failure.reason in ("STORE_UNAVAILABLE", "STORE_BUSY", "OVERLOADED"):
        return DomainUnavailable("the domain does not answer", retry_after=failure.retry_after)
    if failure.reason == "INTERNAL":
        return DomainMalfunction("the domain broke")
    if isinstance(failure, PeerFailure):
        details = passable_details(failure.details)
        reason = plain_reason(failure.reason)
        return PeerFailure(code, message_for(details), reason=reason, details=details)
    return failure


def plain_reason(reason: str) -> str:
    """A domain's reason, if it is one: no other text gets into the log or into reports."""
    return reason if REASON.fullmatch(reason) else "OTHER"


def check_batch(
    request: domain_pb2.ExecuteBatchRequest, response: domain_pb2.ExecuteBatchResponse
) -> None:
    """Raises DomainMalfunction unless the answer is one to *request*: all ids, in order."""
    asked = [each.operation_id for each in request.operations]
    told = [each.operation_id for each in response.results]
    applied = [each.HasField("applied") for each in response.results]
    whole = all(each.WhichOneof("result") for each in response.results)
    if asked != told or not whole:
        raise DomainMalfunction("the domain's answer is not to what was asked")
    if any(each.HasField("status") and not each.status.code for each in response.results):
        raise DomainMalfunction("the domain says of an operation neither yes nor no")
    pairs = zip(request.operations, response.results, strict=True)
    if not all(is_allowed(operation, result.applied) for operation, result in pairs):
        raise DomainMalfunction("the domain says that it touched more records than it may")
    contradicts = response.committed != all(applied) or (any(applied) and not all(applied))
    if request.validate_only:
        contradicts = response.committed
    if contradicts:
        raise DomainMalfunction("the domain's answer contradicts itself")
    check_numbers(response)


def is_allowed(
    operation: domain_pb2.Operation | gateway_pb2.Operation, applied: domain_pb2.Applied
) -> bool:
    """Whether *operation* may have touched as many records as *applied* says."""
    match operation.verb:
        case domain_pb2.VERB_CREATE:
            return applied.affected <= 1
        case domain_pb2.VERB_UPDATE | domain_pb2.VERB_DELETE:
            return applied.affected <= (operation.max_affected or 1)
    return True


def check_numbers(response: domain_pb2.ExecuteBatchResponse) -> None:
    """Raises DomainMalfunction for a record with a number that JSON does not have."""
    records = [each for result in response.results for each in result.applied.records]
    if records and MAYBE_NO_NUMBER.search(response.SerializeToString()):
        values = (value for each in records for value in each.fields.values())
        if not all(map(is_finite, values)):
            raise DomainMalfunction("the domain's answer holds a number that is none")


def is_finite(value: Value) -> bool:
    match value.WhichOneof("kind"):
        case "number_value":
            return math.isfinite(value.number_value)
        case "struct_value":
            return all(map(is_finite, value.struct_value.fields.values()))
        case "list_value":
            return all(map(is_finite, value.list_value.values))
        case _:
            return True


def check_aggregate(
    request: domain_pb2.AggregateRequest, answer: domain_pb2.AggregateResponse
) -> None:
    """Raises DomainMalfunction for figures that cannot be, or of more groups than a chart has.

    Figures of nobody are zeros: of others it could not be told whether they are of too few.
    """
    groups = [*answer.groups, *(each.figures for each in answer.series)]
    first, last = request.start_time.seconds, request.end_time.seconds
    within = all(first <= each.start_time.seconds < last for each in answer.series)
    keys = {each.key for each in answer.groups}
    as_asked = len(keys) == len(answer.groups) and (request.group_by or keys <= {""})
    if len(groups) > MOST_GROUPS or not (within and as_asked and all(map(can_be, groups))):
        raise DomainMalfunction("the domain's figures make no sense")


def can_be(group: domain_pb2.Group) -> bool:
    counted = 0 <= group.numerator <= group.denominator < math.inf
    return counted and (group.subjects > 0 or group.denominator == 0)


@asynccontextmanager
async def at_work(
    log: logging.Logger, *loops: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Tasks that run as long as the block; one that breaks is told of, and begins again."""

    async def kept_at_work(loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except Exception as error:  # whatever it was, calls depend on it
                log.error("work beside the calls broke", exc_info=error)
            await asyncio.sleep(LOOP_PAUSE_SECONDS)

    running = [asyncio.create_task(kept_at_work(each)) for each in loops]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
