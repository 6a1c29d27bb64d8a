"""From what is allowed to what became of it: consume, log the intent, dispatch, settle, report."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway import dispatch
from services.gateway.admission import modifies_place, operation_id
from services.gateway.authorization import Planned
from services.gateway.dispatch import Done, ended, ends_of
from services.gateway.failures import QuotaExhausted
from services.gateway.offers import Offers, allows_changes
from services.gateway.peers import Domains
from services.gateway.preview import Touched, whole_batches
from services.gateway.references import RolledBack
from services.gateway.replay import Lease
from services.gateway.requests import Requests
from services.gateway.scene import Scene
from services.gateway.settings import Settings
from services.gateway.settlement import Settlement, Work, kept_of
from services.runtime.calling import deadline_left, set_deadline
from services.runtime.failure import DeadlineExceeded, Failure
from services.runtime.recording import RecordedOutcome, Recorder

# Kept of a request's time for asking domains, releasing, logging and answering: so much, and of a
# short time a share.
AFTERWARDS_SECONDS = 1.0
AFTERWARDS_SHARE = 0.25
CLAIM_ATTEMPTS = 3


@dataclass(frozen=True)
class Carried:
    """What was carried out, when each operation ended, by index, and whether all is settled."""

    work: Work
    ends: Mapping[int, datetime]
    settled: bool


class Carrier:
    """Carries out what is allowed, granted and logged; every operation gets its end."""

    def __init__(
        self,
        settings: Settings,
        domains: Domains,
        requests: Requests,
        recorder: Recorder,
        settlement: Settlement,
        offers: Offers,
        log: logging.Logger,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._domains = domains
        self._requests = requests
        self._recorder = recorder
        self._settlement = settlement
        self._offers = offers
        self._log = log
        self._now = now

    async def affordable(self, scene: Scene, changes: Sequence[Planned]) -> None:
        """Raises QuotaExhausted where the day's limit is less than *changes*; counts nothing.

        What could not be done as it is summarised is not summarised (GAT-5).
        """
        _, refusal = await scene.admission.modify(len(changes), whole=True, validate_only=True)
        if isinstance(refusal, QuotaExhausted):
            if not scene.request.validate_only:
                await self.refused(scene, changes, refusal)
            raise refusal

    async def limited(self, scene: Scene, touched: Touched) -> Touched:
        """*touched*, less the batches for which the day's limit has no room; counts nothing."""
        planned = [each.planned for each in touched.done if each.applied is not None]
        changes = sum(each.modifies for each in planned)
        if not changes:
            return touched
        room, refusal = await scene.admission.modify(changes, whole=False, validate_only=True)
        if refusal is None:
            return touched
        fit = {each.index for each in batches_within(planned, room)}
        over = {each.index: over_limit(each, refusal) for each in planned if each.index not in fit}
        done = [over.get(each.planned.index, each) for each in touched.done]
        return replace(touched, done=whole_batches(done))

    async def carry(
        self,
        scene: Scene,
        lease: Lease,
        planned: Sequence[Planned],
        answer: pb.ExecuteResponse,
        *,
        whole: bool,
    ) -> Carried:
        """Put into *answer* what became of *planned*; a request that only reads is not settled yet.

        With *whole* all changes are counted, or none.
        Raises a refusal of the whole before anything is done, and only Superseded from then on.
        """
        refused = [ended(each, failure=each.refused) for each in planned if each.refused]
        claimed, going, over = await self._granted(scene, planned, whole=whole)
        report = scene.reporter.report(
            scene.use_id, scene.request_id, scene.reading.now, [*refused, *over]
        )
        answer.report.CopyFrom(report)
        work = self._work(scene, going, claimed, answer)
        if claimed:
            await self._begun(scene, lease, work, answer)
        carried = await self._carried(scene, work)
        set_deadline(None)  # what follows has to be done whatever is left of the caller's time
        scene.reporter.add(answer.report, carried)
        scene.reporter.ended(answer.report, self._now())
        if claimed:
            await self._stands(lease, answer)
        ends = ends_of(carried, self._now())
        changing = any(each.modifies for each in planned)
        settled = changing and await self._settlement.settle(work, answer.report, ends)
        done = [*refused, *over, *carried]
        answer.notices.extend(await self._notices(scene, done))
        if len(done) == 1:
            scene.reporter.clarified(done, planned, answer)
        return Carried(work, ends, settled)

    async def foreseen(self, scene: Scene, touched: Touched, answer: pb.ExecuteResponse) -> None:
        """Put into *answer* what the domains said of a request that is not carried out."""
        done, now = touched.done, scene.reading.now
        if scene.request.validate_only:
            report = scene.reporter.foreseen(scene.use_id, scene.request_id, now, touched)
        else:
            report = scene.reporter.report(scene.use_id, scene.request_id, now, done)
        scene.reporter.ended(report, self._now())
        answer.report.CopyFrom(report)
        answer.notices.extend(await self._notices(scene, done))
        if not scene.request.validate_only:
            going = [each.planned for each in done if each.planned.refused is None]
            ends = ends_of(done, self._now())
            work = self._work(scene, going, 0, answer)
            await self._settlement.settle(work, report, ends)

    async def _notices(self, scene: Scene, done: Sequence[Done]) -> list[pb.Notice]:
        """What users are told besides; a plan is offered where it would have allowed a change."""
        notices = scene.reporter.notices_for(done)
        if any(each.failure and each.failure.reason == "PLAN_FORBIDS" for each in done):
            plan, locale = scene.entitlements.plan.name, scene.reading.locale
            offer = await self._offers.upgrade(plan, locale, allows_changes)
            notices += [offer] if offer is not None else []
        return notices

    def _work(
        self, scene: Scene, going: Sequence[Planned], claimed: int, answer: pb.ExecuteResponse
    ) -> Work:
        id_, use_id = scene.request_id, scene.use_id
        return Work(scene.caller, id_, use_id, going, claimed, answer.interpretation)

    async def _granted(
        self, scene: Scene, planned: Sequence[Planned], *, whole: bool
    ) -> tuple[int, list[Planned], list[Done]]:
        """Count the changes: how many were claimed, what goes ahead, and what is over the limit.

        A batch goes ahead whole or not at all (GAT-6): the batches for which the day's limit has
        room, in the order of the request. Raises the refusal when there are only changes and none
        goes ahead, a cool-down runs, or the request is to be done as a *whole*.
        """
        allowed = [each for each in planned if each.refused is None]
        changes = [each for each in allowed if each.modifies]
        if not changes:
            return 0, allowed, []
        _, refusal = await scene.admission.modify(len(changes), whole=True)
        if refusal is None:
            return len(changes), allowed, []
        going, claimed = list[Planned](), 0
        if isinstance(refusal, QuotaExhausted) and not whole:
            going, claimed = await self._claimed(scene, allowed, len(changes))
        alone = len(changes) == len(planned)
        if not going and (whole or alone or not isinstance(refusal, QuotaExhausted)):
            await self.refused(scene, changes, refusal)
            raise refusal
        places = {each.index for each in going}
        return (
            claimed,
            going,
            [over_limit(each, refusal) for each in allowed if each.index not in places],
        )

    async def _claimed(
        self, scene: Scene, allowed: Sequence[Planned], changes: int
    ) -> tuple[list[Planned], int]:
        """The batches of *allowed* for which there is room, and how many changes they claim.

        Others may use the room between the question and the claim: then it is asked again.
        """
        for _ in range(CLAIM_ATTEMPTS):
            room, _ = await scene.admission.modify(changes, whole=False, validate_only=True)
            going = batches_within(allowed, room)
            wanted = sum(each.modifies for each in going)
            if not wanted:
                return going, 0
            _, refusal = await scene.admission.modify(wanted, whole=True)
            if refusal is None:
                return going, wanted
            if not isinstance(refusal, QuotaExhausted):
                break
        return batches_within(allowed, 0), 0

    async def refused(self, scene: Scene, planned: Sequence[Planned], refusal: Failure) -> None:
        """Log operations of a request that is refused whole.

        Under ids of their own: the request may come again when it is allowed, and what is then
        carried out has its own rows.
        """
        work = Work(scene.caller, scene.request_id, scene.use_id, [], 0)
        await self._recorder.outcomes(
            [
                RecordedOutcome(
                    work.recorded(
                        each.operation.domain,
                        each.operation.verb,
                        operation_id(scene.use_id, f"refused/{each.index}"),
                    ),
                    "refused",
                    scene.reading.now,
                    max(self._now(), scene.reading.now),
                    reason=refusal.reason,
                )
                for each in planned
            ]
        )

    async def _begun(
        self, scene: Scene, lease: Lease, work: Work, answer: pb.ExecuteResponse
    ) -> None:
        """Store what is about to be done. Raises Failure: then it is not done, and not counted."""
        deadline_left(self._settings.request_seconds)
        await self._requests.dispatching(lease, kept_of(work), work.claimed, answer)
        scene.claims.hand_over(modifies_place(work.claimed))

    async def _carried(self, scene: Scene, work: Work) -> list[Done]:
        """Log the intents and dispatch, in time for the caller to be told how it went (GAT-7)."""
        try:
            left = deadline_left(self._settings.request_seconds)
        except DeadlineExceeded as late:
            return [ended(each, failure=late) for each in work.going]
        afterwards = min(AFTERWARDS_SECONDS, AFTERWARDS_SHARE * left)
        set_deadline(left - afterwards)
        until = asyncio.get_running_loop().time() + left - afterwards / 2
        unlogged = await self._unlogged(work)
        if not unlogged:
            return await self._dispatched(scene, work.going, until)
        domains = {each.operation.domain for each in work.changes}
        reads = [each for each in work.going if not each.modifies]
        going = [each for each in reads if each.operation.domain not in domains]
        undone = RolledBack()
        beside = [ended(each, failure=undone) for each in reads if each.operation.domain in domains]
        return [*unlogged, *beside, *await self._dispatched(scene, going, until)]

    async def _unlogged(self, work: Work) -> list[Done]:
        """Log the intents of the changes; without the log nothing is changed (LOG-2)."""
        try:
            await self._recorder.intents(
                [
                    work.recorded(each.operation.domain, each.operation.verb, each.operation_id)
                    for each in work.changes
                ]
            )
        except Failure as failure:
            return [ended(each, failure=failure) for each in work.changes]
        return []

    async def _dispatched(
        self, scene: Scene, planned: Sequence[Planned], until: float
    ) -> list[Done]:
        return await dispatch.dispatch(
            planned,
            scene.descriptors,
            self._domains,
            scene.reading.time_zone.key,
            scene.reading.locale,
            scene.cancelled,
            until,
        )

    async def _stands(self, lease: Lease, answer: pb.ExecuteResponse) -> None:
        """Store what was executed. Where the store is down, the domains are asked again later.

        Raises Superseded before anything is counted or logged: a later attempt reports then.
        """
        try:
            await self._requests.settling(lease, answer)
        except Failure as failure:
            self._log.warning("a report could not be kept yet: %s", failure.reason)


def batches_within(planned: Sequence[Planned], room: int) -> list[Planned]:
    """The operations of those domains whose changes all fit into *room*, the first ones first."""
    batches: dict[str, list[Planned]] = {}
    for each in planned:
        batches.setdefault(each.operation.domain, []).append(each)
    fit: list[Planned] = []
    for batch in batches.values():
        changes = sum(each.modifies for each in batch)
        if changes <= room:
            room -= changes
            fit += batch
    return sorted(fit, key=lambda each: each.index)


def over_limit(planned: Planned, refusal: Failure) -> Done:
    """How an operation ends whose batch is over the day's limit; reads are no part of the limit."""
    return ended(planned, failure=refusal if planned.modifies else RolledBack())
