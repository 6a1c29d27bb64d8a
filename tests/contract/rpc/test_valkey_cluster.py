"""Usage over a Valkey Cluster: whole, with a node frozen or killed, and addressed wrongly (USE-7).

Kind: a store that refuses what it is asked, which is silence to everybody but its log.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.failure import StoreUnavailable
from services.runtime.telemetry import open_telemetry
from services.runtime.valkey import open_valkey, read_url
from services.usage.app import running
from services.usage.cool_downs import CoolDowns, key_of
from services.usage.settings import Settings
from tests.valkey_cluster import NODES, Cluster, valkey_cluster

BOUND = 20.0
LOG = logging.getLogger("gatehouse.test")
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with valkey_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


def users_of(cluster: Cluster, count: int) -> list[uuid.UUID]:
    """So many users of each node."""
    by_node: dict[int, list[uuid.UUID]] = {place: [] for place in range(NODES)}
    while any(len(each) < count for each in by_node.values()):
        user = uuid.uuid4()
        of = by_node[cluster.place_of(key_of(user))]
        if len(of) < count:
            of.append(user)
    return [user for each in by_node.values() for user in each]


async def test_the_names_of_many_users_are_spread_over_the_nodes(cluster: Cluster) -> None:
    """USE-6: written, read and cleared, by one batch over all slots."""
    users = users_of(cluster, 100)
    now = datetime.now(UTC)
    async with open_valkey(cluster.url) as valkey:
        cool_downs = CoolDowns(valkey, LOG)
        assert await cool_downs.running(users) == set()
        await cool_downs.started({user: now + timedelta(minutes=15) for user in users[::2]}, now)
        assert await cool_downs.running(users) == set(users[::2])
        await cool_downs.cleared(users[0])
        assert await cool_downs.running(users) == set(users[2::2])
        assert await cool_downs.check()


async def test_a_cluster_addressed_as_one_server_is_told(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """USE-7: it answers, and refuses: in health, and as one WARNING while it lasts."""
    async with open_valkey(cluster.node_url(0)) as valkey:
        cool_downs = CoolDowns(valkey, LOG)
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await cool_downs.running(users_of(cluster, 1))
            with pytest.raises(StoreUnavailable):
                await cool_downs.check()
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "CrossSlot" in warnings[0].message


@asynccontextmanager
async def serving_over(
    cluster: Cluster, database: Any, tokens: Any
) -> AsyncIterator[tuple[UsageServiceStub, dict[str, Any], Any]]:
    settings = Settings(
        database_url=database.url_for("usage"),
        valkey_url=cluster.url,
        unrecorded_writes=True,
        **tokens.settings,
    )
    token = tokens.user(roles=["service", "admin"])
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry(settings))
        address = await stack.enter_async_context(running(settings, telemetry))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        health = health_pb2_grpc.HealthStub(channel)

        async def of_valkey(expected: int) -> None:
            """Return once health says so of Valkey; usage itself serves all the while."""
            async with asyncio.timeout(BOUND):
                while True:
                    name = health_pb2.HealthCheckRequest(service="dependency.valkey")
                    overall = await health.Check(health_pb2.HealthCheckRequest())
                    assert overall.status == SERVING
                    if (await health.Check(name)).status == expected:
                        return
                    await asyncio.sleep(0.02)

        call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 10}
        yield UsageServiceStub(channel), call, of_valkey


async def refusals(service: Any, user: uuid.UUID, count: int) -> list[int]:
    """The reasons with which claims of one query each are refused; 0 for one that is granted."""
    stub, call, _ = service
    found = []
    for _ in range(count):
        claim = pb.Claim(operation_id=str(uuid.uuid4()), user_id=str(user), limits=pb.DailyLimits())
        claim.query.counts_read = True
        admission = (await stub.Consume(pb.ConsumeRequest(claim=claim), **call)).admission
        found.append(admission.refused.reason if admission.HasField("refused") else 0)
    return found


@pytest.mark.parametrize("outage", ["pause", "kill"])
async def test_a_node_that_is_gone_takes_no_count_with_it(
    cluster: Cluster, database: Any, tokens: Any, outage: str
) -> None:
    """USE-7: users of all nodes are decided on from Postgres, exactly, until it is back."""
    async with serving_over(cluster, database, tokens) as service:
        of_valkey = service[2]
        await of_valkey(SERVING)
        for user in users_of(cluster, 1):
            found = await refusals(service, user, 14)
            assert found == [0] * 12 + [pb.ERROR_REASON_ABUSE_DETECTED, pb.ERROR_REASON_COOL_DOWN]
        gone = cluster.programs[1]
        done = getattr(gone, outage)()
        if done is not None:
            await done
        try:
            async with asyncio.timeout(BOUND):
                for user in users_of(cluster, 1):
                    found = await refusals(service, user, 14)
                    assert found[:12] == [0] * 12
                    assert 0 not in found[12:]
            await of_valkey(NOT_SERVING)
        finally:
            if outage == "pause":
                gone.resume()
            else:
                await gone.start()
        await of_valkey(SERVING)


@pytest.mark.parametrize(
    ("url", "plain", "nodes"),
    [
        ("redis://:pw@a:1/3", "redis://:pw@a:1/3", []),
        ("valkeys://u:p@a", "rediss://u:p@a", []),
        ("unix:///tmp/v.sock?db=1", "unix:///tmp/v.sock?db=1", []),
        (
            "rediss+cluster://u:p%40@a:1,b/?ssl_ca_certs=/ca",
            "rediss://u:p%40@a:1?ssl_ca_certs=/ca",
            [("a", 1), ("b", 6379)],
        ),
        ("valkey+cluster://[::1]:1,b:2", "redis://[::1]:1", [("::1", 1), ("b", 2)]),
    ],
)
def test_the_url_says_whether_it_is_a_cluster(
    url: str, plain: str, nodes: list[tuple[str, int]]
) -> None:
    """ALL-5."""
    assert read_url(url) == (plain, nodes)


@pytest.mark.parametrize(
    "url",
    [
        *("http://pa55word@a", "pa55word", "redis+sentinel://pa55word@a"),
        *("redis+cluster://:pa55word@a/2", "redis+cluster://:pa55word@a:x", "redis+cluster://"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_without_showing_it(url: str) -> None:
    """ALL-5, ALL-2."""
    with pytest.raises(ValueError, match=r"must|cluster") as caught:
        read_url(url)
    assert "pa55word" not in str(caught.value)
