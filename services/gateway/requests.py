"""Stores counted requests and their answers: a request_id does nothing twice (GAT-2, GAT-5).

replay.py says what the states of a row mean. A lease is renewed as long as its owner lives; every
write names its owner, so an attempt that was taken over writes nothing any more.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal, NamedTuple
from uuid import UUID, uuid4

import psycopg
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.message import Message
from psycopg import AsyncConnection
from psycopg.rows import TupleRow, class_row

from services.gateway.failures import RequestInProgress, Superseded
from services.gateway.replay import (
    Call,
    Lease,
    Orphaned,
    Row,
    StoredAnswer,
    Take,
    confirmed_of,
    decide,
    digest_of,
    orphaned_of,
)
from services.runtime.calling import deadline_left
from services.runtime.failure import Failure
from services.runtime.gathering import Together
from services.runtime.identity import Caller
from services.runtime.postgres import Pool
from services.runtime.telemetry import Telemetry

SCHEMA = "gateway"
VERSION = "20261130000410"
WAIT_SECONDS = 30.0
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 0.25
LEASE = timedelta(seconds=6)
# Twice before it ends, the store may be away for a moment.
RENEWED_AFTER = 1 / 3
MOST_TAKEN_ON = 100
MOST_SWEPT = 1000
MOST_KEPT_BYTES = 1024 * 1024
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))


@dataclass(frozen=True)
class OrphanedRead:
    """A request that only read, whose call is gone.

    With *unlogged* its answer stands, and the log may lack these spans. Without, there is no
    answer, and what was counted for it is to be released unless the lease says `delivered`.
    """

    lease: Lease
    unlogged: bytes | None = field(default=None, repr=False)


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
    """A request that runs in this process."""

    user_id: str
    request_id: str
    owner: UUID


class KeptAnswer(NamedTuple):
    """A new state of a row, and what is stored with it, where it was not before."""

    user_id: str
    request_id: str
    owner: UUID
    state: Literal["answered", "finished"]
    answer: bytes | None = None
    unlogged: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.answer or b"") + len(self.unlogged or b"")


READ_ROW = """
    SELECT fingerprint, state, lease_until <= now() AS lease_over, expires_at <= now() AS expired,
        locale, time_zone, answer, planned, claimed, records_digest, token_digest,
        coalesce(token_expires_at <= now(), false) AS token_over, now() - created_at AS age,
        use_id, attempt, delivered, unlogged
    FROM gateway.requests WHERE user_id = %s AND request_id = %s FOR UPDATE
"""


# Rows come as one text of JSON: the driver takes several times as long for as many arrays. The
# first owner's id serves as the use's.
TAKE_ON = """
    INSERT INTO gateway.requests (user_id, clinic_id, request_id, fingerprint, locale, time_zone,
        owner, use_id, state, lease_until, expires_at)
    SELECT user_id, clinic_id, request_id, decode(fingerprint, 'hex'), locale, time_zone,
        owner, owner, 'running', now() + %s, now() + %s
    FROM json_to_recordset(%s) AS new (user_id uuid, clinic_id text, request_id text,
        fingerprint text, locale text, time_zone text, owner uuid)
    ON CONFLICT DO NOTHING RETURNING owner
"""
# An id that is free begins a new use where another payload comes, or its answer has expired.
TAKE_AGAIN = """
    UPDATE gateway.requests SET state = 'running', answer = NULL, planned = NULL,
        records_digest = NULL, token_digest = NULL, token_expires_at = NULL, unlogged = NULL,
        claimed = 0, cancelled = false, attempt = attempt + 1, owner = %(owner)s,
        use_id = CASE WHEN %(is_new_use)s THEN %(owner)s ELSE use_id END,
        delivered = delivered AND NOT %(is_new_use)s,
        created_at = CASE WHEN %(is_new_use)s THEN now() ELSE created_at END,
        fingerprint = %(fingerprint)s, locale = %(locale)s, time_zone = %(time_zone)s,
        lease_until = now() + %(lease)s, expires_at = now() + %(keep)s
    WHERE user_id = %(user_id)s AND request_id = %(request_id)s
    RETURNING use_id, attempt, delivered
"""
TAKE_OVER = """
    UPDATE gateway.requests SET state = %(state)s, cancelled = false, attempt = attempt + 1,
        owner = %(owner)s, lease_until = now() + %(lease)s
    WHERE user_id = %(user_id)s AND request_id = %(request_id)s
    RETURNING use_id, attempt, delivered
"""
KEEP = """
    WITH told AS (
        SELECT * FROM json_to_recordset(%s) AS told (user_id uuid, request_id text, owner uuid,
            state text, answer text, unlogged text)),
    mine AS (
        SELECT owner FROM gateway.requests JOIN told USING (user_id, request_id, owner)
        FOR UPDATE OF requests{locked})
    UPDATE gateway.requests AS kept
    SET state = told.state, answer = coalesce(decode(told.answer, 'base64'), kept.answer),
        unlogged = CASE WHEN told.state = 'answered' THEN decode(told.unlogged, 'base64') END
    FROM told JOIN mine USING (owner)
    WHERE kept.user_id = told.user_id AND kept.request_id = told.request_id
        AND kept.owner = told.owner
    RETURNING kept.owner
"""
# Nobody's answer waits for the row of another (USE-9).
KEEP_UNLOCKED, KEEP_ONE = KEEP.format(locked=" SKIP LOCKED"), KEEP.format(locked="")
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
# An attempt that was confirmed waits for its token again.
ABANDON = """
    UPDATE gateway.requests SET lease_until = now(),
        state = CASE WHEN planned IS NULL THEN 'abandoned' ELSE 'confirming' END
    WHERE user_id = %s AND request_id = %s AND owner = %s AND state = 'running'
"""
FORGET = """
    DELETE FROM gateway.requests WHERE user_id = %s AND request_id = %s AND owner = %s
        AND state = 'running' AND planned IS NULL AND attempt = 1
"""


def named_together(users: Iterable[str]) -> Caller:
    """In whose name a statement about several users' requests runs: theirs, and nobody else's."""
    return Caller(",".join(sorted(set(users))), "", frozenset({"user"}))


def new_row(new: New) -> dict[str, str]:
    return new._asdict() | {"fingerprint": new.fingerprint.hex(), "owner": str(new.owner)}


def kept_row(kept: KeptAnswer) -> dict[str, str | None]:
    return {
        "user_id": kept.user_id,
        "request_id": kept.request_id,
        "owner": str(kept.owner),
        "state": kept.state,
        "answer": in_base64(kept.answer),
        "unlogged": in_base64(kept.unlogged),
    }


def in_base64(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode()


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

    async def check_writes(self) -> bool:
        """Whether requests could be taken on, as far as the table goes; for health."""
        return await self._pool.lets_write(ITSELF, "DELETE FROM gateway.requests WHERE false")

    async def open(self, call: Call) -> Lease | Orphaned | StoredAnswer:
        """Take the request on, or return its answer; wait while another call runs it.

        Raises RequestIdReused, RequestInProgress, ConfirmationRefused.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_left(WAIT_SECONDS)
        pause = FIRST_POLL_SECONDS
        while True:
            found = await self._try_open(call)
            if found is not None:
                return found
            if loop.time() + pause >= until:
                raise RequestInProgress
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONGEST_POLL_SECONDS)

    async def _try_open(self, call: Call) -> Lease | Orphaned | StoredAnswer | None:
        owner, caller, id_ = uuid4(), call.caller, call.request_id
        if not call.confirmation_token:
            mark = call.fingerprint
            new = New(
                caller.user_id, caller.clinic_id, id_, mark, call.locale, call.time_zone, owner
            )
            if await self._taking.ask(new):
                return Lease(caller, id_, owner, use_id=owner, attempt=1)
        async with self._pool.transaction(caller) as connection:
            row = await read_row(connection, caller, id_)
            decided = decide(call, row)
            if decided is None or isinstance(decided, StoredAnswer):
                return decided
            assert row is not None
            return await self._take(connection, call, row, owner, decided)

    async def _take_on(self, new: Sequence[New]) -> list[bool]:
        """Insert the rows of new requests, in their users' names; which of them were new."""
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
        self, connection: AsyncConnection[TupleRow], call: Call, row: Row, owner: UUID, how: Take
    ) -> Lease | Orphaned:
        if how != "run":
            state = "running" if how == "confirmed" else row.state
            lease = await self._take_over(connection, call.caller, call.request_id, owner, state)
            if how == "recover":
                return orphaned_of(row, lease)
            return replace(lease, confirmed=confirmed_of(row))
        values = {
            "user_id": call.caller.user_id,
            "request_id": call.request_id,
            "owner": owner,
            "is_new_use": row.expired or bytes(row.fingerprint) != call.fingerprint,
            "fingerprint": call.fingerprint,
            "locale": call.locale,
            "time_zone": call.time_zone,
            "lease": self._lease,
            "keep": self._keep,
        }
        found = await (await connection.execute(TAKE_AGAIN, values)).fetchone()
        assert found is not None
        return Lease(call.caller, call.request_id, owner, *found)

    async def _take_over(
        self,
        connection: AsyncConnection[TupleRow],
        caller: Caller,
        request_id: str,
        owner: UUID,
        state: str,
    ) -> Lease:
        """Make *owner* the one who runs the request; whoever had it before writes no more."""
        values = {
            "state": state,
            "owner": owner,
            "lease": self._lease,
            "user_id": caller.user_id,
            "request_id": request_id,
        }
        found = await (await connection.execute(TAKE_OVER, values)).fetchone()
        assert found is not None
        return Lease(caller, request_id, owner, *found)

    async def take_over(self, caller: Caller, request_id: str) -> Orphaned | OrphanedRead | None:
        """Take on what a call that is gone left behind; None where it is not gone after all."""
        async with self._pool.transaction(caller) as connection:
            row = await read_row(connection, caller, request_id)
            if row is None or not row.lease_over:
                return None
            if row.state not in ("running", "answered", "dispatching", "settling"):
                return None
            lease = await self._take_over(connection, caller, request_id, uuid4(), row.state)
        if row.state in ("dispatching", "settling"):
            return orphaned_of(row, lease)
        unlogged = None if row.unlogged is None else bytes(row.unlogged)
        return OrphanedRead(lease, unlogged)

    async def orphans(self, grace: timedelta, most: int) -> list[tuple[Caller, str]]:
        """List requests whose lease has been over for *grace*: their users, and their ids.

        An answer that the log may lack does not wait for that.
        """
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute(
                "SELECT user_id, clinic_id, request_id FROM gateway.requests"
                " WHERE state IN ('running', 'dispatching', 'settling', 'answered')"
                " AND lease_until < now() AND (lease_until < now() - %s OR state = 'answered')"
                " ORDER BY lease_until LIMIT %s",
                (grace, most),
            )
            rows = await found.fetchall()
        return [(Caller(str(row[0]), row[1], frozenset({"user"})), row[2]) for row in rows]

    @contextmanager
    def held(self, lease: Lease, cancelled: asyncio.Event) -> Iterator[None]:
        """Renew *lease* as long as the block runs, so that nobody takes the request over.

        *cancelled* is set where another replica was asked to cancel the request.
        """
        held = Held(lease.caller.user_id, lease.request_id, lease.owner)
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
        lease: Lease,
        answer: pb.ExecuteResponse,
        records_digest: bytes,
        time_zone: str,
        lifetime: timedelta,
    ) -> bool:
        """Store what waits for its confirmation within *lifetime*; whether the lease holds.

        *answer* asks for it. *time_zone* is the one in which its words were read.
        """
        confirmation = answer.confirmation
        return await self._set(
            lease,
            "state = 'confirming', answer = %s, planned = %s, records_digest = %s,"
            " token_digest = %s, token_expires_at = now() + %s, time_zone = %s",
            answer.SerializeToString(),
            confirmation.SerializeToString(),
            records_digest,
            digest_of(confirmation.confirmation_token),
            lifetime,
            time_zone,
        )

    async def outdated(self, lease: Lease) -> None:
        """The confirmation no longer holds: asked again, the request gets a new summary."""
        await self._set(lease, "state = 'confirming', token_expires_at = now()")

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
        lease: Lease,
        planned: pb.ConfirmationRequired,
        claimed: int,
        answer: pb.ExecuteResponse,
    ) -> None:
        """From now on *planned* may have been executed. Raises RequestInProgress for a lost lease.

        *claimed* is how many changes were claimed, and *answer* has what is refused already.
        """
        mine = await self._set(
            lease,
            "state = 'dispatching', planned = %s, claimed = %s, answer = %s",
            planned.SerializeToString(),
            claimed,
            answer.SerializeToString(),
        )
        if not mine:
            raise RequestInProgress

    async def delivering(self, lease: Lease) -> bool:
        """A part of the answer is about to reach the caller; whether the lease still holds."""
        return await self._set(lease, "delivered = true")

    async def settling(self, lease: Lease, answer: pb.ExecuteResponse) -> None:
        """Store that what was executed is known. Raises Superseded where the lease was lost."""
        stored = answer.SerializeToString()
        if not await self._set(lease, "state = 'settling', answer = %s", stored):
            raise Superseded

    async def settle_later(self, lease: Lease, answer: Message) -> bool:
        """It could not be settled whole: whoever comes next continues. Whether the lease held."""
        return await self._set(
            lease,
            "state = 'settling', lease_until = now(), answer = %s",
            answer.SerializeToString(),
        )

    async def finish(self, lease: Lease, answer: bytes) -> bool:
        """Store the final answer; whether the lease still held, else nothing is stored."""
        return await self._kept(
            KeptAnswer(lease.caller.user_id, lease.request_id, lease.owner, "finished", answer)
        )

    async def answered(self, lease: Lease, answer: bytes, unlogged: bytes) -> KeptAnswer | None:
        """Store the answer of a request that only reads, with the spans that the log may lack.

        The answer can be given from now on: whoever finds the row orphaned brings the spans to the
        log. Returns how the row is kept once the log has them; None where the lease was lost.
        """
        kept = KeptAnswer(
            lease.caller.user_id, lease.request_id, lease.owner, "answered", answer, unlogged
        )
        if not await self._kept(kept):
            return None
        return kept._replace(state="finished", answer=None, unlogged=None)

    async def logged(self, kept: Sequence[KeptAnswer]) -> None:
        """The log has the operations of these answers; what is locked is left to the sweeper."""
        await self._keep_together(kept)

    async def _kept(self, kept: KeptAnswer) -> bool:
        """Store *kept*, together with others if its row is free; whether the lease still held."""
        if await self._keeping.ask(kept):
            return True
        users = named_together([kept.user_id])
        done = await self._pool.once(users, KEEP_ONE, (json.dumps([kept_row(kept)]),))
        return done.count == 1

    async def _keep_together(self, kept: Sequence[KeptAnswer]) -> list[bool]:
        users = named_together(each.user_id for each in kept)
        rows = json.dumps([kept_row(each) for each in kept])
        done = await self._pool.once(users, KEEP_UNLOCKED, (rows,))
        owners = {row[0] for row in done.rows}
        return [each.owner in owners for each in kept]

    async def _set(self, lease: Lease, changes: str, *values: object) -> bool:
        """Change the row, if the lease still holds; whether it did."""
        done = await self._pool.once(
            lease.caller,
            f"UPDATE gateway.requests SET {changes}"  # noqa: S608  texts of ours
            " WHERE user_id = %s AND request_id = %s AND owner = %s",
            (*values, lease.caller.user_id, lease.request_id, lease.owner),
        )
        return done.count == 1

    async def abandon(self, lease: Lease, *, was_counted: bool) -> None:
        """Let a request that changed nothing be tried again.

        Where something *was_counted* for it, and released, the row stays: it fences what this
        attempt may still have under way.
        """
        place = (lease.caller.user_id, lease.request_id, lease.owner)
        if not was_counted and lease.attempt == 1 and lease.confirmed is None:
            await self._pool.once(lease.caller, FORGET, place)
            return
        await self._pool.once(lease.caller, ABANDON, place)

    async def orphan(self, lease: Lease) -> None:
        """End the lease now: what was counted could not be released, so somebody else does it."""
        await self._set(lease, "lease_until = now()")

    async def state(self, request_id: str, caller: Caller) -> str | None:
        """How far a request came; None where there is none, or it was abandoned."""
        found = await self._pool.once(
            caller,
            "SELECT state FROM gateway.requests WHERE user_id = %s AND request_id = %s"
            " AND state <> 'abandoned'",
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
    connection: AsyncConnection[TupleRow], caller: Caller, request_id: str
) -> Row | None:
    """The row of a request, locked."""
    async with connection.cursor(row_factory=class_row(Row)) as cursor:
        await cursor.execute(READ_ROW, (caller.user_id, request_id))
        return await cursor.fetchone()
