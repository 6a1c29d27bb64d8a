"""Replicas as the processes that a deployment starts, killed at work (USE-2, USE-3, USE-7)."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import psycopg
from gatehouse.usage.v1 import usage_pb2 as pb
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub

PREFIX = "GATEHOUSE_USAGE_"


@asynccontextmanager
async def replica(environ: dict[str, str]) -> AsyncIterator[tuple[Any, asyncio.subprocess.Process]]:
    """A replica, and a stub to it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.usage"), env=environ, stdout=-1, stderr=-3
    )
    try:
        assert process.stdout is not None
        line = json.loads(await process.stdout.readline())
        async with grpc.aio.insecure_channel(line["listen"]) as channel:
            yield UsageServiceStub(channel), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def claim_of(user: str, limits: pb.DailyLimits, modify: int = 0) -> pb.Claim:
    claim = pb.Claim(operation_id=str(uuid.uuid4()), user_id=user, limits=limits)
    claim.reservation.FromTimedelta(timedelta(hours=1))
    if modify:
        claim.modify.count = modify
        claim.allow_partial = True
    else:
        claim.query.counts_read = True
    return claim


async def test_a_replica_killed_in_mid_batch_loses_and_doubles_nothing(
    database: Any, valkey: Any, tokens: Any
) -> None:
    """USE-2, USE-3, USE-7: admitted is counted is what the receipts say, and never over a limit."""
    told = {
        **tokens.settings,
        "database_url": database.url_for("usage"),
        "valkey_url": valkey.url,
        "unrecorded_writes": "true",
        "abuse_queries": "200",
        "abuse_modifies": "200",
    }
    environ = {**os.environ, **{PREFIX + name.upper(): value for name, value in told.items()}}
    call = {"metadata": [("authorization", f"Bearer {tokens.user(roles=['service'])}")]}
    users = [str(uuid.uuid4()) for _ in range(4)]
    limits = pb.DailyLimits(reads=25, modifies=35)
    batches = [
        [claim_of(user, limits, modify=place % 3) for user in users for _ in range(2)]
        for place in range(45)
    ]
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        started = await asyncio.gather(
            *(stack.enter_async_context(replica(environ)) for _ in range(3))
        )
        stubs = [each[0] for each in started]

        async def answered(place: int) -> list[pb.BatchedAdmission]:
            """Ask one replica after the other, under the same ids, until one answers."""
            asked, request = place, pb.ConsumeBatchRequest(claims=batches[place])
            while True:
                try:
                    answer = await stubs[asked % 3].ConsumeBatch(request, timeout=10, **call)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    asked += 1
                else:
                    return list(answer.admissions)

        racing = [asyncio.ensure_future(answered(place)) for place in range(len(batches))]
        for _, process in started[:2]:
            await asyncio.wait(
                [each for each in racing if not each.done()],
                return_when=asyncio.FIRST_COMPLETED,
            )
            process.kill()
        answers = await asyncio.gather(*racing)
        again = await asyncio.gather(*(answered(place) for place in range(len(batches))))

        admitted = dict.fromkeys(
            ((user, kind) for user in users for kind in ("query", "modify")), 0
        )
        for batch, decided, retried in zip(batches, answers, again, strict=True):
            for claim, first, second in zip(batch, decided, retried, strict=True):
                granted = first.admission.granted
                admitted[claim.user_id, claim.WhichOneof("what")] += granted.count
                assert second.admission.granted == granted
        for user in users:
            found = await stubs[2].GetUsage(pb.GetUsageRequest(user_id=user), timeout=10, **call)
            counted = (found.counter.read_count, found.counter.modify_count)
            assert counted == (admitted[user, "query"], admitted[user, "modify"])
            assert counted == (25, 35)
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            "SELECT user_id::text, kind, sum(granted)::int FROM usage.receipts"
            " WHERE user_id = ANY (%s) GROUP BY user_id, kind",
            (users,),
        )
        assert {(row[0], row[1]): row[2] for row in await found.fetchall()} == admitted
