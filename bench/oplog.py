"""The operation log: rows that it commits a second, and what it adds to a change."""

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from gatehouse.domain.v1 import domain_pb2
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from bench.faults import oplog as faults
from bench.measuring import added, in_turn, quantile, say
from bench.stand import Stand
from examples.clinic.cli import DEMO_CLINIC
from services.embedded import PREMIUM_USER
from services.runtime.calling import TokenSource
from services.runtime.recording import (
    OPERATION,
    RecordedOperation,
    RecordedOutcome,
    Recorder,
    RecorderSettings,
    open_recorder,
    span_of,
)

ROUNDS = 3
# As a collector sends them: many spans an Export, few Exports at a time.
SPANS, EXPORTS, SENDERS = 100, 40, 8
# As gateways send them: each outcome by itself, as its request ends.
SINGLES, SINGLE_SENDERS = 1500, 64
PAIRS = 400
# Every fault once.
FAULTS = faults.Plan(seconds=0, seed=1, every_seconds=0.5)


def operation_of(action: str) -> RecordedOperation:
    id_ = str(uuid.uuid4())
    return RecordedOperation(id_, id_, action, "clients", PREMIUM_USER, DEMO_CLINIC)


def export_of(spans: int) -> ExportTraceServiceRequest:
    """Outcomes of as many operations, each a row."""
    now = datetime.now(UTC)
    request = ExportTraceServiceRequest()
    outcome: dict[str, str | bool] = {"gatehouse.outcome": "succeeded"}
    request.resource_spans.add().scope_spans.add().spans.extend(
        span_of(operation_of("read"), OPERATION, now, now, outcome) for _ in range(spans)
    )
    return request


async def measure(stand: Stand) -> dict[str, float]:
    many = [await rows_per_second(stand, SPANS, EXPORTS, SENDERS) for _ in range(ROUNDS)]
    single = [await rows_per_second(stand, 1, SINGLES, SINGLE_SENDERS) for _ in range(ROUNDS)]
    with_log, without = await changes(stand)
    findings = await faults.carried_out(FAULTS)
    for violation in findings.violations:
        say(f"oplog: {violation}")
    return {
        "oplog.lost": findings.lost,
        "oplog.duplicates": findings.duplicates,
        "oplog.rows_per_s": statistics.median(many),
        "oplog.rows_per_s_one_by_one": statistics.median(single),
        "oplog.intent_added_ms_p50": added(with_log, without),
        "oplog.intent_added_ms_p99": quantile(with_log, 0.99) - statistics.median(without),
    }


async def rows_per_second(stand: Stand, spans: int, exports: int, senders: int) -> float:
    """Rows committed for each second; the requests are made beforehand."""
    stub: Any = TraceServiceStub(stand.channels["oplog"])
    requests = iter([export_of(spans) for _ in range(exports)])

    async def sender() -> None:
        for request in requests:
            answer = await stub.Export(request, **stand.service)
            assert not answer.partial_success.rejected_spans

    before, begun = await rows(stand), time.monotonic()
    await asyncio.gather(*(sender() for _ in range(senders)))
    seconds = time.monotonic() - begun
    return (await rows(stand) - before) / seconds


async def rows(stand: Stand) -> int:
    """How many the log has."""
    url = stand.suite.database_url("postgres")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute("SELECT count(*) FROM oplog.operation_log")
        return int((await found.fetchone() or [0])[0])


async def changes(stand: Stand) -> tuple[Sequence[float], Sequence[float]]:
    """The milliseconds of a change between its intent and its outcome, and without them."""
    with tempfile.TemporaryDirectory() as spool:
        settings = RecorderSettings("bench", stand.suite.addresses["oplog"], Path(spool))
        tokens = TokenSource(stand.suite.folder / "gateway.token")
        async with open_recorder(settings, tokens) as (recorder, _):
            change = Change(stand, recorder)
            await in_turn(change.logged, change.unlogged, 20)
            return await in_turn(change.logged, change.unlogged, PAIRS)


class Change:
    """One change of a record, counted and carried out as the gateway does it."""

    def __init__(self, stand: Stand, recorder: Recorder) -> None:
        self._usage: Any = UsageServiceStub(stand.channels["usage"])
        self._domain: Any = DomainServiceStub(stand.channels["clients"])
        self._service, self._user = stand.service, stand.as_user(PREMIUM_USER)
        self._recorder = recorder
        condition = domain_pb2.Condition(field="name", comparison=domain_pb2.COMPARISON_EQUAL)
        condition.value.string_value = "Ana Souza"
        self._selector = domain_pb2.Selector(
            conditions=domain_pb2.ConditionList(conditions=[condition])
        )

    async def logged(self) -> None:
        operation, started_at = operation_of("update"), datetime.now(UTC)
        claim = await self._claimed()
        await self._recorder.intents([operation])
        await self._carried_out(operation.operation_id, claim)
        outcome = RecordedOutcome(operation, "succeeded", started_at, datetime.now(UTC))
        await self._recorder.outcomes([outcome])

    async def unlogged(self) -> None:
        await self._carried_out(str(uuid.uuid4()), await self._claimed())

    async def _claimed(self) -> usage_pb2.Claim:
        claim = usage_pb2.Claim(
            operation_id=str(uuid.uuid4()),
            user_id=str(uuid.uuid4()),
            modify=usage_pb2.Modify(count=1),
            limits=usage_pb2.DailyLimits(plan_name="premium"),
        )
        answer = await self._usage.Consume(usage_pb2.ConsumeRequest(claim=claim), **self._service)
        assert answer.admission.HasField("granted")
        return claim

    async def _carried_out(self, operation_id: str, claim: usage_pb2.Claim) -> None:
        operation = domain_pb2.Operation(
            operation_id=operation_id,
            verb=domain_pb2.VERB_UPDATE,
            entity="client",
            selector=self._selector,
            max_affected=1,
        )
        operation.fields["phone"] = f"+55 27 9{uuid.uuid4().int % 10**8:08d}"
        request = domain_pb2.ExecuteBatchRequest(operations=[operation])
        answer = await self._domain.ExecuteBatch(request, **self._user)
        assert answer.committed
        settled = usage_pb2.SettleRequest(user_id=claim.user_id, operation_id=claim.operation_id)
        await self._usage.Settle(settled, **self._service)
