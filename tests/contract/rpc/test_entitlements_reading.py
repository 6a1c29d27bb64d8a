"""What callers read, over a socket: entitlements, history, snapshot and changes (ENT-2, ENT-4)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as pb_grpc
from gatehouse.router.v1 import tier_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from services.entitlements.app import running
from services.entitlements.settings import Settings
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry

ADMIN = "a0000000-0000-4000-8000-00000000000a"


def new_id() -> str:
    return str(uuid.uuid4())


class Client:
    """Calls in the name of one caller, each with a deadline."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._stub = pb_grpc.EntitlementsServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(request: Any, timeout: float = 10) -> Any:
            return getattr(self._stub, method)(request, metadata=self._metadata, timeout=timeout)

        return call


def environment(database, tokens, **more: str) -> dict[str, str]:
    values = {
        "DATABASE_URL": database.url_for("entitlements"),
        "JWT_ISSUER": tokens.issuer,
        "JWT_AUDIENCE": tokens.audience,
        "JWKS": str(tokens.jwks_file),
        "UNRECORDED_WRITES": "true",
        **more,
    }
    return {f"GATEHOUSE_ENTITLEMENTS_{name}": value for name, value in values.items()}


@asynccontextmanager
async def replica(database, tokens, **more: str) -> AsyncIterator[grpc.aio.Channel]:
    settings = load(Settings, environment(database, tokens, **more))
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
async def other_replica(database, tokens) -> AsyncIterator[grpc.aio.Channel]:
    async with replica(database, tokens) as channel:
        yield channel


@pytest.fixture(scope="module")
def admin(channel, tokens) -> Client:
    return Client(channel, tokens.user(user_id=ADMIN, clinic_id="", roles=("admin",)))


@pytest.fixture(scope="module")
def gateway(channel, tokens) -> Client:
    return Client(channel, tokens.user(user_id="gateway", clinic_id="", roles=("service",)))


def user_of(channel, tokens, user_id: str, clinic_id: str) -> Client:
    return Client(channel, tokens.user(user_id=user_id, clinic_id=clinic_id, roles=("user",)))


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The code and the reason of an error."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return told(caught.value)


def told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(details).details:
        detail.Unpack(info)
    return error.code(), info.reason


async def make_plan(admin: Client, **fields: Any) -> pb.CreatePlanResponse:
    plan = pb.Plan(
        **{
            "name": f"p-{uuid.uuid4().hex[:12]}",
            "analytics_window_days": 90,
            "model_tiers": [tier_pb2.MODEL_BASIC],
            **fields,
        }
    )
    return await admin.CreatePlan(pb.CreatePlanRequest(plan=plan))


async def assign(admin: Client, user_id: str, plan: str) -> pb.AssignUserPlanResponse:
    return await admin.AssignUserPlan(pb.AssignUserPlanRequest(user_id=user_id, plan_name=plan))


async def set_default(admin: Client, clinic_id: str, plan: str) -> pb.SetClinicPlanResponse:
    return await admin.SetClinicPlan(pb.SetClinicPlanRequest(clinic_id=clinic_id, plan_name=plan))


# Which plan counts


async def test_the_answer_says_which_of_the_three_it_was(admin, gateway) -> None:
    """ENT-2: user, else clinic, else basic, and back again as they are taken away."""
    user, clinic = new_id(), new_id()
    request = pb.GetEntitlementsRequest(user_id=user, clinic_id=clinic)

    answer = await gateway.GetEntitlements(request)
    assert (answer.plan.name, answer.source) == ("basic", pb.SOURCE_SYSTEM_DEFAULT)
    assert answer.plan.daily_read_limit == 40

    default = (await make_plan(admin, daily_read_limit=7)).plan
    await set_default(admin, clinic, default.name)
    answer = await gateway.GetEntitlements(request)
    assert (answer.plan, answer.source) == (default, pb.SOURCE_CLINIC_DEFAULT)

    await assign(admin, user, "premium")
    answer = await gateway.GetEntitlements(request)
    assert (answer.plan.name, answer.source) == ("premium", pb.SOURCE_USER)
    assert not answer.plan.HasField("daily_read_limit")

    await admin.DeleteUserPlan(pb.DeleteUserPlanRequest(user_id=user))
    assert (await gateway.GetEntitlements(request)).source == pb.SOURCE_CLINIC_DEFAULT
    await admin.DeleteClinicPlan(pb.DeleteClinicPlanRequest(clinic_id=clinic))
    assert (await gateway.GetEntitlements(request)).source == pb.SOURCE_SYSTEM_DEFAULT


async def test_without_a_clinic_its_default_does_not_apply(admin, gateway) -> None:
    """ENT-2."""
    clinic = new_id()
    await set_default(admin, clinic, "premium")
    answer = await gateway.GetEntitlements(pb.GetEntitlementsRequest(user_id=new_id()))
    assert answer.source == pb.SOURCE_SYSTEM_DEFAULT


async def test_an_answer_says_for_how_long_it_may_be_kept(gateway) -> None:
    """ENT-4: no longer than a second without a live watch, whatever clock the caller has."""
    answer = await gateway.GetEntitlements(pb.GetEntitlementsRequest(user_id=new_id()))
    assert timedelta(0) < answer.valid_for.ToTimedelta() <= timedelta(seconds=1)


async def test_a_user_reads_only_what_is_theirs(channel, tokens, admin) -> None:
    """ENT-3, ALL-3."""
    user, clinic, other, other_clinic = (new_id() for _ in range(4))
    for someone in (user, other):
        await assign(admin, someone, "premium")
    for some_clinic in (clinic, other_clinic):
        await set_default(admin, some_clinic, "premium")
    client = user_of(channel, tokens, user, clinic)
    at = Timestamp()
    at.GetCurrentTime()

    own = await client.GetEntitlements(pb.GetEntitlementsRequest(user_id=user, clinic_id=clinic))
    assert own.source == pb.SOURCE_USER
    await client.GetUserPlan(pb.GetUserPlanRequest(user_id=user))
    await client.GetClinicPlan(pb.GetClinicPlanRequest(clinic_id=clinic))
    await client.GetPlanAt(pb.GetPlanAtRequest(user_id=user, clinic_id=clinic, at=at))

    for call in (
        client.GetEntitlements(pb.GetEntitlementsRequest(user_id=other, clinic_id=clinic)),
        client.GetEntitlements(pb.GetEntitlementsRequest(user_id=user, clinic_id=other_clinic)),
        client.GetPlanAt(pb.GetPlanAtRequest(user_id=other, at=at)),
        client.GetPlanAt(pb.GetPlanAtRequest(user_id=user, clinic_id=other_clinic, at=at)),
        client.GetUserPlan(pb.GetUserPlanRequest(user_id=other)),
        client.GetClinicPlan(pb.GetClinicPlanRequest(clinic_id=other_clinic)),
    ):
        assert await refused(call) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")

    users = await client.ListUserPlans(pb.ListUserPlansRequest())
    assert [one.user_id for one in users.user_plans] == [user]
    clinics = await client.ListClinicPlans(pb.ListClinicPlansRequest())
    assert [one.clinic_id for one in clinics.clinic_plans] == [clinic]


async def test_one_connection_serves_callers_in_turns_as_whom_each_is(
    database, tokens, admin
) -> None:
    """ENT-5: a pooled connection does not carry an identity over, also not out of a refusal."""
    users = [new_id() for _ in range(3)]
    for user in users:
        await assign(admin, user, "premium")
    pool = {"POOL_MIN_SIZE": "1", "POOL_MAX_SIZE": "1"}
    async with replica(database, tokens, **pool) as channel:
        everyone = Client(channel, tokens.user(user_id=new_id(), clinic_id="", roles=("admin",)))

        async def of_admin() -> None:
            found = await everyone.ListUserPlans(pb.ListUserPlansRequest(page_size=500))
            assert set(users) <= {one.user_id for one in found.user_plans}
            taken = await refused(
                everyone.DeletePlan(pb.DeletePlanRequest(id=found.user_plans[0].plan_id))
            )
            assert taken[1] == "PLAN_IN_USE"

        async def of_user(user: str) -> None:
            client = user_of(channel, tokens, user, "")
            found = await client.ListUserPlans(pb.ListUserPlansRequest())
            assert [one.user_id for one in found.user_plans] == [user]

        turns = [of_admin(), *map(of_user, users)]
        await asyncio.gather(
            *turns, *(each for user in users for each in (of_admin(), of_user(user)))
        )


async def test_following_everyone_is_not_for_users(channel, tokens) -> None:
    """ENT-3."""
    client = user_of(channel, tokens, new_id(), new_id())
    for stream in (client.Watch(pb.WatchRequest()), client.Snapshot(pb.SnapshotRequest())):
        assert await refused(stream.read()) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ROLE_REQUIRED",
        )


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: pb.GetEntitlementsRequest(user_id="7"),
        lambda: pb.GetEntitlementsRequest(),
        lambda: pb.GetEntitlementsRequest(user_id=new_id(), clinic_id="north"),
        lambda: pb.GetEntitlementsRequest(user_id=new_id().upper()),
    ],
)
async def test_a_malformed_id_is_refused(gateway, request_of: Callable[[], Any]) -> None:
    """ALL-2."""
    assert await refused(gateway.GetEntitlements(request_of())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    )


@pytest.mark.parametrize("name", ["none", "a\0b", "'; DROP TABLE plans; --"])
async def test_a_plan_that_is_not_there_is_said_to_be_so(gateway, name: str) -> None:
    """ENT-3, ALL-2: nothing of the database is in the answer."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.GetPlan(pb.GetPlanRequest(name=name))
    assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    assert "psycopg" not in str(caught.value.details())


# Revisions


def later_than(revision: pb.Revision, changes: int) -> pb.Revision:
    """The revision so many *changes* later in its epoch."""
    return pb.Revision(epoch=revision.epoch, number=revision.number + changes)


async def test_revisions_only_grow_and_each_write_has_its_own(admin) -> None:
    """ENT-4: also when many write at once."""
    made = await asyncio.gather(*(make_plan(admin) for _ in range(20)))
    revisions = [answer.revision.number for answer in made]
    assert len(set(revisions)) == 20
    later = (await make_plan(admin)).revision.number
    assert later > max(revisions)


async def test_a_writer_reads_its_own_write_from_any_replica(admin, other_replica, tokens) -> None:
    """ENT-4."""
    client = Client(other_replica, tokens.user(user_id="gateway", clinic_id="", roles=("service",)))
    user = new_id()
    for plan in ("premium", "basic") * 10:
        written = await assign(admin, user, plan)
        answer = await client.GetEntitlements(
            pb.GetEntitlementsRequest(user_id=user, min_revision=written.revision)
        )
        assert answer.plan.name == plan
        assert answer.revision.number >= written.revision.number


async def test_a_revision_that_does_not_come_is_told_so(admin, gateway) -> None:
    """ENT-4: within the caller's deadline, and safe to retry."""
    ahead = later_than((await make_plan(admin)).revision, 10**12)
    request = pb.GetEntitlementsRequest(user_id=new_id(), min_revision=ahead)
    assert await refused(gateway.GetEntitlements(request, timeout=0.6)) == (
        grpc.StatusCode.UNAVAILABLE,
        "REVISION_NOT_REACHED",
    )


async def test_a_call_waits_for_the_revision_that_it_asks_for(admin, gateway) -> None:
    """ENT-4."""
    user = new_id()
    current = (await make_plan(admin)).revision
    waiting = asyncio.ensure_future(
        gateway.GetEntitlements(
            pb.GetEntitlementsRequest(user_id=user, min_revision=later_than(current, 1))
        )
    )
    await assign(admin, user, "premium")
    answer = await waiting
    assert answer.source == pb.SOURCE_USER
    assert answer.revision.number > current.number


# History


async def test_the_plan_of_a_moment_is_the_one_that_counted_then(admin, gateway) -> None:
    """ENT-2: the whole life of a user's plan, with the names of those days."""
    user, clinic = new_id(), new_id()
    plan = (await make_plan(admin)).plan
    moments: list[tuple[Timestamp, str, pb.Source.ValueType]] = []

    async def note(name: str, source: "pb.Source.ValueType") -> None:
        answer = await gateway.GetEntitlements(
            pb.GetEntitlementsRequest(user_id=user, clinic_id=clinic)
        )
        assert (answer.plan.name, answer.source) == (name, source)
        at = Timestamp()
        at.FromDatetime(datetime.now(UTC))
        moments.append((at, name, source))

    await note("basic", pb.SOURCE_SYSTEM_DEFAULT)
    await set_default(admin, clinic, plan.name)
    await note(plan.name, pb.SOURCE_CLINIC_DEFAULT)
    await assign(admin, user, "premium")
    await note("premium", pb.SOURCE_USER)
    await assign(admin, user, plan.name)
    await note(plan.name, pb.SOURCE_USER)
    renamed = pb.Plan(id=plan.id, name=f"{plan.name}-new")
    await admin.UpdatePlan(
        pb.UpdatePlanRequest(plan=renamed, update_mask=FieldMask(paths=["name"]))
    )
    await note(renamed.name, pb.SOURCE_USER)
    await admin.DeleteUserPlan(pb.DeleteUserPlanRequest(user_id=user))
    await note(renamed.name, pb.SOURCE_CLINIC_DEFAULT)
    await admin.DeleteClinicPlan(pb.DeleteClinicPlanRequest(clinic_id=clinic))
    await note("basic", pb.SOURCE_SYSTEM_DEFAULT)
    await admin.DeletePlan(pb.DeletePlanRequest(id=plan.id))

    for at, name, source in moments:
        answer = await gateway.GetPlanAt(pb.GetPlanAtRequest(user_id=user, clinic_id=clinic, at=at))
        assert (answer.plan_name, answer.source) == (name, source)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (Timestamp(seconds=32503680000), "INVALID_ARGUMENT"),
        (Timestamp(seconds=2**62), "INVALID_ARGUMENT"),
        (Timestamp(seconds=1, nanos=-5), "INVALID_ARGUMENT"),
        (Timestamp(seconds=1000000000), "NOT_FOUND"),
    ],
)
async def test_a_moment_without_a_history_is_refused(gateway, at: Timestamp, expected: str) -> None:
    """ENT-2: the future, no moment at all, and the time before there were plans."""
    request = pb.GetPlanAtRequest(user_id=new_id(), at=at)
    assert (await refused(gateway.GetPlanAt(request)))[1] == expected


# Snapshot and changes


async def test_a_snapshot_and_what_follows_it_make_the_present(admin, gateway) -> None:
    """ENT-4: taken while others write; a follower has lost and doubled nothing in the end."""
    users = [new_id() for _ in range(30)]
    writing = asyncio.ensure_future(write_all(admin, users))
    held: dict[str, str] = {}
    revision = None
    async for part in gateway.Snapshot(pb.SnapshotRequest()):
        assert revision in (None, part.revision)
        revision = part.revision
        for resource in part.resources:
            if resource.HasField("user_plan"):
                held[resource.user_plan.user_id] = resource.user_plan.plan_id
    watch = gateway.Watch(pb.WatchRequest(after_revision=revision))
    last = await writing
    seen = revision.number
    while seen < last:
        response = await watch.read()
        assert response.revision.number > seen or response.WhichOneof("event") is None
        seen = response.revision.number
        if response.changed.HasField("user_plan"):
            held[response.changed.user_plan.user_id] = response.changed.user_plan.plan_id
        if response.removed.HasField("user_plan"):
            del held[response.removed.user_plan.user_id]
    watch.cancel()
    premium = (await gateway.GetPlan(pb.GetPlanRequest(name="premium"))).plan.id
    assert {user: plan for user, plan in held.items() if user in users} == {
        user: premium for place, user in enumerate(users) if place % 3
    }


async def write_all(admin: Client, users: list[str]) -> int:
    """Give everyone two plans, take every third one's away, and return the last revision."""
    last = 0
    for place, user in enumerate(users):
        await assign(admin, user, "basic")
        last = (await assign(admin, user, "premium")).revision.number
        if place % 3 == 0:
            gone = await admin.DeleteUserPlan(pb.DeleteUserPlanRequest(user_id=user))
            last = gone.revision.number
    return last


async def test_a_snapshot_has_all_four_kinds(admin, gateway) -> None:
    """ENT-4."""
    user, clinic = new_id(), new_id()
    await assign(admin, user, "premium")
    await set_default(admin, clinic, "premium")
    schema = Struct()
    schema.update({"type": "object", "properties": {}})
    invoice = pb.EntityDescriptor(
        name="invoice", operations=[domain_pb2.VERB_READ], json_schema=schema
    )
    finance = pb.DomainDescriptor(
        name="finance",
        operations=[domain_pb2.VERB_READ],
        sensitivity_level=pb.SENSITIVITY_LEVEL_HIGH,
        endpoint="finance:443",
        entities=[invoice],
    )
    await admin.CreateDescriptor(pb.CreateDescriptorRequest(descriptor=finance))
    kinds = set()
    async for part in gateway.Snapshot(pb.SnapshotRequest()):
        kinds |= {resource.WhichOneof("resource") for resource in part.resources}
    assert kinds == {"plan", "user_plan", "clinic_plan", "descriptor"}


async def test_every_follower_sees_every_change_once_and_in_order(
    admin, channel, other_replica, tokens
) -> None:
    """ENT-4: five followers on two replicas, while four write."""
    token = tokens.user(user_id="gateway", clinic_id="", roles=("service",))
    start = (await make_plan(admin)).revision
    watches = [
        Client(place, token).Watch(pb.WatchRequest(after_revision=start), timeout=60)
        for place in (channel, other_replica, channel, other_replica, channel)
    ]

    async def follow(watch: Any) -> list[int]:
        seen: list[int] = []
        while len(seen) < 40:
            response = await watch.read()
            if response.WhichOneof("event"):
                seen.append(response.revision.number)
        watch.cancel()
        return seen

    following = [asyncio.ensure_future(follow(watch)) for watch in watches]
    await asyncio.gather(*(write_some(admin, 10) for _ in range(4)))
    for seen in await asyncio.gather(*following):
        assert seen == list(range(start.number + 1, start.number + 41))


async def write_some(admin: Client, count: int) -> None:
    for _ in range(count):
        await make_plan(admin)


async def test_a_watch_from_now_on_begins_with_the_present_revision(admin, gateway) -> None:
    """ENT-4: a follower that has no revision yet is told one at once."""
    current = (await make_plan(admin)).revision
    watch = gateway.Watch(pb.WatchRequest())
    first = await watch.read()
    assert first.revision == current
    assert first.WhichOneof("event") is None
    made = await make_plan(admin)
    while (response := await watch.read()).WhichOneof("event") is None:
        pass
    watch.cancel()
    assert response.revision == made.revision
    assert response.changed.plan == made.plan
    assert response.HasField("sent_at")


async def test_what_is_removed_is_told_by_its_keys(admin, gateway) -> None:
    """ENT-4."""
    made = await make_plan(admin)
    watch = gateway.Watch(pb.WatchRequest(after_revision=made.revision))
    await admin.DeletePlan(pb.DeletePlanRequest(id=made.plan.id))
    while (response := await watch.read()).WhichOneof("event") is None:
        pass
    watch.cancel()
    assert response.removed.plan == pb.Plan(id=made.plan.id, name=made.plan.name)


async def test_heartbeats_come_without_changes(gateway) -> None:
    """ENT-4."""
    watch = gateway.Watch(pb.WatchRequest())
    beats = [await watch.read() for _ in range(4)]
    watch.cancel()
    assert {beat.WhichOneof("event") for beat in beats} == {None}
    stamps = [beat.sent_at.ToNanoseconds() for beat in beats]
    assert stamps == sorted(stamps)


async def test_a_change_whose_notification_is_lost_is_told_all_the_same(
    admin, gateway, database
) -> None:
    """ENT-4: a notification only wakes; here there is none, as when a connection was cut."""
    made = await make_plan(admin)
    watch = gateway.Watch(pb.WatchRequest(after_revision=made.revision))
    await watch.read()
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        await connection.execute("SELECT set_config('gatehouse.user_id', %s, true)", (ADMIN,))
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            """
            WITH next AS (
                UPDATE entitlements.revision SET revision = revision + 1 RETURNING revision
            )
            INSERT INTO entitlements.changes
            SELECT next.revision, now(), 'me', 'plan', key, removed, state
            FROM entitlements.changes, next WHERE changes.revision = %s
            """,
            (made.revision.number,),
        )
    while (response := await watch.read()).WhichOneof("event") is None:
        pass
    watch.cancel()
    assert response.revision == later_than(made.revision, 1)


@pytest.mark.parametrize("ahead", [1, 10**9])
async def test_a_follower_ahead_of_the_store_starts_over(admin, gateway, ahead: int) -> None:
    """ENT-4: after a restore the follower has what no longer is."""
    current = (await make_plan(admin)).revision
    watch = gateway.Watch(pb.WatchRequest(after_revision=later_than(current, ahead)))
    assert await refused(watch.read()) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_LOST")


async def test_a_follower_too_far_behind_starts_over(admin, database, tokens) -> None:
    """ENT-4."""
    token = tokens.user(user_id="gateway", clinic_id="", roles=("service",))
    async with replica(database, tokens, REPLAY_LIMIT="3") as channel:
        client = Client(channel, token)
        current = (await make_plan(admin)).revision
        near = client.Watch(pb.WatchRequest(after_revision=later_than(current, -3)))
        assert (await near.read()).revision == later_than(current, -2)
        near.cancel()
        far = client.Watch(pb.WatchRequest(after_revision=later_than(current, -4)))
        assert await refused(far.read()) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_TOO_OLD")


async def test_a_replica_that_stops_lets_its_followers_go(database, tokens) -> None:
    """ALL-1: a stream without end does not hold up the stop until the grace period is over."""
    token = tokens.user(user_id="gateway", clinic_id="", roles=("service",))
    async with asyncio.timeout(60), replica(database, tokens, GRACE_SECONDS="600") as channel:
        watch = Client(channel, token).Watch(pb.WatchRequest(), timeout=600)
        await watch.read()
        ended = asyncio.ensure_future(read_to_the_end(watch))
    assert await ended in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def read_to_the_end(watch: Any) -> grpc.StatusCode:
    try:
        while await watch.read() is not grpc.aio.EOF:
            pass
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
    return await watch.code()
