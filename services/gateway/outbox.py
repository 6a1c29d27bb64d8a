"""Brings to the log what was answered before the log had it (LOG-2): many together, soon after.

What is in here stands in the store as well, from where another replica brings it to the log where
this one does not come to it any more.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field

from opentelemetry import context as otel_context
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.gateway.requests import KeptAnswer, Requests
from services.runtime.failure import Failure
from services.runtime.recording import PATIENCE_SECONDS, Recorder
from services.runtime.telemetry import Telemetry

# So long what is answered is gathered: nobody waits for it, and each Export costs much the same,
# as does to say that it is logged.
GATHER_SECONDS = 0.1
MOST_TOGETHER = 100
# So many answers may be on their way to the log at once.
MOST_WAITING = 500


@dataclass(frozen=True)
class Unlogged:
    """A request that was answered: how its row is kept, and what the log is to get of it."""

    kept: KeptAnswer
    spans: Sequence[Span]
    trace: otel_context.Context = field(default_factory=otel_context.get_current)


@dataclass
class Batch:
    """What goes together, and whether it has gone."""

    items: list[Unlogged] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Outbox:
    """Answers on their way to the log."""

    def __init__(self, requests: Requests, recorder: Recorder, telemetry: Telemetry) -> None:
        self._requests = requests
        self._recorder = recorder
        self._telemetry = telemetry
        self._waiting: list[Batch] = []
        self._last = Batch()
        self._last.gone.set()
        self._going: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._waiting) * MOST_TOGETHER >= MOST_WAITING

    def add(self, unlogged: Unlogged) -> None:
        if not self._waiting or len(self._last.items) == MOST_TOGETHER:
            self._last = Batch()
            self._waiting.append(self._last)
        self._last.items.append(unlogged)
        if self._going is None:  # in a context of its own: it is nobody's call
            self._going = asyncio.create_task(self._go(), context=Context())

    async def brought(self) -> None:
        """Return once the log has what was added until now, or has had its time."""
        self._hurry.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._last.gone.wait()

    async def drain(self) -> None:
        """Return once the log has all of it, or the disk does."""
        self._hurry.set()
        if self._going is not None:
            await asyncio.wait({self._going})

    async def _go(self) -> None:
        try:
            while self._waiting:
                if len(self._waiting) == 1:
                    await self._gathered()
                await self._bring(self._waiting.pop(0))
        finally:
            self._going = None

    async def _gathered(self) -> None:
        """Return after GATHER_SECONDS, or once somebody asks for what was added until now."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._hurry.wait()
        self._hurry.clear()

    async def _bring(self, batch: Batch) -> None:
        """What breaks on the way is brought by whoever finds the rows left behind."""
        log, items = self._telemetry.log, batch.items
        try:
            with self._telemetry.together("log answers", [each.trace for each in items]):
                await self._recorder.send([span for each in items for span in each.spans])
                await self._requests.logged([each.kept for each in items])
        except Failure as failure:
            log.warning("rows of what is logged stay for a while: %s", failure.reason)
        except Exception as error:
            log.error("answers could not be brought to the log", exc_info=error)
        finally:
            batch.gone.set()
