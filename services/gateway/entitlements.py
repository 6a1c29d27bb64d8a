"""What callers are entitled to and which domains there are, kept at hand and fresh (ENT-4).

The changes are followed from revision to revision, over reconnects too, and each takes away what it
touches; everything else stays, however much is written. Once nothing was heard for a moment, or
changes were missed, nothing that is kept counts for longer than its own time. Where the store has
lost what was heard (ENT-6), nothing that is kept counts at all.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub

from services.gateway.peers import CALL_SECONDS, answered
from services.runtime.calling import TokenSource, as_service, deadline_left, passing_over
from services.runtime.failure import Failure
from services.runtime.identity import Caller

KEPT_PLANS = 10_000
# Watch says at least every 500 ms that nothing changed. After a second without a word what is kept
# may be staler than promised, and after two the stream is given up for another.
SILENCE_SECONDS = 1.0
GIVE_UP_SECONDS = 2.0
RETRY_SECONDS = 0.5
# With descriptors at hand, nobody waits long for newer ones that may not come.
DESCRIPTORS_SECONDS = 1.0
NEVER = float("-inf")


# Names no place: whatever is at hand.
NO_REVISION = pb.Revision()


@dataclass(frozen=True)
class Cached:
    """What a user of a clinic is entitled to, and until when it counts without being followed.

    *until* is of this process's monotonic clock: no other machine's clock is asked.
    """

    clinic_id: str
    answer: pb.GetEntitlementsResponse
    until: float


def covers(known: pb.Revision, wanted: pb.Revision) -> bool:
    """Whether *known* is *wanted* or later, for certain: numbers of other epochs say nothing."""
    if wanted == NO_REVISION:
        return True
    return known.epoch == wanted.epoch and known.number >= wanted.number


def is_older(one: pb.Revision, other: pb.Revision) -> bool:
    return one.epoch == other.epoch and one.number < other.number


class Entitlements:
    """Plans by user and descriptors by name; `follow`, run as a task, keeps them fresh."""

    def __init__(self, stub: EntitlementsServiceStub, tokens: TokenSource) -> None:
        self._stub = stub
        self._tokens = tokens
        # Every change up to this revision was heard. None: no change was, and what is kept has its
        # own time.
        self._revision: pb.Revision | None = None
        self._heard_at = NEVER
        # How often all that was kept was dropped: an answer that was on its way then is not kept.
        self._drops = 0
        # A user is in one clinic at a time.
        self._plans: OrderedDict[str, Cached] = OrderedDict()
        self._descriptors: dict[str, DomainDescriptor] | None = None
        # As of which revision they were read, and how many changes of them were heard: by then, and
        # in all.
        self._described_at = NO_REVISION
        self._changes_described = 0
        self._changes_heard = 0
        self._changed_at = NO_REVISION
        # Entitlements did not answer: until then nobody waits for it again.
        self._ask_again_at = NEVER

    async def of(
        self, caller: Caller, min_revision: pb.Revision = NO_REVISION
    ) -> pb.GetEntitlementsResponse:
        """What *caller* is entitled to, as of *min_revision* or later.

        Raises Failure when it is neither at hand nor to be had.
        """
        kept = self._plans.get(caller.user_id)
        if kept and kept.clinic_id == caller.clinic_id and self._holds(kept, min_revision):
            self._plans.move_to_end(caller.user_id)
            return kept.answer
        request = pb.GetEntitlementsRequest(
            user_id=caller.user_id, clinic_id=caller.clinic_id, min_revision=min_revision
        )
        asked_at, drops = self._now(), self._drops
        found: pb.GetEntitlementsResponse = await answered(
            self._call(self._stub.GetEntitlements, request)
        )
        if drops == self._drops:
            self._keep(caller, found, asked_at)
        return found

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _holds(self, kept: Cached, min_revision: pb.Revision) -> bool:
        """Whether *kept* counts: by what was heard since, or by its own time."""
        if covers(kept.answer.revision, min_revision):
            return self._is_live() or self._now() < kept.until
        return self._is_live() and self._has_heard(min_revision)

    def _has_heard(self, revision: pb.Revision) -> bool:
        return self._revision is not None and covers(self._revision, revision)

    def _keep(self, caller: Caller, found: pb.GetEntitlementsResponse, asked_at: float) -> None:
        """Keep an answer, unless a change that may touch it was heard while it was on its way."""
        if self._revision is not None and not covers(found.revision, self._revision):
            return
        until = asked_at + found.valid_for.ToTimedelta().total_seconds()
        self._plans[caller.user_id] = Cached(caller.clinic_id, found, until)
        self._plans.move_to_end(caller.user_id)
        if len(self._plans) > KEPT_PLANS:
            self._plans.popitem(last=False)

    def _is_live(self) -> bool:
        return self._now() - self._heard_at < SILENCE_SECONDS

    async def descriptors(
        self, min_revision: pb.Revision = NO_REVISION
    ) -> Mapping[str, DomainDescriptor]:
        """The domains by name, as of *min_revision*; those last known while there are no others."""
        known, now = self._descriptors, self._now()
        if known is not None and self._describes(min_revision, now):
            return known
        seconds = CALL_SECONDS if known is None else DESCRIPTORS_SECONDS
        try:
            heard = self._changes_heard
            revision, found = await self._read_descriptors(seconds)
            # Heard while they were read.
            while heard != self._changes_heard or is_older(revision, self._changed_at):
                heard = self._changes_heard
                revision, found = await self._read_descriptors(seconds)
        except Failure:
            if known is None:
                raise
            self._ask_again_at = now + DESCRIPTORS_SECONDS
            return known
        self._descriptors, self._described_at = found, revision
        self._changes_described = heard
        return found

    def _describes(self, min_revision: pb.Revision, now: float) -> bool:
        """Whether the descriptors at hand count, or there is no point in asking for others."""
        if not self._is_live():
            return now < self._ask_again_at
        if self._changes_described != self._changes_heard:
            return False
        return covers(self._described_at, min_revision) or self._has_heard(min_revision)

    async def _read_descriptors(
        self, seconds: float
    ) -> tuple[pb.Revision, dict[str, DomainDescriptor]]:
        """All of them, with the revision of the first page: what changed since will be heard."""
        request = pb.ListDescriptorsRequest(page_size=500)
        found: dict[str, DomainDescriptor] = {}
        revision: pb.Revision | None = None
        while True:
            page = await answered(self._call(self._stub.ListDescriptors, request, seconds))
            revision = revision or page.revision
            found |= {each.name: each for each in page.descriptors}
            if not page.next_page_token:
                return revision, found
            request.page_token = page.next_page_token

    async def plans(self) -> dict[str, pb.Plan]:
        """Every plan by its name, as of now. Raises Failure."""
        request = pb.ListPlansRequest(page_size=500)
        found: dict[str, pb.Plan] = {}
        while True:
            page = await answered(self._call(self._stub.ListPlans, request, DESCRIPTORS_SECONDS))
            found |= {each.name: each for each in page.plans}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def _call(self, method: Callable[..., Any], request: Any, seconds: float = CALL_SECONDS) -> Any:
        """A read of entitlements; a replica that does not answer is passed over (USE-9)."""
        metadata = as_service(self._tokens)
        return passing_over(
            lambda timeout: method(request, timeout=timeout, metadata=metadata),
            deadline_left(seconds),
        )

    async def follow(self) -> None:
        """Follow the changes, for ever; run as a task."""
        while True:
            try:
                await self._watch()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    self._drop()  # changes were missed, or what was heard was lost: begin anew
            except (Failure, TimeoutError):
                pass
            self._heard_at = NEVER
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self) -> None:
        request = pb.WatchRequest(after_revision=self._revision)  # None: from now on
        stream = self._stub.Watch(request, metadata=as_service(self._tokens))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS) as silence:
                async for told in stream:
                    self._hear(told)
                    self._heard_at = loop.time()
                    silence.reschedule(self._heard_at + GIVE_UP_SECONDS)
        finally:
            stream.cancel()

    def _hear(self, told: pb.WatchResponse) -> None:
        """Take away what *told* touches; all, when what came before it was not heard."""
        if self._revision is None:
            self._drop()
        self._revision = told.revision
        match told.WhichOneof("event"):
            case "changed":
                self._take_away(told.changed, told.revision)
            case "removed":
                self._take_away(told.removed, told.revision)

    def _drop(self) -> None:
        """Keep nothing of what was known; the descriptors only as long as there are no others."""
        self._revision = None
        self._drops += 1
        self._plans.clear()
        self._described_at = self._changed_at = NO_REVISION
        self._changes_heard += 1

    def _take_away(self, resource: pb.Resource, revision: pb.Revision) -> None:
        match resource.WhichOneof("resource"):
            case "user_plan":
                self._plans.pop(resource.user_plan.user_id, None)
            case "clinic_plan":
                of = resource.clinic_plan.clinic_id
                self._take_away_where(lambda kept: kept.clinic_id == of)
            case "plan":
                plan_id = resource.plan.id
                self._take_away_where(lambda kept: kept.answer.plan.id == plan_id)
            case "descriptor":
                self._changes_heard += 1
                self._changed_at = revision

    def _take_away_where(self, holds: Callable[[Cached], bool]) -> None:
        touched = [user_id for user_id, kept in self._plans.items() if holds(kept)]
        for user_id in touched:
            del self._plans[user_id]
