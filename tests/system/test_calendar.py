"""The demo, the README's commands and all tests that ask for the day, at every kind of date.

The kind: sentences and samples that hold on some days alone, days taken for 24 hours, and a day
that is asked of another clock than the one by which it was made.
"""

import asyncio
import json
import shlex
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from gatehouse.entitlements.v1 import entitlements_pb2
from typer.testing import CliRunner

from examples import demo
from services.cli.main import app
from services.embedded import ADMIN, suite
from services.embedded_fill import store_sample
from tests.contract.rpc import test_gateway_analytics as analytics
from tests.contract.rpc import test_gateway_counting as counting
from tests.contract.rpc import test_gateway_next as following
from tests.gateway_calls import Stage, staged
from tests.moments import MOMENTS, Moment
from tests.system import test_readme as readme

# Stopping a model has nothing to do with the day, and this suite has none.
CHAPTERS = [each for each in demo.CHAPTERS if each is not demo.fails_over]
DATED: list[Callable[[Stage], Awaitable[None]]] = [
    analytics.test_the_known_metrics_are_computed_by_their_domains,
    analytics.test_the_days_before_are_of_the_window_too,
    counting.test_the_read_past_the_limit_is_refused,
    counting.test_basic_reads_forty_a_day,
    counting.test_usage_is_told_by_day,
]


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    """A suite whose clock is moved from test to test."""
    async with (
        suite(model_tiers=(), sample=False, now=MOMENTS[0].at) as running,
        staged(running) as stage,
    ):
        yield stage


@pytest.fixture(params=MOMENTS, ids=str)
async def moment(request: pytest.FixtureRequest, stage: Stage) -> Moment:
    """Each of MOMENTS: the suite's clock goes on from there."""
    moment: Moment = request.param
    await stage.suite.set_time(moment.at)
    stage.time_zone = moment.zone
    return moment


@pytest.fixture
async def clinic(stage: Stage, moment: Moment) -> demo.Clinic:
    """A new clinic in the moment's zone, with the sample of that day."""
    made = demo.Clinic(
        str(uuid.uuid4()), moment.zone, basic=str(uuid.uuid4()), premium=str(uuid.uuid4())
    )
    await store_sample(stage.suite.database_url("clinic"), made.id, stage.now(), made.time_zone)
    await stage.entitlements.AssignUserPlan(
        entitlements_pb2.AssignUserPlanRequest(user_id=made.premium, plan_name="premium"),
        **stage.admin,
    )
    return made


async def test_the_demo_tells_its_story(stage: Stage, clinic: demo.Clinic) -> None:
    """ALL-6, GAT-1, GAT-5, USE-5, LOG-5: "tomorrow", "the next week", "the last 60 days"."""
    since = stage.now()
    async with demo.opened(stage.suite, clinic) as story:
        for chapter in CHAPTERS:
            await chapter(story)
        await demo.logged(story, since)


async def test_the_readmes_commands_do_what_they_are_there_for(
    stage: Stage, clinic: demo.Clinic, tmp_path: Path
) -> None:
    """ALL-6, GAT-1, USE-8, LOG-5: each finds the suite's clock where the suite says it."""
    assert stage.suite.clock is not None
    named = {"clinic_id": clinic.id, "time_zone": clinic.time_zone}
    state = {
        **stage.suite.addresses,
        "token": stage.suite.token(clinic.premium, **named),
        "admin_token": stage.suite.token(ADMIN, roles=("user", "admin", "auditor"), **named),
        "seconds_ahead": str(stage.suite.clock.ahead.total_seconds()),
    }
    (tmp_path / "gatehouse").mkdir()
    (tmp_path / "gatehouse" / "suite.json").write_text(json.dumps(state))
    environment = {"XDG_STATE_HOME": str(tmp_path), "COLUMNS": "160", "TERM": "dumb"}

    async def gatehouse(command: str) -> str:
        done = await asyncio.to_thread(
            CliRunner().invoke, app, shlex.split(command), env=environment
        )
        assert done.exit_code == 0, (command, done.output)
        return " ".join(done.output.split())

    for command, words in zip(readme.commands(), readme.SHOWN.values(), strict=True):
        shown = await gatehouse(command)
        assert not [word for word in words if word not in shown], (command, shown)
    of_clinic = f"operations list --clinic {clinic.id} --since"
    assert "read appointments" in await gatehouse(f"{of_clinic} 1h")
    assert "read appointments" not in await gatehouse(f"{of_clinic} 2099-01-01")


async def test_what_asks_for_the_day_gets_the_suites(stage: Stage, moment: Moment) -> None:
    """ALL-6: the tests that depend on it, at once, each with users of its own."""
    locale = list(following.WORDS)[MOMENTS.index(moment) % len(following.WORDS)]
    async with asyncio.TaskGroup() as together:
        for test in DATED:
            together.create_task(test(stage))
        together.create_task(
            following.test_the_next_and_the_last_in_words_are_the_right_records(stage, locale)
        )
