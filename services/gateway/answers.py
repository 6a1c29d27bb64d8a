"""Stores answers before they are given, so that the same request_id gives them again (GAT-2)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from google.protobuf.message import Message

from services.gateway.failures import Superseded
from services.gateway.outbox import Outbox, Unlogged
from services.gateway.replay import Lease
from services.gateway.requests import Requests
from services.gateway.settlement import export_of
from services.runtime.failure import Failure
from services.runtime.recording import RecordedOutcome, Recorder, outcome_span

# For how long storing an answer that was given is retried, how often, and when the service stops.
KEEP_SECONDS, KEEP_PAUSE_SECONDS, LAST_KEEP_SECONDS = 900.0, 0.1, 2.0


class Answers:
    """Stores answers. Where the store is down they are given all the same, and stored later."""

    def __init__(
        self, requests: Requests, outbox: Outbox, recorder: Recorder, log: logging.Logger
    ) -> None:
        self._requests = requests
        self._outbox = outbox
        self._recorder = recorder
        self._log = log
        self._keeping: set[asyncio.Task[None]] = set()

    async def store_read(
        self, lease: Lease, answer: Message, outcomes: Sequence[RecordedOutcome]
    ) -> None:
        """Store the answer of a request that only reads; the log gets *outcomes* soon after.

        What this replica does not bring to the log any more, another one does (LOG-2). Raises
        Superseded.
        """
        spans = [outcome_span(each) for each in outcomes]
        if not self._outbox.is_full:
            with suppress(Failure):
                content = answer.SerializeToString()
                kept = await self._requests.answered(lease, content, export_of(spans))
                if kept is None:
                    raise Superseded
                self._outbox.add(Unlogged(kept, spans))
                return
        await self._recorder.send(spans)
        await self.store(lease, answer)

    async def store(self, lease: Lease, answer: Message) -> None:
        """Store a final answer. Raises Superseded."""
        content = answer.SerializeToString()
        await self._store(partial(self._requests.finish, lease, content))

    async def store_unsettled(self, lease: Lease, answer: Message) -> None:
        """Store an answer whose counts or log are not settled: whoever comes next continues."""
        await self._store(partial(self._requests.settle_later, lease, answer))

    async def _store(self, store: Callable[[], Awaitable[bool]]) -> None:
        try:
            if not await store():
                raise Superseded
        except Failure as failure:
            self._log.warning("an answer could not be stored yet: %s", failure.reason)
            keeping = asyncio.create_task(self._store_later(store))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)

    async def _store_later(self, store: Callable[[], Awaitable[bool]]) -> None:
        """Store an answer that was given once the store is back.

        A retry is to find this one, and not what the domains say by then (GAT-2).
        """
        until = asyncio.get_running_loop().time() + KEEP_SECONDS
        try:
            while asyncio.get_running_loop().time() < until:
                await asyncio.sleep(KEEP_PAUSE_SECONDS)
                with suppress(Failure):
                    await store()
                    return
            self._log.error("an answer that was given could not be stored")
        except Exception as error:  # nobody awaits this task
            self._log.error("storing an answer later broke", exc_info=error)

    async def drain(self) -> None:
        """Return once the log has all answers, after a moment for those that are stored later."""
        await self._outbox.drain()
        if self._keeping:
            _, late = await asyncio.wait(self._keeping, timeout=LAST_KEEP_SECONDS)
            for task in late:
                task.cancel()
