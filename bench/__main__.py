"""`python -m bench [GROUP…]`: measure, write bench/results/latest.json, and show it against the
bars.

README.md beside this file explains every name; a name that is written and not explained, or
explained and not written, ends the command with 1.
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench import gateway, interpret, oplog, platform, router, usage
from bench.measuring import say
from bench.stand import Stand, standing

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "latest.json"
# A line of a table in README.md: the name, its bar if it has one, and what it means.
EXPLAINED = re.compile(r"^\| `([a-z0-9_]+\.[a-z0-9_]+)` \| (?:([≥≤]) ([\d.]+)[^|]*)?\|", re.M)

Group = Callable[[Stand], Awaitable[dict[str, float]]]
# The interpreter comes first: it needs the machine and nothing else. The platform comes last, when
# every service has worked.
GROUPS: dict[str, Group] = {
    "interpret": interpret.measure,
    "usage": usage.measure,
    "gateway": gateway.measure,
    "router": router.measure,
    "oplog": oplog.measure,
    "platform": platform.measure,
}


@dataclass(frozen=True)
class Bar:
    """What a number should be at least (≥) or at most (≤)."""

    sign: str
    value: float

    def holds(self, measured: float) -> bool:
        return measured >= self.value if self.sign == "≥" else measured <= self.value

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


def explained(readme: str, groups: Sequence[str]) -> dict[str, Bar | None]:
    """The names that *readme* explains, of *groups*, each with its bar."""
    found = EXPLAINED.findall(readme)
    return {
        name: Bar(sign, float(value)) if sign else None
        for name, sign, value in found
        if name.split(".")[0] in groups
    }


def mismatches(written: Mapping[str, float], bars: Mapping[str, Bar | None]) -> list[str]:
    """What keeps the results and their explanations from being about the same names."""
    absent = set(interpret.PUBLIC) if interpret.data_folder() is None else set()
    return [
        *(f"{name} is written and not explained" for name in sorted(written.keys() - bars)),
        *(
            f"{name} is explained and not written"
            for name in sorted(bars.keys() - written - absent)
        ),
    ]


async def measured(groups: Sequence[str]) -> dict[str, float]:
    results: dict[str, float] = {}
    if "platform" in groups:
        say("platform: starts")
        results |= await platform.starts()
        say("platform: TLS, and a rolling restart")
        results |= await platform.tls()
        results |= await platform.rolling_restart()
    say("starting everything")
    async with standing() as stand:
        for name in groups:
            begun = time.monotonic()
            results |= await GROUPS[name](stand)
            say(f"{name}: {time.monotonic() - begun:.0f} s")
    return {
        name: float(f"{value:.4g}") for name, value in sorted(results.items()) if value == value
    }


def shown(results: Mapping[str, float], bars: Mapping[str, Bar | None]) -> Table:
    table = Table()
    for column in ("name", "measured", "bar", ""):
        table.add_column(column, justify="right" if column in ("measured", "bar") else "left")
    for name, value in results.items():
        bar = bars.get(name)
        if math.isnan(value):
            table.add_row(name, "left out", str(bar or ""), "")
            continue
        verdict = "" if bar is None else "met" if bar.holds(value) else "[red]missed[/red]"
        table.add_row(name, f"{value:g}", str(bar or ""), verdict)
    return table


def group(name: str) -> str:
    if name not in GROUPS:
        raise argparse.ArgumentTypeError(f"there are {', '.join(GROUPS)}")
    return name


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the suite.")
    told = f"any of {', '.join(GROUPS)}; all of them without"
    parser.add_argument("groups", nargs="*", type=group, metavar="GROUP", help=told)
    asked = parser.parse_args().groups
    groups = [name for name in GROUPS if not asked or name in asked]
    bars = explained((HERE / "README.md").read_text(encoding="utf-8"), groups)
    results = uvloop.run(measured(groups))
    RESULTS.parent.mkdir(exist_ok=True)
    there = {name: value for name, value in results.items() if not math.isnan(value)}
    RESULTS.write_text(json.dumps(there, indent=2) + "\n")
    Console().print(shown(results, bars))
    faults = mismatches(results, bars)
    for fault in faults:
        say(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
