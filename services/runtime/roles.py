"""Which roles may call a method: what its contract says, and where that says nothing, nobody."""

from gatehouse.rules.v1 import rules_pb2 as rules
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

# Contracts of others have no rules of ours; their servicers ask for a role themselves.
OURS = "gatehouse."


def roles_of(method: str) -> frozenset[str] | None:
    """The roles, by their names in tokens, that may call *method*; None for a contract of others.

    *method* is `service/method`; one that is served is in the pool of descriptors.
    """
    if not method.startswith(OURS):
        return None
    service, _, name = method.partition("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    return frozenset(roles_in(found))


def roles_in(method: MethodDescriptor) -> list[str]:
    return [name_of(role) for role in method.GetOptions().Extensions[rules.roles]]


def name_of(role: "rules.Role.ValueType") -> str:
    return rules.Role.Name(role).removeprefix("ROLE_").lower()
