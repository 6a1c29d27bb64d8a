"""All of a batch, or none of it (GAT-6)."""

import asyncio
import uuid

import grpc
import grpc.aio

from services.conformance.findings import check, expect
from services.conformance.subject import Subject, reason_in

TIMES = 3
# What a batch that was in another's way may be answered with.
TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)


@check("atomic.last_fails")
async def last_fails(subject: Subject) -> None:
    """When the last operation is refused none stands: it says why, the others ROLLED_BACK."""
    group = subject.group()
    reasons = await subject.refused(
        subject.create(group), subject.create(group), subject.create(group, no_such_field=1)
    )
    expect(
        reasons[:2] == ["ROLLED_BACK"] * 2 and reasons[2] not in ("", "ROLLED_BACK"),
        f"the reasons are {', '.join(reasons)}",
    )
    expect(not await subject.standing(group), "a refused batch has left records")


@check("atomic.first_fails")
async def first_fails(subject: Subject) -> None:
    """When the first operation is refused, what comes after it is not done either."""
    group = subject.group()
    reasons = await subject.refused(
        subject.create(group, no_such_field=1), subject.create(group), subject.create(group)
    )
    expect(
        reasons[1:] == ["ROLLED_BACK"] * 2 and reasons[0] not in ("", "ROLLED_BACK"),
        f"the reasons are {', '.join(reasons)}",
    )
    expect(not await subject.standing(group), "a refused batch has left records")


@check("atomic.changes_undone")
async def changes_undone(subject: Subject) -> None:
    """A refused batch takes back what it changed, too."""
    (record,) = await subject.make(subject.group())
    before = await subject.value_of(record["id"])
    value = await subject.another_value(record["id"])
    await subject.refused(
        subject.update(value, id=record["id"]), subject.update(value, id=str(uuid.uuid4()))
    )
    expect(await subject.value_of(record["id"]) == before, "a refused batch has left a change")


@check("atomic.crossing")
async def crossing(subject: Subject) -> None:
    """Batches that change the same records in opposite order leave them as one of the two would."""
    one, other = await subject.make(subject.group(), 2)
    there, back = (one["id"], other["id"]), (other["id"], one["id"])
    for _ in range(TIMES):
        batches = [
            [subject.update(value, id=each) for each in ids]
            for value, ids in ((0, there), (1, back))
        ]
        answers = await asyncio.gather(
            *(subject.run(*batch) for batch in batches), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, grpc.aio.AioRpcError):
                expect(
                    answer.code() in TRY_AGAIN,
                    f"two batches at once: one failed with {answer.code().name}; a conflict between"
                    " transactions is the domain's to retry, or UNAVAILABLE",
                )
            elif isinstance(answer, BaseException):
                raise answer
            elif not answer.committed:
                reasons = {reason_in(each.status) for each in answer.results}
                expect(
                    reasons <= {"ROLLED_BACK", "STATE_CONFLICT"},
                    f"two batches at once: one was refused with {', '.join(sorted(reasons))}",
                )
        values = [await subject.value_of(each) for each in there]
        expect(values[0] == values[1], "two batches at once have each left a part of theirs")
