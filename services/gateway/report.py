"""The partial outcome report: every operation exactly once (GAT-6). Waits for nothing."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc.status_pb2 import Status

from services.gateway.authorization import Planned
from services.gateway.dispatch import Done, candidates_of
from services.gateway.notices import Notices
from services.runtime.failure import Failure, packed

RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
NOTICES = {
    "CONSENT_MISSING": pb.NOTICE_KIND_CONSENT,
    "RECORD_LOCKED": pb.NOTICE_KIND_RECORD_LOCKED,
}
VERBS = {
    domain_pb2.VERB_CREATE: "create",
    domain_pb2.VERB_READ: "read",
    domain_pb2.VERB_UPDATE: "update",
    domain_pb2.VERB_DELETE: "delete",
}


class Reporter:
    """Words what became of operations in one language."""

    def __init__(
        self, notices: Notices, locale: str, descriptors: Mapping[str, DomainDescriptor]
    ) -> None:
        self._notices = notices
        self._locale = locale
        self._descriptors = descriptors

    def report(
        self, request_id: str, done: Sequence[Done], started_at: datetime, ended_at: datetime
    ) -> pb.PartialOutcomeReport:
        """Every operation of *done* in exactly one of the two lists, in the request's order."""
        ordered = sorted(done, key=lambda each: each.planned.index)
        report = pb.PartialOutcomeReport(
            id=str(uuid.uuid4()),
            request_id=request_id,
            successes=[self._success(each) for each in ordered if each.applied is not None],
            failures=[self._failure(each) for each in ordered if each.applied is None],
        )
        report.outcome = outcome_of(len(report.successes), len(report.failures))
        report.started_at.FromDatetime(started_at)
        report.duration.FromTimedelta(ended_at - started_at)
        return report

    def _success(self, done: Done) -> pb.Success:
        operation, applied = done.planned.operation, done.applied
        assert applied is not None
        return pb.Success(
            index=done.planned.index,
            operation_id=done.planned.operation_id,
            domain=operation.domain,
            verb=operation.verb,
            entity=operation.entity,
            affected=applied.affected,
            records=applied.records,
            summary=self._sentence("success", operation, applied.affected),
            truncated=applied.truncated,
        )

    def _failure(self, done: Done) -> pb.Failure:
        operation, failure = done.planned.operation, done.failure
        assert failure is not None
        reason = "OUTCOME_UNKNOWN" if done.unknown else failure.reason
        message, next_step = self._notices.for_reason(reason, self._locale)
        return pb.Failure(
            index=done.planned.index,
            operation_id=done.planned.operation_id,
            domain=operation.domain,
            verb=operation.verb,
            entity=operation.entity,
            status=status_of(failure),
            message=message,
            retryable=not done.unknown and failure.code in RETRYABLE,
            next_step=next_step,
            outcome_unknown=done.unknown,
        )

    def planned(self, planned: Planned, affected: int) -> pb.PlannedOperation:
        return pb.PlannedOperation(
            index=planned.index,
            operation=planned.operation,
            affected=affected,
            summary=self._sentence("planned", planned.operation, affected),
        )

    def _sentence(self, kind: str, operation: pb.Operation, affected: int) -> str:
        key = f"{kind}-{VERBS.get(operation.verb, 'read')}"
        entity = self._word(operation)
        return self._notices.sentence(key, self._locale, affected=affected, entity=entity)

    def _word(self, operation: pb.Operation) -> str:
        """What users of this language call the kind of record: its first synonym."""
        descriptor = self._descriptors.get(operation.domain)
        for entity in descriptor.entities if descriptor else ():
            if entity.name == operation.entity:
                for synonyms in entity.synonyms:
                    if synonyms.locale == self._locale and synonyms.words:
                        return synonyms.words[0]
        return operation.entity.replace("_", " ")

    def notices_for(self, done: Sequence[Done], plan_name: str) -> list[pb.Notice]:
        """What users are told besides, once each: a lock, a missing consent, an upgrade."""
        reasons = {each.failure.reason for each in done if each.failure is not None}
        found = [
            self._notices.notice(kind, self._locale)
            for reason, kind in NOTICES.items()
            if reason in reasons
        ]
        if "PLAN_FORBIDS" in reasons:
            found.append(self._notices.upgrade(self._locale, plan_name=plan_name))
        return found


def outcome_of(successes: int, failures: int) -> pb.Outcome.ValueType:
    if not failures:
        return pb.OUTCOME_SUCCEEDED
    return pb.OUTCOME_PARTIAL if successes else pb.OUTCOME_FAILED


def status_of(failure: Failure) -> Status:
    """The failure for machines; candidates are given to those who are told which to choose."""
    status = failure.status()
    candidates = candidates_of(failure)
    del status.details[1:]
    if candidates is not None:
        status.details.append(packed(candidates))
    return status
