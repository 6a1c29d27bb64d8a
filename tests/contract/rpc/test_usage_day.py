"""One user's days, whatever happens in them, against a model in plain Python (USE-1 to USE-8)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from services.runtime.failure import reason_of
from services.runtime.postgres import open_pool
from services.runtime.telemetry import open_telemetry
from services.usage.app import running
from services.usage.ledger import Ledger
from services.usage.settings import Settings

READ, MODIFY = pb.KIND_READ, pb.KIND_MODIFY
# Small ones, so that a dozen steps overrun them.
MOST = {READ: 3, MODIFY: 2}
WIDTH = {READ: timedelta(seconds=60), MODIFY: timedelta(minutes=10)}
COOL_DOWN = timedelta(minutes=15)
# Shorter than the window, so that what comes back after it is still in there.
RESERVATION = timedelta(minutes=5)
# Whose day it is, and from when on: usual days, and some on which the clocks change.
DAYS = [
    ("UTC", datetime(2026, 11, 23, 12, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2026, 11, 24, 2, 40, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 8, 4, 50, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 5, 30, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, 3, 50, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 13, 20, tzinfo=UTC)),
]
STEPS = [0.001, 1, 14, 59.999, 60, 599.999, 600, 899.999, 900, 3600, 40_000]
LIMIT = st.none() | st.integers(0, 12)
SELDOM = st.sampled_from([False, False, True])
# One of the ids so far, from the last one back.
WHICH = st.integers(0, 9)
ATTEMPT = st.sampled_from([0, 0, 1, 2, 3])
# Where days begin first and last, and some in between.
ZONES = ["UTC", "America/Sao_Paulo", "Pacific/Kiritimati", "Pacific/Pago_Pago"]
FIRST = ZoneInfo("Pacific/Kiritimati")
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Service:
    """The service on its socket, its clock, and the loop that both run on."""

    loop: asyncio.AbstractEventLoop
    stub: Any
    call: dict[str, Any]
    ledger: Ledger
    now: datetime = DAYS[0][1]

    def ask(self, method: str, request: Any) -> Any:
        async def asked() -> Any:  # gRPC looks for the loop when the call is made
            return await getattr(self.stub, method)(request, **self.call)

        return self.loop.run_until_complete(asked())

    def sweep(self) -> None:
        """What another replica's sweeper does now and then."""
        self.loop.run_until_complete(self.ledger.sweep())


@pytest.fixture
async def service(database: Any, valkey: Any, tokens: Any) -> AsyncIterator[Service]:
    made = Settings(
        database_url=database.url_for("usage"),
        valkey_url=valkey.url,
        unrecorded_writes=True,
        abuse_queries=MOST[READ],
        abuse_modifies=MOST[MODIFY],
        sweep_seconds=100_000,
        **tokens.settings,
    )
    token = tokens.user(roles=["service", "admin"])
    call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 20}
    url = made.database_url.get_secret_value()
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry(made))
        address = await stack.enter_async_context(running(made, telemetry, lambda: service.now))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        pool = await stack.enter_async_context(open_pool(url, min_size=1, max_size=1, name="two"))
        ledger = Ledger(pool, made.thresholds, lambda: service.now)
        service = Service(asyncio.get_running_loop(), UsageServiceStub(channel), call, ledger)
        yield service


@dataclass(frozen=True)
class Asked:
    """A claim, without what may differ between one time that it comes and the next."""

    kind: int
    count: int
    id_: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True)
class Kept:
    """What the model knows of a claim that was granted; *at* is that of its entry in the window."""

    asked: Asked
    granted: int
    day: date
    at: datetime
    reserved_until: datetime | None
    attempt: int = 0
    released: int = 0
    lapsed: bool = False
    revoked: bool = False

    @property
    def stands(self) -> bool:
        return not (self.lapsed or self.revoked)

    @property
    def counted(self) -> int:
        return self.granted - self.released


@dataclass
class Model:
    """What the rules say about one user."""

    zone: ZoneInfo
    now: datetime
    limits: dict[int, int | None] = field(default_factory=lambda: {READ: 10, MODIFY: 10})
    plan: int = 0
    counts: dict[tuple[date, int], int] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    # The highest attempt of an id that was released.
    fences: dict[str, int] = field(default_factory=dict)
    entries: dict[int, list[datetime]] = field(default_factory=lambda: {READ: [], MODIFY: []})
    last_day: date | None = None
    stored_end: datetime = NEVER
    overrun: int = 0

    @property
    def day(self) -> date:
        """The zone's, or the last one counted on: days never go back, nor on before any zone's."""
        day, last = self.now.astimezone(self.zone).date(), self.last_day
        if last is not None and day < last <= self.now.astimezone(FIRST).date():
            return last
        return day

    @property
    def midnight(self) -> datetime:
        """The next quarter of an hour that is of a later day."""
        quarter = self.now.replace(minute=self.now.minute // 15 * 15, second=0, microsecond=0)
        while quarter.astimezone(self.zone).date() <= self.day:
            quarter += timedelta(minutes=15)
        return quarter

    @property
    def cool_down_until(self) -> datetime:
        """Never further off than a cool-down lasts, also when the clock went back."""
        return min(self.stored_end, self.now + COOL_DOWN)

    def used(self, kind: int, day: date | None = None) -> int:
        return self.counts.get((day or self.day, kind), 0)

    def add(self, kind: int, day: date, count: int) -> None:
        self.counts[day, kind] = max(self.used(kind, day) + count, 0)

    def left(self, kind: int) -> int | None:
        limit = self.limits[kind]
        return None if limit is None else max(limit - self.used(kind), 0)

    def in_window(self, kind: int) -> int:
        return sum(each > self.now - WIDTH[kind] for each in self.entries[kind])

    def near(self) -> bool:
        limit = self.limits[READ]
        return limit is not None and 5 * self.used(READ) >= 4 * limit

    def told(self, asked: Asked, *, partial: bool, dry: bool, attempt: int = 0) -> Any:
        """What is answered to a claim: a count and its day, or a reason and what explains it."""
        before = self.kept.get(asked.id_)
        if before and (before.asked.kind, before.asked.count) != (asked.kind, asked.count):
            return "OPERATION_ID_REUSED"
        if 0 < attempt <= self.fences.get(asked.id_, 0):
            return "CLAIM_RELEASED"
        if before and before.stands:
            if not dry and attempt > before.attempt:
                self.kept[asked.id_] = replace(before, attempt=attempt)
            return before.counted, before.day, True
        entered = before is not None and self.holds(before)
        refused = self.refused(asked, partial=partial, dry=dry, entered=entered)
        if refused is not None:
            return refused
        granted, day = self.granted(asked), self.day
        if not dry:
            self.add(asked.kind, day, granted)
            self.last_day = day
            self.mend()
            if not entered:
                entries = [*self.entries[asked.kind], self.now]
                self.entries[asked.kind] = entries[-MOST[asked.kind] - 1 :]
            until = self.now + RESERVATION if asked.kind == MODIFY else None
            at = before.at if before is not None and entered else self.now
            self.kept[asked.id_] = Kept(asked, granted, day, at, until, attempt)
        return granted, day, False

    def granted(self, asked: Asked) -> int:
        left = self.left(asked.kind)
        return asked.count if left is None else min(asked.count, left)

    def refused(self, asked: Asked, *, partial: bool, dry: bool, entered: bool) -> Any:
        """Why a claim is refused, or None."""
        if self.cool_down_until > self.now:
            until = self.cool_down_until
            if not dry and until != self.stored_end:
                self.cools_down_until(until)
            return pb.ERROR_REASON_COOL_DOWN, until, self.overrun
        granted = self.granted(asked)
        if granted < asked.count and not (granted and partial and asked.kind == MODIFY):
            explained = (asked.kind, self.limits[asked.kind], self.used(asked.kind), asked.count)
            return pb.ERROR_REASON_QUOTA_EXHAUSTED, self.midnight, explained
        if entered or self.in_window(asked.kind) < MOST[asked.kind]:
            return None
        until = self.now + COOL_DOWN
        if not dry:
            self.overrun = asked.kind
            self.cools_down_until(until)
        return pb.ERROR_REASON_ABUSE_DETECTED, until, asked.kind

    def holds(self, kept: Kept) -> bool:
        """Whether the entry that a claim made is still in its window."""
        kind = kept.asked.kind
        return kept.at in self.entries[kind] and kept.at > self.now - WIDTH[kind]

    def cools_down_until(self, until: datetime) -> None:
        self.stored_end = until
        self.mend()

    def mend(self) -> None:
        """What is written of a user lies in the future no more."""
        for entries in self.entries.values():
            entries[:] = [min(each, self.now) for each in entries]

    def release(self, id_: str, count: int, attempt: int) -> Kept | None:
        """Somebody says how much of a claim was not carried out."""
        kept = self.kept.get(id_)
        whole = kept is None or kept.revoked or count in (0, *range(kept.granted, 99))
        if whole:
            self.fences[id_] = max(self.fences.get(id_, 0), attempt)
        if kept is None or kept.revoked or (kept.stands and 0 < attempt < kept.attempt):
            return kept
        released = kept.granted if whole else max(count, 0 if kept.lapsed else kept.released)
        return self.close(kept, released, revoked=whole)

    def settle(self, id_: str) -> int:
        kept = self.kept.get(id_)
        if kept is None:
            return 0
        return self.close(kept, 0 if kept.lapsed else kept.released, revoked=kept.revoked).counted

    def close(self, kept: Kept, released: int, *, revoked: bool) -> Kept:
        closed = replace(
            kept, released=released, revoked=revoked, lapsed=False, reserved_until=None
        )
        self.add(kept.asked.kind, kept.day, kept.released - released)
        self.kept[kept.asked.id_] = closed
        return closed

    def sweep(self) -> None:
        for id_, kept in self.kept.items():
            if kept.reserved_until and kept.reserved_until <= self.now:
                self.add(kept.asked.kind, kept.day, -kept.counted)
                self.kept[id_] = replace(
                    kept, released=kept.granted, lapsed=True, reserved_until=None
                )


class UsersDay(RuleBasedStateMachine):
    """Everything that callers, admins and time do to one user, in any order."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.user = str(uuid.uuid4())
        self.asked: list[Asked] = []
        self.model = Model(ZoneInfo("UTC"), service.now)

    @initialize(day=st.sampled_from(DAYS), reads=LIMIT, modifies=LIMIT)
    def begins(self, day: tuple[str, datetime], reads: int | None, modifies: int | None) -> None:
        self.model = Model(ZoneInfo(day[0]), day[1], {READ: reads, MODIFY: modifies})
        self.service.now = day[1]

    @property
    def limits(self) -> pb.DailyLimits:
        of = self.model.limits
        return pb.DailyLimits(
            reads=of[READ],
            modifies=of[MODIFY],
            plan_name=f"plan {self.model.plan}",
            revision=7 + self.model.plan,
        )

    def claim(self, asked: Asked, *, partial: bool, dry: bool) -> pb.Claim:
        claim = pb.Claim(
            operation_id=asked.id_,
            user_id=self.user,
            limits=self.limits,
            time_zone=self.model.zone.key,
            validate_only=dry,
            allow_partial=partial,
        )
        if asked.kind == READ:
            claim.query.counts_read = bool(asked.count)
        else:
            claim.modify.count = asked.count
            claim.reservation.FromTimedelta(RESERVATION)
        return claim

    def consume(
        self, asked: Asked, *, partial: bool = False, dry: bool = False, attempt: int = 0
    ) -> None:
        """Have the service and the model decide, and compare all that is said."""
        if all(each.id_ != asked.id_ for each in self.asked):
            self.asked.append(asked)
        expected = self.model.told(asked, partial=partial, dry=dry, attempt=attempt)
        request = pb.ConsumeRequest(claim=self.claim(asked, partial=partial, dry=dry))
        request.claim.attempt = attempt
        if isinstance(expected, str):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                self.service.ask("Consume", request)
            assert reason_of(caught.value) == expected
            return
        answer = self.service.ask("Consume", request).admission
        assert answer.operation_id == asked.id_
        assert answer.remaining == self.remaining()
        assert answer.approaching_quota == self.model.near()
        assert self.decided(answer) == expected

    def decided(self, answer: pb.Admission) -> Any:
        """What an answer says, as the model says it; what is the same for all is checked here."""
        if answer.HasField("granted"):
            day = date.fromisoformat(answer.granted.usage_date)
            return answer.granted.count, day, answer.replayed
        assert not answer.replayed
        refused = answer.refused
        retry_at = refused.retry_at.ToDatetime(tzinfo=UTC)
        if refused.HasField("limit"):
            limit = refused.limit
            assert limit.plan_name == f"plan {self.model.plan}"
            assert limit.revision == 7 + self.model.plan
            return refused.reason, retry_at, (limit.kind, limit.limit, limit.used, limit.claimed)
        window = refused.window
        assert window.cool_down_until == refused.retry_at
        assert window.limit == MOST[window.kind]
        assert window.window.ToTimedelta() == WIDTH[window.kind]
        return refused.reason, retry_at, window.kind

    def remaining(self) -> pb.Remaining:
        made = pb.Remaining(reads=self.model.left(READ), modifies=self.model.left(MODIFY))
        made.resets_at.FromDatetime(self.model.midnight)
        return made

    @rule(counts_read=st.sampled_from([1, 1, 1, 0]), dry=SELDOM, attempt=ATTEMPT)
    def asks_to_read(self, counts_read: int, dry: bool, attempt: int) -> None:
        self.consume(Asked(READ, counts_read), dry=dry, attempt=attempt)

    @rule(count=st.integers(1, 5), partial=st.booleans(), dry=SELDOM, attempt=ATTEMPT)
    def asks_to_modify(self, count: int, partial: bool, dry: bool, attempt: int) -> None:
        self.consume(Asked(MODIFY, count), partial=partial, dry=dry, attempt=attempt)

    @rule(kind=st.sampled_from([READ, MODIFY]), beyond=st.integers(-1, 2), dry=st.booleans())
    def asks_often(self, kind: int, beyond: int, dry: bool) -> None:
        """Up to what a window takes or beyond, and then what one more would be told."""
        self.fills(kind, beyond)
        if dry:
            self.consume(Asked(kind, 1), dry=True)

    def fills(self, kind: int, beyond: int = 0) -> None:
        """Ask, in one batch, until a window has all that it takes, and so many more."""
        count = max(MOST[kind] - self.model.in_window(kind) + beyond, 1)
        many = [Asked(kind, 1) for _ in range(count)]
        expected = [self.model.told(each, partial=False, dry=False) for each in many]
        self.asked += many
        claims = [self.claim(each, partial=False, dry=False) for each in many]
        answer = self.service.ask("ConsumeBatch", pb.ConsumeBatchRequest(claims=claims))
        assert [self.decided(each.admission) for each in answer.admissions] == expected

    def earlier(self, which: int) -> Asked:
        """One that was asked before; a new one while there is none."""
        return self.asked[-1 - which % len(self.asked)] if self.asked else Asked(MODIFY, 1)

    @rule(which=WHICH, partial=st.booleans(), dry=SELDOM, attempt=ATTEMPT)
    def asks_again(self, which: int, partial: bool, dry: bool, attempt: int) -> None:
        self.consume(self.earlier(which), partial=partial, dry=dry, attempt=attempt)

    @rule(which=WHICH)
    def asks_something_else_under_an_id(self, which: int) -> None:
        asked = self.earlier(which)
        if asked.id_ in self.model.kept:  # else the id is still free
            self.consume(replace(asked, kind=MODIFY, count=asked.count + 1))

    @rule(which=WHICH, count=st.sampled_from([0, 0, 1, 2, 3, 6]), attempt=ATTEMPT)
    def is_not_carried_out(self, which: int, count: int, attempt: int) -> None:
        self.gives_back(self.earlier(which), count, attempt)

    @rule(kind=st.sampled_from([READ, MODIFY]), attempt=ATTEMPT, again=ATTEMPT)
    def is_not_carried_out_before_it_comes(self, kind: int, attempt: int, again: int) -> None:
        """A release overtakes its claim."""
        asked = Asked(kind, 1)
        self.gives_back(asked, 0, attempt)
        self.consume(asked, attempt=again)

    @rule(which=WHICH, attempt=ATTEMPT)
    def is_given_up_and_tried_again(self, which: int, attempt: int) -> None:
        asked = self.earlier(which)
        self.gives_back(asked, 0, attempt)
        self.consume(asked, attempt=attempt)
        self.consume(asked, attempt=attempt + 1)

    def gives_back(self, asked: Asked, count: int, attempt: int) -> None:
        closed = self.model.release(asked.id_, count, attempt)
        request = pb.ReleaseRequest(
            operation_id=asked.id_, user_id=self.user, count=count, attempt=attempt
        )
        answer = self.service.ask("Release", request)
        if closed is None:
            assert answer == pb.ReleaseResponse()
        else:
            assert answer.released == closed.released
            assert answer.counter == self.counter(closed.day)

    @rule(which=WHICH)
    def is_carried_out(self, which: int) -> None:
        self.says_that_it_was_done(self.earlier(which))

    def says_that_it_was_done(self, asked: Asked) -> None:
        request = pb.SettleRequest(operation_id=asked.id_, user_id=self.user)
        assert self.service.ask("Settle", request).count == self.model.settle(asked.id_)

    @rule(seconds=st.sampled_from(STEPS))
    def time_passes(self, seconds: float) -> None:
        self.goes_on_to(self.model.now + timedelta(seconds=seconds))

    @rule(seconds=st.sampled_from(STEPS))
    def the_clock_goes_back(self, seconds: float) -> None:
        """As after a failover to a machine whose clock is behind."""
        self.goes_on_to(self.model.now - timedelta(seconds=seconds))

    @rule(zone=st.sampled_from(ZONES))
    def is_of_a_clinic_elsewhere(self, zone: str) -> None:
        self.model.zone = ZoneInfo(zone)

    @rule(before=st.sampled_from([timedelta(0), timedelta(milliseconds=1)]))
    def midnight_comes(self, before: timedelta) -> None:
        self.goes_on_to(max(self.model.midnight - before, self.model.now))

    @rule()
    def a_cool_down_ends(self) -> None:
        self.goes_on_to(max(self.model.cool_down_until, self.model.now))

    @rule(
        then=st.sampled_from(["asks again", "asks for a part", "gives back", "did it", "nothing"]),
        count=st.integers(0, 4),
        full=st.booleans(),
        attempt=ATTEMPT,
    )
    def a_reservation_lapses(self, then: str, count: int, full: bool, attempt: int) -> None:
        """And its caller comes back late, or never."""
        if not self.open_:
            self.consume(Asked(MODIFY, 3), partial=True)
        if not self.open_:
            return
        first = min(self.open_, key=lambda each: each.reserved_until)
        self.goes_on_to(max(first.reserved_until, self.model.now))
        self.model.sweep()
        self.service.sweep()
        if full:
            self.fills(MODIFY)
        if then.startswith("asks"):
            self.consume(first.asked, partial=then == "asks for a part", attempt=attempt)
        elif then == "gives back":
            self.gives_back(first.asked, count, attempt)
        elif then == "did it":
            self.says_that_it_was_done(first.asked)

    @property
    def open_(self) -> list[Kept]:
        return [each for each in self.model.kept.values() if each.reserved_until]

    def goes_on_to(self, moment: datetime) -> None:
        self.model.now = self.service.now = moment

    @rule(reads=LIMIT, modifies=LIMIT)
    def the_plan_changes(self, reads: int | None, modifies: int | None) -> None:
        self.model.limits = {READ: reads, MODIFY: modifies}
        self.model.plan += 1

    @rule(reads=st.none() | st.integers(0, 12), modifies=st.none() | st.integers(0, 12))
    def an_admin_corrects(self, reads: int | None, modifies: int | None) -> None:
        day = self.model.day
        request = pb.CorrectUsageRequest(
            user_id=self.user,
            usage_date=day.isoformat(),
            read_count=reads,
            modify_count=modifies,
        )
        before = self.counter(day)
        for kind, count in ((READ, reads), (MODIFY, modifies)):
            if count is not None:
                self.model.counts[day, kind] = count
        answer = self.service.ask("CorrectUsage", request)
        assert (answer.before, answer.after) == (before, self.counter(day))

    @rule()
    def an_admin_ends_the_cool_down(self) -> None:
        answer = self.service.ask("ClearCoolDown", pb.ClearCoolDownRequest(user_id=self.user))
        running = self.model.cool_down_until > self.model.now
        assert answer.HasField("cleared") == running
        if running:
            assert answer.cleared.ToDatetime(tzinfo=UTC) == self.model.cool_down_until
        self.model.stored_end = NEVER
        self.model.entries = {READ: [], MODIFY: []}

    def counter(self, day: date) -> pb.UsageCounter:
        return pb.UsageCounter(
            user_id=self.user,
            usage_date=day.isoformat(),
            read_count=self.model.used(READ, day),
            modify_count=self.model.used(MODIFY, day),
        )

    @invariant()
    def what_is_counted_is_what_the_model_counts(self) -> None:
        request = pb.GetUsageRequest(
            user_id=self.user, time_zone=self.model.zone.key, limits=self.limits
        )
        answer = self.service.ask("GetUsage", request)
        assert answer.counter == self.counter(self.model.day)
        assert answer.remaining == self.remaining()
        assert answer.approaching_quota == self.model.near()
        window = pb.AbuseWindow(
            queries=self.model.in_window(READ),
            query_limit=MOST[READ],
            modifies=self.model.in_window(MODIFY),
            modify_limit=MOST[MODIFY],
        )
        if self.model.cool_down_until > self.model.now:
            window.cool_down_until.CopyFrom(stamp(self.model.cool_down_until))
        assert answer.abuse_window == window

    def teardown(self) -> None:
        """Every day, at the end: also those that are over, which nothing may have changed."""
        request = pb.ListUsageRequest(
            user_id=self.user, start_date="2026-01-01", end_date="2027-12-31", page_size=500
        )
        listed = self.service.ask("ListUsage", request).counters
        days = {day for (day, _), count in self.model.counts.items() if count}
        assert list(listed) == [self.counter(day) for day in sorted(days, reverse=True)]


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def test_a_users_days_are_as_the_rules_say(service: Service) -> None:
    """USE-1 to USE-8: every answer and every count, in whatever order things happen."""
    run_state_machine_as_test(
        lambda: UsersDay(service),
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            database=None,
            # What is found is told as it was found: making it smaller would take minutes.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
