"""What is told of a transaction: what it is about, and nothing of whom (ALL-4, LOG-6)."""

import logging
from typing import Any

import psycopg
import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import StatusCode

from services.runtime.sql_watch import SqlWatch, summary_of
from services.runtime.telemetry import Telemetry

URL = "postgresql://gatehouse_usage:secret@db.example.com:6543/gatehouse?sslmode=require"


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        ("SELECT 1", "SELECT"),
        ("SELECT name FROM usage.users WHERE id = %s FOR UPDATE", "SELECT usage.users"),
        ("SELECT a FROM x.y FOR NO KEY UPDATE SKIP LOCKED", "SELECT x.y"),
        (
            "INSERT INTO usage.receipts (a) VALUES (%s) ON CONFLICT (a) DO UPDATE SET a = 1",
            "INSERT usage.receipts",
        ),
        ("UPDATE gateway.requests SET a = %s", "UPDATE gateway.requests"),
        (
            "WITH gone AS (DELETE FROM a.b RETURNING id) INSERT INTO c.d SELECT id FROM gone",
            "DELETE a.b INSERT c.d",
        ),
        ("select p.x from e.p join e.q using (id)", "SELECT e.p SELECT e.q"),
        ("SELECT extract(epoch FROM now())", "SELECT"),
        ("SELECT set_config('gatehouse.user_id', %s, true)", "SELECT"),
        ("LISTEN oplog_position", ""),
    ],
)
def test_a_statement_is_told_by_its_verbs_and_tables(statement: str, summary: str) -> None:
    """ALL-4: what locks, what is only a function's argument and what is a constant is not told."""
    assert summary_of(statement) == summary


def watched(sampler: Any = ALWAYS_ON) -> tuple[SqlWatch, InMemorySpanExporter]:
    spans = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = Telemetry(provider.get_tracer("t"), NoOpMeter("t"), logging.getLogger("t"))
    return SqlWatch(telemetry, URL, "usage"), spans


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


def test_a_transaction_is_one_span_named_after_its_statements() -> None:
    """ALL-4: each kind of statement once, and how many there were."""
    watch, spans = watched()
    with watch.transaction() as statements:
        assert statements is not None
        statements += ["SELECT usage.users", "INSERT usage.receipts", "SELECT usage.users"]
    span = only(spans)
    assert span.name == "SELECT usage.users; INSERT usage.receipts"
    assert dict(span.attributes or {}) == {
        "db.system.name": "postgresql",
        "db.namespace": "gatehouse|usage",
        "db.query.summary": span.name,
        "db.operation.batch.size": 3,
        "server.address": "db.example.com",
        "server.port": 6543,
    }
    assert "secret" not in span.to_json()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (psycopg.errors.UniqueViolation("Key (name)=(Ana Souza) exists"), "23505"),
        (psycopg.OperationalError("no route to Ana Souza"), "OperationalError"),
        (TimeoutError("Ana Souza"), "TimeoutError"),
    ],
)
def test_a_transaction_that_fails_says_how_by_a_code(error: Exception, told: str) -> None:
    """LOG-6: never in the words of the exception, which may be anybody's data."""
    watch, spans = watched()
    with pytest.raises(type(error)), watch.transaction():
        raise error
    span = only(spans)
    assert (span.attributes or {})["error.type"] == told
    assert span.status.status_code is StatusCode.ERROR
    assert "Ana Souza" not in span.to_json()


def test_nothing_is_noted_of_what_nobody_sees() -> None:
    """ALL-4: within a trace that is not sampled, or of a service that sends its spans nowhere."""
    watch, spans = watched(ALWAYS_OFF)
    with watch.transaction() as statements:
        assert statements is None
    assert not spans.get_finished_spans()
