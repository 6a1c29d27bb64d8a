"""Every reason that a service gives is one that its contract names."""

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.router.v1 import router_pb2
from gatehouse.usage.v1 import usage_pb2

from services.runtime import failure as runtime
from services.runtime.failure import Failure

CONTRACTS = {
    "services.entitlements": [entitlements_pb2],
    "services.usage": [usage_pb2],
    "services.router": [router_pb2],
    # In its reports there are reasons of domains too.
    "services.gateway": [gateway_pb2, domain_pb2],
    "services.oplog": [oplog_pb2],
    "examples.clinic": [domain_pb2],
}
# Never given as they are: whoever raises one says which reason it is.
GENERAL = {"FAILED_PRECONDITION", "CANCELLED"}


def reasons_of(package: str) -> Iterator[str]:
    """The reasons of the classes that a service's modules define."""
    folder = importlib.import_module(package).__path__
    for found in pkgutil.walk_packages(folder, f"{package}."):
        if found.name.endswith("__main__"):
            continue
        for each in vars(importlib.import_module(found.name)).values():
            if isinstance(each, type) and issubclass(each, Failure):
                yield each.reason


@pytest.mark.parametrize("package", CONTRACTS)
def test_every_reason_is_in_the_contract(package: str) -> None:
    """ALL-2: a client that knows the protos knows each reason."""
    names = [
        name for each in CONTRACTS[package] for name in each.ErrorReason.DESCRIPTOR.values_by_name
    ]
    known = {name.removeprefix("ERROR_REASON_") for name in names}
    shared = {
        each.reason
        for each in vars(runtime).values()
        if isinstance(each, type) and issubclass(each, Failure)
    }
    assert (set(reasons_of(package)) | shared) - GENERAL - known == set()
