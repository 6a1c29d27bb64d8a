"""What callers of another clinic, or of none, reach of the example's records: nothing (DOM-2)."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from gatehouse.domain.v1 import domain_pb2 as pb

from tests.clinic_calls import (
    Clinic,
    Stubs,
    appointment,
    client,
    equal,
    invoice,
    op,
    reason_of,
    refused,
    serving_clinic,
)

WINDOW = {"start": datetime(2000, 1, 1, tzinfo=UTC), "end": datetime(2100, 1, 1, tzinfo=UTC)}
ENTITIES = {
    "client": "clients",
    "invoice": "finance",
    "appointment": "appointments",
    "reminder": "appointments",
}
METRICS = {
    "engagement_rate": "clients",
    "overdue_ratio": "finance",
    "no_show_rate": "appointments",
    "cancellation_rate": "appointments",
}


@pytest.fixture(scope="module")
async def served(database, tokens) -> AsyncIterator[Stubs]:
    async with serving_clinic(database.url_for("clinic"), tokens) as stubs:
        yield stubs


@pytest.fixture
async def clinic(served, tokens, database) -> Clinic:
    """A clinic with one record of each kind."""
    made = Clinic(served, tokens, database.url_for("clinic"))
    await made.done("clients", client("Ana Souza", contact_consent=True))
    await made.done("finance", invoice("1", "Ana Souza"))
    await made.done(
        "appointments",
        appointment("Ana Souza", "2026-01-01T10:00", status="kept"),
        op("CREATE", "reminder", client_name="Ana Souza"),
    )
    return made


async def everything(clinic: Clinic) -> dict[str, list[dict]]:
    return {each: await clinic.read(domain, each) for each, domain in ENTITIES.items()}


async def test_a_stranger_reads_nothing_by_any_way(clinic: Clinic) -> None:
    """DOM-2, ALL-3: neither all, nor by id, by a list of ids, by a name or by a number."""
    stranger = clinic.stranger()
    for entity, records in (await everything(clinic)).items():
        domain, own_id = ENTITIES[entity], records[0]["id"]
        assert await stranger.read(domain, entity) == []
        assert await stranger.read(domain, entity, equal("id", own_id)) == []
        assert await stranger.read(domain, entity, equal("id", [own_id], "IN")) == []
        by_id = op("READ", entity)
        by_id.selector.id = own_id
        (done,) = await stranger.done(domain, by_id)
        assert (done.affected, done.truncated, len(done.records)) == (0, False, 0)
    assert await stranger.read("finance", "invoice", equal("number", "1")) == []
    assert await stranger.read("clients", "client", equal("name", "Ana Souza")) == []


async def test_a_stranger_changes_nothing_and_is_told_as_of_what_is_not_there(
    clinic: Clinic,
) -> None:
    """DOM-2, ALL-3: the answers are those to made-up ids, so that they tell nothing."""
    before = await everything(clinic)
    stranger = clinic.stranger()
    changes = {
        "client": {"phone": "9"},
        "invoice": {"amount": 9},
        "appointment": {"sms_received": True},
    }
    made_up = client("x").operation_id
    for entity, records in before.items():
        verbs = [("DELETE", {})]
        if entity in changes:
            verbs.append(("UPDATE", changes[entity]))
        for verb, fields in verbs:
            answers = []
            for of in (records[0]["id"], made_up):
                operation = op(verb, entity, **fields)
                operation.selector.id = of
                (result,) = (await stranger.run(ENTITIES[entity], operation)).results
                answers.append(result.status)
            assert answers[0] == answers[1]
            assert reason_of(answers[0]) == "NOT_FOUND"
    assert await everything(clinic) == before


async def test_a_stranger_cannot_probe_by_naming_a_client_or_a_number(clinic: Clinic) -> None:
    """DOM-2, ALL-3: another clinic's client is not there, and its numbers are free."""
    stranger = clinic.stranger()
    for domain, make in (
        ("finance", invoice("1", "Ana Souza")),
        ("appointments", appointment("Ana Souza", "2099-01-01T10:00")),
        ("appointments", op("CREATE", "reminder", client_name="Ana Souza")),
    ):
        assert await stranger.told(domain, make) == ["NOT_FOUND"]
    await stranger.done("clients", client("Ana Souza"))
    await stranger.done("finance", invoice("1", "Ana Souza"))
    await stranger.done("clients", client("Bruno Lima"))
    await stranger.done("clients", op("DELETE", "client", equal("name", "Bruno Lima")))
    assert len(await clinic.read("finance", "invoice")) == 1


async def test_a_stranger_cannot_count(clinic: Clinic) -> None:
    """DOM-2, GAT-8: by no metric, and not by trying a change out."""
    stranger = clinic.stranger()
    for metric, domain in METRICS.items():
        own = await clinic.aggregate(domain, metric, **WINDOW)
        assert own.groups[0].denominator > 0
        theirs = await stranger.aggregate(domain, metric, **WINDOW)
        assert [(each.denominator, each.subjects) for each in theirs.groups] in ([], [(0, 0)])
        grouped = await stranger.aggregate(
            domain, metric, group_by="disputed" if domain == "finance" else "gender", **WINDOW
        )
        assert list(grouped.groups) == []
    bulk = op("DELETE", "invoice", equal("amount", 0, "GREATER"))
    bulk.max_affected = 10_000
    (result,) = (await stranger.run("finance", bulk, validate_only=True)).results
    assert reason_of(result.status) == "NOT_FOUND"


async def test_a_stranger_learns_nothing_of_an_operation(clinic: Clinic) -> None:
    """DOM-1, ALL-3: NOT_APPLIED, as for one never seen; it stays applied where it belongs."""
    operation = client("Carla Dias")
    await clinic.done("clients", operation)
    state = await clinic.stranger().state(operation, "user")
    assert state == pb.GetOperationResponse(state=pb.OPERATION_STATE_NOT_APPLIED)
    assert (await clinic.state(operation)).state == pb.OPERATION_STATE_APPLIED
    stolen = await clinic.stranger().run("clients", operation)
    assert reason_of(stolen.results[0].status) == "OPERATION_ID_REUSED"
    assert not stolen.results[0].HasField("applied")


@pytest.mark.parametrize("clinic_id", ["", "north", "00000000-0000-4000-8000"])
@pytest.mark.parametrize("roles", [("user",), ("user", "admin")])
async def test_a_token_without_a_clinic_reaches_nothing(
    clinic: Clinic, tokens, clinic_id: str, roles: tuple[str, ...]
) -> None:
    """DOM-2, ALL-3: PERMISSION_DENIED; what is no clinic's id may make it no token at all."""
    user_id = client("x").operation_id
    token = tokens.issued_by.mint(user_id=user_id, clinic_id=clinic_id, roles=roles)
    call = clinic.with_token(token)
    stub = clinic.stubs["clients"]
    batch = pb.ExecuteBatchRequest(operations=[op("READ", "client")])
    question = pb.AggregateRequest(metric="engagement_rate")
    question.start_time.FromDatetime(WINDOW["start"])
    question.end_time.FromDatetime(WINDOW["end"])
    state = pb.GetOperationRequest(operation_id=client("x").operation_id)
    for refusal in (
        await refused(stub.ExecuteBatch(batch, **call)),
        await refused(stub.Aggregate(question, **call)),
        await refused(stub.GetOperation(state, **call)),
    ):
        told = ["PERMISSION_DENIED", *(["TOKEN_INVALID"] if clinic_id else [])]
        assert reason_of(refusal) in told


async def test_a_settler_of_no_clinic_settles(clinic: Clinic, tokens) -> None:
    """DOM-1, LOG-2: the service's own token names none."""
    token = tokens.issued_by.mint(user_id="oplog", clinic_id="", roles=("service",))
    call = clinic.with_token(token)
    applied, never = client("Carla Dias"), client("Diego Alves")
    await clinic.done("clients", applied)
    for operation, expected in (
        (applied, pb.OPERATION_STATE_APPLIED),
        (never, pb.OPERATION_STATE_NOT_APPLIED),
    ):
        asked = pb.GetOperationRequest(operation_id=operation.operation_id)
        assert (await clinic.stubs["clients"].GetOperation(asked, **call)).state == expected
    assert await clinic.told("clients", never) == ["OPERATION_ABANDONED"]


@pytest.mark.parametrize("method", ["Describe", "ExecuteBatch", "GetOperation", "Aggregate"])
async def test_without_a_token_nothing_is_answered(clinic: Clinic, method: str) -> None:
    """DOM-1, ALL-3."""
    request = getattr(pb, f"{method}Request")()
    status = await refused(getattr(clinic.stubs["clients"], method)(request, timeout=10))
    assert reason_of(status) == "TOKEN_MISSING"


async def test_connections_do_not_carry_a_clinic_over(clinic: Clinic) -> None:
    """DOM-2, ALL-3: two clinics in turns over the same few connections, side by side."""
    stranger = clinic.stranger()
    await stranger.done("clients", client("Other One"))

    async def names(of: Clinic) -> set[str]:
        return {each["name"] for each in await of.read("clients", "client")}

    seen = await asyncio.gather(*(names(of) for of in (clinic, stranger) * 25))
    assert seen == [{"Ana Souza"}, {"Other One"}] * 25
