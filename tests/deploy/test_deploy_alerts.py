"""Alerts, held against what is measured and against the handbook (LOG-1, LOG-2, LOG-4)."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.manifests import OVERLAYS
from tests.measurements import documented

COMPONENTS = ROOT / "deploy" / "k8s" / "components"
HANDBOOK = (ROOT / "docs" / "operations.md").read_text()
# Prometheus' own, and what tells replicas apart.
LABELS = {"job", "instance", "le"}
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((COMPONENTS / "alerts" / "rules.yaml").read_text())["spec"][
        "groups"
    ]
    for rule in group["rules"]
]


def parts(expression: str) -> list[Any]:
    """Every part of an expression. Raises ValueError where it is none."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), lambda part: not found.append(part))
    return found


def series(expression: str) -> set[str]:
    return {
        part.name for part in parts(expression) if isinstance(part, promql_parser.VectorSelector)
    }


def labels(expression: str) -> set[str]:
    """By which labels series are chosen and put together."""
    found: set[str] = set()
    for part in parts(expression):
        if isinstance(part, promql_parser.VectorSelector):
            found |= {each.name for each in part.matchers.matchers}
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            found |= set(part.modifier.labels)
    return found


named = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


@named
def test_an_alert_goes_by_what_is_measured(rule: dict[str, Any]) -> None:
    """LOG-1: by the names that the measurements of the handbook have in Prometheus; that each of
    these comes, and no other, is the contract tests' affair.
    """
    known = {name for each in documented().values() for name in each.in_prometheus}
    used = series(rule["expr"])
    assert used
    assert used <= known


@named
def test_an_alert_chooses_by_labels_that_there_are(rule: dict[str, Any]) -> None:
    written = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", HANDBOOK)
    told = {name.replace(".", "_") for name in written}
    assert labels(rule["expr"]) <= LABELS | told
    in_words = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    grouped = {
        label
        for part in parts(rule["expr"])
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None
        for label in part.modifier.labels
    }
    assert in_words <= grouped


@named
def test_an_alert_says_how_urgent_it_is_and_what_is_wrong(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert rule["annotations"]["summary"].endswith(".")
    assert re.fullmatch(r"[1-9][0-9]*[smh]", rule.get("for", "1m"))


def test_the_handbook_says_of_every_alert_what_to_do() -> None:
    told = re.findall(r"^\| `(Gatehouse\w+)` \| .+ \|$", HANDBOOK, re.MULTILINE)
    assert told == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("overlay", sorted(each.name for each in OVERLAYS.iterdir()))
def test_alerts_can_be_added_to_every_overlay(overlay: str, tmp_path: Path) -> None:
    """In the overlay's namespace, and with nothing else changed."""
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "namespace": "gatehouse",
                "resources": [os.path.relpath(OVERLAYS / overlay, tmp_path.resolve())],
                "components": [os.path.relpath(COMPONENTS / "alerts", tmp_path.resolve())],
            }
        )
    )
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (added,) = [
        each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "PrometheusRule"
    ]
    assert added["metadata"] == {"name": "gatehouse", "namespace": "gatehouse"}
    assert [r["alert"] for group in added["spec"]["groups"] for r in group["rules"]] == [
        rule["alert"] for rule in RULES
    ]


def test_the_collector_gives_prometheus_the_names_that_alerts_go_by() -> None:
    """With suffixes, from a port that there is, for the measurements of every service."""
    config = yaml.safe_load((COMPONENTS / "collector" / "config.yaml").read_text())
    exporter = config["exporters"]["prometheus"]
    assert exporter.get("add_metric_suffixes", True)
    assert "prometheus" in config["service"]["pipelines"]["metrics"]["exporters"]
    port = int(exporter["endpoint"].rpartition(":")[2])
    documents = yaml.safe_load_all((COMPONENTS / "collector" / "collector.yaml").read_text())
    (service,) = [each for each in documents if each["kind"] == "Service"]
    assert port in {each["port"] for each in service["spec"]["ports"]}
