"""The contracts of Gatehouse, out of the descriptors that the generated code registers."""

import importlib

from gatehouse import domain, entitlements, gateway, oplog, router, usage
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from services.runtime.roles import roles_in

ROLES = ("user", "admin", "service", "auditor")
PACKAGES = (gateway, entitlements, usage, router, oplog, domain)

# Of a router that is asked for everything but an answer of a model.
CATALOGUE = """
version: 1
currency: USD
providers: {nobody: {base_url: "http://127.0.0.1:1/v1"}}
models:
  basic:
    tier: MODEL_BASIC
    provider: nobody
    provider_model: none
    context_tokens: 1000
    max_output_tokens: 100
    prices: {input: 0, output: 0}
"""


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
