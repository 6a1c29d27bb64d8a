"""Commands of users: instructions, analyses, usage, models."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.router.v1 import router_pb2, tier_pb2
from google.protobuf.json_format import ParseDict, ParseError

from services.cli.connection import Suite, Unusable, find_suite, told_plainly
from services.cli.output import (
    console,
    notes,
    print_analysis,
    print_answer,
    print_json,
    table,
    usage_line,
)

AsJson = Annotated[bool, typer.Option("--json", help="for programs")]
Locale = Annotated[str, typer.Option(help="the language to read and answer in, such as pt-BR")]


@contextmanager
def gateway(suite: Suite) -> Iterator[GatewayServiceStub]:
    with suite.channel("gateway") as channel:
        yield GatewayServiceStub(channel)


def execute(
    instruction: Annotated[str, typer.Argument(help="what to do, in words")] = "",
    operations: Annotated[
        Path | None, typer.Option(help="a JSON file of structured operations instead of words")
    ] = None,
    request_id: Annotated[str, typer.Option(help="the same again does nothing twice")] = "",
    confirm: Annotated[str, typer.Option(help="the token of a confirmation asked for")] = "",
    yes: Annotated[bool, typer.Option(help="confirm at once what asks for it")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="say what would be touched, change nothing")
    ] = False,
    locale: Locale = "",
    as_json: AsJson = False,
) -> None:
    """Carry out an instruction, and print what became of it."""
    with told_plainly():
        request = pb.ExecuteRequest(
            request_id=request_id or str(uuid.uuid4()),
            confirmation_token=confirm,
            validate_only=dry_run,
            locale=locale,
        )
        if instruction:
            request.instruction = instruction
        if operations:
            request.operations.CopyFrom(read_operations(operations))
        suite = find_suite()
        with gateway(suite) as stub, notes.status("working on it …"):
            answer = stub.Execute(request, **suite.call)
            if yes and answer.confirmation.confirmation_token:
                request.confirmation_token = answer.confirmation.confirmation_token
                answer = stub.Execute(request, **suite.call)
    if as_json:
        print_json(answer)
    else:
        print_answer(answer)
        if answer.confirmation.confirmation_token:
            console.print(
                f"to go ahead: the same command with --request-id {request.request_id}"
                f" --confirm {answer.confirmation.confirmation_token}",
                soft_wrap=True,
            )
    if answer.report.outcome in (pb.OUTCOME_FAILED, pb.OUTCOME_WOULD_FAIL):
        raise SystemExit(1)


def analyze(
    metrics: Annotated[list[str], typer.Argument(help="such as no_show_rate")],
    days: Annotated[int, typer.Option(help="the last so many days")] = 30,
    start: Annotated[str, typer.Option(help="the first day instead, 2026-11-23")] = "",
    end: Annotated[str, typer.Option(help="the last day, with --start")] = "",
    by: Annotated[str, typer.Option(help="a field to group by")] = "",
    compare: Annotated[bool, typer.Option(help="also the days before")] = False,
    plain: Annotated[bool, typer.Option(help="no model words the summary")] = False,
    locale: Locale = "",
    as_json: AsJson = False,
) -> None:
    """Compute figures, and print them with a summary."""
    with told_plainly():
        window = pb.Window(last_days=days)
        if start or end:
            window = pb.Window(range=pb.DateRange(start_date=start, end_date=end))
        request = pb.AnalyzeRequest(
            request_id=str(uuid.uuid4()),
            metrics=metrics,
            window=window,
            group_by=by,
            compare_with_previous=compare,
            plain_summary=plain,
            locale=locale,
        )
        suite = find_suite()
        with gateway(suite) as stub, notes.status("computing …") as status:
            answer = pb.AnalyzeResponse()
            streamed = pb.StreamAnalyzeRequest(request=request)
            for part in stub.StreamAnalyze(streamed, **suite.call):
                if part.HasField("result"):
                    status.update(f"{part.result.metric} is there; computing …")
                elif part.HasField("finished"):
                    answer = part.finished
    if as_json:
        print_json(answer)
    else:
        print_analysis(answer)


def usage(
    start: Annotated[str, typer.Option(help="by day from here, 2026-11-23")] = "",
    end: Annotated[str, typer.Option(help="by day up to here")] = "",
    as_json: AsJson = False,
) -> None:
    """What was used, and what remains."""
    with told_plainly():
        suite = find_suite()
        with gateway(suite) as stub:
            request = pb.GetUsageRequest(start_date=start, end_date=end)
            found = stub.GetUsage(request, **suite.call)
    if as_json:
        print_json(found)
        return
    used = found.usage
    console.print(f"today: {used.read_count} reads, {used.modify_count} changes")
    console.print(usage_line(used))
    if found.days:
        rows = [
            (each.usage_date, str(each.read_count), str(each.modify_count)) for each in found.days
        ]
        console.print(table("by day", ("day", "reads", "changes"), rows))


def models(as_json: AsJson = False) -> None:
    """The models that your plan reaches."""
    with told_plainly():
        suite = find_suite()
        with gateway(suite) as stub:
            found = stub.ListModels(pb.ListModelsRequest(), **suite.call)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.id,
            tier_pb2.Tier.Name(each.tier),
            each.provider,
            str(each.context_tokens),
            router_pb2.CircuitState.Name(each.circuit).removeprefix("CIRCUIT_STATE_").lower(),
        )
        for each in found.models
    ]
    console.print(table("models", ("model", "tier", "provider", "context", "circuit"), rows))


def read_operations(file: Path) -> pb.OperationList:
    """A list of operations, or one under `operations`, as JSON. Raises Unusable."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        entries = read if isinstance(read, list) else read["operations"]
        parsed: pb.OperationList = ParseDict({"operations": entries}, pb.OperationList())
    except (OSError, ValueError, KeyError, TypeError, ParseError) as error:
        raise Unusable(f"{file}: {error}") from None
    return parsed
