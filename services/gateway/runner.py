"""Runs every counted request once, to its end, whoever hangs up meanwhile (GAT-2, GAT-7).

Execute, Analyze, StreamAnalyze and Recommend all pass here. A connection that is lost cancels
nothing: the work continues within its deadline, and a retry under the same request_id gets the
answer. Only Cancel cancels.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.admission import Claims
from services.gateway.failures import Superseded
from services.gateway.peers import Usage
from services.gateway.replay import Call, Lease, Orphaned, StoredAnswer
from services.gateway.requests import Requests
from services.gateway.settlement import Settlement
from services.runtime.calling import deadline_left, set_deadline
from services.runtime.failure import Failure

Answer = TypeVar("Answer", pb.ExecuteResponse, pb.AnalyzeResponse, pb.RecommendResponse)

# How long releasing the claims of a failed attempt may take before others do it.
RELEASE_SECONDS = 1.5


@dataclass(frozen=True)
class Attempt:
    """One attempt at a request, while its lease lasts."""

    lease: Lease
    claims: Claims
    # Set once Cancel asked for the request to stop.
    cancelled: asyncio.Event


class Runner:
    """Runs requests, and knows which ones run in this process."""

    def __init__(
        self,
        requests: Requests,
        usage: Usage,
        settlement: Settlement,
        log: logging.Logger,
        *,
        request_seconds: float,
    ) -> None:
        self._requests = requests
        self._usage = usage
        self._settlement = settlement
        self._log = log
        self._request_seconds = request_seconds
        self._running: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(
        self, call: Call, work: Callable[[Attempt], Awaitable[Answer]], kind: type[Answer]
    ) -> Answer:
        """Answer *call*: from store, or by *work*, which stores its answer before it returns.

        A *work* that raises has no answer: what it claimed is released, and the same request may
        come again. Raises what *work* raises, RequestIdReused, RequestInProgress,
        ConfirmationRefused, StoreUnavailable, DeadlineExceeded.
        """
        task = asyncio.create_task(self._run(call, work, kind))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        """Log what broke it: its caller may be gone, and then nobody else does."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Failure):
            self._log.error("a request broke", exc_info=error)

    async def drain(self) -> None:
        """Wait until everything that was begun has its end."""
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cancel(self, user_id: str, request_id: str) -> None:
        """Tell a request to stop, if it runs here."""
        for event in self._running.get((user_id, request_id), ()):
            event.set()

    async def _run(
        self, call: Call, work: Callable[[Attempt], Awaitable[Answer]], kind: type[Answer]
    ) -> Answer:
        set_deadline(deadline_left(self._request_seconds))
        with self._cancellable(call) as cancelled:
            while True:
                try:
                    return await self._attempt(call, work, kind, cancelled)
                except Superseded:
                    self._log.warning("a later attempt has taken a request over")

    @contextmanager
    def _cancellable(self, call: Call) -> Iterator[asyncio.Event]:
        cancelled, place = asyncio.Event(), (call.caller.user_id, call.request_id)
        self._running.setdefault(place, set()).add(cancelled)
        try:
            yield cancelled
        finally:
            self._running[place].discard(cancelled)
            if not self._running[place]:
                del self._running[place]

    async def _attempt(
        self,
        call: Call,
        work: Callable[[Attempt], Awaitable[Answer]],
        kind: type[Answer],
        cancelled: asyncio.Event,
    ) -> Answer:
        opened = await self._requests.open(call)
        if isinstance(opened, StoredAnswer):
            answer = kind.FromString(opened.content)
            answer.replayed = True
            return answer
        lease = opened.lease if isinstance(opened, Orphaned) else opened
        with self._requests.held(lease, cancelled):
            if isinstance(opened, Orphaned):  # only Execute changes anything
                recovered = await self._settlement.recover(opened)
                # The earlier call may have been answered although its answer could not be stored.
                recovered.replayed = True
                return recovered  # type: ignore[return-value]
            claims = Claims(
                self._usage,
                lease.caller.user_id,
                lease.use_id,
                lease.attempt,
                delivered=lease.delivered,
            )
            try:
                return await work(Attempt(lease, claims, cancelled))
            except Superseded:
                raise
            except BaseException:
                await self._abandon(lease, claims)
                raise

    async def _abandon(self, lease: Lease, claims: Claims) -> None:
        """Release what was claimed, then let the request be tried again.

        What cannot be released now stays in the store as an orphan, for a retry or the sweeper.
        """
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await claims.release_all()
            await self._requests.abandon(lease, was_counted=claims.was_counted)
        except (Failure, TimeoutError) as failure:
            reason = failure.reason if isinstance(failure, Failure) else "DEADLINE_EXCEEDED"
            self._log.warning("a request stays until its claims are released: %s", reason)
            with suppress(Failure):
                await self._requests.orphan(lease)
