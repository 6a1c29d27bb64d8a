"""What admins write, over a socket: plans, assignments, defaults and descriptors (ENT-1, ENT-3)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as pb_grpc
from gatehouse.router.v1 import tier_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2

from services.entitlements.app import running
from services.entitlements.settings import Settings
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry

ADMIN = "a0000000-0000-4000-8000-00000000000a"
Call = Callable[..., Awaitable[Any]]


class Client:
    """Calls in the name of one caller, each with a deadline."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = pb_grpc.EntitlementsServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def __getattr__(self, method: str) -> Call:
        async def call(request: Any) -> Any:
            return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=10)

        return call


@asynccontextmanager
async def replica(database, tokens) -> AsyncIterator[grpc.aio.Channel]:
    settings = load(
        Settings,
        {
            "GATEHOUSE_ENTITLEMENTS_DATABASE_URL": database.url_for("entitlements"),
            "GATEHOUSE_ENTITLEMENTS_JWT_ISSUER": tokens.issuer,
            "GATEHOUSE_ENTITLEMENTS_JWT_AUDIENCE": tokens.audience,
            "GATEHOUSE_ENTITLEMENTS_JWKS": str(tokens.jwks_file),
            "GATEHOUSE_ENTITLEMENTS_UNRECORDED_WRITES": "true",
        },
    )
    with open_telemetry(settings) as telemetry:
        async with (
            running(settings, telemetry) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield channel


@pytest.fixture(scope="module")
async def channel(database, tokens) -> AsyncIterator[grpc.aio.Channel]:
    async with replica(database, tokens) as channel:
        yield channel


@pytest.fixture(scope="module")
async def other_channel(database, tokens) -> AsyncIterator[grpc.aio.Channel]:
    """Another replica, so that what races is held apart by the database alone."""
    async with replica(database, tokens) as channel:
        yield channel


@pytest.fixture(scope="module")
def admin(channel, tokens) -> Client:
    return Client(channel, tokens.user(user_id=ADMIN, clinic_id="", roles=("user", "admin")))


@pytest.fixture(scope="module")
def other_admin(other_channel, tokens) -> Client:
    return Client(other_channel, tokens.user(user_id=new_id(), clinic_id="", roles=("admin",)))


def new_id() -> str:
    return str(uuid.uuid4())


def new_plan(**fields: Any) -> pb.Plan:
    return pb.Plan(
        **{
            "name": f"p-{uuid.uuid4().hex[:12]}",
            "allows_crud": True,
            "analytics_window_days": 90,
            "model_tiers": [tier_pb2.MODEL_BASIC, tier_pb2.MODEL_SPEED],
            "daily_read_limit": 100,
            **fields,
        }
    )


def new_descriptor(**fields: Any) -> pb.DomainDescriptor:
    read, update = domain_pb2.VERB_READ, domain_pb2.VERB_UPDATE
    schema = ParseDict(
        {"type": "object", "properties": {"amount": {"type": "number", "x-synonyms": {}}}},
        Struct(),
    )
    words = pb.Synonyms(locale="pt-BR", words=["fatura", "cobrança"])
    return pb.DomainDescriptor(
        **{
            "name": f"d_{uuid.uuid4().hex[:12]}",
            "operations": [read, update],
            "sensitivity_level": pb.SENSITIVITY_LEVEL_HIGH,
            "endpoint": "dns:///finance:443",
            "entities": [
                pb.EntityDescriptor(
                    name="invoice", operations=[read], json_schema=schema, synonyms=[words]
                )
            ],
            "synonyms": [words],
            "metrics": ["overdue_ratio"],
            **fields,
        }
    )


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


class Refusal:
    """What a caller reads from an error."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.text = error.details() or ""
        details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(details)
        found = {detail.TypeName(): detail for detail in status.details}
        self.reason = self._read(found, error_details_pb2.ErrorInfo()).reason
        violations = self._read(found, error_details_pb2.BadRequest()).field_violations
        self.fields = [violation.field for violation in violations]

    @staticmethod
    def _read(found: dict[str, Any], message: Any) -> Any:
        if message.DESCRIPTOR.full_name in found:
            found[message.DESCRIPTOR.full_name].Unpack(message)
        return message


async def refused(call: Awaitable[Any]) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Refusal(caught.value)


async def race(calls: Iterable[Awaitable[Any]]) -> tuple[list[Any], list[Refusal]]:
    """Let all run at once; what they answered, and what was refused."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    won = [answer for answer in ended if not isinstance(answer, BaseException)]
    lost = [Refusal(error) for error in ended if isinstance(error, grpc.aio.AioRpcError)]
    assert len(won) + len(lost) == len(ended)
    return won, lost


# Seeds


async def test_basic_is_seeded_as_promised(admin) -> None:
    """ENT-1."""
    plan = (await admin.GetPlan(pb.GetPlanRequest(name="basic"))).plan
    assert plan.allows_crud is False
    assert plan.analytics_window_days == 30
    assert list(plan.model_tiers) == [tier_pb2.MODEL_BASIC]
    assert plan.HasField("daily_read_limit")
    assert plan.daily_read_limit == 40
    assert plan.HasField("daily_modify_limit")
    assert plan.daily_modify_limit == 0


async def test_premium_is_seeded_as_promised(admin) -> None:
    """ENT-1."""
    plan = (await admin.GetPlan(pb.GetPlanRequest(name="premium"))).plan
    assert plan.allows_crud is True
    assert plan.analytics_window_days == 365
    assert list(plan.model_tiers) == [
        tier_pb2.MODEL_BASIC,
        tier_pb2.MODEL_SPEED,
        tier_pb2.MODEL_ADV_REASON,
        tier_pb2.MODEL_ANALYTICS,
    ]
    assert not plan.HasField("daily_read_limit")
    assert not plan.HasField("daily_modify_limit")


# Plans


async def test_a_plan_is_made_read_changed_and_removed(admin) -> None:
    """ENT-3."""
    wanted = new_plan(daily_modify_limit=0)
    made = await admin.CreatePlan(pb.CreatePlanRequest(plan=wanted))
    assert made.plan.name == wanted.name
    assert made.plan.daily_modify_limit == 0
    assert made.plan.created_at == made.plan.updated_at
    by_id = await admin.GetPlan(pb.GetPlanRequest(id=made.plan.id))
    by_name = await admin.GetPlan(pb.GetPlanRequest(name=wanted.name))
    assert by_id.plan == by_name.plan == made.plan
    assert by_id.revision.number >= made.revision.number

    changed = await admin.UpdatePlan(
        pb.UpdatePlanRequest(
            plan=pb.Plan(id=made.plan.id, etag=made.plan.etag, analytics_window_days=7),
            update_mask=mask("analytics_window_days", "daily_read_limit"),
        )
    )
    assert changed.revision.number > made.revision.number
    assert changed.plan.analytics_window_days == 7
    assert not changed.plan.HasField("daily_read_limit")
    assert changed.plan.name == wanted.name
    assert changed.plan.etag != made.plan.etag
    assert changed.plan.created_at == made.plan.created_at

    gone = await admin.DeletePlan(pb.DeletePlanRequest(id=made.plan.id, etag=changed.plan.etag))
    assert gone.revision.number > changed.revision.number
    refusal = await refused(admin.GetPlan(pb.GetPlanRequest(id=made.plan.id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_what_is_output_only_is_not_taken_from_the_caller(admin) -> None:
    """ENT-3."""
    wanted = new_plan(id=new_id(), etag="mine")
    made = await admin.CreatePlan(pb.CreatePlanRequest(plan=wanted))
    assert made.plan.id != wanted.id
    assert made.plan.etag != "mine"


async def test_a_name_is_given_once(admin) -> None:
    """ENT-3."""
    plan = new_plan()
    await admin.CreatePlan(pb.CreatePlanRequest(plan=plan))
    refusal = await refused(admin.CreatePlan(pb.CreatePlanRequest(plan=plan)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    other = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    other.name = plan.name
    refusal = await refused(
        admin.UpdatePlan(pb.UpdatePlanRequest(plan=other, update_mask=mask("name")))
    )
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS


async def test_the_same_request_again_returns_the_plan_made_then(admin) -> None:
    """ENT-3: also after the plan was changed."""
    request = pb.CreatePlanRequest(plan=new_plan(), request_id=new_id())
    made = await admin.CreatePlan(request)
    await admin.UpdatePlan(
        pb.UpdatePlanRequest(
            plan=pb.Plan(id=made.plan.id, analytics_window_days=1),
            update_mask=mask("analytics_window_days"),
        )
    )
    assert await admin.CreatePlan(request) == made


async def test_a_request_id_makes_one_thing(admin, other_admin) -> None:
    """ENT-3: another admin's ids are their own."""
    request = pb.CreatePlanRequest(plan=new_plan(), request_id=new_id())
    await admin.CreatePlan(request)
    request.plan.name = new_plan().name
    refusal = await refused(admin.CreatePlan(request))
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    assert "request_id" in refusal.text
    descriptor = pb.CreateDescriptorRequest(
        descriptor=new_descriptor(), request_id=request.request_id
    )
    assert (await refused(admin.CreateDescriptor(descriptor))).code is (
        grpc.StatusCode.ALREADY_EXISTS
    )
    assert (await other_admin.CreatePlan(request)).plan.name == request.plan.name


async def test_one_request_sent_many_times_at_once_makes_one_plan(
    admin, other_channel, tokens
) -> None:
    """ENT-3: a race of retries, over two replicas."""
    token = tokens.user(user_id=ADMIN, roles=("admin",))
    elsewhere = Client(other_channel, token)
    request = pb.CreatePlanRequest(plan=new_plan(), request_id=new_id())
    won, lost = await race(who.CreatePlan(request) for who in [admin, elsewhere] * 6)
    assert lost == []
    assert len({(answer.plan.id, answer.revision.number) for answer in won}) == 1


async def test_of_many_who_make_one_name_at_once_one_succeeds(admin, other_admin) -> None:
    """ENT-3."""
    request = pb.CreatePlanRequest(plan=new_plan())
    won, lost = await race(who.CreatePlan(request) for who in [admin, other_admin] * 6)
    assert len(won) == 1
    assert {refusal.reason for refusal in lost} == {"ALREADY_EXISTS"}


async def test_of_two_admins_with_the_same_etag_exactly_one_wins(admin, other_admin) -> None:
    """ENT-3: twenty rounds of a real race; the loser's change is nowhere."""
    plan = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    for number in range(20):
        requests = [
            pb.UpdatePlanRequest(
                plan=pb.Plan(id=plan.id, etag=plan.etag, analytics_window_days=days),
                update_mask=mask("analytics_window_days"),
            )
            for days in (100 + number, 200 + number)
        ]
        won, lost = await race(
            who.UpdatePlan(request)
            for who, request in zip((admin, other_admin), requests, strict=True)
        )
        assert [(refusal.code, refusal.reason) for refusal in lost] == [
            (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
        ]
        assert len(won) == 1
        plan = (await admin.GetPlan(pb.GetPlanRequest(id=plan.id))).plan
        assert plan == won[0].plan


async def test_different_fields_changed_at_once_are_both_changed(admin, other_admin) -> None:
    """ENT-3: without etags no change swallows another's field."""
    plan = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    for number in range(10):
        wanted = pb.Plan(
            id=plan.id, analytics_window_days=10 + number, daily_read_limit=500 + number
        )
        won, lost = await race(
            [
                admin.UpdatePlan(
                    pb.UpdatePlanRequest(plan=wanted, update_mask=mask("analytics_window_days"))
                ),
                other_admin.UpdatePlan(
                    pb.UpdatePlanRequest(plan=wanted, update_mask=mask("daily_read_limit"))
                ),
            ]
        )
        assert (len(won), lost) == (2, [])
        assert won[0].revision != won[1].revision
        plan = (await admin.GetPlan(pb.GetPlanRequest(id=plan.id))).plan
        assert plan.analytics_window_days == 10 + number
        assert plan.daily_read_limit == 500 + number


async def test_a_stale_etag_removes_nothing(admin) -> None:
    """ENT-3."""
    plan = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    refusal = await refused(admin.DeletePlan(pb.DeletePlanRequest(id=plan.id, etag="r0")))
    assert refusal.reason == "ETAG_MISMATCH"
    assert (await admin.GetPlan(pb.GetPlanRequest(id=plan.id))).plan == plan


@pytest.mark.parametrize(
    ("plan", "paths", "fields"),
    [
        ({}, ["plan.name"], ["update_mask.paths[0]"]),
        ({}, ["allows_crud", "created_at"], ["update_mask.paths[1]"]),
        ({}, [], ["update_mask.paths"]),
        ({"id": "7"}, ["allows_crud"], ["plan.id"]),
        ({"analytics_window_days": 0}, ["analytics_window_days"], ["plan.analytics_window_days"]),
        (
            {"analytics_window_days": 36_501},
            ["analytics_window_days"],
            ["plan.analytics_window_days"],
        ),
        ({"model_tiers": []}, ["model_tiers"], ["plan.model_tiers"]),
        ({"model_tiers": [1, 1]}, ["model_tiers"], ["plan.model_tiers[1]"]),
        ({"name": ""}, ["name"], ["plan.name"]),
        ({"name": "Two Words"}, ["name"], ["plan.name"]),
    ],
)
async def test_a_wrong_update_names_the_field(
    admin, plan: dict[str, Any], paths: list[str], fields: list[str]
) -> None:
    """ENT-3, ALL-2."""
    made = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    wanted = pb.Plan(**{"id": made.id, **plan})
    refusal = await refused(
        admin.UpdatePlan(pb.UpdatePlanRequest(plan=wanted, update_mask=mask(*paths)))
    )
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    )
    assert refusal.fields == fields
    assert (await admin.GetPlan(pb.GetPlanRequest(id=made.id))).plan == made


async def test_an_update_of_nothing_is_told_so(admin) -> None:
    """ENT-3."""
    refusal = await refused(
        admin.UpdatePlan(
            pb.UpdatePlanRequest(plan=pb.Plan(id=new_id()), update_mask=mask("allows_crud"))
        )
    )
    assert refusal.reason == "NOT_FOUND"


# Assignments


async def test_a_plan_in_use_is_not_removed(admin) -> None:
    """ENT-3: by a user, then by a clinic, then by nobody."""
    plan = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    user, clinic = new_id(), new_id()
    await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user, plan_id=plan.id))
    await admin.SetClinicPlan(pb.SetClinicPlanRequest(clinic_id=clinic, plan_name=plan.name))
    remove = pb.DeletePlanRequest(id=plan.id)
    refusal = await refused(admin.DeletePlan(remove))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PLAN_IN_USE",
    )
    await admin.DeleteUserPlan(pb.DeleteUserPlanRequest(user_id=user))
    assert (await refused(admin.DeletePlan(remove))).reason == "PLAN_IN_USE"
    await admin.DeleteClinicPlan(pb.DeleteClinicPlanRequest(clinic_id=clinic))
    await admin.DeletePlan(remove)


async def test_basic_stays(admin) -> None:
    """ENT-2, ENT-3."""
    basic = (await admin.GetPlan(pb.GetPlanRequest(name="basic"))).plan
    assert (await refused(admin.DeletePlan(pb.DeletePlanRequest(id=basic.id)))).reason == (
        "PLAN_IN_USE"
    )
    basic.name = "other"
    refusal = await refused(
        admin.UpdatePlan(pb.UpdatePlanRequest(plan=basic, update_mask=mask("name")))
    )
    assert refusal.reason == "PLAN_IN_USE"


async def test_removing_a_plan_while_it_is_being_assigned_leaves_no_one_without(
    admin, other_admin
) -> None:
    """ENT-3: a race; either the plan is gone and the assignment refused, or the other way round."""
    for _ in range(10):
        for give in (
            lambda plan: other_admin.AssignUserPlan(
                pb.AssignUserPlanRequest(user_id=new_id(), plan_id=plan.id)
            ),
            lambda plan: other_admin.SetClinicPlan(
                pb.SetClinicPlanRequest(clinic_id=new_id(), plan_id=plan.id)
            ),
        ):
            plan = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
            won, lost = await race([admin.DeletePlan(pb.DeletePlanRequest(id=plan.id)), give(plan)])
            assert len(won) == 1
            removed = isinstance(won[0], pb.DeletePlanResponse)
            assert lost[0].reason == ("NOT_FOUND" if removed else "PLAN_IN_USE")


async def test_an_assignment_is_made_replaced_and_taken_away(admin) -> None:
    """ENT-3."""
    user = new_id()
    first = await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user, plan_name="premium"))
    read = await admin.GetUserPlan(pb.GetUserPlanRequest(user_id=user))
    assert read.user_plan == first.user_plan
    second = await admin.AssignUserPlan(
        pb.AssignUserPlanRequest(user_id=user, plan_name="basic", etag=first.user_plan.etag)
    )
    assert second.revision.number > first.revision.number
    assert second.user_plan.plan_id != first.user_plan.plan_id
    stale = pb.DeleteUserPlanRequest(user_id=user, etag=first.user_plan.etag)
    assert (await refused(admin.DeleteUserPlan(stale))).reason == "ETAG_MISMATCH"
    await admin.DeleteUserPlan(pb.DeleteUserPlanRequest(user_id=user, etag=second.user_plan.etag))
    missing = await refused(admin.GetUserPlan(pb.GetUserPlanRequest(user_id=user)))
    assert missing.reason == "NOT_FOUND"
    again = pb.DeleteUserPlanRequest(user_id=user)
    assert (await refused(admin.DeleteUserPlan(again))).reason == "NOT_FOUND"


async def test_a_clinic_default_is_set_replaced_and_taken_away(admin) -> None:
    """ENT-3."""
    clinic = new_id()
    first = await admin.SetClinicPlan(
        pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="premium")
    )
    read = await admin.GetClinicPlan(pb.GetClinicPlanRequest(clinic_id=clinic))
    assert read.clinic_plan == first.clinic_plan
    same = await admin.SetClinicPlan(pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="premium"))
    assert same.clinic_plan == first.clinic_plan
    etag = first.clinic_plan.etag
    second = await admin.SetClinicPlan(
        pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="basic", etag=etag)
    )
    assert second.revision.number > first.revision.number
    stale = pb.DeleteClinicPlanRequest(clinic_id=clinic, etag=etag)
    assert (await refused(admin.DeleteClinicPlan(stale))).reason == "ETAG_MISMATCH"
    gone = pb.DeleteClinicPlanRequest(clinic_id=clinic, etag=second.clinic_plan.etag)
    await admin.DeleteClinicPlan(gone)
    for call in (
        admin.GetClinicPlan(pb.GetClinicPlanRequest(clinic_id=clinic)),
        admin.DeleteClinicPlan(pb.DeleteClinicPlanRequest(clinic_id=clinic)),
    ):
        assert (await refused(call)).reason == "NOT_FOUND"


async def test_a_clinic_keeps_its_zone_until_another_is_set(admin) -> None:
    """USE-4, ENT-4: beside its plan, for every user of the clinic, whatever plan they have."""
    clinic, user = new_id(), new_id()

    async def zone_after(**more: str) -> str:
        request = pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="basic", **more)
        made = await admin.SetClinicPlan(request)
        again = await admin.SetClinicPlan(request)
        assert again.clinic_plan == made.clinic_plan  # and so keeps since when
        asked = pb.GetEntitlementsRequest(
            user_id=user, clinic_id=clinic, min_revision=made.revision
        )
        told = (await admin.GetEntitlements(asked)).time_zone
        read = await admin.GetClinicPlan(pb.GetClinicPlanRequest(clinic_id=clinic))
        assert read.clinic_plan.time_zone == told
        return told

    assert await zone_after() == ""
    assert await zone_after(time_zone="America/New_York") == "America/New_York"
    assert await zone_after() == "America/New_York"
    await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user, plan_name="premium"))
    assert await zone_after(time_zone="Asia/Tokyo") == "Asia/Tokyo"
    assert await zone_after(time_zone="") == ""
    alone = await admin.GetEntitlements(pb.GetEntitlementsRequest(user_id=user))
    assert alone.time_zone == ""


@pytest.mark.parametrize(
    "name", ["localtime", "Factory", "posix/UTC", "right/UTC", "posixrules", "Mars/Base", "utc"]
)
async def test_a_clinic_has_no_zone_that_is_none(admin, name: str) -> None:
    """ALL-6: the field is named, and nothing is written."""
    clinic = new_id()
    request = pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="basic", time_zone=name)
    refusal = await refused(admin.SetClinicPlan(request))
    assert refusal.reason == "INVALID_ARGUMENT"
    assert refusal.fields == ["time_zone"]
    missing = await refused(admin.GetClinicPlan(pb.GetClinicPlanRequest(clinic_id=clinic)))
    assert missing.reason == "NOT_FOUND"


async def test_assigning_what_stands_keeps_since_when(admin) -> None:
    """ENT-3: a retry of an assignment does nothing twice."""
    request = pb.AssignUserPlanRequest(user_id=new_id(), plan_name="premium")
    first = await admin.AssignUserPlan(request)
    second = await admin.AssignUserPlan(request)
    assert second.user_plan == first.user_plan
    assert second.revision.number >= first.revision.number


@pytest.mark.parametrize("etag", ["r1", "nonsense"])
async def test_an_etag_of_nothing_does_not_assign(admin, etag: str) -> None:
    """ENT-3."""
    user = new_id()
    refusal = await refused(
        admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user, plan_name="premium", etag=etag))
    )
    assert refusal.reason == "ETAG_MISMATCH"
    assert (await refused(admin.GetUserPlan(pb.GetUserPlanRequest(user_id=user)))).reason == (
        "NOT_FOUND"
    )


async def test_of_two_assignments_over_one_etag_one_wins(admin, other_admin) -> None:
    """ENT-3: for users and for clinics."""
    user, clinic = new_id(), new_id()
    user_plan = (
        await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user, plan_name="basic"))
    ).user_plan
    clinic_plan = (
        await admin.SetClinicPlan(pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="basic"))
    ).clinic_plan
    for _ in range(10):
        assign = pb.AssignUserPlanRequest(user_id=user, plan_name="premium", etag=user_plan.etag)
        won, lost = await race(who.AssignUserPlan(assign) for who in (admin, other_admin))
        assert ([len(won)], [refusal.reason for refusal in lost]) == ([1], ["ETAG_MISMATCH"])
        user_plan = won[0].user_plan
        default = pb.SetClinicPlanRequest(
            clinic_id=clinic, plan_name="premium", etag=clinic_plan.etag
        )
        won, lost = await race(who.SetClinicPlan(default) for who in (admin, other_admin))
        assert ([len(won)], [refusal.reason for refusal in lost]) == ([1], ["ETAG_MISMATCH"])
        clinic_plan = won[0].clinic_plan


@pytest.mark.parametrize("plan", [{"plan_id": str(uuid.UUID(int=1))}, {"plan_name": "no-such"}])
async def test_a_plan_that_is_not_there_is_not_assigned(admin, plan: dict[str, str]) -> None:
    """ENT-3."""
    for call in (
        admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=new_id(), **plan)),
        admin.SetClinicPlan(pb.SetClinicPlanRequest(clinic_id=new_id(), **plan)),
    ):
        assert (await refused(call)).reason == "NOT_FOUND"


# Descriptors


async def test_a_descriptor_is_made_read_changed_and_removed(admin) -> None:
    """ENT-3."""
    wanted = new_descriptor()
    made = await admin.CreateDescriptor(pb.CreateDescriptorRequest(descriptor=wanted))
    for key in ({"id": made.descriptor.id}, {"name": wanted.name}):
        read = await admin.GetDescriptor(pb.GetDescriptorRequest(**key))
        assert read.descriptor == made.descriptor
    for field in ("operations", "sensitivity_level", "endpoint", "entities", "synonyms", "metrics"):
        assert getattr(read.descriptor, field) == getattr(wanted, field)
    changed = await admin.UpdateDescriptor(
        pb.UpdateDescriptorRequest(
            descriptor=pb.DomainDescriptor(
                id=made.descriptor.id, etag=made.descriptor.etag, endpoint="unix:/run/finance"
            ),
            update_mask=mask("endpoint", "metrics"),
        )
    )
    assert changed.descriptor.endpoint == "unix:/run/finance"
    assert list(changed.descriptor.metrics) == []
    assert changed.descriptor.entities == wanted.entities
    gone = await admin.DeleteDescriptor(
        pb.DeleteDescriptorRequest(id=made.descriptor.id, etag=changed.descriptor.etag)
    )
    assert gone.revision.number > changed.revision.number > made.revision.number


async def test_a_descriptor_s_request_again_returns_it(admin) -> None:
    """ENT-3."""
    request = pb.CreateDescriptorRequest(descriptor=new_descriptor(), request_id=new_id())
    won, lost = await race(admin.CreateDescriptor(request) for _ in range(6))
    assert lost == []
    assert len({answer.descriptor.id for answer in won}) == 1
    request.descriptor.endpoint = "elsewhere:1"
    assert (await refused(admin.CreateDescriptor(request))).reason == "ALREADY_EXISTS"


async def test_an_update_may_not_leave_a_descriptor_at_odds_with_itself(admin) -> None:
    """ENT-3: the whole is checked, not only the masked fields."""
    made = (
        await admin.CreateDescriptor(pb.CreateDescriptorRequest(descriptor=new_descriptor()))
    ).descriptor
    refusal = await refused(
        admin.UpdateDescriptor(
            pb.UpdateDescriptorRequest(
                descriptor=pb.DomainDescriptor(id=made.id, operations=[domain_pb2.VERB_CREATE]),
                update_mask=mask("operations"),
            )
        )
    )
    assert refusal.fields == ["descriptor.entities[0].operations[0]"]


async def test_of_two_descriptor_updates_over_one_etag_one_wins(admin, other_admin) -> None:
    """ENT-3."""
    made = (
        await admin.CreateDescriptor(pb.CreateDescriptorRequest(descriptor=new_descriptor()))
    ).descriptor
    for number in range(10):
        wanted = pb.DomainDescriptor(id=made.id, etag=made.etag, endpoint=f"finance:{number + 1}")
        request = pb.UpdateDescriptorRequest(descriptor=wanted, update_mask=mask("endpoint"))
        won, lost = await race(who.UpdateDescriptor(request) for who in (admin, other_admin))
        assert ([len(won)], [refusal.reason for refusal in lost]) == ([1], ["ETAG_MISMATCH"])
        made = won[0].descriptor


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"endpoint": "http://x"}, "descriptor.endpoint"),
        ({"endpoint": ""}, "descriptor.endpoint"),
        ({"name": "Finance"}, "descriptor.name"),
        ({"operations": []}, "descriptor.operations"),
        ({"operations": [9]}, "descriptor.operations[0]"),
        ({"sensitivity_level": 0}, "descriptor.sensitivity_level"),
        ({"entities": []}, "descriptor.entities"),
        ({"metrics": ["No Show"]}, "descriptor.metrics[0]"),
        ({"metrics": ["a", "a"]}, "descriptor.metrics[1]"),
    ],
)
async def test_a_wrong_descriptor_names_the_field(admin, fields: dict[str, Any], path: str) -> None:
    """ENT-3, ALL-2."""
    refusal = await refused(
        admin.CreateDescriptor(pb.CreateDescriptorRequest(descriptor=new_descriptor(**fields)))
    )
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert path in refusal.fields


# Roles

WRITES = {
    "CreatePlan": pb.CreatePlanRequest(plan=new_plan()),
    "UpdatePlan": pb.UpdatePlanRequest(plan=pb.Plan(id=new_id()), update_mask=mask("allows_crud")),
    "DeletePlan": pb.DeletePlanRequest(id=new_id()),
    "AssignUserPlan": pb.AssignUserPlanRequest(user_id=ADMIN, plan_name="premium"),
    "DeleteUserPlan": pb.DeleteUserPlanRequest(user_id=ADMIN),
    "SetClinicPlan": pb.SetClinicPlanRequest(clinic_id=new_id(), plan_name="premium"),
    "DeleteClinicPlan": pb.DeleteClinicPlanRequest(clinic_id=new_id()),
    "CreateDescriptor": pb.CreateDescriptorRequest(descriptor=new_descriptor()),
    "UpdateDescriptor": pb.UpdateDescriptorRequest(
        descriptor=pb.DomainDescriptor(id=new_id()), update_mask=mask("endpoint")
    ),
    "DeleteDescriptor": pb.DeleteDescriptorRequest(id=new_id()),
}


def test_every_write_of_the_service_is_among_the_ones_refused_below() -> None:
    """ENT-3: a method added later is either a read or needs the role."""
    service = pb.DESCRIPTOR.services_by_name["EntitlementsService"]
    reads = ("Get", "List", "Watch", "Snapshot")
    assert {method.name for method in service.methods if not method.name.startswith(reads)} == set(
        WRITES
    )


@pytest.mark.parametrize("roles", [("user",), ("service",), ("auditor",), ("user", "service")])
@pytest.mark.parametrize("method", list(WRITES))
async def test_writing_needs_the_role_admin(
    channel, tokens, method: str, roles: tuple[str, ...]
) -> None:
    """ENT-3."""
    caller = Client(channel, tokens.user(user_id=ADMIN, clinic_id=new_id(), roles=roles))
    refusal = await refused(getattr(caller, method)(WRITES[method]))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "ROLE_REQUIRED",
    )


@pytest.mark.parametrize("method", [*WRITES, "ListPlans"])
async def test_without_a_token_nothing_is_answered(channel, method: str) -> None:
    """ALL-3."""
    request = WRITES.get(method, pb.ListPlansRequest())
    refusal = await refused(getattr(Client(channel, ""), method)(request))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_MISSING",
    )


# Lists


async def test_lists_are_paged_whole_and_in_order(admin) -> None:
    """ENT-3."""
    names = {new_plan().name for _ in range(7)}
    for name in names:
        await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan(name=name)))
    listed: list[str] = []
    token = ""
    while True:
        page = await admin.ListPlans(pb.ListPlansRequest(page_size=3, page_token=token))
        assert len(page.plans) <= 3
        listed += [plan.name for plan in page.plans]
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(set(listed))
    assert names | {"basic", "premium"} <= set(listed)


async def test_assignments_are_listed_by_plan(admin) -> None:
    """ENT-3."""
    plan = (await admin.CreatePlan(pb.CreatePlanRequest(plan=new_plan()))).plan
    users = sorted(new_id() for _ in range(5))
    for user in users:
        await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user, plan_id=plan.id))
        await admin.SetClinicPlan(pb.SetClinicPlanRequest(clinic_id=user, plan_id=plan.id))
    await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=new_id(), plan_name="basic"))
    request = pb.ListUserPlansRequest(page_size=3, plan_id=plan.id)
    first = await admin.ListUserPlans(request)
    request.page_token = first.next_page_token
    second = await admin.ListUserPlans(request)
    assert [one.user_id for one in [*first.user_plans, *second.user_plans]] == users
    assert second.next_page_token == ""
    clinics = await admin.ListClinicPlans(pb.ListClinicPlansRequest(plan_id=plan.id))
    assert [one.clinic_id for one in clinics.clinic_plans] == users


async def test_a_page_token_goes_with_its_list(admin) -> None:
    """ENT-3: tampered with, made up, or of another list or filter."""
    for _ in range(3):
        await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=new_id(), plan_name="premium"))
    page = await admin.ListUserPlans(pb.ListUserPlansRequest(page_size=1))
    token = page.next_page_token
    flipped = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    premium = page.user_plans[0].plan_id
    for call in (
        admin.ListUserPlans(pb.ListUserPlansRequest(page_token=flipped)),
        admin.ListUserPlans(pb.ListUserPlansRequest(page_token="next")),
        admin.ListUserPlans(pb.ListUserPlansRequest(page_token=token[:10])),
        admin.ListUserPlans(pb.ListUserPlansRequest(page_token=token, plan_id=premium)),
        admin.ListClinicPlans(pb.ListClinicPlansRequest(page_token=token)),
        admin.ListPlans(pb.ListPlansRequest(page_token=token)),
        admin.ListDescriptors(pb.ListDescriptorsRequest(page_token=token)),
    ):
        refusal = await refused(call)
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == ["page_token"]


async def test_a_page_of_large_descriptors_fits_into_a_message(admin) -> None:
    """ALL-1, ENT-3: cut by size, and nothing left out."""
    schema = ParseDict({"properties": {"note": {"description": "x" * 200_000}}}, Struct())
    entity = pb.EntityDescriptor(name="note", operations=[domain_pb2.VERB_READ], json_schema=schema)
    names = set()
    for _ in range(24):
        descriptor = new_descriptor(entities=[entity])
        await admin.CreateDescriptor(pb.CreateDescriptorRequest(descriptor=descriptor))
        names.add(descriptor.name)
    listed: list[str] = []
    token, pages = "", 0
    while True:
        page = await admin.ListDescriptors(
            pb.ListDescriptorsRequest(page_size=500, page_token=token)
        )
        listed += [descriptor.name for descriptor in page.descriptors]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert names <= set(listed)
    assert len(listed) == len(set(listed))
    assert pages > 4


async def test_a_page_size_past_the_bound_is_refused(admin) -> None:
    """ENT-3."""
    refusal = await refused(admin.ListPlans(pb.ListPlansRequest(page_size=501)))
    assert refusal.fields == ["page_size"]
