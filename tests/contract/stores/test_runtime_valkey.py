"""Connections to Valkey: what an outage is, that it is told soon, and how it ends."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import NoScriptError, ResponseError

from services.runtime.failure import StoreUnavailable
from services.runtime.valkey import Valkey, open_valkey, outages_told


async def write(valkey: Valkey) -> None:
    with outages_told():
        await valkey.client.set("a", 1)


async def refused(valkey: Valkey) -> None:
    with pytest.raises(StoreUnavailable):
        await write(valkey)


async def test_a_server_that_is_killed_is_told_and_found_again(own_valkey: Any) -> None:
    """USE-7: by the next call, without a retry that nobody asked for."""
    async with open_valkey(own_valkey.url) as valkey:
        for _ in range(2):
            await write(valkey)
            assert await valkey.check()
            await own_valkey.kill()
            async with asyncio.timeout(1):
                for _ in range(10):
                    await refused(valkey)
                assert not await valkey.check()
            await own_valkey.start()
        await write(valkey)


async def test_a_server_that_is_silent_is_not_waited_for(own_valkey: Any) -> None:
    """USE-7: a call has a quarter of a second; what is answered later goes to nobody else."""
    async with open_valkey(own_valkey.url) as valkey:
        await valkey.client.set("mine", "me")
        await valkey.client.set("other", "them")
        own_valkey.pause()
        try:
            async with asyncio.timeout(2):
                with pytest.raises(StoreUnavailable), outages_told():
                    await valkey.client.get("other")
                assert not await valkey.check()
        finally:
            own_valkey.resume()
        for _ in range(5):
            assert await valkey.client.get("mine") == b"me"


async def test_a_call_that_is_cancelled_leaves_its_answer_to_nobody(own_valkey: Any) -> None:
    """ALL-3: one caller's answer never goes to the next."""
    async with open_valkey(own_valkey.url, max_connections=1) as valkey:
        await valkey.client.set("mine", "me")
        await valkey.client.set("other", "them")
        own_valkey.pause()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await valkey.client.get("other")
        finally:
            own_valkey.resume()
        for _ in range(5):
            assert await valkey.client.get("mine") == b"me"


async def test_a_server_that_takes_no_writes_is_away(own_valkey: Any) -> None:
    """USE-7: a replica and a full server are as good as none; a mistake is a mistake."""
    async with open_valkey(own_valkey.url) as valkey:
        await valkey.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await refused(valkey)
        await valkey.client.execute_command("REPLICAOF", "NO", "ONE")
        await write(valkey)
        await valkey.client.config_set("maxmemory", 1)
        await refused(valkey)
        await valkey.client.config_set("maxmemory", 0)
        await valkey.client.config_set("min-replicas-to-write", 1)
        await refused(valkey)
        await valkey.client.config_set("min-replicas-to-write", 0)
        with pytest.raises(ResponseError), outages_told():
            await valkey.client.lpush("a", "not a list")
        with pytest.raises(NoScriptError), outages_told():
            await valkey.client.evalsha("0" * 40, 0)
