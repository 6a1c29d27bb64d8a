"""validate_only: what a confirmation shows is what will happen (GAT-5)."""

import uuid

from services.conformance.findings import check, expect
from services.conformance.subject import Subject, reason_in


@check("dry.nothing_done")
async def nothing_done(subject: Subject) -> None:
    """With validate_only nothing is made, changed or deleted."""
    group, other = subject.group(), subject.group()
    (record,) = await subject.make(group)
    await subject.run(subject.create(other), validate_only=True)
    for build in (subject.update, subject.delete):
        await subject.run(build(id=record["id"]), validate_only=True)
    expect(not await subject.standing(other), "a create was carried out")
    expect(await subject.standing(group) == [record], "an update or a delete was carried out")


@check("dry.counts")
async def counts(subject: Subject) -> None:
    """With validate_only each operation is answered with the records that it would touch."""
    group = subject.group()
    await subject.make(group, 3)
    answer = await subject.run(
        subject.create(subject.group()),
        subject.read(group=group),
        subject.delete(group=group, max_affected=3),
        validate_only=True,
    )
    counted = [each.applied.affected for each in answer.results]
    expect(counted == [1, 3, 3], f"of 1, 3 and 3 records it counted {counted}")


@check("dry.refusals")
async def refusals(subject: Subject) -> None:
    """With validate_only an operation that would be refused is, with the reason it would have."""
    unknown = subject.delete(id=str(uuid.uuid4()))
    answer = await subject.run(unknown, validate_only=True)
    dry = reason_in(answer.results[0].status)
    (real,) = await subject.refused(subject.delete(id=unknown.selector.id))
    expect(dry == real, f"validated it is {dry or 'applied'}, carried out it is {real}")


@check("dry.then_done")
async def then_done(subject: Subject) -> None:
    """A batch that was validated can be carried out under the same ids."""
    group = subject.group()
    operation = subject.create(group)
    await subject.run(operation, validate_only=True)
    answer = await subject.run(operation)
    expect(answer.committed and not answer.replayed, "it was not carried out as a new batch")
    expect(len(await subject.standing(group)) == 1, "it was not done")
