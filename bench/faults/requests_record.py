"""What a caller asks for, what each of its tries brought, and what may follow what."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

Request: TypeAlias = pb.ExecuteRequest | pb.AnalyzeRequest | pb.RecommendRequest
Answer: TypeAlias = pb.ExecuteResponse | pb.AnalyzeResponse | pb.RecommendResponse

CHANGES = (domain_pb2.VERB_CREATE, domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE)
# How a call ends that says nothing of its request: the same is sent again under its id.
AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")
# The one field in which a replay may differ from the first answer.
VARIES = "replayed"


@dataclass
class Try:
    """One call of a request, and how it ended."""

    gateway: str
    deadline: float
    began: float
    ended: float = 0.0
    # OK, or the status and the reason.
    outcome: str = ""
    # The caller cancelled it itself.
    cancelled: bool = False

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_answered(self) -> bool:
        """Whether it brought an answer or a refusal, rather than nothing."""
        return bool(self.outcome) and self.outcome.split()[0] not in AGAIN


@dataclass
class Asked:
    """One request of a user, through all its tries."""

    method: str
    request: Request
    user_id: str
    clinic: str
    metadata: list[tuple[str, str]]
    # Waits for its answer with a long deadline, and tries again at once.
    patient: bool = False
    tries: list[Try] = field(default_factory=list)
    # Of a request in words: the name of the client that it makes, if it makes one.
    name_in_words: str = ""
    # It was sent to both gateways at once: either answer may come first.
    twice_at_once: bool = False
    # The caller asked for it to be cancelled.
    cancelled: bool = False
    # Figures came, although perhaps no whole answer.
    partly: bool = False
    final: Answer | None = None
    refused: str = ""
    # What contradicts what was answered before.
    contradictions: list[str] = field(default_factory=list)
    # What is known of each operation, by index: whether it was done.
    known: dict[int, bool] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        return str(self.request.request_id)

    @property
    def is_settled(self) -> bool:
        return self.final is not None or bool(self.refused)

    @property
    def is_cancelled(self) -> bool:
        return self.cancelled or any(each.cancelled for each in self.tries)

    @property
    def operations(self) -> list[pb.Operation]:
        """What was asked for; of words, what the final answer says that they come to."""
        if not isinstance(self.request, pb.ExecuteRequest):
            return []
        if self.request.instruction:
            return understood(self.final) if isinstance(self.final, pb.ExecuteResponse) else []
        return list(self.request.operations.operations)

    @property
    def changes(self) -> bool:
        return bool(self.name_in_words) or any(each.verb in CHANGES for each in self.operations)

    @property
    def new_clients(self) -> list[tuple[str, bool]]:
        """The names of the clients to make, and whether they were reported as made."""
        made: set[int] = set()
        if isinstance(self.final, pb.ExecuteResponse):
            made = {each.index for each in self.final.report.successes}
        if self.name_in_words:
            return [(self.name_in_words, bool(made))]
        return [
            (each.fields["name"], index in made)
            for index, each in enumerate(self.operations)
            if each.verb == domain_pb2.VERB_CREATE and each.domain == "clients"
        ]

    def reads(self) -> tuple[int, int]:
        """How many reads it counts: at least, and at most (USE-2)."""
        match self.final:
            case pb.ExecuteResponse():
                count = int(bool(self.final.report.successes) and not self.changes)
                return count, count
            case pb.AnalyzeResponse():
                count = int(bool(self.final.results) or self.partly)
                return count, count
            case pb.RecommendResponse():
                # Nothing to recommend is an answer; that no domain computed anything is none, and
                # looks the same.
                incomplete = any(
                    each.kind == pb.NOTICE_KIND_INCOMPLETE for each in self.final.notices
                )
                is_empty = not self.final.recommendations and incomplete
                return int(not is_empty), 1
        return int(self.partly), int(self.partly)

    def modifies(self) -> int:
        """How many changes were reported as done."""
        if not isinstance(self.final, pb.ExecuteResponse):
            return 0
        return sum(each.verb in CHANGES for each in self.final.report.successes)

    def hear(self, answer: Answer) -> None:
        """Take an answer in: it is final unless an outcome or a confirmation is open."""
        if isinstance(answer, pb.ExecuteResponse):
            if answer.HasField("confirmation"):
                if self.final is not None:
                    self.contradictions.append("is to be confirmed although it was answered")
                return
            if answer.HasField("report"):
                self._hear_report(answer)
            if any(each.outcome_unknown for each in answer.report.failures):
                return
        if self.refused:
            self.contradictions.append(f"was refused ({self.refused}), then answered")
        if self.final is None:
            self.final = answer
            return
        if as_first(answer) != as_first(self.final):
            self.contradictions.append(f"was answered otherwise: {difference(self.final, answer)}")
        if not (getattr(answer, VARIES, False) or self.twice_at_once):
            self.contradictions.append("was answered again, and not as a replay")

    def refuse(self, outcome: str) -> None:
        """Take in a refusal of the whole."""
        if self.final is not None or self.partly or any(self.known.values()):
            self.contradictions.append(f"was answered, then refused: {outcome}")
        else:
            self.refused = outcome

    def _hear_report(self, answer: pb.ExecuteResponse) -> None:
        report = answer.report
        asked = understood(answer) if answer.HasField("interpretation") else self.operations
        indexes = [each.index for each in (*report.successes, *report.failures)]
        if sorted(indexes) != list(range(len(asked))):
            self.contradictions.append(f"its report is of the operations {sorted(indexes)}")
        told = [(each.index, True) for each in report.successes]
        told += [(each.index, False) for each in report.failures if not each.outcome_unknown]
        for index, is_done in told:
            if self.known.setdefault(index, is_done) != is_done:
                self.contradictions.append(f"operation {index} is reported as done and as not done")

    def outcomes(self) -> Iterator[tuple[str, pb.Operation, bool, str]]:
        """Each operation of its report: its id, itself, whether it was done, and why not."""
        if isinstance(self.final, pb.ExecuteResponse):
            for done in self.final.report.successes:
                yield done.operation_id, self.operations[done.index], True, ""
            for failed in self.final.report.failures:
                reason = reason_of(failed.status)
                yield failed.operation_id, self.operations[failed.index], False, reason


def understood(answer: pb.ExecuteResponse) -> list[pb.Operation]:
    """The operations that the words of a request come to."""
    return [each.operation for each in answer.interpretation.operations]


def as_first(answer: Answer) -> bytes:
    """The bytes of an answer, less what may vary."""
    same = type(answer)()
    same.CopyFrom(answer)
    if VARIES in same.DESCRIPTOR.fields_by_name:
        same.ClearField(VARIES)
    return same.SerializeToString(deterministic=True)


def difference(first: Answer, later: Answer) -> str:
    """The names of the fields in which two answers differ."""

    def fields(answer: Message) -> dict[str, Any]:
        return {each.name: value for each, value in answer.ListFields() if each.name != VARIES}

    before, after = fields(first), fields(later)
    names = sorted(before.keys() | after.keys())
    return ", ".join(each for each in names if before.get(each) != after.get(each))


def reason_of(status: Status) -> str:
    """The machine-readable reason of a status."""
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")
