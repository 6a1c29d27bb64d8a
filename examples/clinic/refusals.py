"""Why an operation of a batch is refused: answered in its result, with a reason for machines."""

from collections.abc import Sequence

import grpc
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from services.runtime.failure import Failure, PeerFailure, Violation


class Refusal(PeerFailure):
    """One operation cannot be carried out, and so its batch is not."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, details: Sequence[Message] = ()
    ) -> None:
        super().__init__(code, message, reason=reason, details=details)


def of_field(reason: str, violation: Violation) -> Refusal:
    """A field of the operation is wrong; a BadRequest names it."""
    field, description = violation
    bad = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        ]
    )
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{field}: {description}", [bad])


def unknown_field(path: str, message: str) -> Refusal:
    return of_field("UNKNOWN_FIELD", (path, message))


def invalid(violation: Violation) -> Refusal:
    return of_field("INVALID_ARGUMENT", violation)


def precondition(reason: str, message: str, details: Sequence[Message] = ()) -> Refusal:
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, reason, message, details)


def not_found(entity: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no such {entity}")


def locked(entity: str) -> Refusal:
    return precondition("RECORD_LOCKED", f"the {entity} is locked")


def consent_missing() -> Refusal:
    return precondition("CONSENT_MISSING", "the client has not agreed to be contacted")


def referenced(by: str) -> Refusal:
    return precondition("REFERENCE_VIOLATION", f"the client has {by}")


def exists(entity: str) -> Refusal:
    return Refusal(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", f"such a {entity} is there")


def unchanged(entity: str) -> Refusal:
    return precondition("STATE_CONFLICT", f"the {entity} is in the state asked for already")


def state_forbids(entity: str, current: str, wanted: str) -> Refusal:
    return precondition("STATE_CONFLICT", f"the {entity} is {current} and cannot become {wanted}")


def too_many(allowed: int) -> Refusal:
    return precondition("TOO_MANY_AFFECTED", f"more than {allowed} records would be touched")


def ambiguous(candidates: Sequence[tuple[str, str]], total: int) -> Refusal:
    shown = pb.Candidates(
        candidates=[pb.Candidate(id=id_, label=label) for id_, label in candidates], total=total
    )
    return precondition("AMBIGUOUS_TARGET", f"{total} records match, and one was meant", [shown])


def id_reused() -> Refusal:
    return precondition("OPERATION_ID_REUSED", "the operation_id came with another operation")


def id_of_another_batch() -> Refusal:
    return precondition(
        "OPERATION_ID_REUSED", "the operation_id was applied before, in a batch without the others"
    )


def abandoned() -> Refusal:
    return precondition("OPERATION_ABANDONED", "the operation was given up before")


ROLLED_BACK = Failure("another operation of the batch failed", reason="ROLLED_BACK")
ROLLED_BACK.code = grpc.StatusCode.ABORTED  # type: ignore[misc]
