"""Scores the interpreter on requests that people made, without any model of elsewhere.

`python -m bench.interpret_score [--errors KIND | --sure] [--source NAME] [--every N]`; README.md
says what is counted. The requests are not part of the project: they are in `$GATEHOUSE_TEST_DATA`.
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1.entitlements_pb2 import DomainDescriptor
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format
from rich.console import Console
from rich.table import Table

from bench.measuring import quantile
from services.gateway.interpret import Interpreter
from services.gateway.interpret.second import weights_in
from services.gateway.notices import open_notices
from services.gateway.reading import Reading, nearest_locale

DOMAINS = Path(__file__).parent / "interpret_domains.yaml"
# A Monday, noon in São Paulo.
NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)
ZONE = ZoneInfo("America/Sao_Paulo")
# For scoring what was not learned from, the requests are parted, and each is left out once.
PARTS = 5
SURE_FROM = (0.0, 0.6, 0.75, 0.8, 0.85, 0.95)
UNCHANGING = ("read", "none")
# Which operation, and on what, is understood; a value, a day or the very record is asked for.
OF_VALUES = (pb.AMBIGUITY_MISSING_VALUE, pb.AMBIGUITY_DATE, pb.AMBIGUITY_TARGET)


@dataclass(frozen=True)
class Request:
    """A request, and what it was labelled as."""

    text: str
    locale: str
    source: str
    domain: str
    operation: str
    strict: bool
    how_to: bool


@dataclass(frozen=True)
class Scored:
    """What the interpreter made of a request."""

    request: Request
    verbs: tuple[str, ...]
    domains: tuple[str, ...]
    # What is asked back, or "".
    asks: str
    microseconds: float
    # How sure the interpreter says it is; 0 with a question.
    sure: float = 0.0

    @property
    def understood(self) -> bool:
        """It says which operation is asked for, even where a value of it is still asked for."""
        return bool(self.verbs)

    @property
    def changes(self) -> bool:
        return any(each != "read" for each in self.verbs)

    @property
    def verb_right(self) -> bool:
        changing = {each for each in self.verbs if each != "read"}
        return (changing or set(self.verbs)) == {self.request.operation}

    @property
    def domain_right(self) -> bool:
        return self.request.domain in self.domains

    @property
    def changes_wrongly(self) -> bool:
        return self.changes and self.request.operation in UNCHANGING

    @property
    def deletes_wrongly(self) -> bool:
        return "delete" in self.verbs and self.request.operation != "delete"


@cache
def domains(path: Path = DOMAINS) -> Mapping[str, DomainDescriptor]:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))["domains"]
    parsed = [json_format.ParseDict(each, DomainDescriptor()) for each in read]
    return {each.name: each for each in parsed}


def requests_in(folder: Path) -> list[Request]:
    """Every request of the sets, in a fixed order."""
    return [
        request_of(json.loads(line), file.name)
        for file in sorted(folder.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def request_of(row: Mapping[str, Any], file: str) -> Request:
    return Request(
        row["text"],
        row["locale"],
        row["source"],
        row["domain"],
        row["operation"],
        row["strict"],
        how_to=file.startswith("howto_modify"),
    )


def part_of(request: Request, seed: int = 0) -> int:
    """Which of the parts a request is in: the same for the same words."""
    words = f"{seed or ''}{request.text.casefold()}"
    digest = hashlib.blake2b(words.encode(), digest_size=4).digest()
    return int.from_bytes(digest) % PARTS


@cache
def interpreter(weights: Path | None) -> Interpreter:
    read = weights_in(weights.read_text(encoding="utf-8")) if weights else None
    return Interpreter(None, open_notices(), read)


def score(request: Request, cross: Path | None = None, seed: int = 0) -> Scored:
    """Read *request*; with *cross* by weights that were not learned from its part."""
    weights = cross / f"without{part_of(request, seed)}.tsv" if cross else None
    reader = interpreter(weights)
    reading = Reading(nearest_locale(request.locale), ZONE, NOW)
    begun = time.perf_counter()
    found = asyncio.run(
        reader.interpret(request.text, domains(), reading, model_tiers=(), rules_only=True)
    )
    took = 1e6 * (time.perf_counter() - begun)
    operations = [each.operation for each in found.interpretation.operations]
    asked = found.clarification
    return Scored(
        request,
        tuple(domain_pb2.Verb.Name(each.verb)[5:].lower() for each in operations),
        tuple(each.domain for each in operations),
        pb.Ambiguity.Name(asked.ambiguity)[10:].lower() if asked is not None else "",
        took,
        found.interpretation.confidence,
    )


def scores(requests: Sequence[Request], cross: Path | None = None, seed: int = 0) -> list[Scored]:
    with multiprocessing.Pool(min(2, os.cpu_count() or 1)) as pool:
        return pool.map(partial(score, cross=cross, seed=seed), requests, chunksize=100)


# the figures


def share(found: Iterable[bool]) -> float:
    """How many of them hold, 0 to 1; not a number where there are none."""
    every = list(found)
    return sum(every) / len(every) if every else float("nan")


def figures(scored: Sequence[Scored]) -> dict[str, float]:
    """Everything that is counted of some requests; README.md says what each means."""
    strict = [each for each in scored if each.request.strict and each.request.operation != "none"]
    understood = [each for each in scored if each.request.strict and each.understood]
    real = [each for each in understood if each.request.operation != "none"]
    still = [each for each in scored if each.request.operation in UNCHANGING]
    how_to = [each for each in scored if each.request.how_to]
    return {
        "rows": len(scored),
        "operation right": share(each.verb_right for each in understood),
        "answered": share(each.understood for each in strict),
        "unasked": share(each.understood and not each.asks for each in strict),
        "domain right": share(each.domain_right for each in real),
        "wrong change": share(each.changes_wrongly for each in still),
        "wrong delete": share(each.deletes_wrongly for each in scored),
        "how-to done": sum(each.changes for each in how_to),
        "p50 µs": quantile([each.microseconds for each in scored], 0.5),
        "p95 µs": quantile([each.microseconds for each in scored], 0.95),
    }


def grouped(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Everything, then by language, then by language and source."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for name_of in (
        lambda _: "all",
        lambda each: each.request.locale[:2],
        lambda each: f"{each.request.locale[:2]} {each.request.source}",
    ):
        for each in sorted(scored, key=name_of):
            groups[name_of(each)].append(each)
    return groups


def shown(scored: Sequence[Scored]) -> Table:
    table = Table()
    table.add_column("requests")
    for name, found in grouped(scored).items():
        counted = figures(found)
        if not table.rows:
            for column in counted:
                table.add_column(column, justify="right")
        table.add_row(name, *(cell(column, value) for column, value in counted.items()))
    return table


def cell(column: str, value: float) -> str:
    if value != value:
        return ""
    if column in ("rows", "how-to done") or column.endswith("µs"):
        return f"{value:.0f}"
    return f"{100 * value:.2f} %"


def reliability(scored: Sequence[Scored]) -> Table:
    """How often the operation is right, by how sure the interpreter says it is."""
    table = Table("sure, from", "requests", "operation right")
    told: dict[float, list[bool]] = defaultdict(list)
    for each in scored:
        if each.request.strict and each.understood and not each.asks:
            told[max(one for one in SURE_FROM if one <= round(each.sure, 2))].append(
                each.verb_right
            )
    for sure, right in sorted(told.items()):
        table.add_row(f"{sure:.2f}", str(len(right)), f"{100 * share(right):.1f} %")
    return table


ERRORS = {
    "operation": lambda each: each.request.strict and each.understood and not each.verb_right,
    "domain": lambda each: each.request.strict and each.understood and not each.domain_right,
    "asked": lambda each: (
        each.request.strict and each.request.operation != "none" and not each.understood
    ),
    "values": lambda each: each.request.strict and each.understood and bool(each.asks),
    "change": lambda each: each.changes_wrongly,
    "delete": lambda each: each.deletes_wrongly,
}


def lines(scored: Sequence[Scored], kind: str) -> Iterable[str]:
    for each in scored:
        if ERRORS[kind](each):
            request = each.request
            wanted = f"{request.operation} {request.domain}"
            asks = [f"?{each.asks}"] if each.asks else []
            made = " ".join([*each.verbs, *dict.fromkeys(each.domains), *asks])
            yield f"{request.locale} {request.source}\t{wanted}\t{made}\t{request.text}"


def data_folder() -> Path | None:
    """Where the requests are, or None."""
    folder = Path(os.environ.get("GATEHOUSE_TEST_DATA", "../shared/data")) / "utterances"
    return folder if folder.is_dir() else None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.interpret_score", description="Score the interpreter."
    )
    parser.add_argument("--errors", choices=ERRORS, help="list the requests of a kind of error")
    parser.add_argument("--source", default="", help="only sources whose name begins so")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th request")
    parser.add_argument("--sure", action="store_true", help="show how right by how sure it is")
    told = "score each part by weights learned without it, which interpret_train --cross writes"
    parser.add_argument("--cross", type=Path, metavar="FOLDER", help=told)
    parser.add_argument("--seed", type=int, default=0, help="that those tables were learned with")
    asked = parser.parse_args()
    folder = data_folder()
    if folder is None:
        sys.stderr.write("the requests are absent: set GATEHOUSE_TEST_DATA to their folder\n")
        return 2
    requests = [each for each in requests_in(folder) if each.source.startswith(asked.source)]
    scored = scores(requests[:: asked.every], asked.cross, asked.seed)
    if asked.errors:
        for line in lines(scored, asked.errors):
            sys.stdout.write(line + "\n")
    else:
        Console(width=200).print(reliability(scored) if asked.sure else shown(scored))
    return 0


if __name__ == "__main__":
    sys.exit(main())
