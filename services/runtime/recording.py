"""Writes operations into the operation log: their intents before an effect, their outcomes after.

Operations are spans that leave by a way of their own, which no sampling and no full queue switches
off (LOG-3): each Export is awaited. An intent that the log does not take refuses the effect; an
outcome that it does not take waits in an fsynced spool and is sent later, in order.
"""

import asyncio
import logging
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.runtime.calling import (
    ACCEPTING,
    Tls,
    TokenSource,
    as_service,
    channel,
    deadline_left,
    passing_over,
    reachable,
)
from services.runtime.failure import (
    RETRY_AFTER,
    DeadlineExceeded,
    Failure,
    Unavailable,
    failure_from,
)
from services.runtime.gathering import Together
from services.runtime.telemetry import Telemetry

INTENT = "operation.intent"
OPERATION = "operation"
EXPORT_SECONDS = 5.0
RESEND_SECONDS = 1.0
# However slow the log is, what has happened is answered: an outcome that takes longer waits for it
# on the disk.
PATIENCE_SECONDS = 0.5
# The share of the spool's limit from which on it says that it fills.
NEARLY_FULL = 0.8
# Outcomes for which neither the log nor the disk has a place stay in memory, this many at most.
MOST_STUCK = 1000
# Some hundred outcomes: what the log commits well within the time that an Export has.
MOST_TOGETHER_BYTES = 256 * 1024
# How long the log may take once the service stops, before what it was sent goes to the disk.
CLOSE_SECONDS = 0.5
# However long the log asks for: what waits is not to wait for ever.
LONGEST_PAUSE_SECONDS = 30.0
HALF, WAITING, REFUSED = ".new", ".otlp", ".refused"
LOG = logging.getLogger(__name__)
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


def utc_now() -> datetime:
    return datetime.now(UTC)


class Recorder:
    """Sends intents and outcomes; see the module's promise."""

    def __init__(
        self,
        settings: RecorderSettings,
        export: Export,
        spool: "Spool",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._service = settings.service
        self._export = export
        self._spool = spool
        self._now = now

    def require_room(self) -> None:
        """Raises LogUnavailable where not even a read's outcome could wait for the log any more.

        Asked before anything is begun: what has happened is kept in any case.
        """
        if self._spool.is_overfull:
            raise LogUnavailable("no more outcomes can wait for the operation log")

    async def intents(self, operations: Sequence[RecordedOperation]) -> None:
        """Return once the log has committed the intents of all.

        Raises LogUnavailable; DeadlineExceeded where the caller's deadline is the reason.
        """
        if not operations:
            return
        if self._spool.is_full:
            raise LogUnavailable("too many outcomes wait for the operation log")
        now = self._now()
        spans = [span_of(each, INTENT, now, now, {}) for each in operations]
        seconds = deadline_left(EXPORT_SECONDS)
        try:
            answer = await self._export(self._request(spans), seconds)
        except TimeoutError:
            raise late(seconds) from None
        except Failure as failure:
            if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise late(seconds) from failure
            raise LogUnavailable(
                "the operation log does not answer", retry_after=failure.retry_after or RETRY_AFTER
            ) from failure
        if answer.partial_success.rejected_spans:
            raise LogUnavailable("the operation log refused an intent", retry_after=None)

    async def outcomes(self, outcomes: Sequence[RecordedOutcome]) -> None:
        """Send the outcomes, or keep them to be sent later. Never raises; goes on if cancelled."""
        if outcomes:
            await self.send([outcome_span(each) for each in outcomes])

    async def send(self, spans: Sequence[Span]) -> None:
        """As `outcomes`, of which these are the spans."""
        await self._spool.send(self._request(spans))

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


def late(seconds: float) -> Failure:
    """Why an Export had no answer within *seconds*: the caller's deadline, or the log itself."""
    if seconds < EXPORT_SECONDS:
        return DeadlineExceeded()
    return LogUnavailable("the operation log does not answer")


def outcome_span(outcome: RecordedOutcome) -> Span:
    """The span that tells *outcome*, in the running trace or in one of its own."""
    return span_of(
        outcome.operation,
        OPERATION,
        outcome.started_at,
        outcome.ended_at,
        {
            "gatehouse.outcome": outcome.outcome,
            "gatehouse.reason": outcome.reason,
            "gatehouse.model_used": outcome.model_used,
            "gatehouse.failover": outcome.failover,
        },
    )


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
    span = Span(
        trace_id=trace_id,
        span_id=secrets.token_bytes(8),
        parent_span_id=context.span_id.to_bytes(8) if context.is_valid else b"",
        name=name,
        kind=Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=nanoseconds(started_at),
        end_time_unix_nano=nanoseconds(ended_at),
    )
    for key, value in attributes.items():
        if value not in ("", False):
            span.attributes.add(key=key, value=any_value(value))
    return span


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000


def attribute(key: str, value: str | bool) -> KeyValue:
    return KeyValue(key=key, value=any_value(value))  # type: ignore[arg-type]  # a dict too


def any_value(value: str | bool) -> dict[str, str | bool]:
    """An AnyValue in place: as a message of its own it would be made twice."""
    return {"bool_value" if isinstance(value, bool) else "string_value": value}


class Fate(Enum):
    """What an Export came to."""

    TAKEN = "the log has it"
    LATER = "the log may take it another time"
    REFUSED = "the log will never take it"


class Spool:
    """Outcomes on their way: sent at once while the log answers, kept in files while it does not.

    A file is one Export, written whole and fsynced before `send` returns. Files are sent in the
    order in which they were written, by one task; nothing overtakes them. What the log will never
    take, and what is no Export, is set aside under another name, so that the rest is not held up.
    """

    def __init__(self, settings: RecorderSettings, export: Export) -> None:
        self._folder = settings.spool_directory
        self._max_bytes = settings.spool_max_bytes
        self._export = export
        self._waiting = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._exporting: set[asyncio.Timeout] = set()
        # Outcomes in memory: on their way to the disk, and those for which it had no place.
        self._placing = 0
        self._stuck = 0
        self._pause = RESEND_SECONDS
        for half in self._folder.glob(f"*{HALF}"):
            half.unlink()
        files = self._files()
        self._bytes = sum(file.stat().st_size for file in files)
        self._fills = False
        self._tell()
        # Ahead of all that is there, also when the clock was set back since.
        self._number = int(files[-1].name.partition("-")[0]) if files else 0
        if files:
            self._waiting.set()

    @property
    def is_full(self) -> bool:
        """Whether too much waits for changes to go on, or the disk has no place for something."""
        return self._stuck > 0 or self._bytes >= self._max_bytes

    @property
    def is_overfull(self) -> bool:
        """Whether so much waits that reads cannot go on either: twice what stops changes."""
        return self._placing >= MOST_STUCK or self._bytes >= 2 * self._max_bytes

    def measured(self) -> dict[str, int]:
        """How much waits, how much may, and how much is set aside for good."""
        return {
            "size": self._bytes,
            "limit": self._max_bytes,
            "files": len(self._files()),
            "refused": sum(1 for _ in self._folder.glob(f"*{REFUSED}")),
        }

    async def send(self, request: ExportTraceServiceRequest) -> None:
        """Return once the log has *request*, or the disk does. Goes on when it is cancelled."""
        task = asyncio.create_task(self._place(request))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Let what is on its way arrive: in the log if that answers soon, or on the disk."""
        until = asyncio.get_running_loop().time() + CLOSE_SECONDS
        for limit in self._exporting:
            if not limit.expired():
                limit.reschedule(until)
        if self._sending:
            await asyncio.wait(self._sending, timeout=EXPORT_SECONDS)

    async def drain(self) -> None:
        """Send what waits, for ever; run as a task."""
        while True:
            await self._waiting.wait()
            self._pause = RESEND_SECONDS
            try:
                done = await self._send_files()
            except OSError as error:
                LOG.error("outcomes that wait cannot be read: %s", error.strerror)
                done = False
            if not done:
                await asyncio.sleep(self._pause)

    async def _place(self, request: ExportTraceServiceRequest) -> None:
        if not self._waiting.is_set() and await self._delivered(request, PATIENCE_SECONDS):
            return
        self._placing += 1
        try:
            if not await self._kept(request):
                await self._place_later(request)
        finally:
            self._placing -= 1

    async def _place_later(self, request: ExportTraceServiceRequest) -> None:
        """Try the log and the disk in turn, since the disk has had no place for *request*."""
        self._stuck += 1
        try:
            while True:
                await asyncio.sleep(RESEND_SECONDS)
                if await self._delivered(request, EXPORT_SECONDS) or await self._kept(request):
                    return
        finally:
            self._stuck -= 1

    async def _delivered(self, request: ExportTraceServiceRequest, seconds: float) -> bool:
        fate = await self._fate_of(request, seconds)
        return fate is Fate.TAKEN or (fate is Fate.REFUSED and await self._kept(request, REFUSED))

    async def _fate_of(self, request: ExportTraceServiceRequest, seconds: float) -> Fate:
        try:
            async with asyncio.timeout(seconds) as limit:
                self._exporting.add(limit)
                try:
                    answer = await self._export(request, seconds)
                finally:
                    self._exporting.discard(limit)
        except TimeoutError:
            return Fate.LATER
        except Failure as failure:
            if failure.retry_after is not None:
                pause = failure.retry_after.total_seconds()
                self._pause = min(max(pause, RESEND_SECONDS), LONGEST_PAUSE_SECONDS)
            return Fate.REFUSED if is_final(failure) else Fate.LATER
        rejected = answer.partial_success.rejected_spans
        if rejected:
            LOG.error("the operation log rejected %d outcomes", rejected)
        return Fate.REFUSED if rejected else Fate.TAKEN

    async def _send_files(self) -> bool:
        """Send what waits; whether the log took it. Raises OSError.

        Many files in one Export: one by one they would go more slowly than others come, and then
        what began to wait in an outage would wait for ever after it.
        """
        waiting = await asyncio.to_thread(self._files)
        while waiting:
            files = await asyncio.to_thread(read_some, waiting)
            waiting = waiting[len(files) :]
            if not await self._sent(files):
                return False
        if not self._files():
            self._waiting.clear()
        return True

    async def _sent(self, files: Sequence[tuple[Path, bytes]]) -> bool:
        """Whether the log has decided about *files*: together, or where it refuses, each alone."""
        fate = await self._fate_of_files([content for _, content in files])
        if fate is Fate.LATER:
            return False
        if fate is Fate.REFUSED and len(files) > 1:
            for each in files:
                if not await self._sent([each]):
                    return False
            return True
        await asyncio.to_thread(put_away, [file for file, _ in files], fate)
        self._bytes -= sum(len(content) for _, content in files)
        self._tell()
        return True

    async def _fate_of_files(self, contents: Sequence[bytes]) -> Fate:
        together = ExportTraceServiceRequest()
        try:
            for content in contents:
                together.MergeFrom(ExportTraceServiceRequest.FromString(content))
        except DecodeError:
            return Fate.REFUSED
        return await self._fate_of(together, EXPORT_SECONDS)

    async def _kept(self, request: ExportTraceServiceRequest, suffix: str = WAITING) -> bool:
        """Whether *request* is on the disk now."""
        content = request.SerializeToString()
        self._number = max(time.time_ns(), self._number + 1)
        name = f"{self._number:020d}-{uuid.uuid4().hex}"
        try:
            await asyncio.to_thread(write_durably, self._folder, name, suffix, content)
        except OSError as error:
            LOG.error("outcomes cannot be kept: %s", error.strerror)
            return False
        if suffix == WAITING:
            self._bytes += len(content)
            self._waiting.set()
            self._tell()
        return True

    def _tell(self) -> None:
        """Say once that the spool fills, and once that it no longer does."""
        fills = self._bytes >= NEARLY_FULL * self._max_bytes
        if fills and not self._fills:
            LOG.error(
                "outcomes fill the spool: %d of %d bytes wait for the operation log;"
                " once it is full changes are refused, and at twice as much reads too",
                self._bytes,
                self._max_bytes,
            )
        elif self._fills and not fills:
            LOG.info("the spool is no longer nearly full: %d bytes wait", self._bytes)
        self._fills = fills

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{WAITING}"))


def is_final(failure: Failure) -> bool:
    """Whether the log will never take what it answered so: it is malformed, or too large."""
    too_large = failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_after is None
    return too_large or failure.code is grpc.StatusCode.INVALID_ARGUMENT


def read_some(files: Sequence[Path]) -> list[tuple[Path, bytes]]:
    """The first of *files* with what is in them, as far as that fits one Export; one at least."""
    found: list[tuple[Path, bytes]] = []
    size = 0
    for file in files:
        content = file.read_bytes()
        size += len(content)
        if found and size > MOST_TOGETHER_BYTES:
            break
        found.append((file, content))
    return found


def put_away(files: Sequence[Path], fate: Fate) -> None:
    """Delete what was taken, and set aside what never will be."""
    for file in files:
        if fate is Fate.TAKEN:
            file.unlink()
        else:
            LOG.error("outcomes are set aside: %s", file.with_suffix(REFUSED).name)
            file.rename(file.with_suffix(REFUSED))


def write_durably(folder: Path, name: str, suffix: str, content: bytes) -> None:
    """Write a file that is there whole or not at all, whatever happens. Raises OSError.

    On a full disk half a file would take the place that the next attempt needs.
    """
    written = folder / f"{name}{HALF}"
    try:
        with written.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.rename(folder / f"{name}{suffix}")
    except OSError:
        written.unlink(missing_ok=True)
        raise
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


class PartlyRejected(Failure):
    """Some spans of several Exports in one were rejected, and it does not say whose."""


def merged(requests: Sequence[ExportTraceServiceRequest]) -> ExportTraceServiceRequest:
    if len(requests) == 1:
        return requests[0]
    together = ExportTraceServiceRequest()
    for each in requests:
        together.resource_spans.extend(each.resource_spans)
    return together


@asynccontextmanager
async def open_recorder(
    settings: RecorderSettings,
    tokens: TokenSource,
    *,
    tls: Tls | None = None,
    telemetry: Telemetry | None = None,
    now: Callable[[], datetime] = utc_now,
) -> AsyncIterator[tuple[Recorder, Callable[[], Awaitable[bool]]]]:
    """A recorder, and the health check of the log that it writes to. Intents are of *now*.

    Raises Failure where outcomes cannot be kept.
    """
    make_folder(settings.spool_directory)
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(
            channel(settings.oplog_target, tls=tls, watching=ACCEPTING, telemetry=telemetry)
        )
        stub = TraceServiceStub(opened)

        async def export_together(
            requests: Sequence[ExportTraceServiceRequest],
        ) -> list[ExportTraceServiceResponse]:
            try:
                export, metadata = merged(requests), as_service(tokens)
                answer: ExportTraceServiceResponse = await passing_over(
                    lambda timeout: stub.Export(export, timeout=timeout, metadata=metadata),
                    EXPORT_SECONDS,
                )
            except grpc.aio.AioRpcError as error:
                raise failure_from(error) from None
            if answer.partial_success.rejected_spans and len(requests) > 1:
                raise PartlyRejected("the operation log rejected some of many")
            return [answer] * len(requests)

        exporting = Together(
            "export operations",
            export_together,
            telemetry,
            most=MOST_TOGETHER_BYTES,
            size=lambda request: request.ByteSize(),
            is_ones=lambda failure: isinstance(failure, PartlyRejected) or is_final(failure),
        )

        async def export(
            request: ExportTraceServiceRequest, seconds: float
        ) -> ExportTraceServiceResponse:
            async with asyncio.timeout(seconds):
                return await exporting.ask(request)

        spool = Spool(settings, export)

        async def healthy() -> bool:
            return not spool.is_full and await reachable(opened)

        if telemetry is not None:
            follow_spool(telemetry, spool)
        drain = asyncio.create_task(spool.drain())
        try:
            yield Recorder(settings, export, spool, now), healthy
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
            await spool.close()


def follow_spool(telemetry: Telemetry, spool: Spool) -> None:
    """Measure *spool* whenever the measurements are read."""
    for name, unit, description in (
        ("size", "By", "Outcomes that wait for the operation log"),
        ("limit", "By", "How much may wait before changes are refused"),
        ("files", "{file}", "Files of outcomes that wait for the operation log"),
        ("refused", "{file}", "Files that the operation log will never take"),
    ):

        def told(_: CallbackOptions, name: str = name) -> Iterable[Observation]:
            yield Observation(spool.measured()[name])

        telemetry.meter.create_observable_gauge(
            f"gatehouse.spool.{name}", [told], unit=unit, description=description
        )


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise Failure(f"the spool directory {folder} cannot be written")
