"""What was done to a chain where it does not hold (LOG-4). Decides, and waits for nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gatehouse.oplog.v1 import oplog_pb2 as pb

from services.oplog.chain import link_hash
from services.oplog.postgres import Link

Tampering: TypeAlias = pb.Tampering.ValueType


@dataclass(frozen=True)
class Fault:
    """The first link that does not hold, and why."""

    tampering: Tampering
    position: int
    operation_id: str = ""
    seal_position: int = 0


def follows(previous: bytes, position: int, link: Link) -> bool:
    """Whether *link* was written at *position*, after the link whose hash is *previous*."""
    return link_hash(previous, position, link.recorded_at, link.span) == link.hash


def diagnosed(previous: bytes, position: int, links: Sequence[Link]) -> Fault:
    """What happened to the link at *position*, seen from those found there and after it.

    It is judged by where the hashes say that links belong. What is no longer to be found among
    *links* counts as changed or removed.
    """
    found = links[0] if links and links[0].position == position else None
    rightful = next((each for each in links if follows(previous, position, each)), None)
    if found is None:
        what = pb.TAMPERING_REORDERED if rightful else pb.TAMPERING_REMOVED
    elif rightful:
        genuine = belongs_elsewhere(found, rightful, links)
        what = pb.TAMPERING_REORDERED if genuine else pb.TAMPERING_INSERTED
    else:
        what = pb.TAMPERING_REMOVED if is_moved_up(links) else pb.TAMPERING_CHANGED
    named = found or rightful
    return Fault(what, position, str(named.span.operation_id) if named else "")


def belongs_elsewhere(link: Link, rightful: Link, links: Sequence[Link]) -> bool:
    """Whether *link* is one that the log wrote, at another place among *links*."""
    befores = [(each.position + 1, each.hash) for each in links]
    befores += [(each.position, rightful.hash) for each in links]
    return any(follows(previous, position, link) for position, previous in befores)


def is_moved_up(links: Sequence[Link]) -> bool:
    """Whether the links go on as they were written, only at earlier positions than then."""
    if len(links) < 2:
        return False
    first, second = links[:2]
    return any(follows(first.hash, second.position + by, second) for by in range(1, len(links) + 1))
