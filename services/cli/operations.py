"""Commands of auditors: the operation log, listed and followed."""

from typing import Annotated

import typer
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from rich.live import Live

from services.cli.connection import Unusable, find_suite, told_plainly
from services.cli.output import (
    OPERATION_COLUMNS,
    console,
    notes,
    operation_row,
    print_json,
    print_json_line,
    table,
)

AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
User = Annotated[str, typer.Option(help="only of this user's id")]
Domain = Annotated[str, typer.Option(help="only in this domain")]
Outcomes = Annotated[
    list[str] | None, typer.Option("--outcome", help="only with this outcome; may be repeated")
]
Trace = Annotated[str, typer.Option(help="only of this trace")]

operations = typer.Typer(no_args_is_help=True, help="The operation log.")
SHOWN_LIVE = 30


@operations.command("list")
def list_operations(
    user: User = "",
    domain: Domain = "",
    outcome: Outcomes = None,
    trace: Trace = "",
    limit: Annotated[int, typer.Option(help="the most to show, up to 500")] = 50,
    as_json: AsJson = False,
) -> None:
    """The operations, newest first."""
    with told_plainly():
        suite = find_suite(admin=True)
        request = pb.ListOperationsRequest(
            filter=filter_of(user, domain, outcome, trace), page_size=limit
        )
        with suite.channel("oplog") as channel:
            found = OperationLogServiceStub(channel).ListOperations(request, **suite.call)
    if as_json:
        print_json(found)
        return
    rows = [operation_row(each) for each in found.operations]
    console.print(table("operations", OPERATION_COLUMNS, rows))


@operations.command("tail")
def tail_operations(
    user: User = "",
    domain: Domain = "",
    outcome: Outcomes = None,
    as_json: AsJson = False,
) -> None:
    """The operations as they are logged, until Ctrl-C."""
    with told_plainly():
        suite = find_suite(admin=True)
        request = pb.TailOperationsRequest(filter=filter_of(user, domain, outcome, ""))
        with suite.channel("oplog") as channel:
            stub = OperationLogServiceStub(channel)
            stream = stub.TailOperations(request, metadata=suite.metadata)
            try:
                follow(stream, as_json=as_json)
            except KeyboardInterrupt:
                stream.cancel()


@operations.command("verify")
def verify_operations(as_json: AsJson = False) -> None:
    """Whether the log's hash chain holds; ends with 1, naming the first link that does not."""
    with told_plainly():
        suite = find_suite(admin=True)
        with suite.channel("oplog") as channel, notes.status("walking the chain …"):
            stub = OperationLogServiceStub(channel)
            found = stub.VerifyChain(pb.VerifyChainRequest(), **suite.call)
    if as_json:
        print_json(found)
    elif found.intact:
        console.print(f"intact: {found.checked} links, the last hash is {found.head}")
    else:
        tampering = pb.Tampering.Name(found.broken.tampering).removeprefix("TAMPERING_").lower()
        of = f" of operation {found.broken.operation_id}" if found.broken.operation_id else ""
        console.print(f"broken: link {found.broken.position}{of} was {tampering}")
    if not found.intact:
        raise SystemExit(1)


def follow(stream: "object", *, as_json: bool) -> None:
    rows: list[tuple[str, ...]] = []
    if as_json:
        for event in stream:  # type: ignore[attr-defined]
            if event.HasField("operation"):
                print_json_line(event.operation)
        return
    with Live(table("operations", OPERATION_COLUMNS, rows), console=console) as live:
        for event in stream:  # type: ignore[attr-defined]
            if event.HasField("operation"):
                rows = [*rows, operation_row(event.operation)][-SHOWN_LIVE:]
                live.update(table("operations", OPERATION_COLUMNS, rows))


def filter_of(user: str, domain: str, outcomes: list[str] | None, trace: str) -> pb.Filter:
    return pb.Filter(
        user_id=user,
        domain=domain,
        outcomes=[outcome_named(each) for each in outcomes or []],
        trace_id=trace,
    )


def outcome_named(name: str) -> pb.Outcome.ValueType:
    offered = [each.removeprefix("OUTCOME_").lower() for each in pb.Outcome.keys()[1:]]
    if name not in offered:
        raise Unusable(f"there is no outcome {name}: it is one of {', '.join(offered)}")
    return pb.Outcome.Value(f"OUTCOME_{name.upper()}")
