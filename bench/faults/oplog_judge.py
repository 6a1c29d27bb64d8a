"""Holds what callers were told against the log and the clinic's tables (LOG-2, GAT-6)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from bench.faults.breaking import Findings

ABANDONED = "OPERATION_ABANDONED"
CHANGES = (domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)


@dataclass(frozen=True)
class Said:
    """What an answer says of an operation: that it was done, or why it was not."""

    operation_id: str
    succeeded: bool
    reason: str = ""

    def __str__(self) -> str:
        return "done" if self.succeeded else f"not done, {self.reason}"

    def agrees(self, succeeded: bool, reason: str) -> bool:
        """Whether this and another word of the same operation can both be true.

        What was left by a gateway that died is learnt from the domain, which knows that it was not
        done, and not why: whoever carried it out may have said more.
        """
        if succeeded or self.succeeded:
            return succeeded == self.succeeded
        return reason == self.reason or ABANDONED in (reason, self.reason)


@dataclass
class Asked:
    """A request of a user's, and what was said of each of its operations, by index."""

    request: pb.ExecuteRequest
    call: dict[str, Any]
    # Of its operations, by index; empty until they are looked up, or where it was never taken on.
    ids: list[str] = field(default_factory=list)
    said: dict[int, Said] = field(default_factory=dict)
    # Its caller went away and never came back.
    given_up: bool = False

    def hears(self, index: int, said: Said) -> bool:
        """Whether this may be said of an operation after all that was said of it before.

        The answer to a read is given although it cannot be kept, while the store is away. Asked
        again it is read again: what counts is whether it ever was.
        """
        before = self.said.setdefault(index, said)
        if said.operation_id != before.operation_id:
            return False
        if self.request.operations.operations[index].verb in CHANGES:
            return before.agrees(said.succeeded, said.reason)
        if said.succeeded:
            self.said[index] = said
        return True

    def operations(self) -> Iterator[tuple[str, pb.Operation, Said | None]]:
        for index, id_ in enumerate(self.ids):
            yield id_, self.request.operations.operations[index], self.said.get(index)


@dataclass(frozen=True)
class Row:
    operation_id: str
    outcome: str
    reason: str


@dataclass
class Kept:
    """What there is at the end."""

    rows: list[Row]
    # When the first intent of an operation was recorded, by its id.
    intents: dict[str, datetime]
    # How often the log has asked the clinic, and was told.
    settled_later: int
    # When the clinic carried an operation out, by its id.
    applied: dict[str, datetime]
    # How many clients have a name.
    clients: Counter[str]
    # What the log did not understand.
    quarantined: list[str]
    # What is in the spools still.
    files: list[str]


@dataclass
class LogFindings(Findings):
    """What the run counted, and what it found to be wrong."""

    requests: int = 0
    given_up: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    rows: int = 0
    intents: int = 0
    settled_later: int = 0
    lost: int = 0
    duplicates: int = 0

    def counted(self) -> dict[str, int]:
        return {
            "requests answered for good": self.requests,
            "given up by their callers": self.given_up,
            "asked again later": self.replayed,
            **{f"operations {name}": count for name, count in sorted(self.operations.items())},
            "rows in the log": self.rows,
            "operations settled by asking": self.settled_later,
            "intents in the log": self.intents,
            "operations without a row": self.lost,
            "rows and effects too many": self.duplicates,
        }


def said_in(answer: pb.ExecuteResponse) -> list[tuple[int, Said | None]]:
    """Each operation of a report by its index; None where its outcome is not known yet."""
    done: list[tuple[int, Said | None]] = [
        (each.index, Said(each.operation_id, True)) for each in answer.report.successes
    ]
    for each in answer.report.failures:
        said = Said(each.operation_id, False, reason_in(each.status))
        done.append((each.index, None if each.outcome_unknown else said))
    return done


def reason_in(status: Status) -> str:
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def judged(asked: list[Asked], kept: Kept, findings: LogFindings) -> None:
    """Count, and find what contradicts."""
    said = {each.operation_id: each for one in asked for each in one.said.values()}
    findings.requests = sum(bool(one.said) for one in asked)
    findings.given_up = sum(one.given_up and not one.said for one in asked)
    findings.operations = Counter(str(each) for each in said.values())
    findings.rows = len(kept.rows)
    findings.intents = len(kept.intents)
    findings.settled_later = kept.settled_later
    answers_and_rows(asked, kept, findings)
    effects(asked, kept, findings)
    for problem in kept.quarantined:
        findings.broken(f"the log did not understand: {problem}")
    for file in kept.files:
        findings.broken(f"{file} is left in a spool")


def answers_and_rows(asked: list[Asked], kept: Kept, findings: LogFindings) -> None:
    """What was answered has one row that says the same; no row is of what nobody asked for."""
    rows: dict[str, list[Row]] = {}
    for row in kept.rows:
        rows.setdefault(row.operation_id, []).append(row)
        if row.outcome == "unknown":
            findings.broken(f"{row.operation_id} is unsettled")
    for one in asked:
        for id_, operation, said in one.operations():
            changes = operation.verb in CHANGES
            one_row(id_, said, rows.pop(id_, []), findings, changes=changes)
    for id_ in rows:
        findings.broken(f"{id_} has a row, and nobody asked for it")


def one_row(
    id_: str, said: Said | None, rows: list[Row], findings: LogFindings, *, changes: bool
) -> None:
    if len(rows) > 1:
        findings.duplicates += len(rows) - 1
        findings.broken(f"{id_} has {len(rows)} rows")
    if said is None:
        return
    if not rows:
        findings.lost += 1
        findings.broken(f"{id_} was answered as {said}, and has no row")
    for row in rows:
        # A read that was cut off is read again: its row says whether it ever was, told or not.
        succeeded = row.outcome == "succeeded"
        agrees = said.agrees(succeeded, row.reason) if changes else said.succeeded <= succeeded
        if not agrees:
            findings.broken(f"{id_} was answered as {said}, its row is {row}")


def effects(asked: list[Asked], kept: Kept, findings: LogFindings) -> None:
    """What the clinic has done was intended before, is told as done, and was done once."""
    rows = {row.operation_id: row for row in kept.rows}
    for one in asked:
        for id_, operation, said in one.operations():
            if operation.verb not in CHANGES:
                continue  # the clinic keeps the reads of a batch that changes something, too
            at, intended = kept.applied.get(id_), kept.intents.get(id_)
            if at is not None and (intended is None or intended > at):
                findings.broken(f"{id_} was done at {at}, and intended at {intended}")
            if said is not None and said.succeeded != (at is not None):
                findings.broken(f"{id_} was answered as {said}, and done at {at}")
            row = rows.get(id_)
            if at is not None and (row is None or row.outcome != "succeeded"):
                findings.broken(f"{id_} was done at {at}, and its row is {row}")
            if at is None and row is not None and row.outcome == "succeeded":
                findings.broken(f"{id_} was never done, and its row is {row}")
            if (name := name_in(operation)) is not None:
                there, wanted = kept.clients[name], int(at is not None)
                findings.duplicates += max(0, there - wanted)
                if there != wanted:
                    findings.broken(f"{name} of {id_} is there {there} times, done at {at}")


def name_in(operation: pb.Operation) -> str | None:
    """The name that a new client gets; nothing else has it."""
    is_new = operation.verb == domain_pb2.VERB_CREATE and operation.entity == "client"
    return str(operation.fields["name"]) if is_new else None
