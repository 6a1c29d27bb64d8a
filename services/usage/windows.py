"""The abuse windows, in Valkey: who is in a cool-down, or about to be (USE-6).

What is here is a copy of what the ledger's receipts say, kept where a flood of requests does no
harm: it says who is likely to be refused. It may lack something, after a restart or an outage, or
have too much, and then only costs the ledger more work (USE-7).
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from uuid import UUID

from redis.exceptions import NoScriptError, RedisError

from services.runtime.failure import StoreUnavailable
from services.runtime.valkey import Valkey, outages_told
from services.usage.nouns import Kind, Thresholds, Window

ANSWER_SECONDS = 0.25
# After it did not answer it is left alone for a while, so that only one batch waits for it.
REST_SECONDS = 1.0
NO_END = 0.0


@dataclass
class Entries:
    """Entries of a user's windows, as times and the ids of their operations."""

    queries: list[tuple[datetime, UUID]] = field(default_factory=list)
    modifies: list[tuple[datetime, UUID]] = field(default_factory=list)
    cool_down_until: datetime | None = None

    def of(self, kind: Kind) -> list[tuple[datetime, UUID]]:
        return self.queries if kind is Kind.QUERY else self.modifies

    def packed(self) -> bytes:
        """As the script keeps it."""
        until = milliseconds(self.cool_down_until) if self.cool_down_until else NO_END
        parts = [struct.pack(">d", until)]
        for entries in (self.queries, self.modifies):
            kept = entries[-255:]
            parts.append(struct.pack(">B", len(kept)))
            parts += [struct.pack(">dI", milliseconds(at), mark_of(id_)) for at, id_ in kept]
        return b"".join(parts)


def suspected(packed: bytes, at: datetime, thresholds: Thresholds) -> Window:
    """How full the windows of a user are at a moment; empty where it is not the script's."""
    try:
        return unpacked(packed, at, thresholds)
    except (struct.error, IndexError, ValueError, OverflowError):
        return Window()


def unpacked(packed: bytes, at: datetime, thresholds: Thresholds) -> Window:
    """How full the windows of a user are at a moment, by what the script keeps."""
    (until,) = struct.unpack_from(">d", packed)
    now, place, counts = milliseconds(at), 8, []
    for kind in Kind:
        since = now - in_milliseconds(thresholds.window(kind))
        times = [
            struct.unpack_from(">d", packed, place + 1 + 12 * entry)[0]
            for entry in range(packed[place])
        ]
        counts.append(sum(time > since for time in times))
        place += 1 + 12 * len(times)
    end = datetime.fromtimestamp(until / 1000, UTC) if until > now else None
    return Window(counts[0], counts[1], end)


def milliseconds(moment: datetime) -> float:
    return moment.timestamp() * 1000


def in_milliseconds(span: timedelta) -> float:
    return span.total_seconds() * 1000


def mark_of(operation_id: UUID) -> int:
    """What tells an operation's entry from others: within a window of a dozen, four bytes do."""
    return operation_id.int & 0xFFFFFFFF


class Windows:
    """The copy of the windows. Every method raises StoreUnavailable.

    *here* is about what the time is: near enough for what is only a suspicion.
    """

    def __init__(
        self,
        valkey: Valkey,
        thresholds: Thresholds,
        here: Callable[[], datetime],
    ) -> None:
        self._valkey = valkey
        self._thresholds = thresholds
        self._here = here
        source = resources.files("services.usage") / "windows.lua"
        self._source = source.read_text(encoding="utf-8")
        self._digest = ""
        self._resting_until = float("-inf")

    async def look(self, users: Collection[UUID]) -> dict[UUID, Window]:
        """How full the windows of *users* are; those without any left out."""
        async with self._answering():
            pipeline = self._valkey.client.pipeline(transaction=False)
            for user_id in users:
                pipeline.get(key_of(user_id))
            found = await pipeline.execute()
        at = self._here()
        return {
            user_id: suspected(packed, at, self._thresholds)
            for user_id, packed in zip(users, found, strict=True)
            if packed
        }

    async def join(self, entries: Mapping[UUID, Entries], at: datetime) -> None:
        """Add *entries* to the windows of their users, each once however often it is added."""
        if not entries:
            return
        of = self._thresholds
        settings = (
            int(milliseconds(at)),
            int(in_milliseconds(of.query_window)),
            of.queries,
            int(in_milliseconds(of.modify_window)),
            of.modifies,
        )
        commands = [
            (key_of(user_id), *settings, each.packed()) for user_id, each in entries.items()
        ]
        async with self._answering():
            if not self._digest:
                await self._load()
            try:
                await self._pipelined(commands)
            except NoScriptError:  # the server was restarted: nothing of it has run
                await self._load()
                await self._pipelined(commands)

    async def clear(self, user_id: UUID) -> None:
        """Empty both windows, and forget the cool-down."""
        async with self._answering():
            await self._valkey.client.delete(key_of(user_id))

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Around what asks the server, which has so long to answer."""
        clock = asyncio.get_running_loop().time
        if clock() < self._resting_until:
            raise StoreUnavailable("the windows do not answer")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with outages_told():
                    yield
        except (StoreUnavailable, RedisError, TimeoutError):
            self._resting_until = clock() + REST_SECONDS
            raise StoreUnavailable("the windows do not answer") from None

    async def _load(self) -> None:
        self._digest = str(await self._valkey.client.script_load(self._source))

    async def _pipelined(self, commands: Sequence[tuple[str | bytes | int, ...]]) -> None:
        pipeline = self._valkey.client.pipeline(transaction=False)
        for command in commands:
            pipeline.evalsha(self._digest, 1, *command)
        await pipeline.execute()


def key_of(user_id: UUID) -> str:
    """The braces keep a user's key in one place of a cluster, whatever else it may get."""
    return f"usage:window:{{{user_id}}}"
