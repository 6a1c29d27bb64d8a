"""Stands for the collector outside: takes spans and metrics over OTLP, and keeps them."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_rpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Kind: TypeAlias = Span.SpanKind.ValueType
SECONDS = 20.0


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    found: dict[str, Any] = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = (
            [one.string_value for one in value.values] if kind == "array_value" else value
        )
    return found


@dataclass(frozen=True)
class Seen:
    """A span, and the service that made it."""

    service: str
    span: Span

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return values(self.span.attributes)

    def __str__(self) -> str:
        kind = Span.SpanKind.Name(self.span.kind).removeprefix("SPAN_KIND_")
        return f"{self.service} {kind} {self.span.name.rpartition('.')[2]}"


@dataclass
class Collector:
    address: str = ""
    spans: list[Seen] = field(default_factory=list)
    metrics: list[tuple[str, Metric]] = field(default_factory=list)

    def of(self, trace_id: str) -> list[Seen]:
        return [each for each in list(self.spans) if each.span.trace_id.hex() == trace_id]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until what has come is what is waited for: each service sends every few seconds."""
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.05)

    def points(self, name: str) -> list[dict[str, Any]]:
        """The points of a metric, each as it came last: its attributes, and `value` or `count`."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for service, metric in list(self.metrics):
            if metric.name != name:
                continue
            data = getattr(metric, metric.WhichOneof("data"))
            for point in data.data_points:
                about = {"service": service, **values(point.attributes)}
                found[tuple(sorted(about.items()))] = {**about, **measured(point)}
        return list(found.values())


def measured(point: Any) -> dict[str, Any]:
    if hasattr(point, "bucket_counts"):
        return {"count": point.count, "sum": point.sum, "bounds": list(point.explicit_bounds)}
    return {"value": getattr(point, point.WhichOneof("value"))}


def service_of(attributes: list[KeyValue]) -> str:
    name: str = values(attributes)["service.name"]
    return name.removeprefix("gatehouse-")


class Traces(trace_rpc.TraceServiceServicer):
    def __init__(self, kept: Collector) -> None:
        self._kept = kept

    def Export(
        self, request: trace_pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_pb.ExportTraceServiceResponse:
        for each in request.resource_spans:
            service = service_of(list(each.resource.attributes))
            self._kept.spans += [
                Seen(service, s) for scope in each.scope_spans for s in scope.spans
            ]
        return trace_pb.ExportTraceServiceResponse()


class Metrics(metrics_rpc.MetricsServiceServicer):
    def __init__(self, kept: Collector) -> None:
        self._kept = kept

    def Export(
        self, request: metrics_pb.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_pb.ExportMetricsServiceResponse:
        for each in request.resource_metrics:
            service = service_of(list(each.resource.attributes))
            found = [(service, metric) for scope in each.scope_metrics for metric in scope.metrics]
            self._kept.metrics += found
        return metrics_pb.ExportMetricsServiceResponse()


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on threads of its own: a service that ends waits for it in the event loop."""
    server, kept = grpc.server(ThreadPoolExecutor(4)), Collector()
    trace_rpc.add_TraceServiceServicer_to_server(Traces(kept), server)
    metrics_rpc.add_MetricsServiceServicer_to_server(Metrics(kept), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    kept.address = f"127.0.0.1:{port}"
    try:
        yield kept
    finally:
        server.stop(1).wait()
