"""The client for asyncio: `Client`, with waits."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.oplog.v1 import oplog_pb2
from google.protobuf.message import Message

from gatehouse_client.channel import (
    OPTIONS,
    CallOptions,
    Tls,
    Token,
    TokenSource,
    credentials_for,
    target_of,
)
from gatehouse_client.refusals import refusals
from gatehouse_client.requests import Answer, What, execute_request, with_request_id

A = TypeVar("A")


class AsyncClient:
    """Calls the gateway; of one event loop. Every method raises GatehouseError.

    *timeout* is the seconds for each call, retries included, that brings none of its own.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        token: Token,
        *,
        tls: Tls | None = None,
        timeout: float = 10.0,
    ) -> None:
        target = target_of(addresses)
        credentials = credentials_for(target, tls)
        self.channel = (
            grpc.aio.insecure_channel(target, OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, OPTIONS)
        )
        self.stub = GatewayServiceStub(self.channel)
        self._token = TokenSource(token)
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self.channel.close()

    async def execute(
        self,
        what: What,
        *,
        request_id: str = "",
        locale: str = "",
        time_zone: str = "",
        timeout: float | None = None,
    ) -> Answer:
        """Carry *what* out. The options are for words and operations: a request has its own."""
        request = execute_request(what, request_id, locale, time_zone)
        return Answer(request, await self._call(self.stub.Execute, request, timeout))

    async def confirm(self, answer: Answer, *, timeout: float | None = None) -> Answer:
        """Go ahead with exactly what *answer* summarised."""
        return await self.execute(answer.confirmed(), timeout=timeout)

    async def interpret(
        self, request: pb.InterpretRequest, *, timeout: float | None = None
    ) -> pb.InterpretResponse:
        return await self._call(self.stub.Interpret, request, timeout)

    async def analyze(
        self, request: pb.AnalyzeRequest, *, timeout: float | None = None
    ) -> pb.AnalyzeResponse:
        return await self._call(self.stub.Analyze, with_request_id(request), timeout)

    async def stream_analyze(
        self, request: pb.AnalyzeRequest, *, timeout: float | None = None
    ) -> AsyncIterator[pb.StreamAnalyzeResponse]:
        """Yield the parts as they come, `finished` last.

        Leaving the loop early ends the call, not the work: the same request_id gets the answer.
        """
        sent = pb.StreamAnalyzeRequest(request=with_request_id(request))
        with refusals():
            call = self.stub.StreamAnalyze(sent, **self._options(timeout))
            try:
                async for part in call:
                    yield part
            finally:
                call.cancel()

    async def recommend(
        self, request: pb.RecommendRequest, *, timeout: float | None = None
    ) -> pb.RecommendResponse:
        return await self._call(self.stub.Recommend, with_request_id(request), timeout)

    async def usage(
        self, request: pb.GetUsageRequest | None = None, *, timeout: float | None = None
    ) -> pb.GetUsageResponse:
        return await self._call(self.stub.GetUsage, request or pb.GetUsageRequest(), timeout)

    async def models(self, *, timeout: float | None = None) -> pb.ListModelsResponse:
        return await self._call(self.stub.ListModels, pb.ListModelsRequest(), timeout)

    async def operations(
        self, request: pb.ListOperationsRequest | None = None, *, timeout: float | None = None
    ) -> AsyncIterator[oplog_pb2.OperationLog]:
        """The caller's operations, newest first, page after page; *timeout* is for each page."""
        asked = pb.ListOperationsRequest()
        asked.CopyFrom(request or asked)
        while True:
            page: pb.ListOperationsResponse = await self._call(
                self.stub.ListOperations, asked, timeout
            )
            for each in page.operations:
                yield each
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token

    async def cancel(
        self, request_id: str, *, timeout: float | None = None
    ) -> pb.CancelOutcome.ValueType:
        """Stop a running Execute by its id; its own call then returns what was done."""
        request = pb.CancelRequest(request_id=request_id)
        answer: pb.CancelResponse = await self._call(self.stub.Cancel, request, timeout)
        return answer.outcome

    async def _call(
        self,
        method: Callable[..., Awaitable[A]],
        request: Message,
        timeout: float | None,
    ) -> A:
        with refusals():
            return await method(request, **self._options(timeout))

    def _options(self, timeout: float | None) -> CallOptions:
        """What each call carries: never without a deadline."""
        seconds = self._timeout if timeout is None else timeout
        return {"timeout": seconds, "metadata": self._token.metadata()}
