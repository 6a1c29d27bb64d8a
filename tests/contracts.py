"""The contracts of Gatehouse, out of the descriptors that the generated code registers."""

import importlib

from gatehouse import domain, entitlements, gateway, oplog, router, usage
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from services.runtime.roles import roles_in

ROLES = ("user", "admin", "service", "auditor")
PACKAGES = (gateway, entitlements, usage, router, oplog, domain)


def contracts() -> list[ServiceDescriptor]:
    """Every service of `protos/`."""
    found: list[ServiceDescriptor] = []
    for package in PACKAGES:
        name = package.__name__.rpartition(".")[2]
        module = importlib.import_module(f"{package.__name__}.v1.{name}_pb2")
        found += module.DESCRIPTOR.services_by_name.values()
    return found


def methods() -> list[MethodDescriptor]:
    return [method for service in contracts() for method in service.methods]


def row(method: MethodDescriptor) -> str:
    """The line of a method in docs/roles.md."""
    told = roles_in(method)
    cells = ["yes" if role in told else "" for role in ROLES]
    return f"| `{method.name}` | " + " | ".join(cells) + " |"
