"""The tiers of a task, filtered by the plan, decide who is asked and in which order."""

import random
from collections import Counter

from services.router.catalog import Catalogue, read_catalogue
from services.router.selection import Need, ordered, tiers_for

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


def test_requests_spread_over_a_tier_by_weight() -> None:
    """ROU-1: three quarters and one quarter; the reserve is never first."""
    draws, read = random.Random(7), catalogue()
    firsts = Counter(ordered(read, need(), draw=draws.random)[0].model.id for _ in range(4000))
    assert set(firsts) == {"speed-1", "speed-3"}
    assert 2850 < firsts["speed-3"] < 3150
