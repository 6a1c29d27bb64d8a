"""PromQL, taken apart: which series an expression reads, and by which labels."""

import re
from typing import Any

import promql_parser

from tests.conftest import ROOT
from tests.measurements import documented

HANDBOOK = (ROOT / "docs" / "operations.md").read_text()
# Prometheus' own, and what tells replicas apart.
LABELS = {"job", "instance", "le"}


def measured() -> set[str]:
    """Every series that the handbook's measurements have in Prometheus."""
    return {name for each in documented().values() for name in each.in_prometheus}


def known_labels() -> set[str]:
    written = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", HANDBOOK)
    return LABELS | {name.replace(".", "_") for name in written}


def grouped(expression: str) -> set[str]:
    """By which labels its results are told apart, where something is put together."""
    return {
        label
        for part in parts(expression)
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None
        for label in part.modifier.labels
    }


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
