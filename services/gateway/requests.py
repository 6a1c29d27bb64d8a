"""Requests and their answers, so that the same request_id does nothing twice (GAT-2, GAT-5)."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.failures import ConfirmationRefused, RequestIdReused, RequestInProgress
from services.runtime.calling import deadline_left
from services.runtime.failure import Failure
from services.runtime.identity import Caller
from services.runtime.postgres import Pool

SCHEMA = "gateway"
VERSION = "20261123000400"
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.05
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))


@dataclass(frozen=True)
class Opened:
    """A request that is this call's to carry out; *planned* when it has been confirmed."""

    owner: UUID
    planned: pb.ConfirmationRequired | None = None


@dataclass(frozen=True)
class Answered:
    """The answer of an earlier call."""

    answer: pb.ExecuteResponse


@dataclass(frozen=True)
class Row:
    fingerprint: bytes
    state: str
    lease_until: datetime
    answer: bytes | None
    planned: bytes | None
    token_digest: bytes | None
    token_expires_at: datetime | None


def fingerprint_of(request: pb.ExecuteRequest) -> bytes:
    """What tells a payload from another under the same id; the confirmation is no part of it."""
    payload = pb.ExecuteRequest()
    payload.CopyFrom(request)
    payload.ClearField("confirmation_token")
    return hashlib.sha256(payload.SerializeToString(deterministic=True)).digest()


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Requests:
    """The table of requests. Every method raises StoreUnavailable."""

    def __init__(self, pool: Pool, *, now: Callable[[], datetime], keep: timedelta) -> None:
        self._pool = pool
        self._now = now
        self._keep = keep

    async def open(
        self, request: pb.ExecuteRequest, caller: Caller, lease: timedelta
    ) -> Opened | Answered:
        """Take the request on, or return its answer; wait while another call carries it out.

        A call that died is taken over when its lease is over: every effect has the operation's id,
        so nothing is done twice. Raises RequestIdReused, RequestInProgress, ConfirmationRefused.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_left(WAIT_SECONDS)
        while True:
            found = await self._try_open(request, caller, lease)
            if found is not None:
                return found
            if loop.time() + POLL_SECONDS >= until:
                raise RequestInProgress
            await asyncio.sleep(POLL_SECONDS)

    async def _try_open(
        self, request: pb.ExecuteRequest, caller: Caller, lease: timedelta
    ) -> Opened | Answered | None:
        now, owner = self._now(), uuid4()
        key = (caller.user_id, request.request_id)
        async with self._pool.transaction(caller) as connection:
            if not request.confirmation_token:
                made = await connection.execute(
                    "INSERT INTO gateway.requests (user_id, request_id, fingerprint, state, owner,"
                    " lease_until, created_at, expires_at)"
                    " VALUES (%s, %s, %s, 'running', %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (*key, fingerprint_of(request), owner, now + lease, now, now + self._keep),
                )
                if made.rowcount == 1:
                    return Opened(owner)
            found = await connection.execute(
                "SELECT fingerprint, state, lease_until, answer, planned, token_digest,"
                " token_expires_at FROM gateway.requests"
                " WHERE user_id = %s AND request_id = %s FOR UPDATE",
                key,
            )
            values = await found.fetchone()
            row = Row(*values) if values else None
            decided = decide(request, row, now)
            if decided != "take":
                return decided
            await connection.execute(
                "UPDATE gateway.requests SET state = 'running', owner = %s, lease_until = %s"
                " WHERE user_id = %s AND request_id = %s",
                (owner, now + lease, *key),
            )
        assert row is not None
        planned = None
        if row.planned is not None:
            planned = pb.ConfirmationRequired.FromString(bytes(row.planned))
        return Opened(owner, planned)

    async def confirming(
        self,
        request_id: str,
        caller: Caller,
        opened: Opened,
        answer: pb.ExecuteResponse,
        planned: pb.ConfirmationRequired,
    ) -> None:
        """Keep what waits for its confirmation."""
        confirmation = answer.confirmation
        async with self._pool.transaction(caller) as connection:
            await connection.execute(
                "UPDATE gateway.requests SET state = 'confirming', answer = %s, planned = %s,"
                " token_digest = %s, token_expires_at = %s"
                " WHERE user_id = %s AND request_id = %s AND owner = %s",
                (
                    answer.SerializeToString(),
                    planned.SerializeToString(),
                    digest_of(confirmation.confirmation_token),
                    confirmation.expires_at.ToDatetime(tzinfo=self._now().tzinfo),
                    caller.user_id,
                    request_id,
                    opened.owner,
                ),
            )

    async def finish(
        self, request_id: str, caller: Caller, opened: Opened, answer: pb.ExecuteResponse
    ) -> None:
        """Keep the answer, unless another call has taken the request over."""
        async with self._pool.transaction(caller) as connection:
            await connection.execute(
                "UPDATE gateway.requests SET state = 'finished', answer = %s"
                " WHERE user_id = %s AND request_id = %s AND owner = %s",
                (answer.SerializeToString(), caller.user_id, request_id, opened.owner),
            )

    async def abandon(self, request_id: str, caller: Caller, opened: Opened) -> None:
        """Forget a request that was refused and changed nothing, so that it may be tried again."""
        async with self._pool.transaction(caller) as connection:
            if opened.planned is not None:
                await connection.execute(
                    "UPDATE gateway.requests SET state = 'confirming'"
                    " WHERE user_id = %s AND request_id = %s AND owner = %s",
                    (caller.user_id, request_id, opened.owner),
                )
                return
            await connection.execute(
                "DELETE FROM gateway.requests"
                " WHERE user_id = %s AND request_id = %s AND owner = %s",
                (caller.user_id, request_id, opened.owner),
            )

    async def state(self, request_id: str, caller: Caller) -> str | None:
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT state FROM gateway.requests WHERE user_id = %s AND request_id = %s",
                (caller.user_id, request_id),
            )
            row = await found.fetchone()
        return row[0] if row else None

    async def sweep(self) -> int:
        """Delete what is over; how many rows that were."""
        async with self._pool.transaction(ITSELF) as connection:
            done = await connection.execute(
                "DELETE FROM gateway.requests WHERE ctid IN ("
                " SELECT ctid FROM gateway.requests WHERE expires_at < now() LIMIT 1000)"
            )
            return done.rowcount

    async def sweeping(self, every_seconds: float = 60.0) -> None:
        """Delete what is over now and then, for ever; run as a task."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await self.sweep()
            except Failure:
                continue  # the store is away; what is over stays a little longer


def decide(
    request: pb.ExecuteRequest, row: Row | None, now: datetime
) -> Answered | Literal["take"] | None:
    """What to do with a request: `take` it on, answer it, or None: wait, and look again."""
    has_input = request.WhichOneof("input") is not None
    token = request.confirmation_token
    if row is None:
        if token:
            raise ConfirmationRefused("there is nothing to confirm under this request_id")
        return None
    if has_input and bytes(row.fingerprint) != fingerprint_of(request):
        raise RequestIdReused
    if token and (row.token_digest is None or bytes(row.token_digest) != digest_of(token)):
        raise ConfirmationRefused("the token is not the one of this request")
    if row.state == "finished":
        assert row.answer is not None
        return Answered(pb.ExecuteResponse.FromString(bytes(row.answer)))
    if row.state == "confirming":
        return confirming(token, row, now)
    return "take" if row.lease_until <= now else None


def confirming(token: str, row: Row, now: datetime) -> Answered | Literal["take"]:
    assert row.answer is not None
    assert row.token_expires_at is not None
    if not token:
        return Answered(pb.ExecuteResponse.FromString(bytes(row.answer)))
    if row.token_expires_at <= now:
        raise ConfirmationRefused("the token's time is over", reason="CONFIRMATION_EXPIRED")
    return "take"
