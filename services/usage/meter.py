"""Decides claims: many at once, each exactly (USE-1 to USE-7).

All that waits when the one before returns is decided as one batch: one round trip to the windows,
one transaction in the ledger. There is no timer, so nobody waits while nothing else is going on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.runtime.failure import Exhausted, Failure, Internal, StoreUnavailable
from services.usage import quota
from services.usage.ledger import ITSELF, LONGEST_RETRY, Decided, Ledger, admission, replayed
from services.usage.nouns import Admission, Claim, OverLimit, Thresholds
from services.usage.windows import Past, Verdict, Windows, verdict_from

MOST_CLAIMS = 1000
MOST_WAITING = 20_000


@dataclass
class Waiting:
    claims: Sequence[Claim]
    decided: asyncio.Future[list[Decided]]


class Meter:
    """Says of each claim whether it is granted, and counts it when it is."""

    def __init__(
        self,
        ledger: Ledger,
        windows: Windows,
        thresholds: Thresholds,
        log: logging.Logger,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._windows = windows
        self._thresholds = thresholds
        self._log = log
        self._now = now
        self._waiting: list[Waiting] = []
        self._some = asyncio.Event()
        # Until when Valkey may lack what happened before it was away, so that Postgres fills in.
        self._seeding_until: datetime | None = None

    async def consume(self, claims: Sequence[Claim]) -> list[Decided]:
        """Decide *claims* in their order; the answers stand. Raises StoreUnavailable, Exhausted."""
        if len(self._waiting) >= MOST_WAITING:
            raise Exhausted("too many claims wait", retry_after=timedelta(milliseconds=200))
        waiting = Waiting(claims, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._some.set()
        return await waiting.decided

    async def run(self) -> None:
        """Decide what waits, for ever; run as a task."""
        while True:
            await self._some.wait()
            batch = self._batch()
            try:
                decided = await self._decide([claim for each in batch for claim in each.claims])
            except Failure as failure:
                tell_failure(batch, failure)
            except Exception as error:
                self._log.error("claims could not be decided", exc_info=error)
                tell_failure(batch, Internal())
            else:
                tell(batch, decided)

    def _batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        while self._waiting and (not batch or size < MOST_CLAIMS):
            batch.append(self._waiting.pop(0))
            size += len(batch[-1].claims)
        if not self._waiting:
            self._some.clear()
        return batch

    async def _decide(self, claims: Sequence[Claim]) -> list[Decided]:
        now = self._now()
        verdicts = await self._verdicts(claims, now)
        decided: list[Decided | None] = [None] * len(claims)
        kept = [index for index, verdict in enumerate(verdicts) if verdict.refused is None]
        refused = [index for index in range(len(claims)) if index not in set(kept)]
        if refused:
            for index, answer in zip(
                refused, await self._refused(claims, verdicts, refused, now), strict=True
            ):
                decided[index] = answer
        if kept:
            answers = await self._ledger.decide([claims[index] for index in kept], now)
            for index, answer in zip(kept, answers, strict=True):
                decided[index] = answer
            await self._undo(answers)
        return [each for each in decided if each is not None]

    async def _verdicts(self, claims: Sequence[Claim], now: datetime) -> list[Verdict]:
        """What the windows say: Valkey's, or what Postgres has when Valkey does not answer."""
        users = list({claim.user_id for claim in claims})
        if self._seeding_until is None or self._seeding_until < now:
            pasts = None
        else:
            pasts = await self._ledger.pasts(users, self._thresholds, now)
        try:
            return await self._windows.claim(claims, pasts)
        except StoreUnavailable:
            self.notice_outage()
        if pasts is None:
            pasts = await self._ledger.pasts(users, self._thresholds, now)
        return verdicts_in_order(claims, pasts, self._thresholds, now)

    async def _refused(
        self,
        claims: Sequence[Claim],
        verdicts: Sequence[Verdict],
        refused: Sequence[int],
        now: datetime,
    ) -> list[Decided]:
        """Answer what the windows refuse; a claim that was granted before is answered as then."""
        asked = [claims[index] for index in refused]
        receipts = await self._ledger.receipts(asked)
        answers: list[Decided] = []
        started: list[tuple[UUID, datetime]] = []
        for index in refused:
            claim, over = claims[index], verdicts[index].refused
            assert over is not None
            day = quota.day_of(now, claim.time_zone)
            balance = await self._ledger.balance(ITSELF, claim.user_id, day)
            receipt = receipts.get((claim.user_id, claim.operation_id))
            if receipt is not None:
                answers.append(replayed(claim, receipt, balance, day))
                if over.started and not claim.validate_only:
                    await self._lift(claim.user_id)
                continue
            if over.started and not claim.validate_only:
                started.append((claim.user_id, over.until))
            answers.append(admission(claim, over, balance, day))
        if started:
            await self._ledger.start_cool_downs(started)
        return answers

    async def _undo(self, answers: Sequence[Decided]) -> None:
        """Take claims out of the windows that the day's limit refused: they were not admitted."""
        over = [
            each.claim
            for each in answers
            if isinstance(each, Admission)
            and isinstance(each.decision, OverLimit)
            and not each.claim.validate_only
        ]
        try:
            await self._windows.undo(over)
        except StoreUnavailable:
            self.notice_outage()

    async def _lift(self, user_id: UUID) -> None:
        try:
            await self._windows.lift(user_id)
        except StoreUnavailable:
            self.notice_outage()

    def notice_outage(self) -> None:
        """Valkey was away, and may have come back without what it had: Postgres fills in."""
        longest = max(self._thresholds.modify_window, self._thresholds.cool_down)
        self._seeding_until = self._now() + longest

    async def usage(self, user_id: UUID) -> Verdict:
        """How full the windows of a user are."""
        now = self._now()
        try:
            return await self._windows.peek(user_id)
        except StoreUnavailable:
            self.notice_outage()
        past = (await self._ledger.pasts([user_id], self._thresholds, now))[user_id]
        recent = [at for at, _ in past.queries if at > now - self._thresholds.query_window]
        return Verdict(None, past.cool_down_until, len(recent), len(past.modifies))

    async def clear(self, user_id: UUID) -> datetime | None:
        """Empty the windows in Valkey. Raises StoreUnavailable when it is away."""
        return await self._windows.clear(user_id)


def verdicts_in_order(
    claims: Sequence[Claim],
    pasts: dict[UUID, Past],
    thresholds: Thresholds,
    now: datetime,
) -> list[Verdict]:
    """Decide by what Postgres has, each claim after the ones before it."""
    verdicts = []
    for claim in claims:
        past = pasts[claim.user_id]
        verdict = verdict_from(past, claim, thresholds, now)
        verdicts.append(verdict)
        if not claim.validate_only:
            pasts[claim.user_id] = after(past, claim, verdict, now)
    return verdicts


def after(past: Past, claim: Claim, verdict: Verdict, now: datetime) -> Past:
    if verdict.refused is not None:
        return Past(past.queries, past.modifies, verdict.refused.until)
    entry = (now, claim.operation_id)
    if claim.kind.value == "query":
        return Past([*past.queries, entry], past.modifies, past.cool_down_until)
    return Past(past.queries, [*past.modifies, entry], past.cool_down_until)


def tell(batch: Sequence[Waiting], decided: Sequence[Decided]) -> None:
    place = 0
    for each in batch:
        answers = list(decided[place : place + len(each.claims)])
        place += len(each.claims)
        if not each.decided.done():  # its caller went away; what is counted stays until released
            each.decided.set_result(answers)


def tell_failure(batch: Sequence[Waiting], failure: Failure) -> None:
    for each in batch:
        if not each.decided.done():
            each.decided.set_exception(failure)


@asynccontextmanager
async def open_meter(
    meter: Meter,
    ledger: Ledger,
    log: logging.Logger,
    *,
    sweep_seconds: float,
    now: Callable[[], datetime],
) -> AsyncIterator[Meter]:
    """*meter* at work, and the sweeper beside it."""
    running = [
        asyncio.create_task(meter.run()),
        asyncio.create_task(sweeping(ledger, log, sweep_seconds, now)),
    ]
    try:
        yield meter
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def sweeping(
    ledger: Ledger, log: logging.Logger, every_seconds: float, now: Callable[[], datetime]
) -> None:
    """Release what nobody settled, and forget old receipts, now and then."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            released = await ledger.sweep(now())
            await ledger.forget(now() - LONGEST_RETRY)
        except Failure:
            continue  # the store is away; what is late stays late
        if released:
            log.info("released %d claims that were never settled", released)
