"""What users read out of any answer, held to GAT-11: no identifier, no technical word, no address.

Every call of the tests' gateways goes through here, so that a leak fails the test that met it.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

# Fields that are shown to users as they are; what is in them besides is data of the clinic's own.
SENTENCES = {
    "Notice.message",
    "Success.summary",
    "Failure.message",
    "Failure.next_step",
    "PlannedOperation.summary",
    "ConfirmationRequired.summary",
    "Clarification.question",
    "MetricResult.label",
    "MetricResult.numerator_definition",
    "MetricResult.denominator_definition",
    "MetricFailure.message",
    "AnalyzeResponse.summary",
    "StreamAnalyzeResponse.summary_delta",
    "Recommendation.content",
    "LocalizedMessage.message",
}
# What no text of a status may hold either, which is for those who write the caller's program.
INTERNAL = {
    "SQL": r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b.*\b(FROM|VALUES|SET|WHERE)\b",
    "an exception": r"\b[A-Za-z.]+(Error|Exception)\b|Traceback|File \"",
    "an address": r"\bunix:|\b\w+://|\b\d{1,3}(\.\d{1,3}){3}\b|\blocalhost\b|\.sock\b",
    "a store": r"(?i)\b(postgres\w*|psycopg|valkey|redis|grpc)\b",
}
TECHNICAL = INTERNAL | {
    "an id": r"[0-9a-f]{8}-[0-9a-f]{4}-|\b[0-9a-f]{24,}\b",
    "a name of the code": r"\b[A-Za-z0-9]+_[A-Za-z0-9_]+\b",
    "a service": r"(?i)\b(gatehouse|oplog|entitlements|lab_\w+)\b",
    "a placeholder": r"[{}$]|\bNone\b|\bnull\b",
}


def leaks_in(message: Message) -> list[str]:
    """What *message* shows that it should not, each with where it stands."""
    return [
        f"{name} shows {what}: {text!r}"
        for name, text, unwanted in texts_of(message)
        for what, pattern in unwanted.items()
        if re.search(pattern, text)
    ]


def texts_of(message: Message) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every text within *message* that is looked at: where, what it says, what it may not hold."""
    if isinstance(message, Status):
        yield "Status.message", message.message, INTERNAL
        told = error_details_pb2.LocalizedMessage()
        for detail in message.details:
            if detail.Unpack(told):
                yield from texts_of(told)
        return
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if name in SENTENCES:
            # What the clinic calls its record is the clinic's own, whatever it looks like.
            label = getattr(message, "label", "") if field.name == "summary" else ""
            yield name, value.replace(label, ""), TECHNICAL
        elif (
            field.type == FieldDescriptor.TYPE_MESSAGE
            and not field.message_type.GetOptions().map_entry
        ):
            for each in value if field.is_repeated else [value]:
                yield from texts_of(each)


def check(message: Message) -> None:
    leaks = leaks_in(message)
    assert not leaks, leaks


class _Ended:
    """An error as rpc_status reads calls."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details = error.code, lambda: error.details() or ""
        self.trailing_metadata = lambda: list(error.trailing_metadata() or ())


def check_error(error: grpc.aio.AioRpcError) -> None:
    status = rpc_status.from_call(_Ended(error))
    if status is not None:
        check(status)


class ReadsUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Callable[..., Awaitable[Any]], details: Any, request: Any
    ) -> Any:
        call = await continuation(details, request)
        try:
            check(await call)
        except grpc.aio.AioRpcError as error:
            check_error(error)
        return call


class ReadsStreams(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Callable[..., Awaitable[Any]], details: Any, request: Any
    ) -> AsyncIterator[Any]:
        call = await continuation(details, request)

        async def read() -> AsyncIterator[Any]:
            try:
                async for part in call:
                    check(part)
                    yield part
            except grpc.aio.AioRpcError as error:
                check_error(error)
                raise

        return read()


def reading_channel(address: str) -> grpc.aio.Channel:
    """A channel whose answers are read as users would."""
    return grpc.aio.insecure_channel(address, interceptors=[ReadsUnary(), ReadsStreams()])
