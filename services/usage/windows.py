"""The abuse windows, in Valkey by one script (USE-6)."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from uuid import UUID

from redis.exceptions import NoScriptError

from services.runtime.valkey import Valkey, outages_told
from services.usage.nouns import Claim, Kind, OverWindow, Thresholds

GRANTED, RUNNING, STARTED, KNOWN = range(4)
KINDS = {Kind.QUERY: 1, Kind.MODIFY: 2}
Entries = Sequence[tuple[datetime, UUID]]


@dataclass(frozen=True)
class Verdict:
    """What the windows say, and how full they are."""

    refused: OverWindow | None
    cool_down_until: datetime | None
    queries: int
    modifies: int


@dataclass(frozen=True)
class Past:
    """What Postgres knows of a user's windows."""

    queries: Entries = ()
    modifies: Entries = ()
    cool_down_until: datetime | None = None

    def packed(self) -> bytes:
        """As the script keeps it."""
        until = milliseconds(self.cool_down_until) if self.cool_down_until else 0.0
        parts = [struct.pack(">d", until)]
        for entries in (self.queries, self.modifies):
            kept = list(entries)[-255:]
            parts.append(struct.pack(">B", len(kept)))
            parts += [struct.pack(">dI", milliseconds(at), mark_of(id_)) for at, id_ in kept]
        return b"".join(parts)


def milliseconds(moment: datetime) -> float:
    return moment.timestamp() * 1000


def mark_of(operation_id: UUID) -> int:
    """What tells an operation's entry from others: within a window of a dozen, four bytes do."""
    return operation_id.int & 0xFFFFFFFF


class Windows:
    """Asks the script, for many claims in one round trip. Every method raises StoreUnavailable."""

    def __init__(
        self,
        valkey: Valkey,
        thresholds: Thresholds,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._valkey = valkey
        self._thresholds = thresholds
        self._now = now
        source = resources.files("services.usage") / "windows.lua"
        self._source = source.read_text(encoding="utf-8")
        self._digest = ""

    async def claim(
        self, claims: Sequence[Claim], pasts: Mapping[UUID, Past] | None = None
    ) -> list[Verdict]:
        """Enter each claim that fits, in their order; peek for those that only ask."""
        commands = [
            self._command(
                "peek" if each.validate_only else "claim",
                each.user_id,
                each.kind,
                each.operation_id,
                pasts.get(each.user_id) if pasts else None,
            )
            for each in claims
        ]
        answers = await self._run(commands)
        return [self._verdict(answer) for answer in answers]

    async def undo(self, claims: Sequence[Claim]) -> None:
        """Take entries out again: their claims were refused for another reason."""
        await self._run(
            [self._command("undo", each.user_id, each.kind, each.operation_id) for each in claims]
        )

    async def lift(self, user_id: UUID) -> None:
        """End a cool-down that a claim of old has started by mistake."""
        await self._run([self._command("lift", user_id, Kind.QUERY, UUID(int=0))])

    async def peek(self, user_id: UUID) -> Verdict:
        command = self._command("peek", user_id, Kind.QUERY, UUID(int=0))
        return self._verdict((await self._run([command]))[0])

    async def clear(self, user_id: UUID) -> datetime | None:
        """Empty both windows; when the cool-down would have ended, if one ran."""
        command = self._command("clear", user_id, Kind.QUERY, UUID(int=0))
        return self._verdict((await self._run([command]))[0]).cool_down_until

    def _command(
        self, what: str, user_id: UUID, kind: Kind, operation_id: UUID, past: Past | None = None
    ) -> tuple[str | bytes | int, ...]:
        of = self._thresholds
        return (
            f"usage:window:{{{user_id}}}",
            what,
            KINDS[kind],
            mark_of(operation_id),
            int(milliseconds(self._now())) if self._now else 0,
            of.queries,
            int(of.query_window.total_seconds() * 1000),
            of.modifies,
            int(of.modify_window.total_seconds() * 1000),
            int(of.cool_down.total_seconds() * 1000),
            past.packed() if past else b"",
        )

    async def _run(
        self, commands: Sequence[tuple[str | bytes | int, ...]]
    ) -> list[Sequence[bytes | int]]:
        if not commands:
            return []
        with outages_told():
            if not self._digest:
                await self._load()
            try:
                return await self._pipelined(commands)
            except NoScriptError:  # the server was restarted: nothing of the batch has run
                await self._load()
                return await self._pipelined(commands)

    async def _load(self) -> None:
        self._digest = str(await self._valkey.client.script_load(self._source))

    async def _pipelined(
        self, commands: Sequence[tuple[str | bytes | int, ...]]
    ) -> list[Sequence[bytes | int]]:
        pipeline = self._valkey.client.pipeline(transaction=False)
        for command in commands:
            pipeline.evalsha(self._digest, 1, *command)
        answers: list[Sequence[bytes | int]] = await pipeline.execute()
        return answers

    def _verdict(self, answer: Sequence[bytes | int]) -> Verdict:
        verdict, until_text, queries, modifies, kind_number = answer
        until_ms = float(until_text)
        until = datetime.fromtimestamp(until_ms / 1000, UTC) if until_ms else None
        kind = Kind.QUERY if kind_number == 1 else Kind.MODIFY
        refused = None
        if verdict in (RUNNING, STARTED) and until is not None:
            started = verdict == STARTED
            refused = OverWindow(
                kind if started else None,
                self._thresholds.limit(kind),
                self._thresholds.window(kind),
                until,
                started,
            )
        return Verdict(refused, until, int(queries), int(modifies))


def verdict_from(past: Past, claim: Claim, thresholds: Thresholds, now: datetime) -> Verdict:
    """What the windows say by what Postgres has: for when Valkey does not answer (USE-7)."""
    entries = past.queries if claim.kind is Kind.QUERY else past.modifies
    recent = [
        (at, operation_id)
        for at, operation_id in entries
        if at > now - thresholds.window(claim.kind)
    ]
    until = past.cool_down_until if past.cool_down_until and past.cool_down_until > now else None
    limit, window = thresholds.limit(claim.kind), thresholds.window(claim.kind)
    refused = None
    if claim.operation_id in {operation_id for _, operation_id in recent}:
        pass
    elif until is not None:
        refused = OverWindow(None, limit, window, until, started=False)
    elif len(recent) >= limit:
        until = now + thresholds.cool_down
        refused = OverWindow(claim.kind, limit, window, until, started=True)
    return Verdict(refused, until, len(past.queries), len(past.modifies))
