"""An operation in the making: what it is so far, and which words led to it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.protobuf import json_format

from services.gateway.interpret.clauses import Clause
from services.gateway.interpret.dates import When
from services.gateway.interpret.lexicon import Lexicon, Part
from services.gateway.interpret.mentions import Mention, text_between
from services.gateway.interpret.vocabulary import Kind
from services.gateway.reading import Reading

SKIPPED = (Part.FILLER, Part.MARK)


@dataclass(frozen=True)
class Choice:
    """One thing that was possibly meant: in words, and what would be done."""

    label: str | When
    operations: tuple[pb.Operation, ...] = ()


@dataclass(frozen=True)
class Doubt:
    """Why a clause is not carried out as it stands."""

    ambiguity: pb.Ambiguity.ValueType
    # What lacks a value, in the user's words.
    lacking: str = ""
    choices: tuple[Choice, ...] = ()
    # What is understood, where it is only a value, a day or the record that must be asked for.
    so_far: tuple[pb.InterpretedOperation, ...] = ()


def add_condition(
    operation: pb.Operation, name: str, value: Any, comparison: domain_pb2.Comparison.ValueType
) -> None:
    condition = operation.selector.conditions.conditions.add(field=name, comparison=comparison)
    json_format.ParseDict(value, condition.value)


class Unclear(Exception):
    """A clause cannot be read without asking first."""

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(doubt)
        self.doubt = doubt


class ManyTimes(Exception):
    """The mention at *index* may mean several times."""

    def __init__(self, index: int, readings: Sequence[When]) -> None:
        super().__init__(index)
        self.index = index
        self.readings = tuple(readings)


@dataclass
class Draft:
    """What a clause comes to as being about one kind of record."""

    clause: Clause
    kind: Kind
    mentions: list[Mention]
    instruction: str
    lexicon: Lexicon
    reading: Reading
    operation: pb.Operation = field(default_factory=pb.Operation)
    # Names or numbers of which each makes an operation of its own.
    targets: list[tuple[str, str, domain_pb2.Comparison.ValueType]] = field(default_factory=list)
    evidence: list[pb.Evidence] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    # It speaks of several records that went before: and cancel them.
    several: bool = False
    referred: bool = False
    # Something was supplied that the words do not say; a model may know better.
    guessed: bool = False
    # It was understood, and is too weighty or too uncertain to be done unasked.
    cautious: bool = False

    @property
    def verb(self) -> domain_pb2.Verb.ValueType:
        return self.operation.verb

    @property
    def creates(self) -> bool:
        return self.verb == domain_pb2.VERB_CREATE

    @property
    def reads(self) -> bool:
        return self.verb == domain_pb2.VERB_READ

    # mentions

    def take(self, index: int, part: str) -> None:
        """Say that a mention led to a part of the operation."""
        mention = self.mentions[index]
        words = self.clause.words[mention.first : mention.end]
        self.used.add(index)
        self.evidence.append(pb.Evidence(start=words[0].start, end=words[-1].end, part=part))

    def free(self, *parts: Part) -> list[int]:
        """The mentions of some parts that nothing has been made of yet."""
        return [
            index
            for index, each in enumerate(self.mentions)
            if each.part in parts and index not in self.used
        ]

    def part(self, index: int) -> Part | None:
        return self.mentions[index].part if 0 <= index < len(self.mentions) else None

    def before(self, index: int, skipped: Iterable[Part] = SKIPPED) -> int:
        """The mention before that says something; -1 for none."""
        index -= 1
        while index >= 0 and self.mentions[index].part in skipped:
            index -= 1
        return index

    def after(self, index: int, skipped: Iterable[Part] = SKIPPED) -> int:
        """The mention after that says something; the number of mentions for none."""
        index += 1
        while index < len(self.mentions) and self.mentions[index].part in skipped:
            index += 1
        return index

    def text(self, first: int, end: int) -> str:
        """What was written from one mention up to and without another."""
        words = self.mentions[first].first, self.mentions[end - 1].end
        return text_between(self.instruction, self.clause.words, *words)

    def field_before(self, index: int, holds: Callable[[str], bool]) -> tuple[int, str] | None:
        """The field that is named right before a mention, and where."""
        before = self.before(index)
        return self.field_at(before, holds)

    def field_at(self, index: int, holds: Callable[[str], bool]) -> tuple[int, str] | None:
        if self.part(index) is not Part.FIELD:
            return None
        found = next((name for name in self.mentions[index].meaning if holds(name)), None)
        return (index, found) if found is not None else None

    # the operation

    def where(self, name: str, value: Any, comparison: domain_pb2.Comparison.ValueType) -> None:
        add_condition(self.operation, name, value, comparison)

    def set(self, name: str, value: Any) -> None:
        self.operation.fields.update({name: value})

    @property
    def selects(self) -> bool:
        return bool(self.targets) or self.operation.selector.WhichOneof("target") is not None
