"""The partial outcome report: every operation exactly once (GAT-6). Waits for nothing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from services.gateway.admission import operation_id
from services.gateway.authorization import Planned
from services.gateway.changes import Words
from services.gateway.dispatch import Done
from services.gateway.failures import QuotaExhausted
from services.gateway.notices import Notices
from services.gateway.preview import Touched
from services.gateway.reading import tags_in_language_of
from services.gateway.refusals import (
    candidates_of,
    detail_in,
    field_of,
    sentence_of,
    single_line,
)
from services.runtime.failure import Failure, packed

RETRYABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# Of what clients take in one message unless they are told more, which is 4 MiB.
MOST_RECORD_BYTES = 2 * 1024 * 1024
# A name for people, not a text.
LONGEST_LABEL = 160
MOST_NAMED = 3
# Of a summary of many operations, so many are said in full.
MOST_SUMMARISED = 3
NOTICES = {
    "CONSENT_MISSING": pb.NOTICE_KIND_CONSENT,
    "RECORD_LOCKED": pb.NOTICE_KIND_RECORD_LOCKED,
}
WOULD = {
    pb.OUTCOME_SUCCEEDED: pb.OUTCOME_WOULD_SUCCEED,
    pb.OUTCOME_PARTIAL: pb.OUTCOME_WOULD_BE_PARTIAL,
    pb.OUTCOME_FAILED: pb.OUTCOME_WOULD_FAIL,
}


class Reporter:
    """Words what became of operations in one language."""

    def __init__(
        self, notices: Notices, locale: str, descriptors: Mapping[str, DomainDescriptor]
    ) -> None:
        self._notices = notices
        self._locale = locale
        self._descriptors = descriptors
        self._words = Words(notices, locale, descriptors)

    def report(
        self, use_id: UUID, request_id: str, started_at: datetime, done: Sequence[Done]
    ) -> pb.PartialOutcomeReport:
        """Every operation of *done* in exactly one of the two lists, in the request's order.

        Its id is the request's: whoever finishes the report of a request makes the same one.
        """
        report = pb.PartialOutcomeReport(id=operation_id(use_id, "report"), request_id=request_id)
        report.started_at.FromDatetime(started_at)
        self.add(report, done)
        return report

    def add(self, report: pb.PartialOutcomeReport, done: Sequence[Done]) -> None:
        """Put *done* into *report*, in the place of what it said of the same operations."""
        known = {each.planned.index for each in done}
        successes = [each for each in report.successes if each.index not in known]
        failures = [each for each in report.failures if each.index not in known]
        successes += [self._success(each) for each in done if each.applied is not None]
        leave_room(successes)
        failures += [self._failure(each) for each in done if each.applied is None]
        del report.successes[:], report.failures[:]
        report.successes.extend(sorted(successes, key=lambda each: each.index))
        report.failures.extend(sorted(failures, key=lambda each: each.index))
        report.outcome = outcome_of(len(successes), len(failures))

    def ended(self, report: pb.PartialOutcomeReport, ended_at: datetime) -> None:
        took = ended_at - report.started_at.ToDatetime(tzinfo=UTC)
        report.duration.FromTimedelta(max(took, timedelta(0)))

    def _success(self, done: Done) -> pb.Success:
        operation, applied = done.planned.operation, done.applied
        assert applied is not None
        label = plain(applied.label)
        return pb.Success(
            index=done.planned.index,
            operation_id=done.planned.operation_id,
            domain=operation.domain,
            verb=operation.verb,
            entity=operation.entity,
            affected=applied.affected,
            records=applied.records,
            summary=self._sentence("success", operation, applied),
            truncated=applied.truncated,
            label=label,
        )

    def _failure(self, done: Done) -> pb.Failure:
        operation, failure = done.planned.operation, done.failure
        assert failure is not None
        reason = "OUTCOME_UNKNOWN" if done.unknown else failure.reason
        message, next_step = self._notices.for_reason(reason, self._locale)
        if not done.unknown:
            message = self._why(done)
        return pb.Failure(
            index=done.planned.index,
            operation_id=done.planned.operation_id,
            domain=operation.domain,
            verb=operation.verb,
            entity=operation.entity,
            status=status_of(failure),
            message=message,
            retryable=not done.unknown and is_retryable(failure),
            next_step=next_step,
            outcome_unknown=done.unknown,
            field=field_of(failure),
        )

    def clarified(
        self, done: Sequence[Done], planned: Sequence[Planned], answer: pb.ExecuteResponse
    ) -> bool:
        """Whether *answer*, of *planned*, now asks which record is meant (GAT-4)."""
        found = ambiguous(done)
        if found is None:
            return False
        question, _ = self._notices.for_reason("AMBIGUOUS_TARGET", self._locale)
        answer.clarification.ambiguity = pb.AMBIGUITY_TARGET
        answer.clarification.question = question
        answer.clarification.options.extend(options_of(planned, *found))
        return True

    def foreseen(
        self, use_id: UUID, request_id: str, started_at: datetime, touched: Touched
    ) -> pb.PartialOutcomeReport:
        """The report of a dry run: what would become of each operation; nothing was done."""
        report = self.report(use_id, request_id, started_at, touched.done)
        report.outcome = WOULD[report.outcome]
        tried = {each.planned.index: each for each in touched.done}
        for each in report.successes:
            done = tried[each.index]
            assert done.applied is not None
            changes = touched.changes(done)
            each.summary = self._sentence("would", done.planned.operation, done.applied, changes)
        for failure in report.failures:
            failure.message = self._why(tried[failure.index], planned=True)
        return report

    def planned(self, done: Done, changes: Sequence[pb.Change]) -> pb.PlannedOperation:
        """What would become of an operation, as *done* when it was only tried."""
        planned, applied = done.planned, done.applied
        if applied is not None:
            summary = self._sentence("planned", planned.operation, applied, changes)
        else:
            why = self._why(done, planned=True)
            summary = self._notices.sentence("planned-not", self._locale, why=why)
        return pb.PlannedOperation(
            index=planned.index,
            operation=planned.operation,
            affected=applied.affected if applied else 0,
            summary=summary,
            label=plain(applied.label) if applied else "",
            changes=changes if applied else (),
        )

    def question(self, done: Sequence[Done], changes: Mapping[int, Sequence[pb.Change]]) -> str:
        """What is asked before *done* is carried out: what would be done, and to which records."""
        feasible = [each for each in done if each.applied and each.planned.modifies]
        sentences = []
        if len(feasible) == 1:
            (only,) = feasible
            assert only.applied is not None
            operation, how = only.planned.operation, changes[only.planned.index]
            sentences.append(self._sentence("would", operation, only.applied, how))
        else:
            sentences.append(self._all_of(feasible))
            shown = feasible[:MOST_SUMMARISED]
            sentences += [self.planned(each, changes[each.planned.index]).summary for each in shown]
            if more := len(feasible) - len(shown):
                sentences.append(self._notices.sentence("planned-more", self._locale, more=more))
        sentences.append(self._notices.sentence("confirmation", self._locale))
        return " ".join(sentences)

    def _all_of(self, feasible: Sequence[Done]) -> str:
        """How many records several changes touch in all, and how, where it is one way."""
        actions = {self._words.action_of(each.planned.operation) for each in feasible}
        action = actions.pop() if len(actions) == 1 else "change"
        records = sum(each.applied.affected for each in feasible if each.applied)
        return self._notices.sentence(f"would-all-{action}", self._locale, records=records)

    def _why(self, done: Done, *, planned: bool = False) -> str:
        """Why it was not done, or would not be: in the domain's words, or those of the reason."""
        assert done.failure is not None
        general, _ = self._notices.for_reason(done.failure.reason, self._locale, planned=planned)
        return sentence_of(done.failure, self._locale) or general

    def _sentence(
        self,
        kind: str,
        operation: pb.Operation,
        applied: domain_pb2.Applied,
        changes: Sequence[pb.Change] = (),
    ) -> str:
        """What is done to how many of what, and to which where their domain has a name for them.

        With *changes*, also from what to what.
        """
        key = f"{kind}-{self._words.action_of(operation)}"
        return self._notices.sentence(
            key,
            self._locale,
            affected=applied.affected,
            entity=self._named(operation, applied),
            how=self._how(operation, changes),
        )

    def _how(self, operation: pb.Operation, changes: Sequence[pb.Change]) -> str:
        if not changes:
            return ""
        worded = self._words.changes(operation, changes)
        return self._notices.sentence("changes", self._locale, changes=worded)

    def _named(self, operation: pb.Operation, applied: domain_pb2.Applied) -> str:
        """The kind of record, and the names of the first of them where their domain has some."""
        entity, label = self._word(operation), plain(applied.label)
        labels = [plain(each) for each in applied.labels[:MOST_NAMED] if plain(each)]
        more = applied.affected - len(labels)
        if labels and more > 0:
            names = "; ".join(labels)
            label = self._notices.sentence("named-more", self._locale, names=names, more=more)
        elif labels:
            label = "; ".join(labels)
        if not label:
            return entity
        return self._notices.sentence("named", self._locale, entity=entity, label=label)

    def _word(self, operation: pb.Operation) -> str:
        """What users of this language call the kind of record: its first synonym."""
        descriptor = self._descriptors.get(operation.domain)
        for entity in descriptor.entities if descriptor else ():
            if entity.name == operation.entity:
                by_tag = {each.locale: each.words for each in entity.synonyms if each.words}
                for tag in tags_in_language_of(self._locale, by_tag):
                    return by_tag[tag][0]
        return operation.entity.replace("_", " ")

    def notices_for(self, done: Sequence[Done]) -> list[pb.Notice]:
        """What users are told besides, once each: a lock, a missing consent, a used up quota."""
        reasons = {each.failure.reason for each in done if each.failure is not None}
        found = [
            self._notices.notice(kind, self._locale)
            for reason, kind in NOTICES.items()
            if reason in reasons
        ]
        limits = [each.failure for each in done if isinstance(each.failure, QuotaExhausted)]
        found += [each.notice for each in limits[:1] if each.notice is not None]
        return found


def ambiguous(done: Sequence[Done]) -> tuple[Planned, domain_pb2.Candidates] | None:
    """The first change of which it is unclear which record is meant, and what could be."""
    for each in done:
        candidates = candidates_of(each.failure) if each.failure else None
        if candidates is not None and each.planned.modifies:
            return each.planned, candidates
    return None


def options_of(
    every: Sequence[Planned], unclear: Planned, candidates: domain_pb2.Candidates
) -> list[pb.Option]:
    """Each candidate as the whole request with that record in it: it can be sent as it is."""
    options = []
    for candidate in candidates.candidates:
        operations = []
        for each in every:
            operation = pb.Operation()
            operation.CopyFrom(each.operation)
            if each.index == unclear.index:
                operation.selector.Clear()
                operation.selector.id = candidate.id
            operations.append(operation)
        options.append(
            pb.Option(
                label=plain(candidate.label), operations=pb.OperationList(operations=operations)
            )
        )
    return options


def plain(label: str) -> str:
    """A domain's name for a record, as one short line of text."""
    return single_line(label, LONGEST_LABEL)


def is_retryable(failure: Failure) -> bool:
    """Whether the same may go better later; an answer that is too large stays too large."""
    return failure.code in RETRYABLE and failure.reason != "MESSAGE_TOO_LARGE"


def leave_room(successes: Sequence[pb.Success]) -> None:
    """Leave out records past MOST_RECORD_BYTES: what became of the rest has to be told as well."""
    room = MOST_RECORD_BYTES
    for each in successes:
        size = each.ByteSize() if each.records else 0
        if size > room:
            kept = 0
            while kept < len(each.records) and each.records[kept].ByteSize() <= room:
                room -= each.records[kept].ByteSize()
                kept += 1
            del each.records[kept:]
            each.truncated, size = True, room
        room -= size


def outcome_of(successes: int, failures: int) -> pb.Outcome.ValueType:
    if not failures:
        return pb.OUTCOME_SUCCEEDED
    return pb.OUTCOME_PARTIAL if successes else pb.OUTCOME_FAILED


def status_of(failure: Failure) -> Status:
    """The failure for machines: its reason, the fields at fault, and the candidates to choose."""
    status = failure.status()
    del status.details[1:]
    for each in (detail_in(failure.details, BadRequest), candidates_of(failure)):
        if each is not None:
            status.details.append(packed(each))
    return status
