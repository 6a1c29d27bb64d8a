"""Reads an instruction by the rules, by a model where they are in doubt, or asks back (GAT-4)."""

from collections.abc import Sequence
from dataclasses import dataclass

from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2

from services.gateway.interpret.checking import Descriptors, violations
from services.gateway.interpret.clauses import clauses_of
from services.gateway.interpret.lexicon import lexicon_of
from services.gateway.interpret.model import read_by_model
from services.gateway.interpret.rules import Doubt, Read, read_by_rules, words_for
from services.gateway.interpret.text import words_of
from services.gateway.notices import Notices
from services.gateway.peers import Complete
from services.gateway.reading import Reading

SURE = 0.8
QUESTIONS = {
    pb.AMBIGUITY_TARGET: "interpret-which-record",
    pb.AMBIGUITY_DATE: "interpret-which-day",
    pb.AMBIGUITY_DOMAIN: "interpret-which-domain",
    pb.AMBIGUITY_OPERATION: "interpret-what-to-do",
    pb.AMBIGUITY_MISSING_VALUE: "interpret-which-value",
}


@dataclass(frozen=True)
class Interpreted:
    """What an instruction comes to; with a clarification nothing may be changed."""

    interpretation: pb.Interpretation
    clarification: pb.Clarification | None
    completion: router_pb2.Finished | None = None


class Interpreter:
    """Reads instructions. Without *complete* the rules alone do (GAT-12)."""

    def __init__(self, complete: Complete | None, notices: Notices) -> None:
        self._complete = complete
        self._notices = notices

    async def interpret(
        self,
        instruction: str,
        descriptors: Descriptors,
        reading: Reading,
        *,
        model_tiers: Sequence[tier_pb2.Tier.ValueType],
        rules_only: bool = False,
    ) -> Interpreted:
        """Read *instruction*. Raises InvalidInput for what is no text.

        A model is asked where the rules are in doubt, and never to change what the words forbid
        or only ask about.
        """
        read = checked(read_by_rules(instruction, descriptors, reading), descriptors)
        if rules_only or self._complete is None or read.confidence >= SURE:
            return self._by_rules(read, descriptors, reading)
        found = await read_by_model(instruction, descriptors, reading, self._complete, model_tiers)
        if found is None or (forbids_change(instruction, reading) and changes(found[0])):
            return self._by_rules(read, descriptors, reading)
        operations, finished = found
        interpretation = pb.Interpretation(
            operations=operations,
            confidence=min(each.confidence for each in operations),
            reader=pb.READER_MODEL,
            model_used=finished.model_used,
            failover=finished.failover,
            locale=reading.locale,
        )
        return Interpreted(interpretation, None, finished)

    def _by_rules(self, read: Read, descriptors: Descriptors, reading: Reading) -> Interpreted:
        interpretation = pb.Interpretation(
            operations=read.operations if read.doubt is None else [],
            confidence=read.confidence,
            reader=pb.READER_RULES,
            locale=reading.locale,
        )
        clarification = None
        if read.doubt is not None:
            clarification = self._clarification(read.doubt, descriptors, reading.locale)
        return Interpreted(interpretation, clarification)

    def _clarification(
        self, doubt: Doubt, descriptors: Descriptors, locale: str
    ) -> pb.Clarification:
        question = self._notices.sentence(QUESTIONS[doubt.ambiguity], locale)
        made = pb.Clarification(ambiguity=doubt.ambiguity, question=question)
        if doubt.ambiguity == pb.AMBIGUITY_DOMAIN:
            made.options.extend(domain_options(descriptors, locale))
        return made


def checked(read: Read, descriptors: Descriptors) -> Read:
    """What the rules read, unless the descriptors do not allow it."""
    for each in read.operations:
        if read.doubt is None and violations(each.operation, descriptors):
            return Read(read.operations, Doubt(pb.AMBIGUITY_OPERATION))
    return read


def domain_options(descriptors: Descriptors, locale: str) -> list[pb.Option]:
    """Each domain in the user's words, with what shows its records."""
    options = []
    for name, descriptor in descriptors.items():
        words = words_for(descriptor.synonyms, locale)
        shown = pb.Operation(
            domain=name, verb=domain_pb2.VERB_READ, entity=descriptor.entities[0].name
        )
        options.append(
            pb.Option(
                label=words[0] if words else name,
                operations=pb.OperationList(operations=[shown]),
            )
        )
    return options


def forbids_change(instruction: str, reading: Reading) -> bool:
    """Whether the words say not to, or ask whether or how to: then nothing is changed."""
    clauses = clauses_of(words_of(instruction), lexicon_of(reading.locale))
    return any(each.negated or each.asks_how for each in clauses)


def changes(operations: Sequence[pb.InterpretedOperation]) -> bool:
    return any(each.operation.verb != domain_pb2.VERB_READ for each in operations)
