"""The recorder before a log on a socket that goes away and comes back (LOG-2)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_rpc

from services.runtime.calling import TokenSource, set_deadline
from services.runtime.failure import DeadlineExceeded
from services.runtime.recording import (
    LogUnavailable,
    RecordedOperation,
    Recorder,
    RecorderSettings,
    open_recorder,
)

NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)


class Log(otlp_rpc.TraceServiceServicer):
    """Keeps the names of what it took, and the token that came with it."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.tokens: set[str] = set()
        self.silent = asyncio.Event()
        self.asked = asyncio.Event()

    async def Export(
        self, request: otlp.ExportTraceServiceRequest, context: Any
    ) -> otlp.ExportTraceServiceResponse:
        self.asked.set()
        if self.silent.is_set():
            await asyncio.Event().wait()
        self.tokens.add(dict(context.invocation_metadata())["authorization"])
        for resource in request.resource_spans:
            self.taken += [span.name for scope in resource.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse()


@asynccontextmanager
async def listening(log: Log, address: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    otlp_rpc.add_TraceServiceServicer_to_server(log, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@pytest.fixture
def where(tmp_path: Path) -> RecorderSettings:
    return RecorderSettings("play", f"unix:{tmp_path}/log.sock", tmp_path / "spool")


@pytest.fixture
def own_token(tmp_path: Path) -> TokenSource:
    (tmp_path / "token").write_text("first\n")
    return TokenSource(tmp_path / "token")


def operation() -> RecordedOperation:
    return RecordedOperation("op-1", "request-1", "create", "clients", "user-1")


async def recorded(recorder: Recorder) -> None:
    await recorder.outcome(operation(), "succeeded", started_at=NOW, ended_at=NOW)


def files_in(where: RecorderSettings) -> list[Path]:
    return list(where.spool_directory.glob("*"))


async def test_outcomes_of_an_outage_arrive_after_it(
    where: RecorderSettings, own_token: TokenSource
) -> None:
    """LOG-2: while it lasts, nothing new is begun; health tells of it."""
    log = Log()
    async with open_recorder(where, own_token) as (recorder, check):
        async with listening(log, where.oplog_target):
            await recorder.intent(operation())
            assert await check()
            await recorded(recorder)
        assert log.taken == ["operation.intent", "operation"]
        with pytest.raises(LogUnavailable):
            await recorder.intent(operation())
        await recorded(recorder)
        assert len(files_in(where)) == 1
        async with listening(log, where.oplog_target), asyncio.timeout(20):
            while files_in(where):
                await asyncio.sleep(0.02)
    assert log.taken == ["operation.intent", "operation", "operation"]
    assert log.tokens == {"Bearer first"}


async def test_outcomes_that_wait_outlive_the_process_that_kept_them(
    where: RecorderSettings, own_token: TokenSource
) -> None:
    """LOG-2: the next one sends them, without being asked to."""
    async with open_recorder(where, own_token) as (recorder, _):
        await recorded(recorder)
    assert len(files_in(where)) == 1
    log = Log()
    async with (
        listening(log, where.oplog_target),
        open_recorder(where, own_token),
        asyncio.timeout(20),
    ):
        while files_in(where):
            await asyncio.sleep(0.02)
    assert log.taken == ["operation"]


async def test_an_outcome_on_its_way_to_a_silent_log_is_kept_at_the_stop(
    where: RecorderSettings, own_token: TokenSource
) -> None:
    """LOG-2: a call that was cancelled does not take its outcome with it."""
    log = Log()
    log.silent.set()
    async with (
        listening(log, where.oplog_target),
        open_recorder(where, own_token) as (recorder, _),
        asyncio.timeout(10),
    ):
        call = asyncio.create_task(recorded(recorder))
        await log.asked.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert [each.suffix for each in files_in(where)] == [".otlp"]


async def test_an_outcome_is_sent_whatever_is_left_of_the_callers_time(
    where: RecorderSettings, own_token: TokenSource
) -> None:
    """LOG-2: an intent is not: without time there is no effect."""
    log = Log()

    async def call(recorder: Recorder) -> None:
        set_deadline(0)
        with pytest.raises(DeadlineExceeded):
            await recorder.intent(operation())
        await recorded(recorder)

    async with listening(log, where.oplog_target), open_recorder(where, own_token) as (one, _):
        await asyncio.create_task(call(one))
    assert log.taken == ["operation"]


@pytest.mark.parametrize("is_silent", [True, False])
async def test_the_callers_deadline_is_not_told_as_the_logs_failure(
    where: RecorderSettings, own_token: TokenSource, is_silent: bool
) -> None:
    """LOG-2, ALL-2. Kind: a caller's deadline that is told as another's failure."""
    log = Log()
    log.silent.set()

    async def call(recorder: Recorder) -> None:
        set_deadline(0.3)
        with pytest.raises(DeadlineExceeded if is_silent else LogUnavailable):
            await recorder.intent(operation())

    async with AsyncExitStack() as stack:
        if is_silent:  # else there is none, and that is the log's own failure
            await stack.enter_async_context(listening(log, where.oplog_target))
        one, _ = await stack.enter_async_context(open_recorder(where, own_token))
        await asyncio.create_task(call(one))


async def test_a_token_is_read_again_when_its_file_changes(
    where: RecorderSettings, own_token: TokenSource, tmp_path: Path
) -> None:
    """ALL-3: and stays while the file is away, or empty for a moment."""
    log, file = Log(), tmp_path / "token"
    async with listening(log, where.oplog_target), open_recorder(where, own_token) as (one, _):
        for content in ("second", "", None, "third"):
            if content is None:
                file.unlink()
            else:
                file.write_text(content)
            await recorded(one)
    assert log.tokens == {"Bearer second", "Bearer third"}
    assert len(log.taken) == 4
