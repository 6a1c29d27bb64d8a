"""The example's three domains on sockets, over a real Postgres (DOM-1, DOM-2, GAT-6 to GAT-8)."""

import asyncio
import csv
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc
import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from google.protobuf import json_format
from google.rpc import error_details_pb2

from examples.clinic import loading, sample
from examples.clinic.app import running
from examples.clinic.settings import Settings
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from services.runtime.telemetry import open_telemetry

ZONE = "America/Sao_Paulo"


class Clinic:
    """The running domains, as a caller of one clinic sees them."""

    def __init__(self, stubs: dict[str, DomainServiceStub], tokens, url: str) -> None:
        self.stubs = stubs
        self.tokens = tokens
        self.url = url
        self.id = str(uuid.uuid4())
        self.call = self.as_("user")

    def as_(self, *roles: str, clinic_id: str = "") -> dict:
        token = self.tokens.user(roles=roles, clinic_id=clinic_id or self.id)
        return {"metadata": [("authorization", f"Bearer {token}")], "timeout": 10}

    async def run(
        self, domain: str, *operations: pb.Operation, validate_only: bool = False
    ) -> pb.ExecuteBatchResponse:
        request = pb.ExecuteBatchRequest(
            operations=operations, time_zone=ZONE, validate_only=validate_only
        )
        return await self.stubs[domain].ExecuteBatch(request, **self.call)

    async def read(self, domain: str, entity: str, *conditions: pb.Condition) -> list[dict]:
        operation = op("READ", entity, *conditions)
        operation.limit = 500
        (result,) = (await self.run(domain, operation)).results
        return [dict(each) for each in result.applied.records]

    async def aggregate(self, domain: str, metric: str, **asked: object) -> pb.AggregateResponse:
        request = pb.AggregateRequest(metric=metric, time_zone=ZONE)
        start, end = asked.pop("start"), asked.pop("end")
        request.start_time.FromDatetime(start)
        request.end_time.FromDatetime(end)
        if "step" in asked:
            request.step.FromTimedelta(asked.pop("step"))
        request.group_by = asked.pop("group_by", "")
        return await self.stubs[domain].Aggregate(request, **self.call)


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[dict[str, DomainServiceStub]]:
    settings = Settings(database_url=database.url_for("clinic"), **tokens.settings)
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry(settings))
        addresses = await stack.enter_async_context(running(settings, telemetry))
        yield {
            name: DomainServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address))
            )
            for name, address in addresses.items()
        }


@pytest.fixture
async def empty(served, tokens, database) -> Clinic:
    """A clinic without records."""
    return Clinic(served, tokens, database.url_for("clinic"))


@pytest.fixture
async def clinic(empty: Clinic) -> Clinic:
    """A clinic with the sample's records."""
    caller = Caller("loader", empty.id, frozenset({"service"}))
    async with open_pool(empty.url, min_size=1, max_size=1, name="sample") as pool:
        made = sample.make(1, empty.id, datetime.now(UTC), ZoneInfo(ZONE))
        assert await sample.store(pool, made, caller) > 400
        assert await sample.store(pool, made, caller) == 0
    return empty


def equal(field: str, value: object, comparison: str = "EQUAL") -> pb.Condition:
    condition = pb.Condition(
        field=field, comparison=pb.Comparison.Value(f"COMPARISON_{comparison}")
    )
    json_format.ParseDict(value, condition.value)
    return condition


def op(verb: str, entity: str, *conditions: pb.Condition, **fields: object) -> pb.Operation:
    operation = pb.Operation(
        operation_id=str(uuid.uuid4()), verb=pb.Verb.Value(f"VERB_{verb}"), entity=entity
    )
    if conditions:
        operation.selector.conditions.conditions.extend(conditions)
    if fields:
        operation.fields.update(fields)
    return operation


def reasons(response: pb.ExecuteBatchResponse) -> list[str]:
    found = []
    for result in response.results:
        info = error_details_pb2.ErrorInfo()
        for detail in result.status.details:
            detail.Unpack(info)
        found.append(info.reason or "APPLIED")
    return found


async def test_records_are_made_read_changed_and_removed(clinic: Clinic) -> None:
    """DOM-2."""
    made = await clinic.run("clients", op("CREATE", "client", name="Zélia Núñez", phone="1"))
    assert made.committed
    (found,) = await clinic.read("clients", "client", equal("name", "zelia nunez"))
    assert found["phone"] == "1"
    changed = await clinic.run(
        "clients", op("UPDATE", "client", equal("name", "Zélia Núñez"), phone="2")
    )
    assert changed.results[0].applied.records[0]["phone"] == "2"
    again = await clinic.run(
        "clients", op("UPDATE", "client", equal("name", "Zélia Núñez"), phone="2")
    )
    assert reasons(again) == ["STATE_CONFLICT"]
    removed = await clinic.run("clients", op("DELETE", "client", equal("name", "Zélia Núñez")))
    assert removed.results[0].applied.affected == 1
    assert await clinic.read("clients", "client", equal("name", "Zélia Núñez")) == []


async def test_a_failed_operation_takes_its_batch_with_it(clinic: Clinic) -> None:
    """GAT-6, DOM-1: the cause has its own reason, the others ROLLED_BACK, and nothing stands."""
    response = await clinic.run(
        "finance",
        op("UPDATE", "invoice", equal("number", "1002"), amount=1),
        op("UPDATE", "invoice", equal("number", "1007"), amount=1),
        op("UPDATE", "invoice", equal("number", "1003"), amount=1),
    )
    assert not response.committed
    assert reasons(response) == ["ROLLED_BACK", "RECORD_LOCKED", "ROLLED_BACK"]
    (invoice,) = await clinic.read("finance", "invoice", equal("number", "1002"))
    assert invoice["amount"] != 1


@pytest.mark.parametrize(
    ("domain", "operation", "reason"),
    [
        ("finance", op("DELETE", "invoice", equal("number", "1007")), "RECORD_LOCKED"),
        ("appointments", op("CREATE", "reminder", client_name="Bruno Lima"), "CONSENT_MISSING"),
        ("appointments", op("CREATE", "reminder", client_name="Nobody"), "NOT_FOUND"),
        ("appointments", op("CREATE", "reminder"), "INVALID_ARGUMENT"),
        (
            "appointments",
            op("UPDATE", "reminder", equal("channel", "sms")),
            "OPERATION_NOT_OFFERED",
        ),
        ("clients", op("DELETE", "client", equal("name", "Ana Souza")), "REFERENCE_VIOLATION"),
        ("clients", op("READ", "invoice"), "UNKNOWN_ENTITY"),
        ("clients", op("UPDATE", "client", equal("name", "Carla Dias"), shoe=4), "UNKNOWN_FIELD"),
        ("clients", op("UPDATE", "client", equal("shoe", "4"), name="X"), "UNKNOWN_FIELD"),
        (
            "clients",
            op("UPDATE", "client", equal("name", "Carla Dias"), name=4),
            "INVALID_ARGUMENT",
        ),
        ("clients", op("UPDATE", "client", name="X"), "INVALID_ARGUMENT"),
        ("clients", op("CREATE", "client", name="X", birth_date="soon"), "INVALID_ARGUMENT"),
        ("clients", op("CREATE", "client", name="X", gender="other"), "INVALID_ARGUMENT"),
        ("clients", op("READ", "client", equal("id", "12")), "INVALID_ARGUMENT"),
        ("finance", op("UPDATE", "invoice", equal("number", "9"), amount=1), "NOT_FOUND"),
        (
            "finance",
            op("UPDATE", "invoice", equal("number", "1002"), amount=-1),
            "INVALID_ARGUMENT",
        ),
        ("finance", op("UPDATE", "invoice", equal("number", "1002"), locked=True), "UNKNOWN_FIELD"),
        (
            "finance",
            op(
                "CREATE",
                "invoice",
                number="1002",
                client_name="Ana Souza",
                amount=1,
                due_date="2099-01-01",
            ),
            "ALREADY_EXISTS",
        ),
        (
            "finance",
            op("UPDATE", "invoice", equal("status", "paid"), disputed=True),
            "AMBIGUOUS_TARGET",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.entity,
)
async def test_what_cannot_be_done_is_refused_by_name(
    clinic: Clinic, domain: str, operation: pb.Operation, reason: str
) -> None:
    """DOM-2: each refusal has its reason, and nothing internal in its words."""
    operation.operation_id = str(uuid.uuid4())
    response = await clinic.run(domain, operation)
    assert reasons(response) == [reason]
    message = response.results[0].status.message
    assert not any(word in message for word in ("SELECT", "psycopg", "clinic.", "Error"))


async def test_an_ambiguous_target_names_its_candidates(clinic: Clinic) -> None:
    """GAT-4: labels and ids to choose from; nothing is changed."""
    response = await clinic.run(
        "finance", op("UPDATE", "invoice", equal("client_name", "ana souza"), disputed=True)
    )
    candidates = pb.Candidates()
    for detail in response.results[0].status.details:
        detail.Unpack(candidates)
    assert candidates.total == len(candidates.candidates) == 2
    assert "Ana Souza" in candidates.candidates[0].label


async def test_a_write_touches_no_more_than_it_may(clinic: Clinic) -> None:
    """GAT-5: max_affected."""
    many = op("UPDATE", "appointment", equal("status", "cancelled"), sms_received=True)
    many.max_affected = 2
    assert reasons(await clinic.run("appointments", many)) == ["TOO_MANY_AFFECTED"]
    many.max_affected, many.operation_id = 10_000, str(uuid.uuid4())
    dry = await clinic.run("appointments", many, validate_only=True)
    assert not dry.committed
    done = await clinic.run("appointments", many)
    assert done.committed
    assert done.results[0].applied.affected == dry.results[0].applied.affected > 2


async def test_racing_copies_of_a_batch_take_effect_once(empty: Clinic) -> None:
    """DOM-1: the same ids again give the same results and change nothing."""
    operation = op("CREATE", "client", name="Once Only")
    answers = await asyncio.gather(*(empty.run("clients", operation) for _ in range(12)))
    assert all(each.committed for each in answers)
    assert len({each.results[0].applied.records[0]["id"] for each in answers}) == 1
    assert sum(not each.replayed for each in answers) == 1
    assert len(await empty.read("clients", "client")) == 1
    other = op("CREATE", "client", name="Another")
    other.operation_id = operation.operation_id
    assert reasons(await empty.run("clients", other)) == ["OPERATION_ID_REUSED"]


async def test_an_operation_answered_as_not_applied_never_is(empty: Clinic) -> None:
    """LOG-2, GAT-7: the word that was given holds; an applied one is told by any service."""
    operation = op("CREATE", "client", name="Too Late")
    asked = pb.GetOperationRequest(operation_id=operation.operation_id)
    settler = empty.as_("service", clinic_id=str(uuid.uuid4()))
    state = await empty.stubs["clients"].GetOperation(asked, **settler)
    assert state.state == pb.OPERATION_STATE_NOT_APPLIED
    assert reasons(await empty.run("clients", operation)) == ["OPERATION_ABANDONED"]
    assert await empty.read("clients", "client") == []
    applied = op("CREATE", "client", name="In Time")
    await empty.run("clients", applied)
    asked.operation_id = applied.operation_id
    state = await empty.stubs["clients"].GetOperation(asked, **settler)
    assert state.state == pb.OPERATION_STATE_APPLIED
    assert not state.applied.records


async def test_another_clinics_records_are_out_of_reach(clinic: Clinic, database) -> None:
    """DOM-2, ALL-3: by the service, and in SQL as the role that it connects with."""
    stranger = clinic.as_("user", clinic_id=str(uuid.uuid4()))
    request = pb.ExecuteBatchRequest(operations=[op("READ", "client")])
    response = await clinic.stubs["clients"].ExecuteBatch(request, **stranger)
    assert response.results[0].applied.affected == 0
    async with await psycopg.AsyncConnection.connect(
        database.url_for("clinic"), autocommit=True
    ) as connection:
        for seen_by, some in (("", False), (str(uuid.uuid4()), False), (clinic.id, True)):
            await connection.execute(
                "SELECT set_config('gatehouse.clinic_id', %s, false)", (seen_by,)
            )
            for table in ("clients", "invoices", "appointments"):
                found = await connection.execute(f"SELECT count(*) FROM clinic.{table}")
                assert bool((await found.fetchone())[0]) is some
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DELETE FROM clinic.clients")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(
                "INSERT INTO clinic.clients (clinic_id, name) VALUES (gen_random_uuid(), 'X')"
            )


async def test_it_says_what_it_offers(empty: Clinic) -> None:
    """DOM-1."""
    for domain, stub in empty.stubs.items():
        described = await stub.Describe(pb.DescribeRequest(), **empty.call)
        assert described.name == domain
        assert described.entities
        assert all(each.group_by for each in described.metrics)


async def test_an_unknown_metric_is_refused(empty: Clinic) -> None:
    """GAT-8."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await empty.aggregate(
            "clients",
            "no_show_rate",
            start=datetime(2026, 1, 1, tzinfo=UTC),
            end=datetime(2026, 2, 1, tzinfo=UTC),
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def published(empty: Clinic, test_data: Path) -> tuple[Clinic, list[dict], list[dict]]:
    """A clinic with both public data sets, and the rows that a plain reading finds usable."""
    caller = Caller("loader", empty.id, frozenset({"service"}))
    appointments = test_data / "clinic" / "noshow_sample_5k.csv"
    invoices = test_data / "clinic" / "WA_Fn-UseC_-Accounts-Receivable.csv"
    async with open_pool(empty.url, min_size=1, max_size=1, name="load") as pool:
        first = await loading.load_appointments(pool, appointments, caller, ZoneInfo(ZONE))
        again = await loading.load_appointments(pool, appointments, caller, ZoneInfo(ZONE))
        bills = await loading.load_invoices(pool, invoices, caller)
    usable = [row for row in rows_of(appointments) if is_usable(row)]
    assert first.rows == len(list(rows_of(appointments)))
    assert first.new == len(usable)
    assert (again.new, again.known) == (0, first.new)
    assert first.rejected
    assert all(each.line > 1 and each.reason for each in first.rejected)
    assert bills.new == len(list(rows_of(invoices)))
    return empty, usable, list(rows_of(invoices))


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def is_usable(row: dict) -> bool:
    return (
        row["PatientId"].isdigit()
        and 0 <= int(row["Age"]) <= 120
        and row["ScheduledDay"][:10] <= row["AppointmentDay"][:10]
    )


async def test_no_show_figures_are_those_of_the_file(published) -> None:
    """GAT-8, DOM-2: recomputed from the CSV without the code under test."""
    clinic, rows, _ = published
    window = {
        "start": datetime(2016, 5, 1, tzinfo=ZoneInfo(ZONE)).astimezone(UTC),
        "end": datetime(2016, 6, 1, tzinfo=ZoneInfo(ZONE)).astimezone(UTC),
    }
    may = [row for row in rows if row["AppointmentDay"].startswith("2016-05")]
    whole = await clinic.aggregate("appointments", "no_show_rate", **window)
    (group,) = whole.groups
    assert group.denominator == len(may)
    assert group.numerator == sum(row["No-show"] == "Yes" for row in may)
    assert group.subjects == len({row["PatientId"] for row in may})
    by_sms = await clinic.aggregate(
        "appointments", "no_show_rate", group_by="sms_received", **window
    )
    expected = Counter("yes" if row["SMS_received"] == "1" else "no" for row in may)
    assert {each.key: each.denominator for each in by_sms.groups} == expected
    weekly = await clinic.aggregate(
        "appointments", "no_show_rate", step=timedelta(days=7), **window
    )
    steps: dict[int, int] = defaultdict(int)
    for row in may:
        steps[(int(row["AppointmentDay"][8:10]) - 1) // 7] += 1
    assert [each.figures.denominator for each in weekly.series] == [
        steps[step] for step in sorted(steps)
    ]


async def test_engagement_is_of_all_clients(published) -> None:
    """GAT-8: clients who kept an appointment, out of all there are."""
    clinic, rows, bills = published
    window = {
        "start": datetime(2016, 5, 1, 3, tzinfo=UTC),
        "end": datetime(2016, 6, 1, 3, tzinfo=UTC),
    }
    (group,) = (await clinic.aggregate("clients", "engagement_rate", **window)).groups
    kept = {
        row["PatientId"]
        for row in rows
        if row["AppointmentDay"].startswith("2016-05") and row["No-show"] == "No"
    }
    people = {row["PatientId"] for row in rows} | {row["customerID"] for row in bills}
    assert (group.numerator, group.denominator) == (len(kept), len(people))


async def test_overdue_amounts_are_those_of_the_file(published) -> None:
    """GAT-8: of what was issued in a quarter, what was due and unpaid at its end."""
    clinic, _, rows = published
    window = {
        "start": datetime(2013, 1, 1, 2, tzinfo=UTC),
        "end": datetime(2013, 4, 1, 3, tzinfo=UTC),
    }

    def day(text: str) -> date:
        month, of_month, year = map(int, text.split("/"))
        return date(year, month, of_month)

    issued = [
        row for row in rows if date(2013, 1, 1) <= day(row["InvoiceDate"]) <= date(2013, 3, 31)
    ]
    end = date(2013, 3, 31)
    overdue = [row for row in issued if day(row["DueDate"]) < end < day(row["SettledDate"])]
    (group,) = (await clinic.aggregate("finance", "overdue_ratio", **window)).groups
    assert group.denominator == pytest.approx(sum(float(row["InvoiceAmount"]) for row in issued))
    assert group.numerator == pytest.approx(sum(float(row["InvoiceAmount"]) for row in overdue))
    assert group.numerator > 0
