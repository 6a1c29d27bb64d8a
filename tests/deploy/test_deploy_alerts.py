"""Alerts, held against what is measured and against the handbook (LOG-1, LOG-2, LOG-4)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.manifests import OVERLAYS
from tests.deploy.promql import HANDBOOK, grouped, known_labels, labels, measured, series

COMPONENTS = ROOT / "deploy" / "k8s" / "components"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((COMPONENTS / "alerts" / "rules.yaml").read_text())["spec"][
        "groups"
    ]
    for rule in group["rules"]
]


named = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


@named
def test_an_alert_goes_by_what_is_measured(rule: dict[str, Any]) -> None:
    """LOG-1: by the names that the measurements of the handbook have in Prometheus; that each of
    these comes, and no other, is the contract tests' affair.
    """
    used = series(rule["expr"])
    assert used
    assert used <= measured()


@named
def test_an_alert_chooses_by_labels_that_there_are(rule: dict[str, Any]) -> None:
    assert labels(rule["expr"]) <= known_labels()
    in_words = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert in_words <= grouped(rule["expr"])


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
def test_alerts_and_dashboards_can_be_added_to_every_overlay(overlay: str, tmp_path: Path) -> None:
    """In the overlay's namespace, and with nothing else changed."""
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "namespace": "gatehouse",
                "resources": [os.path.relpath(OVERLAYS / overlay, tmp_path.resolve())],
                "components": [
                    os.path.relpath(COMPONENTS / name, tmp_path.resolve())
                    for name in ("alerts", "dashboards")
                ],
            }
        )
    )
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run(
        [kubectl, "kustomize", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    (added,) = [each for each in documents if each["kind"] == "PrometheusRule"]
    (shown,) = [each for each in documents if "dashboards" in each["metadata"]["name"]]
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert shown["metadata"]["namespace"] == "gatehouse"
    assert added["metadata"] == {"name": "gatehouse", "namespace": "gatehouse"}
    assert [r["alert"] for group in added["spec"]["groups"] for r in group["rules"]] == [
        rule["alert"] for rule in RULES
    ]


def test_prometheus_is_told_where_the_measurements_are() -> None:
    """LOG-1: at the collector's port, and by whom they are."""
    monitor = yaml.safe_load((COMPONENTS / "alerts" / "scrape.yaml").read_text())["spec"]
    documents = yaml.safe_load_all((COMPONENTS / "collector" / "collector.yaml").read_text())
    (service,) = [each for each in documents if each["kind"] == "Service"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert endpoint["honorLabels"] is True


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


CASES = yaml.safe_load((COMPONENTS / "alerts" / "rules.tests.yaml").read_text())["tests"]


def test_every_alert_is_tried_and_seen_to_fire() -> None:
    tried = [each for case in CASES for each in case["alert_rule_test"]]
    fired = {each["alertname"] for each in tried if each["exp_alerts"]}
    assert fired == {rule["alert"] for rule in RULES}


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    """LOG-1: as Prometheus itself evaluates them, over series as the services make them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on the PATH")
    spec = yaml.safe_load((COMPONENTS / "alerts" / "rules.yaml").read_text())["spec"]
    (tmp_path / "rules.groups.yaml").write_text(yaml.safe_dump(spec))
    cases = tmp_path / "rules.tests.yaml"
    cases.write_text((COMPONENTS / "alerts" / "rules.tests.yaml").read_text())
    done = subprocess.run(
        [promtool, "test", "rules", cases], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_tried_is_what_services_measure() -> None:
    for case in CASES:
        for each in case["input_series"]:
            assert series(each["series"]) <= measured()
            assert labels(each["series"]) <= known_labels()
