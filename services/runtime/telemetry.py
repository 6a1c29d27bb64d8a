"""Traces, metrics and logs of one service (ALL-4).

One thin layer over OpenTelemetry's SDK: no global provider, since several services may share a
process. Spans carry identifiers of operations only, never what users wrote or records hold (LOG-6).
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.runtime.settings import LOOPBACK, ServiceSettings
from services.runtime.tls import peer_tls

PROPAGATOR = TraceContextTextMapPropagator()
IDS = RandomIdGenerator()
EXPORT_SECONDS = 5
Attributes = Mapping[str, str | bool | int | float]


class Telemetry:
    """What a service traces, measures and logs with."""

    def __init__(self, tracer: Tracer, meter: Meter, log: logging.Logger) -> None:
        self.tracer = tracer
        self.meter = meter
        self.log = log

    @contextmanager
    def span(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: otel_context.Context | None = None,
    ) -> Iterator[Span]:
        """A span around the block. An exception marks it by its class alone."""
        span = self.tracer.start_span(name, context=parent, kind=kind, attributes=attributes)
        with current(span):
            try:
                yield span
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", type(error).__name__)
                raise


def current(span: Span) -> AbstractContextManager[Span]:
    """*span* as the running one for the block, ended with it. Exceptions are not written on it."""
    return trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    )


class PassingOn(NoOpTracer):
    """For a service that sends its spans nowhere: it makes none, and the caller's trace goes on.

    A call that comes without a trace begins one, which those that are called in it may record.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def start_span(
        self, name: str, context: otel_context.Context | None = None, *args: Any, **kwargs: Any
    ) -> Span:
        running = trace.get_current_span(context).get_span_context()
        return NonRecordingSpan(running if running.is_valid else self._begun(name))

    def _begun(self, name: str) -> SpanContext:
        trace_id = IDS.generate_trace_id()
        decision = self._sampler.should_sample(None, trace_id, name).decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(trace_id, IDS.generate_span_id(), is_remote=False, trace_flags=flags)


def trace_id() -> str:
    """The running trace's id, 32 hexadecimal digits; zeros outside of one."""
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


def context_in(metadata: Mapping[str, str]) -> otel_context.Context:
    """The caller's trace context, out of a call's metadata."""
    return PROPAGATOR.extract(metadata)


def context_out() -> list[tuple[str, str]]:
    """The running trace context as metadata for a call to a peer."""
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier)
    return list(carrier.items())


class JsonLines(logging.Formatter):
    """One JSON object a line, with the trace that it belongs to."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        context = trace.get_current_span().get_span_context()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "message": record.getMessage(),
        }
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
            line["span_id"] = f"{context.span_id:016x}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def logger_of(service: str, level: str) -> logging.Logger:
    """The service's logger, writing JSON lines to standard error."""
    log = logging.getLogger(f"gatehouse.{service}")
    log.setLevel(level)
    log.propagate = False
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines(service))
        log.addHandler(handler)
    return log


def exporting_to(endpoint: str, settings: ServiceSettings) -> dict[str, Any]:
    """How the exporters reach *endpoint*: off this machine as the service reaches its peers."""
    tls = peer_tls(settings)
    if endpoint.startswith(LOOPBACK) or tls is None:
        return {"endpoint": endpoint, "insecure": endpoint.startswith(LOOPBACK)}
    return {"endpoint": endpoint, "insecure": False, "credentials": tls.credentials()}


@contextmanager
def open_telemetry(settings: ServiceSettings) -> Iterator[Telemetry]:
    """The telemetry of a service; what is left is sent at the end, to the endpoint if any."""
    resource = Resource.create(
        {"service.name": f"gatehouse-{settings.service}", "service.namespace": "gatehouse"}
    )
    sampler = TraceIdRatioBased(settings.trace_sample_ratio)
    tracers = TracerProvider(
        resource=resource, sampler=ParentBased(sampler), shutdown_on_exit=False
    )
    readers = []
    if settings.otlp_endpoint:
        to = exporting_to(settings.otlp_endpoint, settings)
        spans = OTLPSpanExporter(timeout=EXPORT_SECONDS, **to)
        tracers.add_span_processor(BatchSpanProcessor(spans))
        metrics = OTLPMetricExporter(timeout=EXPORT_SECONDS, **to)
        readers.append(PeriodicExportingMetricReader(metrics))
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    name = f"gatehouse.{settings.service}"
    try:
        yield Telemetry(
            tracers.get_tracer(name) if settings.otlp_endpoint else PassingOn(sampler),
            meters.get_meter(name),
            logger_of(settings.service, settings.log_level),
        )
    finally:
        tracers.shutdown()
        meters.shutdown()
