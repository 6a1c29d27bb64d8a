"""What a service says and does on its socket, whatever its servicer does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as entitlements
from gatehouse.usage.v1 import usage_pb2 as usage
from google.rpc import error_details_pb2
from opentelemetry.trace import StatusCode

from services.runtime.calling import deadline_left
from services.runtime.failure import Exhausted, InvalidInput, PeerUnavailable
from services.runtime.identity import current_caller
from tests.contract.rpc.runtime_stand import (
    METHOD,
    SERVICE,
    USER,
    Gate,
    Observed,
    failure_of,
    plain_answer,
    stand,
)

SECRET = "SELECT secret FROM diary"


async def test_a_call_needs_no_deadline_and_leaves_a_span_and_a_duration(tokens: Any) -> None:
    """ALL-4: by the names of the semantic conventions."""
    left = []

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        left.append(deadline_left(7.0))
        return await plain_answer(request, context)

    async with stand(tokens, answer=answer) as service:
        await service.get(timeout=None)
        (span,) = service.telemetry.spans
        assert left == [7.0]
        assert span.name == METHOD
        assert dict(span.attributes or {}) == {
            "rpc.system.name": "grpc",
            "rpc.method": METHOD,
            "rpc.response.status_code": "OK",
            "server.address": "127.0.0.1",
        }
        (point,) = service.telemetry.durations()
        assert dict(span.attributes or {}) == {**point.attributes, "server.address": "127.0.0.1"}
        assert point.explicit_bounds[0] == 0.005


async def test_a_broken_handler_tells_nothing_of_what_broke(
    tokens: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """ALL-2, ALL-4: neither the caller nor the span; the log has it all."""

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        raise RuntimeError(SECRET)

    async with stand(tokens, answer=answer) as service:
        failure = await failure_of(service.get())
        (span,) = service.telemetry.spans
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert SECRET not in failure.message
    assert SECRET not in span.to_json()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "INTERNAL"
    assert SECRET in caplog.text


async def test_an_answer_that_cannot_be_written_tells_nothing_either(tokens: Any) -> None:
    """ALL-2: gRPC itself would tell the exception's text."""

    async def answer(_: Any, __: Any) -> Any:
        return SECRET

    async with stand(tokens, answer=answer) as service:
        failure = await failure_of(service.get())
        assert failure.reason == "INTERNAL"
        assert SECRET not in failure.message


async def test_bytes_that_are_no_message_are_the_callers_mistake(tokens: Any) -> None:
    """ALL-2: INVALID_ARGUMENT with its BadRequest, and the service goes on."""
    async with stand(tokens) as service:
        failure = await failure_of(service.bytes_sent(METHOD, b"\xff\xff\xff"))
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
        )
        (detail,) = failure.details
        assert detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)
        assert (await service.get()).counter.user_id == USER


@pytest.mark.parametrize("path", [f"{SERVICE}/Nonsense", "no.such.Service/Call"])
async def test_a_method_that_is_unknown_has_a_reason_too(tokens: Any, path: str) -> None:
    """ALL-2: ErrorInfo always."""
    async with stand(tokens) as service:
        failure = await failure_of(service.bytes_sent(path, b""))
        assert (failure.code, failure.reason) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "UNIMPLEMENTED",
        )


async def test_a_method_that_a_servicer_has_not_is_unimplemented(tokens: Any) -> None:
    """ALL-2: what the generated base class raises is told as what it means."""
    async with stand(tokens) as service:
        settle = service.stub.Settle(
            usage.SettleRequest(operation_id=USER, user_id=USER), **service.call
        )
        assert (await failure_of(settle)).reason == "UNIMPLEMENTED"


async def test_a_request_past_the_limit_is_refused_and_the_service_goes_on(tokens: Any) -> None:
    """ALL-1, ALL-2: with its reason and the limit; far beyond it by gRPC, before it is read."""
    async with stand(tokens, max_message_bytes=1024) as service:
        for size in (1025, 4096):
            failure = await failure_of(service.bytes_sent(METHOD, b"x" * size))
            assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.reason == "MESSAGE_TOO_LARGE"
            assert failure.metadata == {"max_bytes": "1024"}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.bytes_sent(METHOD, b"x" * 4097)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await service.get()).counter.user_id == USER


async def test_an_answer_past_the_limit_has_its_reason(tokens: Any) -> None:
    """ALL-1, ALL-2: and the service goes on."""

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        return usage.GetUsageResponse(counter=usage.UsageCounter(user_id="x" * 5000))

    async with stand(tokens, answer=answer, max_message_bytes=1024) as service:
        failure = await failure_of(service.get())
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.reason == "MESSAGE_TOO_LARGE"


async def test_a_thousand_violations_do_not_break_the_call(tokens: Any) -> None:
    """ALL-2: as many as fit are named; the trailer stays within what every gRPC takes."""

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        violations = [(f"claims[{number}].user_id", "must be á UUID") for number in range(1000)]
        raise InvalidInput(violations)

    async with stand(tokens, answer=answer) as service:
        failure = await failure_of(service.get())
        assert failure.reason == "INVALID_ARGUMENT"
        named = error_details_pb2.BadRequest()
        assert failure.details[0].Unpack(named)
        assert named.field_violations[0].field == "claims[0].user_id"
        assert len(named.field_violations) > 10


async def test_details_pass_through_a_second_service_as_they_were(tokens: Any) -> None:
    """ALL-2: reason, retry and details of the service that refused, not of the one between."""

    async def refuse(_: Any, __: Any) -> usage.GetUsageResponse:
        violation = error_details_pb2.QuotaFailure.Violation(subject="user", description="all used")
        quota = error_details_pb2.QuotaFailure(violations=[violation])
        raise Exhausted("the day is over", reason="QUOTA_EXHAUSTED", details=[quota])

    async with stand(tokens, answer=refuse) as behind:

        async def pass_on(_: Any, __: Any) -> usage.GetUsageResponse:
            return await behind.get()

        async with stand(tokens, answer=pass_on) as before:
            failure = await failure_of(before.get())
    assert failure.reason == "QUOTA_EXHAUSTED"
    told = error_details_pb2.QuotaFailure()
    assert failure.details[0].Unpack(told)
    assert told.violations[0].description == "all used"


async def test_a_peer_that_is_not_there_is_told_without_the_transports_words(tokens: Any) -> None:
    """ALL-2: no address of another service gets out."""

    async def answer(request: Any, _: Any) -> usage.GetUsageResponse:
        async with grpc.aio.insecure_channel("unix:/nowhere/at/all") as nowhere:
            call = nowhere.unary_unary(f"/{METHOD}")
            await call(request.SerializeToString(), timeout=5)
        raise AssertionError

    async with stand(tokens, answer=answer) as service:
        failure = await failure_of(service.get())
        assert failure.reason == PeerUnavailable.reason
        assert failure.retry_after is not None
        assert "nowhere" not in failure.message


async def test_calls_past_the_capacity_are_refused_at_once(tokens: Any) -> None:
    """ALL-1: with the time to come back, and without a span for each."""
    gate = Gate()

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        await gate.hold()
        return await plain_answer(request, context)

    async with stand(tokens, answer=answer, max_concurrent_calls=2) as service:
        running = [asyncio.ensure_future(service.get()) for _ in range(2)]
        await gate.wait_for(2)
        for _ in range(3):
            failure = await failure_of(service.get())
            assert failure.reason == "OVERLOADED"
            assert failure.retry_after is not None
        assert service.telemetry.spans == []
        gate.open()
        await asyncio.gather(*running)
        await service.get()
        assert len(service.telemetry.spans) == 3


async def test_a_stream_arrives_whole(tokens: Any) -> None:
    """ALL-1."""
    async with stand(tokens) as service:
        assert [each.revision.number async for each in service.watch()] == [1, 2, 3]


async def test_a_stream_that_fails_midway_ends_with_its_reason(tokens: Any) -> None:
    """ALL-2: what was sent before stays."""

    async def follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
        yield entitlements.WatchResponse(revision=entitlements.Revision(number=1))
        raise Exhausted("enough", reason="OVERLOADED")

    async with stand(tokens, follow=follow) as service:
        call = service.watch()
        assert (await call.read()).revision.number == 1
        assert (await failure_of(call.read())).reason == "OVERLOADED"


@pytest.mark.parametrize("reads", [0, 1])
async def test_a_stream_that_nobody_follows_any_more_is_closed_within_its_call(
    tokens: Any, reads: int
) -> None:
    """ALL-1, ALL-3: its cleanup runs at once, still as the caller, wherever the stream was."""
    gate = Gate()
    closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
        try:
            while True:
                yield entitlements.WatchResponse(revision=entitlements.Revision(number=1))
                if reads:
                    await gate.hold()
        finally:
            closed.set_result(current_caller().user_id)

    async with stand(tokens, follow=follow) as service:
        token = tokens.user(user_id=USER, roles=["admin"])
        call = service.watch(metadata=[("authorization", f"Bearer {token}")])
        if reads:
            await call.read()
            await gate.wait_for(1)
        else:
            await call.initial_metadata()
        call.cancel()
        async with asyncio.timeout(10):
            assert await closed == USER
        # The call is over for the service as well: its place is free.
        await service.get()
    span = next(each for each in service.telemetry.spans if each.name.endswith("Watch"))
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_cancelling_a_call_cancels_its_handler(tokens: Any) -> None:
    """ALL-1: and is not counted as answered."""
    gate = Gate()
    ended = asyncio.Event()

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        try:
            await gate.hold()
        finally:
            ended.set()
        raise AssertionError

    async with stand(tokens, answer=answer) as service:
        call = service.stub.GetUsage(usage.GetUsageRequest(user_id=USER), **service.call)
        await gate.wait_for(1)
        call.cancel()
        async with asyncio.timeout(10):
            await ended.wait()
    (span,) = service.telemetry.spans
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_a_deadline_that_passes_ends_the_handler(tokens: Any) -> None:
    """ALL-1: what is left of it is known within, less a margin to answer in."""
    left: list[float] = []
    ended = asyncio.Event()

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        left.append(deadline_left(60))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with stand(tokens, answer=answer) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.get(timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0 < left[0] <= 0.45
        async with asyncio.timeout(10):
            await ended.wait()
    (span,) = service.telemetry.spans
    assert (span.attributes or {})["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


async def test_work_that_is_cancelled_within_is_told_and_not_waited_for(tokens: Any) -> None:
    """ALL-2: gRPC would leave the caller of such a call without an answer."""

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        work = asyncio.get_running_loop().create_future()
        work.cancel()
        await work
        raise AssertionError

    async with stand(tokens, answer=answer) as service:
        assert (await failure_of(service.get())).reason == "INTERNAL"


async def test_time_that_runs_out_within_is_a_deadline(tokens: Any) -> None:
    """ALL-2."""

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        raise AssertionError

    async with stand(tokens, answer=answer) as service:
        assert (await failure_of(service.get())).reason == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "TOKEN_MISSING"),
        ([("authorization", "Basic YTpi")], "TOKEN_MISSING"),
        ([("authorization", "Bearer")], "TOKEN_MISSING"),
        ([("authorization", "Bearer not.a.token")], "TOKEN_INVALID"),
    ],
)
async def test_a_call_without_a_usable_token_is_refused(
    tokens: Any, metadata: list[tuple[str, str]], reason: str
) -> None:
    """ALL-3: whatever method it is for."""
    async with stand(tokens) as service:
        failure = await failure_of(service.get(metadata=metadata))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert (await failure_of(service.watch(metadata=metadata).read())).reason == reason


async def test_callers_at_once_are_each_themselves(tokens: Any) -> None:
    """ALL-3: an identity never leaks from one call into another."""
    gate = Gate()
    users = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(1, 21)]

    async def answer(request: usage.GetUsageRequest, _: Any) -> usage.GetUsageResponse:
        await gate.hold()
        return usage.GetUsageResponse(counter=usage.UsageCounter(user_id=current_caller().user_id))

    async with stand(tokens, answer=answer, telemetry=Observed()) as service:
        calls = [
            asyncio.ensure_future(
                service.get(metadata=[("authorization", f"Bearer {tokens.user(user_id=user)}")])
            )
            for user in users
        ]
        await gate.wait_for(len(users))
        gate.open()
        assert [each.counter.user_id for each in await asyncio.gather(*calls)] == users
