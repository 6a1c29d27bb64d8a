"""What follows dispatch: counts settled, outcomes logged, and what a dead call has left finished.

All of it can be done again without harm, so that it is begun again until it is whole: by the call
itself, by a retry of it, or by whichever replica finds what was left (USE-2, LOG-2, GAT-7).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.gateway.admission import QUERY, READ, modifies_place, operation_id
from services.gateway.authorization import Planned
from services.gateway.changes import VERBS
from services.gateway.dispatch import Done, asked, ended, ends_of
from services.gateway.entitlements import Entitlements
from services.gateway.failures import DomainUnreachable, GivenUp, Superseded
from services.gateway.notices import Notices
from services.gateway.peers import Domains, Usage
from services.gateway.replay import Lease, Orphaned
from services.gateway.report import Reporter
from services.gateway.requests import KeptAnswer, OrphanedRead, Requests
from services.runtime.failure import Failure
from services.runtime.identity import Caller
from services.runtime.recording import RecordedOperation, RecordedOutcome, Recorder

# After it, what nobody can tell is taken as done: counted stays counted. Before the reservation of
# a claim ends by itself.
UNKNOWN_FOR = timedelta(minutes=12)
LEFT_FOR = timedelta(seconds=30)
SWEEP_SECONDS = 5.0
MOST_LEFT = 50


@dataclass(frozen=True)
class Work:
    """What of one request is carried out, and how many changes were claimed for it."""

    caller: Caller
    request_id: str
    use_id: UUID
    going: Sequence[Planned]
    claimed: int
    # How its words were understood, where it had some.
    interpretation: pb.Interpretation = field(default_factory=pb.Interpretation)

    @property
    def changes(self) -> list[Planned]:
        return [each for each in self.going if each.modifies]

    def recorded(self, domain: str, verb: int, id_: str) -> RecordedOperation:
        return RecordedOperation(
            operation_id=id_,
            request_id=self.request_id,
            action=VERBS.get(verb, "read"),  # type: ignore[call-overload]
            domain=domain,
            user_id=self.caller.user_id,
            clinic_id=self.caller.clinic_id,
        )


class Settlement:
    """Settles requests; what cannot be settled now stays to be settled later."""

    def __init__(
        self,
        entitlements: Entitlements,
        usage: Usage,
        domains: Domains,
        requests: Requests,
        recorder: Recorder,
        notices: Notices,
        log: logging.Logger,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._entitlements = entitlements
        self._usage = usage
        self._domains = domains
        self._requests = requests
        self._recorder = recorder
        self._notices = notices
        self._log = log
        self._now = now

    async def settle(
        self,
        work: Work,
        report: pb.PartialOutcomeReport,
        ends: Mapping[int, datetime],
        *,
        at_last: bool = False,
    ) -> bool:
        """Settle counts and log as *report* says; whether nothing is left to be settled.

        What is unknown keeps its count and its open intent, unless *at_last*, when the count
        stands. *ends* says when each operation ended, by index.
        """
        await self._recorder.outcomes(outcomes_of(work, report, ends))
        unknown = {each.index for each in report.failures if each.outcome_unknown}
        undone = {each.index for each in report.failures} - unknown
        return await self._counted(
            work,
            undone=sum(each.index in undone for each in work.changes),
            is_known=at_last or not unknown,
        ) and (at_last or not unknown)

    async def _counted(self, work: Work, *, undone: int, is_known: bool) -> bool:
        """Give back what was not carried out; what was stands. Whether usage knows."""
        user_id, granted = work.caller.user_id, len(work.changes)
        if not granted or not work.claimed:
            return True
        id_ = operation_id(work.use_id, modifies_place(work.claimed))
        try:
            if undone:
                await self._usage.release(user_id, id_, undone)
            if is_known and undone < granted:
                await self._usage.settle(user_id, id_)
        except Failure as failure:
            self._log.warning("counts could not be settled yet: %s", failure.reason)
            return False
        return True

    async def recover(self, orphaned: Orphaned, *, for_itself: bool = False) -> pb.ExecuteResponse:
        """Finish what a call that ended midway left behind: ask the domains what was done.

        Nothing is executed any more. Raises Failure: it then stays as it was left; Superseded.
        """
        lease, answer, report = orphaned.lease, orphaned.answer, orphaned.answer.report
        work = work_of(orphaned)
        reporter = Reporter(self._notices, orphaned.locale, await self._entitlements.descriptors())
        told = {each.index for each in report.successes}
        told |= {each.index for each in report.failures if not each.outcome_unknown}
        open_ = [each for each in work.going if each.index not in told]
        done = await self._asked(open_, for_itself=for_itself)
        reporter.add(report, done)
        if not report.HasField("duration"):
            reporter.ended(report, self._now())
        ends = ends_of(done, self._now())
        await self._requests.settling(lease, answer)
        at_last = orphaned.age > UNKNOWN_FOR
        settled = await self.settle(work, report, ends, at_last=at_last)
        if await self._read_released(lease) and settled:
            mine = await self._requests.finish(lease, answer.SerializeToString())
        else:
            mine = await self._requests.settle_later(lease, answer)
        if not mine:
            raise Superseded
        return answer

    async def _recover_read(self, orphaned: OrphanedRead) -> None:
        """Bring an answered read to the log; release what was counted for an unanswered one.

        The release comes first: the row is what says that something may still be counted.
        """
        lease = orphaned.lease
        if orphaned.unlogged is not None:
            await self._recorder.send(spans_in(orphaned.unlogged))
            await self._requests.logged([finished(lease)])
            return
        if not lease.delivered:
            await self._release(lease, READ)
            await self._release(lease, QUERY)
        await self._requests.abandon(lease, was_counted=True)

    async def _read_released(self, lease: Lease) -> bool:
        """Release the read of a request that changes something; whether usage knows.

        Words are counted as a read until it is known that they change something.
        """
        try:
            await self._release(lease, READ)
        except Failure as failure:
            self._log.warning("a read could not be given back yet: %s", failure.reason)
            return False
        return True

    async def _release(self, lease: Lease, place: str) -> None:
        id_ = operation_id(lease.use_id, place)
        await self._usage.release(lease.caller.user_id, id_, attempt=lease.attempt)

    async def _asked(self, planned: Sequence[Planned], *, for_itself: bool) -> list[Done]:
        descriptors = await self._entitlements.descriptors()
        failure = GivenUp("the call ended before this was done")
        batches: dict[str, list[Planned]] = {}
        for each in planned:
            batches.setdefault(each.operation.domain, []).append(each)
        found = await asyncio.gather(
            *(
                asked(each, descriptors[name], self._domains, failure, for_itself=for_itself)
                for name, each in batches.items()
                if name in descriptors
            )
        )
        gone = DomainUnreachable("the domain is not there any more")
        lost = [each for each in planned if each.operation.domain not in descriptors]
        return [
            *(one for each in found for one in each),
            *(ended(each, failure=gone, unknown=each.modifies) for each in lost),
        ]

    async def sweeping(self) -> None:
        """Finish what was left, and delete what is over, for ever; run as a task."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._requests.sweep()
                await self.sweep(LEFT_FOR)
            except Failure:
                continue  # the store is away; what was left stays a little longer

    async def sweep(self, grace: timedelta) -> int:
        """Finish what has been left for *grace*; how many requests that were."""
        found = await self._requests.orphans(grace, MOST_LEFT)
        for caller, request_id in found:
            try:
                orphaned = await self._requests.take_over(caller, request_id)
                if isinstance(orphaned, OrphanedRead):
                    await self._recover_read(orphaned)
                elif orphaned is not None:
                    await self.recover(orphaned, for_itself=True)
            except Superseded:
                continue
            except Failure as failure:
                self._log.warning("an orphaned request waits longer: %s", failure.reason)
        return len(found)


def work_of(orphaned: Orphaned) -> Work:
    lease = orphaned.lease
    going = [
        Planned(each.index, operation_id(lease.use_id, each.index), each.operation)
        for each in orphaned.planned.operations
    ]
    return Work(
        lease.caller,
        lease.request_id,
        lease.use_id,
        going,
        orphaned.claimed,
        orphaned.answer.interpretation,
    )


def finished(lease: Lease) -> KeptAnswer:
    """How the row of an answered read is kept once the log has its operations."""
    return KeptAnswer(lease.caller.user_id, lease.request_id, lease.owner, "finished")


def spans_in(unlogged: bytes) -> list[Span]:
    """The spans of an export that was stored beside an answer."""
    scopes = ExportTraceServiceRequest.FromString(unlogged).resource_spans[0].scope_spans
    return [span for scope in scopes for span in scope.spans]


def export_of(spans: Sequence[Span]) -> bytes:
    """*spans* as `spans_in` reads them."""
    export = ExportTraceServiceRequest()
    export.resource_spans.add().scope_spans.add().spans.extend(spans)
    return export.SerializeToString()


def kept_of(work: Work) -> pb.ConfirmationRequired:
    """The operations of *work*, by index, as they are kept."""
    return pb.ConfirmationRequired(
        operations=[
            pb.PlannedOperation(index=each.index, operation=each.operation) for each in work.going
        ]
    )


def outcomes_of(
    work: Work, report: pb.PartialOutcomeReport, ends: Mapping[int, datetime]
) -> list[RecordedOutcome]:
    """What the log says of every operation; where it is unknown, its intent stays open."""
    started_at = report.started_at.ToDatetime(tzinfo=UTC)
    whole = started_at + report.duration.ToTimedelta()
    going = {each.index for each in work.going}
    told: list[tuple[pb.Success | pb.Failure, str, str]] = [
        (each, "succeeded", "") for each in report.successes
    ]
    for failure in report.failures:
        if not failure.outcome_unknown:
            reason = reason_in(failure.status)
            told.append((failure, outcome_of(reason, is_going=failure.index in going), reason))
    return [
        RecordedOutcome(
            # A domain that is none is a text of the caller's: it stays out of the log (LOG-6).
            work.recorded(
                "" if reason == "UNKNOWN_DOMAIN" else each.domain, each.verb, each.operation_id
            ),
            outcome,
            started_at,
            max(ends.get(each.index, whole), started_at),
            reason=reason,
            model_used=work.interpretation.model_used,
            failover=work.interpretation.failover,
        )
        for each, outcome, reason in told
    ]


def outcome_of(reason: str, *, is_going: bool) -> str:
    """Failures of what was sent to its domain, or would have been, against what was refused."""
    if reason in ("CANCELLED", "DEADLINE_EXCEEDED"):
        return "cancelled"
    return "failed" if is_going and reason != "LOG_UNAVAILABLE" else "refused"


def reason_in(status: Status) -> str:
    """The machine's reason in a status."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""
