"""`python -m bench.faults GROUP`: race, break, and say whether every promise was kept.

Ends with 1 where one was broken.
"""

import argparse
import secrets
import sys

import uvloop
from rich.console import Console
from rich.table import Table

from bench.faults import oplog, usage
from bench.faults.breaking import Findings

MOST_SHOWN = 20


async def carried_out(group: str, seconds: float, seed: int) -> Findings:
    if group == "usage":
        return await usage.carried_out(usage.Plan(seconds=seconds, seed=seed))
    return await oplog.carried_out(oplog.Plan(seconds=seconds, seed=seed))


def shown(findings: Findings) -> Table:
    table = Table()
    table.add_column("what")
    table.add_column("how many", justify="right")
    for name, value in findings.figures().items():
        table.add_row(name, f"{value:,}")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Break and count.")
    parser.add_argument("group", choices=["oplog", "usage"])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to race (60)")
    parser.add_argument("--seed", type=int, help="of the calls and the faults; a new one without")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    findings = uvloop.run(carried_out(given.group, min(given.seconds, 3600.0), seed))
    console = Console()
    console.print(f"seed {seed}")
    console.print(shown(findings))
    for violation in findings.violations[:MOST_SHOWN]:
        console.print(f"[red]broken[/red] {violation}")
    return 1 if findings.violations else 0


if __name__ == "__main__":
    sys.exit(main())
