"""OTLP as senders really send it: packed, cut off, oversized, half wrong (LOG-1, LOG-3, LOG-6)."""

import asyncio
import gzip
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psycopg
import pytest
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from google.rpc.status_pb2 import Status
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from pydantic import ValidationError

from services.oplog.app import running
from services.oplog.settings import Settings
from services.runtime.calling import TokenSource
from services.runtime.failure import failure_from
from services.runtime.recording import (
    LogUnavailable,
    RecordedOperation,
    RecorderSettings,
    attribute,
    open_recorder,
)
from services.runtime.telemetry import open_telemetry

PROTOBUF, JSON = "application/x-protobuf", "application/json"
MOST_BYTES = 64 * 1024


@dataclass
class Log:
    address: str
    http: str
    service: OperationLogServiceStub
    traces: TraceServiceStub
    tokens: Any

    def as_(self, *roles: str) -> dict[str, Any]:
        token = self.tokens.user(roles=roles)
        return {"metadata": [("authorization", f"Bearer {token}")], "timeout": 10}

    async def rows(self, user: str) -> list[pb.OperationLog]:
        request = pb.ListOperationsRequest(filter=pb.Filter(user_id=user))
        return list((await self.service.ListOperations(request, **self.as_("auditor"))).operations)

    async def quarantined(self) -> list[pb.QuarantinedSpan]:
        request = pb.ListQuarantineRequest(page_size=500)
        return list((await self.service.ListQuarantine(request, **self.as_("auditor"))).spans)

    async def post(
        self, body: bytes, content_type: str = PROTOBUF, role: str = "service", **headers: str
    ) -> tuple[int, bytes]:
        told = {
            "content-type": content_type,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if role:
            told["authorization"] = f"Bearer {self.tokens.user(roles=[role])}"
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{self.http}/v1/traces", data=body, headers=told) as response,
        ):
            return response.status, await response.read()


@pytest.fixture(scope="module")
async def log(database: Any, tokens: Any) -> AsyncIterator[Log]:
    settings = Settings(
        database_url=database.url_for("oplog"),
        http_listen="127.0.0.1:0",
        max_message_bytes=MOST_BYTES,
        **tokens.settings,
    )
    records: list[str] = []
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry(settings))
        noted = telemetry.log.addFilter
        noted(lambda record: records.append(record.getMessage()) or True)
        address = await stack.enter_async_context(running(settings, telemetry))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        http = next(each.rpartition(" ")[2] for each in records if "HTTP" in each)
        yield Log(
            address, http, OperationLogServiceStub(channel), TraceServiceStub(channel), tokens
        )


def span(user: str, **changes: str) -> Span:
    now = time.time_ns()
    values = {
        "gatehouse.operation.id": str(uuid.uuid4()),
        "gatehouse.request.id": "request-1",
        "gatehouse.action": "update",
        "gatehouse.domain": "finance",
        "gatehouse.outcome": "succeeded",
        "user.id": user,
        **changes,
    }
    return Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name="operation",
        start_time_unix_nano=now,
        end_time_unix_nano=now,
        attributes=[attribute(key, value) for key, value in values.items()],
    )


def request_of(*spans: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", "a test of words"))
    resource.scope_spans.add().spans.extend(spans)
    return request


@pytest.fixture
def user() -> str:
    return str(uuid.uuid4())


async def test_a_packed_export_is_unpacked_whole(log: Log, user: str) -> None:
    """LOG-1: gzip over HTTP, also in several members, in either content type, and over gRPC."""
    bodies = [request_of(span(user)).SerializeToString() for _ in range(2)]
    assert await log.post(gzip.compress(bodies[0]), content_encoding="gzip") == (200, b"")
    half = len(bodies[1]) // 2
    members = gzip.compress(bodies[1][:half]) + gzip.compress(bodies[1][half:])
    assert await log.post(members, content_encoding="GZIP") == (200, b"")
    packed = gzip.compress(json.dumps({"resourceSpans": []}).encode())
    assert await log.post(packed, JSON, content_encoding="gzip") == (200, b"{}")
    await log.traces.Export(
        request_of(span(user)), compression=grpc.Compression.Gzip, **log.as_("service")
    )
    assert len(await log.rows(user)) == 3


@pytest.mark.parametrize("content_type", [PROTOBUF, JSON])
async def test_a_body_that_is_too_large_is_refused_however_it_is_packed(
    log: Log, content_type: str
) -> None:
    """LOG-1: no more is unpacked than may be taken; the answer is a Status, in the same type."""
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    for body, headers in (
        (bomb, {"content_encoding": "gzip"}),
        (gzip.compress(bytes(MOST_BYTES)) + gzip.compress(b"1"), {"content_encoding": "gzip"}),
        (bytes(MOST_BYTES + 1), {}),
    ):
        code, answer = await log.post(body, content_type, **headers)
        assert code == 413
        told = json.loads(answer) if content_type == JSON else Status.FromString(answer)
        message = told["message"] if isinstance(told, dict) else told.message
        assert f"more than {MOST_BYTES} bytes" in message


@pytest.mark.parametrize(
    ("body", "content_type", "headers", "code"),
    [
        (gzip.compress(b"1" * 99, mtime=0)[:-9], PROTOBUF, {"content_encoding": "gzip"}, 400),
        (b"not gzip", PROTOBUF, {"content_encoding": "gzip"}, 400),
        (b"", PROTOBUF, {"content_encoding": "br"}, 400),
        (b"\xff\xff", PROTOBUF, {}, 400),
        (b"{", JSON, {}, 400),
        (b"[]", JSON, {}, 400),
        (b'{"resourceSpans": 7}', JSON, {}, 400),
        (b"[" * 20_000, JSON, {}, 400),
        (b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"xy"}]}]}]}', JSON, {}, 400),
        (b'{"resourceSpans":[{"schemaUrl":"\\ud800"}]}', JSON, {}, 400),
        (b"", "text/plain", {}, 415),
        (b"", PROTOBUF, {"role": ""}, 401),
        (b"", PROTOBUF, {"role": "user"}, 403),
        (b"", PROTOBUF, {}, 200),
        (b"{}", JSON, {}, 200),
        (b'{"resourceSpans":[],"later":{"a":1}}', JSON, {}, 200),
    ],
)
async def test_a_body_is_answered_as_otlp_says(
    log: Log, body: bytes, content_type: str, headers: dict[str, str], code: int
) -> None:
    """LOG-1: what can never be taken is told so, in a way that makes nobody try again."""
    assert (await log.post(body, content_type, **headers))[0] == code


async def test_an_operation_without_ids_is_kept_aside(log: Log, user: str) -> None:
    """LOG-1: its neighbours are taken; alone it is refused, and kept aside all the same."""
    bad = span(user)
    bad.trace_id = b"short"
    answer = await log.traces.Export(request_of(bad, span(user)), **log.as_("service"))
    assert answer.partial_success.rejected_spans == 1
    assert answer.partial_success.error_message == "trace_id is not 16 bytes"
    worse = span(user)
    worse.span_id = bytes(8)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await log.traces.Export(request_of(worse), **log.as_("service"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failure_from(caught.value).reason == "INVALID_ARGUMENT"
    kept = {(each.trace_id, each.problem) for each in await log.quarantined()}
    assert (b"short".hex(), "trace_id is not 16 bytes") in kept
    assert (worse.trace_id.hex(), "span_id is not 8 bytes") in kept
    assert len(await log.rows(user)) == 1


async def test_each_wrong_span_is_counted_once(log: Log, user: str) -> None:
    """LOG-1: ids, attributes and contradictions, in one export; the sender learns how many."""
    first = span(user)
    unfit, contrary, odd = span(user), span(str(uuid.uuid4())), span(user)
    unfit.trace_id = b""
    contrary.attributes[0].CopyFrom(first.attributes[0])
    odd.attributes[2].value.string_value = "destroy"
    answer = await log.traces.Export(request_of(first, unfit, contrary, odd), **log.as_("service"))
    assert answer.partial_success.rejected_spans == 3
    assert len(await log.rows(user)) == 1


async def test_nothing_of_a_wrong_span_that_people_wrote_is_kept(
    log: Log, user: str, database: Any
) -> None:
    """LOG-6: nor of a good one that carries more than it should."""
    good, bad = span(user), span("Maria Silva")
    for each in (good, bad):
        each.attributes.append(attribute("gatehouse.instruction", "cancel Maria Silva's visit"))
        each.events.add(name="Maria Silva")
        each.status.message = "Maria Silva"
    await log.traces.Export(request_of(good, bad), **log.as_("service"))
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        for table in ("links", "operation_log", "quarantine"):
            found = await connection.execute(
                f"SELECT count(*) FROM oplog.{table} kept WHERE kept::text LIKE ANY (%s)",
                (["%Maria%", f"%{b'Maria'.hex()}%"],),
            )
            assert await found.fetchone() == (0,)
    assert len(await log.rows(user)) == 1


async def test_an_unsampled_trace_is_logged_all_the_same(
    log: Log, user: str, tokens: Any, tmp_path: Path
) -> None:
    """LOG-3: whatever the caller's traceparent says, and the row leads to that trace."""
    file = tmp_path / "token"
    file.write_text(tokens.user(roles=["service"]))
    context = SpanContext(0xABC << 64 | 1, 0xDEF, is_remote=True, trace_flags=TraceFlags(0))
    operation = RecordedOperation(str(uuid.uuid4()), "r-1", "delete", "clients", user)
    settings = RecorderSettings("gateway", log.address, tmp_path / "spool")
    async with open_recorder(settings, TokenSource(file)) as (recorder, _):
        with trace.use_span(NonRecordingSpan(context)):
            await recorder.intents([operation])
        (row,) = await log.rows(user)
        assert int(row.trace_id, 16) == context.trace_id
        # An intent that contradicts what is known is refused, so its operation is not begun.
        other = RecordedOperation(operation.operation_id, "r-2", "delete", "clients", user)
        with pytest.raises(LogUnavailable):
            await recorder.intents([other])
    found = await log.service.GetTrace(
        pb.GetTraceRequest(trace_id=row.trace_id), **log.as_("auditor")
    )
    assert [each.name for each in found.spans] == ["operation.intent"]


async def test_a_tail_goes_on_where_it_stopped(log: Log, user: str) -> None:
    """LOG-5: from a position, through a filter, and on to what comes then."""
    sent = [span(user) for _ in range(4)]
    await log.traces.Export(request_of(*sent[:2]), **log.as_("service"))
    begun = min(row.position for row in await log.rows(user)) - 1
    stream = log.service.TailOperations(
        pb.TailOperationsRequest(filter=pb.Filter(user_id=user), after_position=begun),
        **log.as_("auditor"),
    )
    await log.traces.Export(request_of(*sent[2:], span(str(uuid.uuid4()))), **log.as_("service"))
    seen: list[str] = []
    async with asyncio.timeout(10):
        while len(seen) < 4:
            event = await stream.read()
            if event.HasField("operation"):
                seen.append(event.operation.span_id)
    stream.cancel()
    assert sorted(seen) == sorted(each.span_id.hex() for each in sent)


def test_plain_http_is_for_this_machine(tokens: Any) -> None:
    """ALL-3."""
    for listen in ("127.0.0.1:4318", "localhost:0", "[::1]:4318", None):
        Settings(database_url="postgresql://", http_listen=listen, **tokens.settings)
    for listen in ("0.0.0.0:4318", "collector:4318", "127.0.0.1:", "unix:/tmp/x"):
        with pytest.raises(ValidationError):
            Settings(database_url="postgresql://", http_listen=listen, **tokens.settings)


async def test_the_answer_to_http_is_the_answer_to_grpc(log: Log, user: str) -> None:
    """LOG-1: partial success in the body, with status 200."""
    body = request_of(span(user), span("nobody")).SerializeToString()
    code, answer = await log.post(body)
    told = ExportTraceServiceResponse.FromString(answer).partial_success
    assert (code, told.rejected_spans) == (200, 1)
    assert told.error_message == "user.id is not a UUID"
