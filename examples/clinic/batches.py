"""Batches: atomic, and carried out once whatever is sent again (DOM-1)."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
from gatehouse.domain.v1 import domain_pb2 as pb

from examples.clinic import refusals
from examples.clinic.callers import clinic_of
from examples.clinic.operations import carry_out
from examples.clinic.records import Connection, Context, Records
from examples.clinic.refusals import ROLLED_BACK, Refusal
from services.runtime.calling import deadline_left
from services.runtime.failure import Failure, InvalidInput, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.postgres import BATCH, Pool

WAIT_MILLISECONDS = 250
# A batch without a deadline of its own has this one.
LONGEST_SECONDS = 30.0
ATTEMPTS = 5


class Undone(Exception):
    """The transaction is to be rolled back; *response* is the answer all the same."""

    def __init__(self, response: pb.ExecuteBatchResponse) -> None:
        self.response = response


class Undecided(Exception):
    """A batch with this id is still open."""


@dataclass(frozen=True)
class Known:
    """What is recorded under an operation's id."""

    fingerprint: bytes
    state: str
    result: bytes


async def execute(
    pool: Pool, domain: str, request: pb.ExecuteBatchRequest, caller: Caller, now: datetime
) -> pb.ExecuteBatchResponse:
    """Carry the batch out in one transaction: all of it or none.

    What the deadline catches is rolled back. Raises Denied, InvalidInput, StoreUnavailable, and
    TimeoutError.
    """
    check_ids(request.operations)
    zone = ZoneInfo(request.time_zone or "UTC")
    context = Context(caller, clinic_of(caller), zone, now, validate_only=request.validate_only)
    async with asyncio.timeout(deadline_left(LONGEST_SECONDS)):
        for _ in range(ATTEMPTS):
            try:
                return await once(pool, domain, request, context)
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                # Two batches were in each other's way. This one is undone as a whole, so that
                # trying again is safe; the other goes on meanwhile.
                continue
        raise StoreUnavailable("others are changing the same records")


def check_ids(operations: Sequence[pb.Operation]) -> None:
    """Raises InvalidInput for an id that stands twice in one batch."""
    seen: set[str] = set()
    wrong = []
    for index, each in enumerate(operations):
        if each.operation_id in seen:
            wrong.append((f"operations[{index}].operation_id", "is there already"))
        seen.add(each.operation_id)
    if wrong:
        raise InvalidInput(wrong)


async def once(
    pool: Pool, domain: str, request: pb.ExecuteBatchRequest, context: Context
) -> pb.ExecuteBatchResponse:
    try:
        async with pool.transaction(context.caller, BATCH) as connection:
            recording = not request.validate_only and any(map(changes, request.operations))
            if recording:
                await claim(connection, request, context.clinic_id)
            response = await attempt(Records(connection, context), domain, request)
            if request.validate_only:
                response.committed = False
                raise Undone(response)
            if recording:
                await record(connection, response)
            return response
    except Undone as undone:
        return undone.response


async def claim(connection: Connection, request: pb.ExecuteBatchRequest, clinic_id: UUID) -> None:
    """Take the ids of the batch. Raises Undone with what is recorded under them.

    A second call with the same ids waits here until the first has ended, since both insert the same
    keys, in the same order.
    """
    ids = [UUID(each.operation_id) for each in request.operations]
    made = await connection.execute(
        "INSERT INTO clinic.operations (operation_id, clinic_id, fingerprint, state)"
        " SELECT id, %s, mark, 'applied' FROM unnest(%s::uuid[], %s::bytea[]) AS x (id, mark)"
        " ORDER BY id ON CONFLICT (operation_id) DO NOTHING RETURNING operation_id",
        (clinic_id, ids, [fingerprint(each) for each in request.operations]),
    )
    new = {row[0] for row in await made.fetchall()}
    if len(new) == len(ids):
        return
    found = await connection.execute(
        "SELECT operation_id, fingerprint, state, result FROM clinic.operations"
        " WHERE operation_id = ANY (%s)",
        ([each for each in ids if each not in new],),
    )
    known = {
        row[0]: Known(bytes(row[1] or b""), row[2], bytes(row[3] or b""))
        for row in await found.fetchall()
    }
    raise Undone(recorded(request, known, new))


def recorded(
    request: pb.ExecuteBatchRequest, known: dict[UUID, Known], new: set[UUID]
) -> pb.ExecuteBatchResponse:
    """The answer to a batch some of whose ids were there before; *new* are those that were not.

    Those that were have their results of then. Together with new ones they are another batch than
    the one that was applied, and that one cannot be made to hold more.
    """
    faults: dict[str, Failure] = {}
    response = pb.ExecuteBatchResponse(committed=True, replayed=True)
    for each in request.operations:
        if UUID(each.operation_id) in new:
            continue
        there = known.get(UUID(each.operation_id))
        if there is not None and there.state == "abandoned":
            faults[each.operation_id] = refusals.abandoned()
        elif there is None or there.fingerprint != fingerprint(each):
            faults[each.operation_id] = refusals.id_reused()
        elif new:
            faults[each.operation_id] = refusals.id_of_another_batch()
        else:
            response.results.append(pb.Result.FromString(there.result))
    return rolled_back(request.operations, faults) if faults else response


async def attempt(
    records: Records, domain: str, request: pb.ExecuteBatchRequest
) -> pb.ExecuteBatchResponse:
    """Carry out one after the other; the first refusal undoes all. Raises Undone with the answer.

    With validate_only every operation is tried, so that the answer tells of each.
    """
    response = pb.ExecuteBatchResponse(committed=True)
    for operation in request.operations:
        try:
            async with records.connection.transaction():
                applied = await carry_out(records, domain, operation)
        except Refusal as refusal:
            if not request.validate_only:
                faults = {operation.operation_id: refusal.localized(request.locale)}
                raise Undone(rolled_back(request.operations, faults)) from None
            response.results.append(
                pb.Result(
                    operation_id=operation.operation_id,
                    status=refusal.localized(request.locale).status(),
                )
            )
        else:
            response.results.append(pb.Result(operation_id=operation.operation_id, applied=applied))
    return response


def rolled_back(
    operations: Sequence[pb.Operation], faults: dict[str, Failure]
) -> pb.ExecuteBatchResponse:
    """Nothing stands: the cause has its own reason, the others ROLLED_BACK."""
    results = [
        pb.Result(
            operation_id=each.operation_id,
            status=faults.get(each.operation_id, ROLLED_BACK).status(),
        )
        for each in operations
    ]
    return pb.ExecuteBatchResponse(committed=False, results=results)


async def record(connection: Connection, response: pb.ExecuteBatchResponse) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "UPDATE clinic.operations SET result = %s WHERE operation_id = %s",
            [(each.SerializeToString(), UUID(each.operation_id)) for each in response.results],
        )


def changes(operation: pb.Operation) -> bool:
    return operation.verb != pb.VERB_READ


def fingerprint(operation: pb.Operation) -> bytes:
    return hashlib.sha256(operation.SerializeToString(deterministic=True)).digest()


async def state_of(pool: Pool, operation_id: str, caller: Caller) -> pb.GetOperationResponse:
    """Whether an operation was applied. One that was not never will be from now on.

    The same key is inserted that a batch would insert: while one is open, this waits a moment.
    Raises Undecided then, and Denied for a user without a clinic.
    """
    # A service settles what users of any clinic left open: its word is for all of them.
    clinic_id = None if "service" in caller.roles else clinic_of(caller)
    async with pool.transaction(caller) as connection:
        await connection.execute(f"SET LOCAL lock_timeout = {WAIT_MILLISECONDS}")
        try:
            await connection.execute(
                "INSERT INTO clinic.operations (operation_id, clinic_id, state)"
                " VALUES (%s, %s, 'abandoned') ON CONFLICT (operation_id) DO NOTHING",
                (UUID(operation_id), clinic_id),
            )
        except psycopg.errors.LockNotAvailable:
            raise Undecided from None
        found = await connection.execute(
            "SELECT state, result, recorded_at FROM clinic.operations WHERE operation_id = %s",
            (UUID(operation_id),),
        )
        row = await found.fetchone()
    if row is None or row[0] == "abandoned":
        return pb.GetOperationResponse(state=pb.OPERATION_STATE_NOT_APPLIED)
    result = pb.Result.FromString(bytes(row[1] or b""))
    result.applied.ClearField("records")
    response = pb.GetOperationResponse(state=pb.OPERATION_STATE_APPLIED, applied=result.applied)
    response.applied_at.FromDatetime(row[2].astimezone(UTC))
    return response
