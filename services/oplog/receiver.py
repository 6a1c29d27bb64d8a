"""Takes spans over OTLP, as gRPC and as HTTP, and answers once they are committed (LOG-1, LOG-2).

The answers follow the OTLP specification: OK, OK with partial_success where some spans are none,
INVALID_ARGUMENT or 400 where nothing can be understood, UNAVAILABLE or 503 with the time to come
back.
"""

import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from opentelemetry.metrics import Meter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceServicer

from services.oplog.committer import Committer
from services.oplog.projection import (
    Malformed,
    OperationSpan,
    attribute_of,
    fault_of_ids,
    is_operation,
    read_span,
)
from services.runtime.failure import Failure, InvalidInput, Unauthenticated
from services.runtime.identity import TokenVerifier, current_caller

SERVICE_NAME = "opentelemetry.proto.collector.trace.v1.TraceService"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class Receiver:
    """Sorts spans into operations, malformed operations, and others, and has them committed."""

    def __init__(self, committer: Committer, meter: Meter, *, now: Callable[[], datetime]) -> None:
        self._committer = committer
        self._now = now
        self._quarantined = meter.create_counter(
            "gatehouse.oplog.quarantined", description="Operation spans that were not understood"
        )
        self._received = meter.create_counter(
            "gatehouse.oplog.operations", description="Operation spans that were taken"
        )

    async def take(self, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
        """Commit the operations in *request*. Raises InvalidInput where nothing is a span."""
        operations: list[OperationSpan] = []
        malformed: list[Malformed] = []
        faults: list[str] = []
        count = 0
        now = self._now()
        for resource_spans in request.resource_spans:
            service = attribute_of(list(resource_spans.resource.attributes), "service.name")
            for span in (span for scope in resource_spans.scope_spans for span in scope.spans):
                count += 1
                if fault := fault_of_ids(span):
                    faults.append(fault)
                elif is_operation(span):
                    read = read_span(span, service, now)
                    (malformed if isinstance(read, Malformed) else operations).append(read)  # type: ignore[arg-type]
        if faults and len(faults) == count:
            raise InvalidInput([("resource_spans", f"no span can be understood: {faults[0]}")])
        if operations or malformed:
            await self._committer.commit(operations, malformed)
        self._received.add(len(operations))
        self._quarantined.add(len(malformed))
        return answer(faults, malformed)


def answer(faults: list[str], malformed: list[Malformed]) -> ExportTraceServiceResponse:
    """Says how many spans are not in the log, and why the first of them is not."""
    response = ExportTraceServiceResponse()
    problems = [*faults, *(each.problem for each in malformed)]
    if problems:
        response.partial_success.rejected_spans = len(problems)
        response.partial_success.error_message = problems[0]
    return response


class TraceServicer(TraceServiceServicer):
    """OTLP over gRPC."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def Export(
        self, request: ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> ExportTraceServiceResponse:
        current_caller().require("service")
        return await self._receiver.take(request)


class HttpReceiver:
    """OTLP over HTTP: POST /v1/traces, protobuf or JSON, plain or gzipped."""

    def __init__(self, receiver: Receiver, verifier: TokenVerifier, most_bytes: int) -> None:
        self._receiver = receiver
        self._verifier = verifier
        self._most_bytes = most_bytes

    async def post(self, request: web.Request) -> web.Response:
        content_type = request.content_type
        as_json = content_type == JSON
        if content_type not in (PROTOBUF, JSON):
            raise web.HTTPUnsupportedMediaType(text=f"send {PROTOBUF} or {JSON}")
        try:
            (await self._caller(request)).require("service")
            body = inflated(await request.read(), request.headers, self._most_bytes)
            parsed = from_json(body) if as_json else from_protobuf(body)
            response = await self._receiver.take(parsed)
        except Failure as failure:
            headers = {}
            if failure.retry_after is not None:
                headers["Retry-After"] = str(max(1, round(failure.retry_after.total_seconds())))
            status = Status(code=int(failure.code.value[0]), message=failure.message)
            return written(status, as_json, CODES.get(failure.code, 500), headers)
        return written(response, as_json, 200, {})

    async def _caller(self, request: web.Request) -> Any:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("no token came with the call", reason="TOKEN_MISSING")
        return await self._verifier.verify(token.strip())


def written(
    message: ExportTraceServiceResponse | Status, as_json: bool, code: int, headers: dict[str, str]
) -> web.Response:
    body = json_format.MessageToJson(message).encode() if as_json else message.SerializeToString()
    content_type = JSON if as_json else PROTOBUF
    return web.Response(body=body, status=code, content_type=content_type, headers=headers)


def inflated(body: bytes, headers: Any, most_bytes: int) -> bytes:
    """The body before it was gzipped. Raises InvalidInput: broken, or too large unpacked."""
    encoding = headers.get("content-encoding", "identity")
    if encoding == "identity":
        return body
    if encoding != "gzip":
        raise InvalidInput([("content-encoding", "must be gzip or identity")])
    try:
        unpacker = zlib.decompressobj(wbits=31)
        unpacked = unpacker.decompress(body, most_bytes)
    except (zlib.error, gzip.BadGzipFile):
        raise InvalidInput([("body", "is not gzip")]) from None
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise InvalidInput([("body", f"is cut off, or more than {most_bytes} bytes unpacked")])
    return unpacked


def from_protobuf(body: bytes) -> ExportTraceServiceRequest:
    try:
        parsed: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise InvalidInput([("body", "is not an ExportTraceServiceRequest")]) from None
    return parsed


def from_json(body: bytes) -> ExportTraceServiceRequest:
    """Read OTLP's JSON, whose ids are hexadecimal where protobuf's own JSON has base64.

    Unknown fields are ignored, as the specification asks; a document of another signal is refused.
    """
    try:
        document = json.loads(body)
        if not isinstance(document, dict):
            raise ValueError
        if document and not {"resourceSpans", "resource_spans"} & document.keys():
            raise InvalidInput([("body", "has no resourceSpans: this takes traces only")])
        parsed: ExportTraceServiceRequest = json_format.ParseDict(
            with_base64_ids(document), ExportTraceServiceRequest(), ignore_unknown_fields=True
        )
    except (ValueError, json_format.ParseError, RecursionError):
        raise InvalidInput([("body", "is not OTLP's JSON for traces")]) from None
    return parsed


def with_base64_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [with_base64_ids(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(each)).decode()
        if key in IDS and isinstance(each, str)
        else with_base64_ids(each)
        for key, each in value.items()
    }


@asynccontextmanager
async def serving_http(
    receiver: Receiver, verifier: TokenVerifier, listen: str, most_bytes: int
) -> AsyncIterator[str]:
    """OTLP over HTTP at *listen*; yields the address."""
    app = web.Application(client_max_size=most_bytes)
    app.router.add_post("/v1/traces", HttpReceiver(receiver, verifier, most_bytes).post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host, int(port))
    await site.start()
    try:
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()
