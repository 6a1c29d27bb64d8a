"""Commands that find tampering: the chain is walked, and digests are kept elsewhere."""

import base64
import binascii
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from google.protobuf.json_format import MessageToDict
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.connection import Suite, Unusable, find_suite, told_plainly
from services.cli.operations import AsJson, Since, Until, stamped
from services.cli.output import console, notes

# What is found is told apart from what could not be looked at, which ends with 1.
BROKEN = 3
LINKS_AT_ONCE = 20_000
DIGESTS_AT_ONCE = 500
RETRIES, RETRY_SECONDS = 5, 1.0
GOOD = (pb.DIGEST_MATCH_HELD, pb.DIGEST_MATCH_DROPPED)
WHAT = {
    pb.TAMPERING_CHANGED: "was changed",
    pb.TAMPERING_REMOVED: "was removed",
    pb.TAMPERING_INSERTED: "was inserted",
    pb.TAMPERING_REORDERED: "is at another place than it was written",
}
MATCHES = {
    pb.DIGEST_MATCH_HELD: "held",
    pb.DIGEST_MATCH_DIFFERS: "no longer match: rows up to there were rewritten",
    pb.DIGEST_MATCH_MISSING: "seal what is gone: rows were removed",
    pb.DIGEST_MATCH_DROPPED: "seal what retention has dropped since",
    pb.DIGEST_MATCH_FORGED: "are not signed by the log",
}


@dataclass(frozen=True)
class Compared:
    """What digests came to, and the position of the first that does not hold."""

    counts: Counter[pb.DigestMatch.ValueType]
    first_bad: int | None

    @property
    def holds(self) -> bool:
        return set(self.counts) <= set(GOOD)


def verify(
    since: Since = "",
    until: Until = "",
    kept_file: Annotated[
        Path | None,
        typer.Option("--digests", help="digests that were kept elsewhere, to compare as well"),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="the log's public key, PEM: check the digests by it here")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Whether the log's hash chain and its seals hold, and names the first row that does not.

    Ends with 3 when something does not hold, with 1 when it could not be looked at.
    """
    with told_plainly():
        kept = read_digests(kept_file) if kept_file else []
        if public_key is not None:
            check_signatures(kept, public_key)
        suite = find_suite(admin=True)
        with suite.channel("oplog") as channel:
            stub = OperationLogServiceStub(channel)
            found = walked(stub, suite, since, until)
            compared = compared_with(stub, suite, kept) if kept else None
    holds = found.intact and (compared is None or compared.holds)
    if as_json:
        print(json.dumps(as_document(found, compared), indent=2))
    else:
        for line in (*told_of_chain(found), *(told_of_digests(compared) if compared else ())):
            console.print(line, highlight=False)
    if not holds:
        raise SystemExit(BROKEN)


def digests(
    to: Annotated[
        Path | None, typer.Option(help="add those that this file does not have; else all are shown")
    ] = None,
) -> None:
    """The signed digests of the log, one a line, to be kept where its database is not.

    With --to, the last digest in the file is compared first: ends with 3 when it does not hold.
    """
    with told_plainly():
        kept = read_digests(to) if to and to.exists() else []
        suite = find_suite(admin=True)
        with suite.channel("oplog") as channel:
            stub = OperationLogServiceStub(channel)
            if kept and not (compared := compared_with(stub, suite, kept[-1:])).holds:
                notes.print(*told_of_digests(compared), highlight=False)
                raise SystemExit(BROKEN)
            found = digests_after(stub, suite, position_in(kept[-1]) if kept else 0)
            if to is None:
                for digest in found:
                    print(digest.jws)
            else:
                added = append_durably(to, [digest.jws for digest in found])
                notes.print(f"digests added to {to}: {added}", highlight=False)


def walked(
    stub: OperationLogServiceStub, suite: Suite, since: str, until: str
) -> pb.VerifyChainResponse:
    """The whole walk, page by page, as one answer."""
    request = pb.VerifyChainRequest(page_size=LINKS_AT_ONCE)
    if since:
        request.start_time.CopyFrom(stamped(since))
    if until:
        request.end_time.CopyFrom(stamped(until))
    columns = (
        TextColumn("walking the chain"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    checked = seals = 0
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as shown:
        task = shown.add_task("", total=None)
        while True:
            page: pb.VerifyChainResponse = retried(lambda: stub.VerifyChain(request, **suite.call))
            checked, seals = checked + page.checked, seals + page.seals_checked
            shown.update(task, total=page.last_position, completed=page.position)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                page.checked, page.seals_checked = checked, seals
                return page


def retried(call: Any) -> Any:
    """A replica that stops midway costs a page, not the walk."""
    for _ in range(RETRIES):
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(RETRY_SECONDS)
    return call()


def compared_with(stub: OperationLogServiceStub, suite: Suite, digests: Sequence[str]) -> Compared:
    counts: Counter[pb.DigestMatch.ValueType] = Counter()
    bad: list[int] = []
    for first in range(0, len(digests), DIGESTS_AT_ONCE):
        request = pb.CompareDigestsRequest(digests=digests[first : first + DIGESTS_AT_ONCE])
        answer = retried(lambda request=request: stub.CompareDigests(request, **suite.call))
        counts.update(each.match for each in answer.comparisons)
        bad += [each.position for each in answer.comparisons if each.match not in GOOD]
    return Compared(counts, min(bad, default=None))


def digests_after(
    stub: OperationLogServiceStub, suite: Suite, position: int
) -> Iterator[pb.Digest]:
    while True:
        request = pb.ListDigestsRequest(after_position=position, page_size=DIGESTS_AT_ONCE)
        found = retried(lambda request=request: stub.ListDigests(request, **suite.call)).digests
        yield from found
        if len(found) < DIGESTS_AT_ONCE:
            return
        position = found[-1].position


def read_digests(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{file} cannot be read: {error}") from None


def position_in(digest: str) -> int:
    """What a digest says that it seals; whether it is signed is asked elsewhere."""
    try:
        payload = digest.split(".")[1]
        content = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return int(content["position"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        raise Unusable("the file's last line is no digest") from None


def check_signatures(digests: Sequence[str], public_key: Path) -> None:
    """End with what does not hold unless *public_key* signed every one of *digests*."""
    try:
        key = OKPKey.import_key(public_key.read_bytes())
    except (OSError, JoseError, ValueError) as error:
        raise Unusable(f"{public_key} is no public key, PEM: {error}") from None
    for number, digest in enumerate(digests, 1):
        try:
            jws.deserialize_compact(digest, key, algorithms=["Ed25519"])
        except (JoseError, ValueError):
            print(f"broken: digest {number} is not signed by {public_key}", file=sys.stderr)
            raise SystemExit(BROKEN) from None


def append_durably(file: Path, digests: Sequence[str]) -> int:
    try:
        with file.open("a") as opened:
            opened.writelines(f"{digest}\n" for digest in digests)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise Unusable(f"{file} cannot be written: {error.strerror}") from None
    return len(digests)


def told_of_chain(found: pb.VerifyChainResponse) -> Iterator[str]:
    if found.intact:
        yield f"[green]intact[/green]: {found.checked:,} links, up to position {found.position:,}"
    else:
        yield f"[bold red]broken[/bold red]: {fault_in(found.broken)}"
        yield f"what is before it holds: {found.checked:,} links"
    if not found.sealed_position:
        yield "[yellow]nothing of it is sealed[/yellow]: who rewrote all its hashes is not found"
    elif found.intact and found.sealed_position < found.position:
        unsealed = found.position - found.sealed_position
        yield f"[yellow]the last {unsealed:,} links are not sealed[/yellow]"
    else:
        seals = f"seals that hold: {found.seals_checked:,}"
        yield f"sealed up to position {found.sealed_position:,}; {seals}"
    if found.dropped_position:
        yield f"retention has dropped what was up to position {found.dropped_position:,}"
    yield f"the last hash is {found.head}"


def fault_in(broken: pb.BrokenLink) -> str:
    match broken.tampering:
        case pb.TAMPERING_REWRITTEN:
            return (
                f"links from position {broken.position:,} to {broken.seal_position:,}"
                " were rewritten with their hashes: they are not what was sealed"
            )
        case pb.TAMPERING_SEAL_FORGED:
            return f"the seal at position {broken.seal_position:,} is not signed by the log"
    of = f", of operation {broken.operation_id}," if broken.operation_id else ""
    sealed = f", which was sealed at {broken.seal_position:,}" if broken.seal_position else ""
    return f"the link at position {broken.position:,}{of} {WHAT[broken.tampering]}{sealed}"


def told_of_digests(compared: Compared) -> Iterator[str]:
    for match, count in sorted(compared.counts.items()):
        colour = "green" if match in GOOD else "bold red"
        yield f"digests: [{colour}]{count:,} {MATCHES[match]}[/{colour}]"
    if compared.first_bad is not None:
        yield f"the first that does not hold seals position {compared.first_bad:,}"


def as_document(found: pb.VerifyChainResponse, compared: Compared | None) -> dict[str, Any]:
    """As the service answers, with what the digests came to."""
    document: dict[str, Any] = MessageToDict(
        found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if compared is not None:
        counts = {pb.DigestMatch.Name(match): n for match, n in sorted(compared.counts.items())}
        document["digests"] = counts | {"first_bad_position": compared.first_bad}
    return document
