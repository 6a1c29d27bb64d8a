"""Who may read what, and which plan counts: decisions alone, nothing is awaited here."""

from typing import TypeVar

from gatehouse.entitlements.v1 import entitlements_pb2 as pb

from services.runtime.failure import Denied
from services.runtime.identity import Caller

SYSTEM_DEFAULT = "basic"
READERS_OF_ANYONE = frozenset({"service", "admin"})

P = TypeVar("P")


def require_reader_of_clinic(caller: Caller, clinic_id: str) -> None:
    """Raise Denied unless *caller* belongs to that clinic, or is a service or an admin.

    The clinic of a user comes from the token alone (ALL-3): naming another one is no way to its
    default.
    """
    if clinic_id and clinic_id != caller.clinic_id and not caller.roles & READERS_OF_ANYONE:
        raise Denied("another clinic's plan needs the role service or admin")


def choose(
    user: P | None, clinic: P | None, basic: P | None
) -> "tuple[P, pb.Source.ValueType] | None":
    """The plan that counts and where it comes from (ENT-2), or None where there was none at all."""
    for plan, source in (
        (user, pb.SOURCE_USER),
        (clinic, pb.SOURCE_CLINIC_DEFAULT),
        (basic, pb.SOURCE_SYSTEM_DEFAULT),
    ):
        if plan is not None:
            return plan, source
    return None


def etag_stands(given: str, current: str | None) -> bool:
    """Whether a write naming the etag *given* may replace what has *current*, None for nothing."""
    return not given or given == current
