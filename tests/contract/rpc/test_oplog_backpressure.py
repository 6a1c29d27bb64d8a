"""A log that cannot keep up says when to come back, and says OK after the commit (LOG-1, LOG-2)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from services.embedded_stores import PostgresServer
from services.oplog.committer import MOST_WAITING_SPANS
from services.runtime.failure import PeerFailure, failure_from
from services.runtime.recording import OPERATION, RecordedOperation, span_of
from tests.conftest import Database, migrated_database
from tests.contract.rpc.oplog_process import LogProcess, log_process

MOST_EXPORTS = 3


def export_of(user: str, spans: int = 1) -> ExportTraceServiceRequest:
    now = datetime.now(UTC)
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans
    for _ in range(spans):
        operation = RecordedOperation(str(uuid.uuid4()), "r-1", "read", "clients", user)
        made.append(span_of(operation, OPERATION, now, now, {"gatehouse.outcome": "succeeded"}))
    return request


@dataclass
class Sender:
    """Sends to one replica, over gRPC and over HTTP."""

    process: LogProcess
    stub: Any

    async def export(self, request: ExportTraceServiceRequest) -> PeerFailure | None:
        """None for OK, else what the log answered."""
        bearer = [("authorization", f"Bearer {self.process.token}")]
        try:
            answer = await self.stub.Export(request, timeout=30, metadata=bearer)
        except grpc.aio.AioRpcError as error:
            failure = failure_from(error)
            assert isinstance(failure, PeerFailure)
            return failure
        assert not answer.partial_success.rejected_spans
        return None

    async def post(self, request: ExportTraceServiceRequest) -> tuple[int, str]:
        """The status over HTTP, and what Retry-After says."""
        headers = {
            "authorization": f"Bearer {self.process.token}",
            "content-type": "application/x-protobuf",
        }
        url = f"http://{self.process.http}/v1/traces"
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, data=request.SerializeToString()) as response,
        ):
            return response.status, response.headers.get("retry-after", "")

    async def rows(self, user: str) -> int:
        async with await psycopg.AsyncConnection.connect(self.process.admin_url) as connection:
            found = await connection.execute(
                "SELECT count(*) FROM oplog.operation_log WHERE user_id = %s", (user,)
            )
            row = await found.fetchone()
        assert row is not None
        return int(row[0])


@asynccontextmanager
async def sending(database: Database, tokens: Any, folder: Path) -> AsyncIterator[Sender]:
    more = {"max_waiting_exports": str(MOST_EXPORTS)}
    async with (
        log_process(database, tokens, folder, **more) as process,
        grpc.aio.insecure_channel(
            process.address, options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        yield Sender(process, TraceServiceStub(channel))


@pytest.fixture
async def sender(database: Database, tokens: Any, tmp_path: Path) -> AsyncIterator[Sender]:
    async with sending(database, tokens, tmp_path) as made:
        yield made


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Nobody commits to the log as long as the block runs."""
    with psycopg.connect(database.admin_url) as connection:
        connection.execute("SELECT FROM oplog.head FOR UPDATE")
        yield


async def waits_for_the_lock(database: Database) -> None:
    """Return once the log waits for who holds it."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as connection,
    ):
        while await (await connection.execute(asked)).fetchone() == (0,):
            await asyncio.sleep(0.01)


async def test_past_what_may_wait_a_sender_is_told_when_to_come_back(
    sender: Sender, database: Database
) -> None:
    """LOG-1, ALL-2: RESOURCE_EXHAUSTED with RetryInfo, 429 with Retry-After; others are taken."""
    user = str(uuid.uuid4())
    with held(database):
        first = asyncio.create_task(sender.export(export_of(user)))
        await waits_for_the_lock(database)
        sent = [asyncio.create_task(sender.export(export_of(user))) for _ in range(8)]
        refused = 0
        async with asyncio.timeout(20):
            for done in asyncio.as_completed(sent):
                failure = await done
                assert failure is not None
                assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert failure.reason == "LOG_OVERLOADED"
                assert failure.retry_after == timedelta(milliseconds=500)
                refused += 1
                if refused == 8 - MOST_EXPORTS:
                    break
        assert await sender.post(export_of(user)) == (429, "1")
        assert not first.done()  # nothing is OK before it is committed
        assert await sender.rows(user) == 0
    answers = await asyncio.gather(first, *sent)
    assert answers.count(None) == 1 + MOST_EXPORTS
    assert await sender.rows(user) == 1 + MOST_EXPORTS


async def test_what_waits_is_bounded_also_where_an_export_is_large(
    sender: Sender, database: Database
) -> None:
    """LOG-1: by its spans; one that finds nothing waiting is taken, however large."""
    user = str(uuid.uuid4())
    large = [export_of(user, MOST_WAITING_SPANS // 2) for _ in range(3)]
    with held(database):
        first = asyncio.create_task(sender.export(export_of(user)))
        await waits_for_the_lock(database)
        sent = [asyncio.create_task(sender.export(each)) for each in large]
        done, waiting = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        (failure,) = [each.result() for each in done]
        assert failure is not None
        assert failure.reason == "LOG_OVERLOADED"
    answers = await asyncio.gather(first, *waiting)
    assert answers == [None] * 3
    assert await sender.rows(user) == 1 + 2 * (MOST_WAITING_SPANS // 2)


async def test_without_its_store_the_log_says_so_and_takes_all_of_it_later(
    own_postgres: PostgresServer, tokens: Any, tmp_path: Path
) -> None:
    """LOG-2, ALL-2: UNAVAILABLE with RetryInfo, 503 with Retry-After; sent again it is once."""
    database = await migrated_database(own_postgres)
    user = str(uuid.uuid4())
    request = export_of(user)
    async with sending(database, tokens, tmp_path) as sender:
        assert await sender.export(export_of(str(uuid.uuid4()))) is None
        await own_postgres.kill()
        failure = await sender.export(request)
        assert failure is not None
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "STORE_UNAVAILABLE"
        assert failure.retry_after is not None
        code, after = await sender.post(request)
        assert (code, after.isdigit()) == (503, True)
        await own_postgres.start()
        async with asyncio.timeout(30):
            while await sender.export(request) is not None:
                await asyncio.sleep(0.05)
        assert await sender.export(request) is None
        assert (await sender.post(request))[0] == 200
        assert await sender.rows(user) == 1
