"""How a service says how it is, and how it goes: health, reflection, drain, connection age."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as entitlements
from gatehouse.usage.v1 import usage_pb2 as usage
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from services.runtime.calling import ACCEPTING, channel
from services.runtime.settings import SettingsError
from tests.contract.rpc.runtime_stand import (
    NAMES,
    SERVICE,
    USER,
    Gate,
    Traffic,
    plain_answer,
    stand,
)


async def well() -> bool:
    return True


async def ill() -> bool:
    return False


async def broken() -> bool:
    raise RuntimeError("no connection")


async def silent() -> bool:
    await asyncio.Event().wait()
    return True


@pytest.mark.parametrize("check", [ill, broken, silent])
async def test_a_service_that_lacks_a_dependency_never_says_that_it_serves(
    tokens: Any, check: Callable[[], Awaitable[bool]]
) -> None:
    """ALL-1: from the first answer on, whole and by dependency; it is asked within a second."""
    health = {"dependency.postgres": check, "dependency.valkey": well}
    async with stand(tokens, health=health) as service:
        for name in ("", *NAMES, "dependency.postgres"):
            assert await service.health_of(name) == "NOT_SERVING"
        assert await service.health_of("dependency.valkey") == "SERVING"
        assert await service.health_of(ACCEPTING) == "SERVING"


async def test_a_service_serves_without_what_it_can_spare(tokens: Any) -> None:
    """ALL-1: the dependency itself is still told as missing."""
    health = {"dependency.valkey": ill}
    async with stand(tokens, health=health, spared=frozenset(health)) as service:
        assert await service.health_of() == "SERVING"
        assert await service.health_of("dependency.valkey") == "NOT_SERVING"


async def test_health_follows_a_dependency_that_comes_and_goes(tokens: Any) -> None:
    """ALL-1: those who watch are told."""
    state = {"there": False}

    async def check() -> bool:
        return state["there"]

    async with stand(tokens, health={"dependency.postgres": check}) as service:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        watch = health_pb2_grpc.HealthStub(service.channel).Watch(request, timeout=30)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        state["there"] = True
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        state["there"] = False
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()


async def test_a_reflection_client_reads_the_contract(tokens: Any) -> None:
    """ALL-1: services, messages and the rules on their fields, without a token."""

    def read(address: str) -> tuple[set[str], str]:
        with grpc.insecure_channel(address) as opened:
            database = ProtoReflectionDescriptorDatabase(opened)
            services = set(database.get_services())
            file = database.FindFileContainingSymbol(SERVICE)
            return services, file.package

    async with stand(tokens) as service:
        services, package = await asyncio.to_thread(read, service.address)
    assert {*NAMES, "grpc.health.v1.Health"} <= services
    assert package == "gatehouse.usage.v1"


async def test_what_runs_when_the_stop_comes_is_answered(tokens: Any) -> None:
    """ALL-1: health says NOT_SERVING first; a call that still arrives is answered as well."""
    gate = Gate()

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        await gate.hold()
        return await plain_answer(request, context)

    serves = stand(tokens, answer=answer)
    service = await serves.__aenter__()
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    watch = health_pb2_grpc.HealthStub(service.channel).Watch(request, timeout=30)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    before = asyncio.ensure_future(service.get())
    await gate.wait_for(1)
    stopping = asyncio.ensure_future(serves.__aexit__(None, None, None))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    after = asyncio.ensure_future(service.get())
    await gate.wait_for(2)
    assert not stopping.done()
    watch.cancel()
    gate.open()
    for each in (before, after):
        assert (await each).counter.user_id == USER
    await stopping


async def test_what_outlasts_the_grace_is_cancelled(tokens: Any) -> None:
    """ALL-1: a stream without end does not hold up the stop for longer."""
    ended = asyncio.Event()

    async def follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
        try:
            yield entitlements.WatchResponse(revision=entitlements.Revision(number=1))
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(10):
        async with stand(tokens, follow=follow, grace_seconds=0.2) as service:
            call = service.watch()
            assert (await call.read()).revision.number == 1
        await ended.wait()
        assert await call.code() is not grpc.StatusCode.OK


async def test_no_call_is_lost_when_a_replica_stops(tokens: Any) -> None:
    """ALL-1: callers that never pause, of a method that is not sent again, notice nothing."""
    served = [0, 0]

    def answering(replica: int) -> Any:
        async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
            served[replica] += 1
            return await plain_answer(request, context)

        return answer

    async with stand(tokens, answer=answering(0)) as staying, AsyncExitStack() as one:
        going = await one.enter_async_context(stand(tokens, answer=answering(1)))
        target = f"ipv4:{staying.address},{going.address}"
        async with (
            channel(target, watching=ACCEPTING) as opened,
            Traffic(UsageServiceStub(opened), staying.call) as traffic,
        ):
            while 0 in served:
                await traffic.more(10)
            await one.aclose()
            await traffic.more(200)
    assert traffic.errors == []


async def test_no_call_is_lost_when_a_connection_is_old(tokens: Any) -> None:
    """ALL-1: connections end after their age, so that new replicas get their share."""
    peers = set()

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        peers.add(context.peer())
        return await plain_answer(request, context)

    async with (
        stand(tokens, answer=answer, max_connection_age_seconds=0.2) as service,
        channel(service.address, watching=ACCEPTING) as opened,
        Traffic(UsageServiceStub(opened), service.call) as traffic,
        asyncio.timeout(20),
    ):
        while len(peers) < 3:
            await traffic.more(20)
    assert traffic.errors == []


async def test_a_port_that_is_taken_is_told_in_a_sentence(tokens: Any) -> None:
    """ALL-5."""
    async with stand(tokens) as service:
        with pytest.raises(SettingsError, match="cannot listen"):
            async with stand(tokens, listen=service.address):
                raise AssertionError
