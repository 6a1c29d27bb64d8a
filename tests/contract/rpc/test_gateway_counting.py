"""What counts and what does not, as callers of the gateway see it (USE-1 to USE-6, ENT-4)."""

import asyncio
import uuid
from datetime import UTC

import grpc
from gatehouse.gateway.v1 import gateway_pb2 as pb
from google.rpc import error_details_pb2

from services.runtime.failure import PeerFailure
from tests.gateway_calls import (
    CREATE,
    READ,
    Stage,
    User,
    another_gateway,
    appointment,
    client,
    clients,
    detail_of,
    eventually,
    invoice,
    operation,
    reasons,
    refused,
)


def check_exhausted(failure: PeerFailure, kind: str, limit: int) -> None:
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "QUOTA_EXHAUSTED"
    assert failure.metadata["limit"] == str(limit)
    assert failure.metadata["kind"] == kind
    assert failure.retry_after
    assert failure.retry_after.total_seconds() <= 25 * 3600
    quota = detail_of(failure, error_details_pb2.QuotaFailure)
    assert str(limit) in quota.violations[0].description
    assert detail_of(failure, error_details_pb2.LocalizedMessage).message


async def snapshot(user: User) -> pb.UsageSnapshot:
    found = await user.stage.gateways[0].GetUsage(pb.GetUsageRequest(), **user.call)
    return found.usage


async def test_the_read_past_the_limit_is_refused(stage: Stage) -> None:
    """USE-3, USE-5: exact over racing replicas, near from 80 % on, and told when it starts anew."""
    user = await stage.user(await stage.plan(daily_read_limit=10))
    near = []
    for _ in range(8):
        answer = await user.execute([clients()])
        near.append(answer.usage.approaching_quota)
    assert near == [False] * 7 + [True]
    assert [each.kind for each in answer.notices] == [pb.NOTICE_KIND_QUOTA_NEAR]
    assert answer.usage.reads_remaining == 2
    resets_at = answer.usage.resets_at.ToDatetime(tzinfo=UTC)
    assert 0 < (resets_at - stage.now()).total_seconds() <= 25 * 3600
    ends = await asyncio.gather(
        *(user.execute([clients()], replica=each % 2) for each in range(4)), return_exceptions=True
    )
    assert sum(isinstance(each, pb.ExecuteResponse) for each in ends) == 2
    check_exhausted(await refused(user.execute([clients()])), "read", 10)
    assert await user.usage() == (10, 0)


async def test_basic_reads_forty_a_day(stage: Stage) -> None:
    """ENT-1, USE-3: the 41st is refused; an analysis is no way around it."""
    user = await stage.user("basic")
    await stage.rows(
        "INSERT INTO usage.usage_counters (user_id, usage_date, read_count) VALUES (%s, %s, 39)",
        *(user.id, stage.today()),
    )
    await user.execute([clients()])
    check_exhausted(await refused(user.execute([clients()])), "read", 40)
    request = pb.AnalyzeRequest(
        request_id="a", metrics=["no_show_rate"], window=pb.Window(last_days=7)
    )
    check_exhausted(await refused(stage.gateways[0].Analyze(request, **user.call)), "read", 40)
    assert await user.usage() == (40, 0)


async def test_a_change_that_is_forbidden_does_not_make_its_reads_free(stage: Stage) -> None:
    """USE-2: a request that can only read counts as one read, whatever it asked for beside.

    GAT-6: what is read from the same domain belongs to the batch that is refused.
    """
    user = await stage.user("basic")
    answer = await user.execute([operation("finance", READ), client("Ana"), clients()])
    assert [each.index for each in answer.report.successes] == [0]
    assert reasons(answer.report) == ["PLAN_FORBIDS", "ROLLED_BACK"]
    assert pb.NOTICE_KIND_UPGRADE in [each.kind for each in answer.notices]
    assert await user.usage() == (1, 0)


async def test_changes_beyond_the_days_limit_are_told_as_such(stage: Stage) -> None:
    """USE-2, USE-3, GAT-6: the first batches that fit are granted, the others told the reason.

    None of them in part. A dry run says the same, and counts nothing (USE-8).
    """
    user = await stage.user(await stage.plan(daily_modify_limit=4))
    await user.execute([client("Ana")])
    await user.execute([invoice("1", "Ana")])
    request = [
        appointment("Ana", "2099-01-01T10:00"),
        client("Bea"),
        invoice("2", "Ana"),
        operation("appointments", READ, "appointment"),
        appointment("Ana", "2099-01-02T10:00"),
        appointment("Ana", "2099-01-03T10:00"),
    ]
    over = [*["QUOTA_EXHAUSTED"], "ROLLED_BACK", *["QUOTA_EXHAUSTED"] * 2]
    dry = await user.execute(request, validate_only=True)
    assert [each.index for each in dry.report.successes] == [1, 2]
    assert dry.report.outcome == pb.OUTCOME_WOULD_BE_PARTIAL
    assert reasons(dry.report) == over
    assert await user.usage() == (0, 2)
    answer = await user.execute(request)
    assert [each.index for each in answer.report.successes] == [1, 2]
    assert reasons(answer.report) == over
    failure = answer.report.failures[0]
    assert failure.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert failure.retryable
    assert pb.NOTICE_KIND_QUOTA_EXHAUSTED in [each.kind for each in answer.notices]
    check_exhausted(await refused(user.execute([client("Eva")])), "modify", 4)
    dry = await user.execute([operation("finance", READ), client("Eva")], validate_only=True)
    assert [each.index for each in dry.report.successes] == [0]
    assert reasons(dry.report) == ["QUOTA_EXHAUSTED"]
    with_read = await user.execute([client("Eva"), clients(), operation("finance", READ)])
    assert reasons(with_read.report) == ["QUOTA_EXHAUSTED", "ROLLED_BACK"]
    assert await user.clients() == ["Ana", "Bea"]
    assert await user.usage() == (0, 4)


async def test_what_was_not_carried_out_is_given_back(stage: Stage) -> None:
    """USE-2: refused by its domain, undone with its batch, or asked back."""
    user = await stage.user()
    await user.execute([client("Ana", phone="1")])
    await user.execute([operation("clients", CREATE, name="Bea"), client("Caio", phone="x" * 50)])
    assert await user.usage() == (0, 1)
    await user.execute([operation("clients", READ, where={"nonsense": "1"})])
    assert await user.usage() == (0, 1)
    answer = await user.execute("hm, what about it?")
    assert answer.WhichOneof("result") == "clarification"
    assert await user.usage() == (0, 1)


async def test_the_thirteenth_query_of_a_minute_starts_a_cool_down(stage: Stage) -> None:
    """USE-6: everything that is admitted counts, and everything is refused then."""
    user = await stage.user("")
    for number in range(12):
        await user.execute([clients()], replica=number % 2)
    for call in (
        user.execute([clients()]),
        user.execute([client("Ana")], replica=1),
        stage.gateways[0].Recommend(pb.RecommendRequest(request_id="r"), **user.call),
    ):
        failure = await refused(call)
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "COOL_DOWN"
        assert failure.retry_after
        assert 14 * 60 < failure.retry_after.total_seconds() <= 15 * 60 + 1
        assert detail_of(failure, error_details_pb2.QuotaFailure).violations
        assert "15 minutes" in detail_of(failure, error_details_pb2.LocalizedMessage).message
    assert await user.usage() == (12, 0)
    assert (await snapshot(user)).HasField("cool_down_until")


async def test_the_sixth_modifying_request_starts_a_cool_down(stage: Stage) -> None:
    """USE-6: requests, not operations; nothing of the refused one is done."""
    user = await stage.user()
    for number in range(5):
        await user.execute([client(f"{number}a"), client(f"{number}b")])
    failure = await refused(user.execute([client("late"), clients()]))
    assert failure.reason == "COOL_DOWN"
    assert len(await user.clients()) == 10
    assert await user.usage() == (0, 10)


async def test_an_analysis_counts_as_one_read_however_often_it_is_sent(stage: Stage) -> None:
    """USE-1, USE-2, GAT-2: by whichever gateway; another question is not asked under its id."""
    user = await stage.user()
    request = pb.AnalyzeRequest(
        request_id="a", metrics=["no_show_rate"], window=pb.Window(last_days=7)
    )
    await asyncio.gather(
        *(stage.gateways[each % 2].Analyze(request, **user.call) for each in range(4))
    )
    assert await user.usage() == (1, 0)
    request.window.last_days = 8
    for call in (
        stage.gateways[0].Analyze(request, **user.call),
        stage.gateways[0].Recommend(pb.RecommendRequest(request_id="a"), **user.call),
    ):
        assert (await user.refused(call)).reason == "REQUEST_ID_REUSED"
    assert await user.usage() == (1, 0)
    assert [(row[0], row[2]) for row in await user.log()] == [("analyze", "succeeded")]


async def test_an_analysis_that_computed_nothing_is_given_back(stage: Stage) -> None:
    """USE-2: and is in the log as failed."""
    user = await stage.user()
    async with stage.lab() as lab:
        answer = await user.execute([operation(lab.name, READ)])
        assert answer.report.successes
    request = pb.AnalyzeRequest(
        request_id="a",
        metrics=["no_show_rate"],
        window=pb.Window(last_days=7),
        group_by="shoe_size",
    )
    answer = await stage.gateways[0].Analyze(request, **user.call)
    assert not answer.results
    assert len(answer.failures) == 1
    assert await user.usage() == (1, 0)
    assert [(row[0], row[2]) for row in await user.log()][-1] == ("analyze", "failed")


async def test_usage_is_told_by_day(stage: Stage) -> None:
    """USE-8, GAT-1."""
    user = await stage.user()
    await user.execute([clients()])
    await user.execute([client("Ana")])
    request = pb.GetUsageRequest(start_date="2020-01-01", end_date="2020-02-01")
    found = await stage.gateways[0].GetUsage(request, **user.call)
    assert list(found.days) == []
    assert (found.usage.read_count, found.usage.modify_count) == (1, 1)
    assert found.usage.plan_name == "premium"
    whole = await stage.gateways[1].GetUsage(
        pb.GetUsageRequest(start_date=stage.today().replace(day=1).isoformat()),
        **user.call,
    )
    assert [(day.read_count, day.modify_count) for day in whole.days] == [(1, 1)]
    for start, end in (("2020-02-01", "2020-01-01"), ("2019-01-01", "2026-01-01")):
        wrong = pb.GetUsageRequest(start_date=start, end_date=end)
        failure = await refused(stage.gateways[0].GetUsage(wrong, **user.call))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_change_of_plan_is_seen_by_every_gateway(stage: Stage) -> None:
    """ENT-4: by Watch, within its second; waited for with a bound."""
    user = await stage.user("basic")
    for replica in (0, 1):
        failure = await refused(user.execute([client("Ana")], replica=replica))
        assert failure.reason == "PLAN_FORBIDS"
    await stage.assign(user, "premium")

    async def seen(replica: int) -> bool:
        found = await stage.gateways[replica].GetUsage(pb.GetUsageRequest(), **user.call)
        return found.usage.plan_name == "premium"

    async with asyncio.timeout(1.0):
        await asyncio.gather(*(eventually(lambda each=each: seen(each)) for each in (0, 1)))
    await user.execute([client("Ana")], replica=1)
    assert await user.clients() == ["Ana"]


async def test_the_next_call_of_whoever_changed_a_plan_has_the_change(stage: Stage) -> None:
    """ENT-4: at once, by the revision that the change returned, at every method."""
    user = await stage.user("basic")
    for turn in range(4):
        gateway, plan = stage.gateways[turn % 2], ("premium", "basic")[turn % 2]
        await gateway.GetUsage(pb.GetUsageRequest(), **user.call)
        revision = await stage.assign(user, plan)
        usage = await gateway.GetUsage(pb.GetUsageRequest(min_revision=revision), **user.call)
        assert usage.usage.plan_name == plan
    revision = await stage.assign(user, "premium")
    name = f"Ana {revision.number}"
    done = await user.execute([client(name)], request_id="one", min_revision=revision)
    assert await user.clients() == [name]
    revision = await stage.assign(user, "basic")
    failure = await refused(user.execute([client("Bia")], min_revision=revision))
    assert failure.reason == "PLAN_FORBIDS"
    window = pb.Window(last_days=300)
    for ask in (
        stage.gateways[0].Analyze(
            pb.AnalyzeRequest(
                request_id="two", metrics=["no_show_rate"], window=window, min_revision=revision
            ),
            **user.call,
        ),
        stage.gateways[1].Recommend(
            pb.RecommendRequest(request_id="three", window=window, min_revision=revision),
            **user.call,
        ),
    ):
        assert (await refused(ask)).reason == "WINDOW_NOT_ALLOWED"
    again = await user.execute([client(name)], request_id="one", min_revision=revision)
    assert again.report == done.report


async def test_without_entitlements_known_users_go_on(stage: Stage) -> None:
    """GAT-12: a user who was never seen is told that it cannot be known now."""
    user = await stage.user()
    nowhere = f"unix:{stage.suite.folder}/nobody.sock"
    async with another_gateway(stage.suite, entitlements_target=nowhere) as gateway:
        request = pb.ExecuteRequest(
            request_id=str(uuid.uuid4()), operations=pb.OperationList(operations=[clients()])
        )
        failure = await refused(gateway.Execute(request, **user.call))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "PEER_UNAVAILABLE"
        assert failure.retry_after
    assert await user.usage() == (0, 0)


async def test_without_usage_nothing_is_done(stage: Stage) -> None:
    """USE-7: told as a store that is away, never as a quota."""
    user = await stage.user()
    nowhere = f"unix:{stage.suite.folder}/nobody.sock"
    async with another_gateway(stage.suite, usage_target=nowhere) as gateway:
        for each in (client("Ana"), clients()):
            request = pb.ExecuteRequest(
                request_id=str(uuid.uuid4()), operations=pb.OperationList(operations=[each])
            )
            failure = await refused(gateway.Execute(request, **user.call))
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.reason == "STORE_UNAVAILABLE"
    assert await user.clients() == []
