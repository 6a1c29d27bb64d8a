"""`gatehouse domains check`: what the author of a domain service gets wrong."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape

from services.cli.connection import Unusable, embedded, find_suite, told_plainly
from services.cli.output import console, table
from services.conformance import CHECKS, Finding, Verdict, check_domain
from services.conformance.callers import Callers, UnusableKey, is_token, signer_from
from services.conformance.findings import Check, named
from services.conformance.running import Left, Plan, UnusableDomain
from services.conformance.samples import Sample, UnusableSample

MARKS = {
    Verdict.KEPT: "[green]✓[/green]",
    Verdict.BROKEN: "[red]✗[/red]",
    Verdict.NOT_TRIED: "[dim]–[/dim]",
}
WIDTH = max(len(each.name) for each in CHECKS)
Told = Callable[[Finding], None]


def check(
    endpoint: Annotated[
        str,
        typer.Argument(help="host:port or unix:/…, or the name of a domain of the running suite"),
    ] = "",
    only: Annotated[
        list[str] | None, typer.Option(help="a check's name, or its beginning; may be repeated")
    ] = None,
    entity: Annotated[str, typer.Option(help="which entity to check with")] = "",
    sample: Annotated[
        Path | None, typer.Option(help="records to check with, YAML: docs/domains.md says how")
    ] = None,
    signing_key: Annotated[
        Path | None, typer.Option(help="the private key (JWK) of the issuer that the domain trusts")
    ] = None,
    issuer: Annotated[str, typer.Option(help="`iss` of the tokens made with it")] = "",
    audience: Annotated[str, typer.Option(help="`aud` of the tokens made with it")] = "gatehouse",
    clinic: Annotated[str, typer.Option(help="the clinic of the tokens made; new without")] = "",
    as_list: Annotated[bool, typer.Option("--list", help="say what is checked, and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs, one line a check")] = False,
) -> None:
    """Check that a domain service keeps what its contract promises.

    It makes, changes and deletes records of its own in the token's clinic: use one set apart.
    Tokens are made with --signing-key, or come from GATEHOUSE_TOKEN, GATEHOUSE_OTHER_TOKEN (a user
    of another clinic) and GATEHOUSE_SERVICE_TOKEN; with neither the running suite's key is taken.
    Ends with 1 when a promise is broken.
    """
    with told_plainly():
        checks = checks_named(only or [])
        if as_list:
            console.print(
                table("checks", ("check", "promise"), [(c.name, c.promise) for c in checks])
            )
            return
        endpoint = embedded().get(endpoint, endpoint)
        if not endpoint:
            raise Unusable("which domain? Say where it listens: host:port, or unix:/path")
        callers = callers_from(signing_key, issuer, audience, clinic)
        plan = Plan(checks, entity, samples_in(sample) if sample else {})
        told = print_line if as_json else print_finding
        try:
            findings, left = asyncio.run(run(endpoint, callers, plan, told))
        except UnusableDomain as error:
            raise Unusable(f"{endpoint}: {error}") from None
    if not as_json:
        print_summary(findings, left)
    if any(each.verdict is Verdict.BROKEN for each in findings):
        raise typer.Exit(1)


async def run(
    endpoint: str, callers: Callers, plan: Plan, told: Told
) -> tuple[list[Finding], Left]:
    findings, left = [], Left()
    async with (
        find_suite().aio_channel(endpoint) as channel,
        aclosing(check_domain(channel, callers, plan, left)) as found,
    ):
        async for each in found:
            told(each)
            findings.append(each)
    return findings, left


def checks_named(names: list[str]) -> list[Check]:
    try:
        return named(names)
    except KeyError as error:
        raise Unusable(f"there is no check {error.args[0]}: --list names them") from None


def callers_from(key: Path | None, issuer: str, audience: str, clinic: str) -> Callers:
    """From a key, else GATEHOUSE_TOKEN, else the embedded suite's key. Raises Unusable."""
    token = os.environ.get("GATEHOUSE_TOKEN", "")
    known = embedded()
    if key is None and not token and "signing_key" in known:
        key, issuer = Path(known["signing_key"]), known["issuer"]
    if key is not None:
        return signed(key, issuer, audience, clinic)
    if not is_token(token):
        raise Unusable("who calls? Set GATEHOUSE_TOKEN to a JWT of a user, or give --signing-key")
    return Callers(
        token,
        stranger=os.environ.get("GATEHOUSE_OTHER_TOKEN", ""),
        service=os.environ.get("GATEHOUSE_SERVICE_TOKEN", ""),
    )


def signed(key: Path, issuer: str, audience: str, clinic: str) -> Callers:
    if not issuer:
        raise Unusable("--signing-key needs --issuer: whose tokens does the domain take?")
    try:
        return Callers.signed_by(signer_from(key, issuer, audience), clinic)
    except UnusableKey as error:
        raise Unusable(str(error)) from None


def samples_in(file: Path) -> dict[str, Sample]:
    """The samples in a file, by entity. Raises Unusable, naming what is wrong in it."""
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
        # YAML has days and times of its own; a record has them as text.
        read = json.loads(json.dumps(read, default=lambda moment: moment.isoformat()))
        return {name: Sample(**given) for name, given in read.items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Unusable(f"{file}: {error}") from None
    except UnusableSample as error:
        raise Unusable(f"{file}: {error}") from None
    except (AttributeError, TypeError, ValueError):
        raise Unusable(f"{file}: expected entities, each with `create` and `update`") from None


def print_line(finding: Finding) -> None:
    print(json.dumps(asdict(finding), ensure_ascii=False), flush=True)


def print_finding(finding: Finding) -> None:
    console.print(f"{MARKS[finding.verdict]} {finding.check:<{WIDTH}} {escape(finding.promise)}")
    if finding.told:
        style = "red" if finding.verdict is Verdict.BROKEN else "dim"
        console.print(f"  [{style}]{escape(finding.told)}[/{style}]", highlight=False)


def print_summary(findings: list[Finding], left: Left) -> None:
    count = {verdict: sum(each.verdict is verdict for each in findings) for verdict in Verdict}
    told = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
    console.print(f"\n{len(findings)} of {len(CHECKS)} checks: {told}", highlight=False)
    if left.behind:
        console.print(f"{left.behind} records of the checks could not be deleted", highlight=False)
