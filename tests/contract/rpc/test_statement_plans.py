"""No statement of any service reads a table that grows, or much of it (USE-9, LOG-5, DOM-2).

The kind of fault: under row level security a function or an operator that is not leakproof is no
longer an index condition but a filter, so that a statement that looks indexed reads everything.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from gatehouse.entitlements.v1 import entitlements_pb2 as ent
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from examples.clinic import loading, reading, sample
from services.embedded import suite
from services.gateway.replay import Call, Lease
from services.gateway.requests import Requests
from services.oplog.postgres import Store
from services.oplog.seals import Sealing
from services.router.accounts import AttemptsQuery, SpendingQuery
from services.router.ledger import Ledger
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from services.runtime.recording import attribute
from tests.gateway_calls import (
    CREATE,
    DELETE,
    READ,
    SECONDS,
    UPDATE,
    Stage,
    User,
    appointment,
    client,
    clients,
    eventually,
    invoice,
    operation,
    staged,
)
from tests.recorded_plans import SERVICES, Recorder, multiply

# Some 900,000 rows are written before the first test, and machines are busy.
pytestmark = pytest.mark.timeout(400)
OWNER, CLINIC = str(uuid.uuid4()), str(uuid.uuid4())
# Every fifth row is of the user for whom the statements are run.
USERS = f"CASE WHEN n % 5 = 0 THEN '{OWNER}'::uuid ELSE md5((n % 5000)::text)::uuid END"
CLIENTS = "md5('client ' || n)::uuid"
PAST = "now() - n * interval '1 second'"
FILL: dict[str, dict[str, str]] = {
    "entitlements.user_plan": {"user_id": "md5(n::text)::uuid"},
    "entitlements.clinic_plan": {"clinic_id": "md5(n::text)::uuid"},
    "entitlements.changes": {
        "revision": "-n",
        "key": "md5(n::text)::uuid::text",
        "request_id": "NULL::uuid",
    },
    "router.attempts": {
        "attempt_id": "md5(n::text)::uuid",
        "user_id": USERS,
        "clinic_id": f"CASE WHEN n % 5 = 0 THEN '{CLINIC}'::uuid ELSE md5(n::text)::uuid END",
        "trace_id": "md5(n::text)",
        "started_at": "now() - n * interval '1 minute'",
        "ended_at": "now() - n * interval '1 minute'",
    },
    "gateway.requests": {"user_id": USERS, "request_id": "n::text"},
    "gateway.recommendations": {
        "id": "md5(n::text)::uuid",
        "user_id": USERS,
        "clinic_id": f"'{CLINIC}'::uuid",
        "fingerprint": "n::text",
        "created_at": PAST,
    },
    "oplog.links": {
        "position": "1000 + n",
        "operation_id": "md5(n::text)::uuid",
        "user_id": USERS,
        "trace_id": "md5(n::text)",
        "recorded_at": "(template.t).recorded_at + n * interval '1 microsecond'",
    },
    "oplog.operation_log": {
        "position": "1000 + n",
        "id": "md5(n::text)::uuid",
        "user_id": USERS,
        "clinic_id": f"CASE WHEN n % 5 = 0 THEN '{CLINIC}'::uuid ELSE md5(n::text)::uuid END",
        "trace_id": "md5(n::text)",
        "request_id": "md5(n::text)",
        "domain": "CASE WHEN n % 500 = 0 THEN 'finance' ELSE 'clients' END",
        "outcome": "CASE WHEN n % 500 = 0 THEN 'failed' ELSE 'succeeded' END",
        "action": "CASE WHEN n % 500 = 0 THEN 'admin.plan.update' ELSE 'read' END",
        "created_at": PAST,
        "logged_at": "(template.t).logged_at + n * interval '1 microsecond'",
    },
    "oplog.quarantine": {"id": "1000 + n", "trace_id": "md5(n::text)"},
    "oplog.seals": {
        "slot": "'2000-01-01'::timestamptz + n * interval '10 minutes'",
        "position": "1000 + n",
    },
    "clinic.clients": {
        "id": CLIENTS,
        "clinic_id": f"'{CLINIC}'::uuid",
        "name": "'Pérson ' || n",
        "source_id": "n::text",
    },
    "clinic.invoices": {
        "id": "md5(n::text)::uuid",
        "clinic_id": f"'{CLINIC}'::uuid",
        "client_id": CLIENTS,
        "number": "'F' || n",
        "issued_date": "current_date - n % 3000",
        "due_date": "current_date - n % 3000 + 30",
    },
    "clinic.appointments": {
        "id": "md5(n::text)::uuid",
        "clinic_id": f"'{CLINIC}'::uuid",
        "client_id": CLIENTS,
        "starts_at": "now() + (n - 25000) * interval '10 minutes'",
        "source_id": "n::text",
    },
    "clinic.reminders": {
        "id": "md5(n::text)::uuid",
        "clinic_id": f"'{CLINIC}'::uuid",
        "client_id": CLIENTS,
        "created_at": PAST,
    },
    "clinic.operations": {"operation_id": "md5(n::text)::uuid"},
}
WHERE = {
    "entitlements.changes": "kind = 'user_plan'",
    "gateway.requests": "state = 'finished'",
    **{f"clinic.{table}": "deleted_at IS NULL" for table in ("clients", "invoices")},
}


async def drive_entitlements(stage: Stage) -> None:
    """Every method, for an admin, and what a user may ask for themselves."""
    stub, admin = stage.entitlements, stage.admin
    user = User(stage, OWNER, CLINIC).call
    id_ = str(uuid.uuid4())
    plan = ent.Plan(name=f"plan-{id_[:8]}", analytics_window_days=30, model_tiers=[1])
    make = ent.CreatePlanRequest(plan=plan, request_id=id_)
    made = (await stub.CreatePlan(make, **admin)).plan
    made.analytics_window_days = 31
    mask = FieldMask(paths=["analytics_window_days"])
    await stub.UpdatePlan(ent.UpdatePlanRequest(plan=made, update_mask=mask), **admin)
    for call in (admin, user):
        await stub.GetPlan(ent.GetPlanRequest(id=made.id), **call)
        await stub.GetPlan(ent.GetPlanRequest(name=made.name), **call)
        await stub.ListPlans(ent.ListPlansRequest(page_size=1), **call)
    give = ent.AssignUserPlanRequest(user_id=OWNER, plan_name="premium")
    await stub.AssignUserPlan(give, **admin)
    await stub.AssignUserPlan(ent.AssignUserPlanRequest(user_id=id_, plan_id=made.id), **admin)
    await stub.AssignUserPlan(ent.AssignUserPlanRequest(user_id=id_, plan_name="basic"), **admin)
    await stub.DeleteUserPlan(ent.DeleteUserPlanRequest(user_id=id_), **admin)
    keep = ent.SetClinicPlanRequest(clinic_id=CLINIC, plan_name="premium", time_zone="")
    await stub.SetClinicPlan(keep, **admin)
    keep = ent.SetClinicPlanRequest(clinic_id=id_, plan_id=made.id, time_zone="Asia/Tokyo")
    await stub.SetClinicPlan(keep, **admin)
    await stub.DeleteClinicPlan(ent.DeleteClinicPlanRequest(clinic_id=id_), **admin)
    for call in (admin, user):
        await stub.GetUserPlan(ent.GetUserPlanRequest(user_id=OWNER), **call)
        await stub.GetClinicPlan(ent.GetClinicPlanRequest(clinic_id=CLINIC), **call)
        for plan_id in ("", made.id):
            await pages(stub.ListUserPlans, ent.ListUserPlansRequest(plan_id=plan_id), call)
            await pages(stub.ListClinicPlans, ent.ListClinicPlansRequest(plan_id=plan_id), call)
        asked = {"user_id": OWNER, "clinic_id": CLINIC}
        await stub.GetEntitlements(ent.GetEntitlementsRequest(**asked), **call)
        await stub.GetPlanAt(ent.GetPlanAtRequest(**asked, at=moment(0)), **call)
    gone = await stub.DeletePlan(ent.DeletePlanRequest(id=made.id), **admin)
    gone.revision.number -= 1
    await stub.Watch(ent.WatchRequest(after_revision=gone.revision), **admin).read()
    async for _ in stub.Snapshot(ent.SnapshotRequest(), **admin):
        pass
    descriptor = (await stub.ListDescriptors(ent.ListDescriptorsRequest(), **admin)).descriptors[0]
    descriptor.name = f"domain_{id_[:8]}"
    wanted = ent.CreateDescriptorRequest(descriptor=descriptor, request_id=str(uuid.uuid4()))
    descriptor = (await stub.CreateDescriptor(wanted, **admin)).descriptor
    change = ent.UpdateDescriptorRequest(
        descriptor=descriptor, update_mask=FieldMask(paths=["metrics"])
    )
    await stub.UpdateDescriptor(change, **admin)
    await stub.GetDescriptor(ent.GetDescriptorRequest(name=descriptor.name), **user)
    await stub.DeleteDescriptor(ent.DeleteDescriptorRequest(id=descriptor.id), **admin)


async def pages(method: Any, request: Any, call: dict[str, Any]) -> None:
    """The first two pages."""
    request.page_size = 1
    request.page_token = (await method(request, **call)).next_page_token
    if request.page_token:
        await method(request, **call)


def moment(days: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return made


async def drive_clinic(stage: Stage) -> None:
    """Records by all that an assistant finds them by, the figures, and what commands load."""
    call = User(stage, OWNER, CLINIC).call
    name, number = f"Ana {uuid.uuid4().hex[:8]}", uuid.uuid4().hex[:12]
    today, soon = datetime.now(UTC).date(), datetime.now(UTC) + timedelta(hours=2)
    async with AsyncExitStack() as stack:
        stubs = {}
        for domain in ("clients", "finance", "appointments"):
            channel = grpc.aio.insecure_channel(stage.suite.addresses[domain])
            stubs[domain] = DomainServiceStub(await stack.enter_async_context(channel))

        async def run(*operations: pb.Operation, committed: bool = True) -> str:
            wanted = domain_pb2.ExecuteBatchRequest(time_zone="America/Sao_Paulo")
            for each in operations:
                wanted.operations.append(domain_operation(each))
            done = await stubs[operations[0].domain].ExecuteBatch(wanted, **call)
            assert done.committed == committed, done
            return str(wanted.operations[0].operation_id)

        await run(client(name, phone="1", contact_consent=True))
        await run(client(f"{name} Two"), client(f"{name} Three", contact_consent=True))
        await run(clients(name=name.upper()))
        await run(operation("clients", UPDATE, "client", where={"name": name}, phone="2"))
        await run(operation("clients", DELETE, "client", where={"name": f"{name} Two"}))
        await run(invoice(number, name))
        await run(operation("finance", READ, "invoice", where={"number": number}))
        await run(operation("finance", READ, "invoice", where={"client_name": name}))
        await run(operation("finance", UPDATE, "invoice", where={"number": number}, amount=3))
        await run(operation("finance", DELETE, "invoice", where={"number": number}))
        await run(invoice(f"{number}-2", name))
        await run(client(name))
        both = operation("clients", UPDATE, "client", where={"name": name}, phone="3")
        await run(both, committed=False)  # two have that name
        again = domain_operation(operation("clients", READ, "client", where={"phone": "2"}))
        wanted = domain_pb2.ExecuteBatchRequest(operations=[again], time_zone="UTC")
        change = domain_operation(client(f"{name} Four"))
        for each in (wanted, wanted, domain_pb2.ExecuteBatchRequest(operations=[change])):
            await stubs["clients"].ExecuteBatch(each, **call)
            await stubs["clients"].ExecuteBatch(each, **call)
        await run(appointment(f"{name} Three", soon.isoformat()))
        found = {"client_name": f"{name} Three"}
        await run(operation("appointments", READ, "appointment", where=found))
        between = operation("appointments", READ, "appointment")
        for comparison, hours in (("GREATER_OR_EQUAL", 1), ("LESS", 3)):
            condition = between.selector.conditions.conditions.add(field="starts_at")
            condition.comparison = domain_pb2.Comparison.Value(f"COMPARISON_{comparison}")
            condition.value.string_value = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
        await run(between)
        due = operation("finance", READ, "invoice", where={"due_date": today.isoformat()})
        await run(due)
        for each in (
            operation("clients", READ, "client"),
            operation("finance", READ, "invoice"),
            operation("appointments", READ, "appointment"),
            operation("appointments", READ, "reminder"),
        ):
            await run(each)
        asked = await run(
            operation("appointments", CREATE, "reminder", client_name=f"{name} Three", message="m")
        )
        operations = [asked, str(uuid.uuid4())]
        for each in operations:
            found = domain_pb2.GetOperationRequest(operation_id=each)
            await stubs["appointments"].GetOperation(found, **call)
        for domain, metric in (
            ("clients", "engagement_rate"),
            ("finance", "overdue_ratio"),
            ("appointments", "no_show_rate"),
        ):
            wanted = domain_pb2.AggregateRequest(metric=metric, time_zone="UTC")
            wanted.start_time.CopyFrom(moment(-7))
            wanted.end_time.CopyFrom(moment(0))
            await stubs[domain].Aggregate(wanted, **call)
    owner = Caller("loader", CLINIC, frozenset({"service"}))
    person = reading.Client(uuid.uuid4(), name, "female", "Centro", number)
    visit = reading.Appointment(uuid.uuid4(), person, soon, "kept", True, number)
    async with open_pool(
        stage.suite.database_url("clinic"), min_size=1, max_size=1, name="clinic"
    ) as pool:
        made = sample.make(len(number), CLINIC, datetime.now(UTC), ZoneInfo("UTC"))
        await sample.store(pool, made, owner)
        await loading.store(pool, owner, [reading.Readable([(1, visit)], [])])


def domain_operation(planned: pb.Operation) -> domain_pb2.Operation:
    made = domain_pb2.Operation(
        operation_id=str(uuid.uuid4()), verb=planned.verb, entity=planned.entity, max_affected=1
    )
    made.selector.CopyFrom(planned.selector)
    made.fields.CopyFrom(planned.fields)
    return made


async def drive_gateway(stage: Stage) -> None:
    """Counted calls, confirmations, cancels, and what is swept and settled behind them."""
    gateway, user = stage.gateways[0], User(stage, OWNER, CLINIC)
    await clear(stage)
    name, id_ = f"Bia {uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    await user.execute([client(name)], request_id=id_)
    await user.execute([client(name)], request_id=id_)
    await user.execute(f"show the client {name}")
    six = [client(f"{name} {place}") for place in range(6)]
    asked = await user.execute(six, request_id=f"{id_}-6")
    token = asked.confirmation.confirmation_token
    await user.execute(None, request_id=f"{id_}-6", confirmation_token=token)
    await user.execute(six, request_id=f"{id_}-7")
    await gateway.Cancel(pb.CancelRequest(request_id=f"{id_}-7"), **user.call)
    window = pb.Window(last_days=7)
    analysis = pb.AnalyzeRequest(request_id=f"{id_}-8", metrics=["no_show_rate"], window=window)
    await gateway.Analyze(analysis, **user.call)
    await clear(stage)
    await gateway.Recommend(pb.RecommendRequest(request_id=f"{id_}-9", plain=True), **user.call)
    await gateway.GetUsage(pb.GetUsageRequest(), **user.call)
    await gateway.ListOperations(pb.ListOperationsRequest(), **user.call)


async def clear(stage: Stage) -> None:
    """No cool-down stands in the way."""
    async with grpc.aio.insecure_channel(stage.suite.addresses["usage"]) as channel:
        wanted = usage_pb2.ClearCoolDownRequest(user_id=OWNER)
        await UsageServiceStub(channel).ClearCoolDown(wanted, **stage.admin)


async def drive_router(stage: Stage) -> None:
    """What is kept of attempts; the ledger itself, for no model runs beside these tests."""
    now = datetime.now(UTC)
    record = {
        "user_id": OWNER,
        "clinic_id": CLINIC,
        "task": "CHAT",
        "model": "m",
        "provider": "p",
        "tier": "MODEL_BASIC",
        "outcome": "UNKNOWN",
        "started_at": now.isoformat(),
        "estimated": False,
        "input_tokens": 1,
        "cached_input_tokens": 0,
        "output_tokens": 1,
        "reasoning_tokens": 0,
        "cost": "0.1",
        "currency": "USD",
    }
    url, today = stage.suite.database_url("router"), now.date()
    async with open_pool(url, min_size=1, max_size=1, name="router") as pool:
        ledger = Ledger(pool)
        attempt = {**record, "attempt_id": str(uuid.uuid4())}
        assert await ledger.reserve(attempt, now, 10**12)
        ended = {**attempt, "outcome": "SUCCEEDED", "ended_at": now.isoformat()}
        await ledger.record(json.dumps([ended, {**record, "attempt_id": str(uuid.uuid4())}]))
        for user_id in ("", OWNER):
            await ledger.spending(SpendingQuery(today, today, user_id=user_id))
        for asked in (
            {},
            {"user_id": OWNER},
            {"clinic_id": CLINIC},
            {"trace_id": "0" * 32},
            {"start": now - timedelta(hours=1), "end": now},
            {"user_id": OWNER, "before": (now - timedelta(hours=1), uuid.uuid4())},
        ):
            await ledger.attempts(AttemptsQuery(**{**NO_ATTEMPTS, **asked}))  # type: ignore[arg-type]
        await ledger.forget(now, 10_000)


NO_ATTEMPTS: dict[str, Any] = {
    "user_id": "",
    "clinic_id": "",
    "model": "",
    "trace_id": "",
    "start": None,
    "end": None,
    "before": None,
    "size": 10,
}


async def drive_oplog(stage: Stage) -> None:
    """Every filter of the log, for an auditor and for a user, its chain, and what it refuses."""
    admin, user = stage.admin, User(stage, OWNER, CLINIC).call
    filters: list[dict[str, Any]] = [
        {},
        {"clinic_id": CLINIC},
        {"domain": "finance"},
        {"outcomes": [oplog_pb2.OUTCOME_FAILED]},
        {"action": "admin.plan.update"},
        {"action": "admin.*"},
        {"request_id": "r"},
        {"trace_id": "0" * 32},
        {"start_time": moment(-0.01), "end_time": moment(0)},
    ]
    async with grpc.aio.insecure_channel(stage.suite.addresses["oplog"]) as channel:
        stub = OperationLogServiceStub(channel)
        for each in filters:
            for call, whose in (
                (admin, {}),
                (admin, {"user_id": OWNER}),
                (user, {"user_id": OWNER}),
            ):
                wanted = oplog_pb2.Filter(**each, **whose)
                listed = oplog_pb2.ListOperationsRequest(filter=wanted)
                await pages(stub.ListOperations, listed, call)
                tail = stub.TailOperations(oplog_pb2.TailOperationsRequest(filter=wanted), **call)
                await tail.read()
                await tail.read()
        listed = oplog_pb2.ListOperationsRequest(page_size=1)
        (first,) = (await stub.ListOperations(listed, **admin)).operations
        for call in (admin, user):
            found = oplog_pb2.GetOperationRequest(id=first.id)
            await asyncio.gather(stub.GetOperation(found, **call), return_exceptions=True)
            await stub.GetTrace(oplog_pb2.GetTraceRequest(trace_id=first.trace_id), **call)
        await pages(stub.ListQuarantine, oplog_pb2.ListQuarantineRequest(), admin)
        await stub.ListDigests(oplog_pb2.ListDigestsRequest(page_size=10), **admin)
        bad = Span(trace_id=b"t" * 16, span_id=uuid.uuid4().bytes[:8], name="operation")
        bad.attributes.append(attribute("gatehouse.operation.id", "none"))
        exported = ExportTraceServiceRequest()
        exported.resource_spans.add().scope_spans.add().spans.append(bad)
        token = stage.suite.issuer.mint(user_id="somebody", roles=("service",))
        call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": SECONDS}
        await TraceServiceStub(channel).Export(exported, **call)
    auditor = Caller(OWNER, "", frozenset({"auditor"}))
    url, sealing = stage.suite.database_url("oplog"), Sealing(None, [])
    async with open_pool(url, min_size=1, max_size=1, name="oplog") as pool:
        store = Store(pool, sealing)
        await store.page_token_key()
        await store.head(auditor)
        last = await store.position()
        await store.first_position(auditor, datetime.now(UTC))
        await store.hashes(auditor, [last, last - 1])
        await store.links(auditor, last - 100, last)
        await store.stranger(auditor, last - 100, last)
        await store.outsider(auditor)
        await store.seals(auditor, last - 100, last, 10)
        await store.seal_up_to(auditor, last)
        await store.unsettled(timedelta(0), None, 10)
        await store.open(timedelta(0))


async def drive_sweeps(stage: Stage) -> None:
    """What the gateway does now and then, and for requests of callers that are gone."""
    url = stage.suite.database_url("gateway")
    owner = Caller(OWNER, CLINIC, frozenset({"user"}))
    async with open_pool(url, min_size=1, max_size=1, name="gateway") as pool:
        requests = Requests(pool, keep=timedelta(hours=1), lease=timedelta(seconds=0.3))
        await requests.sweep()
        await requests.orphans(timedelta(0), 10)
        for was_counted in (False, True):
            call = Call(owner, str(uuid.uuid4()), b"same", "en-US", "UTC")
            lease = await requests.open(call)
            assert isinstance(lease, Lease)
            cancel = pb.CancelRequest(request_id=call.request_id)
            await stage.gateways[0].Cancel(cancel, **User(stage, OWNER, CLINIC).call)
            with requests.held(lease, asyncio.Event()):
                await asyncio.sleep(0.15)  # for as long as half a lease
            await requests.abandon(lease, was_counted=was_counted)
            lease = await requests.open(call)
            assert isinstance(lease, Lease)
            answer = pb.ExecuteResponse()
            answer.confirmation.confirmation_token = "token"
            await requests.confirming(lease, answer, b"", "UTC", timedelta(hours=1))
            await requests.open(replace(call, confirmation_token="token"))
            await requests.finish(lease, b"")


DRIVES = (
    drive_entitlements,
    drive_clinic,
    drive_gateway,
    drive_router,
    drive_oplog,
    drive_sweeps,
)
IMPATIENT = {
    "oplog": {"heartbeat_seconds": "0.05", "settle_every_seconds": "1"},
}
# What reads much because much is asked for, each by a part of its statement.
EXCUSED = {
    "DECLARE snapshot CURSOR": "a snapshot is everything",
    " GROUP BY ": "a figure, or a sum of costs, is of all records of its window",
    "LIMIT $1) AS counted": "of the quarantine a thousand are counted, and not all",
    "position(clinic.folded(": "a part of a text is looked for in all of a clinic's",
}


@pytest.fixture(scope="module")
async def filled() -> AsyncIterator[Recorder]:
    """The plans of all that a suite does over full tables.

    A first round leaves a row of each kind, of which the tables are filled; the second is recorded.
    """
    starting = suite(model_tiers=(), sample=False, overrides=IMPATIENT)
    async with starting as running, staged(running, replicas=1) as stage:
        for drive in DRIVES:
            await drive(stage)
        url = running.database_url("postgres")
        for table, columns in FILL.items():
            await multiply(url, table, columns, WHERE.get(table, "true"))
        await stage.rows("UPDATE oplog.head SET position = 1000 + 60000")
        recorder = Recorder(url)
        await recorder.start()
        for drive in DRIVES:
            await eventually(partial(has_driven, drive, stage), 60)
        yield recorder


async def has_driven(drive: Callable[[Stage], Awaitable[None]], stage: Stage) -> bool:
    """Whether *drive* came to its end; not while a service finds its connections closed."""
    try:
        await drive(stage)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


@pytest.mark.parametrize("service", SERVICES)
async def test_every_statement_of_the_source_is_planned(filled: Recorder, service: str) -> None:
    """USE-9: so that what is written later is not forgotten; those of sweeps come by and by."""
    assert await filled.missing(service, seconds=20) == set()


@pytest.mark.parametrize("service", SERVICES)
async def test_no_statement_reads_a_table_that_grows(filled: Recorder, service: str) -> None:
    """USE-9, LOG-5, DOM-2: as the service's own role, under its row level security."""
    assert filled.faults(service, EXCUSED) == {}
