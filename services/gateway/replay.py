"""Decides what a call does about its request_id: run it, replay its answer, or wait (GAT-2).

A row per request says how far it came. Until `dispatching` nothing was changed, so whoever finds
the row orphaned runs the request again. From then on nobody runs it again: the domains are asked
what was done. Waits for nothing.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias
from uuid import UUID

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.failures import ConfirmationRefused, RequestIdReused
from services.runtime.identity import Caller

CountedRequest: TypeAlias = pb.ExecuteRequest | pb.AnalyzeRequest | pb.RecommendRequest
Take = Literal["run", "confirmed", "recover"]


@dataclass(frozen=True)
class Call:
    """One counted call: whose it is, which request it is about, and how its words are read."""

    caller: Caller
    request_id: str
    fingerprint: bytes
    locale: str
    time_zone: str
    # A call that confirms may leave its input out: then only the token is compared.
    has_input: bool = True
    confirmation_token: str = ""


@dataclass(frozen=True)
class Confirmed:
    """What was summarised and is confirmed: exactly this, and about these records."""

    planned: pb.ConfirmationRequired
    interpretation: pb.Interpretation
    records_digest: bytes
    time_zone: str


@dataclass(frozen=True)
class Lease:
    """A request that is this call's to run, as long as no later attempt takes it over.

    *use_id* names this use of the request_id: operations and claims derive their ids from it.
    *attempt* rises each time the request is taken on. *delivered*: a part of the answer has reached
    the caller in an earlier attempt.
    """

    caller: Caller
    request_id: str
    owner: UUID
    use_id: UUID
    attempt: int
    delivered: bool = False
    confirmed: Confirmed | None = None


@dataclass(frozen=True)
class Orphaned:
    """A request whose call ended midway. *planned* may have been executed, in whole or in part.

    *answer* has the report as far as it is known.
    """

    lease: Lease
    planned: pb.ConfirmationRequired
    answer: pb.ExecuteResponse
    claimed: int
    locale: str
    # Since the request came first, by the store's clock.
    age: timedelta


@dataclass(frozen=True)
class StoredAnswer:
    """The answer of an earlier call, serialized."""

    content: bytes


@dataclass(frozen=True)
class Row:
    """One row of gateway.requests."""

    fingerprint: bytes
    state: str
    lease_over: bool
    expired: bool
    locale: str
    time_zone: str
    answer: bytes | None
    planned: bytes | None
    claimed: int
    records_digest: bytes | None
    token_digest: bytes | None
    token_over: bool
    # Since the request came first, by the store's clock.
    age: timedelta
    use_id: UUID
    attempt: int
    delivered: bool
    unlogged: bytes | None


def fingerprint_of(request: CountedRequest, clinic_id: str) -> bytes:
    """Digest what tells one payload from another under the same request_id.

    The confirmation token and the revision to answer from are not part of it. The kind of request
    is, and so is the clinic: an answer about one clinic is not shown to a caller of another
    (ALL-3). Analyze and StreamAnalyze take the same request, so one replays the other's answer.
    """
    payload: Any = type(request)()
    payload.CopyFrom(request)
    for name in ("confirmation_token", "min_revision"):
        if name in payload.DESCRIPTOR.fields_by_name:
            payload.ClearField(name)
    kind = "" if isinstance(request, pb.ExecuteRequest) else request.DESCRIPTOR.full_name
    text = (kind + clinic_id).encode() + payload.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def decide(call: Call, row: Row | None) -> StoredAnswer | Take | None:
    """Decide what to do with *call*; None: wait, and look again.

    Raises RequestIdReused, ConfirmationRefused.
    """
    token = call.confirmation_token
    if row is None or is_free(row):
        if token:
            raise ConfirmationRefused("there is nothing to confirm under this request_id")
        return None if row is None else "run"
    if call.has_input and bytes(row.fingerprint) != call.fingerprint:
        raise RequestIdReused
    if token:
        check_token_of(row, token)
    match row.state:
        case "finished" | "answered":
            return stored_answer(row)
        case "confirming":
            return decide_confirming(token, row)
        case "running" if row.lease_over and row.planned is not None:
            return decide_confirming(token, row)
        case "running":
            return "run" if row.lease_over else None
        case _:
            return "recover" if row.lease_over else None


def is_free(row: Row) -> bool:
    """Say whether the id may be used as if it had never come: it was abandoned, or expired."""
    is_over = row.state in ("finished", "confirming")
    return row.state == "abandoned" or (row.expired and is_over)


def check_token_of(row: Row, token: str) -> None:
    """Raises ConfirmationRefused for a token that is not the last one of this request."""
    if row.token_digest is None:
        raise ConfirmationRefused("there is nothing to confirm under this request_id")
    if bytes(row.token_digest) != digest_of(token):
        raise ConfirmationRefused(
            "another summary has taken the place of this one", reason="CONFIRMATION_OUTDATED"
        )


def decide_confirming(token: str, row: Row) -> StoredAnswer | Take:
    if not token:
        return "run" if row.token_over else stored_answer(row)
    if row.token_over:
        raise ConfirmationRefused("the token's time is over", reason="CONFIRMATION_EXPIRED")
    return "confirmed"


def stored_answer(row: Row) -> StoredAnswer:
    assert row.answer is not None
    return StoredAnswer(bytes(row.answer))


def confirmed_of(row: Row) -> Confirmed:
    """What *row* waited with for its confirmation."""
    assert row.planned is not None
    assert row.answer is not None
    assert row.records_digest is not None
    return Confirmed(
        pb.ConfirmationRequired.FromString(bytes(row.planned)),
        pb.ExecuteResponse.FromString(bytes(row.answer)).interpretation,
        bytes(row.records_digest),
        row.time_zone,
    )


def orphaned_of(row: Row, lease: Lease) -> Orphaned:
    """What the call that had *row* before left behind, now under *lease*."""
    assert row.planned is not None
    assert row.answer is not None
    return Orphaned(
        lease,
        pb.ConfirmationRequired.FromString(bytes(row.planned)),
        pb.ExecuteResponse.FromString(bytes(row.answer)),
        row.claimed,
        row.locale,
        row.age,
    )
