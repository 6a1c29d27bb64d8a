"""Traces and logs: what belongs together is found by one id, and nothing else gets in (ALL-4)."""

import json
import logging
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.runtime.calling import deadline_left, set_deadline
from services.runtime.failure import DeadlineExceeded
from services.runtime.settings import ServiceSettings
from services.runtime.telemetry import (
    JsonLines,
    Telemetry,
    context_in,
    context_out,
    open_telemetry,
    trace_id,
)

SECRET = "the diary of Ana"


class Play(ServiceSettings):
    service: ClassVar[str] = "play"


def settings(**changes: Any) -> Play:
    return Play(jwt_issuer="i", jwt_audience="a", jwks="k", **changes)


@pytest.fixture
def watched() -> tuple[Telemetry, InMemorySpanExporter]:
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    meter: Any = None
    return Telemetry(provider.get_tracer("play"), meter, logging.getLogger("play")), spans


def test_an_exception_marks_its_span_by_its_class_alone(
    watched: tuple[Telemetry, InMemorySpanExporter],
) -> None:
    """LOG-6, ALL-2: what it says may be anybody's data."""
    telemetry, spans = watched
    with pytest.raises(KeyError), telemetry.span("work", attributes={"rows": 3}):
        raise KeyError(SECRET)
    (span,) = spans.get_finished_spans()
    assert SECRET not in span.to_json()
    assert dict(span.attributes or {}) == {"rows": 3, "error.type": "KeyError"}
    assert span.status.status_code is trace.StatusCode.ERROR


def test_a_trace_goes_out_as_it_came_in(watched: tuple[Telemetry, InMemorySpanExporter]) -> None:
    """ALL-4: its id stays, the parent is the span that calls; outside of one nothing goes out."""
    telemetry, _ = watched
    assert context_out() == []
    assert trace_id() == "0" * 32
    came = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with telemetry.span("serve", parent=context_in(came)) as span:
        ((name, value),) = context_out()
        assert name == "traceparent"
        assert value == f"00-{trace_id()}-{span.get_span_context().span_id:016x}-01"
        assert trace_id() == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("came", ["", "nonsense", "00-0-0-00", "00-" + "0" * 32 + "-" + "0" * 16])
def test_a_trace_context_that_is_none_begins_a_new_trace(
    watched: tuple[Telemetry, InMemorySpanExporter], came: str
) -> None:
    """ALL-4."""
    telemetry, _ = watched
    with telemetry.span("serve", parent=context_in({"traceparent": came})):
        assert trace_id() != "0" * 32


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, False), (1.0, True)])
def test_the_ratio_decides_for_new_traces_and_the_caller_for_its_own(
    ratio: float, sampled: bool
) -> None:
    """ALL-4, LOG-3: sampling is for ordinary spans."""
    with open_telemetry(settings(trace_sample_ratio=ratio)) as telemetry:
        with telemetry.span("new") as span:
            assert span.get_span_context().trace_flags.sampled == sampled
        for flag in (0, 1):
            came = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-0{flag}"}
            with telemetry.span("theirs", parent=context_in(came)) as span:
                assert span.get_span_context().trace_flags.sampled == bool(flag)


def line_of(message: str, *arguments: object, error: BaseException | None = None) -> Any:
    info = (type(error), error, None) if error else None
    record = logging.LogRecord("a", logging.INFO, "f", 1, message, arguments, info)
    text = JsonLines("play").format(record)
    text.encode()  # also what no stream could write otherwise
    assert "\n" not in text
    return json.loads(text)


def test_a_log_line_leads_to_its_trace(watched: tuple[Telemetry, InMemorySpanExporter]) -> None:
    """ALL-4: as one JSON object; outside of a trace it names none."""
    telemetry, _ = watched
    assert "trace_id" not in line_of("hello")
    with telemetry.span("work") as span:
        line = line_of("%d rows", 3, error=ValueError("x"))
        assert line["trace_id"] == trace_id()
        assert line["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert (line["message"], line["service"], line["level"]) == ("3 rows", "play", "INFO")
    assert "ValueError: x" in line["exception"]


@given(st.text('a\n\r"\\\0é\u2028\ud800', max_size=20))
def test_whatever_is_logged_is_one_line_of_json(message: str) -> None:
    """ALL-4: nobody writes a second line into the log."""
    assert line_of("%s", message)["message"] == message


@given(st.floats(0.001, 1000), st.none() | st.floats(-10, 1000))
def test_a_call_never_gets_more_time_than_there_is(most: float, left: float | None) -> None:
    """ALL-1: at most what it needs, less than what the caller has, and none when that is over."""
    set_deadline(left)
    try:
        given_ = deadline_left(most)
    except DeadlineExceeded:
        assert left is not None
        assert left < 0.06
    else:
        assert 0 < given_ <= most
        assert left is None or given_ < left
    finally:
        set_deadline(None)
