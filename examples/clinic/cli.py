"""The command line `gatehouse-clinic`: fills the clinic's records."""

import asyncio
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import Progress

from examples.clinic import loading, sample
from examples.clinic.loading import FileUnusable, Loaded
from services.runtime.failure import Failure
from services.runtime.identity import Caller
from services.runtime.postgres import Pool, open_pool

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fills the example clinic with records.",
)
console = Console(stderr=True)
Clinic = Annotated[str, typer.Option(help="whose records they are, a UUID")]
Zone = Annotated[str, typer.Option(help="the clinic's time zone")]
DEMO_CLINIC = "c11a1c00-0000-4000-8000-000000000001"
VARIABLE = "GATEHOUSE_CLINIC_DATABASE_URL"


@app.command()
def load(
    appointments: Annotated[Path | None, typer.Option(help="the no-show data set, CSV")] = None,
    invoices: Annotated[Path | None, typer.Option(help="the receivables data set, CSV")] = None,
    clinic: Clinic = DEMO_CLINIC,
    zone: Zone = "America/Sao_Paulo",
) -> None:
    """Load the public data sets as published; every row that cannot be used is named."""
    if appointments is None and invoices is None:
        fail("name a file: --appointments CSV, --invoices CSV, or both")
    caller = caller_of(clinic)

    async def run(pool: Pool) -> None:
        with Progress(console=console, transient=True) as progress:
            files = [path for path in (appointments, invoices) if path]
            task = progress.add_task("loading", total=len(files))
            if appointments:
                found = await loading.load_appointments(pool, appointments, caller, ZoneInfo(zone))
                tell(appointments, found)
                progress.advance(task)
            if invoices:
                tell(invoices, await loading.load_invoices(pool, invoices, caller))
                progress.advance(task)

    with_pool(run)


@app.command("sample")
def make_sample(
    seed: Annotated[int, typer.Option(help="another seed, other records")] = 1,
    clinic: Clinic = DEMO_CLINIC,
    zone: Zone = "America/Sao_Paulo",
) -> None:
    """Make records of its own; what is there stays as it is."""
    caller = caller_of(clinic)

    async def run(pool: Pool) -> None:
        made = sample.make(seed, clinic, datetime.now(UTC), ZoneInfo(zone))
        console.print(f"{await sample.store(pool, made, caller)} new records")

    with_pool(run)


def tell(path: Path, loaded: Loaded) -> None:
    for each in loaded.rejected:
        sys.stdout.write(f"{path.name}:{each.line}: {each.reason}\n")
    console.print(
        f"{path.name}: {loaded.rows} rows, {loaded.new} new, {loaded.known} there already,"
        f" {len(loaded.rejected)} rejected"
    )


def with_pool(run: Callable[[Pool], Awaitable[None]]) -> None:
    url = os.environ.get(VARIABLE)
    if not url:
        fail(f"where are the records kept? Set {VARIABLE}")

    async def main() -> None:
        async with open_pool(url, min_size=1, max_size=1, name="clinic-load") as pool:
            await run(pool)

    try:
        asyncio.run(main())
    except (FileUnusable, Failure) as error:
        fail(str(error))


def caller_of(clinic: str) -> Caller:
    try:
        clinic_id = str(uuid.UUID(clinic))
    except ValueError:
        fail(f"--clinic {clinic} is not a UUID")
    return Caller(user_id="loader", clinic_id=clinic_id, roles=frozenset({"service"}))


def fail(message: str) -> NoReturn:
    sys.stderr.write(f"gatehouse-clinic: {message}\n")
    raise SystemExit(1)


def main() -> None:
    app()
