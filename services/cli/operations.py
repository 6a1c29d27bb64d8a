"""Commands of auditors: the operation log, listed, followed, and drawn as traces."""

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any

import grpc
import typer
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from services.cli.connection import Suite, Unusable, find_suite, now, refusal, told_plainly
from services.cli.output import (
    console,
    notes,
    print_json,
    print_json_line,
    print_operations,
    times_note,
    told_operation,
)
from services.cli.waterfall import waterfall

AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
User = Annotated[str, typer.Option(help="only of this user's id")]
Clinic = Annotated[str, typer.Option(help="only of this clinic's id")]
Domain = Annotated[str, typer.Option(help="only in this domain")]
Action = Annotated[str, typer.Option(help="only this action; admin.* for all of that kind")]
Outcomes = Annotated[
    list[str] | None, typer.Option("--outcome", help="only with this outcome; may be repeated")
]
Request = Annotated[str, typer.Option(help="only of this request's id")]
Trace = Annotated[str, typer.Option(help="only of this trace")]
Since = Annotated[
    str, typer.Option(help="from this time on: 2026-11-25T14:00 in this terminal's zone, or 2h ago")
]
Until = Annotated[str, typer.Option(help="before this time, given likewise")]

operations = typer.Typer(no_args_is_help=True, help="The operation log.")
LARGEST_PAGE = 500
AGO = re.compile(r"(\d{1,6})([smhd])(?: ago)?")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
TRACE_ID = re.compile(r"[0-9a-f]{32}")
AGAIN_SECONDS = 1.0


@operations.command("list")
def list_operations(
    user: User = "",
    clinic: Clinic = "",
    domain: Domain = "",
    action: Action = "",
    outcome: Outcomes = None,
    request: Request = "",
    trace: Trace = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(help="the most to show", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """The operations, newest first."""
    with told_plainly():
        wanted = filter_of(user, clinic, domain, action, outcome)
        wanted.request_id, wanted.trace_id = request, trace
        if since:
            wanted.start_time.CopyFrom(stamped(since))
        if until:
            wanted.end_time.CopyFrom(stamped(until))
        suite = find_suite(admin=True)
        with suite.channel("oplog") as channel:
            found = listed(OperationLogServiceStub(channel), suite, wanted, limit)
    if as_json:
        print_json(found)
        return
    print_operations(found.operations)
    more = "; there are older ones (--limit, --until)" if found.next_page_token else ""
    shown = f"operations: {len(found.operations)}{times_note(found.operations)}{more}"
    notes.print(shown, style="dim", highlight=False)


@operations.command("tail")
def tail_operations(
    user: User = "",
    clinic: Clinic = "",
    domain: Domain = "",
    action: Action = "",
    outcome: Outcomes = None,
    as_json: AsJson = False,
) -> None:
    """The operations as they are logged, until Ctrl-C; each again when its outcome comes."""
    with told_plainly():
        request = pb.TailOperationsRequest(filter=filter_of(user, clinic, domain, action, outcome))
        suite = find_suite(admin=True)
        try:
            for operation in followed(suite, request):
                if as_json:
                    print_json_line(operation)
                else:
                    print_operations([operation])
        except KeyboardInterrupt:
            return


@operations.command("show")
def show_operation(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="an operation's id, or a trace's as `list` shows it")
    ],
    as_json: AsJson = False,
) -> None:
    """The trace of an operation as a waterfall, from the spans that the log has seen of it."""
    with told_plainly():
        suite = find_suite(admin=True)
        with suite.channel("oplog") as channel:
            stub = OperationLogServiceStub(channel)
            chosen = None if TRACE_ID.fullmatch(id_) else operation_of(stub, suite, id_)
            trace_id = chosen.trace_id if chosen else id_
            trace = stub.GetTrace(pb.GetTraceRequest(trace_id=trace_id), **suite.call)
    if not trace.spans:
        raise SystemExit(not_seen(id_))
    if as_json:
        print(json.dumps(as_document(trace_id, chosen, trace), indent=2))
        return
    if chosen is not None:
        console.print(*told_operation(chosen), sep="\n", highlight=False)
    console.print(Text(f"trace {trace_id}", style="dim"), highlight=False)
    drawn = waterfall(trace.spans, console.width, chosen.id if chosen else "")
    console.print(*drawn, sep="\n", highlight=False, no_wrap=True, crop=True)


def operation_of(stub: OperationLogServiceStub, suite: Suite, id_: str) -> pb.OperationLog:
    answer = stub.GetOperation(pb.GetOperationRequest(id=id_), **suite.call)
    found: pb.OperationLog = answer.operation
    return found


def not_seen(id_: str) -> int:
    notes.print(f"gatehouse: the log has seen no span of {id_}", highlight=False)
    return 1


def as_document(
    trace_id: str, chosen: pb.OperationLog | None, trace: pb.GetTraceResponse
) -> dict[str, Any]:
    document: dict[str, Any] = {"trace_id": trace_id}
    if chosen is not None:
        document["operation"] = MessageToDict(chosen, preserving_proto_field_name=True)
    return document | MessageToDict(trace, preserving_proto_field_name=True)


def listed(
    stub: OperationLogServiceStub, suite: Suite, wanted: pb.Filter, limit: int
) -> pb.ListOperationsResponse:
    """Up to *limit* rows, out of as many pages as that takes."""
    found = pb.ListOperationsResponse()
    while True:
        left = min(limit - len(found.operations), LARGEST_PAGE)
        request = pb.ListOperationsRequest(
            filter=wanted, page_size=left, page_token=found.next_page_token
        )
        page = stub.ListOperations(request, **suite.call)
        found.operations.extend(page.operations)
        found.next_page_token = page.next_page_token
        if not page.next_page_token or len(found.operations) >= limit:
            return found


def followed(suite: Suite, request: pb.TailOperationsRequest) -> Iterator[pb.OperationLog]:
    """What is logged from now on; a replica that stops is followed on by another.

    Raises what the first answer is, where that is a refusal.
    """
    with suite.channel("oplog") as channel:
        stub = OperationLogServiceStub(channel)
        while True:
            try:
                for event in stub.TailOperations(request, metadata=suite.metadata):
                    request.after_position = event.position
                    if event.HasField("operation"):
                        yield event.operation
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not request.HasField(
                    "after_position"
                ):
                    raise
                notes.print(f"gatehouse: {refusal(error)}; trying again", highlight=False)
            time.sleep(AGAIN_SECONDS)


def filter_of(
    user: str, clinic: str, domain: str, action: str, outcomes: list[str] | None
) -> pb.Filter:
    return pb.Filter(
        user_id=user,
        clinic_id=clinic,
        domain=domain,
        action=action,
        outcomes=[outcome_named(each) for each in outcomes or []],
    )


def outcome_named(name: str) -> pb.Outcome.ValueType:
    offered = [each.removeprefix("OUTCOME_").lower() for each in pb.Outcome.keys()[1:]]
    if name not in offered:
        raise Unusable(f"there is no outcome {name}: it is one of {', '.join(offered)}")
    return pb.Outcome.Value(f"OUTCOME_{name.upper()}")


def stamped(text: str) -> Timestamp:
    """The moment that *text* means: so long ago, or a date and time, in the terminal's zone."""
    ago = AGO.fullmatch(text.strip())
    try:
        if ago:
            moment = now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise Unusable(f"{text} is no time: give 2026-11-25, 2026-11-25T14:00 or 2h") from None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
