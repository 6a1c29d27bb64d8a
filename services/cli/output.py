"""Tables for people, JSON for programs."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.router.v1 import tier_pb2
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

# A pipe has no width of its own; a trace's id should not be cut into pieces there.
WIDTH_OF_A_PIPE = 132
console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE)
notes = Console(stderr=True)
# Columns that are of no use in pieces.
WHOLE = ("when", "trace")
DRY_OUTCOMES = (
    gateway_pb2.OUTCOME_WOULD_SUCCEED,
    gateway_pb2.OUTCOME_WOULD_BE_PARTIAL,
    gateway_pb2.OUTCOME_WOULD_FAIL,
)


def print_json(message: Message) -> None:
    """One JSON document, with the protos' own field names."""
    print(MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False))


def print_json_line(message: Message) -> None:
    text = MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False, indent=None)
    print(text, flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in WHOLE)
    for row in rows:
        made.add_row(*row)
    return made


def moment(stamp: Timestamp) -> str:
    """A time in the terminal's zone, to the second."""
    return f"{local(stamp):%Y-%m-%d %H:%M:%S}"


def local(stamp: Timestamp) -> datetime:
    """*stamp* in the terminal's zone, with the offset that the zone has at that time."""
    return stamp.ToDatetime(tzinfo=UTC).astimezone()


def verb(value: domain_pb2.Verb.ValueType) -> str:
    return domain_pb2.Verb.Name(value).removeprefix("VERB_").lower()


def tiers(values: Iterable[tier_pb2.Tier.ValueType]) -> str:
    return ", ".join(tier_pb2.Tier.Name(each) for each in values)


def reason_of(status: Status) -> str:
    """The machine's reason in a status."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def cause_of(failure: gateway_pb2.Failure) -> str:
    """The machine's reason, and the field at fault where one is."""
    reason = reason_of(failure.status)
    return f"{reason} ({escape(failure.field)})" if failure.field else reason


def record(values: Struct) -> str:
    """A record on one line, without its id."""
    return ", ".join(f"{name}: {plain(values[name])}" for name in sorted(values) if name != "id")


def plain(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "-" if value is None else str(value)


def print_report(report: gateway_pb2.PartialOutcomeReport) -> None:
    outcome = gateway_pb2.Outcome.Name(report.outcome).removeprefix("OUTCOME_")
    rows = [
        (each.index, "✓", each.domain, verb(each.verb), each.entity, each.summary)
        for each in report.successes
    ]
    rows += [
        (
            each.index,
            "✗",
            each.domain,
            verb(each.verb),
            each.entity,
            f"{each.message} {each.next_step}\n[dim]{cause_of(each)}[/dim]".strip(),
        )
        for each in report.failures
    ]
    took = report.duration.ToMilliseconds()
    is_dry = report.outcome in DRY_OUTCOMES
    columns = ("", "", "domain", "verb", "entity", "dry run" if is_dry else "result")
    lines = [(str(row[0] + 1), *row[1:]) for row in sorted(rows)]
    title = f"{outcome.replace('_', ' ')}: nothing was done" if is_dry else outcome
    console.print(table(f"{title} in {took} ms", columns, lines))
    for success in report.successes:
        print_records(success)


def print_records(success: gateway_pb2.Success, most: int = 8) -> None:
    if success.verb != domain_pb2.VERB_READ or not success.records:
        return
    for values in success.records[:most]:
        console.print(f"  • {record(values)}", highlight=False)
    left = len(success.records) - most
    if left > 0 or success.truncated:
        console.print(f"  … and {max(left, 1)} more" if left > 0 else "  … and more")


def print_answer(answer: gateway_pb2.ExecuteResponse) -> None:
    """What Execute answered, whichever of the three it was."""
    match answer.WhichOneof("result"):
        case "report":
            print_report(answer.report)
        case "clarification":
            print_clarification(answer.clarification)
        case "confirmation":
            print_confirmation(answer.confirmation)
    print_notices(answer.notices)
    if answer.HasField("usage"):
        console.print(f"[dim]{usage_line(answer.usage)} · trace {answer.trace_id}[/dim]")


def print_clarification(clarification: gateway_pb2.Clarification) -> None:
    console.print(f"[bold]{clarification.question}[/bold]")
    for option in clarification.options:
        console.print(f"  • {option.label}", highlight=False)


def print_confirmation(confirmation: gateway_pb2.ConfirmationRequired) -> None:
    console.print(f"[bold]{confirmation.summary}[/bold]")
    rows = [
        (
            str(each.index + 1),
            each.operation.domain,
            verb(each.operation.verb),
            str(each.affected),
            each.summary,
        )
        for each in confirmation.operations
    ]
    console.print(table("planned", ("", "domain", "verb", "records", "what"), rows))
    if confirmation.HasField("expires_at"):
        console.print(f"confirm until {moment(confirmation.expires_at)}")
    else:
        console.print("a dry run: nothing was done, and nothing can be confirmed")


def print_notices(given: Iterable[gateway_pb2.Notice]) -> None:
    for notice in given:
        console.print(f"[yellow]» {notice.message}[/yellow]", highlight=False)


def usage_line(usage: gateway_pb2.UsageSnapshot) -> str:
    reads = str(usage.reads_remaining) if usage.HasField("reads_remaining") else "no limit on"
    changes = (
        str(usage.modifies_remaining) if usage.HasField("modifies_remaining") else "no limit on"
    )
    return (
        f"plan {usage.plan_name} · {reads} reads and {changes} changes left today"
        f" · anew {moment(usage.resets_at)}"
    )


def print_analysis(answer: gateway_pb2.AnalyzeResponse) -> None:
    rows = [row for each in answer.results for row in metric_rows(each)]
    rows += [
        (each.metric, "", "-", each.message, reason_of(each.status)) for each in answer.failures
    ]
    columns = ("metric", "group", "value", "of", "days")
    console.print(table("figures", columns, rows))
    console.print(answer.summary, highlight=False)
    print_notices(answer.notices)


def metric_rows(result: gateway_pb2.MetricResult) -> list[tuple[str, str, str, str, str]]:
    days = f"{result.start_date} … {result.end_date}"
    if not result.HasField("total"):
        return [(result.metric, "", "-", "too few people", days)]
    shown = [("", result.total), *((each.key, each) for each in result.groups)]
    rows = [(result.metric, key, value_of(each), fraction(each), days) for key, each in shown]
    if result.HasField("previous"):
        previous = result.previous
        rows.append(
            (result.metric, "before", value_of(previous), fraction(previous), "the days before")
        )
    return rows


def value_of(figure: gateway_pb2.Figure) -> str:
    return f"{100 * figure.value:.1f} %" if figure.HasField("value") else "-"


def fraction(figure: gateway_pb2.Figure) -> str:
    return f"{figure.numerator:,.10g} of {figure.denominator:,.10g}"


OUTCOME_STYLES = {
    oplog_pb2.OUTCOME_SUCCEEDED: "green",
    oplog_pb2.OUTCOME_FAILED: "red",
    oplog_pb2.OUTCOME_REFUSED: "yellow",
    oplog_pb2.OUTCOME_CANCELLED: "magenta",
    oplog_pb2.OUTCOME_UNKNOWN: "cyan",
}


def outcome_word(outcome: oplog_pb2.Outcome.ValueType) -> str:
    return oplog_pb2.Outcome.Name(outcome).removeprefix("OUTCOME_").lower()


def print_operations(operations: Sequence[oplog_pb2.OperationLog]) -> None:
    """A line an operation, which a terminal of 80 columns has room for.

    Why it failed, and the model that took part, are on a line of their own where they do not fit.
    """
    times = listed_times([local(each.created_at) for each in operations])
    width = max(map(len, times), default=0)
    for when, operation in zip(times, operations, strict=True):
        line = Text()
        line.append(f"{when:<{width}} ", style="dim")
        word, style = outcome_word(operation.outcome), OUTCOME_STYLES.get(operation.outcome, "")
        line.append(f"{word:<9} ", style=style)
        is_open = operation.outcome == oplog_pb2.OUTCOME_UNKNOWN
        took = "" if is_open else f"{operation.latency_ms} ms"
        line.append(f"{what_of(operation):<21} {took:>6} ")
        line.append(operation.trace_id, style="dim")
        more = " · ".join(part for part in (operation.reason, model_of(operation)) if part)
        if more and len(line) + 1 + len(more) > console.width:
            line.append(f"\n{'':<{width}} {more}")
        elif more:
            line.append(f" {more}")
        console.print(line, highlight=False, soft_wrap=True)


def what_of(operation: oplog_pb2.OperationLog) -> str:
    """What was done; an administrator's action names its own domain."""
    if operation.action.startswith("admin."):
        return str(operation.action)
    return f"{operation.action} {operation.domain}".strip()


def model_of(operation: oplog_pb2.OperationLog) -> str:
    return operation.model_used + (" after a failover" if operation.failover else "")


def told_operation(operation: oplog_pb2.OperationLog) -> Iterator[Text]:
    """What the log knows of an operation, a few lines."""
    head = Text()
    head.append(f"{what_of(operation)} ", style="bold")
    head.append(outcome_word(operation.outcome), style=OUTCOME_STYLES.get(operation.outcome, ""))
    if operation.outcome != oplog_pb2.OUTCOME_UNKNOWN:
        head.append(f" in {operation.latency_ms} ms")
    if operation.reason:
        head.append(f" · {operation.reason}")
    if operation.model_used:
        head.append(f" · {model_of(operation)}")
    yield head
    if operation.settled_later:
        yield Text("the outcome was learnt by asking the domain", style="cyan")
    facts = {
        "began": f"{local(operation.created_at).isoformat(sep=' ', timespec='milliseconds')}",
        "operation": operation.id,
        "request": operation.request_id,
        "user": operation.user_id,
        "clinic": operation.clinic_id,
    }
    for name, value in facts.items():
        if value:
            yield Text(f"{name:<10}{value}")


def listed_times(times: Sequence[datetime]) -> list[str]:
    """Each of *times*; with the day and the offset only where they are not the same for all."""
    day = "%Y-%m-%d " if len({each.date() for each in times}) > 1 else ""
    offset = "%z" if len({each.utcoffset() for each in times}) > 1 else ""
    return [each.strftime(f"{day}%H:%M:%S{offset}") for each in times]


def times_note(operations: Sequence[oplog_pb2.OperationLog]) -> str:
    """What `print_operations` leaves out of the times: the day and the zone that all have."""
    times = [local(each.created_at) for each in operations]
    days = {f" of {each:%Y-%m-%d}" for each in times}
    zones = {f" in {offset_of(each)}" for each in times}
    said = "".join(each.pop() for each in (days, zones) if len(each) == 1)
    return f", times{said}" if said else ""


def offset_of(moment: datetime) -> str:
    return "UTC" if moment.utcoffset() == timedelta(0) else f"UTC{moment:%z}"
