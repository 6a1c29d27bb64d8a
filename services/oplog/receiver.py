"""Takes spans over OTLP, as gRPC and as HTTP, and answers once they are committed (LOG-1, LOG-2).

The answers follow the OTLP specification: OK, OK with partial_success where some spans are none,
INVALID_ARGUMENT or 400 where nothing can be understood, UNAVAILABLE or 503 with the time to come
back.
"""

import base64
import json
import logging
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
    malformed_span,
    read_span,
)
from services.runtime.failure import Failure, Internal, InvalidInput, Unauthenticated
from services.runtime.identity import TokenVerifier, current_caller

SERVICE_NAME = "opentelemetry.proto.collector.trace.v1.TraceService"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
# From a log that is at hand to one that was away for a day.
LAG_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
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
            "gatehouse.oplog.quarantined",
            unit="{span}",
            description="Operation spans that were not understood, and are kept in quarantine",
        )
        # A counter that begins at 1 has not risen, as far as an alert can tell.
        self._quarantined.add(0)
        self._received = meter.create_counter(
            "gatehouse.oplog.operations",
            unit="{span}",
            description="Operation spans that were taken",
        )
        self._lag = meter.create_histogram(
            "gatehouse.oplog.lag",
            unit="s",
            description="From the end of the oldest operation in an export until it is committed",
            explicit_bucket_boundaries_advisory=LAG_BUCKETS,
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
                fault = fault_of_ids(span)
                if fault:
                    faults.append(fault)
                if is_operation(span):
                    read = malformed_span(span, fault) if fault else read_span(span, service, now)
                    (malformed if isinstance(read, Malformed) else operations).append(read)  # type: ignore[arg-type]
        if operations or malformed:
            refused = await self._committer.commit(operations, malformed)
            if operations:
                oldest = min(each.ended_at for each in operations)
                self._lag.record(max((self._now() - oldest).total_seconds(), 0))
            self._received.add(len(operations) - len(refused))
            self._quarantined.add(len(malformed) + len(refused))
            malformed += refused
        if faults and len(faults) == count:
            raise InvalidInput([("resource_spans", f"no span can be understood: {faults[0]}")])
        return answer(faults, malformed)


def answer(faults: list[str], malformed: list[Malformed]) -> ExportTraceServiceResponse:
    """Says how many spans are not in the log, and why the first of them is not."""
    response = ExportTraceServiceResponse()
    problems = [*faults, *(each.problem for each in malformed if each.problem not in faults)]
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


class Unfit(InvalidInput):
    """The body cannot be taken for a reason that HTTP has a code of its own for."""

    def __init__(self, field: str, problem: str, http_code: int) -> None:
        super().__init__([(field, problem)])
        self.http_code = http_code


class HttpReceiver:
    """OTLP over HTTP: POST /v1/traces, protobuf or JSON, plain or gzipped."""

    def __init__(
        self, receiver: Receiver, verifier: TokenVerifier, most_bytes: int, log: logging.Logger
    ) -> None:
        self._receiver = receiver
        self._verifier = verifier
        self._most_bytes = most_bytes
        self._log = log

    async def post(self, request: web.Request) -> web.Response:
        """Every answer is a message of protobuf's, as the specification asks, errors as well."""
        as_json = request.content_type == JSON
        try:
            return written(await self._taken(request, as_json), as_json, 200, {})
        except Failure as failure:
            return told(failure, as_json)
        except Exception as error:
            self._log.error("an export over HTTP broke", exc_info=error)
            return told(Internal(), as_json)

    async def _taken(self, request: web.Request, as_json: bool) -> ExportTraceServiceResponse:
        if request.content_type not in (PROTOBUF, JSON):
            raise Unfit("content-type", f"must be {PROTOBUF} or {JSON}", 415)
        (await self._caller(request)).require("service")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(self._most_bytes) from None
        body = inflated(body, request.headers.get("content-encoding", ""), self._most_bytes)
        return await self._receiver.take(from_json(body) if as_json else from_protobuf(body))

    async def _caller(self, request: web.Request) -> Any:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("no token came with the call", reason="TOKEN_MISSING")
        return await self._verifier.verify(token.strip())


def too_large(most_bytes: int) -> Unfit:
    return Unfit("body", f"is more than {most_bytes} bytes, unpacked", 413)


def told(failure: Failure, as_json: bool) -> web.Response:
    headers = {}
    if failure.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(failure.retry_after.total_seconds())))
    code = failure.http_code if isinstance(failure, Unfit) else CODES.get(failure.code, 500)
    return written(failure.status(), as_json, code, headers)


def written(
    message: ExportTraceServiceResponse | Status, as_json: bool, code: int, headers: dict[str, str]
) -> web.Response:
    body = json_format.MessageToJson(message).encode() if as_json else message.SerializeToString()
    content_type = JSON if as_json else PROTOBUF
    return web.Response(body=body, status=code, content_type=content_type, headers=headers)


def inflated(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body before it was gzipped, all members of it. Raises InvalidInput, Unfit.

    No more is ever unpacked than may be taken, whatever it says.
    """
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() != "gzip":
        raise InvalidInput([("content-encoding", "must be gzip or identity")])
    unpacked, left = b"", body
    while left:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            unpacked += unpacker.decompress(left, most_bytes + 1 - len(unpacked))
        except zlib.error:
            raise InvalidInput([("body", "is not gzip")]) from None
        if len(unpacked) > most_bytes:
            raise too_large(most_bytes)
        if not unpacker.eof:
            raise InvalidInput([("body", "is cut off")])
        left = unpacker.unused_data
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
    except (ValueError, TypeError, json_format.ParseError, RecursionError):
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
    receiver: Receiver,
    verifier: TokenVerifier,
    log: logging.Logger,
    *,
    listen: str,
    most_bytes: int,
) -> AsyncIterator[str]:
    """OTLP over HTTP at *listen*; yields the address."""
    app = web.Application(client_max_size=most_bytes)
    app.router.add_post("/v1/traces", HttpReceiver(receiver, verifier, most_bytes, log).post)
    # Unpacking is done here, where it has a bound.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host, int(port))
    await site.start()
    try:
        yield "{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()
