"""Why this service refuses, beyond what every service has."""

import grpc

from services.runtime.failure import AlreadyExists, Conflict, Failure, Precondition


class EtagMismatch(Conflict):
    reason = "ETAG_MISMATCH"

    def __init__(self, noun: str) -> None:
        super().__init__(f"the {noun} was changed since it was read: read it again")


class NameTaken(AlreadyExists):
    def __init__(self, noun: str) -> None:
        super().__init__(f"there is a {noun} with this name already")


class RequestIdTaken(AlreadyExists):
    def __init__(self) -> None:
        super().__init__("this request_id has made something else before: use a new one")


class PlanInUse(Precondition):
    reason = "PLAN_IN_USE"


class RevisionTooOld(Failure):
    code = grpc.StatusCode.OUT_OF_RANGE
    reason = "REVISION_TOO_OLD"

    def __init__(self, after: int, current: int) -> None:
        super().__init__(
            f"the changes from revision {after} to {current} cannot be followed: "
            "start over from Snapshot"
        )


class RevisionLost(Failure):
    code = grpc.StatusCode.OUT_OF_RANGE
    reason = "REVISION_LOST"

    def __init__(self, number: int) -> None:
        super().__init__(
            f"revision {number} is not of this store's history: drop what is known, and start over"
        )


class RevisionNotReached(Failure):
    code = grpc.StatusCode.UNAVAILABLE
    reason = "REVISION_NOT_REACHED"
