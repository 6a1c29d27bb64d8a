"""What is traced and measured of a database: one span a transaction, with what it ran (ALL-4).

By OpenTelemetry's conventions for database clients. A transaction and not a statement is the unit:
it is what is waited for, and statements that go out together have no times of their own. Of a
statement its verbs and tables are told, never its text or what is bound to it (LOG-6).
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import PipelineStatus
from psycopg.rows import TupleRow
from psycopg.sql import Composable

from services.runtime.telemetry import DURATION_BUCKETS, Telemetry

STEP = re.compile(
    r"(?<!FOR )(?<!KEY )(?<!DO )\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|COPY|FROM|JOIN|USING)\b"
    r"(?:\s+(\w+\.\w+))?",
    re.IGNORECASE,
)
LONGEST_SUMMARY = 255


@lru_cache(maxsize=1024)
def summary_of(statement: str) -> str:
    """The verbs of a statement, each with its tables, as far as those are named with their schema.

    >>> summary_of("SELECT name FROM usage.users WHERE user_id = %s FOR UPDATE")
    'SELECT usage.users'
    """
    steps: list[str] = []
    verb = first = ""
    for found, table in STEP.findall(statement):
        keyword = found.split()[0].upper()
        if keyword not in ("FROM", "JOIN", "USING"):
            verb = keyword
            first = first or verb
        step = f"{verb} {table}"
        if table and verb and (keyword != "SELECT") and step not in steps:
            steps.append(step)
    return " ".join(steps) or first


class WatchedConnection(AsyncConnection[TupleRow]):
    """Keeps what its statements are about as long as somebody asks for it."""

    statements: list[str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = WatchedCursor


def note(connection: AsyncConnection[Any], query: Any) -> None:
    if isinstance(connection, WatchedConnection) and connection.statements is not None:
        text = query.as_string(connection) if isinstance(query, Composable) else str(query)
        connection.statements.append(summary_of(text))


class WatchedCursor(AsyncCursor[Any]):
    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        note(self.connection, query)
        return await super().execute(query, *args, **kwargs)

    async def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        note(self.connection, query)
        if self.connection.pgconn.pipeline_status != PipelineStatus.OFF:
            await super().executemany(query, *args, **kwargs)
            return
        async with self.connection.pipeline():  # the connection's own kind, not the driver's
            await super().executemany(query, *args, **kwargs)


class SqlWatch:
    """Traces and times the transactions of one pool, and tells how much of it is in use."""

    def __init__(self, telemetry: Telemetry, url: str, schema: str) -> None:
        self._telemetry = telemetry
        self._about = about(url, schema)
        self._duration = telemetry.meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="The duration of transactions, with the wait for a connection",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )

    @contextmanager
    def transaction(self) -> Iterator[list[str] | None]:
        """Around a transaction; yields where to note its statements, if that is of any use."""
        span = self._telemetry.begun(str(self._about["db.namespace"]), SpanKind.CLIENT, self._about)
        statements: list[str] | None = None if span is None else []
        started = time.monotonic()
        failed: dict[str, str] = {}
        try:
            yield statements
        except BaseException as error:
            failed = fault_of(error)
            raise
        finally:
            kind = {key: value for key, value in failed.items() if key == "error.type"}
            self._duration.record(time.monotonic() - started, {**self._about, **kind})
            if span is not None:
                end_transaction(span, statements or [], failed)

    def follow(self, most: int, stats: Callable[[], Mapping[str, int]]) -> None:
        """Tell what *stats* says of a pool of at most *most* connections, whenever asked."""
        name = {"db.client.connection.pool.name": self._about["db.namespace"]}
        meter = self._telemetry.meter

        def by_state(_: CallbackOptions) -> Iterable[Observation]:
            found = stats()
            idle = found.get("pool_available", 0)
            for state, count in (("idle", idle), ("used", found.get("pool_size", 0) - idle)):
                yield Observation(count, {**name, "db.client.connection.state": state})

        def waiting(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(stats().get("requests_waiting", 0), name)

        def limit(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(most, name)

        for metric, unit, told, what in (
            ("count", "{connection}", by_state, "Connections by their state"),
            ("pending_requests", "{request}", waiting, "Transactions that wait for a connection"),
            ("limit", "{connection}", limit, "How many connections there may be"),
        ):
            meter.create_observable_up_down_counter(
                f"db.client.connection.{metric}", [told], unit=unit, description=what
            )


def about(url: str, schema: str) -> dict[str, str | int]:
    """What is the same of every span of a pool; of *url* the database and where it is."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # whoever connects is told
        given = {}
    database = str(given.get("dbname") or "")
    found: dict[str, str | int] = {
        "db.system.name": "postgresql",
        "db.namespace": f"{database}|{schema}" if database else schema,
    }
    if host := given.get("host"):
        found["server.address"] = str(host)
        if (port := str(given.get("port") or "")).isdigit() and port != "5432":
            found["server.port"] = int(port)
    return found


def fault_of(error: BaseException) -> dict[str, str]:
    """What went wrong by Postgres' code, else by the exception's class; never in its words."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state:
        return {"error.type": state, "db.response.status_code": state}
    return {"error.type": type(error).__name__}


def end_transaction(span: Span, statements: list[str], failed: Mapping[str, str]) -> None:
    summary = "; ".join(dict.fromkeys(filter(None, statements)))[:LONGEST_SUMMARY]
    if summary:
        span.update_name(summary)
        span.set_attribute("db.query.summary", summary)
    if len(statements) > 1:
        span.set_attribute("db.operation.batch.size", len(statements))
    span.set_attributes(failed)
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
