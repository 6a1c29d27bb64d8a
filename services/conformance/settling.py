"""GetOperation: a word that holds (GAT-7, LOG-2)."""

import asyncio

from gatehouse.domain.v1 import domain_pb2 as pb

from services.conformance.findings import check, expect
from services.conformance.subject import Subject

TIMES = 20


@check("settle.applied")
async def applied(subject: Subject) -> None:
    """Of a committed operation it says APPLIED, when, and what it did, without records."""
    operation = subject.create(subject.group())
    (done,) = await subject.done(operation)
    record = await subject.record(operation)
    expect(record.state == pb.OPERATION_STATE_APPLIED, "it does not say APPLIED")
    expect(record.HasField("applied_at"), "it does not say when")
    expect(record.applied.affected == done.affected, "it says another number of records affected")
    expect(record.applied.label == done.label, "it gives another label")
    expect(not record.applied.records, "it gives records")


@check("settle.never_seen")
async def never_seen(subject: Subject) -> None:
    """Of an id never seen it says NOT_APPLIED, and refuses it from then on: OPERATION_ABANDONED."""
    group = subject.group()
    operation = subject.create(group)
    state = await subject.state(operation)
    expect(state == pb.OPERATION_STATE_NOT_APPLIED, "it does not say NOT_APPLIED")
    reasons = await subject.refused(operation)
    expect(reasons == ["OPERATION_ABANDONED"], f"it was then refused with {reasons[0]}")
    expect(not await subject.standing(group), "it was then done all the same")


@check("settle.abandoned_in_a_batch")
async def abandoned_in_a_batch(subject: Subject) -> None:
    """One operation that was told as NOT_APPLIED keeps its whole batch from being done."""
    group = subject.group()
    batch = [subject.create(group), subject.create(group)]
    await subject.state(batch[1])
    reasons = await subject.refused(*batch)
    expect("OPERATION_ABANDONED" in reasons, f"it was refused with {', '.join(reasons)}")
    expect(not await subject.standing(group), "it was done all the same")


@check("settle.refused")
async def refused(subject: Subject) -> None:
    """Of an operation that was rolled back it says NOT_APPLIED."""
    group = subject.group()
    batch = [subject.create(group), subject.create(group, no_such_field=1)]
    await subject.refused(*batch)
    for each in batch:
        state = await subject.state(each)
        expect(state == pb.OPERATION_STATE_NOT_APPLIED, "it does not say NOT_APPLIED")


@check("settle.dry_run")
async def dry_run(subject: Subject) -> None:
    """Of an operation that was only validated it does not say APPLIED."""
    operation = subject.create(subject.group())
    await subject.run(operation, validate_only=True)
    state = await subject.state(operation)
    expect(state == pb.OPERATION_STATE_NOT_APPLIED, "it does not say NOT_APPLIED")


@check("settle.while_running")
async def while_running(subject: Subject) -> None:
    """Asked while the batch runs, it tells the truth or IN_PROGRESS; what it told stays true."""
    group = subject.group()
    for time in range(TIMES):
        part = f"{group}{time:02d}x"
        operation = subject.create(part)
        answer, state = await asyncio.gather(subject.run(operation), subject.state(operation))
        there = len(await subject.standing(part))
        is_applied = state == pb.OPERATION_STATE_APPLIED
        expect(
            answer.committed == is_applied == bool(there),
            f"it said {'APPLIED' if is_applied else 'NOT_APPLIED'}, the batch was"
            f" {'' if answer.committed else 'not '}committed, {there} records are there",
        )
