"""A Valkey Cluster of three nodes on this machine, each a process of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import RedisError

from bench.programs import free_ports
from services.embedded_stores import GuardedProgram, valkey_binary

SLOTS = 16_384
NODES = 3


@dataclass
class Cluster:
    ports: list[int]
    programs: list[GuardedProgram]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in self.ports)}"

    def node_url(self, place: int) -> str:
        """Of one node, as if it were a server by itself."""
        return f"redis://127.0.0.1:{self.ports[place]}"

    def place_of(self, key: str) -> int:
        """Which node has *key*."""
        return key_slot(key.encode()) * NODES // SLOTS


@asynccontextmanager
async def valkey_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Three primaries with a third of the slots each, without replicas."""
    free = free_ports()
    ports = [next(free) for _ in range(NODES)]
    programs = []
    async with AsyncExitStack() as stack:
        for place, port in enumerate(ports):
            place_folder = folder / f"node-{place}"
            place_folder.mkdir()
            program = GuardedProgram(
                f"Valkey {place}",
                [
                    *(str(valkey_binary()), "--port", str(port), "--bind", "127.0.0.1"),
                    *("--cluster-enabled", "yes", "--cluster-port", str(next(free))),
                    *("--cluster-node-timeout", "5000", "--cluster-require-full-coverage", "no"),
                    *("--dir", str(place_folder), "--save", "", "--daemonize", "no"),
                ],
                place_folder / "valkey.log",
            )
            await program.start()
            stack.push_async_callback(program.stop)
            programs.append(program)
        made = Cluster(ports, programs)
        await joined(made)
        yield made


async def joined(cluster: Cluster) -> None:
    """Let the nodes meet, each with its share of the slots."""
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        clients = []
        for place in range(NODES):
            client = redis.asyncio.Redis.from_url(cluster.node_url(place))
            clients.append(await stack.enter_async_context(client))
        for place, client in enumerate(clients):
            while not await answers(client):
                await asyncio.sleep(0.01)
            first, last = -(-SLOTS * place // NODES), -(-SLOTS * (place + 1) // NODES) - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            await client.execute_command("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
        buses = [(await bus_of(client)) for client in clients]
        for client in clients:
            for port, bus in zip(cluster.ports, buses, strict=True):
                await client.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        for client in clients:
            while not await knows_all(client):
                await asyncio.sleep(0.02)


async def answers(client: redis.asyncio.Redis) -> bool:
    with suppress(RedisError, OSError):
        return bool(await client.ping())
    return False


async def bus_of(client: redis.asyncio.Redis) -> int:
    found = await client.execute_command("CONFIG", "GET", "cluster-port")
    return int(next(iter(found.values())) if isinstance(found, dict) else found[1])


async def knows_all(client: redis.asyncio.Redis) -> bool:
    info = await client.execute_command("CLUSTER", "INFO")
    text = info if isinstance(info, dict) else {}
    if not text:
        lines = (info.decode() if isinstance(info, bytes) else str(info)).splitlines()
        text = dict(line.split(":", 1) for line in lines if ":" in line)
    return (text["cluster_state"], text["cluster_slots_ok"], text["cluster_known_nodes"]) == (
        "ok",
        str(SLOTS),
        str(NODES),
    )
