"""Every method of every service, called with each role: the page on roles is right (ALL-3)."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.oplog.v1 import oplog_pb2
from google.protobuf.descriptor import MethodDescriptor

from services.embedded_services import inside, told
from services.runtime.failure import Failure, failure_from
from services.runtime.roles import roles_in
from tests.contracts import CATALOGUE, ROLES, methods
from tests.gateway_calls import Stage, place_of

EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService/Export"
# Where a service of that contract listens; of domains one is as good as another.
SERVED_BY = {"domain": "clients"}


def path_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


CALLS = {path_of(each): each.server_streaming for each in methods()} | {EXPORT: False}
ALLOWED = {path_of(each): set(roles_in(each)) for each in methods()} | {EXPORT: {"service"}}


def service_of(path: str) -> str:
    name = "oplog" if path == EXPORT else path.split(".")[1]
    return SERVED_BY.get(name, name)


def request_of(path: str, user_id: str) -> bytes:
    """One without anything in it, but where a user has to say that their own is meant."""
    own = oplog_pb2.Filter(user_id=user_id)
    match path.rpartition("/")[2]:
        case "ListOperations" if "oplog" in path:
            return oplog_pb2.ListOperationsRequest(filter=own).SerializeToString()
        case "TailOperations":
            return oplog_pb2.TailOperationsRequest(filter=own).SerializeToString()
    return b""


@pytest.fixture(scope="module")
async def addresses(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, str]]:
    """Where each service listens; the suite has no router without a model."""
    catalogue = tmp_path_factory.mktemp("roles") / "catalogue.yaml"
    catalogue.write_text(CATALOGUE)
    place = replace(place_of(stage.suite), catalogue=catalogue)
    settings = {**told(place, "127.0.0.1:0")["router"], "listen": "127.0.0.1:0"}
    async with inside(place, "router", settings) as address:
        yield {**stage.suite.addresses, "router": address}


async def answer_of(
    channel: grpc.aio.Channel, path: str, request: bytes, metadata: Any
) -> Failure | None:
    """What the call fails with, or None for one that is answered."""
    try:
        if CALLS[path]:
            call = channel.unary_stream(f"/{path}")(request, metadata=metadata, timeout=10)
            await call.read()
            call.cancel()
        else:
            await channel.unary_unary(f"/{path}")(request, metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return failure_from(error)
    return None


@pytest.mark.parametrize("path", CALLS)
async def test_a_method_takes_the_roles_that_the_page_says_and_no_others(
    stage: Stage, addresses: dict[str, str], path: str
) -> None:
    """ALL-3: over a socket, with each role alone, with none, without a token, with a false one."""
    user_id = str(uuid.uuid4())
    async with grpc.aio.insecure_channel(addresses[service_of(path)]) as channel:

        async def answer(*authorization: str) -> Failure | None:
            metadata = [("authorization", each) for each in authorization]
            return await answer_of(channel, path, request_of(path, user_id), metadata)

        for roles in ((), *((role,) for role in ROLES)):
            failure = await answer(f"Bearer {stage.suite.token(user_id, roles=roles)}")
            if ALLOWED[path].intersection(roles):
                told = failure and (failure.code, failure.reason)
                denied = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
                assert failure is None or failure.code not in denied, (roles, told)
            else:
                assert failure is not None
                assert failure.code is grpc.StatusCode.PERMISSION_DENIED, roles
                assert failure.reason == "ROLE_REQUIRED", roles
        for given, reason in (
            ([], "TOKEN_MISSING"),
            (["Basic dXNlcjpwYXNz"], "TOKEN_MISSING"),
            (["Bearer a.b.c"], "TOKEN_INVALID"),
        ):
            failure = await answer(*given)
            assert failure is not None
            assert failure.code is grpc.StatusCode.UNAUTHENTICATED
            assert failure.reason == reason
