"""The operation log on a socket, over a real Postgres (LOG-1, LOG-2, LOG-4 to LOG-6)."""

import asyncio
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import grpc
import psycopg
import pytest
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from google.protobuf.message import DecodeError
from joserfc.jwk import OKPKey
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.oplog.app import running
from services.oplog.settings import Settings
from services.runtime.calling import TokenSource
from services.runtime.failure import failure_from
from services.runtime.recording import (
    LogUnavailable,
    RecordedOperation,
    RecordedOutcome,
    RecorderSettings,
    attribute,
    open_recorder,
)
from services.runtime.telemetry import open_telemetry

AUDITOR = str(uuid.uuid4())


@dataclass
class Log:
    """A running log and stubs to it."""

    address: str
    http: str
    service: OperationLogServiceStub
    traces: TraceServiceStub
    tokens: object

    def as_(self, *roles: str, user_id: str = "") -> dict[str, object]:
        token = self.tokens.user(roles=roles, user_id=user_id)
        return {"metadata": [("authorization", f"Bearer {token}")], "timeout": 10}

    async def export(self, *spans: Span) -> ExportTraceServiceResponse:
        return await self.traces.Export(request_of(*spans), **self.as_("service"))

    async def rows(self, **wanted: object) -> list[pb.OperationLog]:
        request = pb.ListOperationsRequest(filter=pb.Filter(**wanted), page_size=500)
        return list((await self.service.ListOperations(request, **self.as_("auditor"))).operations)


@pytest.fixture(scope="module")
async def log(database, tokens, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Log]:
    key_file = tmp_path_factory.mktemp("keys") / "sealing.pem"
    key_file.write_bytes(OKPKey.generate_key("Ed25519").as_pem(private=True))
    settings = Settings(
        database_url=database.url_for("oplog"),
        sealing_key_file=key_file,
        http_listen="127.0.0.1:0",
        heartbeat_seconds=0.2,
        **tokens.settings,
    )
    records: list[str] = []
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry(settings))
        telemetry.log.addFilter(lambda record: records.append(record.getMessage()) or True)
        address = await stack.enter_async_context(running(settings, telemetry))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        http = next(each.rpartition(" ")[2] for each in records if "HTTP" in each)
        yield Log(
            address, http, OperationLogServiceStub(channel), TraceServiceStub(channel), tokens
        )


def request_of(*spans: Span) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", "a-test"))
    resource.scope_spans.add().spans.extend(spans)
    return request


def span(name: str = "operation", **changes: str) -> Span:
    """An operation's span as any SDK would make it; *changes* with underscores for dots."""
    end = time.time_ns()
    attributes = {
        "gatehouse.operation.id": str(uuid.uuid4()),
        "gatehouse.request.id": "request-1",
        "gatehouse.action": "update",
        "gatehouse.domain": "finance",
        "gatehouse.outcome": "succeeded" if name == "operation" else "",
        "user.id": str(uuid.uuid4()),
        "gatehouse.clinic.id": str(uuid.uuid4()),
        **changes,
    }
    return Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name=name,
        start_time_unix_nano=end - 120_000_000,
        end_time_unix_nano=end,
        attributes=[attribute(key, value) for key, value in attributes.items() if value],
    )


async def test_an_operation_is_one_row(log: Log) -> None:
    """LOG-1: whatever OpenTelemetry SDK sends it."""
    user = str(uuid.uuid4())
    sent = span(**{"user.id": user, "gatehouse.action": "admin.plan.update"})
    await log.export(sent)
    (row,) = await log.rows(user_id=user)
    assert row.outcome == pb.OUTCOME_SUCCEEDED
    assert row.trace_id == sent.trace_id.hex()
    assert row.span_id == sent.span_id.hex()
    assert 115 <= row.latency_ms <= 125


async def test_an_intent_waits_for_its_outcome(log: Log) -> None:
    """LOG-2: unknown until the outcome comes, one row all the while."""
    user, operation = str(uuid.uuid4()), str(uuid.uuid4())
    same = {"user.id": user, "gatehouse.operation.id": operation, "gatehouse.clinic.id": ""}
    await log.export(span("operation.intent", **same))
    assert [row.outcome for row in await log.rows(user_id=user)] == [pb.OUTCOME_UNKNOWN]
    outcome = {"gatehouse.outcome": "failed", "gatehouse.reason": "RECORD_LOCKED"}
    await log.export(span("operation", **same, **outcome))
    (row,) = await log.rows(user_id=user)
    assert (row.outcome, row.reason) == (pb.OUTCOME_FAILED, "RECORD_LOCKED")


async def test_an_intent_that_comes_late_changes_nothing(log: Log) -> None:
    """LOG-2: in whatever order they come."""
    user, operation = str(uuid.uuid4()), str(uuid.uuid4())
    same = {"user.id": user, "gatehouse.operation.id": operation, "gatehouse.clinic.id": ""}
    await log.export(span("operation", **same))
    await log.export(span("operation.intent", **same))
    assert [row.outcome for row in await log.rows(user_id=user)] == [pb.OUTCOME_SUCCEEDED]


async def test_spans_sent_again_and_at_once_are_logged_once(log: Log) -> None:
    """LOG-2: nothing twice, under concurrency."""
    user = str(uuid.uuid4())
    spans = [span(**{"user.id": user}) for _ in range(20)]
    await asyncio.gather(*(log.export(*spans) for _ in range(8)))
    assert len(await log.rows(user_id=user)) == 20


async def test_another_operation_under_a_known_id_is_quarantined(log: Log) -> None:
    """LOG-1, LOG-2: a row is never rewritten to be of somebody else."""
    user, operation = str(uuid.uuid4()), str(uuid.uuid4())
    first = {"user.id": user, "gatehouse.operation.id": operation}
    await log.export(span("operation.intent", **first))
    await log.export(span("operation", **{**first, "user.id": str(uuid.uuid4())}))
    assert [row.outcome for row in await log.rows(user_id=user)] == [pb.OUTCOME_UNKNOWN]
    quarantined = await log.service.ListQuarantine(pb.ListQuarantineRequest(), **log.as_("auditor"))
    assert "contradicts" in quarantined.spans[0].problem


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gatehouse.operation.id": "17"}, "gatehouse.operation.id is not a UUID"),
        ({"user.id": ""}, "user.id and gatehouse.operation.id must be given"),
        ({"gatehouse.action": "destroy"}, "gatehouse.action is none of the known actions"),
        ({"gatehouse.outcome": "splendid"}, "gatehouse.outcome is none of the known outcomes"),
        ({"gatehouse.request.id": "x" * 300}, "gatehouse.request.id is not an identifier"),
        ({"gatehouse.reason": "Maria asked for it"}, "gatehouse.reason is not an identifier"),
    ],
)
async def test_a_malformed_operation_is_kept_aside(log: Log, changes: dict, problem: str) -> None:
    """LOG-1: never dropped in silence; its sender is told, and its neighbours are taken."""
    user = str(uuid.uuid4())
    bad = span(**changes)
    answer = await log.export(bad, span(**{"user.id": user}))
    assert answer.partial_success.rejected_spans == 1
    assert answer.partial_success.error_message.startswith(problem)
    assert len(await log.rows(user_id=user)) == 1
    quarantined = await log.service.ListQuarantine(
        pb.ListQuarantineRequest(page_size=1), **log.as_("auditor")
    )
    assert quarantined.spans[0].span_id == bad.span_id.hex()
    assert quarantined.next_page_token or len(quarantined.spans) == 1


async def test_ordinary_spans_are_ignored(log: Log) -> None:
    """LOG-1: a database's span is no operation, also when it is called one."""
    answer = await log.export(
        Span(trace_id=secrets.token_bytes(16), span_id=secrets.token_bytes(8), name="SELECT"),
        Span(trace_id=secrets.token_bytes(16), span_id=secrets.token_bytes(8), name="operation"),
    )
    assert answer == ExportTraceServiceResponse()


async def test_only_services_write(log: Log) -> None:
    """LOG-1, ALL-3: a user's token does not make log rows."""
    for roles in (["user"], ["auditor"], ["admin"]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await log.traces.Export(request_of(span()), **log.as_(*roles))
        assert failure_from(caught.value).reason == "ROLE_REQUIRED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await log.traces.Export(request_of(span()), timeout=5)
    assert failure_from(caught.value).reason == "TOKEN_MISSING"


async def test_users_read_their_own_rows_only(log: Log) -> None:
    """LOG-5, ENT-5."""
    user = str(uuid.uuid4())
    sent = span(**{"user.id": user})
    await log.export(sent)
    own = pb.ListOperationsRequest(filter=pb.Filter(user_id=user))
    found = await log.service.ListOperations(own, **log.as_("user", user_id=user))
    assert len(found.operations) == 1
    for roles, wanted in ((["user"], own), (["user"], pb.ListOperationsRequest())):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await log.service.ListOperations(wanted, **log.as_(*roles))
        assert failure_from(caught.value).reason == "ROLE_REQUIRED"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await log.service.GetOperation(
            pb.GetOperationRequest(id=found.operations[0].id), **log.as_("user")
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_pages_hold_every_row_once(log: Log) -> None:
    """LOG-5: while rows are added."""
    user = str(uuid.uuid4())
    await log.export(*(span(**{"user.id": user}) for _ in range(11)))
    request = pb.ListOperationsRequest(filter=pb.Filter(user_id=user), page_size=4)
    seen: list[str] = []
    auditor = log.as_("auditor", user_id=str(uuid.uuid4()))
    while True:
        page = await log.service.ListOperations(request, **auditor)
        seen += [each.id for each in page.operations]
        await log.export(span(**{"user.id": user}))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(seen) == len(set(seen)) == 11


async def test_a_page_token_is_good_for_its_caller_and_its_listing_alone(log: Log) -> None:
    """LOG-5."""
    user = str(uuid.uuid4())
    await log.export(*(span(**{"user.id": user}) for _ in range(3)))
    auditor = log.as_("auditor", user_id=str(uuid.uuid4()))
    request = pb.ListOperationsRequest(filter=pb.Filter(user_id=user), page_size=1)
    token = (await log.service.ListOperations(request, **auditor)).next_page_token
    request.page_token = token
    assert len((await log.service.ListOperations(request, **auditor)).operations) == 1
    other_filter = pb.ListOperationsRequest(page_size=1, page_token=token)
    for call, asked, caller in (
        (log.service.ListOperations, request, log.as_("auditor")),
        (log.service.ListOperations, request, log.as_("user", user_id=user)),
        (log.service.ListOperations, other_filter, auditor),
        (log.service.ListQuarantine, pb.ListQuarantineRequest(page_token=token), auditor),
        (log.service.ListQuarantine, pb.ListQuarantineRequest(page_token="AAAA"), auditor),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(asked, **caller)
        assert failure_from(caught.value).reason == "INVALID_ARGUMENT"


async def test_a_tail_misses_nothing(log: Log) -> None:
    """LOG-5: rows and their outcomes, in order, while many write."""
    clinic = str(uuid.uuid4())
    operations = [str(uuid.uuid4()) for _ in range(15)]
    stream = log.service.TailOperations(
        pb.TailOperationsRequest(filter=pb.Filter(clinic_id=clinic)),
        metadata=log.as_("auditor")["metadata"],
    )
    await stream.read()

    async def write(operation: str) -> None:
        same = {
            "gatehouse.operation.id": operation,
            "gatehouse.clinic.id": clinic,
            "user.id": "00000000-0000-4000-8000-000000000001",
        }
        await log.export(span("operation.intent", **same))
        await log.export(span("operation", **same))

    async with asyncio.TaskGroup() as group:
        for operation in operations:
            group.create_task(write(operation))
    positions, settled = [], set()
    async with asyncio.timeout(20):
        while len(settled) < len(operations):
            event = await stream.read()
            positions.append(event.position)
            if event.operation.outcome == pb.OUTCOME_SUCCEEDED:
                settled.add(event.operation.id)
    stream.cancel()
    assert settled == set(operations)
    assert positions == sorted(positions)


async def test_the_chain_holds_and_names_what_was_changed(log: Log, database) -> None:
    """LOG-4: by a superuser, since the service's own role cannot."""
    operation = str(uuid.uuid4())
    await log.export(span(**{"gatehouse.operation.id": operation}))
    await log.export(span())
    whole = await log.service.VerifyChain(pb.VerifyChainRequest(), **log.as_("auditor"))
    assert whole.intact, whole
    async with await psycopg.AsyncConnection.connect(
        database.admin_url, autocommit=True
    ) as connection:
        for table, column in (("links", "operation_id"), ("operation_log", "id")):
            change = f"UPDATE oplog.{table} SET reason = %s WHERE {column} = %s"
            await connection.execute(change, ("edited", operation))
            found = await log.service.VerifyChain(pb.VerifyChainRequest(), **log.as_("auditor"))
            assert not found.intact
            assert found.broken.operation_id == operation
            assert found.broken.tampering == pb.TAMPERING_CHANGED
            await connection.execute(change, ("", operation))
        deleted = "DELETE FROM oplog.operation_log WHERE id = %s RETURNING *"
        row = await (await connection.execute(deleted, (operation,))).fetchone()
        found = await log.service.VerifyChain(pb.VerifyChainRequest(), **log.as_("auditor"))
        assert found.broken.tampering == pb.TAMPERING_REMOVED
        slots = ", ".join(["%s"] * len(row))
        await connection.execute(f"INSERT INTO oplog.operation_log VALUES ({slots})", row)
    again = await log.service.VerifyChain(pb.VerifyChainRequest(), **log.as_("auditor"))
    assert again.intact


async def verified_in_pages(log: Log, size: int) -> list[pb.VerifyChainResponse]:
    request = pb.VerifyChainRequest(page_size=size)
    pages: list[pb.VerifyChainResponse] = []
    while not pages or request.page_token:
        pages.append(await log.service.VerifyChain(request, **log.as_("auditor", user_id=AUDITOR)))
        request.page_token = pages[-1].next_page_token
    return pages


async def test_a_chain_is_verified_page_by_page_while_it_grows(log: Log) -> None:
    """LOG-4: no page is larger than asked, and together they are the whole."""
    for _ in range(3):
        await log.export(*(span() for _ in range(5)))
    done = asyncio.Event()

    async def grow() -> None:
        while not done.is_set():
            await log.export(span("operation.intent"), span())

    growing = asyncio.create_task(grow())
    pages = await verified_in_pages(log, 4)
    done.set()
    await growing
    assert all(page.intact for page in pages), pages[-1]
    assert all(page.checked == 4 for page in pages[:-1])
    assert len({page.last_position for page in pages}) == 1
    assert sum(page.checked for page in pages) == pages[-1].position == pages[0].last_position
    assert pages[-1].sealed_position == pages[-1].position
    foreign = pb.VerifyChainRequest(page_size=4, page_token=pages[0].next_page_token)
    for request, caller in (
        (foreign, log.as_("auditor")),
        (pb.VerifyChainRequest(page_token="made up"), log.as_("admin")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await log.service.VerifyChain(request, **caller)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_digests_are_told_and_compared(log: Log, database) -> None:
    """LOG-4: from where the last ones ended, in the order that they were asked about."""
    await log.export(span())
    auditor = log.as_("auditor")
    found = await log.service.ListDigests(pb.ListDigestsRequest(), **auditor)
    newest = found.digests[-1]
    whole = await log.service.VerifyChain(pb.VerifyChainRequest(), **auditor)
    assert newest.position == whole.position
    after = pb.ListDigestsRequest(after_position=newest.position)
    assert not (await log.service.ListDigests(after, **auditor)).digests
    await log.export(span())
    request = pb.CompareDigestsRequest(digests=["made up", newest.jws])
    compared = await log.service.CompareDigests(request, **auditor)
    assert [(each.position, each.match) for each in compared.comparisons] == [
        (0, pb.DIGEST_MATCH_FORGED),
        (newest.position, pb.DIGEST_MATCH_HELD),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await log.service.CompareDigests(
            pb.CompareDigestsRequest(digests=["x" * 3000]), **log.as_("auditor")
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("VerifyChain", pb.VerifyChainRequest()),
        ("ListDigests", pb.ListDigestsRequest()),
        ("CompareDigests", pb.CompareDigestsRequest(digests=["x"])),
    ],
)
async def test_only_auditors_and_admins_look_for_tampering(
    log: Log, method: str, request_: object
) -> None:
    """LOG-4, ALL-3."""
    for roles in (("user",), ("service",)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(log.service, method)(request_, **log.as_(*roles))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert failure_from(caught.value).reason == "ROLE_REQUIRED"
    await getattr(log.service, method)(request_, **log.as_("admin"))


async def test_a_trace_says_what_each_of_its_spans_told(log: Log) -> None:
    """LOG-5: enough to draw it, in the order of their starts."""
    intent, outcome = span("operation.intent"), span(**{"gatehouse.reason": "LOCKED"})
    intent.start_time_unix_nano -= 10**9
    outcome.trace_id, outcome.parent_span_id = intent.trace_id, b"12345678"
    await log.export(outcome, intent)
    trace = await log.service.GetTrace(
        pb.GetTraceRequest(trace_id=intent.trace_id.hex()), **log.as_("auditor")
    )
    first, second = trace.spans
    assert (first.name, first.outcome) == ("operation.intent", pb.OUTCOME_UNKNOWN)
    assert (second.action, second.domain, second.reason) == ("update", "finance", "LOCKED")
    assert second.outcome == pb.OUTCOME_SUCCEEDED
    assert second.parent_span_id == b"12345678".hex()
    assert second.duration.ToMilliseconds() == 120


async def test_the_services_role_can_neither_change_nor_delete(log: Log, database) -> None:
    """LOG-4, ENT-5: in SQL, as the role that the service connects with."""
    await log.export(span())
    async with await psycopg.AsyncConnection.connect(
        database.url_for("oplog"), autocommit=True
    ) as connection:
        await connection.execute("SELECT set_config('gatehouse.roles', 'service,admin', false)")
        for statement in (
            "DELETE FROM oplog.operation_log",
            "DELETE FROM oplog.links",
            "UPDATE oplog.links SET reason = 'edited'",
            "UPDATE oplog.operation_log SET user_id = gen_random_uuid()",
            "DELETE FROM oplog.quarantine",
            "DELETE FROM oplog.seals",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)
        await connection.execute("SELECT set_config('gatehouse.roles', '', false)")
        for table in ("operation_log", "links", "quarantine", "head", "seals"):
            found = await connection.execute(f"SELECT count(*) FROM oplog.{table}")
            assert (await found.fetchone())[0] == 0


async def test_a_recorder_is_answered_after_the_commit(log: Log, tokens, tmp_path: Path) -> None:
    """LOG-2: intent, then outcome, through the services' own recorder; LOG-6: identifiers only."""
    token_file = tmp_path / "token"
    token_file.write_text(tokens.user(roles=["service"]))
    settings = RecorderSettings("gateway", log.address, tmp_path / "spool")
    user = str(uuid.uuid4())
    operation = RecordedOperation(str(uuid.uuid4()), "r-1", "delete", "clients", user)
    async with open_recorder(settings, TokenSource(token_file)) as (recorder, check):
        await recorder.intents([operation])
        (row,) = await log.rows(user_id=user)
        assert row.outcome == pb.OUTCOME_UNKNOWN
        now = datetime.now(UTC)
        await recorder.outcomes([RecordedOutcome(operation, "succeeded", now, now)])
        (row,) = await log.rows(user_id=user)
        assert row.outcome == pb.OUTCOME_SUCCEEDED
        assert await check()


async def test_an_outcome_waits_in_the_spool_and_an_intent_is_refused(
    log: Log, tokens, tmp_path: Path, unused_tcp_port: int
) -> None:
    """LOG-2: with the log away nothing is lost, and nothing new begins."""
    token_file = tmp_path / "token"
    token_file.write_text(tokens.user(roles=["service"]))
    spool = tmp_path / "spool"
    user = str(uuid.uuid4())
    operation = RecordedOperation(str(uuid.uuid4()), "r-1", "delete", "clients", user)
    away = RecorderSettings("gateway", f"127.0.0.1:{unused_tcp_port}", spool)
    now = datetime.now(UTC)
    async with open_recorder(away, TokenSource(token_file)) as (recorder, _):
        with pytest.raises(LogUnavailable):
            await recorder.intents([operation])
        await recorder.outcomes([RecordedOutcome(operation, "failed", now, now)])
        assert len(list(spool.glob("*.otlp"))) == 1
    back = RecorderSettings("gateway", log.address, spool)
    async with open_recorder(back, TokenSource(token_file)):
        async with asyncio.timeout(20):
            while list(spool.glob("*.otlp")):
                await asyncio.sleep(0.02)
    assert [row.outcome for row in await log.rows(user_id=user)] == [pb.OUTCOME_FAILED]


TRACES = [
    "contrib_faro_standard-payload_traces",
    "contrib_servicegraph_messaging-system-trace",
    "contrib_servicegraph_virtual-node-label-trace",
    "jaeger_cassandra_otel_traces_01",
    "jaeger_elasticsearch_otel_traces_01",
    "jaeger_memory_otel_traces_01",
    "jaeger_otlp2jaeger-in",
    "opentelemetry-proto_trace",
]
OTHERS = ["opentelemetry-proto_metrics", "opentelemetry-proto_logs", "opentelemetry-proto_events"]


async def over_grpc(log: Log, payload: bytes) -> tuple[str, int]:
    try:
        answer = await log.traces.Export(
            ExportTraceServiceRequest.FromString(payload), **log.as_("service")
        )
    except grpc.aio.AioRpcError as error:
        return error.code().name, 0
    return "OK", answer.partial_success.rejected_spans


async def over_http(log: Log, body: bytes, content_type: str) -> tuple[int, bytes]:
    token = log.tokens.user(roles=["service"])
    headers = {"content-type": content_type, "authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{log.http}/v1/traces", data=body, headers=headers) as response,
    ):
        assert response.content_type == content_type
        return response.status, await response.read()


@pytest.mark.parametrize("name", TRACES)
async def test_published_traces_are_taken(log: Log, test_data: Path, name: str) -> None:
    """LOG-1: OK over gRPC, over HTTP as protobuf and as JSON, and none of them is an operation."""
    folder = test_data / "otlp"
    binary, text = (folder / f"{name}.pb").read_bytes(), (folder / f"{name}.json").read_bytes()
    before = len(await log.rows())
    assert await over_grpc(log, binary) == ("OK", 0)
    assert await over_http(log, binary, "application/x-protobuf") == (200, b"")
    assert await over_http(log, text, "application/json") == (200, b"{}")
    assert len(await log.rows()) == before


@pytest.mark.parametrize("name", OTHERS)
async def test_other_signals_are_refused(log: Log, test_data: Path, name: str) -> None:
    """LOG-1: INVALID_ARGUMENT or 400, which tells a sender not to try again."""
    folder = test_data / "otlp"
    binary, text = (folder / f"{name}.pb").read_bytes(), (folder / f"{name}.json").read_bytes()
    try:
        code, _ = await over_grpc(log, binary)
    except DecodeError:
        code = "INVALID_ARGUMENT"  # it is no trace request to begin with
    assert code == "INVALID_ARGUMENT"
    assert (await over_http(log, binary, "application/x-protobuf"))[0] == 400
    assert (await over_http(log, text, "application/json"))[0] == 400
