"""Execute, from a request to its report; each step is a file of its own.

admit → interpret → authorize → confirm → consume → log the intent → dispatch → settle → report
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway import confirmation, preview
from services.gateway.admission import Admission, operation_id
from services.gateway.authorization import Planned, authorized
from services.gateway.carrying import Carried, Carrier
from services.gateway.dispatch import Interrupted, ended
from services.gateway.entitlements import Entitlements
from services.gateway.failures import ConfirmationRefused, PlanForbids, told
from services.gateway.interpret import Interpreted, Interpreter
from services.gateway.notices import Notices
from services.gateway.outbox import Outbox, Unlogged
from services.gateway.peers import Domains, Usage
from services.gateway.preview import Touched
from services.gateway.reading import Reading, reading_of
from services.gateway.report import Reporter
from services.gateway.requests import Answered, Confirmed, Left, Opened, Requests
from services.gateway.scene import Scene
from services.gateway.settings import Settings
from services.gateway.settlement import Settlement, kept_of, outcomes_of
from services.runtime.calling import deadline_left, set_deadline
from services.runtime.failure import Failure, InvalidInput
from services.runtime.identity import Caller
from services.runtime.recording import Recorder, outcome_span
from services.runtime.telemetry import trace_id

# For how long an answer that was given is tried to be kept, how often, and when the service stops.
KEEP_SECONDS, KEEP_PAUSE_SECONDS, LAST_KEEP_SECONDS = 900.0, 0.1, 2.0


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
    settlement: Settlement
    outbox: Outbox
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
            parts.log,
            now=parts.now,
        )
        self._running: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[pb.ExecuteResponse]] = set()
        self._keeping: set[asyncio.Task[None]] = set()

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
        self._tell_of(work)

    def _kept(self, work: asyncio.Task[None]) -> None:
        self._keeping.discard(work)
        self._tell_of(work)

    def _tell_of(self, work: asyncio.Task[Any]) -> None:
        """Whatever broke it: its caller may be gone, and then nobody else tells of it."""
        error = None if work.cancelled() else work.exception()
        if error is not None and not isinstance(error, Failure):
            self._parts.log.error("a request broke", exc_info=error)

    async def drain(self) -> None:
        """Wait until everything that was begun has its end, and a moment for what is kept late."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._parts.outbox.drain()
        if self._keeping:
            _, late = await asyncio.wait(self._keeping, timeout=LAST_KEEP_SECONDS)
            for task in late:
                task.cancel()

    def cancel(self, user_id: str, request_id: str) -> None:
        """Tell a request to stop, if it runs here."""
        for event in self._running.get((user_id, request_id), ()):
            event.set()

    async def _answer(
        self, request: pb.ExecuteRequest, caller: Caller, cancelled: asyncio.Event
    ) -> pb.ExecuteResponse:
        set_deadline(deadline_left(self._parts.settings.request_seconds))
        check_shape(request)
        if request.confirmation_token:
            key = self._confirmation_key()
            confirmation.check_token(key, caller, request.request_id, request.confirmation_token)
        reading = reading_of(caller, request.locale, request.time_zone, self._parts.now())
        if request.validate_only:
            return await self._carried_out(request, caller, reading, cancelled, None)
        place = (caller.user_id, request.request_id)
        self._running.setdefault(place, set()).add(cancelled)
        try:
            return await self._once(request, caller, reading, cancelled)
        finally:
            self._running[place].discard(cancelled)
            if not self._running[place]:
                del self._running[place]

    async def _once(
        self,
        request: pb.ExecuteRequest,
        caller: Caller,
        reading: Reading,
        cancelled: asyncio.Event,
    ) -> pb.ExecuteResponse:
        """Carry *request* out unless it has been; whatever was begun is never begun again."""
        requests = self._parts.requests
        locale, zone, id_ = reading.locale, reading.time_zone.key, request.request_id
        opened = await requests.open(request, caller, locale, zone)
        if isinstance(opened, Answered) and self._is_outdated(opened.answer, caller, id_):
            await requests.decline(id_, caller)
            opened = await requests.open(request, caller, locale, zone)
        if isinstance(opened, Answered):
            opened.answer.replayed = True
            return opened.answer
        with requests.held(opened.request_id, caller, opened.owner, cancelled):
            if isinstance(opened, Left):
                return await self._parts.settlement.recover(opened, caller)
            try:
                return await self._carried_out(request, caller, reading, cancelled, opened)
            except BaseException:
                await self._abandoned(opened, caller)
                raise

    async def _abandoned(self, opened: Opened, caller: Caller) -> None:
        """Let a request be tried again that has changed nothing; any other stays as it is."""
        try:
            await self._parts.requests.abandon(opened, caller)
        except Failure as failure:
            self._parts.log.warning("a request stays until its lease ends: %s", failure.reason)

    async def _carried_out(
        self,
        request: pb.ExecuteRequest,
        caller: Caller,
        reading: Reading,
        cancelled: asyncio.Event,
        opened: Opened | None,
    ) -> pb.ExecuteResponse:
        scene = await self._scene(request, caller, reading, cancelled, opened)
        try:
            return await self._steps(scene, opened)
        except BaseException:
            await self._read_released(scene)
            raise

    async def _scene(
        self,
        request: pb.ExecuteRequest,
        caller: Caller,
        reading: Reading,
        cancelled: asyncio.Event,
        opened: Opened | None,
    ) -> Scene:
        parts = self._parts
        entitlements = await parts.entitlements.of(caller, request.min_revision)
        zone = request.time_zone
        if opened is not None and opened.confirmed is not None:  # times mean what they meant then
            zone = opened.confirmed.time_zone
        reading = reading_of(caller, request.locale, zone, reading.now, entitlements.time_zone)
        descriptors = await parts.entitlements.descriptors(request.min_revision)
        admission = Admission(
            parts.usage, parts.notices, caller, entitlements, reading, request.request_id
        )
        reporter = Reporter(parts.notices, reading.locale, descriptors)
        return Scene(
            request, caller, reading, entitlements, descriptors, admission, reporter, cancelled
        )

    async def _steps(self, scene: Scene, opened: Opened | None) -> pb.ExecuteResponse:
        confirmed = opened.confirmed if opened else None
        answer = pb.ExecuteResponse(trace_id=trace_id())
        planned, interpreted = await self._understood(scene, confirmed)
        if confirmed is not None and confirmed.interpretation.ByteSize():
            answer.interpretation.CopyFrom(confirmed.interpretation)
        if interpreted is not None:
            answer.interpretation.CopyFrom(interpreted.interpretation)
            if interpreted.clarification is not None:
                answer.clarification.CopyFrom(interpreted.clarification)
                return await self._concluded(scene, opened, planned, answer)
        await self._check_plan(scene, planned)
        if confirmed is not None and opened is not None:
            planned = await self._held(scene, opened, confirmed, planned)
        else:
            touched = await self._asked_first(scene, planned, interpreted, answer)
            if touched is not None and answer.HasField("confirmation") and opened is not None:
                return await self._confirming(scene, opened, answer, touched)
            if answer.WhichOneof("result") is not None:
                return await self._concluded(scene, opened, planned, answer)
        assert opened is not None
        whole = confirmed is not None
        carried = await self._carrier.carry(scene, opened, planned, answer, whole=whole)
        if not any(each.modifies for each in planned):
            return await self._read(scene, opened, planned, answer, carried)
        return await self._concluded(scene, opened, planned, answer, settled=carried.settled)

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
        ids = [
            operation_id(scene.caller, scene.request_id, index) for index in range(len(operations))
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
        notice = self._parts.notices.upgrade(scene.reading.locale, plan_name=plan)
        refusal = PlanForbids(
            "the plan does not allow changes", metadata={"plan": plan}, details=told(notice)
        )
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
        if scene.cancelled.is_set():  # then nothing is asked any more either
            stopped = [ended(each, failure=each.refused or Interrupted()) for each in planned]
            await self._carrier.foreseen(scene, stopped, answer)
            return touched
        if scene.reporter.clarified(touched.done, planned, answer):
            return touched
        if interpreted and many_records(touched, parts.settings.unconfirmed_operations):
            reasons = sorted({*reasons, pb.CONFIRMATION_REASON_MANY_OPERATIONS})
        feasible = [each for each in touched.done if each.applied and each.planned.modifies]
        if reasons and feasible:
            await self._carrier.affordable(scene, [each.planned for each in feasible])
            self._ask_to_confirm(scene, reasons, touched, answer)
        elif reasons or dry:
            # What cannot be shown cannot be confirmed, and so is not tried either.
            done = await self._carrier.limited(scene, touched.done) if dry else touched.done
            await self._carrier.foreseen(scene, done, answer)
        return touched

    def _ask_to_confirm(
        self,
        scene: Scene,
        reasons: Sequence[pb.ConfirmationReason.ValueType],
        touched: Touched,
        answer: pb.ExecuteResponse,
    ) -> None:
        pairs = list(zip(touched.done, touched.affected, strict=True))
        answer.confirmation.reasons.extend(reasons)
        answer.confirmation.operations.extend(
            scene.reporter.planned(each, affected) for each, affected in pairs
        )
        answer.confirmation.summary = self._parts.notices.sentence(
            "confirmation",
            scene.reading.locale,
            records=sum(affected for each, affected in pairs if each.planned.modifies),
        )

    async def _touched(self, scene: Scene, planned: Sequence[Planned]) -> Touched:
        return await preview.touched(
            planned,
            scene.descriptors,
            self._parts.domains,
            scene.caller,
            scene.request_id,
            scene.reading.time_zone.key,
        )

    async def _held(
        self, scene: Scene, opened: Opened, confirmed: Confirmed, planned: Sequence[Planned]
    ) -> list[Planned]:
        """*planned*, held to what was confirmed. Raises ConfirmationRefused where that changed."""
        touched = await self._touched(scene, planned)
        try:
            return preview.held(confirmed.planned, confirmed.records_digest, touched)
        except ConfirmationRefused:
            await self._parts.requests.outdated(opened, scene.caller)
            raise

    async def _confirming(
        self, scene: Scene, opened: Opened, answer: pb.ExecuteResponse, touched: Touched
    ) -> pb.ExecuteResponse:
        """Keep what waits for its confirmation, and give out the token."""
        lifetime = timedelta(seconds=self._parts.settings.confirmation_seconds)
        token, expires_at = confirmation.token_for(
            self._confirmation_key(), scene.caller, scene.request_id, self._parts.now(), lifetime
        )
        answer.confirmation.confirmation_token = token
        answer.confirmation.expires_at.FromDatetime(expires_at)
        await self._read_released(scene)
        await self._add_usage(scene, answer)
        await self._parts.requests.confirming(
            opened,
            scene.caller,
            answer,
            touched.records_digest,
            scene.reading.time_zone.key,
            lifetime,
        )
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
        opened: Opened | None,
        planned: Sequence[Planned],
        answer: pb.ExecuteResponse,
        *,
        settled: bool = True,
    ) -> pb.ExecuteResponse:
        await self._completed(scene, planned, answer)
        if opened is not None:
            await self._keep(scene, opened, answer, settled=settled)
        return answer

    async def _read(
        self,
        scene: Scene,
        opened: Opened,
        planned: Sequence[Planned],
        answer: pb.ExecuteResponse,
        carried: Carried,
    ) -> pb.ExecuteResponse:
        """Answer a request that only reads once its answer stands: the log gets it meanwhile.

        What this replica does not bring to the log any more, another one does (LOG-2).
        """
        await self._completed(scene, planned, answer)
        if not self._parts.outbox.is_full:
            with suppress(Failure):
                kept = await self._parts.requests.stands(
                    opened, scene.caller, kept_of(carried.work), answer
                )
                outcomes = outcomes_of(carried.work, answer.report, carried.ends)
                self._parts.outbox.add(Unlogged(kept, [outcome_span(each) for each in outcomes]))
                return answer
        await self._parts.settlement.settle(carried.work, answer.report, carried.ends)
        await self._keep(scene, opened, answer, settled=True)
        return answer

    async def _completed(
        self, scene: Scene, planned: Sequence[Planned], answer: pb.ExecuteResponse
    ) -> None:
        """Put into *answer* what is told besides, once it is known what became of *planned*."""
        if not (answer.report.successes and only_reads(planned)):
            await self._read_released(scene)
        await self._add_usage(scene, answer)
        if answer.interpretation.failover:
            failover = pb.NOTICE_KIND_FAILOVER
            answer.notices.append(self._parts.notices.notice(failover, scene.reading.locale))

    async def _keep(
        self, scene: Scene, opened: Opened, answer: pb.ExecuteResponse, *, settled: bool
    ) -> None:
        """Keep the answer. Where the store is away it is given all the same, and kept later."""
        requests = self._parts.requests
        keep = requests.finish if settled else requests.open_still
        try:
            await keep(scene.request_id, scene.caller, opened.owner, answer)
        except Failure as failure:
            self._parts.log.warning("an answer could not be kept yet: %s", failure.reason)
            later = partial(keep, scene.request_id, scene.caller, opened.owner, answer)
            keeping = asyncio.create_task(self._kept_later(later))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._kept)

    async def _kept_later(self, keep: Callable[[], Awaitable[None]]) -> None:
        """Keep an answer that was given once the store is back: a retry is to find this one, and
        not what the domains say of it by then (GAT-2).
        """
        until = asyncio.get_running_loop().time() + KEEP_SECONDS
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(KEEP_PAUSE_SECONDS)
            with suppress(Failure):
                await keep()
                return
        self._parts.log.error("an answer that was given could not be kept")

    async def _read_released(self, scene: Scene) -> None:
        """Give the read back that was counted: none was carried out (USE-2)."""
        try:
            await scene.admission.release_read()
        except Failure as failure:
            self._parts.log.warning("a read could not be given back: %s", failure.reason)

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
