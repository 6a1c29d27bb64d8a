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
) -> None:
    """Start the whole suite on this machine, until Ctrl-C."""
    from services import embedded  # what only this command needs is not loaded for the others

    try:
        embedded.run(
            data_folder=data,
            processes=processes,
            model=model,
            sample=sample,
            gateway_listen=listen,
        )
    except embedded.StartFailed as error:
        fail(str(error))


def main() -> None:
    app()
