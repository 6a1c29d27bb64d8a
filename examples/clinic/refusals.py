"""Why an operation of a batch is refused: answered in its result, with a reason for machines."""

from collections.abc import Sequence

import grpc
from gatehouse.domain.v1 import domain_pb2 as pb
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from examples.clinic.sentences import locale_of, sentence
from services.runtime.failure import Failure, PeerFailure, Violation


class Refusal(PeerFailure):
    """One operation cannot be carried out, and so its batch is not.

    *says* is a sentence for users, by its key in sentences.py, with what it is about.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        details: Sequence[Message] = (),
        *,
        field: str = "",
        says: str = "",
        **about: str,
    ) -> None:
        super().__init__(code, message, reason=reason, details=details)
        self._field = field
        self._says = says
        self._about = about

    def localized(self, locale: str) -> Failure:
        """The refusal with what users read, in the language of *locale*."""
        if not self._says and not self._field:
            return self
        refusal = pb.Refusal(field=self._field)
        if self._says:
            refusal.locale = locale_of(locale)
            refusal.message = sentence(self._says, self._about, refusal.locale)
        details = [*self.details, refusal]
        return PeerFailure(self.code, self.message, reason=self.reason, details=details)


def of_field(reason: str, violation: Violation, says: str = "") -> Refusal:
    """A field of the operation is wrong; a BadRequest names it."""
    field, description = violation
    bad = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        ]
    )
    message = f"{field}: {description}"
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, message, [bad], says=says)


def unknown_field(path: str, message: str) -> Refusal:
    return of_field("UNKNOWN_FIELD", (path, message))


def invalid(violation: Violation, says: str = "") -> Refusal:
    return of_field("INVALID_ARGUMENT", violation, says)


def precondition(
    reason: str, message: str, details: Sequence[Message] = (), *, says: str = "", **about: str
) -> Refusal:
    code = grpc.StatusCode.FAILED_PRECONDITION
    return Refusal(code, reason, message, details, says=says, **about)


def not_found(entity: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no such {entity}")


def no_client(name: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.NOT_FOUND,
        "NOT_FOUND",
        "no such client",
        field="fields.client_name",
        says="no_client",
        name=name,
    )


def locked(entity: str) -> Refusal:
    return precondition("RECORD_LOCKED", f"the {entity} is locked")


def consent_missing() -> Refusal:
    return precondition("CONSENT_MISSING", "the client has not agreed to be contacted")


def referenced(by: str) -> Refusal:
    message = f"the client is named by another record, of the kind {by}"
    return precondition("REFERENCE_VIOLATION", message, says="referenced", by=by)


def exists(entity: str) -> Refusal:
    message = f"another {entity} with the same key exists"
    code = grpc.StatusCode.ALREADY_EXISTS
    return Refusal(code, "ALREADY_EXISTS", message, says="exists", entity=entity)


def unchanged(entity: str) -> Refusal:
    message = f"the {entity} is in the state asked for already"
    return precondition("STATE_CONFLICT", message, says="unchanged", entity=entity)


def state_forbids(entity: str, current: str, wanted: str) -> Refusal:
    return precondition(
        "STATE_CONFLICT",
        f"the {entity} is {current} and cannot become {wanted}",
        says="state_forbids",
        entity=entity,
        current=current,
        wanted=wanted,
    )


def records_changed() -> Refusal:
    return precondition("RECORDS_CHANGED", "other records, or other values, than were confirmed")


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
