"""Batches: atomic, and carried out once whatever is sent again (DOM-1)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import grpc
import psycopg
from gatehouse.domain.v1 import domain_pb2 as pb
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from examples.clinic.operations import Context, carry_out
from examples.clinic.refusals import ROLLED_BACK, Refusal
from services.runtime.failure import Denied, Failure
from services.runtime.identity import Caller
from services.runtime.postgres import Pool

Connection = AsyncConnection[TupleRow]
WAIT_MILLISECONDS = 250


class Undone(Exception):
    """The transaction is to be rolled back; *response* is the answer all the same."""

    def __init__(self, response: pb.ExecuteBatchResponse) -> None:
        self.response = response


@dataclass(frozen=True)
class Known:
    """What is recorded under an operation's id."""

    fingerprint: bytes
    state: str
    result: bytes


async def execute(
    pool: Pool, domain: str, request: pb.ExecuteBatchRequest, caller: Caller, now: datetime
) -> pb.ExecuteBatchResponse:
    """Carry the batch out in one transaction: all of it or none. Raises StoreUnavailable."""
    if not caller.clinic_id:
        raise Denied("the token names no clinic")
    context = Context(caller, ZoneInfo(request.time_zone or "UTC"), now)
    try:
        async with pool.transaction(caller) as connection:
            recording = not request.validate_only and any(map(changes, request.operations))
            if recording:
                await claim(connection, request, caller)
            response = await attempt(connection, domain, request, context)
            if request.validate_only:
                response.committed = False
                raise Undone(response)
            if recording:
                await record(connection, request, response)
            return response
    except Undone as undone:
        return undone.response


async def claim(connection: Connection, request: pb.ExecuteBatchRequest, caller: Caller) -> None:
    """Take the ids of the batch. Raises Undone with what is recorded under them.

    A second call with the same ids waits here until the first has ended, since both insert the same
    keys.
    """
    ids = [UUID(each.operation_id) for each in request.operations]
    made = await connection.execute(
        "INSERT INTO clinic.operations (operation_id, clinic_id, fingerprint, state)"
        " SELECT id, %s, mark, 'applied' FROM unnest(%s::uuid[], %s::bytea[]) AS x (id, mark)"
        " ORDER BY id ON CONFLICT (operation_id) DO NOTHING",
        (UUID(caller.clinic_id), ids, [fingerprint(each) for each in request.operations]),
    )
    if made.rowcount == len(ids):
        return
    found = await connection.execute(
        "SELECT operation_id, fingerprint, state, result FROM clinic.operations"
        " WHERE operation_id = ANY (%s)",
        (ids,),
    )
    known = {
        row[0]: Known(bytes(row[1] or b""), row[2], bytes(row[3] or b""))
        for row in await found.fetchall()
    }
    raise Undone(recorded(request, known))


def recorded(request: pb.ExecuteBatchRequest, known: dict[UUID, Known]) -> pb.ExecuteBatchResponse:
    """The answer to a batch some of whose ids were there before."""
    faults: dict[str, Failure] = {}
    response = pb.ExecuteBatchResponse(committed=True, replayed=True)
    for each in request.operations:
        there = known.get(UUID(each.operation_id))
        if there is not None and there.state == "abandoned":
            faults[each.operation_id] = refused("OPERATION_ABANDONED")
        elif there is None or there.fingerprint != fingerprint(each) or not there.result:
            faults[each.operation_id] = refused("OPERATION_ID_REUSED")
        else:
            response.results.append(pb.Result.FromString(there.result))
    return rolled_back(request.operations, faults) if faults else response


def refused(reason: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION, reason, "the operation_id cannot be used again"
    )


async def attempt(
    connection: Connection, domain: str, request: pb.ExecuteBatchRequest, context: Context
) -> pb.ExecuteBatchResponse:
    """Carry out one after the other; the first refusal undoes all. Raises Undone with the answer.

    With validate_only every operation is tried, so that the answer tells of each.
    """
    response = pb.ExecuteBatchResponse(committed=True)
    faults: dict[str, Failure] = {}
    for operation in request.operations:
        try:
            async with connection.transaction():
                applied = await carry_out(connection, domain, operation, context)
        except Refusal as refusal:
            faults[operation.operation_id] = refusal
            if not request.validate_only:
                raise Undone(rolled_back(request.operations, faults)) from None
            response.results.append(
                pb.Result(operation_id=operation.operation_id, status=refusal.status())
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


async def record(
    connection: Connection, request: pb.ExecuteBatchRequest, response: pb.ExecuteBatchResponse
) -> None:
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

    The same key is inserted that a batch would insert: while one is open, this waits a moment and
    then says so.
    """
    async with pool.transaction(caller) as connection:
        await connection.execute(f"SET LOCAL lock_timeout = {WAIT_MILLISECONDS}")
        try:
            await connection.execute(
                "INSERT INTO clinic.operations (operation_id, clinic_id, state)"
                " VALUES (%s, %s, 'abandoned') ON CONFLICT (operation_id) DO NOTHING",
                (UUID(operation_id), None if "service" in caller.roles else clinic_of(caller)),
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


def clinic_of(caller: Caller) -> UUID | None:
    return UUID(caller.clinic_id) if caller.clinic_id else None


class Undecided(Exception):
    """A batch with this id is still open."""
