"""Operations that need what earlier ones of the request bring. Waits for nothing.

Domains are asked side by side, one transaction each, so a reference leads from one domain to
another: the second is asked when the first has answered (GAT-6).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.checking import Fault, entity_of, label_of, properties_of
from services.runtime.failure import Failure

Descriptors = Mapping[str, DomainDescriptor]
INVALID = "REFERENCE_INVALID"
ID = "id"


class DependencyFailed(Failure):
    """What an operation refers to was not done, or is not one record."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "DEPENDENCY_FAILED"

    def __init__(self) -> None:
        super().__init__("the operation that this one refers to did not come to one record")


class RolledBack(Failure):
    """Another operation of the same batch could not be done, so none of it was."""

    code = grpc.StatusCode.ABORTED
    reason = "ROLLED_BACK"

    def __init__(self) -> None:
        super().__init__("another operation of the batch could not be done")


def reference_faults(
    operations: Sequence[pb.Operation], descriptors: Descriptors
) -> dict[int, Fault]:
    """The first fault of each operation whose references cannot be followed, by its place."""
    faults: dict[int, Fault] = {}
    needs: dict[str, set[str]] = {}
    for index, operation in enumerate(operations):
        for place, reference in enumerate(operation.references):
            found = fault_of(reference, index, operations, descriptors)
            if found is None and leads_back(needs, operation.domain, operations, reference):
                found = ("operation", "leads back to its own domain")
            if found is not None:
                part, sentence = found
                faults.setdefault(index, (f"references[{place}].{part}", sentence, INVALID))
            else:
                other = operations[reference.operation].domain
                needs.setdefault(operation.domain, set()).add(other)
    return faults


def fault_of(
    reference: pb.Reference,
    index: int,
    operations: Sequence[pb.Operation],
    descriptors: Descriptors,
) -> tuple[str, str] | None:
    operation = operations[index]
    if reference.operation >= index:
        return "operation", "must be the place of an earlier operation"
    brings = operations[reference.operation]
    if brings.domain == operation.domain:
        return "operation", "must be of another domain: those of one are carried out as one"
    if reference.field in operation.fields:
        return "field", "has a value already"
    if sum(each.field == reference.field for each in operation.references) > 1:
        return "field", "has two references"
    if not reference.field and operation.HasField("selector"):
        return "field", "must be set: there is a selector already"
    descriptor = descriptors.get(brings.domain)
    entity = entity_of(brings, descriptor) if descriptor is not None else None
    if entity is not None and reference.record_field not in ("", ID, *properties_of(entity)):
        return "record_field", f"is no field of {entity.name}"
    return None


def leads_back(
    needs: Mapping[str, set[str]],
    domain: str,
    operations: Sequence[pb.Operation],
    reference: pb.Reference,
) -> bool:
    """Whether the domain that brings the value waits for *domain* itself."""
    seen: set[str] = set()
    waiting = [operations[reference.operation].domain]
    while waiting:
        other = waiting.pop()
        if other == domain:
            return True
        if other not in seen:
            seen.add(other)
            waiting.extend(needs.get(other, ()))
    return False


def resolved(
    operation: pb.Operation, records: Mapping[int, Mapping[str, Any] | None]
) -> pb.Operation:
    """*operation* with the values in it that it refers to.

    *records* has the one record that an operation came to, by its place. Raises DependencyFailed.
    """
    if not operation.references:
        return operation
    made = pb.Operation()
    made.CopyFrom(operation)
    for reference in operation.references:
        value = (records.get(reference.operation) or {}).get(reference.record_field or ID)
        if value is None:
            raise DependencyFailed
        if reference.field:
            made.fields[reference.field] = value
        else:
            made.selector.id = str(value)
    del made.references[:]
    return made


def linked(operations: Sequence[pb.Operation], descriptors: Descriptors) -> None:
    """Have values refer to earlier operations that make the record of that name.

    `create a client Maria Lopes and book her tomorrow`: the appointment is for the client that is
    made, so it waits for it.
    """
    made: dict[str, tuple[int, str]] = {}
    for index, operation in enumerate(operations):
        for field, value in sorted(operation.fields.items()):
            if isinstance(value, str) and value in made:
                link(operations[: index + 1], field, *made[value], descriptors)
        label = label_of(operation, descriptors)
        if label is not None:
            made[str(operation.fields[label])] = (index, label)


def link(
    operations: Sequence[pb.Operation],
    field: str,
    place: int,
    record_field: str,
    descriptors: Descriptors,
) -> None:
    """Have *field* of the last of *operations* refer to another's, where that can be followed."""
    operation = operations[-1]
    value = operation.fields[field]
    del operation.fields[field]
    operation.references.add(field=field, operation=place, record_field=record_field)
    if reference_faults(operations, descriptors):
        operation.references.pop()
        operation.fields[field] = value
