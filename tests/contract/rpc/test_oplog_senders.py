"""Whoever speaks OTLP feeds the log: SDKs' exporters, and a collector in between (LOG-1)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import grpc
import psycopg
import pytest
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import Tracer

from bench.programs import free_ports
from services.embedded_stores import GuardedProgram
from tests.conftest import ROOT, Database
from tests.contract.rpc.oplog_process import LogProcess, log_process

SECONDS = 30


@dataclass
class Log:
    """A replica of the log, and a user whose operations are sent to it."""

    process: LogProcess
    user: str

    async def operations(self) -> list[str]:
        """The ids of the user's operations in the log, each as often as it is there."""
        async with await psycopg.AsyncConnection.connect(self.process.admin_url) as connection:
            found = await connection.execute(
                "SELECT id::text FROM oplog.operation_log WHERE user_id = %s"
                " AND outcome = 'succeeded' ORDER BY id::text",
                (self.user,),
            )
            return [row[0] for row in await found.fetchall()]

    async def until(self, wanted: set[str]) -> None:
        """Return once exactly *wanted* is in the log, each once."""
        async with asyncio.timeout(SECONDS):
            while set(found := await self.operations()) != wanted:
                await asyncio.sleep(0.05)
        assert len(found) == len(wanted)


@pytest.fixture
async def log(database: Database, tokens: Any, tmp_path: Path) -> AsyncIterator[Log]:
    async with log_process(database, tokens, tmp_path) as process:
        yield Log(process, str(uuid.uuid4()))


class Counted(SpanExporter):
    """Another exporter, and the spans of which it was told that they are taken."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.taken: set[str] = set()

    def export(self, spans: Any) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.taken |= {each.attributes["gatehouse.operation.id"] for each in spans}
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


@contextmanager
def traced(exporter: SpanExporter, *, batched: bool) -> Iterator[Tracer]:
    """A tracer of the SDK's, as a service of anybody's has it."""
    provider = TracerProvider(resource=Resource({"service.name": "an-sdk"}), shutdown_on_exit=False)
    made = (
        BatchSpanProcessor(exporter, schedule_delay_millis=50)
        if batched
        else SimpleSpanProcessor(exporter)
    )
    provider.add_span_processor(made)
    try:
        yield provider.get_tracer("a-test")
    finally:
        provider.shutdown()


def carry_out(tracer: Tracer, user: str, count: int = 20) -> set[str]:
    """Trace so many operations; their ids."""
    ids = {str(uuid.uuid4()) for _ in range(count)}
    for id_ in ids:
        with tracer.start_as_current_span("operation") as span:
            span.set_attributes(
                {
                    "gatehouse.operation.id": id_,
                    "gatehouse.request.id": "r-1",
                    "gatehouse.action": "update",
                    "gatehouse.domain": "finance",
                    "gatehouse.outcome": "succeeded",
                    "user.id": user,
                }
            )
    return ids


def grpc_exporter(log: Log, **more: Any) -> SpanExporter:
    return over_grpc.OTLPSpanExporter(
        endpoint=log.process.address,
        insecure=True,
        headers=(("authorization", f"Bearer {log.process.token}"),),
        **more,
    )


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
async def test_the_sdks_exporter_over_grpc_feeds_the_log(
    log: Log, compression: grpc.Compression | None
) -> None:
    """LOG-1."""
    with traced(grpc_exporter(log, compression=compression), batched=True) as tracer:
        ids = await asyncio.to_thread(carry_out, tracer, log.user)
        await log.until(ids)


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_the_sdks_exporter_over_http_feeds_the_log(
    log: Log, compression: Compression
) -> None:
    """LOG-1."""
    exporter = over_http.OTLPSpanExporter(
        endpoint=f"http://{log.process.http}/v1/traces",
        headers={"authorization": f"Bearer {log.process.token}"},
        compression=compression,
    )
    with traced(exporter, batched=True) as tracer:
        ids = await asyncio.to_thread(carry_out, tracer, log.user)
        await log.until(ids)


async def test_what_an_exporter_was_told_is_taken_is_there_after_a_kill(log: Log) -> None:
    """LOG-2: OK comes after the commit; what was not taken, the exporter sends again."""
    counted = Counted(grpc_exporter(log, timeout=20))
    with traced(counted, batched=False) as tracer:
        carrying = asyncio.create_task(asyncio.to_thread(carry_out, tracer, log.user, 150))
        async with asyncio.timeout(SECONDS):
            while len(counted.taken) < 20:
                await asyncio.sleep(0.002)
        await log.process.program.kill()
        taken = set(counted.taken)
        await log.process.start()
        assert taken <= set(await log.operations())
        ids = await carrying
        assert counted.taken == ids
        await log.until(ids)


@asynccontextmanager
async def collector(log: Log, folder: Path, protocol: str) -> AsyncIterator[str]:
    """A collector that receives as collectors do, and sends to *log*; where it receives."""
    found = find_spec("rotel")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the collector is not installed")
    receives = f"127.0.0.1:{next(free_ports())}"
    told = Template((ROOT / "deploy" / "collector.env").read_text()).substitute(
        RECEIVES=receives,
        RECEIVES_HTTP=f"127.0.0.1:{next(free_ports())}",
        LOG=f"http://{log.process.address if protocol == 'grpc' else log.process.http}",
        PROTOCOL=protocol,
        TOKEN=log.process.token,
    )
    lines = [line for line in told.splitlines() if not line.startswith("#")]
    program = GuardedProgram(
        "the collector",
        [str(Path(found.submodule_search_locations[0]) / "rotel-agent"), "start"],
        folder / "collector",
        environment=dict(line.split("=", 1) for line in lines),
    )
    await program.start()
    try:
        async with asyncio.timeout(SECONDS):
            while program.running:
                try:
                    _, writer = await asyncio.open_connection(*receives.rsplit(":", 1))
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        assert program.running, program.last_words()
        yield receives
    finally:
        await program.stop()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_in_between_loses_nothing_that_it_took(
    log: Log, tmp_path: Path, protocol: str
) -> None:
    """LOG-1, LOG-2: it packs, and sends again what the log was not there for."""
    async with collector(log, tmp_path, protocol) as receives:
        counted = Counted(over_grpc.OTLPSpanExporter(endpoint=receives, insecure=True))
        with traced(counted, batched=False) as tracer:
            before = await asyncio.to_thread(carry_out, tracer, log.user)
            await log.until(before)
            await log.process.program.kill()
            while_away = await asyncio.to_thread(carry_out, tracer, log.user)
            assert counted.taken == before | while_away
            assert await log.operations() == sorted(before)
            await log.process.start()
            after = await asyncio.to_thread(carry_out, tracer, log.user)
            await log.until(before | while_away | after)
