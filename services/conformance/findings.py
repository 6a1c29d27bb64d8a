"""A check, and what became of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.conformance.subject import Subject


class Wrong(Exception):
    """The domain breaks the promise; the message says what was expected and what came."""


class NotTried(Exception):
    """The check needs what this domain does not offer, or was not given; the message says what."""


class Verdict(StrEnum):
    """What a check found."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_TRIED = "not tried"


Run = Callable[["Subject"], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """One promise of the contract. `run` raises Wrong where it is broken."""

    name: str
    promise: str
    run: Run


@dataclass(frozen=True)
class Finding:
    """What one check found; `told` says what was expected and what came, or what was lacking."""

    check: str
    promise: str
    verdict: Verdict
    told: str = ""


CHECKS: list[Check] = []


def check(name: str) -> Callable[[Run], Run]:
    """Make a function a check; its docstring is the promise."""

    def added(run: Run) -> Run:
        promise = " ".join((run.__doc__ or "").split())
        CHECKS.append(Check(name, promise, run))
        return run

    return added


def expect(holds: object, told: str) -> None:
    """Raises Wrong with *told* unless it holds."""
    if not holds:
        raise Wrong(told)


def named(names: Iterable[str]) -> list[Check]:
    """The checks whose names begin with one of *names*; all without any. Raises KeyError."""
    wanted = list(names)
    for each in wanted:
        if not any(check.name.startswith(each) for check in CHECKS):
            raise KeyError(each)
    return [
        check
        for check in CHECKS
        if not wanted or any(check.name.startswith(each) for each in wanted)
    ]
