"""What a request leaves behind for those who read traces: one trace through every service."""

import asyncio
import secrets
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import grpc.aio
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.embedded import suite

SERVICES = ("gateway", "usage", "clinic", "oplog")


class Spans(otlp_rpc.TraceServiceServicer):
    """Stands for the collector outside: keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []

    def of(self, trace_id: str) -> list[tuple[str, Span]]:
        return [each for each in list(self.spans) if each[1].trace_id.hex() == trace_id]

    def Export(
        self, request: otlp.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> otlp.ExportTraceServiceResponse:
        for resource_spans in request.resource_spans:
            attributes = resource_spans.resource.attributes
            (name,) = (each.value.string_value for each in attributes if each.key == "service.name")
            scopes = resource_spans.scope_spans
            self.spans += [(name, span) for scope in scopes for span in scope.spans]
        return otlp.ExportTraceServiceResponse()


class Metrics(metrics_rpc.MetricsServiceServicer):
    def Export(
        self, request: metrics.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics.ExportMetricsServiceResponse:
        return metrics.ExportMetricsServiceResponse()


@contextmanager
def collecting() -> Iterator[tuple[Spans, str]]:
    """A collector on threads of its own: a service that ends waits for it in the event loop."""
    server, spans = grpc.server(ThreadPoolExecutor(4)), Spans()
    otlp_rpc.add_TraceServiceServicer_to_server(spans, server)
    metrics_rpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield spans, f"127.0.0.1:{port}"
    finally:
        server.stop(1).wait()


def is_whole(spans: list[tuple[str, Span]], parent: str) -> bool:
    """Whether every service is in the trace, and every span hangs from another or from *parent*."""
    known = {parent, *(span.span_id.hex() for _, span in spans)}
    hung = all(span.parent_span_id.hex() in known for _, span in spans)
    return hung and {name for name, _ in spans} == {f"gatehouse-{name}" for name in SERVICES}


async def test_a_request_is_one_trace_through_every_service() -> None:
    """ALL-4, LOG-6: from the caller's trace context on, and without a word of what was asked."""
    trace_id, parent = secrets.token_hex(16), secrets.token_hex(8)
    words = "Show the appointments of Ana Souza of tomorrow"
    with collecting() as (collector, address):
        overrides = {name: {"otlp_endpoint": address} for name in SERVICES}
        async with suite(model_tiers=(), overrides=overrides) as running:
            channel = grpc.aio.insecure_channel(running.addresses["gateway"])
            answer = await GatewayServiceStub(channel).Execute(
                pb.ExecuteRequest(request_id=str(uuid.uuid4()), instruction=words),
                timeout=20,
                metadata=[
                    ("authorization", f"Bearer {running.token()}"),
                    ("traceparent", f"00-{trace_id}-{parent}-01"),
                ],
            )
            await channel.close()
            async with asyncio.timeout(20):  # each service sends its spans every few seconds
                while not is_whole(spans := collector.of(trace_id), parent):
                    await asyncio.sleep(0.05)
    assert answer.trace_id == trace_id
    (root,) = (span for _, span in spans if span.parent_span_id.hex() == parent)
    assert root.name == "gatehouse.gateway.v1.GatewayService/Execute"
    text = " ".join(str(span) for _, span in collector.spans)
    assert not any(word in text for word in ("Souza", "Show", "tomorrow"))
