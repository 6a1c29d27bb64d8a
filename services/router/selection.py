"""Which candidates a request has, in which order, and why the others are none (ROU-2). Pure.

Health is not looked at here: a candidate that is taken out keeps its place, so that whoever
answers instead of the first one is known to be a failover.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from services.router.catalog import Catalogue, Model, TaskPolicy

CHARACTERS_PER_TOKEN_AT_MOST = 8
"""No tokenizer of the models in use packs more plain text into a token on average; so this never
excludes wrongly.
"""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request needs of a model."""

    task: str
    tiers: frozenset[str]
    excluded_models: frozenset[str]
    characters: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A model of the catalogue and whether it may be tried, with the sentence that says why."""

    model: Model
    eligible: bool
    explanation: str
    too_small: bool = False


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


def _in_order(
    eligible: Sequence[Judged], places: Mapping[str, int], draw: Callable[[], float]
) -> list[Judged]:
    ranked = [(places[one.model.tier], -weight_rank(one.model, draw()), one) for one in eligible]
    return [one for _, _, one in sorted(ranked, key=lambda entry: entry[:2])]


def _judged(model: Model, tiers: Sequence[str], need: Need) -> Judged:
    if model.tier not in need.tiers:
        return Judged(model, False, f"The plan has no {model.tier}.")
    if model.tier not in tiers:
        return Judged(model, False, f"{model.tier} is not for {need.task}.")
    if model.id in need.excluded_models:
        return Judged(model, False, "The caller excluded it.")
    if need.characters > model.context_tokens * CHARACTERS_PER_TOKEN_AT_MOST:
        text = f"The prompt is longer than its {model.context_tokens} tokens."
        return Judged(model, False, text, too_small=True)
    place = tiers.index(model.tier) + 1
    return Judged(model, True, f"{model.tier} is choice {place} for {need.task}.")
