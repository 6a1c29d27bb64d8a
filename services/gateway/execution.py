"""Execute, from a request to its report; each step is a file of its own.

admit → interpret → authorize → confirm → consume → log the intent → dispatch → settle → report
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway import confirmation, preview
from services.gateway.admission import Admission, Claims, operation_id, uncounted
from services.gateway.answers import Answers
from services.gateway.authorization import Planned, authorized
from services.gateway.carrying import Carried, Carrier
from services.gateway.dispatch import Interrupted, ended
from services.gateway.entitlements import Entitlements
from services.gateway.failures import (
    ConfirmationRefused,
    PlanForbids,
    Superseded,
    localized,
    told,
)
from services.gateway.interpret import Interpreted, Interpreter
from services.gateway.notices import Notices
from services.gateway.offers import Offers, allows_changes
from services.gateway.outbox import Outbox
from services.gateway.peers import Domains, Usage
from services.gateway.preview import Touched
from services.gateway.reading import reading_of
from services.gateway.replay import Call, Confirmed, Lease, fingerprint_of
from services.gateway.report import Reporter
from services.gateway.requests import Requests
from services.gateway.runner import Attempt, Runner
from services.gateway.scene import Scene
from services.gateway.settings import Settings
from services.gateway.settlement import Settlement, outcomes_of, reason_in
from services.runtime.calling import deadline_left, set_deadline
from services.runtime.failure import DeadlineExceeded, Failure, InvalidInput
from services.runtime.identity import Caller
from services.runtime.recording import Recorder
from services.runtime.telemetry import trace_id


@dataclass(frozen=True)
class Parts:
    """What execution stands on."""

    settings: Settings
    entitlements: Entitlements
    usage: Usage
    domains: Domains
    interpreter: Interpreter
    notices: Notices
    offers: Offers
    requests: Requests
    recorder: Recorder
    settlement: Settlement
    outbox: Outbox
    answers: Answers
    runner: Runner
    log: logging.Logger
    now: Callable[[], datetime]


class Executor:
    """Carries requests out, each once, whoever goes away meanwhile."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._carrier = Carrier(
            parts.settings,
            parts.domains,
            parts.requests,
            parts.recorder,
            parts.settlement,
            parts.offers,
            parts.log,
            now=parts.now,
        )

    async def execute(self, request: pb.ExecuteRequest, caller: Caller) -> pb.ExecuteResponse:
        """Answer *request*; its report is kept, whether or not its caller waits for it (GAT-7).

        Raises Failure for a refusal of the whole.
        """
        check_shape(request)
        if request.confirmation_token:
            key = self._confirmation_key()
            confirmation.check_token(key, caller, request.request_id, request.confirmation_token)
        reading = reading_of(caller, request.locale, request.time_zone, self._parts.now())
        if request.validate_only:
            set_deadline(deadline_left(self._parts.settings.request_seconds))
            return await self._dry_run(request, caller, reading.now)
        call = Call(
            caller,
            request.request_id,
            fingerprint_of(request, caller.clinic_id),
            reading.locale,
            reading.time_zone.key,
            has_input=request.WhichOneof("input") is not None,
            confirmation_token=request.confirmation_token,
        )
        work = partial(self._executed, request, reading.now)
        answer = await self._parts.runner.run(call, work, pb.ExecuteResponse)
        if answer.replayed and self._is_outdated(answer, caller, request.request_id):
            await self._parts.requests.decline(request.request_id, caller)
            answer = await self._parts.runner.run(call, work, pb.ExecuteResponse)
        return answer

    async def _dry_run(
        self, request: pb.ExecuteRequest, caller: Caller, now: datetime
    ) -> pb.ExecuteResponse:
        claims = uncounted(self._parts.usage, caller)
        zone = request.time_zone
        scene = await self._scene(request, caller, now, zone, claims, asyncio.Event())
        return await self._steps(scene, None)

    async def _executed(
        self, request: pb.ExecuteRequest, now: datetime, attempt: Attempt
    ) -> pb.ExecuteResponse:
        lease = attempt.lease
        # Of what is confirmed, times mean what they meant when it was summarised.
        zone = lease.confirmed.time_zone if lease.confirmed else request.time_zone
        scene = await self._scene(
            request, lease.caller, now, zone, attempt.claims, attempt.cancelled
        )
        return await self._steps(scene, lease)

    async def _scene(
        self,
        request: pb.ExecuteRequest,
        caller: Caller,
        now: datetime,
        zone: str,
        claims: Claims,
        cancelled: asyncio.Event,
    ) -> Scene:
        parts = self._parts
        entitlements = await parts.entitlements.of(caller, request.min_revision)
        reading = reading_of(caller, request.locale, zone, now, entitlements.time_zone)
        descriptors = await parts.entitlements.descriptors(request.min_revision)
        admission = Admission(parts.usage, parts.notices, caller, entitlements, reading, claims)
        reporter = Reporter(parts.notices, reading.locale, descriptors)
        return Scene(
            request,
            caller,
            reading,
            entitlements,
            descriptors,
            admission,
            claims,
            reporter,
            cancelled,
        )

    async def _steps(self, scene: Scene, lease: Lease | None) -> pb.ExecuteResponse:
        confirmed = lease.confirmed if lease else None
        answer = pb.ExecuteResponse(trace_id=trace_id())
        planned, interpreted = await self._understood(scene, confirmed)
        if confirmed is not None and confirmed.interpretation.ByteSize():
            answer.interpretation.CopyFrom(confirmed.interpretation)
        if interpreted is not None:
            answer.interpretation.CopyFrom(interpreted.interpretation)
            if interpreted.clarification is not None:
                answer.clarification.CopyFrom(interpreted.clarification)
                return await self._concluded(scene, lease, planned, answer)
        await self._check_plan(scene, planned)
        if confirmed is not None and lease is not None:
            planned = await self._held(scene, lease, confirmed, planned)
        else:
            touched = await self._asked_first(scene, planned, interpreted, answer)
            if touched is not None and answer.HasField("confirmation") and lease is not None:
                return await self._confirming(scene, lease, answer, touched)
            if answer.WhichOneof("result") is not None:
                return await self._concluded(scene, lease, planned, answer)
        assert lease is not None
        whole = confirmed is not None
        carried = await self._carrier.carry(scene, lease, planned, answer, whole=whole)
        if not any(each.modifies for each in planned):
            return await self._read(scene, lease, planned, answer, carried)
        return await self._changed(scene, lease, planned, answer, carried)

    # admit, interpret, authorize

    async def _understood(
        self, scene: Scene, confirmed: Confirmed | None
    ) -> tuple[list[Planned], Interpreted | None]:
        """Admit the request as one query; what it asks for, and how its words were understood.

        The rules cost next to nothing, so they are asked first: then it is known whether the
        request only reads. A model is asked only for a request that was admitted; as long as it is
        not known whether it reads or changes, it counts as a read. What was confirmed has been
        admitted.
        """
        request, admission = scene.request, scene.admission
        dry = request.validate_only
        if not dry:
            self._parts.recorder.require_room()
        if confirmed is not None:
            operations = [each.operation for each in confirmed.planned.operations]
            return self._planned(scene, operations), None
        if request.WhichOneof("input") == "operations":
            planned = self._planned(scene, request.operations.operations)
            await admission.query(counts_read=only_reads(planned), validate_only=dry)
            return planned, None
        by_rules = await self._interpret(scene, rules_only=True)
        planned = self._planned(scene, operations_of(by_rules))
        if is_sure(by_rules, self._parts.settings.unconfirmed_confidence):
            await admission.query(counts_read=only_reads(planned), validate_only=dry)
            return planned, by_rules
        await admission.query(counts_read=True, validate_only=dry)
        interpreted = await self._interpret(scene, rules_only=False)
        return self._planned(scene, operations_of(interpreted)), interpreted

    async def _interpret(self, scene: Scene, *, rules_only: bool) -> Interpreted:
        return await self._parts.interpreter.interpret(
            scene.request.instruction,
            scene.descriptors,
            scene.reading,
            model_tiers=scene.entitlements.plan.model_tiers,
            rules_only=rules_only,
        )

    def _planned(self, scene: Scene, operations: Sequence[pb.Operation]) -> list[Planned]:
        ids = [operation_id(scene.use_id, index) for index in range(len(operations))]
        return authorized(operations, ids, scene.entitlements.plan, scene.descriptors)

    async def _check_plan(self, scene: Scene, planned: Sequence[Planned]) -> None:
        """Raises PlanForbids, with what an upgrade brings, when nothing is allowed."""
        forbidden = [
            each for each in planned if each.refused and each.refused.reason == "PLAN_FORBIDS"
        ]
        if not planned or len(forbidden) < len(planned):
            return
        plan, locale, parts = scene.entitlements.plan.name, scene.reading.locale, self._parts
        offer = await parts.offers.upgrade(plan, locale, allows_changes)
        general, _ = parts.notices.for_reason("PLAN_FORBIDS", locale)
        refusal = PlanForbids(
            "the plan does not allow changes",
            metadata={"plan": plan},
            details=told(offer) if offer else localized(general, locale),
        )
        refusal.is_offered = offer is not None
        if not scene.request.validate_only:
            await self._carrier.refused(scene, planned, refusal)
        raise refusal

    # confirm

    async def _asked_first(
        self,
        scene: Scene,
        planned: Sequence[Planned],
        interpreted: Interpreted | None,
        answer: pb.ExecuteResponse,
    ) -> Touched | None:
        """Whether something must be asked before anything is changed; then *answer* asks it.

        Words may mean records that are not the only ones of their kind, or more than are thought
        of: then the domains are asked what would be touched, and an ambiguous target is clarified
        instead of guessed (GAT-4).
        """
        parts, dry = self._parts, scene.request.validate_only
        confidence = interpreted.interpretation.confidence if interpreted else 1.0
        reasons = confirmation.reasons_of(planned, scene.descriptors, confidence, parts.settings)
        changes = any(each.modifies and each.refused is None for each in planned)
        if not reasons and not dry and not (interpreted and changes):
            return None
        touched = await self._touched(scene, planned)
        if not dry and any(isinstance(each.failure, DeadlineExceeded) for each in touched.done):
            raise DeadlineExceeded  # nothing was done, so a retry may ask again
        if scene.cancelled.is_set():  # then nothing is asked any more either
            stopped = [ended(each, failure=each.refused or Interrupted()) for each in planned]
            await self._carrier.foreseen(scene, replace(touched, done=stopped), answer)
            return touched
        if scene.reporter.clarified(touched.done, planned, answer):
            return touched
        if interpreted and many_records(touched, parts.settings.unconfirmed_operations):
            reasons = sorted({*reasons, pb.CONFIRMATION_REASON_MANY_OPERATIONS})
        if reasons:
            touched = preview.confirmable(touched)
        feasible = [each for each in touched.done if each.applied and each.planned.modifies]
        if reasons and feasible:
            await self._carrier.affordable(scene, [each.planned for each in feasible])
            self._ask_to_confirm(scene, reasons, touched, answer)
        elif reasons or dry:
            # What cannot be shown cannot be confirmed, and so is not tried either.
            touched = await self._carrier.limited(scene, touched) if dry else touched
            await self._carrier.foreseen(scene, touched, answer)
        return touched

    def _ask_to_confirm(
        self,
        scene: Scene,
        reasons: Sequence[pb.ConfirmationReason.ValueType],
        touched: Touched,
        answer: pb.ExecuteResponse,
    ) -> None:
        changes = {each.planned.index: touched.changes(each) for each in touched.done}
        answer.confirmation.reasons.extend(reasons)
        answer.confirmation.operations.extend(
            scene.reporter.planned(each, changes[each.planned.index]) for each in touched.done
        )
        answer.confirmation.summary = scene.reporter.question(touched.done, changes)

    async def _touched(self, scene: Scene, planned: Sequence[Planned]) -> Touched:
        return await preview.touched(
            planned,
            scene.descriptors,
            self._parts.domains,
            scene.use_id,
            scene.reading,
        )

    async def _held(
        self, scene: Scene, lease: Lease, confirmed: Confirmed, planned: Sequence[Planned]
    ) -> list[Planned]:
        """*planned*, held to what was confirmed. Raises ConfirmationRefused where that changed."""
        touched = await self._touched(scene, planned)
        try:
            return preview.held(confirmed.planned, confirmed.records_digest, touched)
        except ConfirmationRefused:
            await self._parts.requests.outdated(lease)
            raise

    async def _confirming(
        self, scene: Scene, lease: Lease, answer: pb.ExecuteResponse, touched: Touched
    ) -> pb.ExecuteResponse:
        """Keep what waits for its confirmation, and give out the token."""
        lifetime = timedelta(seconds=self._parts.settings.confirmation_seconds)
        token, expires_at = confirmation.token_for(
            self._confirmation_key(), scene.caller, scene.request_id, self._parts.now(), lifetime
        )
        answer.confirmation.confirmation_token = token
        answer.confirmation.expires_at.FromDatetime(expires_at)
        await scene.admission.release_read()
        await self._add_usage(scene, answer)
        confirming = self._parts.requests.confirming(
            lease, answer, touched.records_digest, scene.reading.time_zone.key, lifetime
        )
        if not await confirming:
            raise Superseded
        return answer

    def _is_outdated(self, answer: pb.ExecuteResponse, caller: Caller, request_id: str) -> bool:
        """Whether *answer* asks with a token that a key signed which has been replaced since."""
        if not answer.HasField("confirmation"):
            return False
        token = answer.confirmation.confirmation_token
        try:
            confirmation.check_token(self._confirmation_key(), caller, request_id, token)
        except ConfirmationRefused:
            return True
        return False

    def _confirmation_key(self) -> bytes:
        return self._parts.settings.confirmation_key.get_secret_value().encode()

    # conclude

    async def _concluded(
        self,
        scene: Scene,
        lease: Lease | None,
        planned: Sequence[Planned],
        answer: pb.ExecuteResponse,
    ) -> pb.ExecuteResponse:
        """Answer a request of which nothing was executed."""
        await self._completed(scene, planned, answer)
        if lease is not None:
            await self._parts.answers.store(lease, answer)
        return answer

    async def _changed(
        self,
        scene: Scene,
        lease: Lease,
        planned: Sequence[Planned],
        answer: pb.ExecuteResponse,
        carried: Carried,
    ) -> pb.ExecuteResponse:
        """Answer a request that changes something; what is not settled yet is settled later."""
        settled, answers = carried.settled, self._parts.answers
        try:
            # Words count as a read until it is known that they change something.
            if not is_read(answer, planned):
                await scene.admission.release_read()
        except Failure as failure:
            self._parts.log.warning("a read could not be given back yet: %s", failure.reason)
            settled = not carried.work.changes  # then no row keeps it open
        await self._add_usage(scene, answer)
        self._add_failover(scene, answer)
        await (answers.store if settled else answers.store_unsettled)(lease, answer)
        return answer

    async def _read(
        self,
        scene: Scene,
        lease: Lease,
        planned: Sequence[Planned],
        answer: pb.ExecuteResponse,
        carried: Carried,
    ) -> pb.ExecuteResponse:
        """Answer a request that only reads once its answer stands: the log gets it meanwhile."""
        if ran_out_of_time(answer.report):
            raise DeadlineExceeded  # nothing was read, so a retry may read it
        await self._completed(scene, planned, answer)
        outcomes = outcomes_of(carried.work, answer.report, carried.ends)
        await self._parts.answers.store_read(lease, answer, outcomes)
        return answer

    async def _completed(
        self, scene: Scene, planned: Sequence[Planned], answer: pb.ExecuteResponse
    ) -> None:
        """Give back the read if none was executed (USE-2), and say what the answer says besides.

        Raises Failure where it cannot be given back: then there is no answer.
        """
        if not is_read(answer, planned):
            await scene.admission.release_read()
        await self._add_usage(scene, answer)
        self._add_failover(scene, answer)

    def _add_failover(self, scene: Scene, answer: pb.ExecuteResponse) -> None:
        if answer.interpretation.failover:
            failover = pb.NOTICE_KIND_FAILOVER
            answer.notices.append(self._parts.notices.notice(failover, scene.reading.locale))

    async def _add_usage(self, scene: Scene, answer: pb.ExecuteResponse) -> None:
        """The caller's usage, and a word when it runs out; an answer is one without it too."""
        try:
            snapshot = await scene.admission.snapshot()
        except Failure as failure:
            self._parts.log.warning("usage could not be read: %s", failure.reason)
            return
        answer.usage.CopyFrom(snapshot)
        answer.notices.extend(scene.admission.notices(snapshot))


def check_shape(request: pb.ExecuteRequest) -> None:
    """Raises InvalidInput for what the rules of single fields do not cover."""
    if request.WhichOneof("input") is None and not request.confirmation_token:
        raise InvalidInput(
            [("input", "one of instruction, operations must be set, or a confirmation_token")]
        )
    if request.WhichOneof("input") == "instruction" and not request.instruction.strip():
        raise InvalidInput([("instruction", "must not be empty")])
    if request.validate_only and request.confirmation_token:
        raise InvalidInput([("validate_only", "is not for a request that is confirmed")])


def is_sure(interpreted: Interpreted, confidence: float) -> bool:
    return interpreted.clarification is None and (
        interpreted.interpretation.confidence >= confidence
    )


def operations_of(interpreted: Interpreted) -> list[pb.Operation]:
    """What is to be done: nothing as long as something is asked back."""
    if interpreted.clarification is not None:
        return []
    return [each.operation for each in interpreted.interpretation.operations]


def is_read(answer: pb.ExecuteResponse, planned: Sequence[Planned]) -> bool:
    """Say whether the request counts as one read: it only reads, and something was read (USE-2)."""
    return bool(answer.report.successes) and only_reads(planned)


def ran_out_of_time(report: pb.PartialOutcomeReport) -> bool:
    """Say whether nothing was done, and the deadline is why."""
    reasons = {reason_in(each.status) for each in report.failures}
    return not report.successes and "DEADLINE_EXCEEDED" in reasons


def only_reads(planned: Sequence[Planned]) -> bool:
    """Whether what is allowed of a request is something, and changes nothing (USE-2)."""
    allowed = [each for each in planned if each.refused is None]
    return bool(allowed) and not any(each.modifies for each in allowed)


def many_records(touched: Touched, most: int) -> bool:
    """Whether words come to more changed records than are changed without being asked."""
    return most < sum(
        affected
        for each, affected in zip(touched.done, touched.affected, strict=True)
        if each.planned.modifies
    )
