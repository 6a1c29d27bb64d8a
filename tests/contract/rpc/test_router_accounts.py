"""What answers cost whom, through crashes, and budgets (ROU-6)."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import router_pb2_grpc as rpc

from bench.fault_provider import Behaviour, FaultProvider, fault_provider
from services.embedded_stores import PostgresServer
from tests.conftest import Database, migrated_database
from tests.contract.rpc.test_router_process import CATALOGUE, environment, router
from tests.router_stand import (
    BASIC,
    CLINIC,
    REST,
    SPEED,
    USER,
    Stand,
    opened_stand,
    outcomes,
    refused,
    request,
)

# What an answer of `fast` may cost at the most: its 1024 tokens of 15 millionths, and the prompt's.
MOST_FAST = 1024 * 15 + 21


async def test_spending_is_told_apart_by_user_and_clinic(stand: Stand) -> None:
    """ROU-6."""
    other = str(uuid.uuid4())
    await stand.complete(tiers=(BASIC,))
    await stand.complete(tiers=(SPEED,), user_id=other)
    asked = pb.GetSpendingRequest(
        start_date="2020-01-01",
        end_date="2099-12-31",
        keys=[pb.SPENDING_KEY_USER, pb.SPENDING_KEY_CLINIC],
    )
    told = await stand.stub.GetSpending(asked, timeout=5, metadata=stand.metadata())
    assert {(one.user_id, one.clinic_id, one.model, one.date) for one in told.spending} == {
        (USER, CLINIC, "", ""),
        (other, CLINIC, "", ""),
    }
    assert [one.attempts for one in told.spending] == [1, 1]


async def test_single_attempts_are_listed_newest_first_in_pages(stand: Stand) -> None:
    """ROU-6: how each ended, what it took and cost, for whom, and in which trace."""
    other = str(uuid.uuid4())
    stand.fail("fast", times=1)
    failed_over = await stand.complete(tiers=(SPEED,), user_id=other)
    for _ in range(3):
        await stand.complete(tiers=(BASIC,))

    async def listed(**fields: Any) -> pb.ListAttemptsResponse:
        return await stand.stub.ListAttempts(
            pb.ListAttemptsRequest(**fields), timeout=5, metadata=stand.metadata()
        )

    pages, token = [], ""
    while not pages or token:
        pages.append(await listed(page_size=2, page_token=token))
        token = pages[-1].next_page_token
    attempts = [each for page in pages for each in page.attempts]
    assert [len(page.attempts) for page in pages] == [2, 2, 1]
    assert outcomes(each.attempt for each in attempts) == [
        *[("small", "SUCCEEDED")] * 3,
        ("fast-other", "SUCCEEDED"),
        ("fast", "SERVER_ERROR"),
    ]
    assert len({each.attempt_id for each in attempts}) == 5
    of_other = (await listed(user_id=other)).attempts
    assert [each.attempt.model for each in of_other] == ["fast-other", "fast"]
    answered, failed = of_other
    assert answered.attempt.usage == failed_over.finished.usage
    assert answered.cost == failed_over.finished.cost
    assert answered.task == pb.TASK_KIND_INTERPRET
    assert (answered.user_id, answered.clinic_id) == (other, CLINIC)
    assert answered.attempt.duration.ToNanoseconds() > 0
    assert not failed.attempt.HasField("usage")
    assert failed.attempt.http_status == 500
    assert len(failed.trace_id) == 32
    assert [each.attempt_id for each in (await listed(trace_id=failed.trace_id)).attempts] == [
        each.attempt_id for each in of_other
    ]
    begun = of_other[1].attempt.started_at
    assert len((await listed(end_time=begun)).attempts) == 0
    assert len((await listed(start_time=begun, model="fast")).attempts) == 1
    assert len((await listed(clinic_id=str(uuid.uuid4()))).attempts) == 0


@pytest.mark.parametrize(
    "token", ["x", "2026-01-01/x", "2026-01-01T00:00:00/8953ec9e-0750-4920-a009-6035f2352691", "/"]
)
async def test_a_page_token_that_is_none_is_refused(stand: Stand, token: str) -> None:
    """ALL-2."""
    async with refused() as refusal:
        await stand.stub.ListAttempts(
            pb.ListAttemptsRequest(page_token=token), timeout=5, metadata=stand.metadata()
        )
    assert refusal.reason == "INVALID_ARGUMENT"


async def test_an_attempt_that_runs_is_listed_without_an_end(stand: Stand) -> None:
    """ROU-6: with what it costs at the least."""
    stand.fail("fast", "hang")
    running = asyncio.create_task(stand.complete(task="CHAT"))
    await stand.one.until("fast", "requests", 1)
    found = await stand.stub.ListAttempts(
        pb.ListAttemptsRequest(), timeout=5, metadata=stand.metadata()
    )
    running.cancel()
    (attempt,) = found.attempts
    assert attempt.attempt.outcome == pb.ATTEMPT_OUTCOME_UNSPECIFIED
    assert not attempt.attempt.HasField("duration")
    assert attempt.attempt.usage.estimated


async def test_an_answer_within_the_budget_is_given_and_only_its_cost_is_kept(
    stand: Stand,
) -> None:
    """ROU-6: the most is reserved, and given back."""
    for _ in range(5):
        answer = await stand.complete(tiers=(SPEED,), daily_budget_micros=MOST_FAST + 500)
        assert answer.finished.model_used == "fast"
        await stand.spending()  # sends what this replica knows
    spent = (await stand.spending(user_id=USER))["fast"]
    assert spent.attempts == 5
    assert spent.cost.amount.nanos < 1_000_000


async def test_what_might_go_beyond_the_budget_goes_to_a_cheaper_model(stand: Stand) -> None:
    """ROU-6: nobody asks the one that is too dear."""
    finished = (await stand.complete(daily_budget_micros=1000)).finished
    assert outcomes(finished.attempts) == [
        ("fast", "OVER_BUDGET"),
        ("fast-other", "OVER_BUDGET"),
        ("small", "SUCCEEDED"),
    ]
    assert stand.asked("fast") == 0
    assert (await stand.models())["fast"].circuit == pb.CIRCUIT_STATE_CLOSED


async def test_a_budget_that_does_for_nobody_is_told_with_when_it_begins_anew(
    stand: Stand,
) -> None:
    """ROU-6, ALL-2."""
    async with refused() as refusal:
        await stand.complete(daily_budget_micros=0)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.reason == "BUDGET_EXHAUSTED"
    assert refusal.retry_seconds is not None
    assert 0 < refusal.retry_seconds <= 86_400
    assert {outcome for _, outcome in refusal.attempts} == {"OVER_BUDGET"}
    assert await stand.spending() == {}


async def test_a_budget_is_never_overrun_by_requests_at_once(stand: Stand) -> None:
    """ROU-6: thirty at once; what is reserved for four leaves nothing for a fifth."""

    async def has_new() -> bool:
        return "new" in await stand.models()

    patient = "tasks: {INTERPRET: {first_token_seconds: 60, stall_seconds: 60}}"
    stand.write_catalogue(f"  new: {{tier: MODEL_BASIC, {REST}}}\n{patient}")
    await stand.eventually(has_new)
    released = asyncio.Event()
    stand.fail("fast", "none", until=released)
    budget = {"tiers": (SPEED,), "excluded_models": ["fast-other"]}
    calls = [
        asyncio.ensure_future(
            stand.complete(timeout=60, daily_budget_micros=4 * MOST_FAST, **budget)
        )
        for _ in range(30)
    ]

    async def the_others_are_refused() -> bool:
        return sum(call.done() for call in calls) == 26

    await stand.eventually(the_others_are_refused, seconds=50)
    released.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, pb.CompleteResponse) for answer in answers) == 4
    assert stand.asked("fast") == 4


async def test_a_budget_needs_a_user(stand: Stand) -> None:
    """ROU-6."""
    async with refused() as refusal:
        await stand.complete(daily_budget_micros=1, user_id="")
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "user_id" in refusal.status.message


async def test_without_postgres_answers_go_on_and_are_recorded_later(
    own_postgres: PostgresServer, tmp_path: Path, tokens: Any
) -> None:
    """ROU-6: but under a budget nobody is asked, and the store is named."""
    database = await migrated_database(own_postgres)
    async with opened_stand(tmp_path, tokens, database.url_for("router")) as stand:
        await stand.complete()
        await own_postgres.kill()
        for _ in range(5):
            assert (await stand.complete()).finished.model_used == "fast"
        async with refused() as refusal:
            await stand.complete(daily_budget_micros=10**9)
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "STORE_UNAVAILABLE",
        )
        assert stand.asked("fast") == 6
        async with refused() as refusal:
            await stand.spending()
        assert refusal.reason == "STORE_UNAVAILABLE"
        await own_postgres.start()

        async def recorded() -> bool:
            try:
                return (await stand.spending())["fast"].attempts == 6
            except grpc.aio.AioRpcError:
                return False

        await stand.eventually(recorded)


@pytest.fixture
async def provider() -> Any:
    async with fault_provider() as provider:
        yield provider


async def test_a_killed_router_loses_no_attempt(
    tmp_path: Path, tokens: Any, database: Database, store: str, provider: FaultProvider
) -> None:
    """ROU-6: neither one that had ended nor one that was under way, whatever it costs."""
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(CATALOGUE.format(url=provider.base_url))
    environ = environment(tokens, catalogue, store, PROVIDER_KEY="sk-1")
    metadata = [("authorization", f"Bearer {tokens.user(roles=('service',))}")]

    async with answering(environ) as (process, stub):
        for _ in range(20):
            await stub.Complete(request(tiers=(BASIC,)), timeout=10, metadata=metadata)
        provider.behave("m", Behaviour(fault="hang"))
        waiting = asyncio.ensure_future(
            stub.Complete(request(tiers=(BASIC,)), timeout=10, metadata=metadata)
        )
        await provider.until("m", "running", 1)
        process.kill()
        await process.wait()
        await asyncio.wait((waiting,))
        assert waiting.exception() is not None
    async with answering(environ) as (_, stub):
        asked = pb.GetSpendingRequest(start_date="2020-01-01", end_date="2099-12-31")
        told = await stub.GetSpending(asked, timeout=10, metadata=metadata)
    [spent] = told.spending
    assert spent.attempts == 21
    assert spent.usage.estimated


@asynccontextmanager
async def answering(environ: dict[str, str]) -> AsyncIterator[tuple[Any, Any]]:
    """A router in a process of its own, and its stub."""
    async with router(environ) as process, asyncio.timeout(60):
        assert process.stdout is not None
        listen = json.loads(await process.stdout.readline())["listen"]
        async with grpc.aio.insecure_channel(listen) as channel:
            yield process, rpc.RouterServiceStub(channel)
