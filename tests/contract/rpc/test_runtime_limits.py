"""What a client can take from others: slow ones, greedy ones and broken ones (ALL-1)."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as entitlements
from gatehouse.usage.v1 import usage_pb2 as usage

from tests import raw_http2 as raw
from tests.contract.rpc.runtime_stand import METHOD, NAMES, USER, Gate, plain_answer, stand
from tests.raw_http2 import raw_client

WATCH = f"{NAMES[1]}/Watch"
REQUEST = usage.GetUsageRequest(user_id=USER).SerializeToString()


async def test_a_raw_client_is_answered(tokens: Any) -> None:
    """That the others are not is due to what they do."""
    async with stand(tokens) as service, raw_client(service.address) as client:
        client.greet()
        client.call(METHOD, service.token, REQUEST)
        async with asyncio.timeout(10):
            frame = await client.until(raw.DATA)
        assert frame is not None
        assert usage.GetUsageResponse.FromString(frame[3][5:]).counter.user_id == USER


@pytest.mark.parametrize("greeting", ["nothing", "half a preface", "no settings", "not HTTP/2"])
async def test_a_client_that_says_nothing_is_let_go(tokens: Any, greeting: str) -> None:
    """ALL-1: within the time for a handshake; others are answered meanwhile."""
    sent = {
        "nothing": b"",
        "half a preface": raw.PREFACE[:10],
        "no settings": raw.PREFACE,
        "not HTTP/2": b"GET / HTTP/1.1\r\n\r\n",
    }
    async with (
        stand(tokens, handshake_seconds=0.3) as service,
        raw_client(service.address) as client,
        asyncio.timeout(10),
    ):
        client.write(sent[greeting])
        await service.get()
        await client.ended()
        await service.get()


async def test_headers_that_come_byte_by_byte_last_no_longer_than_a_connection(
    tokens: Any,
) -> None:
    """ALL-1: they take no place of a call, and end with the connection's age."""
    given = {"max_connection_age_seconds": 0.3, "grace_seconds": 0.3, "max_concurrent_calls": 1}
    async with stand(tokens, **given) as service, raw_client(service.address) as client:
        client.greet()
        block = raw.headers_of(METHOD, service.token)
        client.send(raw.HEADERS, 0, 1, block[:1])

        async def drip() -> None:
            for each in block[1:]:
                client.send(raw.CONTINUATION, 0, 1, bytes([each]))
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(10):
            await service.get()
            await client.ended()
        dripping.cancel()


async def test_a_client_that_never_reads_is_let_go(
    tokens: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """ALL-1: it holds no stream for longer than it answers pings, and is no fault of ours."""
    ended, begun = asyncio.Event(), asyncio.Event()

    async def follow(_: Any, __: Any) -> AsyncIterator[entitlements.WatchResponse]:
        try:
            while True:
                yield entitlements.WatchResponse(revision=entitlements.Revision(number=1))
                begun.set()
        finally:
            ended.set()

    async with (
        stand(tokens, follow=follow, keepalive_seconds=0.3) as service,
        raw_client(service.address) as client,
        asyncio.timeout(10),
    ):
        client.greet(window=10)
        client.call(WATCH, service.token, b"")
        await begun.wait()
        await ended.wait()
        await service.get()
    assert not caplog.records


async def test_a_client_that_pings_without_end_is_told_to_calm_down(tokens: Any) -> None:
    """ALL-1: and its connection is closed; those of others stay."""
    async with (
        stand(tokens) as service,
        raw_client(service.address) as client,
        asyncio.timeout(10),
    ):
        await service.get()
        told = asyncio.create_task(client.until(raw.GOAWAY))
        client.greet()
        while not told.done():
            client.send(raw.PING, payload=bytes(8))
            await asyncio.sleep(0.01)
        frame = await told
        assert frame is not None
        assert int.from_bytes(frame[3][4:8], "big") == raw.ENHANCE_YOUR_CALM
        await client.ended()
        await service.get()


async def test_a_connection_has_no_more_streams_than_it_may(tokens: Any) -> None:
    """ALL-1: calls of which the message never comes take no place of others' calls."""
    gate = Gate()

    async def answer(request: Any, context: Any) -> usage.GetUsageResponse:
        await gate.hold()
        return await plain_answer(request, context)

    async with (
        stand(tokens, answer=answer, max_concurrent_calls=2) as service,
        raw_client(service.address) as client,
        asyncio.timeout(10),
    ):
        client.greet()
        frame = await client.until(raw.SETTINGS)
        assert frame is not None
        settings = {
            int.from_bytes(frame[3][at : at + 2], "big"): int.from_bytes(
                frame[3][at + 2 : at + 6], "big"
            )
            for at in range(0, len(frame[3]), 6)
        }
        assert settings[3] == 4
        client.send(raw.SETTINGS, raw.ACK)
        block = raw.headers_of(METHOD, service.token)
        for stream in range(1, 21, 2):
            client.send(raw.HEADERS, raw.END_HEADERS, stream, block)
        calls = [asyncio.ensure_future(service.get()) for _ in range(2)]
        await gate.wait_for(2)
        gate.open()
        await asyncio.gather(*calls)


async def test_headers_past_the_limit_are_refused_and_the_service_goes_on(tokens: Any) -> None:
    """ALL-1: before they are looked at; what a call needs has room."""
    async with stand(tokens) as service:
        bearer = service.call["metadata"]
        await service.get(metadata=[*bearer, ("x-more", "a" * 4000)])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.get(metadata=[*bearer, ("x-more", "a" * 40_000)])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await service.get()
