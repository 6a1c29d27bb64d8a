"""What a plan and the descriptors allow of a request's operations. Waits for nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, Plan
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.interpret.checking import Fault, normalized, violations
from services.gateway.peers import is_finite
from services.gateway.references import RolledBack, reference_faults
from services.gateway.refusals import bad_request
from services.runtime.failure import Failure

MODIFYING = (domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)


class Refused(Failure):
    """One operation is refused before it reaches its domain; told in the report."""

    code = grpc.StatusCode.INVALID_ARGUMENT


@dataclass(frozen=True)
class Planned:
    """One operation of a request, and why it is refused, if it is."""

    index: int
    operation_id: str
    operation: pb.Operation
    refused: Failure | None = None
    # Of a confirmed change: what its domain is to compare with before it changes anything (GAT-5).
    records_digest: bytes = b""

    @property
    def modifies(self) -> bool:
        return modifies(self.operation)


def modifies(operation: pb.Operation) -> bool:
    """Whether *operation* changes anything; what is not said to be a read counts as a change."""
    return operation.verb != domain_pb2.VERB_READ


def authorized(
    operations: Sequence[pb.Operation],
    ids: Sequence[str],
    plan: Plan,
    descriptors: Mapping[str, DomainDescriptor],
) -> list[Planned]:
    """Each operation as its domain will get it, or with the reason why it will not.

    Unknown domains, operations that are not offered and fields that are not in the schema never
    reach a domain (GAT-3); changes need a plan that allows them. One that is refused takes the
    batch of its domain with it (GAT-6).
    """
    faults = reference_faults(operations, descriptors)
    return whole_batches(
        [
            judged(index, id_, operation, plan, descriptors, faults.get(index))
            for index, (id_, operation) in enumerate(zip(ids, operations, strict=True))
        ]
    )


def whole_batches(planned: Sequence[Planned]) -> list[Planned]:
    """Refuse every operation of a domain where one of its operations is refused (GAT-6).

    The domain would roll its batch back for the same fault; who finds it makes no difference.
    """
    failing = {each.operation.domain for each in planned if each.refused}
    return [
        replace(each, refused=RolledBack())
        if each.operation.domain in failing and not each.refused
        else each
        for each in planned
    ]


def judged(
    index: int,
    id_: str,
    operation: pb.Operation,
    plan: Plan,
    descriptors: Mapping[str, DomainDescriptor],
    reference_fault: Fault | None = None,
) -> Planned:
    fault = number_fault(operation)
    if fault is None:
        fault = next(iter(violations(operation, descriptors)), reference_fault)
    if fault is not None:
        path, sentence, reason = fault
        refused = Refused(
            f"{path}: {sentence}",
            reason=reason,
            metadata={"field": path},
            details=[bad_request(path, sentence)],
        )
        return Planned(index, id_, operation, refused)
    if modifies(operation) and not plan.allows_crud:
        forbidden = Refused("the plan does not allow changes", reason="PLAN_FORBIDS")
        forbidden.code = grpc.StatusCode.PERMISSION_DENIED  # type: ignore[misc]
        return Planned(index, id_, normalized(operation, descriptors), forbidden)
    return Planned(index, id_, normalized(operation, descriptors))


def number_fault(operation: pb.Operation) -> Fault | None:
    """A number that JSON does not have, and so no schema: it could be held against none."""
    for name, value in operation.fields.fields.items():
        if not is_finite(value):
            return f"fields.{name}", "holds a number that is none", "FIELD_INVALID"
    for index, each in enumerate(operation.selector.conditions.conditions):
        if not is_finite(each.value):
            path = f"selector.conditions[{index}].value"
            return path, "holds a number that is none", "FIELD_INVALID"
    return None
