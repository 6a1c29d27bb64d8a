"""Traces, metrics and logs of one service (ALL-4).

One thin layer over OpenTelemetry's SDK: no global provider, since several services may share a
process. Spans carry identifiers of operations only, never what users wrote or records hold (LOG-6).
"""

import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
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
from services.runtime.tls import PeerTls, Tls, peer_tls

PROPAGATOR = TraceContextTextMapPropagator()
IDS = RandomIdGenerator()
EXPORT_SECONDS = 5
# The semantic conventions' for seconds; the SDK's own are for milliseconds.
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
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

    def begun(self, name: str, kind: SpanKind, attributes: Attributes) -> Span | None:
        """A span under the running one, which whoever asked ends; None where nobody would see it.

        What is not recorded costs a look at the running span, and nothing else.
        """
        running = trace.get_current_span()
        if running.get_span_context().is_valid and not is_recorded(running):
            return None
        span = self.tracer.start_span(name, kind=kind, attributes=attributes)
        return span if is_recorded(span) else None

    @contextmanager
    def together(self, name: str, callers: Sequence[otel_context.Context]) -> Iterator[None]:
        """Around what is done for several *callers* at once: in the trace of one of them.

        That is the first that is recorded. Where others are as well, a span called *name* is linked
        to theirs: a span has one parent, a batch has many.
        """
        recorded = [each for each in callers if is_recorded(trace.get_current_span(each))]
        parent = recorded[0] if recorded else callers[0]
        if len(recorded) < 2:
            token = otel_context.attach(parent)
            try:
                yield
            finally:
                otel_context.detach(token)
            return
        links = [Link(trace.get_current_span(each).get_span_context()) for each in recorded[1:]]
        with current(self.tracer.start_span(name, context=parent, links=links)):
            yield


def is_recorded(span: Span) -> bool:
    """Whether *span* is of a trace that is recorded here, be it over already or not."""
    return not isinstance(span, NonRecordingSpan)


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


def context_out(span: Span | None = None) -> list[tuple[str, str]]:
    """The trace context of *span*, else the running one, as metadata for a call to a peer."""
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier, context=None if span is None else trace.set_span_in_context(span))
    return list(carrier.items())


def server_of(target: str) -> dict[str, str | int]:
    """What the conventions say of the server at a gRPC target: its address, its port if any."""
    place = target.removeprefix("dns:").removeprefix("///")
    if place.startswith("unix:"):
        return {"server.address": place.removeprefix("unix:")}
    host, _, port = place.rpartition(":")
    if not port.isdigit():
        return {"server.address": place}
    return {"server.address": host.strip("[]")} | ({"server.port": int(port)} if int(port) else {})


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


class Renewed:
    """An exporter that is made anew when the certificates change that it shows or trusts."""

    def __init__(self, make: Callable[[PeerTls], Any], tls: Tls) -> None:
        self._make, self._tls = make, tls
        self._shown = tls.current()
        self._exporter = make(self._shown)

    def export(self, batch: Any, **options: Any) -> Any:
        """On the one thread that exports."""
        shown = self._tls.current()
        if shown is not self._shown:
            self._exporter.shutdown()
            self._shown, self._exporter = shown, self._make(shown)
        return self._exporter.export(batch, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exporter, name)


def exporter(kind: Callable[..., Any], endpoint: str, settings: ServiceSettings) -> Any:
    """An exporter to *endpoint*: off this machine as the service reaches its peers."""
    tls = peer_tls(settings)
    if endpoint.startswith(LOOPBACK) or tls is None:
        plain = endpoint.startswith(LOOPBACK)
        return kind(endpoint=endpoint, insecure=plain, timeout=EXPORT_SECONDS)

    def made(shown: PeerTls) -> Any:
        return kind(endpoint=endpoint, credentials=shown.credentials(), timeout=EXPORT_SECONDS)

    return Renewed(made, tls)


@contextmanager
def open_telemetry(settings: ServiceSettings) -> Iterator[Telemetry]:
    """The telemetry of a service; what is left is sent at the end.

    Without an endpoint nothing is measured, and the callers' traces are passed on.
    """
    name, sampler = f"gatehouse.{settings.service}", TraceIdRatioBased(settings.trace_sample_ratio)
    log = logger_of(settings.service, settings.log_level)
    if settings.otlp_endpoint is None:
        yield Telemetry(PassingOn(sampler), NoOpMeterProvider().get_meter(name), log)
        return
    # A seventh of a service's start, for those alone who have somewhere to send to.
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    resource = Resource.create(
        {
            "service.name": f"gatehouse-{settings.service}",
            "service.namespace": "gatehouse",
            # Else the measurements of replicas would be one series, each undoing the other's.
            "service.instance.id": str(uuid.uuid4()),
        }
    )
    spans, measurements = (
        exporter(kind, settings.otlp_endpoint, settings)
        for kind in (OTLPSpanExporter, OTLPMetricExporter)
    )
    tracers = TracerProvider(
        resource=resource, sampler=ParentBased(sampler), shutdown_on_exit=False
    )
    tracers.add_span_processor(BatchSpanProcessor(spans))
    reader = PeriodicExportingMetricReader(measurements)
    meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    try:
        yield Telemetry(tracers.get_tracer(name), meters.get_meter(name), log)
    finally:
        tracers.shutdown()
        meters.shutdown()
