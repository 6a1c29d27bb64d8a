"""Following the changes: one listener, any number of followers, and no change lost (ENT-4).

A notification only wakes; what changed is read again from the history by its revision. Revisions
are committed in their order, so that nothing can appear behind what a follower has. Where a
notification is lost, the regular look at the revision finds the change.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from gatehouse.entitlements.v1 import entitlements_pb2 as pb

from services.entitlements.failures import RevisionLost, RevisionTooOld
from services.entitlements.postgres import CHANNEL, ITSELF, Change, Store
from services.entitlements.revisions import Revision, Standing, revision_to
from services.entitlements.rows import removed_from, resource_from
from services.runtime.connection import listening
from services.runtime.failure import StoreUnavailable
from services.runtime.identity import Caller

CHANGES_AT_ONCE = 200
RECONNECT_SECONDS = 0.2


@dataclass(frozen=True)
class Look:
    """What the last look at the revision found; no *revision* when Postgres did not answer."""

    number: int
    revision: Revision | None


class Feed:
    """Looks at the revision whenever it changes, and at least every *interval* seconds."""

    def __init__(self, store: Store, url: str, interval: float, log: logging.Logger) -> None:
        self._store = store
        self._url = url
        self._log = log
        self._interval = interval
        self._look = Look(0, None)
        self._looked = asyncio.Event()
        self._closed = False

    @property
    def number(self) -> int:
        """The number of the last look."""
        return self._look.number

    async def after(self, number: int) -> Look:
        """The first look later than the one of that *number*.

        Raises StoreUnavailable when there will be none.
        """
        while self._look.number <= number and not self._closed:
            await self._looked.wait()
        if self._closed:
            raise StoreUnavailable("this replica is stopping: follow another")
        return self._look

    async def keep_looking(self) -> None:
        """Look until cancelled, through outages."""
        while True:
            try:
                async with listening(self._url, CHANNEL) as connection:
                    while True:
                        await self._look_once()
                        await self._wait_for_change(connection)
            except Exception as error:  # whatever it was, followers depend on the next look
                if self._look.revision is not None:
                    self._log.warning("the changes cannot be seen", exc_info=error)
            self._tell(None)
            await asyncio.sleep(RECONNECT_SECONDS)

    def close(self) -> None:
        """Let every follower go."""
        self._closed = True
        self._looked.set()

    async def _look_once(self) -> None:
        # Not where it listens: the look has a caller, and a session keeps nothing of callers.
        self._tell(await self._store.look(ITSELF))

    async def _wait_for_change(self, connection: psycopg.AsyncConnection[Any]) -> None:
        async for _ in connection.notifies(timeout=self._interval, stop_after=1):
            return

    def _tell(self, revision: Revision | None) -> None:
        if self._closed:
            return
        self._look = Look(self._look.number + 1, revision)
        self._looked.set()
        self._looked = asyncio.Event()


@asynccontextmanager
async def open_feed(
    store: Store, url: str, interval: float, log: logging.Logger
) -> AsyncIterator[Feed]:
    """A feed that looks at least every *interval* seconds, from here to the end.

    *url* leads to where notifications are heard.
    """
    feed = Feed(store, url, interval, log)
    task = asyncio.create_task(feed.keep_looking(), name="entitlements.feed")
    try:
        yield feed
    finally:
        feed.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Followers:
    """Sends each follower what it has not seen."""

    def __init__(
        self, store: Store, feed: Feed, *, replay_limit: int, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._feed = feed
        self._replay_limit = replay_limit
        self._now = now

    async def follow(
        self, caller: Caller, after: Revision | None
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """Every change after the revision *after*, None for now, and a heartbeat at each idle look.

        Raises RevisionTooOld, RevisionLost where what was sent is not of the history any more, and
        StoreUnavailable when Postgres is gone: a follower is never told that it is up to date
        without a look.
        """
        number = self._feed.number
        current = await self._store.revision(caller)
        if after is not None:
            current = await self._continued(caller, after)
        sent = after.number if after else current.number
        if current.number - sent > self._replay_limit:
            raise RevisionTooOld(sent, current.number)
        while True:
            behind = current.number > sent
            while current.number > sent:
                changes = await self._store.changes_after(caller, sent, CHANGES_AT_ONCE)
                for change in changes:
                    yield self._told(change, current.epoch)
                sent = changes[-1].revision if changes else current.number
            if not behind:
                yield self._response(Revision(current.epoch, sent))
            look = await self._feed.after(number)
            if look.revision is None:
                raise StoreUnavailable("the store of plans and descriptors does not answer")
            number = look.number
            if look.revision.epoch != current.epoch or look.revision.number < sent:
                current = await self._continued(caller, Revision(current.epoch, sent))
            else:
                current = look.revision

    async def _continued(self, caller: Caller, sent: Revision) -> Revision:
        """The newest revision, of a history that *sent* is of. Raises RevisionLost."""
        standing, current = await self._store.standing(caller, sent)
        if standing is not Standing.REACHED:
            raise RevisionLost(sent.number)
        return current

    def _told(self, change: Change, epoch: str) -> pb.WatchResponse:
        revision = Revision(epoch, change.revision)
        if change.removed:
            return self._response(revision, removed=removed_from(change.kind, change.row))
        return self._response(revision, changed=resource_from(change.kind, change.row))

    def _response(
        self,
        revision: Revision,
        changed: pb.Resource | None = None,
        removed: pb.Resource | None = None,
    ) -> pb.WatchResponse:
        told = revision_to(revision)
        response = pb.WatchResponse(revision=told, changed=changed, removed=removed)
        response.sent_at.FromDatetime(self._now())
        return response
