"""What callers are entitled to and which domains there are, kept at hand and fresh (ENT-4).

The changes are followed from revision to revision, over reconnects too, and each takes away what it
touches; everything else stays, however much is written. Once nothing was heard for a moment, or
changes were missed, nothing that is kept counts for longer than its own time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub

from services.gateway.peers import CALL_SECONDS, answered
from services.runtime.calling import TokenSource, as_service, deadline_left
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


class Entitlements:
    """Plans by user and descriptors by name; `follow`, run as a task, keeps them fresh."""

    def __init__(self, stub: EntitlementsServiceStub, tokens: TokenSource) -> None:
        self._stub = stub
        self._tokens = tokens
        # Every change up to this revision was heard. 0: none, and what is kept has its own time.
        self._revision = 0
        self._heard_at = NEVER
        # A user is in one clinic at a time.
        self._plans: OrderedDict[str, tuple[str, pb.GetEntitlementsResponse]] = OrderedDict()
        self._descriptors: dict[str, DomainDescriptor] | None = None
        # As of which revision they were read, and at which one of them changed last.
        self._described_at = 0
        self._descriptor_changed_at = 0
        # Entitlements did not answer: until then nobody waits for it again.
        self._ask_again_at = NEVER

    async def of(self, caller: Caller, min_revision: int = 0) -> pb.GetEntitlementsResponse:
        """What *caller* is entitled to, as of *min_revision* or later.

        Raises Failure when it is neither at hand nor to be had.
        """
        clinic_id, kept = self._plans.get(caller.user_id, ("", None))
        if kept is not None and clinic_id == caller.clinic_id and self._holds(kept, min_revision):
            self._plans.move_to_end(caller.user_id)
            return kept
        request = pb.GetEntitlementsRequest(
            user_id=caller.user_id, clinic_id=caller.clinic_id, min_revision=min_revision
        )
        found: pb.GetEntitlementsResponse = await answered(
            self._call(self._stub.GetEntitlements, request)
        )
        self._keep(caller, found)
        return found

    def _holds(self, kept: pb.GetEntitlementsResponse, min_revision: int) -> bool:
        """Whether *kept* counts: by what was heard since, or by its own time."""
        if self._is_live():
            return max(kept.revision, self._revision) >= min_revision
        still_valid = datetime.now(UTC) < kept.valid_until.ToDatetime(tzinfo=UTC)
        return still_valid and kept.revision >= min_revision

    def _keep(self, caller: Caller, found: pb.GetEntitlementsResponse) -> None:
        """Keep an answer, unless a change that may touch it was heard while it was on its way."""
        if found.revision < self._revision:
            return
        self._plans[caller.user_id] = (caller.clinic_id, found)
        self._plans.move_to_end(caller.user_id)
        if len(self._plans) > KEPT_PLANS:
            self._plans.popitem(last=False)

    def _is_live(self) -> bool:
        return asyncio.get_running_loop().time() - self._heard_at < SILENCE_SECONDS

    async def descriptors(self, min_revision: int = 0) -> Mapping[str, DomainDescriptor]:
        """The domains by name, as of *min_revision*; those last known while there are no others."""
        known, now = self._descriptors, asyncio.get_running_loop().time()
        if known is not None and self._describes(min_revision, now):
            return known
        seconds = CALL_SECONDS if known is None else DESCRIPTORS_SECONDS
        try:
            revision, found = await self._read_descriptors(seconds)
            while revision < self._descriptor_changed_at:  # heard while they were read
                revision, found = await self._read_descriptors(seconds)
        except Failure:
            if known is None:
                raise
            self._ask_again_at = now + DESCRIPTORS_SECONDS
            return known
        self._descriptors, self._described_at = found, revision
        return found

    def _describes(self, min_revision: int, now: float) -> bool:
        """Whether the descriptors at hand count, or there is no point in asking for others."""
        if not self._is_live():
            return now < self._ask_again_at
        unchanged = self._described_at >= self._descriptor_changed_at
        return unchanged and max(self._described_at, self._revision) >= min_revision

    async def _read_descriptors(self, seconds: float) -> tuple[int, dict[str, DomainDescriptor]]:
        """All of them, with the revision of the first page: what changed since will be heard."""
        request = pb.ListDescriptorsRequest(page_size=500)
        found: dict[str, DomainDescriptor] = {}
        revision = 0
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
        return method(request, timeout=deadline_left(seconds), metadata=as_service(self._tokens))

    async def follow(self) -> None:
        """Follow the changes, for ever; run as a task."""
        while True:
            try:
                await self._watch()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE:
                    self._revision = 0  # some changes will never be heard: begin anew
            except (Failure, TimeoutError):
                pass
            self._heard_at = NEVER
            await asyncio.sleep(RETRY_SECONDS)

    async def _watch(self) -> None:
        request = pb.WatchRequest(after_revision=self._revision)
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
        if not self._revision:
            self._plans.clear()
            self._described_at, self._descriptor_changed_at = 0, told.revision
        self._revision = told.revision
        match told.WhichOneof("event"):
            case "changed":
                self._take_away(told.changed, told.revision)
            case "removed":
                self._take_away(told.removed, told.revision)

    def _take_away(self, resource: pb.Resource, revision: int) -> None:
        match resource.WhichOneof("resource"):
            case "user_plan":
                self._plans.pop(resource.user_plan.user_id, None)
            case "clinic_plan":
                of = resource.clinic_plan.clinic_id
                self._take_away_where(lambda clinic_id, _: clinic_id == of)
            case "plan":
                plan_id = resource.plan.id
                self._take_away_where(lambda _, kept: kept.plan.id == plan_id)
            case "descriptor":
                self._descriptor_changed_at = revision

    def _take_away_where(self, holds: Callable[[str, pb.GetEntitlementsResponse], bool]) -> None:
        touched = [user_id for user_id, kept in self._plans.items() if holds(*kept)]
        for user_id in touched:
            del self._plans[user_id]
