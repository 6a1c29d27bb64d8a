"""The rules of docs/rules.md and the tests that name them, held against each other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTED = re.compile(r"^\| ([A-Z]{3}-\d+) \|", re.MULTILINE)
NAMED = re.compile(r"\b(?:ALL|DOM|ENT|GAT|LOG|ROU|USE)-\d+\b")


def docstrings() -> Iterator[str]:
    """Of every test, and of every file of tests."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_test and node.name.startswith("test_"):
                yield ast.get_docstring(node) or ""


def test_every_rule_has_a_test_and_every_test_a_known_rule() -> None:
    """What the documents promise is proven, and nothing is proven that they do not promise."""
    listed = set(LISTED.findall((ROOT / "docs" / "rules.md").read_text(encoding="utf-8")))
    named = {rule for text in docstrings() for rule in NAMED.findall(text)}
    assert len(listed) > 40
    assert listed - named == set(), "rules without a test"
    assert named - listed == set(), "tests of rules that are not listed"
