"""Places in the history of changes, and whether a place is still of it (ENT-6)."""

from dataclasses import dataclass
from enum import Enum, auto

from gatehouse.entitlements.v1 import entitlements_pb2 as pb


@dataclass(frozen=True)
class Revision:
    """A number in one epoch of the history. An empty epoch with 0 names no place."""

    epoch: str
    number: int


class Standing(Enum):
    """What a store says of a revision."""

    REACHED = auto()
    """It is in the store's history."""
    AHEAD = auto()
    """Its epoch runs and has not come so far."""
    LOST = auto()
    """Its epoch ended before it: the store went on without it."""
    UNKNOWN = auto()
    """The store never had its epoch."""


def standing_of(wanted: Revision, current: Revision, last_of_epoch: int | None) -> Standing:
    """How *wanted* stands where *current* is the newest revision.

    *last_of_epoch* is where the epoch of *wanted* ended; None where the store does not know it as
    one of those before.
    """
    if wanted.epoch == current.epoch:
        return Standing.REACHED if wanted.number <= current.number else Standing.AHEAD
    if last_of_epoch is None:
        return Standing.UNKNOWN
    return Standing.REACHED if wanted.number <= last_of_epoch else Standing.LOST


def revision_from(message: pb.Revision) -> Revision | None:
    """The revision that a request names; None for none."""
    if not message.epoch and not message.number:
        return None
    return Revision(message.epoch, message.number)


def revision_to(revision: Revision) -> pb.Revision:
    return pb.Revision(epoch=revision.epoch, number=revision.number)
