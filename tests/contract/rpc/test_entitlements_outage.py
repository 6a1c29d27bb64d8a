"""Postgres gone and back again, seen by callers and followers (ALL-2, ENT-4)."""

import asyncio
import uuid
from contextlib import suppress
from typing import Any

import grpc
import pytest
from gatehouse.entitlements.v1 import entitlements_pb2 as pb
from gatehouse.entitlements.v1 import entitlements_pb2_grpc as pb_grpc

from services.embedded_stores import MIGRATOR, PostgresServer, create_database
from services.entitlements.app import running
from services.entitlements.settings import Settings
from services.runtime.failure import failure_from, reason_of
from services.runtime.migrations import migrate
from services.runtime.settings import load
from services.runtime.telemetry import open_telemetry


async def settings_on(server: PostgresServer, tokens) -> Settings:
    await create_database(server, "plans")
    await asyncio.to_thread(migrate, server.url(MIGRATOR, "plans"), "entitlements")
    return load(
        Settings,
        {
            "GATEHOUSE_ENTITLEMENTS_DATABASE_URL": server.url("gatehouse_entitlements", "plans"),
            "GATEHOUSE_ENTITLEMENTS_JWT_ISSUER": tokens.issuer,
            "GATEHOUSE_ENTITLEMENTS_JWT_AUDIENCE": tokens.audience,
            "GATEHOUSE_ENTITLEMENTS_JWKS": str(tokens.jwks_file),
            "GATEHOUSE_ENTITLEMENTS_UNRECORDED_WRITES": "true",
        },
    )


async def test_an_outage_is_told_as_such_and_ends_by_itself(own_postgres, tokens) -> None:
    """ALL-2, ENT-4: never a heartbeat while it lasts; afterwards no change is missing."""
    settings = await settings_on(own_postgres, tokens)
    admin = (("authorization", f"Bearer {tokens.user(roles=('admin',))}"),)
    user = str(uuid.uuid4())
    with open_telemetry(settings) as telemetry:
        async with (
            running(settings, telemetry) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub = pb_grpc.EntitlementsServiceStub(channel)
            assign = pb.AssignUserPlanRequest(user_id=user, plan_name="premium")
            watch = stub.Watch(pb.WatchRequest(), metadata=admin, timeout=90)
            last = (await watch.read()).revision

            await own_postgres.kill()
            await ends_unavailable(watch)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AssignUserPlan(assign, metadata=admin, timeout=10)
            failure = failure_from(caught.value)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.reason == "STORE_UNAVAILABLE"
            assert failure.retry_after is not None
            assert "psycopg" not in str(failure)
            assert "socket" not in str(failure)

            await own_postgres.start()
            written = await until_available(
                lambda: stub.AssignUserPlan(assign, metadata=admin, timeout=10)
            )
            resumed = await until_available(lambda: first_change(stub, last, admin))
            assert resumed.revision == written.revision
            assert resumed.changed.user_plan == written.user_plan


async def ends_unavailable(watch: Any) -> None:
    """Read a stream until it ends, and see that it ends with the store's absence."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_the_end(watch)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(caught.value) == "STORE_UNAVAILABLE"


async def read_to_the_end(watch: Any) -> None:
    async with asyncio.timeout(30):
        while await watch.read() is not grpc.aio.EOF:
            pass


async def first_change(stub: Any, after: pb.Revision, metadata: Any) -> pb.WatchResponse:
    watch = stub.Watch(pb.WatchRequest(after_revision=after), metadata=metadata, timeout=30)
    while (response := await watch.read()).WhichOneof("event") is None:
        pass
    watch.cancel()
    return response


async def until_available(call: Any) -> Any:
    """Call again, as a client would, while the answer is UNAVAILABLE."""
    async with asyncio.timeout(60):
        while True:
            with suppress(grpc.aio.AioRpcError):
                return await call()
            await asyncio.sleep(0.05)
