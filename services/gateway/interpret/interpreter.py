"""Reads an instruction by the rules, by a model where they are in doubt, or asks back (GAT-4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from babel.dates import format_date, format_time
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.router.v1 import router_pb2, tier_pb2

from services.gateway.interpret.agreement import read_by_both
from services.gateway.interpret.checking import Descriptors
from services.gateway.interpret.dates import When
from services.gateway.interpret.drafting import Choice, Doubt
from services.gateway.interpret.licence import allowed_changes
from services.gateway.interpret.model import read_by_model
from services.gateway.interpret.rules import Read
from services.gateway.interpret.scene import scene_of
from services.gateway.interpret.second import Weights, learned
from services.gateway.notices import Notices, moment, underscored
from services.gateway.peers import Complete
from services.gateway.reading import Reading
from services.gateway.references import linked

QUESTIONS = {
    pb.AMBIGUITY_TARGET: "interpret-which-record",
    pb.AMBIGUITY_DATE: "interpret-which-day",
    pb.AMBIGUITY_DOMAIN: "interpret-which-domain",
    pb.AMBIGUITY_OPERATION: "interpret-what-to-do",
    pb.AMBIGUITY_MISSING_VALUE: "interpret-which-value",
}
FIRST_WORDS = {
    "en-US": "cancel Ana's visit tomorrow at 10am and show the last",
    "pt-BR": "cancele a consulta de Ana amanhã às 10h e mostre a última",
    "es-ES": "cancela la cita de Ana mañana a las 10 y muestra la última",
}


@dataclass(frozen=True)
class Interpreted:
    """What an instruction comes to; with a clarification nothing may be changed."""

    interpretation: pb.Interpretation
    clarification: pb.Clarification | None
    completion: router_pb2.Finished | None = None


class Interpreter:
    """Reads instructions. Without *complete* no model is asked (GAT-12)."""

    def __init__(
        self, complete: Complete | None, notices: Notices, weights: Weights | None = None
    ) -> None:
        """*weights* are the second reader's, instead of those that come with it."""
        self._complete = complete
        self._notices = notices
        self._weights = weights or learned()
        warm(self._weights)

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

        A model is asked where the rules have not understood every word, and never to change what
        the words do not ask to be changed.
        """
        scene = scene_of(instruction, descriptors, reading)
        read = read_by_both(scene, self._weights)
        linked([each.operation for each in read.operations], descriptors)
        if rules_only or self._complete is None or not model_tiers or not may_know_better(read):
            return self._by_rules(read, reading)
        found = await read_by_model(instruction, descriptors, reading, self._complete, model_tiers)
        if found is None or not changes_of(found[0]) <= allowed_changes(scene):
            return self._by_rules(read, reading)
        operations, finished = found
        linked([each.operation for each in operations], descriptors)
        interpretation = pb.Interpretation(
            operations=operations,
            confidence=min(each.confidence for each in operations),
            reader=pb.READER_MODEL,
            model_used=finished.model_used,
            failover=finished.failover,
            locale=reading.locale,
        )
        return Interpreted(interpretation, None, finished)

    def _by_rules(self, read: Read, reading: Reading) -> Interpreted:
        interpretation = pb.Interpretation(
            operations=read.doubt.so_far if read.doubt else read.operations,
            confidence=read.confidence,
            reader=pb.READER_RULES,
            locale=reading.locale,
        )
        clarification = self._clarification(read.doubt, reading.locale) if read.doubt else None
        return Interpreted(interpretation, clarification)

    def _clarification(self, doubt: Doubt, locale: str) -> pb.Clarification:
        key = QUESTIONS[doubt.ambiguity]
        if doubt.lacking:
            question = self._notices.sentence(f"{key}.named", locale, field=doubt.lacking)
        else:
            question = self._notices.sentence(key, locale)
        return pb.Clarification(
            ambiguity=doubt.ambiguity,
            question=question,
            options=[option_of(each, locale) for each in doubt.choices],
        )


def warm(weights: Weights) -> None:
    """Work out what each language needs, so that the first request does not wait for it."""
    now = datetime.now(UTC)
    for locale, words in FIRST_WORDS.items():
        read_by_both(scene_of(words, {}, Reading(locale, ZoneInfo("UTC"), now)), weights)


def may_know_better(read: Read) -> bool:
    """Whether a model may make more of it.

    What the rules understood is the user's to confirm, and which of two days is the user's to say.
    """
    if read.doubt is not None:
        return read.doubt.ambiguity != pb.AMBIGUITY_DATE
    return not read.understood


def option_of(choice: Choice, locale: str) -> pb.Option:
    option = pb.Option(label=label_of(choice.label, locale))
    if choice.operations:
        option.operations.operations.extend(choice.operations)
    return option


def label_of(label: str | When, locale: str) -> str:
    """A choice as people of *locale* write it."""
    if isinstance(label, str):
        return label
    if label.exact is not None:
        return f"{moment(label.exact, locale)} ({label.exact:%z})"
    parts = []
    if label.start is not None:
        parts.append(format_date(label.start, "full", locale=underscored(locale)))
    if label.at is not None:
        parts.append(format_time(label.at, "short", locale=underscored(locale)))
    return " ".join(parts).replace("\u202f", " ")


def changes_of(
    operations: Sequence[pb.InterpretedOperation],
) -> frozenset[domain_pb2.Verb.ValueType]:
    return frozenset(
        each.operation.verb for each in operations if each.operation.verb != domain_pb2.VERB_READ
    )
