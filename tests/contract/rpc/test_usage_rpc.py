"""Counting on sockets, over a real Postgres and a real Valkey (USE-1 to USE-8)."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

from services.runtime.failure import failure_from
from services.runtime.telemetry import open_telemetry
from services.usage.app import running
from services.usage.settings import Settings

NOON = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


class Replica:
    """One replica of the service, and a stub to it."""

    def __init__(self, stub: UsageServiceStub, call: dict) -> None:
        self.stub = stub
        self.call = call

    async def consume(self, claim: pb.Claim) -> pb.Admission:
        response = await self.stub.Consume(pb.ConsumeRequest(claim=claim), **self.call)
        return response.admission

    async def query(self, user: str, reads: int | None = None, **changes: object) -> pb.Admission:
        return await self.consume(claim_of(user, reads=reads, **changes))

    async def used(self, user: str) -> pb.UsageCounter:
        request = pb.GetUsageRequest(user_id=user, time_zone="America/Sao_Paulo")
        return (await self.stub.GetUsage(request, **self.call)).counter


def claim_of(
    user: str,
    *,
    id_: str = "",
    reads: int | None = None,
    modifies: int | None = None,
    modify: int = 0,
    counts_read: bool = True,
    **more: object,
) -> pb.Claim:
    claim = pb.Claim(
        operation_id=id_ or str(uuid.uuid4()),
        user_id=user,
        limits=pb.DailyLimits(reads=reads, modifies=modifies, plan_name="basic"),
        time_zone="America/Sao_Paulo",
        **more,
    )
    if modify:
        claim.modify.count = modify
    else:
        claim.query.counts_read = counts_read
    return claim


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


Start = Callable[..., AsyncIterator[Replica]]


@pytest.fixture
def start(database, valkey, tokens) -> Start:
    @asynccontextmanager
    async def start(
        now: Clock | None = None, valkey_url: str = valkey.url, **settings: object
    ) -> AsyncIterator[Replica]:
        made = Settings(
            database_url=database.url_for("usage"),
            valkey_url=valkey_url,
            unrecorded_writes=True,
            **{**tokens.settings, **settings},
        )
        token = tokens.user(roles=["service", "admin"])
        call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 20}
        async with AsyncExitStack() as stack:
            telemetry = stack.enter_context(open_telemetry(made))
            address = await stack.enter_async_context(running(made, telemetry, now))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            yield Replica(UsageServiceStub(channel), call)

    return start


@pytest.fixture
def user() -> str:
    return str(uuid.uuid4())


async def test_a_limit_is_exact_over_replicas(start: Start, user: str) -> None:
    """USE-3: 3 replicas race for 40 reads, and 40 are admitted."""
    many = {"abuse_queries": 200}
    async with start(**many) as one, start(**many) as two, start(**many) as three:
        answers = await asyncio.gather(
            *(replica.query(user, reads=40) for _ in range(30) for replica in (one, two, three))
        )
        granted = [each for each in answers if each.HasField("granted")]
        refused = [each.refused for each in answers if each.HasField("refused")]
        assert len(granted) == 40
        assert {each.reason for each in refused} == {pb.ERROR_REASON_QUOTA_EXHAUSTED}
        assert {each.limit.used for each in refused} == {40}
        assert (await one.used(user)).read_count == 40


async def test_a_retried_claim_counts_once(start: Start, user: str) -> None:
    """USE-2: the same id from everywhere at once is counted once, and answered alike."""
    same = claim_of(user, reads=40)
    async with start() as one, start() as two:
        answers = await asyncio.gather(
            *(replica.consume(same) for _ in range(20) for replica in (one, two))
        )
        assert all(each.granted.count == 1 for each in answers)
        assert sum(not each.replayed for each in answers) == 1
        assert (await one.used(user)).read_count == 1


async def test_an_id_with_another_claim_is_refused(start: Start, user: str) -> None:
    """USE-2: alone and in a batch, whose other claims are not touched by it."""
    id_ = str(uuid.uuid4())
    async with start() as replica:
        await replica.consume(claim_of(user, id_=id_, modify=2))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replica.consume(claim_of(user, id_=id_, modify=3))
        assert failure_from(caught.value).reason == "OPERATION_ID_REUSED"
        batch = pb.ConsumeBatchRequest(
            claims=[claim_of(user, id_=id_, modify=3), claim_of(user, reads=5)]
        )
        answer = await replica.stub.ConsumeBatch(batch, **replica.call)
        assert answer.admissions[0].error == pb.ERROR_REASON_OPERATION_ID_REUSED
        assert answer.admissions[1].admission.granted.count == 1


async def test_claims_of_one_batch_share_what_is_left(start: Start, user: str) -> None:
    """USE-3: a yes and a no in one answer, in the order of the claims."""
    async with start() as replica:
        batch = pb.ConsumeBatchRequest(claims=[claim_of(user, reads=2) for _ in range(3)])
        answer = await replica.stub.ConsumeBatch(batch, **replica.call)
        kinds = [each.admission.WhichOneof("decision") for each in answer.admissions]
        assert kinds == ["granted", "granted", "refused"]
        assert [each.admission.remaining.reads for each in answer.admissions] == [1, 0, 0]


async def test_what_was_not_carried_out_is_given_back_once(start: Start, user: str) -> None:
    """USE-2: the total, not an addition; racing and repeated; never below zero."""
    id_ = str(uuid.uuid4())
    async with start() as replica:
        day = (await replica.consume(claim_of(user, id_=id_, modify=5))).granted.usage_date

        async def release(count: int) -> int:
            request = pb.ReleaseRequest(operation_id=id_, user_id=user, count=count)
            return (await replica.stub.Release(request, **replica.call)).released

        assert set(await asyncio.gather(*(release(2) for _ in range(10)))) == {2}
        assert (await replica.used(user)).modify_count == 3
        assert await release(0) == 5
        assert await release(3) == 5
        assert (await replica.used(user)).modify_count == 0
        request = pb.ReleaseRequest(operation_id=id_, user_id=user)
        again = await replica.stub.Release(request, **replica.call)
        assert (again.counter.modify_count, again.counter.usage_date) == (0, day)
        claimed = await replica.consume(claim_of(user, id_=id_, modify=5))
        assert (claimed.replayed, claimed.granted.count) == (False, 5)
        assert (await replica.used(user)).modify_count == 5
        unknown = pb.ReleaseRequest(operation_id=str(uuid.uuid4()), user_id=user)
        assert await replica.stub.Release(unknown, **replica.call) == pb.ReleaseResponse()


@pytest.mark.parametrize("what", ["query", "modify"])
@pytest.mark.parametrize("attempts", [(0, 0), (1, 2)])
async def test_a_release_revokes_the_grant(
    start: Start, user: str, what: str, attempts: tuple[int, int]
) -> None:
    """USE-2, USE-3: kind: a grant that outlives its release, and is free from then on."""
    first, again = attempts
    changes = {"modify": 1, "modifies": 1} if what == "modify" else {"reads": 1}
    async with start() as replica:
        one, other = str(uuid.uuid4()), str(uuid.uuid4())

        async def consume(id_: str, attempt: int) -> pb.Admission:
            return await replica.consume(claim_of(user, id_=id_, attempt=attempt, **changes))

        async def release(id_: str, attempt: int) -> None:
            request = pb.ReleaseRequest(operation_id=id_, user_id=user, attempt=attempt)
            await replica.stub.Release(request, **replica.call)

        assert (await consume(one, first)).HasField("granted")
        await release(one, first)
        assert (await consume(other, first)).HasField("granted")
        for _ in range(3):
            refused = (await consume(one, again)).refused
            assert refused.reason == pb.ERROR_REASON_QUOTA_EXHAUSTED
        await release(other, first)
        answers = [await consume(one, again) for _ in range(3)]
        assert [each.granted.count for each in answers] == [1] * 3
        assert [each.replayed for each in answers] == [False, True, True]
        counter = await replica.used(user)
        assert counter.read_count + counter.modify_count == 1


async def test_a_released_attempt_counts_nothing_when_it_comes_late(
    start: Start, user: str
) -> None:
    """USE-2, USE-9: kind: a call that a frozen replica executes when it thaws; also in a batch."""
    id_ = str(uuid.uuid4())
    async with start() as one, start() as two:
        late = claim_of(user, id_=id_, attempt=3)
        request = pb.ReleaseRequest(operation_id=id_, user_id=user, attempt=3)
        assert await one.stub.Release(request, **one.call) == pb.ReleaseResponse()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await two.consume(late)
        failure = failure_from(caught.value)
        assert (failure.code, failure.reason, failure.metadata) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CLAIM_RELEASED",
            {"released_attempt": "3"},
        )
        batch = pb.ConsumeBatchRequest(
            claims=[late, claim_of(user), claim_of(user, id_=id_, attempt=4)]
        )
        found = (await two.stub.ConsumeBatch(batch, **two.call)).admissions
        assert (found[0].error, found[0].released_attempt) == (pb.ERROR_REASON_CLAIM_RELEASED, 3)
        assert found[1].admission.granted.count == found[2].admission.granted.count == 1
        # So does a late release of an attempt that another has taken over.
        await one.stub.Release(request, **one.call)
        assert (await two.used(user)).read_count == 2


async def test_racing_claims_and_releases_of_one_id_count_what_stands(
    start: Start, user: str
) -> None:
    """USE-2, USE-3: over two replicas, in any order; an attempt that stands is counted once."""
    async with start(abuse_queries=200) as one, start(abuse_queries=200) as two:
        standing = 0
        for turn in range(12):
            id_ = str(uuid.uuid4())

            async def consume(replica: Replica, attempt: int, id_: str = id_) -> None:
                claims = [claim_of(user, id_=id_, attempt=attempt)]
                request = pb.ConsumeBatchRequest(claims=claims)
                (found,) = (await replica.stub.ConsumeBatch(request, **replica.call)).admissions
                assert found.error in (0, pb.ERROR_REASON_CLAIM_RELEASED)

            async def release(replica: Replica, attempt: int, id_: str = id_) -> None:
                request = pb.ReleaseRequest(operation_id=id_, user_id=user, attempt=attempt)
                await replica.stub.Release(request, **replica.call)

            work = [consume(one, 1), release(two, 1), consume(two, 1), release(one, 2)]
            work += [consume(one, 2), consume(two, 3 if turn % 2 else 2)]
            await asyncio.gather(*work[turn % 6 :], *work[: turn % 6])
            standing += turn % 2
            assert (await one.used(user)).read_count == standing


async def test_the_thirteenth_query_of_a_minute_starts_a_cool_down(
    start: Start, user: str, clock: Clock
) -> None:
    """USE-6: for 15 min, not prolonged by what is refused, and over by itself."""
    async with start(now=clock) as replica:
        for _ in range(12):
            assert (await replica.query(user)).HasField("granted")
            clock.forward(seconds=1)
        refused = (await replica.query(user)).refused
        assert refused.reason == pb.ERROR_REASON_ABUSE_DETECTED
        assert (refused.window.limit, refused.window.kind) == (12, pb.KIND_READ)
        until = refused.retry_at.ToDatetime(tzinfo=UTC)
        assert until == clock.now + timedelta(minutes=15)
        clock.forward(minutes=14, seconds=59)
        again = (await replica.query(user)).refused
        assert again.reason == pb.ERROR_REASON_COOL_DOWN
        assert again.retry_at.ToDatetime(tzinfo=UTC) == until
        clock.forward(seconds=1)
        assert (await replica.query(user)).HasField("granted")
        assert (await replica.used(user)).read_count == 13


async def test_windows_slide_exactly(start: Start, user: str, clock: Clock) -> None:
    """USE-6: no buckets; an entry leaves after exactly 60 s."""
    async with start(now=clock) as replica:
        for _ in range(12):
            await replica.query(user)
            clock.forward(seconds=5)
        assert (await replica.query(user)).HasField("granted")
        clock.forward(seconds=4.999)
        assert (await replica.query(user)).HasField("refused")


async def test_the_sixth_modifying_request_starts_a_cool_down(
    start: Start, user: str, clock: Clock
) -> None:
    """USE-6: requests are counted, not operations; a bulk is one."""
    async with start(now=clock) as replica:
        for _ in range(5):
            assert (await replica.consume(claim_of(user, modify=50))).granted.count == 50
            clock.forward(minutes=1)
        refused = (await replica.consume(claim_of(user, modify=1))).refused
        assert refused.reason == pb.ERROR_REASON_ABUSE_DETECTED
        assert refused.window.kind == pb.KIND_MODIFY
        assert (await replica.query(user)).refused.reason == pb.ERROR_REASON_COOL_DOWN


async def test_racing_queries_over_replicas_admit_twelve(start: Start, user: str) -> None:
    """USE-6: exact under concurrency."""
    async with start() as one, start() as two:
        answers = await asyncio.gather(
            *(replica.query(user) for _ in range(10) for replica in (one, two))
        )
        assert sum(each.HasField("granted") for each in answers) == 12


async def test_a_retry_in_a_cool_down_is_answered_as_then(
    start: Start, user: str, clock: Clock
) -> None:
    """USE-2, USE-6: what was granted stays granted, also long after it left the window."""
    first = claim_of(user)
    async with start(now=clock) as replica:
        await replica.consume(first)
        clock.forward(minutes=2)
        for _ in range(12):
            await replica.query(user)
        again = await replica.consume(first)
        assert again.replayed
        assert again.granted.count == 1
        # Nor did the retry start a cool-down that a new query has not earned.
        clock.forward(seconds=61)
        assert (await replica.query(user)).HasField("granted")


async def test_a_query_that_the_day_refuses_is_no_abuse(start: Start, user: str) -> None:
    """USE-1, USE-6: only admitted requests enter the window."""
    async with start() as replica:
        for _ in range(20):
            refused = (await replica.query(user, reads=0)).refused
            assert refused.reason == pb.ERROR_REASON_QUOTA_EXHAUSTED
        assert (await replica.query(user, reads=5)).HasField("granted")


async def test_a_dry_run_counts_nothing(start: Start, user: str) -> None:
    """USE-8: says what would happen and why."""
    async with start() as replica:
        for _ in range(30):
            dry = await replica.query(user, reads=1, validate_only=True)
            assert dry.HasField("granted")
        assert (await replica.used(user)).read_count == 0
        await replica.query(user, reads=1)
        dry = await replica.query(user, reads=1, validate_only=True)
        assert dry.refused.reason == pb.ERROR_REASON_QUOTA_EXHAUSTED


async def test_a_dry_run_says_which_limit_of_whose_plan_until_when(
    start: Start, user: str, clock: Clock
) -> None:
    """USE-8: all that the claim itself would be told, and what was granted before as then."""
    async with start(now=clock) as replica:
        limits = pb.DailyLimits(modifies=5, plan_name="trial", revision=42)
        first = claim_of(user, modify=3)
        dry = claim_of(user, modify=3, validate_only=True)
        for each in (first, dry):
            each.limits.CopyFrom(limits)
        await replica.consume(first)
        refused = (await replica.consume(dry)).refused
        assert refused.reason == pb.ERROR_REASON_QUOTA_EXHAUSTED
        assert refused.retry_at.ToDatetime() == datetime(2026, 11, 24, 3)
        assert refused.limit == pb.ExhaustedLimit(
            kind=pb.KIND_MODIFY, limit=5, used=3, claimed=3, plan_name="trial", revision=42
        )
        first.validate_only = True
        again = await replica.consume(first)
        assert (again.granted.count, again.replayed) == (3, True)


async def test_a_dry_run_says_which_window_and_until_when(
    start: Start, user: str, clock: Clock
) -> None:
    """USE-6, USE-8: before the cool-down, which it does not start, and within it."""
    async with start(now=clock) as replica:
        for _ in range(5):
            await replica.consume(claim_of(user, modify=1))
        until = clock.now + timedelta(minutes=15)
        window = pb.OverrunWindow(kind=pb.KIND_MODIFY, limit=5)
        window.window.FromTimedelta(timedelta(minutes=10))
        window.cool_down_until.FromDatetime(until)
        for _ in range(2):
            refused = (await replica.consume(claim_of(user, modify=1, validate_only=True))).refused
            assert refused.reason == pb.ERROR_REASON_ABUSE_DETECTED
            assert (refused.window, refused.retry_at) == (window, window.cool_down_until)
        await replica.consume(claim_of(user, modify=1))
        clock.forward(minutes=5)
        refused = (await replica.query(user, validate_only=True)).refused
        assert refused.reason == pb.ERROR_REASON_COOL_DOWN
        assert (refused.window, refused.retry_at) == (window, window.cool_down_until)


async def test_an_admission_tells_the_days_counts(start: Start, user: str, clock: Clock) -> None:
    """USE-5, USE-8: what GetUsage would tell, on the day of the clinic."""
    async with start(now=clock) as replica:
        for _ in range(2):
            await replica.query(user, reads=5)
        dry = await replica.query(user, reads=5, validate_only=True)
        admission = await replica.query(user, reads=5)
        assert dry.counter.read_count == 2
        assert admission.counter == await replica.used(user)
        assert (admission.counter.usage_date, admission.counter.read_count) == ("2026-11-23", 3)


async def test_the_day_ends_at_the_clinics_midnight(start: Start, user: str, clock: Clock) -> None:
    """USE-4: 15:00 UTC is noon in São Paulo; its midnight is 03:00 UTC."""
    async with start(now=clock) as replica:
        first = await replica.query(user, reads=1)
        assert first.remaining.resets_at.ToDatetime() == datetime(2026, 11, 24, 3)
        assert first.approaching_quota
        clock.forward(hours=11, minutes=59)
        assert (await replica.query(user, reads=1)).HasField("refused")
        clock.forward(minutes=1)
        assert (await replica.query(user, reads=1)).granted.usage_date == "2026-11-24"


async def test_claims_in_alternating_zones_have_one_days_quota(start: Start, user: str) -> None:
    """USE-4: kind: two quotas at once. It is never the same day in these two zones."""
    zones = ["Pacific/Kiritimati", "Pacific/Pago_Pago"] * 5
    async with start() as replica:
        answers = []
        for zone in zones:
            claim = claim_of(user, reads=4)
            claim.time_zone = zone
            answers.append(await replica.consume(claim))
        assert sum(each.granted.count for each in answers) == 4
        assert len({each.counter.usage_date for each in answers}) == 1
        found = [
            await replica.stub.GetUsage(
                pb.GetUsageRequest(user_id=user, time_zone=zone), **replica.call
            )
            for zone in zones[:2]
        ]
        assert [each.counter.read_count for each in found] == [4, 4]


@pytest.mark.parametrize("zone", ["localtime", "Factory", "posixrules", "posix/UTC", "right/UTC"])
async def test_what_is_no_clinics_zone_is_refused(start: Start, user: str, zone: str) -> None:
    """USE-4: kind: names that the tz database opens and that are no zone of a place."""
    claim = claim_of(user)
    claim.time_zone = zone
    async with start() as replica:
        for call, path in (
            (replica.consume(claim), "claim.time_zone"),
            (
                replica.stub.ConsumeBatch(pb.ConsumeBatchRequest(claims=[claim]), **replica.call),
                "claims[0].time_zone",
            ),
            (
                replica.stub.GetUsage(
                    pb.GetUsageRequest(user_id=user, time_zone=zone), **replica.call
                ),
                "time_zone",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert path in caught.value.details()


async def test_what_is_never_settled_is_given_back(start: Start, user: str, clock: Clock) -> None:
    """USE-2: after its reservation; what was settled stays."""
    kept, lost = str(uuid.uuid4()), str(uuid.uuid4())
    async with start(now=clock, sweep_seconds=0.05) as replica:
        await replica.consume(claim_of(user, id_=kept, modify=2))
        await replica.consume(claim_of(user, id_=lost, modify=3))
        settle = pb.SettleRequest(operation_id=kept, user_id=user)
        await replica.stub.Settle(settle, **replica.call)
        clock.forward(minutes=15)
        async with asyncio.timeout(10):
            while (await replica.used(user)).modify_count != 2:
                await asyncio.sleep(0.02)


async def test_without_valkey_postgres_answers_the_windows(
    start: Start, user: str, clock: Clock, own_valkey
) -> None:
    """USE-7: the cool-down and the counts of before are known, and lost to nobody."""
    async with start(now=clock, valkey_url=own_valkey.url) as replica:
        for _ in range(11):
            await replica.query(user)
        await own_valkey.kill()
        assert (await replica.query(user)).HasField("granted")
        refused = (await replica.query(user)).refused
        assert refused.reason == pb.ERROR_REASON_ABUSE_DETECTED
        await own_valkey.start()
        clock.forward(minutes=1)
        assert (await replica.query(user)).refused.reason == pb.ERROR_REASON_COOL_DOWN
        assert (await replica.used(user)).read_count == 12


async def test_usage_by_day_and_corrections(start: Start, user: str, clock: Clock) -> None:
    """USE-8."""
    async with start(now=clock) as replica:
        for _ in range(3):
            await replica.query(user)
            clock.forward(days=1)
        correct = pb.CorrectUsageRequest(user_id=user, usage_date="2026-11-24", read_count=40)
        done = await replica.stub.CorrectUsage(correct, **replica.call)
        assert (done.before.read_count, done.after.read_count) == (1, 40)
        request = pb.ListUsageRequest(
            user_id=user, start_date="2026-11-01", end_date="2026-11-30", page_size=2
        )
        page = await replica.stub.ListUsage(request, **replica.call)
        assert [each.read_count for each in page.counters] == [1, 40]
        request.page_token = page.next_page_token
        page = await replica.stub.ListUsage(request, **replica.call)
        assert [each.usage_date for each in page.counters] == ["2026-11-23"]
        assert not page.next_page_token


async def test_an_admin_ends_a_cool_down(start: Start, user: str, clock: Clock) -> None:
    """USE-8."""
    async with start(now=clock) as replica:
        for _ in range(13):
            last = await replica.query(user)
        assert last.HasField("refused")
        clear = pb.ClearCoolDownRequest(user_id=user)
        cleared = await replica.stub.ClearCoolDown(clear, **replica.call)
        assert cleared.cleared.ToDatetime(tzinfo=UTC) == clock.now + timedelta(minutes=15)
        assert (await replica.query(user)).HasField("granted")
        assert not (await replica.stub.ClearCoolDown(clear, **replica.call)).HasField("cleared")


async def test_users_see_only_themselves_and_count_nothing(start: Start, user: str, tokens) -> None:
    """ALL-3, USE-8: another user's id is refused, and so is what services and admins do."""
    async with start() as replica:
        own = {"metadata": [("authorization", f"Bearer {tokens.user(user_id=user)}")], "timeout": 5}
        await replica.stub.GetUsage(pb.GetUsageRequest(user_id=user), **own)
        other = str(uuid.uuid4())
        refused = [
            (replica.stub.GetUsage, pb.GetUsageRequest(user_id=other), "PERMISSION_DENIED"),
            (replica.stub.Consume, pb.ConsumeRequest(claim=claim_of(user)), "ROLE_REQUIRED"),
            (replica.stub.ClearCoolDown, pb.ClearCoolDownRequest(user_id=user), "ROLE_REQUIRED"),
        ]
        for call, request, reason in refused:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, **own)
            assert failure_from(caught.value).reason == reason


async def test_rows_are_hidden_by_the_database_too(start: Start, user: str, database) -> None:
    """ENT-5: usage_counters are visible to their user or an admin, in SQL as the service's role."""
    async with start() as replica:
        await replica.query(user)
    async with await psycopg.AsyncConnection.connect(
        database.url_for("usage"), autocommit=True
    ) as connection:

        async def seen_by(user_id: str, roles: str) -> int:
            for name, value in (("user_id", user_id), ("roles", roles)):
                await connection.execute(
                    "SELECT set_config(%s, %s, false)", (f"gatehouse.{name}", value)
                )
            found = await connection.execute(
                "SELECT count(*) FROM usage.usage_counters WHERE user_id = %s", (user,)
            )
            return (await found.fetchone())[0]

        assert await seen_by("", "") == 0
        assert await seen_by(str(uuid.uuid4()), "user") == 0
        assert await seen_by(user, "user") == 1
        assert await seen_by(str(uuid.uuid4()), "admin") == 1
        await seen_by(user, "user")
        changed = await connection.execute("UPDATE usage.usage_counters SET read_count = 0")
        assert changed.rowcount == 0
