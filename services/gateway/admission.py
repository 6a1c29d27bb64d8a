"""Admits requests: one query each, and their modifying operations (USE-1 to USE-6)."""

import math
import uuid
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from gatehouse.entitlements.v1.entitlements_pb2 import GetEntitlementsResponse
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.usage.v1 import usage_pb2

from services.gateway.failures import CoolDown, QuotaExhausted, quota_failure, told
from services.gateway.notices import Notices
from services.gateway.peers import Usage
from services.gateway.reading import Reading
from services.runtime.failure import Failure
from services.runtime.identity import Caller

NAMESPACE = uuid.UUID("5b2c7f3e-4f0e-4c8e-9a53-6a1d3f9c2b70")


def operation_id(caller: Caller, request_id: str, place: int | str) -> str:
    """The id of an operation, from the request's and its place in it: a retry derives the same."""
    return str(uuid.uuid5(NAMESPACE, f"{caller.user_id}/{request_id}/{place}"))


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

    async def query(self, *, counts_read: bool, validate_only: bool = False) -> None:
        """Admit the request. Raises QuotaExhausted, CoolDown, StoreUnavailable."""
        claim = self._claim("query", validate_only)
        claim.query.counts_read = counts_read
        admission = await self._usage.consume(claim)
        if admission.HasField("refused"):
            raise self.refusal(admission.refused)

    async def modify(self, count: int, *, validate_only: bool = False) -> int | Failure:
        """How many of *count* operations are granted, from the first on; or why none is.

        Raises StoreUnavailable.
        """
        claim = self._claim("modify", validate_only)
        claim.modify.count = count
        claim.allow_partial = True
        admission = await self._usage.consume(claim)
        if admission.HasField("refused"):
            return self.refusal(admission.refused)
        return admission.granted.count

    async def release_query(self) -> None:
        await self._usage.release(self._caller.user_id, self._id("query"))

    async def settle_modify(self, granted: int, undone: int) -> None:
        """Give back what was granted and not done; what was done stands."""
        if not granted:
            return
        if undone:
            await self._usage.release(self._caller.user_id, self._id("modify"), undone)
        if undone < granted:
            await self._usage.settle(self._caller.user_id, self._id("modify"))

    async def snapshot(self) -> pb.UsageSnapshot:
        """The caller's usage as it stands. Raises Failure."""
        found = await self._usage.get(
            usage_pb2.GetUsageRequest(
                user_id=self._caller.user_id,
                time_zone=self._caller.time_zone,
                limits=limits_of(self._entitlements),
            )
        )
        return snapshot_of(found, self._entitlements)

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
        wait = max(retry_at - self._reading.now, timedelta(0))
        locale = self._reading.locale
        subject = f"user:{self._caller.user_id}"
        if refused.reason == usage_pb2.ERROR_REASON_QUOTA_EXHAUSTED:
            exhausted = self._notices.notice(
                pb.NOTICE_KIND_QUOTA_EXHAUSTED, locale, resets_at=self._local(retry_at)
            )
            limit = refused.limit
            kind = usage_pb2.Kind.Name(limit.kind).removeprefix("KIND_").lower()
            return QuotaExhausted(
                f"the {limit.limit} {kind} operations of the day are used up",
                metadata={"limit": str(limit.limit), "plan": limit.plan_name, "kind": kind},
                details=[
                    quota_failure(subject, f"{limit.limit} {kind} operations a day"),
                    *told(exhausted),
                ],
                retry_after=wait,
            )
        minutes = max(1, math.ceil(wait / timedelta(minutes=1)))
        cooling = self._notices.notice(pb.NOTICE_KIND_COOL_DOWN, locale, minutes=minutes)
        return CoolDown(
            f"a cool-down runs, until {retry_at.isoformat(timespec='seconds')}",
            details=[quota_failure(subject, "too many requests in a short time"), *told(cooling)],
            retry_after=wait,
        )

    def _claim(self, place: str, validate_only: bool) -> usage_pb2.Claim:
        return usage_pb2.Claim(
            operation_id=self._id(place),
            user_id=self._caller.user_id,
            clinic_id=self._caller.clinic_id,
            limits=limits_of(self._entitlements),
            time_zone=self._caller.time_zone,
            validate_only=validate_only,
        )

    def _id(self, place: str) -> str:
        return operation_id(self._caller, self._request_id, place)

    def _local(self, moment: datetime) -> datetime:
        """A reset happens at the clinic's midnight, so it is told in the clinic's time."""
        return moment.astimezone(ZoneInfo(self._caller.time_zone or "UTC"))


def limits_of(entitlements: GetEntitlementsResponse) -> usage_pb2.DailyLimits:
    plan = entitlements.plan
    limits = usage_pb2.DailyLimits(revision=entitlements.revision, plan_name=plan.name)
    if plan.HasField("daily_read_limit"):
        limits.reads = plan.daily_read_limit
    if plan.HasField("daily_modify_limit"):
        limits.modifies = plan.daily_modify_limit
    return limits


def snapshot_of(
    found: usage_pb2.GetUsageResponse, entitlements: GetEntitlementsResponse
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
    if found.abuse_window.HasField("cool_down_until"):
        snapshot.cool_down_until.CopyFrom(found.abuse_window.cool_down_until)
    return snapshot
