"""Why an operation of a batch is refused: answered in its result, with a reason for machines."""

from collections.abc import Sequence

import grpc
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.message import Message

from services.runtime.failure import Failure, PeerFailure, Violation


class Refusal(PeerFailure):
    """One operation cannot be carried out, and so its batch is not."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, details: Sequence[Message] = ()
    ) -> None:
        super().__init__(code, message, reason=reason, details=details)


def unknown_field(path: str, message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD", f"{path}: {message}")


def invalid(violation: Violation) -> Refusal:
    field, description = violation
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", f"{field}: {description}")


def not_found(entity: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no such {entity}")


def locked(entity: str) -> Refusal:
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "RECORD_LOCKED", f"the {entity} is locked")


def consent_missing() -> Refusal:
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "CONSENT_MISSING",
        "the client has not agreed to be contacted",
    )


def referenced(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "REFERENCE_VIOLATION", message)


def exists(entity: str) -> Refusal:
    return Refusal(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", f"such a {entity} is there")


def unchanged(entity: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "STATE_CONFLICT",
        f"the {entity} is in the state asked for already",
    )


def too_many(count: int, allowed: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_AFFECTED",
        f"{count} records match, and at most {allowed} were to be touched",
    )


def ambiguous(candidates: Sequence[tuple[str, str]], total: int) -> Refusal:
    shown = pb.Candidates(
        candidates=[pb.Candidate(id=id_, label=label) for id_, label in candidates], total=total
    )
    return Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "AMBIGUOUS_TARGET",
        f"{total} records match, and one was meant",
        [shown],
    )


ROLLED_BACK = Failure("another operation of the batch failed", reason="ROLLED_BACK")
ROLLED_BACK.code = grpc.StatusCode.ABORTED  # type: ignore[misc]
