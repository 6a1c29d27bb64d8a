"""Draws a trace as a waterfall: a line a span, under the span that it is part of, to one scale.

Decides, and prints nothing. What a log has of a trace may be incomplete, and clocks differ: a span
whose parent nobody has seen stands under a line for that parent, and one that began before its
parent did, by another service's clock, is moved to its parent's start and says by how much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gatehouse.oplog.v1 import oplog_pb2 as pb
from rich.text import Text

from services.cli.output import OUTCOME_STYLES, outcome_word

INTENT = "operation.intent"


@dataclass
class Node:
    """One line: a span, or a parent that the log has not seen."""

    label: str
    span: pb.Span | None = None
    start: int = 0
    end: int = 0
    # How far it was moved, in microseconds, since its clock was behind its parent's.
    moved: int = 0
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A node and the branches that lead to it."""

    node: Node
    branches: str


def tree_of(spans: Sequence[pb.Span]) -> list[Node]:
    """The roots, earliest first. Every span is in the tree once, whatever their parents say."""
    nodes = {span.span_id: node_of(span) for span in spans}
    parents = {span.span_id: span.parent_span_id for span in spans}
    missing: dict[str, Node] = {}
    roots: list[Node] = []
    for span_id, node in nodes.items():
        parent_id = parents[span_id]
        if not parent_id or leads_round(span_id, parents):
            roots.append(node)
        elif parent_id in nodes:
            nodes[parent_id].children.append(node)
        else:
            if parent_id not in missing:
                missing[parent_id] = Node(f"span {parent_id}")
                roots.append(missing[parent_id])
            missing[parent_id].children.append(node)
    for root in roots:
        align(root)
    return in_order(roots)


def leads_round(span_id: str, parents: dict[str, str]) -> bool:
    """Whether a span's parents lead back to itself."""
    seen, current = set(), parents[span_id]
    while current in parents and current not in seen:
        if current == span_id:
            return True
        seen.add(current)
        current = parents[current]
    return False


def node_of(span: pb.Span) -> Node:
    start = span.started_at.ToMicroseconds()
    told = " ".join(part for part in (span.action, span.domain) if part) or span.name
    prefix = "settled: " if span.settled_later else ""
    prefix = "intent: " if span.name == INTENT else prefix
    end = start + max(0, span.duration.ToMicroseconds())
    return Node(f"{prefix}{told}", span, start, end)


def align(node: Node) -> None:
    """Move what began before its parent by another clock; what nobody has seen spans its own."""
    for child in node.children:
        if node.span and child.span and child.span.service != node.span.service:
            child.moved = max(0, node.start - child.start)
            move(child, child.moved)
        align(child)
    if node.span is None:
        node.start = min(child.start for child in node.children)
        node.end = max(child.end for child in node.children)


def move(node: Node, by: int) -> None:
    node.start, node.end = node.start + by, node.end + by
    for child in node.children:
        move(child, by)


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """By the start of the operation, whose spans stay beside each other, and by their own."""
    for node in nodes:
        node.children = in_order(node.children)
    whole: dict[str, tuple[int, int]] = {}
    for node in nodes:
        start, end = whole.get(of_operation(node), (node.start, node.end))
        whole[of_operation(node)] = min(start, node.start), max(end, node.end)
    return sorted(
        nodes,
        key=lambda node: (
            *whole[of_operation(node)],
            of_operation(node),
            node.start,
            node.end,
            node.label,
        ),
    )


def of_operation(node: Node) -> str:
    return node.span.operation_id if node.span else node.label


def lines_of(roots: Sequence[Node]) -> Iterator[Line]:
    for root in roots:
        yield Line(root, "")
        yield from below(root, "")


def below(node: Node, before: str) -> Iterator[Line]:
    for child in node.children:
        is_last = child is node.children[-1]
        yield Line(child, before + ("└ " if is_last else "├ "))
        yield from below(child, before + ("  " if is_last else "│ "))


def waterfall(spans: Sequence[pb.Span], width: int, chosen: str = "") -> list[Text]:
    """The lines of a trace, at most *width* cells each; those of the operation *chosen* bold."""
    lines = list(lines_of(tree_of(spans)))
    if not lines:
        return []
    start = min(line.node.start for line in lines)
    end = max(line.node.end for line in lines)
    labels = [label_of(line) for line in lines]
    services = [service_of(line.node) for line in lines]
    telling = [told_of(line.node) for line in lines]
    left = min(max(map(len, labels)), 3 * width // 10)
    middle = min(max(map(len, services)), width // 7)
    # A quarter is for the bars at least.
    right = min(max(map(len, telling)), width - width // 4 - left - middle - 3)
    room = width - left - middle - right - 3
    drawn = [axis(left + middle + 2, room, end - start)]
    for line, label, service, told in zip(lines, labels, services, telling, strict=True):
        node = line.node
        bold = " bold" if node.span and node.span.operation_id == chosen else ""
        text = Text(f"{cut(label, left):<{left}} ", style=("" if node.span else "dim") + bold)
        text.append(f"{cut(service, middle):<{middle}} ", style="dim")
        text.append(bar(node, start, end, room), style=style_of(node))
        text.append(f" {cut(told, right)}", style=style_of(node))
        text.rstrip()
        drawn.append(text)
    return drawn


def label_of(line: Line) -> str:
    return line.branches + line.node.label


def service_of(node: Node) -> str:
    return node.span.service.removeprefix("gatehouse-") if node.span else ""


def told_of(node: Node) -> str:
    """The duration, and what became of it."""
    if node.span is None:
        return "not in the log"
    parts = [] if node.start == node.end else [duration(node.end - node.start)]
    if node.span.name != INTENT:
        parts.append(outcome_word(node.span.outcome))
    parts += [part for part in (node.span.reason, node.span.model_used) if part]
    if node.moved:
        parts.append(f"(clock −{duration(node.moved)})")
    return " ".join(parts)


def style_of(node: Node) -> str:
    return OUTCOME_STYLES.get(node.span.outcome, "") if node.span else "dim"


def bar(node: Node, start: int, end: int, room: int) -> str:
    """From when to when, in *room* cells: at least one, and never past either end."""
    scale = room / max(1, end - start)
    first = min(room - 1, int((node.start - start) * scale))
    last = min(room, max(first + 1, round((node.end - start) * scale)))
    glyph = "┄" if node.span is None else "◆" if node.start == node.end else "━"
    return (" " * first + glyph * (last - first)).ljust(room)


def axis(before: int, room: int, length: int) -> Text:
    """Where it begins and how long it lasts."""
    whole = duration(length)
    return Text(f"{'':<{before}}0{whole:>{max(0, room - 1)}}", style="dim")


def duration(microseconds: int) -> str:
    """A length of time in its fitting unit, to three digits."""
    if microseconds < 1000:
        return f"{microseconds} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.3g} ms" if microseconds < 999_500 else "1 s"
    seconds = microseconds / 1_000_000
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
