"""The same operations again: the same results, and nothing done twice (DOM-1)."""

import asyncio

from gatehouse.domain.v1 import domain_pb2 as pb

from services.conformance.findings import check, expect
from services.conformance.subject import Subject

AT_ONCE = 8


@check("once.again")
async def again(subject: Subject) -> None:
    """The same batch again gives the results of then, says `replayed`, and does nothing."""
    group = subject.group()
    batch = [subject.create(group), subject.create(group)]
    first = await subject.run(*batch)
    second = await subject.run(*batch)
    expect(first.committed and not first.replayed, "a new batch is not told as replayed")
    expect(second.committed and second.replayed, "a batch sent again is committed and replayed")
    expect(list(first.results) == list(second.results), "sent again, a batch has other results")
    expect(len(await subject.standing(group)) == 2, "sent again, a batch was done again")


@check("once.at_once")
async def at_once(subject: Subject) -> None:
    """The same batch from several callers at once is done once, and all are told the same."""
    group = subject.group()
    operation = subject.create(group)
    answers = await asyncio.gather(*(subject.run(operation) for _ in range(AT_ONCE)))
    expect(all(each.committed for each in answers), "one of several callers was refused")
    results = {each.results[0].SerializeToString(deterministic=True) for each in answers}
    expect(len(await subject.standing(group)) == 1, "the same batch at once was done twice")
    expect(len(results) == 1, "callers at once were told different results")


@check("once.other_operation")
async def other_operation(subject: Subject) -> None:
    """Another operation under an id that was applied is refused with OPERATION_ID_REUSED."""
    first = subject.create(subject.group())
    await subject.done(first)
    other = subject.group()
    second = subject.create(other)
    second.operation_id = first.operation_id
    expect(not await subject.standing(other), "records are there before they are made")
    reasons = await subject.refused(second)
    expect(reasons == ["OPERATION_ID_REUSED"], f"it was refused with {reasons[0]}")
    expect(not await subject.standing(other), "it was done all the same")


@check("once.part")
async def part(subject: Subject) -> None:
    """A batch that has an applied operation beside a new one does neither, or the new one alone."""
    group, other = subject.group(), subject.group()
    first, second = subject.create(group), subject.create(other)
    await subject.done(first)
    answer = await subject.run(first, second)
    expect(len(await subject.standing(group)) == 1, "the applied operation was done again")
    there = len(await subject.standing(other))
    expect(
        there == (1 if answer.committed else 0),
        f"the batch was {'' if answer.committed else 'not '}committed, and of its new operation"
        f" {there} records are there",
    )


@check("once.old_update")
async def old_update(subject: Subject) -> None:
    """An update that comes again after a later one does not undo the later one."""
    (record,) = await subject.make(subject.group())
    earlier = subject.update(await subject.another_value(record["id"]), id=record["id"])
    await subject.done(earlier)
    later = subject.update(await subject.another_value(record["id"]), id=record["id"])
    await subject.done(later)
    value = await subject.value_of(record["id"])
    answer = await subject.run(earlier)
    expect(answer.committed and answer.replayed, "it was not answered as replayed")
    expect(await subject.value_of(record["id"]) == value, "it was done again")


@check("once.old_delete")
async def old_delete(subject: Subject) -> None:
    """A delete that comes again is answered as it was, not with NOT_FOUND."""
    (record,) = await subject.make(subject.group())
    delete = subject.delete(id=record["id"])
    first = await subject.run(delete)
    second = await subject.run(delete)
    expect(first.committed, "a delete by id was not committed")
    expect(second.committed and second.replayed, "it was not answered as replayed")
    expect(list(first.results) == list(second.results), "it was answered otherwise")


@check("once.refused_is_not_kept")
async def refused_is_not_kept(subject: Subject) -> None:
    """An id whose batch was refused has done nothing, and the batch is refused again alike."""
    group = subject.group()
    batch = [subject.create(group), subject.create(group, no_such_field=1)]
    reasons = await subject.refused(*batch)
    expect(await subject.refused(*batch) == reasons, "sent again, it was refused otherwise")
    state = await subject.state(batch[0])
    expect(state == pb.OPERATION_STATE_NOT_APPLIED, "a rolled back operation is told as applied")
    expect(not await subject.standing(group), "a refused batch has left records")
