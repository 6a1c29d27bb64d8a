"""Admits requests: one query each, and their modifying operations (USE-1 to USE-6)."""

import math
import uuid
from datetime import UTC, datetime, timedelta

from gatehouse.entitlements.v1.entitlements_pb2 import GetEntitlementsResponse
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.usage.v1 import usage_pb2

from services.gateway.failures import CoolDown, QuotaExhausted, quota_failure, told
from services.gateway.notices import Notices
from services.gateway.peers import Usage
from services.gateway.reading import Reading
from services.runtime.failure import Failure
from services.runtime.identity import Caller

# The places of the claims that admit a request: as one read of the day, or as a query alone.
READ, QUERY = "read", "query"


def operation_id(use_id: uuid.UUID, place: int | str) -> str:
    """Derive an id from the use of the request_id and a place in it: a retry derives the same."""
    return str(uuid.uuid5(use_id, str(place)))


def modifies_place(count: int) -> str:
    """Where the changes of a request are counted; another number of them is another claim."""
    return f"modify/{count}"


class Claims:
    """The claims of one attempt at a request, so that none stays counted without an answer (USE-2).

    *attempt* fences them: what is released does not count when it arrives late. 0: not fenced, for
    dry runs. *delivered*: a part of the answer has reached the caller, so nothing is released.
    """

    def __init__(
        self, usage: Usage, user_id: str, use_id: uuid.UUID, attempt: int, *, delivered: bool
    ) -> None:
        self._usage = usage
        self._user_id = user_id
        self._attempt = attempt
        self.use_id = use_id
        self.delivered = delivered
        # Something may have been counted in this attempt, whether or not it was released since.
        self.was_counted = False
        # The places of claims that may be counted now.
        self._open: set[str] = set()

    def id(self, place: str) -> str:
        return operation_id(self.use_id, place)

    async def consume(self, place: str, claim: usage_pb2.Claim) -> usage_pb2.Admission:
        """Have *claim* decided under the id of *place*. Raises Failure: it may be counted then."""
        claim.operation_id, claim.attempt = self.id(place), self._attempt
        if claim.validate_only:
            return await self._usage.consume(claim)
        was_counted = self.was_counted
        self.was_counted = True
        self._open.add(place)
        admission = await self._usage.consume(claim)
        if admission.HasField("refused"):
            self._open.discard(place)
            self.was_counted = was_counted
        return admission

    async def release(self, place: str) -> None:
        """Release what *place* may have counted. Raises Failure."""
        if place in self._open and not self.delivered:
            await self._usage.release(self._user_id, self.id(place), attempt=self._attempt)
            self._open.discard(place)

    def hand_over(self, place: str) -> None:
        """From now on settlement decides what of *place* stands, by what was executed."""
        self._open.discard(place)

    async def release_all(self) -> None:
        """Release every claim that may be counted. Raises Failure."""
        for place in sorted(self._open):
            await self.release(place)


def uncounted(usage: Usage, caller: Caller) -> Claims:
    """Claims for what only asks: a dry run, a look at the usage."""
    return Claims(usage, caller.user_id, uuid.uuid4(), 0, delivered=False)


class Admission:
    """Counts for one caller's request, by the limits of the caller's plan."""

    def __init__(
        self,
        usage: Usage,
        notices: Notices,
        caller: Caller,
        entitlements: GetEntitlementsResponse,
        reading: Reading,
        claims: Claims,
    ) -> None:
        self._usage = usage
        self._notices = notices
        self._caller = caller
        self._entitlements = entitlements
        self._reading = reading
        self._claims = claims
        # What usage said of the counts, as long as nothing more was counted or given back.
        self._told: usage_pb2.Admission | None = None

    async def query(self, *, counts_read: bool, validate_only: bool = False) -> None:
        """Admit the request. Raises QuotaExhausted, CoolDown, StoreUnavailable."""
        claim = self._claim(validate_only)
        claim.query.counts_read = counts_read
        admission = await self._claims.consume(READ if counts_read else QUERY, claim)
        if admission.HasField("refused"):
            raise self.refusal(admission.refused)
        self._told = admission

    async def modify(
        self, count: int, *, whole: bool, validate_only: bool = False
    ) -> tuple[int, Failure | None]:
        """How many of *count* operations are granted, from the first on, and why not the others.

        All or none, if it is to be the *whole*. Raises StoreUnavailable.
        """
        self._told = None
        claim = self._claim(validate_only)
        claim.modify.count = count
        claim.allow_partial = not whole
        admission = await self._claims.consume(modifies_place(count), claim)
        if admission.HasField("refused"):
            return 0, self.refusal(admission.refused)
        granted = admission.granted.count
        if granted == count:
            return granted, None
        resets_at = admission.remaining.resets_at.ToDatetime(tzinfo=UTC)
        limit = limits_of(self._entitlements).modifies
        return granted, self._exhausted("modify", limit, resets_at)

    async def release_read(self) -> None:
        """Give back the read that was counted, as none was executed. Raises Failure."""
        self._told = None
        await self._claims.release(READ)

    async def snapshot(self) -> pb.UsageSnapshot:
        """The caller's usage as it stands. Raises Failure."""
        if self._told is not None:  # an admitted request is in no cool-down
            return snapshot_of(self._told, self._entitlements)
        found = await self._usage.get(
            usage_pb2.GetUsageRequest(
                user_id=self._caller.user_id,
                time_zone=self._reading.day_zone.key,
                limits=limits_of(self._entitlements),
            )
        )
        snapshot = snapshot_of(found, self._entitlements)
        if found.abuse_window.HasField("cool_down_until"):
            snapshot.cool_down_until.CopyFrom(found.abuse_window.cool_down_until)
        return snapshot

    def notices(self, snapshot: pb.UsageSnapshot) -> list[pb.Notice]:
        """That the day's reads run out, when they do (USE-5)."""
        if not snapshot.approaching_quota:
            return []
        return [
            self._notices.notice(
                pb.NOTICE_KIND_QUOTA_NEAR,
                self._reading.locale,
                remaining=snapshot.reads_remaining,
                resets_at=self._local(snapshot.resets_at.ToDatetime(tzinfo=UTC)),
            )
        ]

    def refusal(self, refused: usage_pb2.Refused) -> Failure:
        """A refusal as a failure that tells machines when to come back, and users why."""
        retry_at = refused.retry_at.ToDatetime(tzinfo=UTC)
        if refused.reason == usage_pb2.ERROR_REASON_QUOTA_EXHAUSTED:
            kind = usage_pb2.Kind.Name(refused.limit.kind).removeprefix("KIND_").lower()
            return self._exhausted(kind, refused.limit.limit, retry_at)
        wait = self._wait(retry_at)
        # A request begins a moment before it is refused: that moment is no minute more.
        minutes = max(1, math.ceil((wait - timedelta(seconds=1)) / timedelta(minutes=1)))
        cooling = self._notices.notice(
            pb.NOTICE_KIND_COOL_DOWN, self._reading.locale, minutes=minutes
        )
        return CoolDown(
            f"a cool-down runs, until {retry_at.isoformat(timespec='seconds')}",
            details=[
                quota_failure(self._subject, "too many requests in a short time"),
                *told(cooling),
            ],
            retry_after=wait,
        )

    def _exhausted(self, kind: str, limit: int, resets_at: datetime) -> QuotaExhausted:
        notice = self._notices.notice(
            pb.NOTICE_KIND_QUOTA_EXHAUSTED, self._reading.locale, resets_at=self._local(resets_at)
        )
        exhausted = QuotaExhausted(
            f"the {limit} {kind} operations of the day are used up",
            metadata={"limit": str(limit), "plan": self._entitlements.plan.name, "kind": kind},
            details=[
                quota_failure(self._subject, f"{limit} {kind} operations a day"),
                *told(notice),
            ],
            retry_after=self._wait(resets_at),
        )
        exhausted.notice = notice
        return exhausted

    def _wait(self, until: datetime) -> timedelta:
        return max(until - self._reading.now, timedelta(0))

    @property
    def _subject(self) -> str:
        return f"user:{self._caller.user_id}"

    def _claim(self, validate_only: bool) -> usage_pb2.Claim:
        return usage_pb2.Claim(
            user_id=self._caller.user_id,
            clinic_id=self._caller.clinic_id,
            limits=limits_of(self._entitlements),
            time_zone=self._reading.day_zone.key,
            validate_only=validate_only,
        )

    def _local(self, moment: datetime) -> datetime:
        """A reset happens at the clinic's midnight, so it is told in the clinic's time."""
        return moment.astimezone(self._reading.day_zone)


def limits_of(entitlements: GetEntitlementsResponse) -> usage_pb2.DailyLimits:
    plan = entitlements.plan
    limits = usage_pb2.DailyLimits(revision=entitlements.revision.number, plan_name=plan.name)
    if plan.HasField("daily_read_limit"):
        limits.reads = plan.daily_read_limit
    if plan.HasField("daily_modify_limit"):
        limits.modifies = plan.daily_modify_limit
    return limits


def snapshot_of(
    found: usage_pb2.GetUsageResponse | usage_pb2.Admission, entitlements: GetEntitlementsResponse
) -> pb.UsageSnapshot:
    snapshot = pb.UsageSnapshot(
        read_count=found.counter.read_count,
        modify_count=found.counter.modify_count,
        resets_at=found.remaining.resets_at,
        approaching_quota=found.approaching_quota,
        plan_name=entitlements.plan.name,
        plan_source=entitlements.source,
    )
    if found.remaining.HasField("reads"):
        snapshot.reads_remaining = found.remaining.reads
    if found.remaining.HasField("modifies"):
        snapshot.modifies_remaining = found.remaining.modifies
    return snapshot
