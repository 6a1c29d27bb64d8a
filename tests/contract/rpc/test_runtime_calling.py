"""How peers are called: deadline, trace, token, retries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as entitlements
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.usage.v1 import usage_pb2 as usage
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import context
from opentelemetry.trace import SpanKind, StatusCode

from bench.faults.network import linked
from services.runtime.calling import (
    ACCEPTING,
    WithoutDeadline,
    as_caller,
    channel,
    deadline_left,
    passing_over,
    reachable,
    serves,
)
from services.runtime.failure import Failure, Internal, StoreUnavailable
from services.runtime.telemetry import context_in, trace_id
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
from tests.gateway_calls import eventually

REQUEST = usage.GetUsageRequest(user_id=USER)
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")


async def test_a_call_without_a_deadline_is_a_mistake_in_the_code(tokens: Any) -> None:
    """ALL-1: it never leaves."""
    async with stand(tokens) as service, channel(service.address) as opened:
        with pytest.raises(WithoutDeadline, match="GetUsage"):
            await UsageServiceStub(opened).GetUsage(REQUEST, metadata=service.call["metadata"])
        assert service.telemetry.spans == []


async def test_one_trace_and_one_caller_go_through_two_services(tokens: Any) -> None:
    """ALL-3, ALL-4: from the caller's traceparent on, in single answers and in streams."""
    seen = []

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        seen.append(trace_id())
        return await plain_answer(_, __)

    async def follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
        seen.append(trace_id())
        yield entitlements.WatchResponse(revision=entitlements.Revision(number=1))

    async with stand(tokens, answer=answer, follow=follow) as behind:
        async with channel(behind.address) as opened:

            async def pass_on(request: Any, _: Any) -> usage.GetUsageResponse:
                stub = EntitlementsServiceStub(opened)
                async for _ in stub.Watch(entitlements.WatchRequest(), metadata=as_caller()):
                    pass
                answer: usage.GetUsageResponse = await UsageServiceStub(opened).GetUsage(
                    request, timeout=deadline_left(5), metadata=as_caller()
                )
                return answer

            async with stand(tokens, answer=pass_on) as before:
                await before.get(metadata=[*before.call["metadata"], TRACEPARENT])
                (root,) = before.telemetry.spans
        spans = behind.telemetry.spans
    assert seen == [TRACE, TRACE]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    assert [each.parent.span_id for each in spans if each.parent] == [root.context.span_id] * 2


async def test_a_peer_gets_less_time_than_the_caller_gave(tokens: Any) -> None:
    """ALL-1: so that the answer still gets out."""
    left: list[float] = []

    async def behind(request: Any, context: Any) -> usage.GetUsageResponse:
        left.append(context.time_remaining())
        return await plain_answer(request, context)

    async with stand(tokens, answer=behind) as peer, channel(peer.address) as opened:

        async def pass_on(request: Any, _: Any) -> usage.GetUsageResponse:
            answer: usage.GetUsageResponse = await UsageServiceStub(opened).GetUsage(
                request, timeout=deadline_left(60), metadata=as_caller()
            )
            return answer

        async with stand(tokens, answer=pass_on) as before:
            await before.get(timeout=3)
    assert 0 < left[0] < 3


@pytest.mark.parametrize(
    ("idempotent", "tries"), [([], 1), ([SERVICE], 3), ([METHOD], 3), ([f"{SERVICE}/Settle"], 1)]
)
async def test_only_what_is_named_safe_is_sent_again(
    tokens: Any, idempotent: list[str], tries: int
) -> None:
    """ALL-1: where nobody could answer."""
    calls = 0

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        nonlocal calls
        calls += 1
        raise StoreUnavailable("the store does not answer")

    async with (
        stand(tokens, answer=answer) as service,
        channel(service.address, idempotent=idempotent) as opened,
    ):
        failure = await failure_of(UsageServiceStub(opened).GetUsage(REQUEST, **service.call))
    assert failure.reason == "STORE_UNAVAILABLE"
    assert calls == tries


async def test_a_replica_that_does_not_answer_is_passed_over(tokens: Any) -> None:
    """USE-9. Kind: a call that waits for one replica while another would answer."""
    asked = 0

    async def hang(_: Any, __: Any) -> usage.GetUsageResponse:
        nonlocal asked
        asked += 1
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async with (
        stand(tokens, answer=hang, listen="127.0.0.1:0") as frozen,
        stand(tokens, listen="127.0.0.1:0") as healthy,
        channel(f"ipv4:{frozen.address},{healthy.address}") as opened,
    ):
        stub, metadata = UsageServiceStub(opened), healthy.call["metadata"]

        async def get(timeout: float) -> usage.GetUsageResponse:
            answer = stub.GetUsage(REQUEST, timeout=timeout, metadata=metadata)
            return await answer  # type: ignore[no-any-return]

        for _ in range(6):
            await passing_over(get, 20, first=0.1)
        assert asked
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await passing_over(get, 0.01)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_silent_replica_gets_no_more_calls(tokens: Any, tmp_path: Any) -> None:
    """USE-9. Kind: a connection that stays open although nobody answers on it."""
    address = f"unix:{tmp_path}/service.sock"
    async with (
        stand(tokens, listen=address) as service,
        linked(address) as silent,
        linked(address) as healthy,
        channel(f"ipv4:{silent.address},{healthy.address}", watching=ACCEPTING) as opened,
    ):
        stub, metadata = UsageServiceStub(opened), service.call["metadata"]

        async def answered(seconds: float) -> bool:
            try:
                await stub.GetUsage(REQUEST, timeout=seconds, metadata=metadata)
            except grpc.aio.AioRpcError:
                return False
            return True

        async def all_answered() -> bool:
            return all([await answered(0.5) for _ in range(6)])

        await eventually(all_answered, 10)
        silent.silent()
        assert not await all_answered()
        await eventually(all_answered, 15)


async def test_what_is_broken_is_never_sent_again(tokens: Any) -> None:
    """ALL-1: only UNAVAILABLE is, however safe the method."""
    calls = 0

    async def answer(_: Any, __: Any) -> usage.GetUsageResponse:
        nonlocal calls
        calls += 1
        raise Internal

    async with (
        stand(tokens, answer=answer) as service,
        channel(service.address, idempotent=[SERVICE]) as opened,
    ):
        await failure_of(UsageServiceStub(opened).GetUsage(REQUEST, **service.call))
    assert calls == 1


@pytest.mark.parametrize(
    "target",
    [
        "usage:8443",
        "dns:///usage:8443",
        "10.0.0.1:80",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "127.0.0.12:1",
    ],
)
async def test_plain_text_never_leaves_this_machine(target: str) -> None:
    """ALL-3: not a single connection is tried."""
    with pytest.raises(Failure, match="plain text"):
        async with channel(target):
            raise AssertionError


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/nowhere", "ipv4:127.0.0.1:1"]
)
async def test_a_peer_that_is_not_there_is_not_reachable(target: str) -> None:
    """ALL-1: which health asks, and bounds."""
    async with channel(target) as opened:
        assert not await reachable(opened, seconds=0.2)


class SilentHealth(health_pb2_grpc.HealthServicer):
    """Of a process that is frozen: it keeps its connections, and answers nothing."""

    async def Check(self, request: Any, context: Any) -> health_pb2.HealthCheckResponse:
        await asyncio.Event().wait()
        return health_pb2.HealthCheckResponse()


@pytest.mark.parametrize("state", ["serving", "its store is down", "frozen", "not there"])
async def test_health_says_what_calls_to_a_peer_get(tokens: Any, tmp_path: Any, state: str) -> None:
    """USE-9. Kind: a health that asks something else than what callers get."""

    async def down() -> bool:
        return False

    async with AsyncExitStack() as stack:
        address = f"unix:{tmp_path}/peer.sock"
        if state == "frozen":
            server = grpc.aio.server()
            health_pb2_grpc.add_HealthServicer_to_server(SilentHealth(), server)
            server.add_insecure_port(address)
            await server.start()
            stack.push_async_callback(server.stop, 0)
        elif state != "not there":
            checks = {"dependency.postgres": down} if state == "its store is down" else {}
            await stack.enter_async_context(stand(tokens, health=checks, listen=address))
        opened = await stack.enter_async_context(channel(address))
        assert await serves(opened) == (state == "serving")


async def test_a_peer_that_comes_back_is_found_again(tokens: Any, tmp_path: Any) -> None:
    """ALL-1: by the same channel, without a call having to fail for it."""
    listen = f"unix:{tmp_path}/service.sock"
    async with channel(listen, watching=ACCEPTING) as opened:
        for _ in range(2):
            async with stand(tokens, listen=listen) as service:
                async with asyncio.timeout(10):
                    while not await reachable(opened):
                        pass
                await UsageServiceStub(opened).GetUsage(REQUEST, **service.call)


async def test_a_peer_that_knows_nothing_of_stops_can_be_called(tokens: Any) -> None:
    """ALL-1: one that has no health service at all."""
    server = grpc.aio.server()

    async def answer(_: bytes, __: Any) -> bytes:
        return usage.GetUsageResponse().SerializeToString()

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_registered_method_handlers(SERVICE, {"GetUsage": handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with channel(f"127.0.0.1:{port}", watching=ACCEPTING) as opened:
            await UsageServiceStub(opened).GetUsage(REQUEST, timeout=5)
    finally:
        await server.stop(0)


async def test_a_call_is_a_span_and_a_duration_of_whoever_makes_it(tokens: Any) -> None:
    """ALL-4: the callee's span hangs from it; to its caller whatever is not OK is an error."""
    answers = iter([plain_answer, unavailable])

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        return await next(answers)(request, context)

    seen = Observed()
    async with (
        stand(tokens, answer=answer) as service,
        channel(service.address, telemetry=seen) as opened,
    ):
        await UsageServiceStub(opened).GetUsage(REQUEST, **service.call)
        failure = await failure_of(UsageServiceStub(opened).GetUsage(REQUEST, **service.call))
        served = service.telemetry.spans
    assert failure.reason == "STORE_UNAVAILABLE"
    host, _, port = service.address.rpartition(":")
    about = {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "server.address": host,
        "server.port": int(port),
    }
    well, ill = seen.spans
    assert (well.name, well.kind, well.status.is_ok) == (METHOD, SpanKind.CLIENT, True)
    assert dict(well.attributes or {}) == {**about, "rpc.response.status_code": "OK"}
    wrong = {"rpc.response.status_code": "UNAVAILABLE", "error.type": "UNAVAILABLE"}
    assert dict(ill.attributes or {}) == {**about, **wrong}
    assert ill.status.status_code is StatusCode.ERROR
    assert [each.parent.span_id for each in served if each.parent] == [
        each.context.span_id for each in (well, ill)
    ]
    points = [dict(each.attributes) for each in seen.durations()]
    assert [dict(well.attributes or {}), dict(ill.attributes or {})] == points


async def unavailable(_: Any, __: Any) -> usage.GetUsageResponse:
    raise StoreUnavailable("it is away")


async def test_a_call_that_nobody_waits_for_any_more_ends_its_span_and_the_callees(
    tokens: Any,
) -> None:
    """ALL-1, ALL-4: the cancelling goes on to whom was called."""
    gate, gone = Gate(), asyncio.Event()

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        try:
            await gate.hold()
        finally:
            gone.set()
        return await plain_answer(request, context)

    seen = Observed()
    async with (
        stand(tokens, answer=answer) as service,
        channel(service.address, telemetry=seen) as opened,
    ):

        async def call() -> None:
            await UsageServiceStub(opened).GetUsage(REQUEST, **service.call)

        waiting = asyncio.create_task(call())
        await gate.wait_for(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(10):
            await gone.wait()
    (span,) = seen.spans
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_a_call_in_a_trace_that_is_not_sampled_leaves_nothing(tokens: Any) -> None:
    """ALL-4: and passes the caller's wish on."""
    seen = Observed()
    wish = context_in({"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"})
    async with (
        stand(tokens) as service,
        channel(service.address, telemetry=seen) as opened,
    ):
        token = context.attach(wish)
        try:
            await UsageServiceStub(opened).GetUsage(REQUEST, **service.call)
        finally:
            context.detach(token)
        assert service.telemetry.spans == []
    assert seen.spans == []
