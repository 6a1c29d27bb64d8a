"""A deadline, or a caller that goes away, leaves nothing half done and nothing unknown (GAT-7)."""

import asyncio
import time
from contextlib import suppress

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb

from services.conformance.findings import check, expect
from services.conformance.subject import Subject

SIZE = 20
TIMES = 15
LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


@check("deadline.passed")
async def passed(subject: Subject) -> None:
    """A batch whose deadline passes is whole or not at all, and GetOperation tells which."""
    await interrupted(subject, by_deadline=True)


@check("deadline.cancelled")
async def cancelled(subject: Subject) -> None:
    """A batch whose caller goes away is whole or not at all, and GetOperation tells which."""
    await interrupted(subject, by_deadline=False)


async def interrupted(subject: Subject, *, by_deadline: bool) -> None:
    """Cut batches off after more and more of the time that they take. Raises Wrong."""
    subject.needs(pb.VERB_READ)
    subject.kind.by_label("any")  # else what was cut off could not be found again
    began = time.monotonic()
    await subject.make(subject.group(), SIZE)
    whole = time.monotonic() - began
    batches = {subject.group(): whole * (index + 1) / TIMES * 1.2 for index in range(TIMES)}
    try:
        told = {
            group: await cut_off(subject, group, seconds, by_deadline=by_deadline)
            for group, seconds in batches.items()
        }
    finally:
        # Looked at last: what was told as not applied must not come about later.
        found = {group: len(await subject.standing(group)) for group in batches}
    for group, is_applied in told.items():
        there = found[group]
        expect(there in (0, SIZE), f"of a batch of {SIZE} operations {there} were carried out")
        expect(
            bool(there) == is_applied,
            f"GetOperation said {'APPLIED' if is_applied else 'NOT_APPLIED'}, and {there} of {SIZE}"
            " records are there",
        )


async def cut_off(subject: Subject, group: str, seconds: float, *, by_deadline: bool) -> bool:
    """Cut one batch off after *seconds*; whether it was told as applied."""
    batch = [subject.create(group) for _ in range(SIZE)]
    if by_deadline:
        try:
            await subject.run(*batch, seconds=seconds)
        except grpc.aio.AioRpcError as error:
            expect(error.code() in LATE, f"past its deadline a call gave {error.code().name}")
    else:
        task = asyncio.ensure_future(subject.run(*batch))
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    states = {await subject.state(each) for each in (batch[0], batch[-1])}
    expect(len(states) == 1, "of one batch, one operation was told as applied and another not")
    return states == {pb.OPERATION_STATE_APPLIED}
