"""Replicas of the log as a deployment starts them, killed at work, over a store that is (LOG-2)."""

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import psycopg
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.runtime.recording import attribute
from tests.conftest import migrated_database

PREFIX = "GATEHOUSE_OPLOG_"
# What a sender sends again by OTLP; anything else would lose what it sent.
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@asynccontextmanager
async def replica(
    environ: dict[str, str],
) -> AsyncIterator[tuple[grpc.aio.Channel, asyncio.subprocess.Process]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.oplog"), env=environ, stdout=-1, stderr=-3
    )
    try:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        async with grpc.aio.insecure_channel(line["listen"]) as channel:
            yield channel, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def export_of(operation: str, name: str, user: str) -> ExportTraceServiceRequest:
    values = {
        "gatehouse.operation.id": operation,
        "gatehouse.request.id": "r-1",
        "gatehouse.action": "update",
        "gatehouse.domain": "finance",
        "user.id": user,
    }
    if name == "operation":
        values["gatehouse.outcome"] = "succeeded"
    now = time.time_ns()
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.append(
        Span(
            trace_id=uuid.uuid4().bytes,
            span_id=uuid.uuid4().bytes[:8],
            name=name,
            start_time_unix_nano=now,
            end_time_unix_nano=now,
            attributes=[attribute(key, value) for key, value in values.items()],
        )
    )
    return request


async def test_every_acknowledged_operation_is_one_row_through_kills(
    own_postgres: Any, tokens: Any
) -> None:
    """LOG-2: of a replica and of Postgres, while senders send until they are answered OK."""
    database = await migrated_database(own_postgres)
    told = {**tokens.settings, "database_url": database.url_for("oplog")}
    environ = {**os.environ, **{PREFIX + name.upper(): value for name, value in told.items()}}
    call = {"metadata": [("authorization", f"Bearer {tokens.user(roles=['service'])}")]}
    user = str(uuid.uuid4())
    operations = [str(uuid.uuid4()) for _ in range(60)]
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        started = await asyncio.gather(
            *(stack.enter_async_context(replica(environ)) for _ in range(2))
        )
        stubs = [TraceServiceStub(channel) for channel, _ in started]

        async def acknowledged(request: ExportTraceServiceRequest, asked: int) -> None:
            while True:
                try:
                    answer = await stubs[asked % 2].Export(request, timeout=5, **call)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in AGAIN:
                        raise
                    asked += 1
                    await asyncio.sleep(0.01)
                else:
                    assert not answer.partial_success.rejected_spans
                    return

        async def carry_out(operation: str, place: int) -> None:
            for name in ("operation.intent", "operation"):
                await acknowledged(export_of(operation, name, user), place)

        racing = [
            asyncio.ensure_future(carry_out(each, place)) for place, each in enumerate(operations)
        ]
        await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
        started[0][1].kill()
        await own_postgres.kill()
        await own_postgres.start()
        await asyncio.gather(*racing)

        log = OperationLogServiceStub(started[1][0])
        auditor = {"metadata": [("authorization", f"Bearer {tokens.user(roles=['auditor'])}")]}
        found = await log.ListOperations(
            pb.ListOperationsRequest(filter=pb.Filter(user_id=user), page_size=500),
            timeout=10,
            **auditor,
        )
        assert sorted(each.id for each in found.operations) == sorted(operations)
        assert {each.outcome for each in found.operations} == {pb.OUTCOME_SUCCEEDED}
        chain = await log.VerifyChain(pb.VerifyChainRequest(), timeout=10, **auditor)
        assert (chain.intact, chain.checked) == (True, 2 * len(operations))
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        rows = await connection.execute(
            "SELECT (SELECT count(*) FROM oplog.operation_log), (SELECT count(*) FROM oplog.links)"
        )
        assert await rows.fetchone() == (len(operations), 2 * len(operations))
