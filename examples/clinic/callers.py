"""Whose records a caller reaches: those of the clinic that the token names (ALL-3)."""

from uuid import UUID

from services.runtime.failure import Denied
from services.runtime.identity import Caller


def clinic_of(caller: Caller) -> UUID:
    """The caller's clinic. Raises Denied for a token that names none."""
    try:
        return UUID(caller.clinic_id)
    except ValueError:
        raise Denied("the token names no clinic") from None
