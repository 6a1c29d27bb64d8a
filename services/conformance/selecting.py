"""Which records are meant: never a guess, never more than allowed (GAT-4)."""

import uuid
from typing import Any

from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.json_format import ParseDict

from services.conformance.findings import NotTried, check, expect
from services.conformance.subject import Subject, detail_in, reason_in


@check("select.ambiguous")
async def ambiguous(subject: Subject) -> None:
    """A change that matches several records is refused with AMBIGUOUS_TARGET and Candidates."""
    group = subject.group()
    records = await subject.make(group, 2)
    answer = await subject.run(subject.delete(group=group))
    expect(not answer.committed, "it was carried out")
    status = answer.results[0].status
    expect(reason_in(status) == "AMBIGUOUS_TARGET", f"it was refused with {reason_in(status)}")
    found = detail_in(status, pb.Candidates())
    ids = {each.id for each in found.candidates}
    expect(ids == {each["id"] for each in records}, "the candidates are not the records")
    expect(found.total == 2, f"of 2 candidates it says {found.total}")
    labels = {each.label for each in found.candidates}
    expect(len(labels) == 2 and "" not in labels, "the labels do not tell the candidates apart")
    expect(len(await subject.standing(group)) == 2, "a record is gone all the same")


@check("select.too_many")
async def too_many(subject: Subject) -> None:
    """A change of more records than max_affected is refused whole with TOO_MANY_AFFECTED."""
    group = subject.group()
    await subject.make(group, 3)
    reasons = await subject.refused(subject.delete(group=group, max_affected=2))
    expect(reasons == ["TOO_MANY_AFFECTED"], f"it was refused with {reasons[0]}")
    expect(len(await subject.standing(group)) == 3, "records are gone all the same")


@check("select.as_many")
async def as_many(subject: Subject) -> None:
    """A change of as many records as max_affected is carried out on all of them."""
    group = subject.group()
    await subject.make(group, 3)
    (applied,) = await subject.done(subject.delete(group=group, max_affected=3))
    expect(applied.affected == 3, f"of 3 records it affected {applied.affected}")
    expect(not await subject.standing(group), "records are left")


@check("select.not_found")
async def not_found(subject: Subject) -> None:
    """A change of a record that is not there is refused with NOT_FOUND."""
    group = subject.group()
    for operation in (subject.delete(id=str(uuid.uuid4())), subject.delete(group=group)):
        reasons = await subject.refused(operation)
        expect(reasons == ["NOT_FOUND"], f"it was refused with {reasons[0]}")


@check("select.nothing_selected")
async def nothing_selected(subject: Subject) -> None:
    """A change without a selector is refused: it does not mean all records."""
    await subject.make(subject.group())
    for build in (subject.update, subject.delete):
        answer = await subject.run(build(max_affected=10_000), validate_only=True)
        reason = reason_in(answer.results[0].status)
        expect(reason == "INVALID_ARGUMENT", f"it was answered with {reason or 'applied'}")


@check("select.case")
async def case(subject: Subject) -> None:
    """Text is compared without regard to case."""
    group = subject.group()
    (record,) = await subject.make(group)
    label = subject.kind.by_label(group).field
    for text in (str(record[label]).upper(), str(record[label]).lower()):
        found = await matching(subject, group, condition(label, "EQUAL", text))
        expect(len(found) == 1, f"{record[label]!r} is not found as {text!r}")


@check("select.comparisons")
async def comparisons(subject: Subject) -> None:
    """EQUAL, NOT_EQUAL, CONTAINS and IN select what they say; several conditions must all hold."""
    group = subject.group()
    one, other = await subject.make(group, 2)
    label = subject.kind.by_label(group).field
    first, second = one[label], other[label]
    wanted: list[tuple[str, Any, set[str]]] = [
        ("EQUAL", first, {one["id"]}),
        ("NOT_EQUAL", first, {other["id"]}),
        ("CONTAINS", group, {one["id"], other["id"]}),
        ("IN", [first], {one["id"]}),
        ("IN", [first, second], {one["id"], other["id"]}),
    ]
    for name, value, ids in wanted:
        found = await matching(subject, group, condition(label, name, value))
        expect(found == ids, f"{name} selected {len(found)} records, not {len(ids)}")


@check("select.by_id")
async def by_id(subject: Subject) -> None:
    """`id` may stand in a condition beside others: a confirmed change is held to the ids shown."""
    group = subject.group()
    one, other, _ = await subject.make(group, 3)
    shown = {one["id"], other["id"]}
    found = await matching(subject, group, condition("id", "IN", sorted(shown)))
    expect(found == shown, f"IN two ids selected {len(found)} records")
    change = subject.delete(group=group, max_affected=3)
    change.selector.conditions.conditions.append(condition("id", "EQUAL", one["id"]))
    await subject.done(change)
    left = {each["id"] for each in await subject.standing(group)}
    expect(one["id"] not in left and len(left) == 2, f"of 3 records {len(left)} are left, not 2")


@check("select.order_of_values")
async def order_of_values(subject: Subject) -> None:
    """LESS, LESS_OR_EQUAL, GREATER and GREATER_OR_EQUAL select by the order of values."""
    group = subject.group()
    one, other = await subject.make(group, 2)
    label = subject.kind.by_label(group).field
    least, greatest = sorted((one, other), key=lambda each: str(each[label]))
    both = {one["id"], other["id"]}
    wanted = [
        ("LESS", greatest, {least["id"]}),
        ("LESS_OR_EQUAL", greatest, both),
        ("GREATER", least, {greatest["id"]}),
        ("GREATER_OR_EQUAL", least, both),
    ]
    for name, record, ids in wanted:
        found = await matching(subject, group, condition(label, name, record[label]))
        expect(found == ids, f"{name} selected {len(found)} records, not {len(ids)}")


@check("select.first")
async def first(subject: Subject) -> None:
    """`first` narrows the records to the least value of a field, or the greatest."""
    group = subject.group()
    records = await subject.make(group, 3)
    label = subject.kind.by_label(group).field
    ordered = sorted(records, key=lambda each: str(each[label]))
    for descending, wanted in ((False, ordered[0]), (True, ordered[-1])):
        read = subject.read(group=group)
        read.selector.first.by_field = label
        read.selector.first.descending = descending
        (applied,) = await subject.done(read)
        found = [dict(each).get("id") for each in applied.records]
        expect(found == [wanted["id"]], f"it selected {len(found)} records, or another")


@check("select.unknown_field")
async def unknown_field(subject: Subject) -> None:
    """A condition on a field that is not in the schema is refused with UNKNOWN_FIELD."""
    for build in (subject.read, subject.delete):
        operation = build()
        operation.selector.conditions.conditions.append(condition("no_such_field", "EQUAL", "x"))
        (reason,) = await subject.refused(operation)
        expect(reason == "UNKNOWN_FIELD", f"it was refused with {reason}")


@check("select.not_selectable")
async def not_selectable(subject: Subject) -> None:
    """A condition on a field that is not x-selectable is refused with UNKNOWN_FIELD."""
    hidden = [n for n, each in subject.kind.properties.items() if not each.get("x-selectable")]
    if not hidden:
        raise NotTried(f"every field of {subject.kind.name} is x-selectable")
    read = subject.read()
    read.selector.conditions.conditions.append(condition(hidden[0], "EQUAL", "x"))
    (reason,) = await subject.refused(read)
    expect(reason == "UNKNOWN_FIELD", f"it was refused with {reason}")


async def matching(subject: Subject, group: str, also: pb.Condition) -> set[str]:
    """The ids of the records of *group* for which another condition holds."""
    read = subject.read(group=group)
    read.selector.conditions.conditions.append(also)
    (applied,) = await subject.done(read)
    return {str(dict(each).get("id")) for each in applied.records}


def condition(field: str, comparison: str, value: Any) -> pb.Condition:
    made = pb.Condition(field=field, comparison=pb.Comparison.Value(f"COMPARISON_{comparison}"))
    ParseDict(value, made.value)
    return made
