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

READ = "read"
NAMESPACE = uuid.UUID("5b2c7f3e-4f0e-4c8e-9a53-6a1d3f9c2b70")


def operation_id(caller: Caller, request_id: str, place: int | str) -> str:
    """The id of an operation, from the request's and its place in it: a retry derives the same."""
    return str(uuid.uuid5(NAMESPACE, f"{caller.user_id}/{request_id}/{place}"))


def modifies_place(count: int) -> str:
    """Where the changes of a request are counted; another number of them is another claim."""
    return f"modify/{count}"


class Admission:
    """Counts for one caller's request, by the limits of the caller's plan."""

    def __init__(
        self,
        usage: Usage,
        notices: Notices,
        caller: Caller,
        entitlements: GetEntitlementsResponse,
        reading: Reading,
        request_id: str,
    ) -> None:
        self._usage = usage
        self._notices = notices
        self._caller = caller
        self._entitlements = entitlements
        self._reading = reading
        self._request_id = request_id
        # A read has been counted for the request.
        self.counted_read = False
        # What usage said of the counts, as long as nothing more was counted or given back.
        self._told: usage_pb2.Admission | None = None

    async def query(self, *, counts_read: bool, validate_only: bool = False) -> None:
        """Admit the request. Raises QuotaExhausted, CoolDown, StoreUnavailable."""
        claim = self._claim(READ if counts_read else "query", validate_only)
        claim.query.counts_read = counts_read
        admission = await self._usage.consume(claim)
        if admission.HasField("refused"):
            raise self.refusal(admission.refused)
        self.counted_read = counts_read and not validate_only
        self._told = admission

    async def modify(
        self, count: int, *, whole: bool, validate_only: bool = False
    ) -> tuple[int, Failure | None]:
        """How many of *count* operations are granted, from the first on, and why not the others.

        All or none, if it is to be the *whole*. Raises StoreUnavailable.
        """
        self._told = None
        claim = self._claim(modifies_place(count), validate_only)
        claim.modify.count = count
        claim.allow_partial = not whole
        admission = await self._usage.consume(claim)
        if admission.HasField("refused"):
            return 0, self.refusal(admission.refused)
        granted = admission.granted.count
        if granted == count:
            return granted, None
        resets_at = admission.remaining.resets_at.ToDatetime(tzinfo=UTC)
        limit = limits_of(self._entitlements).modifies
        return granted, self._exhausted("modify", limit, resets_at)

    async def release_modify(self, count: int) -> None:
        """Give back all that was granted of *count*. Raises Failure."""
        await self._usage.release(self._caller.user_id, self._id(modifies_place(count)))

    async def release_read(self) -> None:
        """Give back the read that was counted, as none was carried out. Raises Failure."""
        if self.counted_read:
            self._told = None
            await self._usage.release(self._caller.user_id, self._id(READ))
            self.counted_read = False

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

    def _claim(self, place: str, validate_only: bool) -> usage_pb2.Claim:
        return usage_pb2.Claim(
            operation_id=self._id(place),
            user_id=self._caller.user_id,
            clinic_id=self._caller.clinic_id,
            limits=limits_of(self._entitlements),
            time_zone=self._reading.day_zone.key,
            validate_only=validate_only,
        )

    def _id(self, place: str) -> str:
        return operation_id(self._caller, self._request_id, place)

    def _local(self, moment: datetime) -> datetime:
        """A reset happens at the clinic's midnight, so it is told in the clinic's time."""
        return moment.astimezone(self._reading.day_zone)


def limits_of(entitlements: GetEntitlementsResponse) -> usage_pb2.DailyLimits:
    plan = entitlements.plan
    limits = usage_pb2.DailyLimits(revision=entitlements.revision, plan_name=plan.name)
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
