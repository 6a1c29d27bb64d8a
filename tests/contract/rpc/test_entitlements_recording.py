"""Admin writes in the operation log: the intent before, the outcome after (LOG-2)."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import grpc
import psycopg
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as pb_grpc
from gatehouse.router.v1 import tier_pb2

from services.entitlements.app import running
from services.entitlements.settings import Settings
from services.runtime.failure import Failure, reason_of
from services.runtime.recording import RecordedOperation
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry

ADMIN = "a0000000-0000-4000-8000-00000000000a"
CLINIC = "c0000000-0000-4000-8000-00000000000c"


class LogGone(Failure):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "LOG_UNAVAILABLE"


class Remembering:
    """A recorder that remembers in the order of what happens, and can be made to refuse."""

    def __init__(self) -> None:
        self.events: list[tuple[str, RecordedOperation, str, str]] = []
        self.gone = False

    async def intent(self, operation: RecordedOperation) -> None:
        if self.gone:
            raise LogGone("the operation log does not answer")
        self.events.append(("intent", operation, "", ""))

    async def outcome(
        self,
        operation: RecordedOperation,
        outcome: str,
        *,
        reason: str = "",
        started_at: datetime,
        ended_at: datetime,
    ) -> None:
        assert started_at <= ended_at
        self.events.append(("outcome", operation, outcome, reason))


@pytest.fixture
def recorder() -> Remembering:
    return Remembering()


@asynccontextmanager
async def served(database, tokens, recorder: Remembering) -> AsyncIterator[grpc.aio.Channel]:
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
            running(settings, telemetry, recorder) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield channel


class Client:
    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = pb_grpc.EntitlementsServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def __call__(self, method: str, request: Any) -> Any:
        return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=10)


@pytest.fixture
async def admin(database, tokens, recorder) -> AsyncIterator[Client]:
    async with served(database, tokens, recorder) as channel:
        yield Client(channel, tokens.user(user_id=ADMIN, clinic_id=CLINIC, roles=("admin",)))


def plan() -> pb.Plan:
    return pb.Plan(
        name=f"p-{uuid.uuid4().hex[:12]}",
        analytics_window_days=30,
        model_tiers=[tier_pb2.MODEL_BASIC],
    )


async def test_a_write_has_its_intent_and_then_its_outcome(admin, recorder) -> None:
    """LOG-2, LOG-6: by ids alone, with nothing of what was written."""
    await admin("CreatePlan", pb.CreatePlanRequest(plan=plan()))
    (first, intended, _, _), (second, operation, outcome, reason) = recorder.events
    assert (first, second) == ("intent", "outcome")
    assert intended == operation
    assert operation.action == "admin.plan.create"
    assert (operation.user_id, operation.clinic_id) == (ADMIN, CLINIC)
    assert (outcome, reason) == ("succeeded", "")
    assert uuid.UUID(operation.operation_id)


async def test_every_write_has_an_action_of_its_own(admin, recorder) -> None:
    """LOG-1: whether or not it comes to anything."""
    user, clinic, missing = (str(uuid.uuid4()) for _ in range(3))
    for method, request in (
        ("AssignUserPlan", pb.AssignUserPlanRequest(user_id=user, plan_name="premium")),
        ("DeleteUserPlan", pb.DeleteUserPlanRequest(user_id=user)),
        ("SetClinicPlan", pb.SetClinicPlanRequest(clinic_id=clinic, plan_name="premium")),
        ("DeleteClinicPlan", pb.DeleteClinicPlanRequest(clinic_id=clinic)),
    ):
        await admin(method, request)
    for method, request in (
        ("DeletePlan", pb.DeletePlanRequest(id=missing)),
        ("DeleteDescriptor", pb.DeleteDescriptorRequest(id=missing)),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await admin(method, request)
    told = [
        (operation.action, outcome)
        for kind, operation, outcome, _ in recorder.events
        if kind == "outcome"
    ]
    assert told == [
        ("admin.user_plan.assign", "succeeded"),
        ("admin.user_plan.delete", "succeeded"),
        ("admin.clinic_plan.set", "succeeded"),
        ("admin.clinic_plan.delete", "succeeded"),
        ("admin.plan.delete", "failed"),
        ("admin.descriptor.delete", "failed"),
    ]


async def test_a_write_that_is_refused_says_why(admin, recorder) -> None:
    """LOG-2."""
    made = await admin("CreatePlan", pb.CreatePlanRequest(plan=plan()))
    with pytest.raises(grpc.aio.AioRpcError):
        await admin("DeletePlan", pb.DeletePlanRequest(id=made.plan.id, etag="r0"))
    assert recorder.events[-1][2:] == ("failed", "ETAG_MISMATCH")


async def test_without_the_log_nothing_is_written(admin, recorder) -> None:
    """LOG-2: what cannot be logged is not done."""
    recorder.gone = True
    wanted = plan()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin("CreatePlan", pb.CreatePlanRequest(plan=wanted))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(caught.value) == "LOG_UNAVAILABLE"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await admin("GetPlan", pb.GetPlanRequest(name=wanted.name))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert recorder.events == []


async def test_reads_go_on_without_the_log(admin, recorder) -> None:
    """LOG-2."""
    recorder.gone = True
    assert (await admin("GetPlan", pb.GetPlanRequest(name="basic"))).plan.name == "basic"


async def test_a_request_that_comes_again_is_the_same_operation(admin, recorder) -> None:
    """LOG-2: one row in the log, whatever is retried."""
    request = pb.CreatePlanRequest(plan=plan(), request_id=str(uuid.uuid4()))
    for _ in range(2):
        await admin("CreatePlan", request)
    operations = {operation for _, operation, _, _ in recorder.events}
    assert len(operations) == 1
    assert operations.pop().request_id == request.request_id


async def test_the_history_names_the_operation_in_the_log(admin, recorder, database) -> None:
    """LOG-2, ENT-3."""
    made = await admin("CreatePlan", pb.CreatePlanRequest(plan=plan()))
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            "SELECT operation_id::text FROM entitlements.changes WHERE revision = %s",
            (made.revision.number,),
        )
        assert await found.fetchone() == (recorder.events[0][1].operation_id,)


async def test_what_may_not_be_written_is_no_operation(database, tokens, recorder) -> None:
    """LOG-1: a caller without the role, or a request that breaks the rules, intends nothing."""
    async with served(database, tokens, recorder) as channel:
        user = Client(channel, tokens.user(user_id=ADMIN, roles=("user",)))
        with pytest.raises(grpc.aio.AioRpcError):
            await user("CreatePlan", pb.CreatePlanRequest(plan=plan()))
        admin = Client(channel, tokens.user(user_id=ADMIN, roles=("admin",)))
        with pytest.raises(grpc.aio.AioRpcError):
            await admin("CreatePlan", pb.CreatePlanRequest(plan=pb.Plan(name="x")))
    assert recorder.events == []
