"""Looks after the log, and tells those who run it: what is open, and whether the chain holds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from gatehouse.oplog.v1 import oplog_pb2 as pb
from opentelemetry.metrics import CallbackOptions, Observation

from services.oplog.postgres import ITSELF, Open, Store
from services.oplog.seals import Sealing
from services.oplog.settings import Settings
from services.oplog.verification import verify
from services.runtime.failure import StoreUnavailable
from services.runtime.telemetry import Telemetry

LOOK_SECONDS = 15.0


# What is measured: the name after `gatehouse.oplog.`, its unit, its meaning.
MEASURED = (
    ("unsettled", "{operation}", "Operations whose outcome is late"),
    ("unsettled.age", "s", "How long the oldest of them waits for its outcome; 0 without one"),
    ("quarantine.size", "{span}", "Operation spans in quarantine; 1000 stands for more"),
    ("chain.intact", "", "Whether the chain held when this replica last walked it: 1, else 0"),
    ("chain.age", "s", "How long ago this replica walked the chain"),
)


@dataclass
class Findings:
    """What was found last; nothing of what has not been looked for yet."""

    open: Open | None = None
    intact: bool | None = None
    verified_at: float = 0.0

    def measured(self) -> dict[str, float]:
        """By the names of MEASURED."""
        known: dict[str, float] = {}
        if self.open is not None:
            known["unsettled"] = self.open.unsettled
            known["unsettled.age"] = self.open.oldest_seconds
            known["quarantine.size"] = self.open.quarantined
        if self.intact is not None:
            known["chain.intact"] = int(self.intact)
            known["chain.age"] = time.monotonic() - self.verified_at
        return known


class Watch:
    """Keeps its findings fresh; they are measured whenever the measurements are read."""

    def __init__(
        self,
        store: Store,
        sealing: Sealing,
        settings: Settings,
        telemetry: Telemetry,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._sealing = sealing
        self._late_after = timedelta(seconds=settings.settle_after_seconds)
        self._log = telemetry.log
        self._now = now
        self.found = Findings()
        for name, unit, description in MEASURED:
            telemetry.meter.create_observable_gauge(
                f"gatehouse.oplog.{name}",
                [self._telling(name)],
                unit=unit,
                description=description,
            )

    def _telling(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def told(_: CallbackOptions) -> Iterable[Observation]:
            known = self.found.measured()
            return [Observation(known[name])] if name in known else []

        return told

    async def look(self) -> None:
        """Ask the store what is open. Raises StoreUnavailable."""
        self.found.open = await self._store.open(self._late_after)

    async def verify(self) -> None:
        """Walk the whole chain, unless another replica is at it. Raises StoreUnavailable."""
        async with self._store.alone("verification") as is_alone:
            if not is_alone:
                return
            walk = await verify(self._store, self._sealing, ITSELF, self._now())
        self.found.intact, self.found.verified_at = walk.fault is None, time.monotonic()
        if walk.fault is not None:
            what = pb.Tampering.Name(walk.fault.tampering).removeprefix("TAMPERING_").lower()
            self._log.error("the chain is broken at position %d: %s", walk.fault.position, what)

    async def repeat(self, work: Callable[[], Awaitable[None]], seconds: float) -> None:
        """*work* now and every so many *seconds*, for ever; run as a task."""
        while True:
            try:
                await work()
            except StoreUnavailable:
                self._log.debug("the store is away: nothing new is known of the log")
            except Exception as error:
                self._log.error("the log could not be looked after", exc_info=error)
            await asyncio.sleep(seconds)


@asynccontextmanager
async def open_watch(
    store: Store,
    sealing: Sealing,
    settings: Settings,
    telemetry: Telemetry,
    now: Callable[[], datetime],
) -> AsyncIterator[Watch]:
    """A watch at work."""
    watch = Watch(store, sealing, settings, telemetry, now)
    running = [
        asyncio.create_task(watch.repeat(watch.look, LOOK_SECONDS)),
        asyncio.create_task(watch.repeat(watch.verify, settings.verify_every_seconds)),
    ]
    try:
        yield watch
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
