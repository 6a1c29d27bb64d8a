"""A service of the tests' own on a socket.

The contracts are usage's and entitlements'; what it does is the test's.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as entitlements
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as entitlements_rpc
from gatehouse.usage.v1 import usage_pb2 as usage
from gatehouse.usage.v1 import usage_pb2_grpc as usage_rpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.runtime.failure import Failure, failure_from
from services.runtime.serving import serving
from services.runtime.settings import ServiceSettings
from services.runtime.telemetry import Telemetry

USER = "6f1c0a52-6c55-4f4e-9c7d-0d0f4b8f7a10"
SERVICE = "gatehouse.usage.v1.UsageService"
METHOD = f"{SERVICE}/GetUsage"
# Callers at once in a Traffic.
MANY = 20
NAMES = (SERVICE, "gatehouse.entitlements.v1.EntitlementsService")

Answer = Callable[[usage.GetUsageRequest, Any], Awaitable[usage.GetUsageResponse]]
Follow = Callable[[entitlements.WatchRequest, Any], AsyncIterator[entitlements.WatchResponse]]


class Settings(ServiceSettings):
    service: ClassVar[str] = "stand"


class Observed(Telemetry):
    """Telemetry whose spans and durations the test reads."""

    def __init__(self) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        meters = MeterProvider([self._reader], shutdown_on_exit=False)
        super().__init__(
            tracers.get_tracer("stand"), meters.get_meter("stand"), logging.getLogger("stand")
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def durations(self) -> list[Any]:
        """The points of the only histogram."""
        found = self._reader.get_metrics_data()
        (resource,) = found.resource_metrics if found else ()
        (metric,) = resource.scope_metrics[0].metrics
        return list(metric.data.data_points)


async def plain_answer(_: usage.GetUsageRequest, __: Any) -> usage.GetUsageResponse:
    return usage.GetUsageResponse(counter=usage.UsageCounter(user_id=USER))


async def plain_follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
    for revision in range(1, 4):
        yield entitlements.WatchResponse(revision=entitlements.Revision(number=revision))


class UsageDesk(usage_rpc.UsageServiceServicer):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def GetUsage(
        self, request: usage.GetUsageRequest, context: Any
    ) -> usage.GetUsageResponse:
        return await self._answer(request, context)


class EntitlementsDesk(entitlements_rpc.EntitlementsServiceServicer):
    def __init__(self, follow: Follow) -> None:
        self._follow = follow

    async def Watch(
        self, request: entitlements.WatchRequest, context: Any
    ) -> AsyncIterator[entitlements.WatchResponse]:
        async for each in self._follow(request, context):
            yield each


@dataclass
class Stand:
    """A service that serves, and what calls it."""

    address: str
    settings: Settings
    telemetry: Observed
    channel: grpc.aio.Channel
    token: str

    @property
    def call(self) -> dict[str, Any]:
        return {"metadata": [("authorization", f"Bearer {self.token}")], "timeout": 10}

    @property
    def stub(self) -> usage_rpc.UsageServiceStub:
        return usage_rpc.UsageServiceStub(self.channel)

    async def get(self, **changes: Any) -> usage.GetUsageResponse:
        request = usage.GetUsageRequest(user_id=USER)
        answer: usage.GetUsageResponse = await self.stub.GetUsage(
            request, **{**self.call, **changes}
        )
        return answer

    def watch(self, **changes: Any) -> Any:
        stub = entitlements_rpc.EntitlementsServiceStub(self.channel)
        return stub.Watch(entitlements.WatchRequest(), **{**self.call, **changes})

    async def bytes_sent(self, path: str, content: bytes) -> bytes:
        """Call a method with bytes that no stub would send."""
        call = self.channel.unary_unary(f"/{path}")
        answer: bytes = await call(content, **self.call)
        return answer

    async def health_of(self, name: str = "") -> str:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=10)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@asynccontextmanager
async def stand(
    tokens: Any,
    *,
    answer: Answer = plain_answer,
    follow: Follow = plain_follow,
    health: Mapping[str, Callable[[], Awaitable[bool]]] | None = None,
    spared: frozenset[str] = frozenset(),
    telemetry: Observed | None = None,
    options: Any = (),
    **given: Any,
) -> AsyncIterator[Stand]:
    settings = Settings(**{**tokens.settings, **given})
    observed = telemetry or Observed()

    def add(server: grpc.aio.Server) -> None:
        usage_rpc.add_UsageServiceServicer_to_server(UsageDesk(answer), server)
        entitlements_rpc.add_EntitlementsServiceServicer_to_server(EntitlementsDesk(follow), server)

    serves = serving(
        settings, observed, add, service_names=NAMES, health=health or {}, spared=spared
    )
    # The channel outlasts the service: a caller is there while the service goes.
    async with AsyncExitStack() as stack, serves as address:
        opened = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1), *options]
        )
        channel = await stack.enter_async_context(opened)
        yield Stand(address, settings, observed, channel, tokens.user(roles=("service",)))


async def failure_of(call: Awaitable[Any]) -> Failure:
    """What a call failed with, which has to be in the words of a service of ours."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    failure = failure_from(error)
    assert failure.code is error.code(), error.details()
    assert failure.message == error.details()
    return failure


class Gate:
    """Holds handlers until the test lets them go, and tells it that they are there."""

    def __init__(self) -> None:
        self.arrived = 0
        self._some = asyncio.Condition()
        self._open = asyncio.Event()

    async def hold(self) -> None:
        async with self._some:
            self.arrived += 1
            self._some.notify_all()
        await self._open.wait()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10), self._some:
            await self._some.wait_for(lambda: self.arrived >= count)

    def open(self) -> None:
        self._open.set()


class Traffic:
    """Callers that never stop calling, and what they could not get answered."""

    def __init__(self, stub: usage_rpc.UsageServiceStub, call: dict[str, Any]) -> None:
        self._stub, self._call = stub, call
        self.answered = 0
        self.errors: list[grpc.aio.AioRpcError] = []
        self._ended = False
        self._some = asyncio.Condition()

    async def __aenter__(self) -> "Traffic":
        self._callers = [asyncio.create_task(self._go_on()) for _ in range(MANY)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._callers)

    async def _go_on(self) -> None:
        while not self._ended:
            try:
                await self._stub.GetUsage(usage.GetUsageRequest(user_id=USER), **self._call)
            except grpc.aio.AioRpcError as error:
                self.errors.append(error)
            async with self._some:
                self.answered += 1
                self._some.notify_all()

    async def more(self, count: int) -> None:
        wanted = self.answered + count
        async with asyncio.timeout(20), self._some:
            await self._some.wait_for(lambda: self.answered >= wanted)
