"""Nothing of ours leaves anything in a session of Postgres (USE-9, ENT-5).

Kind: state that outlives a transaction. A pooler lends the session to somebody else next.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# What keeps something in a session, and the one file that may: it has a session of its own.
KEEPING = {
    r"set_config\([^()]*,\s*false\s*\)": None,
    r"\bSET (?:SESSION|ROLE|TIME ZONE|search_path)\b": None,
    r"[\"'(]\s*SET (?!LOCAL\b)[a-z_.]+\s*(?:=|TO)": None,
    r"\bpg_(?:try_)?advisory_lock\b": "services/runtime/migrations.py",
    r"\bLISTEN\b(?! *=| on|ING|_)": "services/runtime/connection.py",
    r"\bWITH HOLD\b|\bCREATE TEMP(?!.*ON COMMIT DROP)": None,
}
# They serve nobody: they start servers of their own, or work as a superuser.
LEFT_OUT = ("services/embedded", "services/cli", "services/conformance")


@pytest.mark.parametrize("pattern", KEEPING)
def test_no_statement_outlives_its_transaction(pattern: str) -> None:
    """USE-9: but where a session is known to be its own."""
    found = set()
    for folder in ("services", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            path = file.relative_to(ROOT).as_posix()
            if not path.startswith(LEFT_OUT) and re.search(pattern, statements_in(file)):
                found.add(path)
    assert found == ({KEEPING[pattern]} if KEEPING[pattern] else set())


def statements_in(file: Path) -> str:
    """The texts of *file*: what is in quotes on lines that are no comments."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    code = re.sub(r'^(\s*)(?:r|f)?"""(?:.|\n)*?"""\s*$', "", "\n".join(lines), flags=re.MULTILINE)
    return "\n".join(re.findall(r'"[^"\n]*"|"""(?:.|\n)*?"""', code))


def test_services_connect_through_the_pool_or_to_listen() -> None:
    """USE-9: another connection would have its own waits, and its own truth of the server."""
    connecting = set()
    for file in (ROOT / "services").rglob("*.py"):
        path = file.relative_to(ROOT).as_posix()
        if not path.startswith(LEFT_OUT) and re.search(
            r"Connection\.connect\(|psycopg\.connect\(", file.read_text()
        ):
            connecting.add(path)
    assert connecting == {
        "services/runtime/connection.py",
        "services/runtime/migrations.py",
        "services/runtime/postgres.py",
    }
