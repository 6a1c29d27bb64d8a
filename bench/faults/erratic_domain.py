"""A domain that misbehaves on request: it refuses, breaks before or after it applies, or is late.

It keeps what a good domain keeps (DOM-1): an operation is applied once, and one that was reported
as not applied never is.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1 import domain_pb2_grpc as rpc
from gatehouse.entitlements.v1 import entitlements_pb2

from services.runtime.failure import Precondition

NAME = "erratic"
VERBS = (pb.VERB_CREATE, pb.VERB_READ)
# What the name of the thing to create asks for; anything else is applied and reported at once.
REFUSE, BREAK_BEFORE, BREAK_AFTER, LATE = "refuse", "break before", "break after", "late"
WHIMS = ("good", "good", REFUSE, BREAK_BEFORE, BREAK_AFTER, LATE)
LATE_SECONDS = 1.5


class ErraticDomain(rpc.DomainServiceServicer):
    """Counts how often each operation was applied."""

    def __init__(self) -> None:
        self.applied: Counter[str] = Counter()
        self._abandoned: set[str] = set()

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeResponse:
        return pb.DescribeResponse(name=NAME)

    async def ExecuteBatch(
        self, request: pb.ExecuteBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExecuteBatchResponse:
        whim = next((each.fields["name"] for each in request.operations if each.fields), "good")
        if request.validate_only:
            return answer(request, committed=False)
        if whim == REFUSE:
            return refusal(request, "RECORD_LOCKED")
        if whim == BREAK_BEFORE:
            await context.abort(grpc.StatusCode.INTERNAL, "broken before")
        if any(each.operation_id in self._abandoned for each in request.operations):
            return refusal(request, "OPERATION_ABANDONED")
        for each in request.operations:
            if each.verb != pb.VERB_READ and each.operation_id not in self.applied:
                self.applied[each.operation_id] += 1
        if whim == BREAK_AFTER:
            await context.abort(grpc.StatusCode.INTERNAL, "broken after")
        if whim == LATE:
            await asyncio.sleep(LATE_SECONDS)
        return answer(request, committed=True)

    async def GetOperation(
        self, request: pb.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetOperationResponse:
        if request.operation_id in self.applied:
            applied = pb.Applied(affected=1)
            return pb.GetOperationResponse(state=pb.OPERATION_STATE_APPLIED, applied=applied)
        self._abandoned.add(request.operation_id)
        return pb.GetOperationResponse(state=pb.OPERATION_STATE_NOT_APPLIED)


def answer(request: pb.ExecuteBatchRequest, *, committed: bool) -> pb.ExecuteBatchResponse:
    results = [
        pb.Result(operation_id=each.operation_id, applied=pb.Applied(affected=1))
        for each in request.operations
    ]
    return pb.ExecuteBatchResponse(committed=committed, results=results)


def refusal(request: pb.ExecuteBatchRequest, reason: str) -> pb.ExecuteBatchResponse:
    status = Precondition("refused on request", reason=reason).status()
    results = [
        pb.Result(operation_id=each.operation_id, status=status) for each in request.operations
    ]
    return pb.ExecuteBatchResponse(committed=False, results=results)


def descriptor(address: str) -> entitlements_pb2.DomainDescriptor:
    thing = entitlements_pb2.EntityDescriptor(name="thing", operations=VERBS)
    thing.json_schema.update({"type": "object", "properties": {"name": {"type": "string"}}})
    return entitlements_pb2.DomainDescriptor(
        name=NAME,
        operations=VERBS,
        endpoint=address,
        entities=[thing],
        sensitivity_level=entitlements_pb2.SENSITIVITY_LEVEL_LOW,
    )


@asynccontextmanager
async def erratic_domain(address: str) -> AsyncIterator[ErraticDomain]:
    """Serve the domain at *address*, a Unix socket."""
    domain = ErraticDomain()
    server = grpc.aio.server()
    rpc.add_DomainServiceServicer_to_server(domain, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield domain
    finally:
        await server.stop(None)
