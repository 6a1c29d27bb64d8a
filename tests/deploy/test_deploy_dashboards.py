"""Dashboards, held against what is measured and against the alerts (LOG-1)."""

import itertools
import json
import re
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.promql import grouped, known_labels, labels, measured, series

COMPONENTS = ROOT / "deploy" / "k8s" / "components"
DASHBOARDS: dict[str, dict[str, Any]] = {
    each.name: json.loads(each.read_text())
    for each in sorted((COMPONENTS / "dashboards").glob("*.json"))
}
# What Grafana puts in place of its own words.
PLACEHOLDERS = {"$__rate_interval": "5m", "$job": ".*"}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
shown = pytest.mark.parametrize("panel", PANELS)


def expressions(panel: dict[str, Any]) -> list[str]:
    found = [str(target["expr"]) for target in panel["targets"]]
    for word, instead in PLACEHOLDERS.items():
        found = [each.replace(word, instead) for each in found]
    assert not any("$" in each for each in found)
    return found


def test_there_is_one_for_the_suite_and_one_for_the_log() -> None:
    told = yaml.safe_load((COMPONENTS / "dashboards" / "kustomization.yaml").read_text())
    (generated,) = told["configMapGenerator"]
    assert sorted(generated["files"]) == list(DASHBOARDS)
    assert len({each["uid"] for each in DASHBOARDS.values()}) == len(DASHBOARDS) == 2


@shown
def test_a_panel_shows_what_is_measured(panel: dict[str, Any]) -> None:
    """LOG-1: by the names and labels of the handbook, which the contract tests hold to the code."""
    for each in expressions(panel):
        assert series(each)
        assert series(each) <= measured()
        assert labels(each) <= known_labels()


@shown
def test_a_panel_tells_its_lines_apart_by_what_there_is(panel: dict[str, Any]) -> None:
    for target, expression in zip(panel["targets"], expressions(panel), strict=True):
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert named == grouped(expression) - {"le"} or named <= grouped(expression)
        assert target["datasource"]["uid"] == "${datasource}"


@shown
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_two_panels_are_in_one_place(name: str) -> None:
    panels = DASHBOARDS[name]["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    for one, other in itertools.combinations([each["gridPos"] for each in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_what_an_alert_goes_by_is_on_a_dashboard() -> None:
    """Whoever is woken finds the curve, under the alert's name."""
    rules = yaml.safe_load((COMPONENTS / "alerts" / "rules.yaml").read_text())
    alerts = {
        rule["alert"]: series(rule["expr"])
        for group in rules["spec"]["groups"]
        for rule in group["rules"]
    }
    seen: dict[str, set[str]] = {}
    for parameter in PANELS:
        panel = parameter.values[0]
        read = {name for each in expressions(panel) for name in series(each)}  # type: ignore[arg-type]
        for alert in re.findall(r"\bGatehouse\w+", panel["description"]):  # type: ignore[index]
            seen.setdefault(alert, set()).update(read)
    assert seen.keys() <= alerts.keys()
    for alert, used in alerts.items():
        assert used & seen.get(alert, set()), f"{alert} is on no dashboard"
