"""Writes operations into the operation log: their intents before an effect, their outcomes after.

Operations are spans that leave by a way of their own, which no sampling and no full queue switches
off (LOG-3): each Export is awaited. An intent that the log does not take refuses the effect; an
outcome that it does not take waits in an fsynced spool and is sent later, in order.
"""

import asyncio
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.runtime.calling import (
    PeerTls,
    TokenSource,
    as_service,
    channel,
    deadline_left,
    reachable,
)
from services.runtime.failure import Failure, Unavailable, failure_from

INTENT = "operation.intent"
OPERATION = "operation"
EXPORT_SECONDS = 5.0
RESEND_SECONDS = 1.0
SUCCEEDED = "succeeded"

Export = Callable[[ExportTraceServiceRequest, float], Awaitable[ExportTraceServiceResponse]]


class LogUnavailable(Unavailable):
    """The operation log does not take an intent, so nothing may be changed (LOG-2)."""

    reason = "LOG_UNAVAILABLE"


@dataclass(frozen=True)
class RecordedOperation:
    """What identifies an operation in the log. Identifiers only: no text, no record, no name."""

    operation_id: str
    request_id: str
    action: str
    domain: str
    user_id: str
    clinic_id: str = ""


@dataclass(frozen=True)
class RecordedOutcome:
    """What became of an operation: succeeded, failed, refused, cancelled or unknown."""

    operation: RecordedOperation
    outcome: str
    started_at: datetime
    ended_at: datetime
    reason: str = ""
    model_used: str = ""
    failover: bool = False


@dataclass(frozen=True)
class RecorderSettings:
    """Where the log is, and where outcomes wait for it."""

    service: str
    oplog_target: str
    spool_directory: Path
    spool_max_bytes: int = 64 * 1024 * 1024


class Recorder:
    """Sends intents and outcomes; see the module's promise."""

    def __init__(self, settings: RecorderSettings, export: Export, spool: "Spool") -> None:
        self._service = settings.service
        self._export = export
        self._spool = spool

    async def intents(self, operations: Sequence[RecordedOperation]) -> None:
        """Return once the log has committed the intents of all. Raises LogUnavailable."""
        if not operations:
            return
        if self._spool.is_full:
            raise LogUnavailable("too many outcomes wait for the operation log")
        now = datetime.now(UTC)
        spans = [span_of(each, INTENT, now, now, {}) for each in operations]
        try:
            answer = await self._export(self._request(spans), deadline_left(EXPORT_SECONDS))
        except (Failure, TimeoutError) as failure:
            raise LogUnavailable("the operation log does not answer") from failure
        if answer.partial_success.rejected_spans:
            raise LogUnavailable("the operation log refused an intent", retry_after=None)

    async def outcomes(self, outcomes: Sequence[RecordedOutcome]) -> None:
        """Send the outcomes, or keep them to be sent later. Never raises."""
        if not outcomes:
            return
        spans = [
            span_of(
                each.operation,
                OPERATION,
                each.started_at,
                each.ended_at,
                {
                    "gatehouse.outcome": each.outcome,
                    "gatehouse.reason": each.reason,
                    "gatehouse.model_used": each.model_used,
                    "gatehouse.failover": each.failover,
                },
            )
            for each in outcomes
        ]
        request = self._request(spans)
        await asyncio.shield(self._spool.send(request))

    async def intent(self, operation: RecordedOperation) -> None:
        """One intent; as `intents`."""
        await self.intents([operation])

    async def outcome(
        self,
        operation: RecordedOperation,
        outcome: str,
        *,
        reason: str = "",
        model_used: str = "",
        failover: bool = False,
        started_at: datetime,
        ended_at: datetime,
    ) -> None:
        """One outcome; as `outcomes`."""
        await self.outcomes(
            [
                RecordedOutcome(
                    operation,
                    outcome,
                    started_at,
                    ended_at,
                    reason=reason,
                    model_used=model_used,
                    failover=failover,
                )
            ]
        )

    def _request(self, spans: Sequence[Span]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        resource_spans.resource.attributes.append(
            attribute("service.name", f"gatehouse-{self._service}")
        )
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = "gatehouse.operations"
        scope_spans.spans.extend(spans)
        return request


def span_of(
    operation: RecordedOperation,
    name: str,
    started_at: datetime,
    ended_at: datetime,
    more: dict[str, str | bool],
) -> Span:
    """The span of an operation, in the running trace or in one of its own."""
    context = trace.get_current_span().get_span_context()
    trace_id = context.trace_id.to_bytes(16) if context.is_valid else secrets.token_bytes(16)
    attributes: dict[str, str | bool] = {
        "gatehouse.operation.id": operation.operation_id,
        "gatehouse.request.id": operation.request_id,
        "gatehouse.action": operation.action,
        "gatehouse.domain": operation.domain,
        "user.id": operation.user_id,
        "gatehouse.clinic.id": operation.clinic_id,
        **more,
    }
    return Span(
        trace_id=trace_id,
        span_id=secrets.token_bytes(8),
        parent_span_id=context.span_id.to_bytes(8) if context.is_valid else b"",
        name=name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=nanoseconds(started_at),
        end_time_unix_nano=nanoseconds(ended_at),
        attributes=[
            attribute(key, value) for key, value in attributes.items() if value not in ("", False)
        ],
    )


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def attribute(key: str, value: str | bool) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    return KeyValue(key=key, value=AnyValue(string_value=value))


class Spool:
    """Outcomes on their way: sent at once while the log answers, kept in files while it does not.

    A file is one Export, written whole and fsynced before `send` returns. Files are sent in the
    order in which they were written, by one task; nothing overtakes them.
    """

    def __init__(self, settings: RecorderSettings, export: Export) -> None:
        self._folder = settings.spool_directory
        self._max_bytes = settings.spool_max_bytes
        self._export = export
        self._waiting = asyncio.Event()
        self._bytes = sum(file.stat().st_size for file in self._files())
        if self._bytes:
            self._waiting.set()

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._max_bytes

    async def send(self, request: ExportTraceServiceRequest) -> None:
        """Return once the log has *request*, or the disk does."""
        if not self._waiting.is_set():
            try:
                await self._export(request, EXPORT_SECONDS)
            except (Failure, TimeoutError):
                pass
            else:
                return
        await asyncio.to_thread(self._keep, request.SerializeToString())
        self._waiting.set()

    async def drain(self) -> None:
        """Send what waits, for ever; run as a task."""
        while True:
            await self._waiting.wait()
            for file in await asyncio.to_thread(self._files):
                if not await self._sent(file):
                    break
            else:
                if not self._files():
                    self._waiting.clear()
                continue
            await asyncio.sleep(RESEND_SECONDS)

    async def _sent(self, file: Path) -> bool:
        request = ExportTraceServiceRequest.FromString(await asyncio.to_thread(file.read_bytes))
        try:
            await self._export(request, EXPORT_SECONDS)
        except TimeoutError:
            return False
        except Failure as failure:
            if failure.code is not grpc.StatusCode.INVALID_ARGUMENT:
                return False
            # The log will never take it: it is set aside, so that what follows is not held up.
            file.rename(file.with_suffix(".refused"))
            return True
        self._bytes -= file.stat().st_size
        file.unlink()
        return True

    def _keep(self, content: bytes) -> None:
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"
        written = self._folder / f"{name}.new"
        with written.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.rename(self._folder / f"{name}.otlp")
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._bytes += len(content)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.otlp"))


@asynccontextmanager
async def open_recorder(
    settings: RecorderSettings, tokens: TokenSource, *, tls: PeerTls | None = None
) -> AsyncIterator[tuple[Recorder, Callable[[], Awaitable[bool]]]]:
    """A recorder, and the health check of the log that it writes to."""
    settings.spool_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(channel(settings.oplog_target, tls=tls))
        stub = TraceServiceStub(opened)

        async def export(
            request: ExportTraceServiceRequest, seconds: float
        ) -> ExportTraceServiceResponse:
            try:
                answer: ExportTraceServiceResponse = await stub.Export(
                    request, timeout=seconds, metadata=as_service(tokens)
                )
            except grpc.aio.AioRpcError as error:
                raise failure_from(error) from None
            return answer

        spool = Spool(settings, export)
        drain = asyncio.create_task(spool.drain())
        try:
            yield Recorder(settings, export, spool), lambda: reachable(opened)
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
