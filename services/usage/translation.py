"""Between the protos and the service's own nouns."""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from gatehouse.usage.v1 import usage_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from services.runtime.failure import InvalidInput
from services.usage import quota
from services.usage.books import Decided
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    ClaimReleased,
    Granted,
    Kind,
    Limits,
    OperationIdReused,
    OverLimit,
    OverWindow,
    Thresholds,
    UserBusy,
    Window,
)

LONGEST_RESERVATION = timedelta(hours=24)
DEFAULT_RESERVATION = timedelta(minutes=15)
KINDS = {Kind.QUERY: pb.KIND_READ, Kind.MODIFY: pb.KIND_MODIFY}


def claim_from(claim: pb.Claim, path: str = "claim") -> Claim:
    """Raises InvalidInput for what the rules of the fields do not cover."""
    queries = claim.WhichOneof("what") == "query"
    return Claim(
        operation_id=UUID(claim.operation_id),
        user_id=UUID(claim.user_id),
        clinic_id=UUID(claim.clinic_id) if claim.clinic_id else None,
        kind=Kind.QUERY if queries else Kind.MODIFY,
        count=int(claim.query.counts_read) if queries else claim.modify.count,
        limits=limits_from(claim.limits),
        time_zone=claim.time_zone,
        validate_only=claim.validate_only,
        allow_partial=claim.allow_partial,
        reservation=reservation_from(claim, path),
        attempt=claim.attempt,
    )


def reservation_from(claim: pb.Claim, path: str) -> timedelta:
    if not claim.HasField("reservation"):
        return DEFAULT_RESERVATION
    try:
        given = claim.reservation.ToTimedelta()
    except (ValueError, OverflowError):
        given = timedelta(0)
    if not timedelta(0) < given <= LONGEST_RESERVATION:
        raise InvalidInput([(f"{path}.reservation", "must be more than 0 and at most 24 h")])
    return given


def limits_from(limits: pb.DailyLimits) -> Limits:
    return Limits(
        limits.reads if limits.HasField("reads") else None,
        limits.modifies if limits.HasField("modifies") else None,
        limits.plan_name,
        limits.revision,
    )


def day_from(text: str) -> date:
    return date.fromisoformat(text)


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment.astimezone(UTC))
    return made


@lru_cache(maxsize=1024)
def reset_stamp(day: date, time_zone: str) -> Timestamp:
    """When the counts of *day* start anew. Not to be written on: every answer has it."""
    return stamp(quota.resets_at(day, time_zone))


def remaining_to(limits: Limits, balance: Balance, day: date, time_zone: str) -> pb.Remaining:
    return pb.Remaining(
        reads=quota.left(limits.reads, balance.read_count),
        modifies=quota.left(limits.modifies, balance.modify_count),
        resets_at=reset_stamp(day, time_zone),
    )


def admission_to(admission: Admission) -> pb.Admission:
    claim, day = admission.claim, admission.day
    made = pb.Admission(
        operation_id=str(claim.operation_id),
        remaining=remaining_to(claim.limits, admission.balance, day, claim.time_zone),
        approaching_quota=quota.approaching(admission.balance, claim.limits),
        replayed=admission.replayed,
        counter=counter_to(str(claim.user_id), day, admission.balance),
    )
    match admission.decision:
        case Granted(count, usage_date):
            made.granted.count = count
            made.granted.usage_date = usage_date.isoformat()
        case OverLimit() as over:
            made.refused.CopyFrom(over_limit_to(over, reset_stamp(day, claim.time_zone)))
        case OverWindow() as over:
            made.refused.CopyFrom(over_window_to(over))
    return made


def over_limit_to(over: OverLimit, resets_at: Timestamp) -> pb.Refused:
    limit = pb.ExhaustedLimit(
        kind=KINDS[over.kind],
        limit=over.limit,
        used=over.used,
        claimed=over.claimed,
        plan_name=over.plan_name,
        revision=over.revision,
    )
    return pb.Refused(reason=pb.ERROR_REASON_QUOTA_EXHAUSTED, retry_at=resets_at, limit=limit)


def over_window_to(over: OverWindow) -> pb.Refused:
    window = pb.OverrunWindow(
        kind=KINDS[over.kind],
        limit=over.limit,
        cool_down_until=stamp(over.until),
    )
    window.window.FromTimedelta(over.window)
    started = over.started
    return pb.Refused(
        reason=pb.ERROR_REASON_ABUSE_DETECTED if started else pb.ERROR_REASON_COOL_DOWN,
        retry_at=stamp(over.until),
        window=window,
    )


def batched_to(decided: Decided) -> pb.BatchedAdmission:
    match decided:
        case OperationIdReused():
            return pb.BatchedAdmission(error=pb.ERROR_REASON_OPERATION_ID_REUSED)
        case ClaimReleased(attempt):
            return pb.BatchedAdmission(
                error=pb.ERROR_REASON_CLAIM_RELEASED, released_attempt=attempt
            )
        case UserBusy():
            return pb.BatchedAdmission(error=pb.ERROR_REASON_USER_BUSY)
        case Admission():
            return pb.BatchedAdmission(admission=admission_to(decided))


def counter_to(user_id: str, day: date, balance: Balance) -> pb.UsageCounter:
    return pb.UsageCounter(
        user_id=user_id,
        usage_date=day.isoformat(),
        read_count=balance.read_count,
        modify_count=balance.modify_count,
    )


def window_to(window: Window, at: datetime, thresholds: Thresholds) -> pb.AbuseWindow:
    made = pb.AbuseWindow(
        queries=window.queries,
        query_limit=thresholds.queries,
        modifies=window.modifies,
        modify_limit=thresholds.modifies,
    )
    if window.cool_down_until is not None and window.cool_down_until > at:
        made.cool_down_until.CopyFrom(stamp(window.cool_down_until))
    return made
