"""The reasons that the service gives are those that its contract names (ALL-2)."""

from collections.abc import Iterator

from gatehouse.entitlements.v1 import entitlements_pb2 as pb

from services.entitlements import failures
from services.runtime.failure import Failure
from services.runtime.recording import LogUnavailable


def of_this_service() -> Iterator[type[Failure]]:
    for each in vars(failures).values():
        if isinstance(each, type) and each.__module__ == failures.__name__:
            yield each
    yield LogUnavailable


def test_every_reason_is_in_the_contract() -> None:
    """ALL-2."""
    names = pb.ErrorReason.DESCRIPTOR.values_by_name
    known = {name.removeprefix("ERROR_REASON_") for name in names}
    assert {each.reason for each in of_this_service()} <= known
