"""What is written is there, and is what was asked for."""

from services.conformance.findings import check, expect
from services.conformance.subject import BROKE, Subject, reason_in


@check("write.create")
async def create(subject: Subject) -> None:
    """A create answers with the record made: its id, the fields given, a label, one affected."""
    operation = subject.create(subject.group())
    (applied,) = await subject.done(operation)
    expect(applied.affected == 1, f"a create affects 1 record, not {applied.affected}")
    expect(len(applied.records) == 1, f"a create gives 1 record, not {len(applied.records)}")
    record, given = dict(applied.records[0]), dict(operation.fields)
    expect(record.get("id"), "the record has no id")
    lacking = [name for name in given if name not in record]
    expect(not lacking, f"the record lacks {', '.join(lacking)}")
    label = subject.kind.label
    expect(
        not label or record[label] == given[label],
        f"{label} was given as {given.get(label)!r} and is {record.get(label)!r}",
    )
    expect(applied.label, "the answer has no label for people")


@check("write.read")
async def read(subject: Subject) -> None:
    """What was made can be read, by its id and by its fields, and is what create answered with."""
    group = subject.group()
    (record,) = await subject.make(group)
    (by_id,) = await subject.done(subject.read(id=record["id"]))
    expect([dict(each) for each in by_id.records] == [record], "a read by id gave another record")
    expect(await subject.standing(group) == [record], "a read by a field did not give the record")


@check("write.read_unknown")
async def read_unknown(subject: Subject) -> None:
    """Reading what is not there is applied to nothing: no record, none affected, no failure."""
    (applied,) = await subject.done(subject.read(group=subject.group()))
    expect(not applied.affected and not applied.records, "records were read that nobody made")


@check("write.update")
async def update(subject: Subject) -> None:
    """An update changes the record selected, and no other."""
    one, other = await subject.make(subject.group(), 2)
    name, values = subject.kind.changes()
    for _ in values:
        value = await subject.another_value(one["id"])
        (applied,) = await subject.done(subject.update(value, id=one["id"]))
        expect(applied.affected == 1, f"an update by id affected {applied.affected} records")
        is_now = await subject.value_of(one["id"])
        expect(is_now == values[value], f"{name} was set to {values[value]!r} and is {is_now!r}")
    expect(await subject.value_of(other["id"]) == other.get(name), "another record was changed")


@check("write.delete")
async def delete(subject: Subject) -> None:
    """A deleted record is there for nobody, and no other is gone."""
    group = subject.group()
    one, other = await subject.make(group, 2)
    (applied,) = await subject.done(subject.delete(id=one["id"]))
    expect(applied.affected == 1, f"a delete by id affected {applied.affected} records")
    left = [each["id"] for each in await subject.standing(group)]
    expect(left == [other["id"]], "a read still gives what was deleted, or another is gone")
    (again,) = await subject.done(subject.read(id=one["id"]))
    expect(not again.records, "a read by id still gives what was deleted")


@check("write.order")
async def order(subject: Subject) -> None:
    """Operations are carried out in their order: a read sees what its batch made before it."""
    group = subject.group()
    before, _, after = await subject.done(
        subject.read(group=group), subject.create(group), subject.read(group=group)
    )
    expect(before.affected == 0, "a read saw what was made after it in its batch")
    expect(after.affected == 1, "a read did not see what was made before it in its batch")


@check("write.text")
async def text(subject: Subject) -> None:
    """Text is kept as it is, whatever stands in it: quotes, SQL, markup, other scripts."""
    label = subject.kind.label
    group = subject.group()
    odd = f'{group} O\'Brien "x"; DROP TABLE t;-- %s {{}} <b>ção 日本 🦷'
    operation = subject.create(group, **({label: odd} if label else {}))
    answer = await subject.run(operation)
    if not answer.committed:
        # It may have rules of its own for such a text, as long as it says so.
        reason = reason_in(answer.results[0].status)
        expect(reason not in BROKE, f"it was refused with {reason}")
        return
    found = [each.get(label) for each in await subject.standing(group)]
    expect(found == [odd] or not label, f"{odd!r} was kept as {found!r}")


@check("write.hundred")
async def hundred(subject: Subject) -> None:
    """A batch may have a hundred operations."""
    group = subject.group()
    await subject.done(*(subject.create(group) for _ in range(100)))
    expect(len(await subject.standing(group)) == 100, "not all of a hundred records are there")


@check("write.limit")
async def limit(subject: Subject) -> None:
    """A read gives no more records than its limit, and says that there are more."""
    group = subject.group()
    await subject.make(group, 3)
    (two,) = await subject.done(subject.read(group=group, limit=2))
    expect(len(two.records) == 2, f"a read with a limit of 2 gave {len(two.records)} records")
    expect(two.truncated, "truncated is false, and there are more records")
    (three,) = await subject.done(subject.read(group=group, limit=3))
    expect(not three.truncated, "truncated is true, and there are no more records")
    (many,) = await subject.done(subject.read())
    expect(len(many.records) <= 50, f"a read without a limit gave {len(many.records)} records")
