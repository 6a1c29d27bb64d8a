"""Intents without an outcome, settled by asking their domains (LOG-2)."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from gatehouse.domain.v1 import domain_pb2, domain_pb2_grpc
from gatehouse.entitlements.v1 import entitlements_pb2, entitlements_pb2_grpc
from gatehouse.oplog.v1 import oplog_pb2 as pb
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.oplog.app import running
from services.oplog.settings import Settings
from services.runtime.recording import attribute
from services.runtime.telemetry import open_telemetry

STATES = {
    "applied": domain_pb2.OPERATION_STATE_APPLIED,
    "not applied": domain_pb2.OPERATION_STATE_NOT_APPLIED,
    "in progress": domain_pb2.OPERATION_STATE_IN_PROGRESS,
}


class Domain(domain_pb2_grpc.DomainServiceServicer):
    """A domain that knows what became of some operations."""

    def __init__(self) -> None:
        self.knows: dict[str, Any] = {}

    async def GetOperation(self, request: Any, context: Any) -> Any:
        return domain_pb2.GetOperationResponse(state=self.knows[request.operation_id])


class Entitlements(entitlements_pb2_grpc.EntitlementsServiceServicer):
    """Says where the domains are, one a page."""

    def __init__(self, endpoints: dict[str, str]) -> None:
        self._endpoints = list(endpoints.items())

    async def ListDescriptors(self, request: Any, context: Any) -> Any:
        place = int(request.page_token or 0)
        name, endpoint = self._endpoints[place]
        more = place + 1 < len(self._endpoints)
        return entitlements_pb2.ListDescriptorsResponse(
            descriptors=[entitlements_pb2.DomainDescriptor(name=name, endpoint=endpoint)],
            next_page_token=str(place + 1) if more else "",
        )


@asynccontextmanager
async def served(add: Any, servicer: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def intent(operation: str, domain: str, user: str) -> Span:
    values = {
        "gatehouse.operation.id": operation,
        "gatehouse.request.id": "r-1",
        "gatehouse.action": "update",
        "gatehouse.domain": domain,
        "user.id": user,
    }
    now = time.time_ns() - 10**9
    return Span(
        trace_id=uuid.uuid4().bytes,
        span_id=uuid.uuid4().bytes[:8],
        name="operation.intent",
        start_time_unix_nano=now,
        end_time_unix_nano=now,
        attributes=[attribute(key, value) for key, value in values.items()],
    )


@pytest.fixture
async def domain() -> AsyncIterator[tuple[Domain, str]]:
    servicer = Domain()
    async with served(domain_pb2_grpc.add_DomainServiceServicer_to_server, servicer) as address:
        yield servicer, address


async def test_what_a_crash_left_open_is_asked_of_its_domain(
    database: Any, tokens: Any, tmp_path: Path, domain: tuple[Domain, str], unused_tcp_port: int
) -> None:
    """LOG-2: a domain that is away, and one that nobody knows, keep no other from being asked."""
    knowing, address = domain
    user = str(uuid.uuid4())
    open_ = {name: str(uuid.uuid4()) for name in STATES}
    knowing.knows = {open_[name]: state for name, state in STATES.items()}
    elsewhere = [str(uuid.uuid4()) for _ in range(150)]
    token = tmp_path / "token"
    token.write_text(tokens.user(roles=["service"]))
    endpoints = {"away": f"127.0.0.1:{unused_tcp_port}", "finance": address}
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(
        [
            *(intent(each, ("away", "unheard")[n % 2], user) for n, each in enumerate(elsewhere)),
            *(intent(each, "finance", user) for each in open_.values()),
        ]
    )
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        entitlements = await enter(
            served(
                entitlements_pb2_grpc.add_EntitlementsServiceServicer_to_server,
                Entitlements(endpoints),
            )
        )
        settings = Settings(
            database_url=database.url_for("oplog"),
            entitlements_target=entitlements,
            service_token_file=token,
            settle_after_seconds=0.001,
            settle_every_seconds=0.05,
            **tokens.settings,
        )
        telemetry = stack.enter_context(open_telemetry(settings))
        channel = await enter(grpc.aio.insecure_channel(await enter(running(settings, telemetry))))

        def as_(role: str) -> dict[str, Any]:
            bearer = f"Bearer {tokens.user(roles=[role])}"
            return {"metadata": [("authorization", bearer)], "timeout": 20}

        await TraceServiceStub(channel).Export(request, **as_("service"))
        log = OperationLogServiceStub(channel)
        wanted = {
            "applied": (pb.OUTCOME_SUCCEEDED, True, ""),
            "not applied": (pb.OUTCOME_FAILED, True, "OPERATION_ABANDONED"),
            "in progress": (pb.OUTCOME_UNKNOWN, False, ""),
        }
        found: dict[str, tuple[Any, ...]] = {}
        async with asyncio.timeout(30):
            while found != wanted:
                for name, id_ in open_.items():
                    answer = await log.GetOperation(
                        pb.GetOperationRequest(id=id_), **as_("auditor")
                    )
                    row = answer.operation
                    found[name] = (row.outcome, row.settled_later, row.reason)
                await asyncio.sleep(0.02)
        chain = await log.VerifyChain(pb.VerifyChainRequest(), **as_("auditor"))
        assert (chain.intact, chain.checked) == (True, 155)
