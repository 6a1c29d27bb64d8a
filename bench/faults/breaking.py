"""What the runs share: breaking one thing after another, and telling what was found."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

# As fast as a caller's channel finds a process that came back.
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
]
LONGEST_AWAY_SECONDS = 0.5

Fault = Callable[[float], Awaitable[None]]
"""Breaks something, and has it whole again after so many seconds, or a share of them."""


@dataclass
class Findings:
    """What was done, and what was found to be wrong."""

    seed: int
    calls: int = 0
    retries: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, int]:
        return {
            "calls answered": self.calls,
            "retries until then": self.retries,
            **self.counted(),
            **dict(sorted(self.faults.items())),
            "violations": len(self.violations),
        }

    def counted(self) -> dict[str, int]:
        """What a run of one kind counts besides."""
        return {}

    def broken(self, what: str) -> None:
        self.violations.append(what)

    def samples(self, most: int) -> list[str]:
        """Violations to show: *most* of them at most."""
        return self.violations[:most]


class Unsettled(Exception):
    """A call failed in a way in which none may; that is a violation already."""


async def breaking(
    faults: Mapping[str, Fault],
    every_seconds: float,
    chance: random.Random,
    findings: Findings,
    ends: float,
) -> None:
    """One of *faults* after another: each once, and then by chance until *ends* (monotonic).

    *every_seconds* lie between two, at random up to twice as many.
    """
    names = list(faults)
    order = list(names)
    while order or time.monotonic() < ends:
        await asyncio.sleep(chance.uniform(0.2, 2) * every_seconds)
        name = order.pop(0) if order else chance.choice(names)
        await faults[name](chance.uniform(0, LONGEST_AWAY_SECONDS))
        findings.faults[name] += 1
