"""Conditions of the example clinic: each comparison on each type, in the clinic's zone (DOM-2)."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf import json_format

from services.embedded_clock import Clock
from tests.clinic_calls import (
    Clinic,
    Stubs,
    appointment,
    client,
    equal,
    invoice,
    op,
    serving_clinic,
)
from tests.moments import MOMENTS


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[Stubs]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        yield stubs


@pytest.fixture(scope="module")
async def clinic(served, tokens, database) -> Clinic:
    """Three clients, invoices and appointments, of which nothing is changed here."""
    made = Clinic(served, tokens, database.url_for("clinic"))
    await made.done(
        "clients",
        client("Álvaro", contact_consent=True, birth_date="1980-01-01", neighbourhood="São José"),
        client("BEATRIZ", birth_date="1990-01-01"),
        client("Cécile", birth_date="2000-01-01", neighbourhood="Centro"),
    )
    await made.done(
        "finance",
        invoice("A-1", "Álvaro", amount=10, issued_date="2026-01-01"),
        invoice("A-2", "Beatriz", amount=20.5, issued_date="2026-02-01", disputed=True),
        invoice(
            "B-1",
            "Cécile",
            amount=30,
            issued_date="2026-03-01",
            status="paid",
            settled_date="2026-03-05",
        ),
    )
    await made.done(
        "appointments",
        appointment("Álvaro", "2018-11-03T23:30"),
        appointment("Beatriz", "2018-11-04T12:00"),
        appointment("Cécile", "2018-11-05T00:00"),
    )
    return made


def found(field: str, records: list[dict]) -> set[str]:
    return {each[field] for each in records}


def cases(low: object, middle: object, high: object) -> list[tuple[str, object, set[int]]]:
    """Comparisons with the middle of three values, and which of the three they find."""
    return [
        ("EQUAL", middle, {2}),
        ("NOT_EQUAL", middle, {1, 3}),
        ("LESS", middle, {1}),
        ("LESS_OR_EQUAL", middle, {1, 2}),
        ("GREATER", middle, {3}),
        ("GREATER_OR_EQUAL", middle, {2, 3}),
        ("IN", [low, high], {1, 3}),
        ("IN", [middle], {2}),
    ]


@pytest.mark.parametrize(
    ("field", "comparison", "value", "expected"),
    [
        *(("amount", *case) for case in cases(10, 20.5, 30)),
        *(("issued_date", *case) for case in cases("2026-01-01", "2026-02-01", "2026-03-01")),
        *(("number", *case) for case in cases("a-1", "a-2", "b-1")),
        *(("client_name", *case) for case in cases("alvaro", "beatriz", "CECILE")),
        ("disputed", "EQUAL", True, {2}),
        ("disputed", "NOT_EQUAL", True, {1, 3}),
        ("disputed", "LESS", True, {1, 3}),
        ("disputed", "GREATER_OR_EQUAL", False, {1, 2, 3}),
        ("disputed", "IN", [True, False], {1, 2, 3}),
        ("settled_date", "EQUAL", None, {1, 2}),
        ("settled_date", "NOT_EQUAL", None, {3}),
        ("settled_date", "NOT_EQUAL", "2026-03-05", {1, 2}),
        ("settled_date", "LESS", "2026-03-06", {3}),
        ("status", "EQUAL", "PAID", {3}),
        ("status", "NOT_EQUAL", "paid", {1, 2}),
        ("status", "IN", ["open", "Paid"], {1, 2, 3}),
        ("number", "CONTAINS", "a-", {1, 2}),
        ("client_name", "CONTAINS", "ÉCI", {3}),
        ("client_name", "CONTAINS", "e\u0301ci", {3}),
        ("client_name", "CONTAINS", "%", set()),
        ("client_name", "EQUAL", "be_triz", set()),
        ("number", "IN", ["A-1", "x' OR '1'='1"], {1}),
    ],
)
async def test_invoices_are_found_by_every_comparison(
    clinic: Clinic, field: str, comparison: str, value: object, expected: set[int]
) -> None:
    """DOM-2: text without case and accents, numbers, days, truth, and what is not there."""
    records = await clinic.read("finance", "invoice", equal(field, value, comparison))
    numbers = {1: "A-1", 2: "A-2", 3: "B-1"}
    assert found("number", records) == {numbers[each] for each in expected}


@pytest.mark.parametrize(
    ("comparison", "value", "expected"),
    [
        ("NOT_EQUAL", "centro", {"Álvaro", "BEATRIZ"}),
        ("EQUAL", "SAO JOSE", {"Álvaro"}),
        ("CONTAINS", "sao", {"Álvaro"}),
        ("IN", ["sao jose", "centró"], {"Álvaro", "Cécile"}),
    ],
)
async def test_who_has_no_value_is_not_equal_to_any(
    clinic: Clinic, comparison: str, value: object, expected: set[str]
) -> None:
    """DOM-2."""
    condition = equal("neighbourhood", value, comparison)
    assert found("name", await clinic.read("clients", "client", condition)) == expected


async def test_records_are_found_by_several_ids(clinic: Clinic) -> None:
    """DOM-2: and conditions are joined by AND."""
    ids = [each["id"] for each in await clinic.read("clients", "client")]
    some = await clinic.read("clients", "client", equal("id", ids[:2], "IN"))
    assert [each["id"] for each in some] == ids[:2]
    one = await clinic.read(
        "clients",
        "client",
        equal("id", ids, "IN"),
        equal("birth_date", "1985-01-01", "GREATER"),
        equal("contact_consent", False),
        equal("neighbourhood", "centro", "NOT_EQUAL"),
    )
    assert found("name", one) == {"BEATRIZ"}
    operation = op("READ", "client")
    operation.selector.id = ids[2]
    (done,) = await clinic.done("clients", operation)
    assert done.records[0]["id"] == ids[2]


def first(
    verb: str, entity: str, field: str, *conditions: pb.Condition, **how: bool
) -> pb.Operation:
    operation = op(verb, entity, *conditions)
    operation.selector.conditions.SetInParent()
    operation.selector.first.by_field = field
    operation.selector.first.descending = how.get("descending", False)
    return operation


@pytest.mark.parametrize(
    ("entity", "field", "descending", "conditions", "expected"),
    [
        ("invoice", "issued_date", False, [], "A-1"),
        ("invoice", "issued_date", True, [], "B-1"),
        ("invoice", "amount", True, [equal("status", "paid", "NOT_EQUAL")], "A-2"),
        ("invoice", "number", True, [equal("client_name", "alvaro")], "A-1"),
        # Two have no settled day.
        ("invoice", "settled_date", False, [], "B-1"),
        ("invoice", "due_date", False, [equal("number", "none")], None),
    ],
)
async def test_the_first_by_a_field_is_found_among_what_the_conditions_select(
    clinic: Clinic,
    entity: str,
    field: str,
    descending: bool,
    conditions: list[pb.Condition],
    expected: str | None,
) -> None:
    """DOM-2: what has no value is never the first."""
    operation = first("READ", entity, field, *conditions, descending=descending)
    (done,) = await clinic.done("finance", operation)
    assert [each["number"] for each in done.records] == ([expected] if expected else [])


async def test_a_change_of_the_first_touches_one_or_asks(clinic: Clinic) -> None:
    """DOM-2: several that share the first value are candidates."""
    one = first("DELETE", "appointment", "starts_at", descending=True)
    response = await clinic.run("appointments", one, validate_only=True)
    assert [each.applied.affected for each in response.results] == [1]
    shared = first("UPDATE", "invoice", "status")
    shared.fields.update({"disputed": True})
    assert await clinic.told("finance", shared) == ["AMBIGUOUS_TARGET"]


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ({"conditions": {}, "first": {"by_field": "nothing"}}, "UNKNOWN_FIELD"),
        ({"conditions": {}, "first": {"by_field": "locked; --"}}, None),
        ({"first": {"by_field": "due_date"}}, "INVALID_ARGUMENT"),
    ],
)
async def test_a_first_that_the_schema_does_not_have_is_refused(
    clinic: Clinic, selector: dict[str, object], reason: str | None
) -> None:
    """DOM-1: before it comes near to SQL."""
    operation = op("READ", "invoice")
    json_format.ParseDict(selector, operation.selector)
    if reason is None:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await clinic.run("finance", operation)
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert await clinic.told("finance", operation) == [reason]


@pytest.mark.parametrize(
    ("zone", "comparison", "value", "expected"),
    [
        # São Paulo's clocks went from 00:00 to 01:00 on this day: it begins at 03:00 UTC.
        ("America/Sao_Paulo", "LESS", "2018-11-04T00:00", {"Álvaro"}),
        ("America/Sao_Paulo", "GREATER_OR_EQUAL", "2018-11-04T00:00", {"BEATRIZ", "Cécile"}),
        ("America/Sao_Paulo", "EQUAL", "2018-11-04T12:00", {"BEATRIZ"}),
        ("America/Sao_Paulo", "EQUAL", "2018-11-05", {"Cécile"}),
        # 23:30 before the change is 02:30 UTC, noon after it 14:00 UTC, midnight 02:00 UTC.
        ("UTC", "EQUAL", "2018-11-04T02:30", {"Álvaro"}),
        ("UTC", "IN", ["2018-11-04T14:00", "2018-11-05T02:00"], {"BEATRIZ", "Cécile"}),
        ("Europe/Madrid", "EQUAL", "2018-11-04T15:00", {"BEATRIZ"}),
        ("Europe/Madrid", "EQUAL", "2018-11-04T12:00-02:00", {"BEATRIZ"}),
        ("Asia/Tokyo", "LESS_OR_EQUAL", "2018-11-04T14:00Z", {"Álvaro", "BEATRIZ"}),
    ],
)
async def test_times_without_an_offset_are_in_the_clinic_s_zone(
    clinic: Clinic, zone: str, comparison: str, value: object, expected: set[str]
) -> None:
    """DOM-2, USE-4: on a day when clocks change too."""
    condition = equal("starts_at", value, comparison)
    records = await clinic.read("appointments", "appointment", condition, zone=zone)
    assert found("client_name", records) == expected


async def test_times_are_shown_in_the_clinic_s_zone(clinic: Clinic) -> None:
    """DOM-2: in records, and in the names by which people choose."""
    at = equal("starts_at", "2018-11-04T14:00Z")
    for zone, shown in (
        ("America/Sao_Paulo", "2018-11-04T12:00:00-02:00"),
        ("Europe/Madrid", "2018-11-04T15:00:00+01:00"),
    ):
        (record,) = await clinic.read("appointments", "appointment", at, zone=zone)
        assert record["starts_at"] == shown
        change = op("UPDATE", "appointment", at, sms_received=True)
        tried = await clinic.run("appointments", change, zone=zone, validate_only=True)
        assert tried.results[0].applied.label == f"BEATRIZ, {shown[:10]} {shown[11:16]}"


async def test_what_is_due_today_is_not_overdue_where_it_is_still_today(database, tokens) -> None:
    """DOM-2, ALL-6: overdue begins with the first moment of the clinic's next day, whichever day it
    is; Kiritimati is a day ahead of Niue."""
    clock, url = Clock(), database.url_for("clinic")
    async with serving_clinic(url, tokens, clock.now) as stubs:
        clinic = Clinic(stubs, tokens, url)
        await clinic.done("clients", client("Ana"))

        async def status_at(moment: datetime, number: str, zone: str) -> Any:
            clock.set(moment)
            by_number = equal("number", number)
            (found,) = await clinic.read("finance", "invoice", by_number, zone=zone)
            return found["status"]

        for place, moment in enumerate(MOMENTS):
            west = moment.at.astimezone(ZoneInfo("Pacific/Niue")).date()
            here = moment.at.date()
            due = {f"W-{place}": west, f"H-{place}": here}
            made = [invoice(each, "Ana", due_date=str(day)) for each, day in due.items()]
            await clinic.done("finance", *made)
            assert await status_at(moment.at, f"W-{place}", "Pacific/Niue") == "open"
            assert await status_at(moment.at, f"W-{place}", "Pacific/Kiritimati") == "overdue"
            after = datetime.combine(here + timedelta(days=1), time.min, ZoneInfo(moment.zone))
            last = after.astimezone(UTC) - timedelta(seconds=30)
            assert await status_at(last, f"H-{place}", moment.zone) == "open"
            assert await status_at(after, f"H-{place}", moment.zone) == "overdue"
