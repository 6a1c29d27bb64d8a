"""Figures, their words and what follows from them (GAT-8, GAT-9, GAT-10)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2

from bench.fault_provider import Behaviour
from services.embedded_fill import store_sample
from tests.gateway_calls import (
    MODELS,
    Stage,
    User,
    Worded,
    another_gateway,
    client,
    detail_of,
    eventually,
    reason_of,
    refused,
    with_models,
)

METRICS = ["engagement_rate", "cancellation_rate", "no_show_rate", "overdue_ratio"]


async def with_sample(stage: Stage, plan: str = "premium", **claims: Any) -> User:
    """A user whose clinic has records of three months."""
    user = await stage.user(plan, **claims)
    url = stage.suite.database_url("clinic")
    await store_sample(url, user.clinic_id, stage.now(), stage.time_zone)
    return user


def asking(*metrics: str, days: int = 30, **more: Any) -> pb.AnalyzeRequest:
    return pb.AnalyzeRequest(
        request_id=str(uuid.uuid4()),
        metrics=metrics or METRICS,
        window=pb.Window(last_days=days),
        **more,
    )


async def analyze(user: User, request: pb.AnalyzeRequest) -> pb.AnalyzeResponse:
    return await user.stage.gateways[0].Analyze(request, **user.call)


async def test_the_known_metrics_are_computed_by_their_domains(stage: Stage) -> None:
    """GAT-8, GAT-12: as aggregates, with their definitions; the plain template words them."""
    user = await with_sample(stage)
    answer = await analyze(user, asking(compare_with_previous=True))
    assert [each.metric for each in answer.results] == METRICS, answer.failures
    assert not answer.failures
    assert not answer.HasField("completion")
    for each in answer.results:
        assert 0 <= each.total.value <= 1
        assert each.numerator_definition
        assert each.denominator_definition
        assert each.HasField("previous")
        assert each.previous_end_date < each.start_date <= each.end_date
        assert each.label
        assert each.step_days == 1
        assert len(each.series) == 30
        assert all(point.suppressed != point.HasField("figure") for point in each.series)
    assert f"{answer.results[2].total.numerator:.0f} of" in answer.summary
    kept = await stage.rows(
        "SELECT count(*) FILTER (WHERE status = 'missed'), count(*) FROM clinic.appointments"
        " WHERE clinic_id = %s AND starts_at <= %s AND status IN ('kept', 'missed')"
        " AND (starts_at AT TIME ZONE %s)::date > %s",
        *(user.clinic_id, stage.now(), stage.time_zone, stage.today() - timedelta(days=30)),
    )
    total = answer.results[2].total
    assert (total.numerator, total.denominator) == kept[0]


async def test_an_answer_is_streamed_as_it_comes(stage: Stage) -> None:
    """GAT-1: figures first, then the checked summary, then the whole."""
    user = await with_sample(stage)
    request = pb.StreamAnalyzeRequest(request=asking())
    kinds, summary, whole = [], "", pb.AnalyzeResponse()
    streamed: list[pb.MetricResult] = []
    async for part in stage.gateways[0].StreamAnalyze(request, **user.call):
        kinds.append(part.WhichOneof("event"))
        if part.HasField("result"):
            streamed.append(part.result)
        summary += part.summary_delta
        whole = part.finished
    assert kinds == ["result"] * 4 + ["summary_delta", "finished"]
    assert summary == whole.summary
    unary = await analyze(user, asking())
    assert sorted(map(str, streamed)) == sorted(map(str, unary.results))
    assert list(whole.results) == list(unary.results)
    assert whole.summary == unary.summary
    assert await user.usage() == (2, 0)
    assert [(row[0], row[2]) for row in await user.log()] == [("analyze", "succeeded")] * 2


@pytest.mark.parametrize("metrics", [["revenue"], ["no_show_rate", "drop_table"]])
async def test_no_other_metric_is_computed(stage: Stage, metrics: list[str]) -> None:
    """GAT-8: refused by name, and not counted."""
    user = await stage.user()
    failure = await refused(analyze(user, asking(*metrics)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "UNKNOWN_METRIC"
    assert detail_of(failure, error_details_pb2.BadRequest).field_violations
    assert await user.usage() == (0, 0)


@pytest.mark.parametrize("locale", ["en-US", "pt-BR", "es-ES"])
async def test_a_window_beyond_the_plan_is_refused(stage: Stage, locale: str) -> None:
    """GAT-8, GAT-11: with what an upgrade brings; nothing is counted or computed."""
    user = await stage.user("basic", locale=locale)
    failure = await refused(analyze(user, asking(days=31)))
    assert failure.code is grpc.StatusCode.PERMISSION_DENIED
    assert failure.reason == "WINDOW_NOT_ALLOWED"
    assert failure.metadata == {"allowed_days": "30", "asked_days": "31"}
    notice = detail_of(failure, error_details_pb2.LocalizedMessage)
    assert notice.locale == locale
    assert "Premium" in notice.message
    assert await user.usage() == (0, 0)


async def test_the_days_before_are_of_the_window_too(stage: Stage) -> None:
    """GAT-8: comparing looks back twice as far, and the plan has to allow it."""
    user = await stage.user("basic")
    failure = await refused(analyze(user, asking(days=16, compare_with_previous=True)))
    assert failure.reason == "WINDOW_NOT_ALLOWED"
    assert (await analyze(user, asking(days=15, compare_with_previous=True))).results
    advice = pb.RecommendRequest(request_id="r", window=pb.Window(last_days=31))
    failure = await refused(stage.gateways[0].Recommend(advice, **user.call))
    assert failure.reason == "WINDOW_NOT_ALLOWED"
    short = await stage.user(await stage.plan(analytics_window_days=7))
    await stage.gateways[0].Recommend(pb.RecommendRequest(request_id="r"), **short.call)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("9999-12-01", "9999-12-31"),
        ("0001-01-01", "0001-01-02"),
        ("2026-02-02", "2026-02-01"),
        ("2026-02-30", "2026-03-01"),
        ("yesterday", "today"),
    ],
)
async def test_days_that_cannot_be_are_refused(stage: Stage, start: str, end: str) -> None:
    """ALL-2: as what they are, never as a breakdown."""
    user = await stage.user()
    request = asking()
    request.window.range.start_date, request.window.range.end_date = start, end
    failure = await refused(analyze(user, request))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert await user.usage() == (0, 0)


async def test_few_people_are_not_shown(stage: Stage) -> None:
    """GAT-8: neither a total nor a group about fewer than five."""
    user = await stage.user()
    await user.execute([client(f"Client {n}", neighbourhood="Centro") for n in range(4)])
    few = await analyze(user, asking("engagement_rate"))
    assert not few.results[0].HasField("total")
    assert pb.NOTICE_KIND_INCOMPLETE in [each.kind for each in few.notices]
    await user.execute([client(f"Other {n}", neighbourhood="Praia") for n in range(5)])
    grouped = await analyze(user, asking("engagement_rate", group_by="neighbourhood"))
    assert grouped.results[0].total.denominator == 9
    assert [each.key for each in grouped.results[0].groups] == []
    assert grouped.results[0].suppressed_groups == 2


async def test_a_domain_that_fails_takes_its_own_metric_with_it(stage: Stage) -> None:
    """GAT-8: the answer is partial, with a reason, a sentence and a notice."""
    user = await with_sample(stage)
    answer = await analyze(user, asking("no_show_rate", "overdue_ratio", group_by="channel"))
    assert [each.metric for each in answer.results] == ["overdue_ratio"]
    (failed,) = answer.failures
    assert (failed.metric, failed.domain) == ("no_show_rate", "appointments")
    assert reason_of(failed.status)
    assert failed.message
    assert pb.NOTICE_KIND_INCOMPLETE in [each.kind for each in answer.notices]
    assert answer.summary
    assert await user.usage() == (1, 0)


async def test_recommendations_are_kept_once(stage: Stage) -> None:
    """GAT-10: of the three kinds, the most pressing first, the same again with its first id."""
    user = await with_sample(stage)
    request = pb.RecommendRequest(request_id="one", plain=True)
    first = await stage.gateways[0].Recommend(request, **user.call)
    assert first.recommendations
    assert {each.category for each in first.recommendations} <= {1, 2, 3}
    assert len({each.content for each in first.recommendations}) == len(first.recommendations)
    request.request_id = "two"
    second = await stage.gateways[1].Recommend(request, **user.call)
    assert second.recommendations == first.recommendations
    count = "SELECT count(*) FROM gateway.recommendations WHERE user_id = %s"
    assert await stage.rows(count, user.id) == [(len(first.recommendations),)]
    only = pb.RecommendRequest(
        request_id="three",
        plain=True,
        limit=1,
        locale="pt-BR",
        categories=[pb.RECOMMENDATION_CATEGORY_SCHEDULING_OPTIMIZATION],
    )
    third = await stage.gateways[0].Recommend(only, **user.call)
    assert [each.category for each in third.recommendations] == [2]
    assert "%" in third.recommendations[0].content
    assert third.recommendations[0].content not in [x.content for x in first.recommendations]
    assert third.recommendations[0].id in [each.id for each in first.recommendations]
    assert await stage.rows(count, user.id) == [(len(first.recommendations),)]


async def test_a_newer_figure_replaces_the_older_one(stage: Stage) -> None:
    """GAT-10, GAT-14: under the same id; each says of which days it is."""
    user = await with_sample(stage)
    seen: dict[int, dict[str, pb.Recommendation]] = {}
    for days in (30, 60):
        request = pb.RecommendRequest(
            request_id=f"of-{days}", plain=True, window=pb.Window(last_days=days)
        )
        answer = await stage.gateways[0].Recommend(request, **user.call)
        assert answer.recommendations
        for each in answer.recommendations:
            assert each.end_date in each.content
            of_days = each.category != pb.RECOMMENDATION_CATEGORY_PAYMENT_FOLLOWUP
            assert (each.start_date in each.content) == of_days
            assert each.created_at.ToNanoseconds() <= each.updated_at.ToNanoseconds()
        seen[days] = {each.id: each for each in answer.recommendations}
    both = seen[30].keys() & seen[60].keys()
    assert both
    for id_ in both:
        old, new = seen[30][id_], seen[60][id_]
        assert old.created_at == new.created_at
        assert old.category == new.category
        assert old.start_date != new.start_date
        assert old.updated_at.ToNanoseconds() < new.updated_at.ToNanoseconds()
        stored = "SELECT content FROM gateway.recommendations WHERE id = %s"
        assert await stage.rows(stored, id_) == [(new.content,)]
    rows = "SELECT count(*) FROM gateway.recommendations WHERE user_id = %s"
    assert await stage.rows(rows, user.id) == [(len(seen[30].keys() | seen[60].keys()),)]


async def test_advice_that_no_domain_could_be_asked_for_is_not_counted(stage: Stage) -> None:
    """USE-2, GAT-10: the kind is a counted call whose answer has nothing in it."""
    user = await with_sample(stage)
    lost = "ALTER ROLE gatehouse_clinic {}"
    await stage.rows(lost.format("CONNECTION LIMIT 0"))
    await stage.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gatehouse_clinic'"
    )
    try:
        request = pb.RecommendRequest(request_id="silent", plain=True)
        answer = await stage.gateways[0].Recommend(request, **user.call)
    finally:
        await stage.rows(lost.format("CONNECTION LIMIT -1"))
    assert not answer.recommendations
    assert [each.kind for each in answer.notices] == [pb.NOTICE_KIND_INCOMPLETE]
    assert await user.usage() == (0, 0)
    assert [row[2] for row in await user.log()] == ["failed"]

    async def recovered() -> bool:
        """Whether every domain answers again, time after time, also to the tests that follow."""
        other = await stage.user()
        answers = await asyncio.gather(*(analyze(other, asking()) for _ in range(4)))
        return not any(each.failures for each in answers)

    await eventually(recovered, seconds=30)
    again = pb.RecommendRequest(request_id="again", plain=True)
    assert (await stage.gateways[0].Recommend(again, **user.call)).recommendations
    assert await user.usage() == (1, 0)


async def test_the_public_data_of_other_decades_can_be_analysed(stage: Stage) -> None:
    """GAT-8: with a plan that looks back far enough, and no further."""
    plan = await stage.plan(analytics_window_days=36_500)
    user = await with_sample(stage, plan)
    answer = await analyze(user, asking(days=36_500))
    assert not answer.failures
    for each in answer.results:
        assert each.step_days == 365
        assert len(each.series) == 100
    failure = await refused(analyze(user, asking(days=36_500, compare_with_previous=True)))
    assert failure.reason == "WINDOW_NOT_ALLOWED"
    failure = await refused(analyze(user, asking(days=36_501)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_same_advice_asked_for_at_once_is_one(stage: Stage) -> None:
    """GAT-10: of two replicas, in three languages, each time with the same ids."""
    user = await with_sample(stage)
    answers = await asyncio.gather(
        *(
            stage.gateways[place % 2].Recommend(
                pb.RecommendRequest(request_id=f"at-once-{place}", plain=True, locale=locale),
                **user.call,
            )
            for place, locale in enumerate(["en-US", "pt-BR", "es-ES"] * 2)
        )
    )
    assert len({tuple(each.id for each in one.recommendations) for one in answers}) == 1
    assert len({one.recommendations[0].content for one in answers}) == 3


async def test_recommendations_are_not_kept_unless_the_setting_says_so(stage: Stage) -> None:
    """GAT-10."""
    user = await with_sample(stage)
    async with another_gateway(stage.suite, keep_recommendations="false") as gateway:
        request = pb.RecommendRequest(request_id="one", plain=True)
        assert (await gateway.Recommend(request, **user.call)).recommendations
    count = "SELECT count(*) FROM gateway.recommendations WHERE user_id = %s"
    assert await stage.rows(count, user.id) == [(0,)]


async def test_recommendations_are_seen_by_their_user_or_an_admin(stage: Stage) -> None:
    """ENT-5: row level security, proven in SQL with the gateway's own role."""
    user, other = await with_sample(stage), str(uuid.uuid4())
    request = pb.RecommendRequest(request_id="one", plain=True)
    made = len((await stage.gateways[0].Recommend(request, **user.call)).recommendations)
    url = stage.suite.database_url("gateway")
    insert = (
        "INSERT INTO gateway.recommendations (id, user_id, clinic_id, category, content,"
        " fingerprint, created_at) VALUES (%s, %s, %s, 'CLIENT_ENGAGEMENT', 'x', 'x', now())"
    )
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def as_(user_id: str, roles: str, clinic_id: str = "") -> None:
            for name, value in (("user_id", user_id), ("roles", roles), ("clinic_id", clinic_id)):
                await connection.execute(
                    "SELECT set_config(%s, %s, false)", (f"gatehouse.{name}", value)
                )

        async def seen() -> int:
            found = await connection.execute(
                "SELECT count(*) FROM gateway.recommendations WHERE user_id = %s", (user.id,)
            )
            row = await found.fetchone()
            assert row is not None
            return int(row[0])

        assert await seen() == 0
        await as_(user.id, "user", user.clinic_id)
        assert await seen() == made
        await as_(other, "admin,user")
        assert await seen() == made
        await as_(other, "user")
        assert await seen() == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(insert, (uuid.uuid4(), user.id, user.clinic_id))
        await as_(user.id, "user", user.clinic_id)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(insert, (uuid.uuid4(), user.id, uuid.uuid4()))
        change = "UPDATE gateway.recommendations SET content = 'y'"
        await as_(other, "user", user.clinic_id)
        assert (await connection.execute(change)).rowcount == 0
        await as_(user.id, "user", user.clinic_id)
        assert (await connection.execute(change)).rowcount == made
        for forbidden in (
            "UPDATE gateway.recommendations SET user_id = gen_random_uuid()",
            "DELETE FROM gateway.recommendations",
            "ALTER TABLE gateway.recommendations DISABLE ROW LEVEL SECURITY",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(forbidden)


@pytest.fixture
async def worded(stage: Stage, tmp_path: Path) -> AsyncIterator[Worded]:
    async with with_models(stage.suite, tmp_path) as worded:
        yield worded


async def test_a_model_words_the_figures_it_was_given(stage: Stage, worded: Worded) -> None:
    """GAT-9, ROU-6: its summary is used, and the answer says whose it is."""
    user = await with_sample(stage)
    worded.says("Most of what was due was kept, and less was missed.")
    answer = await worded.gateway.Analyze(asking("no_show_rate"), **user.call)
    assert answer.summary == "Most of what was due was kept, and less was missed."
    assert [answer.completion.model_used] == worded.asked
    assert [row[2] for row in await user.log()] == ["succeeded"]


async def test_an_answer_is_charged_to_whom_it_was_given(stage: Stage, worded: Worded) -> None:
    """ROU-6: the gateway says for whom it asks, and hands on the plan's budget."""
    user = await with_sample(stage)
    await worded.gateway.Analyze(asking("no_show_rate"), **user.call)
    url = stage.suite.database_url("postgres")
    charged = "SELECT clinic_id::text FROM router.attempts WHERE user_id = %s AND cost > 0"
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        while not (rows := await (await connection.execute(charged, (user.id,))).fetchall()):
            await asyncio.sleep(0.02)
    assert rows == [(user.clinic_id,)]
    poor = await with_sample(stage, await stage.plan(daily_model_budget_micros=0))
    before = list(worded.asked)
    answer = await worded.gateway.Analyze(asking("no_show_rate"), **poor.call)
    assert not answer.HasField("completion")
    assert answer.results
    assert worded.asked == before


async def test_a_model_that_invents_a_number_is_passed_over(stage: Stage, worded: Worded) -> None:
    """GAT-9: the next candidate words it; with all of them inventing, the plain template does."""
    user = await with_sample(stage)
    honest = "It was much as before."
    worded.says("The rate was 87.65%.")
    invented = await worded.gateway.Analyze(asking("no_show_rate"), **user.call)
    assert "87.65" not in invented.summary
    assert not invented.HasField("completion")
    assert f"{invented.results[0].total.numerator:.0f} of" in invented.summary
    asked = worded.asked
    assert len(asked) > 1
    worded.says(honest, asked[-1])
    passed = await worded.gateway.Analyze(asking("no_show_rate"), **user.call)
    assert passed.summary == honest
    assert passed.completion.model_used == asked[-1]


async def test_advice_is_worded_and_never_invented(stage: Stage, worded: Worded) -> None:
    """GAT-9, GAT-10: a number of its own, and the plain sentence stands."""
    user = await with_sample(stage)
    worded.says("Call 500 clients at once.")
    request = pb.RecommendRequest(request_id="one")
    answer = await worded.gateway.Recommend(request, **user.call)
    assert answer.recommendations
    assert not any("500" in each.content for each in answer.recommendations)
    assert not answer.HasField("completion")


async def test_a_provider_that_hangs_leaves_time_for_the_plain_template(
    stage: Stage, worded: Worded
) -> None:
    """GAT-12, ROU-8: within the caller's own deadline."""
    user = await with_sample(stage)
    for model in MODELS:
        worded.provider.behave(model, Behaviour(fault="hang"))
    answer = await worded.gateway.Analyze(
        asking("no_show_rate"), metadata=user.call["metadata"], timeout=3
    )
    assert not answer.HasField("completion")
    assert answer.summary


async def test_an_analysis_whose_caller_hangs_up_is_finished_and_kept(
    stage: Stage, worded: Worded
) -> None:
    """GAT-2, USE-2, LOG-1: counted once, and the retry gets it."""
    user = await with_sample(stage)
    for model in MODELS:
        worded.provider.behave(model, Behaviour(fault="hang"))
    request = asking("no_show_rate")
    running = asyncio.ensure_future(worded.gateway.Analyze(request, **user.call))

    async def is_at_the_model() -> bool:
        return bool(worded.asked)

    await eventually(is_at_the_model)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    again = await worded.gateway.Analyze(request, **user.call)
    assert again.replayed
    assert again.results
    assert await user.usage() == (1, 0)
    assert [(row[0], row[2]) for row in await user.log()] == [("analyze", "succeeded")]
