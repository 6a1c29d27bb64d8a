"""What usage refuses a call for, each with its reason (ALL-2)."""

from datetime import timedelta

from services.runtime.failure import Precondition, Unavailable


class ReusedId(Precondition):
    reason = "OPERATION_ID_REUSED"

    def __init__(self) -> None:
        super().__init__("this operation_id came before with another claim")


class ReleasedClaim(Precondition):
    reason = "CLAIM_RELEASED"

    def __init__(self, attempt: int) -> None:
        super().__init__(
            f"the attempts of this operation_id up to {attempt} were released",
            metadata={"released_attempt": str(attempt)},
        )


class BusyUser(Unavailable):
    """Another transaction holds rows of this user; the call changed nothing (USE-9)."""

    reason = "USER_BUSY"

    def __init__(self) -> None:
        super().__init__(
            "another transaction holds the counts of this user",
            retry_after=timedelta(milliseconds=500),
        )
