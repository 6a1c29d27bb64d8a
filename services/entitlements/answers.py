"""What a user is entitled to, now and at a moment (ENT-2)."""

import asyncio
from datetime import datetime, timedelta

from gatehouse.entitlements.v1 import entitlements_pb2 as pb

from services.entitlements.access import choose
from services.entitlements.failures import RevisionNotReached
from services.entitlements.postgres import Candidates, Store
from services.entitlements.revisions import Revision, Standing, revision_to
from services.entitlements.rows import plan_from
from services.entitlements.watch import Feed
from services.runtime.calling import deadline_left
from services.runtime.failure import NotFound
from services.runtime.identity import Caller


class Answers:
    """Answers from the store, waiting for a revision where one is asked for."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        *,
        valid_for: timedelta,
        revision_wait: float,
    ) -> None:
        self._store = store
        self._feed = feed
        self._valid_for = valid_for
        self._revision_wait = revision_wait

    async def entitlements(
        self, caller: Caller, user_id: str, clinic_id: str, min_revision: Revision | None
    ) -> pb.GetEntitlementsResponse:
        """The plan that counts, as of *min_revision* or later; as of now where that was lost.

        Raises RevisionNotReached.
        """
        found = await self._store.candidates(caller, user_id, clinic_id)
        if min_revision is not None and not is_past(min_revision, found.revision):
            await self._reach(caller, min_revision)
            found = await self._store.candidates(caller, user_id, clinic_id)
        plan, source = counting(found)
        response = pb.GetEntitlementsResponse(
            plan=plan,
            source=source,
            revision=revision_to(found.revision),
            time_zone=found.time_zone or "",
        )
        response.valid_for.FromTimedelta(self._valid_for)
        return response

    async def plan_at(
        self, caller: Caller, user_id: str, clinic_id: str, at: datetime
    ) -> pb.GetPlanAtResponse:
        found = await self._store.candidates_at(caller, user_id, clinic_id, at)
        plan, source = counting(found)
        return pb.GetPlanAtResponse(plan_id=plan.id, plan_name=plan.name, source=source)

    async def _reach(self, caller: Caller, wanted: Revision) -> None:
        """Wait until *wanted* is there, or lost. Raises RevisionNotReached."""
        standing = Standing.UNKNOWN
        try:
            async with asyncio.timeout(deadline_left(self._revision_wait)):
                while standing not in (Standing.REACHED, Standing.LOST):
                    number = self._feed.number
                    standing, _ = await self._store.standing(caller, wanted)
                    if standing not in (Standing.REACHED, Standing.LOST):
                        await self._feed.after(number)
        except TimeoutError:
            # An epoch that does not come was lost with all that it had.
            if standing is not Standing.UNKNOWN:
                raise RevisionNotReached(
                    f"revision {wanted.number} is not here yet: retry",
                    retry_after=timedelta(milliseconds=200),
                ) from None


def is_past(wanted: Revision, current: Revision) -> bool:
    """Whether *wanted* is behind *current* for certain."""
    return wanted.epoch == current.epoch and wanted.number <= current.number


def counting(found: Candidates) -> "tuple[pb.Plan, pb.Source.ValueType]":
    """The plan that counts among *found* and where it comes from.

    Raises NotFound where there is none.
    """
    chosen = choose(found.user, found.clinic, found.basic)
    if chosen is None:
        raise NotFound("there were no plans at that moment")
    row, source = chosen
    return plan_from(row), source
