"""A domain of the tests' own on a real socket: it does as it is told, slow, wrong or not at all."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1 import domain_pb2_grpc as rpc
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from grpc_status import rpc_status

from services.runtime.failure import Failure, Precondition

Batch = Callable[[pb.ExecuteBatchRequest], Awaitable[pb.ExecuteBatchResponse]]


class Lab(rpc.DomainServiceServicer):
    """Keeps what was done to it, once each id; *answers* decides how a batch goes."""

    def __init__(self) -> None:
        self.name = f"lab_{uuid.uuid4().hex[:8]}"
        self.address = ""
        self.descriptor = entitlements_pb2.DomainDescriptor()
        self.done: list[str] = []
        self.abandoned: set[str] = set()
        self.in_progress: set[str] = set()
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.answers: Batch = self.apply
        # Whether it says what it did when it is asked; None: it does not say anything.
        self.tells: bool | None = True
        # How many records it says an operation affected when it is asked.
        self.affected = 1
        # What becomes of an answer's bytes on their way.
        self.spoils: Callable[[bytes], bytes] = lambda answer: answer
        self.server: grpc.aio.Server | None = None

    async def apply(self, request: pb.ExecuteBatchRequest) -> pb.ExecuteBatchResponse:
        """What a good domain does."""
        gone = [each.operation_id for each in request.operations if self.is_abandoned(each)]
        if gone:
            return refusing(request, "OPERATION_ABANDONED")
        for each in request.operations:
            fresh = each.operation_id not in self.done
            if each.verb != pb.VERB_READ and fresh and not request.validate_only:
                self.done.append(each.operation_id)
        results = [
            pb.Result(operation_id=each.operation_id, applied=pb.Applied(affected=1))
            for each in request.operations
        ]
        return pb.ExecuteBatchResponse(committed=not request.validate_only, results=results)

    def is_abandoned(self, operation: pb.Operation) -> bool:
        return operation.operation_id in self.abandoned

    async def slow(self, request: pb.ExecuteBatchRequest) -> pb.ExecuteBatchResponse:
        """Does nothing until it is told to go on; then it applies."""
        if not request.validate_only:
            self.arrived.set()
            await self.go_on.wait()
        return await self.apply(request)

    async def slow_to_answer(self, request: pb.ExecuteBatchRequest) -> pb.ExecuteBatchResponse:
        """Applies at once, and answers when it is told to."""
        answer = await self.apply(request)
        if not request.validate_only:
            self.arrived.set()
            await self.go_on.wait()
        return answer

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeResponse:
        return pb.DescribeResponse(name=self.name)

    async def ExecuteBatch(
        self, request: pb.ExecuteBatchRequest, context: grpc.aio.ServicerContext
    ) -> pb.ExecuteBatchResponse:
        """What *answers* says; a Failure that it raises is told as a status, details and all."""
        try:
            return await self.answers(request)
        except Failure as failure:
            await context.abort_with_status(rpc_status.to_status(failure.status()))
            raise

    async def GetOperation(
        self, request: pb.GetOperationRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetOperationResponse:
        if self.tells is None:
            await self.go_on.wait()
        if not self.tells:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if request.operation_id in self.in_progress:
            self.in_progress.discard(request.operation_id)
            return pb.GetOperationResponse(state=pb.OPERATION_STATE_IN_PROGRESS)
        if request.operation_id in self.done:
            applied = pb.Applied(affected=self.affected)
            return pb.GetOperationResponse(state=pb.OPERATION_STATE_APPLIED, applied=applied)
        self.abandoned.add(request.operation_id)
        return pb.GetOperationResponse(state=pb.OPERATION_STATE_NOT_APPLIED)


class Spoiling(grpc.aio.ServerInterceptor):
    """Has a lab's answers to batches go out as it spoils them, which no message could say."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if not details.method.endswith("/ExecuteBatch"):
            return handler
        return handler._replace(
            response_serializer=lambda answer: self._lab.spoils(answer.SerializeToString())
        )


def refusing(request: pb.ExecuteBatchRequest, reason: str) -> pb.ExecuteBatchResponse:
    status = Precondition("words of the domain's own", reason=reason).status()
    results = [
        pb.Result(operation_id=each.operation_id, status=status) for each in request.operations
    ]
    return pb.ExecuteBatchResponse(committed=False, results=results)


def descriptor_of(lab: Lab, **more: object) -> entitlements_pb2.DomainDescriptor:
    verbs = [pb.VERB_CREATE, pb.VERB_READ, pb.VERB_UPDATE, pb.VERB_DELETE]
    thing = entitlements_pb2.EntityDescriptor(name="thing", operations=verbs)
    thing.json_schema.update(
        {"type": "object", "properties": {"name": {"type": "string", "x-selectable": True}}}
    )
    low = entitlements_pb2.SENSITIVITY_LEVEL_LOW
    wanted = {"sensitivity_level": low, "entities": [thing]} | more
    return entitlements_pb2.DomainDescriptor(
        name=lab.name, operations=verbs, endpoint=lab.address, **wanted
    )


@asynccontextmanager
async def lab_domain(
    entitlements: EntitlementsServiceStub, call: dict, folder: Path, **more: object
) -> AsyncIterator[Lab]:
    """A lab that serves, with a descriptor that is known as long as the block."""
    lab = Lab()
    unbounded = [("grpc.max_send_message_length", -1)]
    server = lab.server = grpc.aio.server(interceptors=[Spoiling(lab)], options=unbounded)
    rpc.add_DomainServiceServicer_to_server(lab, server)
    lab.address = f"unix:{folder / lab.name}.sock"
    server.add_insecure_port(lab.address)
    await server.start()
    made = await entitlements.CreateDescriptor(
        entitlements_pb2.CreateDescriptorRequest(
            descriptor=descriptor_of(lab, **more), request_id=str(uuid.uuid4())
        ),
        **call,
    )
    lab.descriptor = made.descriptor
    try:
        yield lab
    finally:
        lab.go_on.set()
        delete = entitlements_pb2.DeleteDescriptorRequest(id=made.descriptor.id)
        await entitlements.DeleteDescriptor(delete, **call)
        await server.stop(None)
