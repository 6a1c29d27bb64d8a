"""Execute, from a request to its report; each step is a file of its own.

admit → interpret → authorize → confirm → consume → log the intent → dispatch → settle → report
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor, GetEntitlementsResponse
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway import confirmation, dispatch
from services.gateway.admission import Admission, operation_id
from services.gateway.authorization import Planned, authorized, modifies
from services.gateway.dispatch import Done, candidates_of, ended
from services.gateway.failures import ConfirmationRefused, PlanForbids, told
from services.gateway.interpret import Interpreted, Interpreter
from services.gateway.notices import Notices
from services.gateway.peers import Domains, Entitlements, Usage
from services.gateway.reading import Reading, reading_of
from services.gateway.report import VERBS, Reporter
from services.gateway.requests import Answered, Opened, Requests
from services.gateway.settings import Settings
from services.runtime.calling import deadline_left, set_deadline
from services.runtime.failure import DeadlineExceeded, Failure, InvalidInput, PeerFailure
from services.runtime.identity import Caller
from services.runtime.recording import RecordedOperation, RecordedOutcome, Recorder
from services.runtime.telemetry import trace_id

# Kept of a request's time for asking domains, releasing, logging and answering.
AFTERWARDS_SECONDS = 1.0
LEASE_MARGIN = timedelta(seconds=10)
REFUSED = ("PLAN_FORBIDS", "QUOTA_EXHAUSTED", "COOL_DOWN", "LOG_UNAVAILABLE")


@dataclass(frozen=True)
class Parts:
    """What execution stands on."""

    settings: Settings
    entitlements: Entitlements
    usage: Usage
    domains: Domains
    interpreter: Interpreter
    notices: Notices
    requests: Requests
    recorder: Recorder
    log: logging.Logger
    now: Callable[[], datetime]


@dataclass(frozen=True)
class Scene:
    """Everything about one request that its steps share."""

    request: pb.ExecuteRequest
    caller: Caller
    reading: Reading
    entitlements: GetEntitlementsResponse
    descriptors: Mapping[str, DomainDescriptor]
    admission: Admission
    reporter: Reporter
    cancelled: asyncio.Event


class Executor:
    """Carries requests out, each once, whoever goes away meanwhile."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running: dict[tuple[str, str], asyncio.Event] = {}
        self._tasks: set[asyncio.Task[pb.ExecuteResponse]] = set()

    async def execute(self, request: pb.ExecuteRequest, caller: Caller) -> pb.ExecuteResponse:
        """Answer *request*; a caller that goes away cancels it, and its report is kept (GAT-7).

        Raises Failure for a refusal of the whole.
        """
        cancelled = asyncio.Event()
        work = asyncio.create_task(self._answer(request, caller, cancelled))
        self._tasks.add(work)
        work.add_done_callback(self._ended)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def _ended(self, work: asyncio.Task[pb.ExecuteResponse]) -> None:
        self._tasks.discard(work)
        if not work.cancelled() and work.exception() is not None:
            return  # told to the caller, or nobody is there to be told

    async def drain(self) -> None:
        """Wait until everything that was begun has its end."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cancel(self, user_id: str, request_id: str) -> bool:
        """Tell a request that runs here to stop; whether there was one."""
        event = self._running.get((user_id, request_id))
        if event is not None:
            event.set()
        return event is not None

    async def _answer(
        self, request: pb.ExecuteRequest, caller: Caller, cancelled: asyncio.Event
    ) -> pb.ExecuteResponse:
        set_deadline(deadline_left(self._parts.settings.request_seconds))
        check_shape(request)
        if request.confirmation_token:
            key = self._confirmation_key()
            confirmation.check_token(key, caller, request.request_id, request.confirmation_token)
        if request.validate_only:
            return await self._carried_out(request, caller, cancelled, None)
        seconds = self._parts.settings.request_seconds
        lease = timedelta(seconds=deadline_left(seconds)) + LEASE_MARGIN
        opened = await self._parts.requests.open(request, caller, lease)
        if isinstance(opened, Answered):
            opened.answer.replayed = True
            return opened.answer
        place = (caller.user_id, request.request_id)
        self._running[place] = cancelled
        try:
            return await self._carried_out(request, caller, cancelled, opened)
        except BaseException:
            await self._parts.requests.abandon(request.request_id, caller, opened)
            raise
        finally:
            del self._running[place]

    async def _carried_out(
        self,
        request: pb.ExecuteRequest,
        caller: Caller,
        cancelled: asyncio.Event,
        opened: Opened | None,
    ) -> pb.ExecuteResponse:
        started_at = self._parts.now()
        scene = await self._scene(request, caller, cancelled, started_at)
        confirmed = opened.planned if opened else None
        interpreted = await self._admitted(scene, confirmed)
        operations = operations_of(request, interpreted, confirmed)
        answer = pb.ExecuteResponse(trace_id=trace_id())
        if interpreted is not None:
            answer.interpretation.CopyFrom(interpreted.interpretation)
            if interpreted.clarification is not None:
                answer.clarification.CopyFrom(interpreted.clarification)
                return await self._finished(scene, opened, answer)
        planned = self._planned(scene, operations)
        await self._check_plan(scene, planned)
        if confirmed is None or request.validate_only:
            asks = await self._before(scene, planned, interpreted, answer)
        else:
            planned = await self._still_the_same(scene, planned, confirmed)
            asks = False
        if asks and opened is not None:
            return await self._confirming(scene, opened, answer)
        if asks or request.validate_only:
            return await self._finished(scene, None, answer)
        done = await self._done(scene, planned, answer)
        await self._reported(scene, done, answer, started_at)
        return await self._finished(scene, opened, answer)

    async def _scene(
        self,
        request: pb.ExecuteRequest,
        caller: Caller,
        cancelled: asyncio.Event,
        now: datetime,
    ) -> Scene:
        parts = self._parts
        reading = reading_of(caller, request.locale, request.time_zone, now)
        entitlements = await parts.entitlements.of(caller)
        descriptors = await parts.entitlements.descriptors()
        admission = Admission(
            parts.usage, parts.notices, caller, entitlements, reading, request.request_id
        )
        reporter = Reporter(parts.notices, reading.locale, descriptors)
        return Scene(
            request, caller, reading, entitlements, descriptors, admission, reporter, cancelled
        )

    # admit, interpret

    async def _admitted(
        self, scene: Scene, confirmed: pb.ConfirmationRequired | None
    ) -> Interpreted | None:
        """Admit the request as one query; what its words mean, when it has words.

        The rules cost next to nothing, so they are asked first: then it is known whether the
        request only reads. A model is asked only for a request that was admitted.
        """
        request, admission = scene.request, scene.admission
        dry = request.validate_only
        if confirmed is not None:
            await admission.query(counts_read=False, validate_only=dry)
            return None
        if request.WhichOneof("input") == "operations":
            reads = not any(modifies(each) for each in request.operations.operations)
            await admission.query(counts_read=reads, validate_only=dry)
            return None
        by_rules = await self._interpret(scene, rules_only=True)
        sure = is_sure(by_rules, self._parts.settings.unconfirmed_confidence)
        reads = not any_change(by_rules)
        await admission.query(counts_read=reads, validate_only=dry)
        if sure:
            return by_rules
        interpreted = await self._interpret(scene, rules_only=False)
        if reads and any_change(interpreted) and not dry:
            await admission.release_query()
        return interpreted

    async def _interpret(self, scene: Scene, *, rules_only: bool) -> Interpreted:
        return await self._parts.interpreter.interpret(
            scene.request.instruction,
            scene.descriptors,
            scene.reading,
            model_tiers=scene.entitlements.plan.model_tiers,
            rules_only=rules_only,
        )

    # authorize

    def _planned(self, scene: Scene, operations: Sequence[pb.Operation]) -> list[Planned]:
        ids = [
            operation_id(scene.caller, scene.request.request_id, index)
            for index in range(len(operations))
        ]
        return authorized(operations, ids, scene.entitlements.plan, scene.descriptors)

    async def _check_plan(self, scene: Scene, planned: Sequence[Planned]) -> None:
        """Raises PlanForbids, with what an upgrade brings, when nothing is allowed."""
        forbidden = [
            each for each in planned if each.refused and each.refused.reason == "PLAN_FORBIDS"
        ]
        if not planned or len(forbidden) < len(planned):
            return
        plan = scene.entitlements.plan.name
        if not scene.request.validate_only:
            done = [ended(each, failure=each.refused) for each in planned]
            await self._log_outcomes(scene, done)
        notice = self._parts.notices.upgrade(scene.reading.locale, plan_name=plan)
        raise PlanForbids(
            "the plan does not allow changes", metadata={"plan": plan}, details=told(notice)
        )

    # confirm

    async def _before(
        self,
        scene: Scene,
        planned: Sequence[Planned],
        interpreted: Interpreted | None,
        answer: pb.ExecuteResponse,
    ) -> bool:
        """What must be asked before anything is changed; whether *answer* asks it.

        Words may mean records that are not the only ones of their kind: then the domains are asked
        what would be touched, and an ambiguous target is clarified instead of guessed (GAT-4).
        """
        confidence = interpreted.interpretation.confidence if interpreted else 1.0
        reasons = confirmation.reasons_of(
            planned, scene.descriptors, confidence, self._parts.settings
        )
        changes = any(each.modifies and each.refused is None for each in planned)
        if not reasons and not scene.request.validate_only and not (interpreted and changes):
            return False
        touched = await self._touched(scene, planned)
        if self._clarified(scene, touched, answer):
            return True
        if scene.request.validate_only:
            now = self._parts.now()
            report = scene.reporter.report(scene.request.request_id, touched, now, now)
            answer.report.CopyFrom(report)
            answer.notices.extend(scene.reporter.notices_for(touched, scene.entitlements.plan.name))
            return False
        feasible = [each for each in touched if each.applied is not None]
        if not reasons or not any(each.planned.modifies for each in feasible):
            return False
        shown = [
            scene.reporter.planned(each.planned, each.applied.affected if each.applied else 0)
            for each in touched
        ]
        records = sum(each.affected for each in shown if modifies(each.operation))
        answer.confirmation.reasons.extend(reasons)
        answer.confirmation.operations.extend(shown)
        answer.confirmation.summary = self._parts.notices.sentence(
            "confirmation", scene.reading.locale, records=records
        )
        return True

    async def _touched(self, scene: Scene, planned: Sequence[Planned]) -> list[Done]:
        """What each operation would touch, by its domain; nothing is changed."""
        refused = [ended(each, failure=each.refused) for each in planned if each.refused]
        batches: dict[str, list[Planned]] = {}
        for each in planned:
            if not each.refused:
                batches.setdefault(each.operation.domain, []).append(each)
        found = await asyncio.gather(
            *(self._asked(scene, name, each) for name, each in batches.items())
        )
        every = [*refused, *(one for each in found for one in each)]
        return sorted(every, key=lambda each: each.planned.index)

    async def _asked(self, scene: Scene, domain: str, planned: Sequence[Planned]) -> list[Done]:
        zone = scene.reading.time_zone.key
        request = dispatch.request_of(planned, zone, validate_only=True)
        try:
            response = await self._parts.domains.execute_batch(scene.descriptors[domain], request)
        except Failure as failure:
            return [ended(each, failure=failure) for each in planned]
        pairs = zip(planned, response.results, strict=True)
        return [dispatch.result_of(each, result) for each, result in pairs]

    def _clarified(self, scene: Scene, touched: Sequence[Done], answer: pb.ExecuteResponse) -> bool:
        """Whether *answer* asks which record is meant."""
        for each in touched:
            candidates = candidates_of(each.failure) if each.failure else None
            if candidates is not None and each.planned.modifies:
                answer.clarification.ambiguity = pb.AMBIGUITY_TARGET
                answer.clarification.question, _ = self._parts.notices.for_reason(
                    "AMBIGUOUS_TARGET", scene.reading.locale
                )
                answer.clarification.options.extend(options_of(each.planned, candidates))
                return True
        return False

    async def _still_the_same(
        self, scene: Scene, planned: Sequence[Planned], confirmed: pb.ConfirmationRequired
    ) -> list[Planned]:
        """*planned*, held to what was summarised. Raises ConfirmationRefused for a change."""
        touched = await self._touched(scene, planned)
        before = [each.affected for each in confirmed.operations]
        now = [each.applied.affected if each.applied else 0 for each in touched]
        changes = [index for index, each in enumerate(planned) if each.modifies]
        if any(before[index] != now[index] for index in changes):
            raise ConfirmationRefused(
                "what was confirmed would no longer do the same", reason="CONFIRMATION_OUTDATED"
            )
        for each, affected in zip(planned, before, strict=True):
            if each.modifies and affected:
                each.operation.max_affected = affected
        return list(planned)

    async def _confirming(
        self, scene: Scene, opened: Opened, answer: pb.ExecuteResponse
    ) -> pb.ExecuteResponse:
        """Keep what waits for its confirmation, and give out the token; or keep a clarification."""
        if not answer.HasField("confirmation"):
            return await self._finished(scene, opened, answer)
        lifetime = timedelta(seconds=self._parts.settings.confirmation_seconds)
        token, expires_at = confirmation.token_for(
            self._confirmation_key(),
            scene.caller,
            scene.request.request_id,
            self._parts.now(),
            lifetime,
        )
        answer.confirmation.confirmation_token = token
        answer.confirmation.expires_at.FromDatetime(expires_at)
        await self._add_usage(scene, answer)
        await self._parts.requests.confirming(
            scene.request.request_id, scene.caller, opened, answer, answer.confirmation
        )
        return answer

    def _confirmation_key(self) -> bytes:
        return self._parts.settings.confirmation_key.get_secret_value().encode()

    # consume, log, dispatch, settle

    async def _done(
        self, scene: Scene, planned: Sequence[Planned], answer: pb.ExecuteResponse
    ) -> list[Done]:
        """Carry out what is allowed, granted and logged; the end of every operation."""
        allowed = [each for each in planned if each.refused is None]
        done = [ended(each, failure=each.refused) for each in planned if each.refused]
        changes = [each for each in allowed if each.modifies]
        granted, refused = await self._granted(scene, changes, all_=len(changes) == len(planned))
        logged, unlogged = await self._intended(scene, granted)
        going = sorted(
            [*(each for each in allowed if not each.modifies), *logged],
            key=lambda each: each.index,
        )
        carried = await self._dispatched(scene, going)
        set_deadline(None)  # what follows has to be done whatever is left of the caller's time
        undone = [each for each in carried if each.planned.modifies and is_undone(each)]
        await self._settled(scene, len(granted), len(undone) + len(unlogged))
        return [*done, *refused, *unlogged, *carried]

    async def _granted(
        self, scene: Scene, changes: Sequence[Planned], *, all_: bool
    ) -> tuple[list[Planned], list[Done]]:
        """Count the changes; those beyond the day's limit are refused.

        Raises the refusal when there is nothing else in the request, or a cool-down runs.
        """
        if not changes:
            return [], []
        count = await scene.admission.modify(len(changes))
        if isinstance(count, Failure):
            if all_ or count.reason == "COOL_DOWN":
                raise count
            return [], [ended(each, failure=count) for each in changes]
        over = changes[count:]
        exhausted = Failure("the day's limit is used up", reason="QUOTA_EXHAUSTED")
        return list(changes[:count]), [ended(each, failure=exhausted) for each in over]

    async def _intended(
        self, scene: Scene, changes: Sequence[Planned]
    ) -> tuple[list[Planned], list[Done]]:
        """Log the intents of the changes; without the log nothing is changed (LOG-2)."""
        try:
            await self._parts.recorder.intents([recorded(scene, each) for each in changes])
        except Failure as failure:
            return [], [ended(each, failure=failure) for each in changes]
        return list(changes), []

    async def _dispatched(self, scene: Scene, planned: Sequence[Planned]) -> list[Done]:
        try:
            left = deadline_left(self._parts.settings.request_seconds) - AFTERWARDS_SECONDS
            set_deadline(max(left, 0.05))
        except DeadlineExceeded as late:
            return [ended(each, failure=late) for each in planned]
        return await dispatch.dispatch(
            planned,
            scene.descriptors,
            self._parts.domains,
            scene.reading.time_zone.key,
            scene.cancelled,
        )

    async def _settled(self, scene: Scene, granted: int, undone: int) -> None:
        try:
            await scene.admission.settle_modify(granted, undone)
        except Failure as failure:
            # The reservation ends by itself; what was done and not settled is then given back too.
            self._parts.log.warning("counts could not be settled: %s", failure.reason)

    # report

    async def _reported(
        self, scene: Scene, done: Sequence[Done], answer: pb.ExecuteResponse, started_at: datetime
    ) -> None:
        await self._log_outcomes(scene, done)
        only = done[0] if len(done) == 1 else None
        candidates = candidates_of(only.failure) if only and only.failure else None
        if only is not None and candidates is not None:
            self._clarified(scene, done, answer)
            return
        report = scene.reporter.report(
            scene.request.request_id, done, started_at, self._parts.now()
        )
        answer.report.CopyFrom(report)
        answer.notices.extend(scene.reporter.notices_for(done, scene.entitlements.plan.name))

    async def _log_outcomes(self, scene: Scene, done: Sequence[Done]) -> None:
        """Log what became of every operation; where it is unknown, its intent stays open."""
        await self._parts.recorder.outcomes(
            [
                RecordedOutcome(
                    recorded(scene, each.planned),
                    outcome_of(each),
                    scene.reading.now,
                    max(each.ended_at, scene.reading.now),
                    reason=each.failure.reason if each.failure else "",
                )
                for each in done
                if not each.unknown
            ]
        )

    async def _finished(
        self, scene: Scene, opened: Opened | None, answer: pb.ExecuteResponse
    ) -> pb.ExecuteResponse:
        await self._add_usage(scene, answer)
        if opened is not None:
            await self._parts.requests.finish(
                scene.request.request_id, scene.caller, opened, answer
            )
        return answer

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


def is_sure(interpreted: Interpreted, confidence: float) -> bool:
    return interpreted.clarification is None and (
        interpreted.interpretation.confidence >= confidence
    )


def any_change(interpreted: Interpreted) -> bool:
    return any(modifies(each.operation) for each in interpreted.interpretation.operations)


def operations_of(
    request: pb.ExecuteRequest,
    interpreted: Interpreted | None,
    confirmed: pb.ConfirmationRequired | None,
) -> list[pb.Operation]:
    """The operations that were confirmed, or given, or that the words mean."""
    if confirmed is not None:
        return [each.operation for each in confirmed.operations]
    if interpreted is not None:
        return [each.operation for each in interpreted.interpretation.operations]
    return list(request.operations.operations)


def options_of(planned: Planned, candidates: domain_pb2.Candidates) -> list[pb.Option]:
    """Each candidate as an answer that can be sent as it is."""
    options = []
    for each in candidates.candidates:
        operation = pb.Operation()
        operation.CopyFrom(planned.operation)
        operation.selector.Clear()
        operation.selector.id = each.id
        options.append(
            pb.Option(label=each.label, operations=pb.OperationList(operations=[operation]))
        )
    return options


def recorded(scene: Scene, planned: Planned) -> RecordedOperation:
    return RecordedOperation(
        operation_id=planned.operation_id,
        request_id=scene.request.request_id,
        action=VERBS.get(planned.operation.verb, "read"),
        domain=planned.operation.domain,
        user_id=scene.caller.user_id,
        clinic_id=scene.caller.clinic_id,
    )


def is_undone(done: Done) -> bool:
    """Whether it is known that an operation was not carried out."""
    return done.applied is None and not done.unknown


def outcome_of(done: Done) -> str:
    """What the log says of it (LOG-1)."""
    if done.applied is not None:
        return "succeeded"
    assert done.failure is not None
    if done.failure.reason in ("CANCELLED", "DEADLINE_EXCEEDED"):
        return "cancelled"
    refused = done.planned.refused is not None or done.failure.reason in REFUSED
    return "refused" if refused and not isinstance(done.failure, PeerFailure) else "failed"
