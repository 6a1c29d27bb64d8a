"""The commands of `gatehouse`, put together."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli import administration, conformance, evidence, operations, requests
from services.cli.connection import fail

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The control plane of a multi-model assistant for clinics.",
)
app.add_typer(administration.plans, name="plans")
app.command()(administration.assign)
administration.domains.command("check")(conformance.check)
app.add_typer(administration.domains, name="domains")
app.command()(requests.execute)
app.command()(requests.analyze)
app.command()(requests.usage)
app.command()(requests.models)
operations.operations.command("verify")(evidence.verify)
operations.operations.command("digests")(evidence.digests)
app.add_typer(operations.operations, name="operations")


@app.command()
def run(
    data: Annotated[
        Path | None, typer.Option(help="where to keep the data; temporary without")
    ] = None,
    processes: Annotated[bool, typer.Option(help="each service in a process of its own")] = False,
    model: Annotated[bool, typer.Option(help="start the small model")] = True,
    sample: Annotated[bool, typer.Option(help="fill the clinic with sample records")] = True,
    listen: Annotated[str, typer.Option(help="where the gateway listens")] = "127.0.0.1:7400",
    now: Annotated[
        str,
        typer.Option(
            help="set the suite's clock: a date and time such as 2028-02-29T23:55, in the clinic's"
            " zone unless it has an offset"
        ),
    ] = "",
) -> None:
    """Start the whole suite on this machine, until Ctrl-C."""
    from services import embedded  # what only this command needs is not loaded for the others
    from services.embedded_clock import moment_of

    try:
        moment = moment_of(now, embedded.TIME_ZONE) if now else None
    except ValueError:
        fail(f"--now: {now} is no date and time such as 2028-02-29T23:55")
    try:
        embedded.run(
            data_folder=data,
            processes=processes,
            model=model,
            sample=sample,
            gateway_listen=listen,
            now=moment,
        )
    except embedded.StartFailed as error:
        fail(str(error))


def main() -> None:
    app()
