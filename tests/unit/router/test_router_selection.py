"""The tiers of a task, filtered by the plan, decide who is asked and in which order."""

import random
from collections import Counter

import pytest

from services.router.catalog import Catalogue, read_catalogue
from services.router.selection import Capability, Need, Reason, continuing, ordered, tiers_for

CATALOGUE = """
providers: {p: {base_url: "http://localhost:1/v1"}}
models:
  basic-1: {tier: MODEL_BASIC, provider: p, context_tokens: 1000, prices: &p {input: 1, output: 1}}
  speed-1: {tier: MODEL_SPEED, provider: p, context_tokens: 1000, prices: *p}
  speed-3: {tier: MODEL_SPEED, provider: p, context_tokens: 9000, weight: 3, prices: *p}
  reserve: {tier: MODEL_SPEED, provider: p, context_tokens: 9000, weight: 0, prices: *p}
  deep: {tier: MODEL_ADV_REASON, provider: p, context_tokens: 9000, prices: *p}
"""
ALL = frozenset({"MODEL_BASIC", "MODEL_SPEED", "MODEL_ADV_REASON", "MODEL_ANALYTICS"})


def catalogue() -> Catalogue:
    return read_catalogue(CATALOGUE, {})


def need(
    tiers: frozenset[str] = ALL,
    characters: int = 10,
    task: str = "INTERPRET",
    excluded: frozenset[str] = frozenset(),
) -> Need:
    return Need(task, tiers, excluded, characters)


def eligible(need: Need) -> list[str]:
    return [one.model.id for one in ordered(catalogue(), need) if one.eligible]


def test_candidates_come_in_the_order_of_the_tasks_tiers() -> None:
    """ROU-2: INTERPRET wants speed, then basic, then reasoning; a reserve is behind its tier."""
    assert eligible(need()) == ["speed-3", "speed-1", "reserve", "basic-1", "deep"]


def test_the_plans_tiers_filter_them() -> None:
    """ROU-2."""
    assert eligible(need(frozenset({"MODEL_BASIC"}))) == ["basic-1"]


def test_no_tier_of_the_task_leaves_none() -> None:
    """ROU-2."""
    policy = catalogue().tasks["INTERPRET"]
    assert tiers_for(policy, {"MODEL_ANALYTICS"}) == ()
    assert eligible(need(frozenset({"MODEL_ANALYTICS"}))) == []


def test_every_model_is_listed_and_each_says_why() -> None:
    """ROU-2."""
    tiers = frozenset({"MODEL_SPEED", "MODEL_ANALYTICS"})
    judged = {one.model.id: one.explanation for one in ordered(catalogue(), need(tiers))}
    assert judged["speed-1"] == "MODEL_SPEED is choice 1 for INTERPRET."
    assert judged["basic-1"] == "The plan has no MODEL_BASIC."
    assert len(judged) == 5


def test_every_reason_is_one_for_machines_too() -> None:
    """ROU-2."""
    tiers = ALL - {"MODEL_BASIC"}
    asked = need(tiers, 8001, excluded=frozenset({"deep"}))
    reasons = {one.model.id: one.reason for one in ordered(catalogue(), asked)}
    assert reasons == {
        "speed-3": Reason.ELIGIBLE,
        "reserve": Reason.ELIGIBLE,
        "speed-1": Reason.CONTEXT_TOO_SMALL,
        "basic-1": Reason.TIER_NOT_GRANTED,
        "deep": Reason.EXCLUDED,
    }
    other = ordered(catalogue(), need(task="ANALYZE"))
    assert {one.model.id for one in other if one.reason is Reason.TIER_NOT_FOR_TASK} == {
        "speed-1",
        "speed-3",
        "reserve",
    }


def test_a_tier_that_is_not_the_tasks_is_named_as_such() -> None:
    """ROU-2."""
    judged = {one.model.id: one for one in ordered(catalogue(), need(task="ANALYZE"))}
    assert judged["speed-1"].explanation == "MODEL_SPEED is not for ANALYZE."


def test_a_model_that_the_prompt_cannot_fit_is_no_candidate() -> None:
    """ROU-3: and only one that surely cannot hold it."""
    assert "speed-1" in eligible(need(characters=8000))
    assert eligible(need(characters=8001)) == ["speed-3", "reserve", "deep"]


def test_what_the_caller_excludes_is_no_candidate() -> None:
    """GAT-9."""
    assert "deep" not in eligible(need(excluded=frozenset({"deep"})))


ABLE = """
providers: {p: {base_url: "http://localhost:1/v1"}}
models:
  words: {tier: MODEL_SPEED, provider: p, context_tokens: 1000, prices: &p {input: 1, output: 1},
          weight: 100, structured_output: prompt}
  whole: {tier: MODEL_SPEED, provider: p, context_tokens: 1000, prices: *p, weight: 100,
          whole_answer_seconds: 30}
  able: {tier: MODEL_SPEED, provider: p, context_tokens: 1000, prices: *p}
  reserve: {tier: MODEL_SPEED, provider: p, context_tokens: 1000, prices: *p, weight: 0}
  basic: {tier: MODEL_BASIC, provider: p, context_tokens: 1000, prices: *p, continuation: prefill}
"""


@pytest.mark.parametrize(
    ("wants", "order"),
    [
        ((), ["words", "whole", "able", "reserve", "basic"]),
        ((Capability.JSON_SCHEMA,), ["whole", "able", "words", "reserve", "basic"]),
        ((Capability.STREAMING,), ["words", "able", "whole", "reserve", "basic"]),
        (tuple(Capability), ["able", "words", "whole", "reserve", "basic"]),
    ],
)
def test_of_a_tier_those_come_first_that_can_what_is_wanted(
    wants: tuple[Capability, ...], order: list[str]
) -> None:
    """ROU-2: before weights, behind tiers; a reserve stays one, and nobody is left out."""
    wanted = Need("INTERPRET", ALL, frozenset(), 10, frozenset(wants))
    judged = ordered(read_catalogue(ABLE, {}), wanted)
    assert [one.model.id for one in judged if one.eligible] == order


def test_what_a_model_lacks_is_told() -> None:
    """ROU-2: for machines, and in a sentence."""
    wanted = Need("INTERPRET", ALL, frozenset(), 10, frozenset(Capability))
    judged = {one.model.id: one for one in ordered(read_catalogue(ABLE, {}), wanted)}
    assert judged["able"].lacking == ()
    assert judged["words"].lacking == (Capability.JSON_SCHEMA,)
    assert judged["words"].explanation == (
        "MODEL_SPEED is choice 1 for INTERPRET; it is told the schema in words only."
    )
    assert judged["whole"].lacking == (Capability.STREAMING,)


def test_who_continues_exactly_goes_on_first_within_its_tier() -> None:
    """ROU-5: a broken stream is not taken out of its tier for it."""
    text = ABLE.replace("weight: 0}", "weight: 0, continuation: prefill}")
    models = [one.model for one in ordered(read_catalogue(text, {}), need())]
    assert [model.id for model in continuing(models)] == [
        "reserve",
        "words",
        "whole",
        "able",
        "basic",
    ]


def test_requests_spread_over_a_tier_by_weight() -> None:
    """ROU-1: three quarters and one quarter; the reserve is never first."""
    draws, read = random.Random(7), catalogue()
    firsts = Counter(ordered(read, need(), draw=draws.random)[0].model.id for _ in range(4000))
    assert set(firsts) == {"speed-1", "speed-3"}
    assert 2850 < firsts["speed-3"] < 3150
