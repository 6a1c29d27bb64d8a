"""The services that the gateway asks: entitlements, usage, router, domains."""

import asyncio
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

from services.gateway.failures import DomainMalfunction, DomainUnavailable
from services.runtime.calling import (
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
    PeerUnavailable,
    StoreUnavailable,
    failure_from,
)
from services.runtime.identity import Caller

CALL_SECONDS = 5.0
WATCH_RETRY_SECONDS = 0.5
WATCH_SILENCE_SECONDS = 2.0
CACHED_PLANS = 10_000
MOST_CLAIMS = 500

Complete = Callable[[router_pb2.CompleteRequest], Awaitable[router_pb2.CompleteResponse]]
"""Asks the router; raises Failure when no model answers within the deadline."""

Answer = TypeVar("Answer")


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
        if self._descriptors is None or not self._is_live():
            try:
                self._descriptors = await self._read_descriptors()
            except Failure:
                if self._descriptors is None:
                    raise
        return self._descriptors

    async def _read_descriptors(self) -> dict[str, DomainDescriptor]:
        request = entitlements_pb2.ListDescriptorsRequest(page_size=500)
        found: dict[str, DomainDescriptor] = {}
        while True:
            page = await answered(self._call(self._stub.ListDescriptors, request))
            found |= {each.name: each for each in page.descriptors}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        return method(
            request, timeout=deadline_left(CALL_SECONDS), metadata=as_service(self._tokens)
        )

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
            if change.revision != self._revision or self._heard_at == float("-inf"):
                self._revision = change.revision
                self._descriptors = None
            self._heard_at = loop.time()


class Usage:
    """Claims, batched: what has gathered is sent as soon as the batch before is answered."""

    def __init__(self, stub: UsageServiceStub, tokens: TokenSource) -> None:
        self._stub = stub
        self._tokens = tokens
        self._waiting: list[tuple[usage_pb2.Claim, asyncio.Future[usage_pb2.Admission]]] = []
        self._some = asyncio.Event()

    async def consume(self, claim: usage_pb2.Claim) -> usage_pb2.Admission:
        """The decision on *claim*. Raises StoreUnavailable, DeadlineExceeded."""
        decided: asyncio.Future[usage_pb2.Admission] = asyncio.get_running_loop().create_future()
        self._waiting.append((claim, decided))
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
            if batch:
                await self._send(batch)

    async def _send(
        self, batch: Sequence[tuple[usage_pb2.Claim, asyncio.Future[usage_pb2.Admission]]]
    ) -> None:
        request = usage_pb2.ConsumeBatchRequest(claims=[claim for claim, _ in batch])
        try:
            response = await self._stub.ConsumeBatch(
                request, timeout=CALL_SECONDS, metadata=as_service(self._tokens)
            )
        except grpc.aio.AioRpcError as error:
            failure = store_failure(failure_from(error))
            for _, decided in batch:
                if not decided.done():
                    decided.set_exception(failure)
            return
        for (_, decided), answer in zip(batch, response.admissions, strict=True):
            if decided.done():
                continue
            if answer.HasField("admission"):
                decided.set_result(answer.admission)
            else:
                decided.set_exception(PeerUnavailable("a claim could not be decided"))

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


def store_failure(failure: Failure) -> Failure:
    """Usage away, or its store: to a caller the counts cannot be kept either way (USE-7)."""
    if failure.reason == "PEER_UNAVAILABLE":
        return StoreUnavailable("usage cannot be counted at the moment")
    return failure


class Domains:
    """The domains' own services, over channels that are kept; the caller's token goes along."""

    def __init__(self, stack: AsyncExitStack, tls: PeerTls | None, seconds: float) -> None:
        self._stack = stack
        self._tls = tls
        self._seconds = seconds
        self._stubs: dict[str, DomainServiceStub] = {}
        self._opening = asyncio.Lock()

    async def execute_batch(
        self,
        descriptor: DomainDescriptor,
        request: domain_pb2.ExecuteBatchRequest,
        seconds: float | None = None,
    ) -> domain_pb2.ExecuteBatchResponse:
        """Raises Failure: DOMAIN_UNAVAILABLE, DEADLINE_EXCEEDED, DOMAIN_MALFUNCTION and others."""
        response: domain_pb2.ExecuteBatchResponse = await self._ask(
            descriptor, "ExecuteBatch", request, seconds
        )
        check_batch(request, response)
        return response

    async def get_operation(
        self, descriptor: DomainDescriptor, operation_id: str, seconds: float
    ) -> domain_pb2.GetOperationResponse:
        request = domain_pb2.GetOperationRequest(operation_id=operation_id)
        answer: domain_pb2.GetOperationResponse = await self._ask(
            descriptor, "GetOperation", request, seconds
        )
        return answer

    async def aggregate(
        self, descriptor: DomainDescriptor, request: domain_pb2.AggregateRequest
    ) -> domain_pb2.AggregateResponse:
        answer: domain_pb2.AggregateResponse = await self._ask(
            descriptor, "Aggregate", request, None
        )
        check_aggregate(answer)
        return answer

    async def _ask(
        self, descriptor: DomainDescriptor, method: str, request: Any, seconds: float | None
    ) -> Any:
        stub = await self._stub(descriptor.endpoint)
        timeout = deadline_left(self._seconds) if seconds is None else seconds
        try:
            return await getattr(stub, method)(request, timeout=timeout, metadata=as_caller())
        except grpc.aio.AioRpcError as error:
            raise told_by_domain(failure_from(error), error.code()) from None

    async def _stub(self, endpoint: str) -> DomainServiceStub:
        async with self._opening:
            if endpoint not in self._stubs:
                opened = await self._stack.enter_async_context(channel(endpoint, tls=self._tls))
                self._stubs[endpoint] = DomainServiceStub(opened)
            return self._stubs[endpoint]


def told_by_domain(failure: Failure, code: grpc.StatusCode) -> Failure:
    """A domain's refusal as it is; its absence and its breakdowns under names of our own."""
    if failure.reason == "PEER_UNAVAILABLE":
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return DomainUnavailable("the domain does not answer")
        return DomainMalfunction("the domain's answer makes no sense")
    if failure.reason in ("STORE_UNAVAILABLE", "OVERLOADED"):
        return DomainUnavailable("the domain does not answer", retry_after=failure.retry_after)
    if failure.reason == "INTERNAL":
        return DomainMalfunction("the domain broke")
    return failure


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
    if response.committed and (request.validate_only or not all(applied)):
        raise DomainMalfunction("the domain's answer contradicts itself")
    if not request.validate_only and not response.committed and all(applied):
        raise DomainMalfunction("the domain's answer contradicts itself")


def check_aggregate(answer: domain_pb2.AggregateResponse) -> None:
    groups = [*answer.groups, *(each.figures for each in answer.series)]
    if any(each.numerator < 0 or each.denominator < each.numerator for each in groups):
        raise DomainMalfunction("the domain's figures make no sense")


def completing(stub: RouterServiceStub, tokens: TokenSource) -> Complete:
    async def complete(request: router_pb2.CompleteRequest) -> router_pb2.CompleteResponse:
        answer: router_pb2.CompleteResponse = await answered(
            stub.Complete(
                request,
                timeout=deadline_left(COMPLETE_SECONDS),
                metadata=as_service(tokens),
            )
        )
        return answer

    return complete


COMPLETE_SECONDS = 15.0


@asynccontextmanager
async def at_work(*loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Tasks that run as long as the block."""
    running = [asyncio.ensure_future(each()) for each in loops]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
