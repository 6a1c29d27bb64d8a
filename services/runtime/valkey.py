"""Connections to Valkey, one server or a cluster.

The URL says which: `rediss://` (or `redis://`, `unix://`) is one server, `rediss+cluster://` the
nodes from which a cluster is found: `rediss+cluster://user:password@one:6379,two:6379`. `valkey`
and `valkeys` are taken for `redis` and `rediss`.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from services.runtime.failure import StoreUnavailable
from services.runtime.telemetry import Telemetry

ANSWER_SECONDS = 0.25
CONNECT_SECONDS = 0.25
PORT = 6379
SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
CLUSTER = "+cluster"
# What health writes; nobody reads it.
PROBE_KEY = "gatehouse:health"
PROBE_MILLISECONDS = 1000
# A server that is missing, loading, a replica, out of its cluster, or out of memory.
AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.OutOfMemoryError,
    # Nodes that cannot be found, or slots that no node has.
    exceptions.ClusterError,
    exceptions.RedisClusterException,
)


@contextmanager
def outages_told() -> Iterator[None]:
    """Turn what a missing, loading or read-only server raises into StoreUnavailable."""
    try:
        yield
    except (*AWAY, OSError):
        raise StoreUnavailable("the store does not answer") from None
    except ResponseError as error:
        if str(error).startswith(("MISCONF", "NOREPLICAS")):  # it takes no writes
            raise StoreUnavailable("the store does not answer") from None
        raise


class Valkey:
    """A service's connections to Valkey; `client` speaks, `asking` around it tells."""

    def __init__(
        self, client: "redis.asyncio.Redis | RedisCluster", telemetry: Telemetry | None = None
    ) -> None:
        self.client = client
        self._telemetry = telemetry
        self._about = about(client)
        self._ending: set[asyncio.Task[None]] = set()

    async def get_each(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of *keys*. In a cluster each node is asked for its own, all at once."""
        if isinstance(self.client, RedisCluster):
            gets = [PipelineCommand(place, "GET", key) for place, key in enumerate(keys)]
            await self._in_time(executed(self.client, gets))
            return [cast("bytes | None", each.result) for each in gets]
        return cast("list[bytes | None]", await self.client.mget(keys))

    async def set_each(self, values: Mapping[str, tuple[str, int]]) -> None:
        """Set each key to its value for so many milliseconds; in a cluster as `get_each`."""
        if isinstance(self.client, RedisCluster):
            sets = [
                PipelineCommand(place, "SET", key, value, "PX", milliseconds)
                for place, (key, (value, milliseconds)) in enumerate(values.items())
            ]
            await self._in_time(executed(self.client, sets))
            return
        pipeline = self.client.pipeline(transaction=False)
        for key, (value, milliseconds) in values.items():
            pipeline.set(key, value, px=milliseconds)
        await pipeline.execute()

    async def _in_time(self, work: Coroutine[None, None, None]) -> None:
        """Do *work*, or raise TimeoutError after ANSWER_SECONDS.

        A cluster's client that is interrupted closes its connections first, which may take longer:
        it does so by itself.
        """
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=ANSWER_SECONDS)
            if not done:
                raise TimeoutError
            task.result()
        finally:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waited has it

    async def close(self) -> None:
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self.client.aclose()

    @contextmanager
    def asking(self, command: str, size: int = 1) -> Iterator[None]:
        """Around *command*, or *size* of them in a pipeline. Raises StoreUnavailable.

        Neither keys nor values are in its span (LOG-6).
        """
        with outages_told():
            span = self._begun(command, size)
            if span is None:
                yield
                return
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.end()

    def _begun(self, command: str, size: int) -> Span | None:
        if self._telemetry is None:
            return None
        name = command if size == 1 else f"PIPELINE {command}"
        about = {**self._about, "db.operation.name": name}
        if size != 1:
            about["db.operation.batch.size"] = size
        return self._telemetry.begun(name, SpanKind.CLIENT, about)

    async def check(self) -> bool:
        """Whether every node answers, and takes what is written; for the service's health."""
        try:
            return await self.probe()
        except (RedisError, exceptions.RedisClusterException, OSError):
            return False

    async def probe(self) -> bool:
        """As `check`. Raises RedisError, RedisClusterException, OSError with what is wrong."""
        if isinstance(self.client, RedisCluster):
            await self.client.ping(target_nodes=RedisCluster.PRIMARIES)
        return bool(await self.client.set(PROBE_KEY, "", px=PROBE_MILLISECONDS))


async def executed(client: RedisCluster, commands: Sequence[PipelineCommand]) -> None:
    """Carry out *commands*, each about the one key after its name, in a pipeline for each node.

    The library's own pipeline takes 200 microseconds of CPU a command to find its node. Raises what
    the first command that failed raises.
    """
    await client.initialize()
    by_node: dict[ClusterNode, list[PipelineCommand]] = {}
    for each in commands:
        node = client.get_node_from_key(each.args[1])
        assert node is not None, "only a replica may be missing"
        by_node.setdefault(node, []).append(each)
    await asyncio.gather(*(node.execute_pipeline(those) for node, those in by_node.items()))
    for each in commands:
        if isinstance(each.result, exceptions.AskError | exceptions.TryAgainError):
            each.result = await client.execute_command(*each.args)  # it follows slots that move
        elif isinstance(each.result, exceptions.ConnectionError | exceptions.TimeoutError):
            await client.aclose()  # who has which slots is asked anew
        if isinstance(each.result, Exception):
            raise each.result


def about(client: "redis.asyncio.Redis | RedisCluster") -> dict[str, str | int]:
    """What is the same of every span: the server, or the node of a cluster that was asked first."""
    if isinstance(client, RedisCluster):
        first = client.startup_nodes[0]
        given = {"host": first.host, "port": first.port}
    else:
        given = client.connection_pool.connection_kwargs
    told: dict[str, str | int] = {
        "db.system.name": "valkey",
        "db.namespace": str(given.get("db", 0)),
        "server.address": str(given.get("path") or given.get("host", "")),
    }
    if int(given.get("port", PORT)) != PORT:
        told["server.port"] = int(given["port"])
    return told


def read_url(url: str) -> tuple[str, list[tuple[str, int]]]:
    """What redis-py takes for *url*, and the nodes where it is a cluster's; else none.

    Raises ValueError with what is wrong, and without the URL, which has a password in it.
    """
    parts = urlsplit(url)
    scheme, clustered = parts.scheme.removesuffix(CLUSTER), parts.scheme.endswith(CLUSTER)
    if parts.scheme == "unix":
        return url, []
    if scheme not in SCHEMES:
        raise ValueError(
            "must begin with redis://, rediss://, valkey://, valkeys:// or unix://,"
            f" and with {CLUSTER} before the colon where it is a cluster"
        )
    plain = parts._replace(scheme=SCHEMES[scheme])
    if not clustered:
        return urlunsplit(plain), []
    who, at, hosts = parts.netloc.rpartition("@")
    if parts.path.strip("/"):
        raise ValueError("a cluster has no databases by number: end the URL after the nodes")
    nodes = [node_at(host) for host in hosts.split(",")]
    return urlunsplit(plain._replace(netloc=f"{who}{at}{hosts.split(',')[0]}", path="")), nodes


def node_at(text: str) -> tuple[str, int]:
    """Raises ValueError."""
    parts = urlsplit(f"//{text}")
    try:
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, PORT
    if not host:
        raise ValueError("a cluster's nodes must be host:port, with commas between them")
    return host, port


@asynccontextmanager
async def open_valkey(
    url: str, *, max_connections: int = 64, telemetry: Telemetry | None = None
) -> AsyncIterator[Valkey]:
    """Connections with time-outs. A missing server is found out by each call, not here."""
    plain, nodes = read_url(url)
    options: dict[str, Any] = {
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "max_connections": max_connections,
        # The caller knows better what to do instead, and has no time to lose.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 3,
    }
    client: redis.asyncio.Redis | RedisCluster
    if nodes:
        client = RedisCluster.from_url(
            plain,
            startup_nodes=[ClusterNode(*node) for node in nodes],
            # What is left of a cluster works for whose keys it has.
            require_full_coverage=False,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            **options,
        )
    else:
        client = redis.asyncio.Redis.from_url(plain, **options)
    valkey = Valkey(client, telemetry)
    try:
        yield valkey
    finally:
        await valkey.close()
