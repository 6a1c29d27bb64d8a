"""Requests and their answers, so that the same request_id does nothing twice (GAT-2, GAT-5).

A row says how far a request has come. Until `dispatching` nothing has been changed, so whoever
finds the row left behind starts anew; from then on nobody carries anything out again: what became
of it is asked of the domains. The lease is renewed as long as the one who has it lives.

What only reads goes from `running` to `settling` with nothing claimed: its answer stands, and has
been given, while the log may lack it.
"""

import asyncio
import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple
from uuid import UUID, uuid4

import psycopg
from gatehouse.gateway.v1 import gateway_pb2 as pb
from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

from services.gateway.failures import ConfirmationRefused, RequestIdReused, RequestInProgress
from services.runtime.calling import deadline_left
from services.runtime.failure import Failure
from services.runtime.gathering import Together
from services.runtime.identity import Caller
from services.runtime.postgres import Pool
from services.runtime.telemetry import Telemetry

SCHEMA = "gateway"
VERSION = "20261125000600"
WAIT_SECONDS = 30.0
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 0.25
LEASE = timedelta(seconds=6)
# Twice before it ends, the store may be away for a moment.
RENEWED_AFTER = 1 / 3
MOST_TAKEN_ON = 100
MOST_SWEPT = 1000
MOST_KEPT_BYTES = 1024 * 1024
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

Take = Literal["run", "confirmed", "recover"]


@dataclass(frozen=True)
class Confirmed:
    """What was summarised and has been confirmed: exactly this, and about these records."""

    planned: pb.ConfirmationRequired
    interpretation: pb.Interpretation
    records_digest: bytes
    time_zone: str


@dataclass(frozen=True)
class Opened:
    """A request that is this call's to carry out."""

    request_id: str
    owner: UUID
    confirmed: Confirmed | None = None


@dataclass(frozen=True)
class Left:
    """What a call that ended midway has left: *planned* may have been carried out, or a part.

    *answer* has the report as far as it is known.
    """

    request_id: str
    owner: UUID
    planned: pb.ConfirmationRequired
    answer: pb.ExecuteResponse
    claimed: int
    locale: str
    # Since it came first, by the store's clock.
    age: timedelta


@dataclass(frozen=True)
class Answered:
    """The answer of an earlier call."""

    answer: pb.ExecuteResponse


class New(NamedTuple):
    """A request that comes for the first time, as far as its call knows."""

    user_id: str
    clinic_id: str
    request_id: str
    fingerprint: bytes
    locale: str
    time_zone: str
    owner: UUID


class Held(NamedTuple):
    """A request that is being carried out here."""

    user_id: str
    request_id: str
    owner: UUID


class Kept(NamedTuple):
    """How far a request has come: a new state, and what is kept with it, if it was not before."""

    user_id: str
    request_id: str
    owner: UUID
    state: Literal["settling", "finished"]
    answer: bytes | None = None
    planned: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.answer or b"") + len(self.planned or b"")


@dataclass(frozen=True)
class Row:
    fingerprint: bytes
    state: str
    lease_over: bool
    locale: str
    time_zone: str
    answer: bytes | None
    planned: bytes | None
    claimed: int
    records_digest: bytes | None
    token_digest: bytes | None
    token_over: bool
    # Since it came first, by the store's clock.
    age: timedelta


READ_ROW = """
    SELECT fingerprint, state, lease_until <= now() AS lease_over, locale, time_zone, answer,
        planned, claimed, records_digest, token_digest,
        coalesce(token_expires_at <= now(), false) AS token_over, now() - created_at AS age
    FROM gateway.requests WHERE user_id = %s AND request_id = %s FOR UPDATE
"""


# Rows come as one text of JSON: the driver takes several times as long for as many arrays.
TAKE_ON = """
    INSERT INTO gateway.requests (user_id, clinic_id, request_id, fingerprint, locale, time_zone,
        owner, state, lease_until, expires_at)
    SELECT user_id, clinic_id, request_id, decode(fingerprint, 'hex'), locale, time_zone,
        owner, 'running', now() + %s, now() + %s
    FROM json_to_recordset(%s) AS new (user_id uuid, clinic_id text, request_id text,
        fingerprint text, locale text, time_zone text, owner uuid)
    ON CONFLICT DO NOTHING RETURNING owner
"""
KEEP = """
    UPDATE gateway.requests AS kept
    SET state = told.state, answer = coalesce(decode(told.answer, 'base64'), kept.answer),
        planned = coalesce(decode(told.planned, 'base64'), kept.planned)
    FROM json_to_recordset(%s) AS told (user_id uuid, request_id text, owner uuid, state text,
        answer text, planned text)
    WHERE kept.user_id = told.user_id AND kept.request_id = told.request_id
        AND kept.owner = told.owner
"""
# What is being written by another statement is alive, so it is not waited for.
RENEW = """
    UPDATE gateway.requests AS kept SET lease_until = now() + %s
    FROM (
        SELECT user_id, request_id FROM gateway.requests
        JOIN unnest(%s::uuid[], %s::text[], %s::uuid[]) AS held (user_id, request_id, owner)
            USING (user_id, request_id, owner)
        FOR UPDATE OF requests SKIP LOCKED
    ) AS mine
    WHERE kept.user_id = mine.user_id AND kept.request_id = mine.request_id
    RETURNING kept.owner, kept.cancelled
"""


def named_together(users: Iterable[str]) -> Caller:
    """In whose name a statement about several users' requests runs: theirs, and nobody else's."""
    return Caller(",".join(sorted(set(users))), "", frozenset({"user"}))


def new_row(new: New) -> dict[str, str]:
    return new._asdict() | {"fingerprint": new.fingerprint.hex(), "owner": str(new.owner)}


def kept_row(kept: Kept) -> dict[str, str | None]:
    return {
        "user_id": kept.user_id,
        "request_id": kept.request_id,
        "owner": str(kept.owner),
        "state": kept.state,
        "answer": in_base64(kept.answer),
        "planned": in_base64(kept.planned),
    }


def in_base64(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode()


def fingerprint_of(request: pb.ExecuteRequest, clinic_id: str) -> bytes:
    """What tells a payload from another under the same id.

    The confirmation and the revision to answer from are no part of it.

    The clinic is: what was answered about one is not shown to a caller of another (ALL-3).
    """
    payload = pb.ExecuteRequest()
    payload.CopyFrom(request)
    payload.ClearField("confirmation_token")
    payload.ClearField("min_revision")
    text = clinic_id.encode() + payload.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Requests:
    """The table of requests. Every method raises StoreUnavailable."""

    def __init__(
        self,
        pool: Pool,
        *,
        keep: timedelta,
        lease: timedelta = LEASE,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._pool = pool
        self._keep = keep
        self._lease = lease
        self._held: dict[Held, asyncio.Event] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._taking = Together("take requests on", self._take_on, telemetry, most=MOST_TAKEN_ON)
        self._keeping = Together(
            "keep answers",
            self._keep_together,
            telemetry,
            most=MOST_KEPT_BYTES,
            size=lambda kept: kept.size,
        )

    async def open(
        self, request: pb.ExecuteRequest, caller: Caller, locale: str, time_zone: str
    ) -> Opened | Left | Answered:
        """Take the request on, or return its answer; wait while another call carries it out.

        Raises RequestIdReused, RequestInProgress, ConfirmationRefused.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_left(WAIT_SECONDS)
        pause = FIRST_POLL_SECONDS
        while True:
            found = await self._try_open(request, caller, locale, time_zone)
            if found is not None:
                return found
            if loop.time() + pause >= until:
                raise RequestInProgress
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONGEST_POLL_SECONDS)

    async def _try_open(
        self, request: pb.ExecuteRequest, caller: Caller, locale: str, time_zone: str
    ) -> Opened | Left | Answered | None:
        owner, id_ = uuid4(), request.request_id
        mark = fingerprint_of(request, caller.clinic_id)
        if not request.confirmation_token:
            new = New(caller.user_id, caller.clinic_id, id_, mark, locale, time_zone, owner)
            if await self._taking.ask(new):
                return Opened(id_, owner)
        async with self._pool.transaction(caller) as connection:
            row = await read_row(connection, caller, id_)
            decided = decide(request, mark, row)
            if decided is None or isinstance(decided, Answered):
                return decided
            assert row is not None
            await self._take(connection, caller, id_, owner, decided)
        return taken(decided, id_, owner, row)

    async def _take_on(self, new: Sequence[New]) -> list[bool]:
        """Make the rows of new requests, in their users' names; which of them were new."""
        # In one order for all replicas, so that no two wait for each other.
        rows = sorted(new, key=lambda each: (each.user_id, each.request_id))
        made = await self._pool.once(
            named_together(each.user_id for each in new),
            TAKE_ON,
            (self._lease, self._keep, json.dumps([new_row(each) for each in rows])),
        )
        owners = {row[0] for row in made.rows}
        return [each.owner in owners for each in new]

    async def _take(
        self,
        connection: AsyncConnection[TupleRow],
        caller: Caller,
        request_id: str,
        owner: UUID,
        how: Take,
    ) -> None:
        changes = {
            "run": "state = 'running', answer = NULL, planned = NULL, records_digest = NULL,"
            " token_digest = NULL, token_expires_at = NULL,",
            "confirmed": "state = 'running',",
            "recover": "",
        }
        await connection.execute(
            f"UPDATE gateway.requests SET {changes[how]} owner = %s, cancelled = false,"  # noqa: S608  texts of ours
            " lease_until = now() + %s WHERE user_id = %s AND request_id = %s",
            (owner, self._lease, caller.user_id, request_id),
        )

    async def take_over(
        self, caller: Caller, request_id: str
    ) -> Left | Literal["forgotten"] | None:
        """Take on what a call that is gone has left; None where it is not gone after all.

        Where nothing can have been changed, the row is forgotten, as if it had not come.
        """
        owner = uuid4()
        async with self._pool.transaction(caller) as connection:
            row = await read_row(connection, caller, request_id)
            if row is None or not row.lease_over:
                return None
            if row.state == "running":
                await forget(connection, caller, request_id, confirmed=row.planned is not None)
                return "forgotten"
            if row.state not in ("dispatching", "settling"):
                return None
            await self._take(connection, caller, request_id, owner, "recover")
        return left_in(row, request_id, owner)

    async def left(self, grace: timedelta, most: int) -> list[tuple[Caller, str]]:
        """Requests whose lease has been over for *grace*: their users, and their ids.

        What was answered and may lack its row in the log does not wait for that.
        """
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute(
                "SELECT user_id, clinic_id, request_id FROM gateway.requests"
                " WHERE state IN ('running', 'dispatching', 'settling') AND lease_until < now()"
                " AND (lease_until < now() - %s OR (state = 'settling' AND claimed = 0))"
                " ORDER BY lease_until LIMIT %s",
                (grace, most),
            )
            rows = await found.fetchall()
        return [(Caller(str(row[0]), row[1], frozenset({"user"})), row[2]) for row in rows]

    @contextmanager
    def held(
        self, request_id: str, caller: Caller, owner: UUID, cancelled: asyncio.Event
    ) -> Iterator[None]:
        """Keep the lease as long as the block runs, so that nobody takes the request over.

        *cancelled* is set where someone wants it stopped, and nobody else has set it yet.
        """
        held = Held(caller.user_id, request_id, owner)
        self._held[held] = cancelled
        if self._renewing is None:
            # In a context of its own: it is nobody's call.
            self._renewing = asyncio.create_task(self._renew(), context=Context())
        try:
            yield
        finally:
            del self._held[held]

    async def _renew(self) -> None:
        """Renew the leases of what is held, as long as anything is."""
        try:
            await asyncio.sleep(self._lease.total_seconds() * RENEWED_AFTER)
            while self._held:
                columns = [list(column) for column in zip(*self._held, strict=True)]
                # Where the store is away, so is whoever could take the requests over.
                with suppress(Failure, psycopg.Error):
                    renewed = await self._pool.once(
                        named_together(columns[0]), RENEW, (self._lease, *columns)
                    )
                    self._stop({owner for owner, cancelled in renewed.rows if cancelled})
                await asyncio.sleep(self._lease.total_seconds() * RENEWED_AFTER)
        finally:
            self._renewing = None

    def _stop(self, owners: set[UUID]) -> None:
        for held, cancelled in self._held.items():
            if held.owner in owners:
                cancelled.set()

    async def confirming(
        self,
        opened: Opened,
        caller: Caller,
        answer: pb.ExecuteResponse,
        records_digest: bytes,
        time_zone: str,
        lifetime: timedelta,
    ) -> None:
        """Keep what waits for its confirmation, which *answer* asks for within *lifetime*.

        *time_zone* is the one in which its words were read.
        """
        confirmation = answer.confirmation
        await self._set(
            caller,
            opened.request_id,
            opened.owner,
            "state = 'confirming', answer = %s, planned = %s, records_digest = %s,"
            " token_digest = %s, token_expires_at = now() + %s, time_zone = %s",
            answer.SerializeToString(),
            confirmation.SerializeToString(),
            records_digest,
            digest_of(confirmation.confirmation_token),
            lifetime,
            time_zone,
        )

    async def outdated(self, opened: Opened, caller: Caller) -> None:
        """The confirmation no longer holds: asked again, the request gets a new summary."""
        await self._set(
            caller,
            opened.request_id,
            opened.owner,
            "state = 'confirming', token_expires_at = now()",
        )

    async def decline(self, request_id: str, caller: Caller) -> bool:
        """Take no confirmation of a request any more; whether one was waited for."""
        done = await self._pool.once(
            caller,
            "UPDATE gateway.requests SET token_expires_at = now() WHERE user_id = %s"
            " AND request_id = %s AND state = 'confirming' AND token_expires_at > now()",
            (caller.user_id, request_id),
        )
        return done.count == 1

    async def dispatching(
        self,
        opened: Opened,
        caller: Caller,
        planned: pb.ConfirmationRequired,
        claimed: int,
        answer: pb.ExecuteResponse,
    ) -> None:
        """From now on *planned* may have been carried out. Raises RequestInProgress for one lost.

        *claimed* is how many changes were claimed, and *answer* has what is refused already.
        """
        mine = await self._set(
            caller,
            opened.request_id,
            opened.owner,
            "state = 'dispatching', planned = %s, claimed = %s, answer = %s",
            planned.SerializeToString(),
            claimed,
            answer.SerializeToString(),
        )
        if not mine:
            raise RequestInProgress

    async def settling(
        self, request_id: str, caller: Caller, owner: UUID, answer: pb.ExecuteResponse
    ) -> None:
        """What became of it is known, and stands from now on."""
        await self._set(
            caller,
            request_id,
            owner,
            "state = 'settling', answer = %s",
            answer.SerializeToString(),
        )

    async def open_still(
        self, request_id: str, caller: Caller, owner: UUID, answer: pb.ExecuteResponse
    ) -> None:
        """It could not be settled whole: whoever comes next goes on with it."""
        await self._set(
            caller,
            request_id,
            owner,
            "state = 'settling', lease_until = now(), answer = %s",
            answer.SerializeToString(),
        )

    async def finish(
        self, request_id: str, caller: Caller, owner: UUID, answer: pb.ExecuteResponse
    ) -> None:
        """Keep the answer, unless another call has taken the request over."""
        kept = answer.SerializeToString()
        await self._keeping.ask(Kept(caller.user_id, request_id, owner, "finished", kept))

    async def stands(
        self,
        opened: Opened,
        caller: Caller,
        planned: pb.ConfirmationRequired,
        answer: pb.ExecuteResponse,
    ) -> Kept:
        """Keep the answer of a request that only reads, which the log may lack until `logged`.

        It can be given from now on: whoever finds the row left behind has the log get it. Returns
        how it is kept once the log has it.
        """
        written = answer.SerializeToString(), planned.SerializeToString()
        kept = Kept(caller.user_id, opened.request_id, opened.owner, "settling", *written)
        await self._keeping.ask(kept)
        return kept._replace(state="finished", answer=None, planned=None)

    async def logged(self, kept: Sequence[Kept]) -> None:
        """The log has what `stands`."""
        await self._keep_together(kept)

    async def _keep_together(self, kept: Sequence[Kept]) -> list[None]:
        users = named_together(each.user_id for each in kept)
        await self._pool.once(users, KEEP, (json.dumps([kept_row(each) for each in kept]),))
        return [None] * len(kept)

    async def _set(
        self, caller: Caller, request_id: str, owner: UUID, changes: str, *values: object
    ) -> bool:
        """Change the row, if it is still *owner*'s; whether it was."""
        done = await self._pool.once(
            caller,
            f"UPDATE gateway.requests SET {changes}"  # noqa: S608  texts of ours
            " WHERE user_id = %s AND request_id = %s AND owner = %s",
            (*values, caller.user_id, request_id, owner),
        )
        return done.count == 1

    async def abandon(self, opened: Opened, caller: Caller) -> None:
        """Forget a request that has changed nothing, so that it may be tried again."""
        async with self._pool.transaction(caller) as connection:
            row = await read_row(connection, caller, opened.request_id, opened.owner)
            if row is not None and row.state == "running":
                confirmed = row.planned is not None
                await forget(connection, caller, opened.request_id, confirmed=confirmed)

    async def state(self, request_id: str, caller: Caller) -> str | None:
        found = await self._pool.once(
            caller,
            "SELECT CASE WHEN state = 'settling' AND claimed = 0 THEN 'finished' ELSE state END"
            " FROM gateway.requests WHERE user_id = %s AND request_id = %s",
            (caller.user_id, request_id),
        )
        return found.rows[0][0] if found.rows else None

    async def sweep(self) -> int:
        """Delete what is over, some at a time; how many rows that were."""
        swept = 0
        while True:
            async with self._pool.transaction(ITSELF) as connection:
                done = await connection.execute(
                    "DELETE FROM gateway.requests WHERE ctid IN (SELECT ctid FROM gateway.requests"
                    " WHERE expires_at < now() LIMIT %s)",
                    (MOST_SWEPT,),
                )
            swept += done.rowcount
            if done.rowcount < MOST_SWEPT:
                return swept


async def read_row(
    connection: AsyncConnection[TupleRow],
    caller: Caller,
    request_id: str,
    owner: UUID | None = None,
) -> Row | None:
    """The row of a request, locked; only if it is *owner*'s, where one is given."""
    async with connection.cursor(row_factory=class_row(Row)) as cursor:
        if owner is None:
            await cursor.execute(READ_ROW, (caller.user_id, request_id))
        else:
            owned = READ_ROW.replace("FOR UPDATE", "AND owner = %s FOR UPDATE")
            await cursor.execute(owned, (caller.user_id, request_id, owner))
        return await cursor.fetchone()


async def forget(
    connection: AsyncConnection[TupleRow], caller: Caller, request_id: str, *, confirmed: bool
) -> None:
    """As if it had not come; one that had been confirmed waits for its token again."""
    statement = (
        "UPDATE gateway.requests SET state = 'confirming'"
        if confirmed
        else "DELETE FROM gateway.requests"
    )
    await connection.execute(
        f"{statement} WHERE user_id = %s AND request_id = %s",
        (caller.user_id, request_id),
    )


def decide(
    request: pb.ExecuteRequest, fingerprint: bytes, row: Row | None
) -> Answered | Take | None:
    """What to do with a request: take it on, answer it, or None: wait, and look again."""
    has_input = request.WhichOneof("input") is not None
    token = request.confirmation_token
    if row is None:
        if token:
            raise ConfirmationRefused("there is nothing to confirm under this request_id")
        return None
    if has_input and bytes(row.fingerprint) != fingerprint:
        raise RequestIdReused
    if token:
        check_token_of(row, token)
    match row.state:
        case "finished":
            return answered(row)
        case "settling" if row.claimed == 0 and not row.lease_over:
            return answered(row)  # it only reads: its answer stands
        case "confirming":
            return confirming(token, row)
        case "running" if row.lease_over and row.planned is not None:
            return confirming(token, row)
        case "running":
            return "run" if row.lease_over else None
        case _:
            return "recover" if row.lease_over else None


def check_token_of(row: Row, token: str) -> None:
    """Raises ConfirmationRefused for a token that is not the last one of this request."""
    if row.token_digest is None:
        raise ConfirmationRefused("there is nothing to confirm under this request_id")
    if bytes(row.token_digest) != digest_of(token):
        raise ConfirmationRefused(
            "another summary has taken the place of this one", reason="CONFIRMATION_OUTDATED"
        )


def confirming(token: str, row: Row) -> Answered | Take:
    if not token:
        return "run" if row.token_over else answered(row)
    if row.token_over:
        raise ConfirmationRefused("the token's time is over", reason="CONFIRMATION_EXPIRED")
    return "confirmed"


def answered(row: Row) -> Answered:
    assert row.answer is not None
    return Answered(pb.ExecuteResponse.FromString(bytes(row.answer)))


def taken(how: Take, request_id: str, owner: UUID, row: Row) -> Opened | Left:
    if how == "recover":
        return left_in(row, request_id, owner)
    if how == "run":
        return Opened(request_id, owner)
    assert row.planned is not None
    assert row.records_digest is not None
    planned = pb.ConfirmationRequired.FromString(bytes(row.planned))
    interpretation = answered(row).answer.interpretation
    confirmed = Confirmed(planned, interpretation, bytes(row.records_digest), row.time_zone)
    return Opened(request_id, owner, confirmed)


def left_in(row: Row, request_id: str, owner: UUID) -> Left:
    assert row.planned is not None
    return Left(
        request_id,
        owner,
        pb.ConfirmationRequired.FromString(bytes(row.planned)),
        answered(row).answer,
        row.claimed,
        row.locale,
        row.age,
    )
