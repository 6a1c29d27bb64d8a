"""The services that the gateway asks: entitlements, usage, router, domains."""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.router.v1 import router_pb2
from gatehouse.router.v1.router_pb2_grpc import RouterServiceStub
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from opentelemetry import context as otel_context

from services.gateway.failures import DomainMalfunction, DomainUnavailable, DomainUnreachable
from services.runtime.calling import (
    Metadata,
    PeerTls,
    TokenSource,
    as_caller,
    as_service,
    channel,
    deadline_left,
)
from services.runtime.failure import (
    DeadlineExceeded,
    Failure,
    PeerFailure,
    PeerUnavailable,
    StoreUnavailable,
    failure_from,
)
from services.runtime.identity import Caller, current_caller
from services.runtime.telemetry import Telemetry

CALL_SECONDS = 5.0
WATCH_RETRY_SECONDS = 0.5
WATCH_SILENCE_SECONDS = 2.0
# With descriptors at hand, nobody waits long for newer ones that may not come.
DESCRIPTORS_SECONDS = 1.0
CACHED_PLANS = 10_000
MOST_CLAIMS = 500
CONNECT_SECONDS = 1.0
COMPLETE_SECONDS = 15.0
# Of the time that is left, what a model may take: without it the plain template still answers.
COMPLETE_SHARE = 0.8
LOOP_PAUSE_SECONDS = 0.5
# What ErrorInfo.reason looks like; anything else that a domain says is not passed on (LOG-6).
REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")

Complete = Callable[[router_pb2.CompleteRequest], Awaitable[router_pb2.CompleteResponse]]
"""Asks the router; raises Failure when no model answers within the deadline."""

Answer = TypeVar("Answer")
Claimed = tuple[usage_pb2.Claim, asyncio.Future[usage_pb2.Admission], otel_context.Context]
"""A claim, its decision to come, and the trace of whoever waits for it."""
Batch = Sequence[Claimed]


async def answered(call: Awaitable[Answer]) -> Answer:
    """What a peer answered. Raises the Failure that it told, or PeerUnavailable."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise failure_from(error) from None


class Entitlements:
    """Plans and descriptors, cached and kept fresh by Watch (ENT-4)."""

    def __init__(self, stub: EntitlementsServiceStub, tokens: TokenSource) -> None:
        self._stub = stub
        self._tokens = tokens
        self._revision = 0
        self._heard_at = float("-inf")
        self._descriptors: dict[str, DomainDescriptor] | None = None
        self._described_at = 0
        # Entitlements did not answer: until then nobody waits for it again.
        self._ask_again_at = float("-inf")
        self._plans: OrderedDict[tuple[str, str], entitlements_pb2.GetEntitlementsResponse] = (
            OrderedDict()
        )

    async def of(self, caller: Caller) -> entitlements_pb2.GetEntitlementsResponse:
        """What *caller* is entitled to. Raises Failure when it is neither cached nor to be had."""
        key = (caller.user_id, caller.clinic_id)
        cached = self._plans.get(key)
        if cached is not None and self._is_fresh(cached):
            self._plans.move_to_end(key)
            return cached
        request = entitlements_pb2.GetEntitlementsRequest(
            user_id=caller.user_id, clinic_id=caller.clinic_id
        )
        found: entitlements_pb2.GetEntitlementsResponse = await answered(
            self._call(self._stub.GetEntitlements, request)
        )
        self._plans[key] = found
        if len(self._plans) > CACHED_PLANS:
            self._plans.popitem(last=False)
        return found

    def _is_fresh(self, cached: entitlements_pb2.GetEntitlementsResponse) -> bool:
        """A live Watch says whether anything changed; without it an answer has its own time."""
        if self._is_live():
            return cached.revision >= self._revision
        return datetime.now(UTC) < cached.valid_until.ToDatetime(tzinfo=UTC)

    def _is_live(self) -> bool:
        return asyncio.get_running_loop().time() - self._heard_at < WATCH_SILENCE_SECONDS

    async def descriptors(self) -> Mapping[str, DomainDescriptor]:
        """The domains by name. While entitlements is away, those last known."""
        known, now = self._descriptors, asyncio.get_running_loop().time()
        live = self._is_live()
        fresh = self._described_at == self._revision if live else now < self._ask_again_at
        if known is not None and fresh:
            return known
        try:
            while True:
                revision = self._revision
                found = await self._read_descriptors(
                    CALL_SECONDS if known is None else DESCRIPTORS_SECONDS
                )
                if revision == self._revision:  # else what was read may be from before the change
                    break
        except Failure:
            if known is None:
                raise
            self._ask_again_at = now + DESCRIPTORS_SECONDS
            return known
        self._descriptors, self._described_at = found, revision
        return found

    async def _read_descriptors(self, seconds: float) -> dict[str, DomainDescriptor]:
        request = entitlements_pb2.ListDescriptorsRequest(page_size=500)
        found: dict[str, DomainDescriptor] = {}
        while True:
            page = await answered(self._call(self._stub.ListDescriptors, request, seconds))
            found |= {each.name: each for each in page.descriptors}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def _call(self, method: Callable[..., Any], request: Any, seconds: float = CALL_SECONDS) -> Any:
        return method(request, timeout=deadline_left(seconds), metadata=as_service(self._tokens))

    async def follow(self) -> None:
        """Follow the changes, for ever; run as a task."""
        while True:
            try:
                await self._watch()
            except (grpc.aio.AioRpcError, Failure):
                self._heard_at = float("-inf")
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    async def _watch(self) -> None:
        request = entitlements_pb2.WatchRequest()
        stream = self._stub.Watch(request, metadata=as_service(self._tokens))
        loop = asyncio.get_running_loop()
        async for change in stream:
            self._revision = change.revision
            self._heard_at = loop.time()


class Usage:
    """Claims, batched: what has gathered is sent as soon as the batch before is answered."""

    def __init__(self, stub: UsageServiceStub, tokens: TokenSource, telemetry: Telemetry) -> None:
        self._stub = stub
        self._tokens = tokens
        self._telemetry = telemetry
        self._waiting: list[Claimed] = []
        self._some = asyncio.Event()

    async def consume(self, claim: usage_pb2.Claim) -> usage_pb2.Admission:
        """The decision on *claim*. Raises StoreUnavailable, DeadlineExceeded.

        A claim whose decision comes too late for whoever made it is given back.
        """
        decided: asyncio.Future[usage_pb2.Admission] = asyncio.get_running_loop().create_future()
        self._waiting.append((claim, decided, otel_context.get_current()))
        self._some.set()
        try:
            async with asyncio.timeout(deadline_left(CALL_SECONDS)):
                return await decided
        except TimeoutError:
            raise DeadlineExceeded from None

    async def run(self) -> None:
        """Send what waits, for ever; run as a task."""
        while True:
            await self._some.wait()
            batch, self._waiting = self._waiting[:MOST_CLAIMS], self._waiting[MOST_CLAIMS:]
            if not self._waiting:
                self._some.clear()
            batch = [each for each in batch if not each[1].done()]
            if batch:
                await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        try:
            with self._telemetry.together("consume claims", [trace for _, _, trace in batch]):
                await self._decide(batch)
        except Exception as error:
            failure = store_failure(error)
            for _, decided, _ in batch:
                if not decided.done():
                    decided.set_exception(failure)
            if not isinstance(error, Failure):
                raise

    async def _decide(self, batch: Batch) -> None:
        request = usage_pb2.ConsumeBatchRequest(claims=[claim for claim, _, _ in batch])
        try:
            response = await answered(self._settling(self._stub.ConsumeBatch, request))
        except Failure as failure:
            if failure.code is not grpc.StatusCode.INVALID_ARGUMENT or len(batch) == 1:
                raise
            for each in batch:  # one claim is wrong: it must not cost the others theirs
                await self._send([each])
            return
        for (claim, decided, _), answer in zip(batch, response.admissions, strict=True):
            if not decided.done():
                tell_decision(decided, answer)
            elif answer.admission.HasField("granted") and not answer.admission.replayed:
                await self._give_back(claim)

    async def _give_back(self, claim: usage_pb2.Claim) -> None:
        """Nobody waits for the decision any more, so nothing will be carried out for it."""
        try:
            await self.release(claim.user_id, claim.operation_id)
        except Failure:
            return  # a modify's reservation ends by itself

    async def release(self, user_id: str, operation_id: str, count: int = 0) -> None:
        """Give back what was not carried out. Raises Failure; usage then does it later."""
        request = usage_pb2.ReleaseRequest(user_id=user_id, operation_id=operation_id, count=count)
        await answered(self._settling(self._stub.Release, request))

    async def settle(self, user_id: str, operation_id: str) -> None:
        request = usage_pb2.SettleRequest(user_id=user_id, operation_id=operation_id)
        await answered(self._settling(self._stub.Settle, request))

    def _settling(self, method: Callable[..., Any], request: Any) -> Any:
        """A call that is made whatever is left of the caller's deadline."""
        return method(request, timeout=CALL_SECONDS, metadata=as_service(self._tokens))

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


def store_failure(error: Exception) -> Failure:
    """Usage away, or its store: to a caller the counts cannot be kept either way (USE-7)."""
    if isinstance(error, Failure) and error.reason != "PEER_UNAVAILABLE":
        return error
    return StoreUnavailable("usage cannot be counted at the moment")


def tell_decision(
    decided: asyncio.Future[usage_pb2.Admission], answer: usage_pb2.BatchedAdmission
) -> None:
    if answer.HasField("admission"):
        decided.set_result(answer.admission)
    else:
        decided.set_exception(PeerUnavailable("a claim could not be decided"))


class Domains:
    """The domains' own services, over channels that are kept; the caller's token goes along."""

    def __init__(
        self,
        stack: AsyncExitStack,
        tls: PeerTls | None,
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
        check_aggregate(answer)
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
            return await call(request, timeout=seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise told_by_domain(failure_from(error), error.code()) from None

    async def _channel(self, endpoint: str) -> grpc.aio.Channel:
        async with self._opening:
            if endpoint not in self._channels:
                try:
                    opened = await self._stack.enter_async_context(
                        channel(endpoint, tls=self._tls, telemetry=self._telemetry)
                    )
                except Failure:  # where it is said to be cannot be called
                    raise DomainUnreachable("the domain does not answer") from None
                self._channels[endpoint] = opened
            return self._channels[endpoint]


@asynccontextmanager
async def open_domains(
    tls: PeerTls | None, tokens: TokenSource, seconds: float, telemetry: Telemetry
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
    """A domain's refusal by its code and reason; its absence and its breakdowns by names of ours.

    Its words stay with it: they may hold anything.
    """
    if failure.reason == "PEER_UNAVAILABLE":
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return DomainUnavailable("the domain does not answer")
        return DomainMalfunction("the domain's answer makes no sense")
    if failure.reason in ("STORE_UNAVAILABLE", "OVERLOADED"):
        return DomainUnavailable("the domain does not answer", retry_after=failure.retry_after)
    if failure.reason == "INTERNAL":
        return DomainMalfunction("the domain broke")
    if isinstance(failure, PeerFailure):
        return PeerFailure(code, "", reason=plain_reason(failure.reason), details=failure.details)
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
    contradicts = response.committed != all(applied) or (any(applied) and not all(applied))
    if request.validate_only:
        contradicts = response.committed
    if contradicts:
        raise DomainMalfunction("the domain's answer contradicts itself")


def check_aggregate(answer: domain_pb2.AggregateResponse) -> None:
    groups = [*answer.groups, *(each.figures for each in answer.series)]
    if any(each.numerator < 0 or each.denominator < each.numerator for each in groups):
        raise DomainMalfunction("the domain's figures make no sense")


def completing(
    stub: RouterServiceStub, tokens: TokenSource, entitlements: Entitlements
) -> Complete:
    """Asks the router in the name of the caller, to whom the answer is charged (ROU-6)."""

    async def complete(request: router_pb2.CompleteRequest) -> router_pb2.CompleteResponse:
        caller = current_caller()
        plan = (await entitlements.of(caller)).plan
        request.user_id, request.clinic_id = caller.user_id, caller.clinic_id
        if plan.HasField("daily_model_budget_micros"):
            request.daily_budget_micros = plan.daily_model_budget_micros
        answer: router_pb2.CompleteResponse = await answered(
            stub.Complete(
                request,
                timeout=COMPLETE_SHARE * deadline_left(COMPLETE_SECONDS / COMPLETE_SHARE),
                metadata=as_service(tokens),
            )
        )
        return answer

    return complete


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
