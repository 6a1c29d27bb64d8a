"""Prints the part of the lock file that some packages need, with its hashes.

    python runtime_lock.py LOCK PYPROJECT           what the services need, without any extra
    python runtime_lock.py LOCK PYPROJECT NAME...   what the packages NAME need

The lock file is one, for the services, the embedded suite and development. It says of every package
which others asked for it (`# via`), and that is enough to pick a part of it without an index and
without a second lock file that could drift from the first.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==")
PROJECT = re.compile(r"^gatehouse \(pyproject\.toml\)$")


@dataclass(frozen=True)
class Pinned:
    """A package of the lock file: its lines, and the names of those that asked for it."""

    name: str
    text: str
    asked_for_by: frozenset[str]


def canonical(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> list[Pinned]:
    """The packages of a lock file that uv wrote."""
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if PINNED.match(line):
            blocks.append([line])
        elif blocks and line.startswith(" "):
            blocks[-1].append(line)
    return [pinned_in(block) for block in blocks]


def pinned_in(block: list[str]) -> Pinned:
    found = PINNED.match(block[0])
    assert found is not None
    comments = [line.strip().lstrip("#").strip() for line in block if line.lstrip().startswith("#")]
    askers = [each.removeprefix("via").strip() for each in comments]
    return Pinned(
        canonical(found["name"]),
        "\n".join(line for line in block if not line.lstrip().startswith("#")),
        frozenset("" if PROJECT.match(each) else canonical(each) for each in askers if each),
    )


def needed(lock: Iterable[Pinned], roots: Iterable[str]) -> list[Pinned]:
    """What of *lock* the packages *roots* need, themselves included, in the lock's order."""
    lock = list(lock)
    names = {canonical(root) for root in roots}
    if missing := names - {each.name for each in lock}:
        raise SystemExit(f"the lock file has no {', '.join(sorted(missing))}")
    while more := {each.name for each in lock if each.asked_for_by & names} - names:
        names |= more
    return [each for each in lock if each.name in names]


def services_need(pyproject: str) -> list[str]:
    """The names of the packages that the project itself declares, extras left out."""
    declared = tomllib.loads(pyproject)["project"]["dependencies"]
    return [re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0] for each in declared]


def main(arguments: list[str]) -> None:
    lock, pyproject, *names = arguments
    roots = names or services_need(Path(pyproject).read_text())
    for each in needed(read_lock(Path(lock).read_text()), roots):
        sys.stdout.write(each.text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
