"""Which candidates a request has, in which order, and why the others are none (ROU-2). Pure.

Health is not looked at here: a candidate that is taken out keeps its place, so that whoever
answers instead of the first one is known to be a failover.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from services.router.catalog import Catalogue, Model, TaskPolicy

CHARACTERS_PER_TOKEN_AT_MOST = 8
"""No tokenizer of the models in use packs more plain text into a token on average; so this never
excludes wrongly.
"""


class Capability(StrEnum):
    """What a request may want of a model beyond an answer; the names of the proto's Capability."""

    JSON_SCHEMA = "JSON_SCHEMA"
    STREAMING = "STREAMING"


class Reason(StrEnum):
    """Why a model would be tried, or not; the names of the proto's CandidateReason."""

    ELIGIBLE = "ELIGIBLE"
    TIER_NOT_GRANTED = "TIER_NOT_GRANTED"
    TIER_NOT_FOR_TASK = "TIER_NOT_FOR_TASK"
    EXCLUDED = "EXCLUDED"
    CONTEXT_TOO_SMALL = "CONTEXT_TOO_SMALL"
    TAKEN_OUT = "TAKEN_OUT"
    BUSY = "BUSY"


IN_WORDS = {
    Capability.JSON_SCHEMA: "is told the schema in words only",
    Capability.STREAMING: "answers in one piece only",
}


@dataclass(frozen=True, slots=True)
class Need:
    """What a request needs of a model, and what it would like."""

    task: str
    tiers: frozenset[str]
    excluded_models: frozenset[str]
    characters: int
    wants: frozenset[Capability] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Judged:
    """A model of the catalogue, whether it may be tried, and the sentence that says why.

    *lacking* is what it cannot do of what the request would like.
    """

    model: Model
    reason: Reason
    explanation: str
    lacking: tuple[Capability, ...] = ()

    @property
    def eligible(self) -> bool:
        return self.reason is Reason.ELIGIBLE


def tiers_for(policy: TaskPolicy, granted: Collection[str]) -> tuple[str, ...]:
    """The task's tiers that are granted, best first; empty when the task is not allowed at all."""
    return tuple(tier for tier in policy.tiers if tier in granted)


def weight_rank(model: Model, draw: float) -> float:
    """The rank of a model among those of its tier; the highest goes first.

    Efraimidis and Spirakis (2006): ranking by draw ** (1 / weight), draws uniform in (0, 1), puts
    each model first in proportion to its weight. Weight 0 is a reserve, behind every other.
    """
    return draw ** (1.0 / model.weight) if model.weight else -1.0 + draw


def ordered(
    catalogue: Catalogue, need: Need, draw: Callable[[], float] = lambda: 0.5
) -> list[Judged]:
    """Every model of the catalogue: those that may be tried, in order, then the others.

    *draw* gives numbers in (0, 1) that spread requests over the models of a tier by weight; the
    constant gives the order that is likeliest.
    """
    tiers = tiers_for(catalogue.tasks[need.task], need.tiers)
    judged = [_judged(model, tiers, need) for model in catalogue.models]
    places = {tier: place for place, tier in enumerate(tiers)}
    eligible = _in_order([one for one in judged if one.eligible], places, draw)
    return eligible + [one for one in judged if not one.eligible]


def continuing(left: Sequence[Model]) -> list[Model]:
    """Those of *left*, in order, who may go on with an answer that broke: of each tier first who
    takes it up exactly where it broke (ROU-5).
    """
    tiers = list(dict.fromkeys(model.tier for model in left))
    return sorted(left, key=lambda one: (tiers.index(one.tier), one.continuation != "prefill"))


def _in_order(
    eligible: Sequence[Judged], places: Mapping[str, int], draw: Callable[[], float]
) -> list[Judged]:
    """By tier; a reserve behind the others; then who lacks least; then by weight."""

    def rank(one: Judged) -> tuple[int, bool, int, float]:
        model = one.model
        place, lacking = places[model.tier], len(one.lacking)
        return place, model.weight == 0, lacking, -weight_rank(model, draw())

    ranked = [(rank(one), one) for one in eligible]
    return [one for _, one in sorted(ranked, key=lambda entry: entry[0])]


def _judged(model: Model, tiers: Sequence[str], need: Need) -> Judged:
    if model.tier not in need.tiers:
        return Judged(model, Reason.TIER_NOT_GRANTED, f"The plan has no {model.tier}.")
    if model.tier not in tiers:
        return Judged(model, Reason.TIER_NOT_FOR_TASK, f"{model.tier} is not for {need.task}.")
    if model.id in need.excluded_models:
        return Judged(model, Reason.EXCLUDED, "The caller excluded it.")
    if need.characters > model.context_tokens * CHARACTERS_PER_TOKEN_AT_MOST:
        text = f"The prompt is longer than its {model.context_tokens} tokens."
        return Judged(model, Reason.CONTEXT_TOO_SMALL, text)
    lacking = tuple(each for each in Capability if each in need.wants - capabilities_of(model))
    place = tiers.index(model.tier) + 1
    words = [f"{model.tier} is choice {place} for {need.task}", *(IN_WORDS[one] for one in lacking)]
    return Judged(model, Reason.ELIGIBLE, f"{'; it '.join(words)}.", lacking)


def capabilities_of(model: Model) -> frozenset[Capability]:
    held = {Capability.JSON_SCHEMA} if model.structured_output == "json_schema" else set()
    return frozenset(held | ({Capability.STREAMING} if model.streams else set()))
