"""What the gateway keeps at hand of plans and domains, before real entitlements (ENT-4)."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.router.v1 import tier_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from services.entitlements.app import running
from services.entitlements.settings import Settings
from services.gateway.entitlements import NO_REVISION, Entitlements
from services.runtime.calling import TokenSource
from services.runtime.failure import Failure
from services.runtime.identity import Caller
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry
from tests.gateway_calls import eventually
from tests.lab_domain import Lab, descriptor_of

SECOND = 1.0


def new_id() -> str:
    return str(uuid.uuid4())


def anybody() -> Caller:
    return Caller(new_id(), new_id(), frozenset({"user"}))


class Wire:
    """A line to a server: cut, nobody comes through; frozen, nothing does."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._open: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def freeze(self) -> None:
        self._flowing.clear()

    def heal(self) -> None:
        self._is_cut = False
        self._flowing.set()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            self.heal()
            self.cut()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._open |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        self._open -= {writer, far_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                await self._flowing.wait()
                writer.write(piece)
        except OSError:
            pass
        writer.close()


class Counting(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Counts who was asked after, and how often the descriptors were."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.asked[getattr(request, "user_id", "descriptors")] += 1
        return await continuation(details, request)


@dataclass
class Cache:
    """What is tested, over its wire, and an admin who writes past the wire."""

    entitlements: Entitlements
    asked: Counter[str]
    wire: Wire
    admin: Callable[[str, Any], Awaitable[Any]]
    watch: Callable[[pb.WatchRequest], Any]

    async def assign(self, user_id: str, plan: str = "premium") -> pb.Revision:
        request = pb.AssignUserPlanRequest(user_id=user_id, plan_name=plan)
        return (await self.admin("AssignUserPlan", request)).revision

    async def plan_of(self, caller: Caller, min_revision: Any = NO_REVISION) -> str:
        return (await self.entitlements.of(caller, min_revision)).plan.name

    async def sees(self, caller: Caller, plan: str) -> None:
        """Return once *caller* has *plan* here; what breaks meanwhile is not an answer."""

        async def seen() -> bool:
            try:
                return await self.plan_of(caller) == plan
            except Failure:
                return False

        await eventually(seen)

    async def follows(self) -> None:
        """Return once changes are heard: until then an answer counts for its own time alone."""
        witness = anybody()
        await self.plan_of(witness)
        await self.assign(witness.user_id)
        await self.sees(witness, "premium")


@asynccontextmanager
async def cache_of(
    database: Any,
    tokens: Any,
    folder: Path,
    *,
    following: bool = True,
    **more: str,
) -> AsyncIterator[Cache]:
    values = {
        "DATABASE_URL": database.url_for("entitlements"),
        "JWT_ISSUER": tokens.issuer,
        "JWT_AUDIENCE": tokens.audience,
        "JWKS": str(tokens.jwks_file),
        "UNRECORDED_WRITES": "true",
        **more,
    }
    settings = load(
        Settings, {f"GATEHOUSE_ENTITLEMENTS_{name}": value for name, value in values.items()}
    )
    token_file = folder / "gateway.token"
    token_file.write_text(tokens.user(user_id="gateway", clinic_id="", roles=("service",)))
    token = tokens.user(user_id=new_id(), clinic_id="", roles=("admin",))
    counting = Counting()
    with open_telemetry(settings) as telemetry:
        async with running(settings, telemetry) as address:
            wire = Wire(address)
            async with (
                wire.opened() as relayed,
                grpc.aio.insecure_channel(
                    relayed,
                    [
                        ("grpc.initial_reconnect_backoff_ms", 100),
                        ("grpc.min_reconnect_backoff_ms", 100),
                        ("grpc.max_reconnect_backoff_ms", 200),
                    ],
                    interceptors=[counting],
                ) as channel,
                grpc.aio.insecure_channel(address) as direct,
            ):
                stub = EntitlementsServiceStub(direct)

                async def admin(method: str, request: Any) -> Any:
                    metadata = [("authorization", f"Bearer {token}")]
                    return await getattr(stub, method)(request, metadata=metadata, timeout=10)

                def watch(request: pb.WatchRequest) -> Any:
                    metadata = [("authorization", f"Bearer {token}")]
                    return stub.Watch(request, metadata=metadata, timeout=30)

                kept = Entitlements(EntitlementsServiceStub(channel), TokenSource(token_file))
                task = asyncio.create_task(kept.follow()) if following else None
                cache = Cache(kept, counting.asked, wire, admin, watch)
                try:
                    if following:
                        await cache.follows()
                    yield cache
                finally:
                    if task is not None:
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def cache(database: Any, tokens: Any, tmp_path: Path) -> AsyncIterator[Cache]:
    async with cache_of(database, tokens, tmp_path) as opened:
        yield opened


async def new_plan(cache: Cache) -> pb.Plan:
    plan = pb.Plan(
        name=f"plan-{uuid.uuid4().hex[:10]}",
        analytics_window_days=30,
        model_tiers=[tier_pb2.MODEL_BASIC],
    )
    made: pb.CreatePlanResponse = await cache.admin(
        "CreatePlan", pb.CreatePlanRequest(plan=plan, request_id=new_id())
    )
    return made.plan


async def test_hot_reads_ask_nobody_however_much_is_written_of_others(cache: Cache) -> None:
    """ENT-4: a change takes away what it touches alone."""
    caller, witness = anybody(), anybody()
    await cache.plan_of(caller)
    for turn in range(5):
        plan = "premium" if turn % 2 == 0 else "basic"
        for _ in range(4):
            await cache.assign(new_id(), plan)
        request = pb.SetClinicPlanRequest(clinic_id=new_id(), plan_name="premium")
        await cache.admin("SetClinicPlan", request)
        await new_plan(cache)
        await cache.assign(witness.user_id, plan)
        await cache.sees(witness, plan)
        assert await cache.plan_of(caller) == "basic"
    assert cache.asked[caller.user_id] == 1


async def test_whatever_a_plan_comes_from_its_change_is_seen(cache: Cache) -> None:
    """ENT-2, ENT-4: assignment, clinic default and the plan itself, set and taken away."""
    caller, plan = anybody(), await new_plan(cache)
    other = await new_plan(cache)
    steps: list[tuple[str, Any, str]] = [
        (
            "SetClinicPlan",
            pb.SetClinicPlanRequest(clinic_id=caller.clinic_id, plan_name=plan.name),
            plan.name,
        ),
        (
            "AssignUserPlan",
            pb.AssignUserPlanRequest(user_id=caller.user_id, plan_name=other.name),
            other.name,
        ),
        (
            "UpdatePlan",
            pb.UpdatePlanRequest(
                plan=pb.Plan(id=other.id, name=other.name + "-new"),
                update_mask=FieldMask(paths=["name"]),
            ),
            other.name + "-new",
        ),
        ("DeleteUserPlan", pb.DeleteUserPlanRequest(user_id=caller.user_id), plan.name),
        ("DeleteClinicPlan", pb.DeleteClinicPlanRequest(clinic_id=caller.clinic_id), "basic"),
    ]
    assert await cache.plan_of(caller) == "basic"
    for method, request, expected in steps:
        await cache.admin(method, request)
        async with asyncio.timeout(SECOND):
            await cache.sees(caller, expected)


async def test_who_goes_to_another_clinic_has_its_plan(cache: Cache) -> None:
    """ENT-2: what is kept of a user is of one clinic."""
    caller = anybody()
    there = Caller(caller.user_id, new_id(), caller.roles)
    await cache.admin(
        "SetClinicPlan", pb.SetClinicPlanRequest(clinic_id=there.clinic_id, plan_name="premium")
    )
    for _ in range(2):
        assert await cache.plan_of(caller) == "basic"
        assert await cache.plan_of(there) == "premium"


@pytest.mark.parametrize("following", [True, False])
async def test_a_writer_sees_the_write_at_once(
    database: Any, tokens: Any, tmp_path: Path, following: bool
) -> None:
    """ENT-4: by the revision that the write returned, whether it was heard of or not."""
    async with cache_of(database, tokens, tmp_path, following=following) as cache:
        caller = anybody()
        for turn in range(20):
            await cache.plan_of(caller)
            plan = "basic" if turn % 2 else "premium"
            revision = await cache.assign(caller.user_id, plan)
            assert await cache.plan_of(caller, revision) == plan


async def test_a_writer_of_a_domain_finds_it_at_once(cache: Cache) -> None:
    """ENT-4."""
    await cache.entitlements.descriptors()
    lab = Lab()
    name, lab.address = lab.name, "unix:/nowhere"
    wanted = descriptor_of(lab)
    made = await cache.admin("CreateDescriptor", pb.CreateDescriptorRequest(descriptor=wanted))
    assert name in await cache.entitlements.descriptors(made.revision)
    await cache.follows()
    asked = cache.asked["descriptors"]
    assert name in await cache.entitlements.descriptors()
    assert name in await cache.entitlements.descriptors(made.revision)
    assert cache.asked["descriptors"] <= asked + 1
    gone = await cache.admin("DeleteDescriptor", pb.DeleteDescriptorRequest(id=made.descriptor.id))
    assert name not in await cache.entitlements.descriptors(gone.revision)


async def test_a_revision_that_nobody_wrote_is_told(cache: Cache) -> None:
    """ENT-4: in time, and safe to retry."""
    ahead = await cache.assign(anybody().user_id)
    ahead.number += 10**9
    with pytest.raises(Failure) as caught:
        await cache.entitlements.of(anybody(), ahead)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == "REVISION_NOT_REACHED"


async def test_what_was_missed_over_a_cut_line_is_made_up_for(cache: Cache) -> None:
    """ENT-4: the changes are followed on from where they were left; the rest stays at hand."""
    touched, untouched = anybody(), anybody()
    await cache.plan_of(touched)
    await cache.plan_of(untouched)
    cache.wire.cut()
    await cache.assign(touched.user_id)
    cache.wire.heal()
    await cache.follows()
    assert await cache.plan_of(touched) == "premium"
    assert await cache.plan_of(untouched) == "basic"
    assert cache.asked[untouched.user_id] == 1


async def test_after_more_changes_than_are_kept_nothing_at_hand_counts(
    database: Any, tokens: Any, tmp_path: Path
) -> None:
    """ENT-4: a gap is told, and then every plan is asked for again."""
    async with cache_of(database, tokens, tmp_path, REPLAY_LIMIT="3") as cache:
        touched, untouched = anybody(), anybody()
        await cache.plan_of(touched)
        await cache.plan_of(untouched)
        cache.wire.cut()
        await cache.assign(touched.user_id)
        for _ in range(5):
            await cache.assign(new_id())
        cache.wire.heal()
        await cache.follows()
        assert await cache.plan_of(touched) == "premium"
        assert await cache.plan_of(untouched) == "basic"
        assert cache.asked[untouched.user_id] == 2


async def test_over_a_line_that_went_dumb_no_old_plan_is_told(cache: Cache) -> None:
    """ENT-4: after a second without a word, what is at hand is no answer any more."""
    caller = anybody()
    assert await cache.plan_of(caller) == "basic"
    cache.wire.freeze()
    await cache.assign(caller.user_id)
    await asyncio.sleep(SECOND)
    try:
        async with asyncio.timeout(SECOND):
            told = await cache.plan_of(caller)
    except (Failure, TimeoutError):
        told = "nothing"
    assert told == "nothing"
    cache.wire.heal()
    await cache.sees(caller, "premium")


async def test_an_answer_counts_for_a_stretch_of_this_machines_time(
    database: Any, tokens: Any, tmp_path: Path
) -> None:
    """ENT-4: without a watch, and whatever the clock of another machine shows.

    The kind of fault: a moment of one machine's wall clock is compared with another's. There is no
    moment left in an answer that a cache could compare.
    """
    moments = [
        field.name
        for field in pb.GetEntitlementsResponse.DESCRIPTOR.fields
        if field.message_type and field.message_type.full_name == "google.protobuf.Timestamp"
    ]
    assert moments == []
    caller = anybody()
    async with cache_of(database, tokens, tmp_path, following=False, VALID_SECONDS="60") as cache:
        for _ in range(3):
            await cache.plan_of(caller)
        assert cache.asked[caller.user_id] == 1
    async with cache_of(database, tokens, tmp_path, following=False, VALID_SECONDS="0.01") as cache:
        await cache.plan_of(caller)
        await cache.assign(caller.user_id, "premium")
        await cache.sees(caller, "premium")
