"""What every service keeps to, asked of each as a process of its own (ALL-1, ALL-2, ALL-5)."""

import asyncio
import os
import re
import resource
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.gateway.v1 import gateway_pb2
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.router.v1 import router_pb2
from gatehouse.usage.v1 import usage_pb2
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from pydantic import SecretStr

from services.embedded_services import SERVICES, beside, environment_of, told, wait_until_serving
from services.embedded_stores import GuardedProgram
from services.runtime.calling import ACCEPTING, channel
from services.runtime.failure import Failure, failure_from, status_of
from services.runtime.settings import SettingsError, load, prefix_of
from tests.contracts import CATALOGUE
from tests.gateway_calls import READ, Stage, client, eventually, operation, place_of, reasons

USER, CLINIC = str(uuid.uuid4()), str(uuid.uuid4())
CALLERS = 8
# What tells of the inside: SQL, files, hosts, exceptions, and the names of what is stored.
INSIDE = re.compile(
    r"SELECT|INSERT|UPDATE|relation|column|schema|psycopg|postgres|redis|valkey|socket|\.sock"
    r"|Traceback|\.py\b|Error\b|Exception|errno|No space|File too large|/tmp|/work|/root|127\.0",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Call:
    """A method that asks a service's store, as somebody who may."""

    path: str
    request: Message
    role: str
    table: str


READS = gateway_pb2.ExecuteRequest(
    operations=gateway_pb2.OperationList(operations=[operation("clients", READ)])
)
CALLS = {
    "entitlements": Call(
        "gatehouse.entitlements.v1.EntitlementsService/ListPlans",
        entitlements_pb2.ListPlansRequest(),
        "admin",
        "entitlements.plans",
    ),
    "usage": Call(
        "gatehouse.usage.v1.UsageService/GetUsage",
        usage_pb2.GetUsageRequest(user_id=USER),
        "service",
        "usage.usage_counters",
    ),
    "router": Call(
        "gatehouse.router.v1.RouterService/GetSpending",
        router_pb2.GetSpendingRequest(start_date="2026-01-01", end_date="2026-01-02"),
        "service",
        "router.attempts",
    ),
    "gateway": Call(
        "gatehouse.gateway.v1.GatewayService/Execute", READS, "user", "gateway.requests"
    ),
    "oplog": Call(
        "gatehouse.oplog.v1.OperationLogService/ListOperations",
        oplog_pb2.ListOperationsRequest(),
        "auditor",
        "oplog.operation_log",
    ),
    "clinic": Call(
        "gatehouse.domain.v1.DomainService/GetOperation",
        domain_pb2.GetOperationRequest(operation_id=str(uuid.uuid4())),
        "user",
        "clinic.operations",
    ),
}


@dataclass
class Fleet:
    """Every service, each in a process of its own."""

    stage: Stage
    programs: Mapping[str, GuardedProgram]
    addresses: Mapping[str, str]

    def metadata(self, name: str) -> list[tuple[str, str]]:
        # Requests of one user would run into the cool-down.
        user_id = str(uuid.uuid4()) if name == "gateway" else USER
        token = self.stage.suite.token(user_id, clinic_id=CLINIC, roles=(CALLS[name].role,))
        return [("authorization", f"Bearer {token}")]

    @asynccontextmanager
    async def channel(self, name: str) -> AsyncIterator[grpc.aio.Channel]:
        async with channel(self.addresses[name], watching=ACCEPTING) as opened:
            yield opened

    async def call(self, opened: grpc.aio.Channel, name: str, **more: Any) -> bytes:
        call, request = CALLS[name], CALLS[name].request
        if isinstance(request, gateway_pb2.ExecuteRequest):
            fresh = gateway_pb2.ExecuteRequest(request_id=str(uuid.uuid4()))
            fresh.MergeFrom(request)
            request = fresh
        options = {"timeout": 10, "metadata": self.metadata(name), **more}
        answer: bytes = await opened.unary_unary(f"/{call.path}")(
            request.SerializeToString(), **options
        )
        return answer

    async def outcome(self, name: str) -> Failure | None:
        """What a call fails with; nothing of the inside is in it, and a reason always."""
        async with self.channel(name) as opened:
            try:
                answer = await self.call(opened, name)
            except grpc.aio.AioRpcError as error:
                told_nothing_inside(error)
                return failure_from(error)
        if name == "gateway":  # its failures are in its report
            report = gateway_pb2.ExecuteResponse.FromString(answer).report
            for each in report.failures:
                assert each.status.details
                assert not INSIDE.search(plain(str(each.status)) + each.message)
        return None

    async def health(self, name: str, about: str = "") -> str:
        request = health_pb2.HealthCheckRequest(service=about)
        async with grpc.aio.insecure_channel(self.addresses[name]) as opened:
            answer = await health_pb2_grpc.HealthStub(opened).Check(request, timeout=5)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    async def restart(self, name: str) -> None:
        await self.programs[name].start()
        await wait_until_serving(self.programs[name], self.addresses[name])


def told_nothing_inside(error: grpc.aio.AioRpcError) -> None:
    status = status_of(error)
    assert status is not None, (error.code(), error.details())
    assert any("google.rpc.ErrorInfo" in each.type_url for each in status.details)
    others = [
        f"{key}: {value!r}"
        for key, value in error.trailing_metadata() or ()
        if key != "grpc-status-details-bin"
    ]
    found = INSIDE.search(plain(str(status)) + str(others))
    assert not found, (found, str(status), others)


def plain(text: str) -> str:
    """Without the names of the messages in it."""
    return re.sub(r'type_url: "[^"]*"|\[type\.googleapis\.com/[^\]]*\]', "", text)


@pytest.fixture(scope="module")
async def fleet(crew: Stage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """The suite's services, and a router, which it has none of without a model."""
    catalogue = tmp_path_factory.mktemp("fleet") / "catalogue.yaml"
    catalogue.write_text(CATALOGUE)
    place = replace(place_of(crew.suite), catalogue=catalogue)
    async with beside(place, "router", told(place, "")["router"]) as router:
        await wait_until_serving(router, place.address("router"))
        addresses = {
            **crew.suite.addresses,
            "router": place.address("router"),
            "clinic": crew.suite.addresses["clients"],
        }
        yield Fleet(crew, {**crew.suite.programs, "router": router}, addresses)


@pytest.mark.parametrize("name", CALLS)
async def test_a_service_tells_what_it_is_and_how(fleet: Fleet, name: str) -> None:
    """ALL-1: by reflection and health, without a token; what is unknown is no service of it."""
    contract = CALLS[name].path.partition("/")[0]

    def reflected() -> set[str]:
        with grpc.insecure_channel(fleet.addresses[name]) as opened:
            database = ProtoReflectionDescriptorDatabase(opened)
            assert database.FindFileContainingSymbol(contract)
            return set(database.get_services())

    assert {contract, "grpc.health.v1.Health"} <= await asyncio.to_thread(reflected)
    for about in ("", contract, "dependency.postgres"):
        assert await fleet.health(name, about) == "SERVING"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fleet.health(name, "another")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", CALLS)
async def test_what_is_too_large_is_refused_and_the_service_goes_on(
    fleet: Fleet, name: str
) -> None:
    """ALL-1: a message, the headers; others are answered as before."""
    path = CALLS[name].path
    async with fleet.channel(name) as opened:
        method = opened.unary_unary(f"/{path}")
        bearer = fleet.metadata(name)
        for content, metadata in (
            (bytes(5 * 1024 * 1024), bearer),
            (b"", [*bearer, ("x-more", "a" * 40_000)]),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(content, timeout=10, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"\xff\xff\xff", timeout=10, metadata=bearer)
        assert failure_from(caught.value).reason == "INVALID_ARGUMENT"
        told_nothing_inside(caught.value)
        await fleet.call(opened, name)


async def test_health_and_errors_follow_postgres(fleet: Fleet) -> None:
    """ALL-1, ALL-2: every service says it is gone, by its reason, and comes back by itself."""
    await fleet.stage.suite.postgres.kill()
    try:
        for name, failure in zip(CALLS, await outcomes(fleet), strict=True):
            if failure is not None:  # the gateway's is in its report
                assert failure.code is grpc.StatusCode.UNAVAILABLE, name
                assert failure.reason == "STORE_UNAVAILABLE", name
                assert failure.retry_after is not None

        async def all_know() -> bool:
            found = [await fleet.health(name, "dependency.postgres") for name in CALLS]
            return set(found) == {"NOT_SERVING"}

        await eventually(all_know)
        overall = {name: await fleet.health(name) for name in CALLS}
        # The router answers without it, and records later.
        assert overall.pop("router") == "SERVING"
        assert set(overall.values()) == {"NOT_SERVING"}
    finally:
        await fleet.stage.suite.postgres.start()

    async def all_serve() -> bool:
        return {await fleet.health(name) for name in CALLS} == {"SERVING"}

    await eventually(all_serve, 20)
    assert await outcomes(fleet) == [None] * len(CALLS)


async def outcomes(fleet: Fleet) -> list[Failure | None]:
    return list(await asyncio.gather(*map(fleet.outcome, CALLS)))


async def test_a_table_that_is_gone_is_told_to_nobody(fleet: Fleet) -> None:
    """ALL-2: no SQL, no name of a table, no exception; and that something broke."""
    tables = {call.table for call in CALLS.values()}
    for table in tables:
        await fleet.stage.rows(f"ALTER TABLE {table} RENAME TO away")
    try:
        found = dict(zip(CALLS, await outcomes(fleet), strict=True))
    finally:
        for table in tables:
            schema, _, name = table.partition(".")
            await fleet.stage.rows(f"ALTER TABLE {schema}.away RENAME TO {name}")
    for name, failure in found.items():
        assert failure is not None, name
        assert failure.reason in ("INTERNAL", "STORE_UNAVAILABLE"), name
    assert await outcomes(fleet) == [None] * len(CALLS)


async def test_a_disk_that_is_full_is_told_to_nobody(fleet: Fleet) -> None:
    """ALL-2, LOG-2: with the log away too, outcomes have no place, and changes are refused."""
    program, user = fleet.programs["gateway"], await fleet.stage.user()
    before = limited(program, (0, resource.RLIM_INFINITY))
    await fleet.programs["oplog"].kill()
    try:
        async with fleet.channel("gateway") as opened:
            # Its outcome stands in the store, from where the log gets it once it is back.
            await fleet.call(opened, "gateway", timeout=5)
        refused = gateway_pb2.ExecuteRequest(
            request_id=str(uuid.uuid4()),
            operations=gateway_pb2.OperationList(operations=[client("Ana")]),
        )
        answering = asyncio.ensure_future(fleet.stage.gateways[0].Execute(refused, **user.call))
        assert await fleet.health("gateway", "dependency.postgres") == "SERVING"
    finally:
        limited(program, before)
        await fleet.restart("oplog")
    report = (await answering).report
    (failure,) = report.failures
    assert reasons(report) == ["LOG_UNAVAILABLE"]
    assert not INSIDE.search(plain(str(failure.status)) + failure.message)
    assert await outcomes(fleet) == [None] * len(CALLS)


def limited(program: GuardedProgram, limits: tuple[int, int]) -> tuple[int, int]:
    """Let *program* write files no longer than that; what it might before."""
    return resource.prlimit(program.pid, resource.RLIMIT_FSIZE, limits)


class Callers:
    """Who call one after another, without pause; a call waits where nobody takes it."""

    def __init__(self, fleet: Fleet, opened: grpc.aio.Channel, name: str) -> None:
        self._one = lambda: fleet.call(opened, name, timeout=30, wait_for_ready=True)
        self.answered = 0
        self.errors: list[grpc.aio.AioRpcError] = []
        self._over = False

    async def __aenter__(self) -> "Callers":
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _go_on(self) -> None:
        while not self._over:
            try:
                await self._one()
                self.answered += 1
            except grpc.aio.AioRpcError as error:
                self.errors.append(error)

    async def more(self, count: int) -> None:
        wanted = self.answered + count

        async def reached() -> bool:
            return self.answered >= wanted or bool(self.errors)

        await eventually(reached, 30)


async def test_a_call_is_answered_or_was_never_taken(fleet: Fleet) -> None:
    """ALL-1: each service is told to stop under load, and every call gets its answer.

    Of it, where it was taken: it is drained. Of the process after it where not: gRPC keeps a call
    that waits for a connection, and would fail one that was taken and dropped.
    """
    async with AsyncExitStack() as stack:
        for name in CALLS:
            opened = await stack.enter_async_context(fleet.channel(name))
            async with Callers(fleet, opened, name) as callers:
                await callers.more(CALLERS)
                await fleet.programs[name].stop()
                await fleet.restart(name)
                await callers.more(CALLERS)
            assert callers.errors == [], name


def wrong_settings(name: str) -> dict[str, str]:
    fields = SERVICES[name].settings.model_fields
    secrets = [each for each, field in fields.items() if field.annotation is SecretStr]
    return {
        "grace_seconds": "s3cret",
        "max_message_bytes": "1",
        "log_level": "s3cret",
        "jwks": "http://s3cret.example.org/keys",
        "misspelt": "s3cret",
        "otlp_endpoint": "collector:4317",
        "peers": "=s3cret",
        **dict.fromkeys(secrets, "s3cret"),
    }


def every_mistake_is_named(name: str, said: str) -> None:
    prefix = prefix_of(SERVICES[name].settings)
    for each in (
        f"{prefix}GRACE_SECONDS: ",
        f"{prefix}MAX_MESSAGE_BYTES: ",
        f"{prefix}LOG_LEVEL: ",
        f"{prefix}JWKS: ",
        f"{prefix}MISSPELT is not a setting",
        f"{prefix}PEERS: ",
        f"{prefix}JWT_ISSUER is not set",
        f"{prefix}JWT_AUDIENCE is not set",
        "otlp_endpoint is not on this machine",
    ):
        assert each in said, (name, each, said)
    assert "s3cret" not in said


@pytest.mark.parametrize("name", CALLS)
def test_wrong_settings_are_all_named(name: str) -> None:
    """ALL-5, ALL-3: of every service at once, and no value of them."""
    with pytest.raises(SettingsError) as caught:
        load(SERVICES[name].settings, environment_of(name, wrong_settings(name)))
    every_mistake_is_named(name, f"{caught.value} {caught.value!r}")


async def test_wrong_settings_end_the_process_before_its_port_opens(tmp_path: Path) -> None:
    """ALL-5: with 2, what is wrong on standard error, and nothing else there."""
    wrong = {"listen": f"unix:{tmp_path / 'never.sock'}", **wrong_settings("gateway")}
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", SERVICES["gateway"].module),
        env={**os.environ, **environment_of("gateway", wrong)},
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await done.communicate()
    assert done.returncode == 2
    assert out == b""
    assert not (tmp_path / "never.sock").exists()
    every_mistake_is_named("gateway", said.decode())
    assert b"Traceback" not in said
