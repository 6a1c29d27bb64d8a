"""Many requests at once, before domains that do whatever domains may do."""

import os

import pytest

from tests.gateway_calls import Stage
from tests.request_story import tell

SEEDS = range(int(os.environ.get("GATEHOUSE_STORIES", "1")))


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_domains_and_callers_do_reports_are_true(crew: Stage, seed: int) -> None:
    """GAT-2, GAT-6, GAT-7, USE-2, LOG-2: late, wrong, half an answer, cancelled, gone."""
    assert await tell(crew, seed, count=25) == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_gateway_that_is_killed_leaves_no_report_untrue(crew: Stage, seed: int) -> None:
    """GAT-2, GAT-6, GAT-7, USE-3, LOG-2: in the middle of all of them."""
    assert await tell(crew, 1000 + seed, count=15, kill=True) == []
