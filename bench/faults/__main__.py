"""`python -m bench.faults GROUP`: race, break, and say whether every promise was kept.

Ends with 1 where one was broken.
"""

import argparse
import secrets
import sys

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.faults import oplog, requests, usage
from bench.faults.breaking import Findings
from bench.faults.requests_faults import KINDS

MOST_SHOWN = 40


async def carried_out(group: str, seconds: float, seed: int, kinds: tuple[str, ...]) -> Findings:
    if group == "requests":
        return await requests.carried_out(requests.Plan(seconds=seconds, seed=seed, kinds=kinds))
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


def fault_kinds(text: str) -> tuple[str, ...]:
    """The kinds in a list with commas. Raises ArgumentTypeError for one that does not exist."""
    kinds = tuple(each.strip() for each in text.split(",") if each.strip())
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or not kinds:
        raise argparse.ArgumentTypeError(f"{text!r} is not out of {','.join(KINDS)}")
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Break and count.")
    parser.add_argument("group", choices=["oplog", "requests", "usage"])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to race (60)")
    parser.add_argument("--seed", type=int, help="of the calls and the faults; a new one without")
    parser.add_argument(
        "--faults",
        type=fault_kinds,
        default=KINDS,
        help=f"of requests: which kinds of faults, out of {','.join(KINDS)} (all)",
    )
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    findings = uvloop.run(carried_out(given.group, min(given.seconds, 3600.0), seed, given.faults))
    console = Console()
    console.print(f"seed {seed}")
    console.print(shown(findings))
    for violation in findings.samples(MOST_SHOWN):
        console.print(f"[red]broken[/red] {escape(violation)}", soft_wrap=True)
    return 1 if findings.violations else 0


if __name__ == "__main__":
    sys.exit(main())
