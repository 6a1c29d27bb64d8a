"""Walks the chain and names the first link that does not hold (LOG-4).

It reads some hundred links at a time, each in a transaction of its own: memory is bounded, and
neither writers nor retention ever wait for it. What is written meanwhile is not looked at: the head
that is read first says how far to go.
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from gatehouse.oplog.v1 import oplog_pb2 as pb

from services.oplog.diagnosis import Fault, diagnosed, follows
from services.oplog.postgres import Head, Link, Store
from services.oplog.projection import projected
from services.oplog.seals import Seal, Sealing
from services.runtime.identity import Caller

# Some 10 ms of work, in which nobody else is answered.
LINKS_AT_ONCE = 500
# The links among which one that is missed is looked for.
LINKS_TO_SEARCH = 1000
# What is younger is never dropped: the schema keeps to it.
YOUNGEST_DROPPED = timedelta(days=90)
# The links around will tell.
UNCLEAR = pb.TAMPERING_UNSPECIFIED


@dataclass
class Walk:
    """How far the chain holds, and how far there is to go."""

    head: Head
    position: int
    hash: bytes
    # Rewritten links are after this one: where the walk began, or the last seal that matched.
    doubtless: int
    # Links up to it are sealed, and are what was sealed.
    sealed: int = 0
    # When the oldest link was recorded, where retention has dropped older ones.
    trimmed_at: datetime | None = None
    # Whether it goes on from what retention has dropped, with nothing checked since.
    after_drop: bool = False
    checked: int = 0
    seals_checked: int = 0
    finished: bool = False
    fault: Fault | None = None

    def place(self) -> str:
        """Where the walk is, to go on from there."""
        return json.dumps(
            {
                "head": [*map(plain, astuple(self.head))],
                "at": [self.position, self.hash.hex(), self.doubtless, self.sealed],
                "trimmed_at": self.trimmed_at and self.trimmed_at.isoformat(),
                "after_drop": self.after_drop,
            },
            separators=(",", ":"),
        )

    @classmethod
    def at(cls, place: str) -> Self:
        found = json.loads(place)
        position, hash_, dropped_position, dropped_hash, seal = found["head"]
        reached, reached_hash, doubtless, sealed = found["at"]
        trimmed_at = found["trimmed_at"]
        return cls(
            Head(
                position, bytes.fromhex(hash_), dropped_position, bytes.fromhex(dropped_hash), seal
            ),
            reached,
            bytes.fromhex(reached_hash),
            doubtless,
            sealed,
            datetime.fromisoformat(trimmed_at) if trimmed_at else None,
            found["after_drop"],
        )

    def step(self, link: Link) -> None:
        self.position, self.hash, self.checked = link.position, link.hash, self.checked + 1

    def match(self, seal: Seal) -> None:
        self.doubtless = self.sealed = seal.position
        self.seals_checked += 1

    def answer(self) -> pb.VerifyChainResponse:
        response = pb.VerifyChainResponse(
            intact=self.fault is None,
            checked=self.checked,
            head=self.hash.hex(),
            position=self.position,
            last_position=self.head.position,
            seals_checked=self.seals_checked,
            sealed_position=self.sealed,
            dropped_position=self.head.dropped_position,
        )
        if self.fault is not None:
            response.broken.position = self.fault.position
            response.broken.operation_id = self.fault.operation_id
            response.broken.tampering = self.fault.tampering
            response.broken.seal_position = self.fault.seal_position
        return response


class Verification:
    """Checks links, the rows that they come to, and seals."""

    def __init__(self, store: Store, sealing: Sealing, caller: Caller, now: datetime) -> None:
        self._store = store
        self._sealing = sealing
        self._caller = caller
        self._now = now

    async def begun(self, start: datetime | None) -> Walk:
        """Just before the first link recorded from *start* on, or the oldest one kept."""
        head = await self._store.head(self._caller)
        first = await self._store.first_position(self._caller, start) if start else None
        if start is None or (first is not None and first <= head.dropped_position + 1):
            position = head.dropped_position
            return Walk(head, position, head.dropped_hash, position, after_drop=position > 0)
        if first is None:
            return Walk(head, head.position, head.hash, head.position)
        before = await self._store.hashes(self._caller, [first - 1])
        return Walk(head, first - 1, before.get(first - 1, b""), first - 1)

    async def proceed(self, walk: Walk, end: datetime | None, most: int | None) -> None:
        """Check *most* links recorded before *end*, or all; until there is a fault."""
        goal = walk.head.position if most is None else min(walk.head.position, walk.position + most)
        while walk.position < goal and walk.fault is None and not walk.finished:
            await self._some(walk, min(goal, walk.position + LINKS_AT_ONCE), end)
        if walk.fault is None and not walk.finished and walk.position >= walk.head.position:
            walk.finished = True
            if end is None:
                walk.fault = await self._fault_of_end(walk)

    async def _some(self, walk: Walk, last: int, end: datetime | None) -> None:
        """Up to the link at *last*."""
        begun = walk.position
        links = await self._store.links(self._caller, begun + 1, last)
        if walk.after_drop:
            walk.after_drop = False
            walk.trimmed_at = links[0].recorded_at if links else None
            walk.fault = await self._fault_of_drop(walk)
        seals = await self._seals(begun, last)
        if walk.fault is None:
            self._walk(walk, links, seals, last, end)
        if walk.fault is not None and await self._was_dropped_meanwhile(walk):
            return
        reached = walk.fault.position - 1 if walk.fault else walk.position
        stranger = await self._store.stranger(self._caller, begun + 1, reached)
        if stranger is not None:
            walk.fault = Fault(pb.TAMPERING_INSERTED, stranger[0], str(stranger[1]))
        elif walk.fault is not None and walk.fault.tampering == UNCLEAR:
            found = await self._store.links(
                self._caller, walk.position + 1, walk.position + LINKS_TO_SEARCH
            )
            walk.fault = diagnosed(walk.hash, walk.position + 1, found)

    def _walk(
        self,
        walk: Walk,
        links: Sequence[Link],
        seals: dict[int, list[str]],
        last: int,
        end: datetime | None,
    ) -> None:
        for link in links:
            walk.fault = fault_of(walk, link)
            if walk.fault is not None:
                return
            if end is not None and link.recorded_at >= end:
                walk.finished = True
                return
            walk.step(link)
            for text in seals.get(link.position, ()):
                walk.fault = self._fault_of_seal(walk, text)
                if walk.fault is not None:
                    return
        if walk.position < last:
            walk.fault = Fault(UNCLEAR, walk.position + 1)

    async def _seals(self, after: int, last: int) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        if self._sealing.checks:
            for position, text, _ in await self._store.seals(
                self._caller, after, last, LINKS_AT_ONCE
            ):
                found.setdefault(position, []).append(text)
        return found

    def _fault_of_seal(self, walk: Walk, text: str) -> Fault | None:
        """Whether what was sealed at the link that the walk has reached is what is there."""
        seal = self._sealing.read_if_signed(text)
        if seal is None or seal.position != walk.position:
            return Fault(pb.TAMPERING_SEAL_FORGED, walk.position, seal_position=walk.position)
        if seal.hash != walk.hash:
            return Fault(pb.TAMPERING_REWRITTEN, walk.doubtless + 1, seal_position=walk.position)
        walk.match(seal)
        return None

    async def _fault_of_drop(self, walk: Walk) -> Fault | None:
        """Whether retention dropped what is said to be dropped: whole quarters, none of them young.

        What was sealed last of it was recorded in an earlier quarter than the oldest link kept.
        """
        text = await self._store.seal_up_to(self._caller, walk.position)
        if text is None or not self._sealing.checks:
            return None
        seal = self._sealing.read_if_signed(text)
        if seal is None:
            return Fault(pb.TAMPERING_SEAL_FORGED, walk.position, seal_position=walk.position)
        if seal.position == walk.position and seal.hash != walk.hash:
            return Fault(pb.TAMPERING_REWRITTEN, walk.position, seal_position=walk.position)
        if seal.sealed_at >= quarter(walk.trimmed_at or self._now - YOUNGEST_DROPPED):
            return Fault(pb.TAMPERING_REMOVED, seal.position, seal_position=seal.position)
        return None

    async def _was_dropped_meanwhile(self, walk: Walk) -> bool:
        """Whether what is missing is what retention dropped since; then the walk goes on after."""
        head = await self._store.head(self._caller)
        if head.dropped_position <= walk.position:
            return False
        walk.head = head
        walk.position = walk.doubtless = head.dropped_position
        walk.hash, walk.fault, walk.after_drop = head.dropped_hash, None, True
        return True

    async def _fault_of_end(self, walk: Walk) -> Fault | None:
        """Whether the head, its seal and the rows know of no other links."""
        if walk.hash != walk.head.hash:
            return Fault(pb.TAMPERING_CHANGED, walk.position)
        fault = await self._fault_of_drop(walk) if walk.after_drop else None
        fault = fault or self._fault_of_newest_seal(walk)
        if fault is not None:
            return fault
        outsider = await self._store.outsider(self._caller)
        if outsider is not None:
            return Fault(pb.TAMPERING_INSERTED, outsider[0], str(outsider[1]))
        return None

    def _fault_of_newest_seal(self, walk: Walk) -> Fault | None:
        """It was written together with the head, and says what the head did."""
        if not walk.head.seal or not self._sealing.checks:
            return None
        seal = self._sealing.read_if_signed(walk.head.seal)
        if seal is None:
            return Fault(pb.TAMPERING_SEAL_FORGED, walk.position, seal_position=walk.position)
        if seal.position > walk.position:
            return Fault(pb.TAMPERING_REMOVED, walk.position + 1, seal_position=seal.position)
        if (seal.dropped_position, seal.dropped_hash) != (
            walk.head.dropped_position,
            walk.head.dropped_hash,
        ):
            return Fault(
                pb.TAMPERING_REMOVED, seal.dropped_position + 1, seal_position=seal.position
            )
        if walk.sealed < seal.position == walk.position:
            return self._fault_of_seal(walk, walk.head.seal)
        return None


async def verify(store: Store, sealing: Sealing, caller: Caller, now: datetime) -> Walk:
    """The whole chain, walked."""
    verifying = Verification(store, sealing, caller, now)
    walk = await verifying.begun(None)
    await verifying.proceed(walk, None, None)
    return walk


def fault_of(walk: Walk, link: Link) -> Fault | None:
    """What is wrong with the next link or its row, or None."""
    id_, expected = str(link.span.operation_id), walk.position + 1
    if link.position < expected:
        return Fault(pb.TAMPERING_INSERTED, link.position, id_)
    if link.position > expected or not follows(walk.hash, expected, link):
        return Fault(UNCLEAR, expected)
    tampering = fault_of_row(walk, link)
    return None if tampering is None else Fault(tampering, expected, id_)


def fault_of_row(walk: Walk, link: Link) -> pb.Tampering.ValueType | None:
    """What is wrong with the row of a link's operation, as far as this link can tell, or None.

    It is what one of its links says, and no other link of its says better.
    """
    row = link.row
    if row is None:
        began_before = walk.trimmed_at is not None and link.span.started_at < walk.trimmed_at
        return None if began_before else pb.TAMPERING_REMOVED
    told = projected(None, link.span, link.position)
    if row.position == link.position:
        return None if told == row else pb.TAMPERING_CHANGED
    # A row that was changed since the walk began may be ahead of it, never behind.
    return pb.TAMPERING_CHANGED if projected(row, link.span, link.position) else None


def plain(value: int | bytes | str) -> int | str:
    return value.hex() if isinstance(value, bytes) else value


def quarter(moment: datetime) -> datetime:
    """The beginning of the quarter of a year, by UTC."""
    moment = moment.astimezone(UTC)
    return datetime(moment.year, 3 * ((moment.month - 1) // 3) + 1, 1, tzinfo=UTC)


async def compared(
    store: Store, sealing: Sealing, caller: Caller, digests: Sequence[str], now: datetime
) -> list[pb.DigestComparison]:
    """Whether the log still holds what was sealed in *digests*, in their order."""
    seals = [sealing.read_if_signed(text) for text in digests]
    hashes = await store.hashes(caller, [seal.position for seal in seals if seal])
    head = await store.head(caller)
    oldest = await store.links(caller, head.dropped_position + 1, head.dropped_position + 1)
    kept_from = quarter(oldest[0].recorded_at if oldest else now - YOUNGEST_DROPPED)
    return [
        pb.DigestComparison(position=seal.position, match=match_of(seal, hashes, head, kept_from))
        if seal
        else pb.DigestComparison(match=pb.DIGEST_MATCH_FORGED)
        for seal in seals
    ]


def match_of(
    seal: Seal, hashes: dict[int, bytes], head: Head, kept_from: datetime
) -> pb.DigestMatch.ValueType:
    found = hashes.get(seal.position)
    if seal.position == head.dropped_position:
        found = head.dropped_hash
    if found is not None and found != seal.hash:
        return pb.DIGEST_MATCH_DIFFERS
    if seal.position <= head.dropped_position:
        is_old = seal.sealed_at < kept_from
        return pb.DIGEST_MATCH_DROPPED if is_old else pb.DIGEST_MATCH_MISSING
    return pb.DIGEST_MATCH_MISSING if found is None else pb.DIGEST_MATCH_HELD
