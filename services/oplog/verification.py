"""Walks the chain and names the first link that does not hold (LOG-4)."""

from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from gatehouse.oplog.v1 import oplog_pb2 as pb

from services.oplog.chain import link_hash
from services.oplog.postgres import Head, Link, Store
from services.oplog.projection import Row, projected
from services.runtime.identity import Caller

Tampering: TypeAlias = pb.Tampering.ValueType


@dataclass
class Walk:
    """How far the chain holds: the last position that was checked, and its hash."""

    position: int
    hash: bytes
    checked: int = 0
    # When the oldest link was recorded, where retention has dropped older ones.
    trimmed_at: datetime | None = None

    def fault_of(self, link: Link) -> Tampering | None:
        """What is wrong with the next link, or None."""
        if link.position != self.position + 1:
            return pb.TAMPERING_REMOVED
        if link_hash(self.hash, link.position, link.recorded_at, link.span) != link.hash:
            return pb.TAMPERING_CHANGED
        if link.row is None:
            began_before = self.trimmed_at is not None and link.span.started_at < self.trimmed_at
            return None if began_before else pb.TAMPERING_REMOVED
        return fault_of_row(link.row, link)

    def step(self, link: Link) -> None:
        self.position, self.hash, self.checked = link.position, link.hash, self.checked + 1

    def broken(
        self, tampering: Tampering, position: int, id_: object = ""
    ) -> pb.VerifyChainResponse:
        return pb.VerifyChainResponse(
            intact=False,
            checked=self.checked,
            broken=pb.BrokenLink(position=position, operation_id=str(id_), tampering=tampering),
            head=self.hash.hex(),
        )


async def verify(
    store: Store, caller: Caller, start: datetime | None, end: datetime | None
) -> pb.VerifyChainResponse:
    """Check every link recorded from *start* to *end*, and the rows that they come to.

    What is written meanwhile is not looked at: the head that is read first says how far to go.
    """
    head = await store.head(caller)
    walk = await beginning(store, caller, head, start)
    async with aclosing(store.links(caller, walk.position + 1, head.position, end)) as links:
        async for link in links:
            if not walk.checked and head.dropped_position and start is None:
                walk.trimmed_at = link.recorded_at
            fault = walk.fault_of(link)
            if fault == pb.TAMPERING_REMOVED and link.row is not None:
                return walk.broken(fault, walk.position + 1)
            if fault is not None:
                return walk.broken(fault, link.position, link.span.operation_id)
            walk.step(link)
    if end is not None:
        return pb.VerifyChainResponse(intact=True, checked=walk.checked, head=walk.hash.hex())
    return await ended(store, caller, head, walk)


async def beginning(store: Store, caller: Caller, head: Head, start: datetime | None) -> Walk:
    """Just before the first link to be checked."""
    first = None if start is None else await store.first_position(caller, start)
    if start is None or (first is not None and first <= head.dropped_position + 1):
        return Walk(head.dropped_position, head.dropped_hash)
    if first is None:
        return Walk(head.position, head.hash)
    before = await store.hash_at(caller, first - 1)
    return Walk(first - 1, before if before is not None else b"")


async def ended(store: Store, caller: Caller, head: Head, walk: Walk) -> pb.VerifyChainResponse:
    """The answer once all links hold: whether the head and the rows know of no others."""
    if walk.position < head.position:
        return walk.broken(pb.TAMPERING_REMOVED, walk.position + 1)
    if walk.hash != head.hash:
        return walk.broken(pb.TAMPERING_CHANGED, walk.position)
    for position, operation_id in await store.strangers(caller):
        return walk.broken(pb.TAMPERING_INSERTED, position, operation_id)
    return pb.VerifyChainResponse(intact=True, checked=walk.checked, head=walk.hash.hex())


def fault_of_row(row: Row, link: Link) -> Tampering | None:
    """What is wrong with the row of a link's operation, as far as this link can tell, or None.

    It is what one of its links says, and no other link of its says better.
    """
    told = projected(None, link.span, link.position)
    if row.position == link.position:
        return None if told == row else pb.TAMPERING_CHANGED
    # A row that was changed since the walk began may be ahead of it, never behind.
    return pb.TAMPERING_CHANGED if projected(row, link.span, link.position) else None
