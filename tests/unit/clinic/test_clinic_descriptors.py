"""What the example says of itself agrees with what it does (DOM-1)."""

import re
from importlib import resources

import pytest

from examples.clinic.aggregates import METRICS
from examples.clinic.entities import ENTITIES, descriptors, fields_of, label_of
from examples.clinic.operations import REFERRING
from examples.clinic.states import NEXT
from services.entitlements.checks import descriptor_violations
from services.runtime.validation import compiled


def test_the_descriptors_pass_what_entitlements_checks() -> None:
    """DOM-1, ENT-3: they can be registered as they are."""
    assert sorted(descriptors()) == ["appointments", "clients", "finance"]
    for descriptor in descriptors().values():
        assert descriptor_violations(descriptor) == []
        found: list[tuple[str, str]] = []
        compiled(descriptor.DESCRIPTOR)(descriptor, "", found)
        assert found == []


def test_each_domain_s_metrics_are_those_that_it_computes() -> None:
    """DOM-1, GAT-8: the four templates, each in one domain."""
    for name, descriptor in descriptors().items():
        computed = sorted(metric for metric, of in METRICS.items() if of.domain == name)
        assert sorted(descriptor.metrics) == computed
    assert sorted(METRICS) == [
        "cancellation_rate",
        "engagement_rate",
        "no_show_rate",
        "overdue_ratio",
    ]


@pytest.mark.parametrize("name", list(ENTITIES))
def test_an_entity_is_described_as_it_is_kept(name: str) -> None:
    """DOM-1: in the domain that has it, with one label and columns for its fields."""
    entity = ENTITIES[name]
    described = descriptors()[entity.domain].entities
    assert name in [each.name for each in described]
    assert sum(bool(each.get("x-label")) for each in fields_of(name).values()) == 1
    assert label_of(name)
    laid_out = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (resources.files("examples.clinic") / "migrations").iterdir()
    )
    found = re.search(rf"CREATE TABLE clinic\.{entity.table} \((.*?)\n\);", laid_out, re.DOTALL)
    assert found
    table = found[1]
    for field in fields_of(name):
        assert field in entity.expressions or re.search(rf"\n    {field} ", table)


def test_each_status_of_a_schema_has_its_transitions() -> None:
    """DOM-2: a status added to a schema is either given and left by rule, or computed."""
    for name, transitions in NEXT.items():
        known = set(fields_of(name)["status"]["enum"]) - {"overdue"}
        assert set(transitions) == known
        assert all(nexts <= known for nexts in transitions.values())


def test_every_table_that_names_a_client_keeps_it_from_being_deleted() -> None:
    """DOM-2: one added later is not forgotten."""
    assert sorted(REFERRING) == sorted(
        entity.table for entity in ENTITIES.values() if entity.has_client
    )
