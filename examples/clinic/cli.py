"""The command line `gatehouse-clinic`: fills the clinic's records.

It ends with 0 when the records are there, rows that could not be used or not; with 1 when a file or
the database cannot be used, and then nothing was changed; with 2 when it was called wrongly.
"""

import asyncio
import logging
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn
from zoneinfo import ZoneInfo

import psycopg
import typer
from rich.console import Console
from rich.progress import Progress

from examples.clinic import sample
from examples.clinic.app import SCHEMA, VERSION
from examples.clinic.loading import Loaded, store
from examples.clinic.reading import (
    Appointment,
    FileUnusable,
    Invoice,
    Readable,
    read_appointments,
    read_invoices,
)
from services.runtime.failure import Failure
from services.runtime.identity import Caller
from services.runtime.postgres import Pool, has_schema, open_pool
from services.runtime.validation import is_time_zone

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
WRONGLY_CALLED = 2


@app.command()
def load(
    appointments: Annotated[Path | None, typer.Option(help="the no-show data set, CSV")] = None,
    invoices: Annotated[Path | None, typer.Option(help="the receivables data set, CSV")] = None,
    clinic: Clinic = DEMO_CLINIC,
    zone: Zone = "America/Sao_Paulo",
) -> None:
    """Load the public data sets as published; every row that cannot be used is named."""
    if appointments is None and invoices is None:
        fail("name a file: --appointments CSV, --invoices CSV, or both", WRONGLY_CALLED)
    caller, of_zone = caller_of(clinic), zone_of(zone)
    # All is read before anything is stored: what is wrong with the second file is known by then.
    files: list[tuple[Path, Readable[Appointment] | Readable[Invoice]]] = []
    if appointments is not None:
        with naming(appointments):
            read = read_appointments(appointments, caller.clinic_id, of_zone)
            files.append((appointments, read))
    if invoices is not None:
        with naming(invoices):
            files.append((invoices, read_invoices(invoices, caller.clinic_id)))

    async def run(pool: Pool) -> None:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("loading", total=sum(each.rows for _, each in files))
            loaded = await store(
                pool,
                caller,
                [each for _, each in files],
                lambda rows: progress.advance(task, rows),
            )
        for (path, _), each in zip(files, loaded, strict=True):
            tell(path, each)

    with_pool(run)


@app.command("sample")
def make_sample(
    seed: Annotated[int, typer.Option(help="another seed, other records")] = 1,
    clinic: Clinic = DEMO_CLINIC,
    zone: Zone = "America/Sao_Paulo",
) -> None:
    """Make records of its own; what is there stays as it is."""
    caller, of_zone = caller_of(clinic), zone_of(zone)

    async def run(pool: Pool) -> None:
        made = sample.make(seed, caller.clinic_id, datetime.now(UTC), of_zone)
        console.print(f"{await sample.store(pool, made, caller)} new records")

    with_pool(run)


def tell(path: Path, loaded: Loaded) -> None:
    for each in loaded.rejected:
        sys.stdout.write(f"{path.name}:{each.line}: {each.reason}\n")
    console.print(
        f"{path.name}: {loaded.rows} rows, {loaded.new} new, {loaded.known} there already,"
        f" {len(loaded.rejected)} rejected",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    try:
        yield
    except FileUnusable as error:
        fail(f"{path.name}: {error}")


def with_pool(run: Callable[[Pool], Awaitable[None]]) -> None:
    url = os.environ.get(VARIABLE)
    if not url:
        fail(f"where are the records kept? Set {VARIABLE}", WRONGLY_CALLED)
    # What a pool has to say of a server that is not there is said here, once.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)

    async def main() -> None:
        async with open_pool(url, min_size=1, max_size=1, name="clinic-load") as pool:
            await pool.check()
            if not await has_schema(pool, SCHEMA, VERSION):
                fail(f"the schema {SCHEMA} is not at version {VERSION}: run its migrations")
            await run(pool)

    try:
        asyncio.run(main())
    except Failure as failure:
        fail(failure.message)
    except psycopg.errors.InsufficientPrivilege:
        fail(f"the role in {VARIABLE} may not write records: it should be gatehouse_clinic")


def caller_of(clinic: str) -> Caller:
    try:
        clinic_id = str(uuid.UUID(clinic))
    except ValueError:
        fail(f"--clinic {clinic} is not a UUID", WRONGLY_CALLED)
    return Caller(user_id="loader", clinic_id=clinic_id, roles=frozenset({"service"}))


def zone_of(name: str) -> ZoneInfo:
    if not is_time_zone(name):
        fail(f"--zone {name} is not a time zone such as America/Sao_Paulo", WRONGLY_CALLED)
    return ZoneInfo(name)


def fail(message: str, code: int = 1) -> NoReturn:
    sys.stderr.write(f"gatehouse-clinic: {message}\n")
    raise SystemExit(code)


def main() -> None:
    app()
