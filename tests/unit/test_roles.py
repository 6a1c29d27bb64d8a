"""Who may call what: every contract says it, and the page for people says the same (ALL-3)."""

import pytest
from google.protobuf.descriptor import MethodDescriptor

from services.runtime.identity import ROLES as KNOWN
from services.runtime.roles import roles_in, roles_of
from tests.conftest import ROOT
from tests.contracts import PACKAGES, ROLES, contracts, methods, row


def test_every_contract_is_looked_at() -> None:
    """ALL-3: one that is added is not forgotten here."""
    files = ROOT.glob("protos/gatehouse/*/v1/*.proto")
    with_methods = {each.parent.parent.name for each in files if "\nservice " in each.read_text()}
    assert with_methods == {each.__name__.rpartition(".")[2] for each in PACKAGES}
    assert set(ROLES) == KNOWN


@pytest.mark.parametrize("method", methods(), ids=lambda each: each.full_name)
def test_every_method_says_who_may_call_it(method: MethodDescriptor) -> None:
    """ALL-3: a new one without a rule is nobody's."""
    told = roles_in(method)
    assert told
    assert len(told) == len(set(told))
    assert set(told) <= KNOWN
    assert roles_of(f"{method.containing_service.full_name}/{method.name}") == set(told)


def test_the_page_says_what_the_contracts_say() -> None:
    """ALL-3: docs/roles.md has each method, and no other."""
    text = (ROOT / "docs" / "roles.md").read_text()
    sections = dict(each.split("\n", 1) for each in text.split("\n## ")[1:])
    sections.pop("Contracts of others")
    assert sections.keys() == {each.full_name for each in contracts()}
    for service in contracts():
        lines = sections[service.full_name].strip().splitlines()
        assert lines[2:] == [row(method) for method in service.methods]


def test_a_contract_of_others_has_no_rules_of_ours() -> None:
    """ALL-3: its servicer asks for a role itself."""
    assert roles_of("opentelemetry.proto.collector.trace.v1.TraceService/Export") is None
