"""The router on a socket, before providers that fail to order on sockets of their own: what its
tests stand on.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import router_pb2_grpc as rpc
from gatehouse.router.v1 import tier_pb2
from google.protobuf import json_format, struct_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bench.fault_provider import Behaviour, FaultProvider, fault_provider
from services.router.app import running
from services.router.settings import Settings
from services.runtime.telemetry import Telemetry

KEY = "sk-never-to-be-seen"
PROMPT = "the patient's private words"
USER, CLINIC = str(uuid.uuid4()), str(uuid.uuid4())
BASIC, SPEED, DEEP = tier_pb2.MODEL_BASIC, tier_pb2.MODEL_SPEED, tier_pb2.MODEL_ADV_REASON
EVERY_TIER = (BASIC, SPEED, DEEP, tier_pb2.MODEL_ANALYTICS)
SCHEMA = {
    "type": "object",
    "properties": {
        "verb": {"enum": ["read", "update"]},
        "count": {"type": "integer", "minimum": 3},
    },
    "required": ["verb", "count"],
    "additionalProperties": False,
}

CATALOGUE = """
currency: USD
providers:
  one: {{base_url: "{one}", api_key_env: KEY_ONE}}
  two: {{base_url: "{two}", max_concurrent_calls: 2}}
models:
  fast:
    {{tier: MODEL_SPEED, provider: one, context_tokens: 4000,
      prices: {{input: 3, cached_input: 0.3, output: 15}}}}
  fast-other:
    {{tier: MODEL_SPEED, provider: two, context_tokens: 4000, weight: 0,
      prices: {{input: 1, output: 2}}}}
  small:
    {{tier: MODEL_BASIC, provider: two, context_tokens: 1000,
      prices: {{input: 0.1, output: 0.2}}}}
  deep:
    {{tier: MODEL_ADV_REASON, provider: two, context_tokens: 100000,
      prices: {{input: 10, output: 40}}}}
{more}
"""


REST = "provider: two, context_tokens: 99, prices: {input: 1, output: 1}"


@dataclass
class Stand:
    """A running router, its providers, and what it wrote down."""

    one: FaultProvider
    two: FaultProvider
    catalogue_file: Path
    stub: "rpc.RouterServiceAsyncStub"
    token: str
    spans: InMemorySpanExporter
    log_lines: list[str] = field(default_factory=list)

    def provider(self, model: str) -> FaultProvider:
        return self.one if model == "fast" else self.two

    def fail(self, model: str, fault: str = "status", **how: Any) -> None:
        self.provider(model).behave(model, Behaviour(fault=fault, **how))  # type: ignore[arg-type]

    def asked(self, model: str) -> int:
        return self.provider(model).seen(model).requests

    def write_catalogue(self, more: str = "", **changes: str) -> None:
        text = CATALOGUE.format(one=self.one.base_url, two=self.two.base_url, more=more)
        for old, new in changes.items():
            text = text.replace(old, new)
        self.catalogue_file.write_text(text)

    def metadata(self, token: str | None = None) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.token if token is None else token}")]

    async def complete(self, timeout: float = 20, **fields: Any) -> pb.CompleteResponse:
        return await self.stub.Complete(
            request(**fields), timeout=timeout, metadata=self.metadata()
        )

    def stream(self, timeout: float = 20, **fields: Any) -> Any:
        asked = pb.StreamCompleteRequest(request=request(**fields))
        return self.stub.StreamComplete(asked, timeout=timeout, metadata=self.metadata())

    async def models(self) -> dict[str, pb.Model]:
        listed = await self.stub.ListModels(
            pb.ListModelsRequest(), timeout=5, metadata=self.metadata()
        )
        return {model.id: model for model in listed.models}

    async def spending(self, **fields: str) -> dict[str, pb.Spending]:
        asked = pb.GetSpendingRequest(start_date="2020-01-01", end_date="2099-12-31", **fields)
        told = await self.stub.GetSpending(asked, timeout=5, metadata=self.metadata())
        return {spent.model: spent for spent in told.spending}

    async def eventually(self, holds: Callable[[], Any], seconds: float = 10) -> Any:
        """The first true answer of *holds*, an async question; asked again until then."""
        async with asyncio.timeout(seconds):
            while not (answer := await holds()):
                await asyncio.sleep(0.02)
            return answer


def request(
    task: str = "INTERPRET",
    tiers: tuple[Any, ...] = EVERY_TIER,
    prompt: str = PROMPT,
    schema: dict[str, Any] | None = None,
    **fields: Any,
) -> pb.CompleteRequest:
    asked = pb.CompleteRequest(
        task=pb.TaskKind.Value(f"TASK_KIND_{task}"),
        messages=[pb.Message(role=pb.ROLE_USER, content=prompt)],
        model_tiers=tiers,
        **{"user_id": USER, "clinic_id": CLINIC, **fields},
    )
    if schema is not None:
        asked.json_schema.CopyFrom(json_format.ParseDict(schema, struct_pb2.Struct()))
    return asked


def outcomes(attempts: Any) -> list[tuple[str, str]]:
    return [
        (one.model, pb.AttemptOutcome.Name(one.outcome).removeprefix("ATTEMPT_OUTCOME_"))
        for one in attempts
    ]


@dataclass
class Refusal:
    """A status, unpacked."""

    code: grpc.StatusCode
    status: status_pb2.Status
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    attempts: list[tuple[str, str]] = field(default_factory=list)
    retry_seconds: float | None = None


@asynccontextmanager
async def refused() -> AsyncIterator[Refusal]:
    """What the block is refused with."""
    refusal = Refusal(grpc.StatusCode.OK, status_pb2.Status())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield refusal
    error = raised.value
    trailing = dict(error.trailing_metadata() or ())
    refusal.code = error.code()
    refusal.status.ParseFromString(trailing["grpc-status-details-bin"])
    for detail in refusal.status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        failed = pb.FailedAttempts()
        if detail.Unpack(info):
            refusal.reason, refusal.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            refusal.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(failed):
            refusal.attempts = outcomes(failed.attempts)


class Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@asynccontextmanager
async def opened_stand(
    folder: Path, tokens: Any, database_url: str, more: str = ""
) -> AsyncIterator[Stand]:
    spans, lines = InMemorySpanExporter(), list[str]()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    log = logging.Logger("gatehouse.router.test")
    log.addHandler(Lines(lines))
    telemetry = Telemetry(tracers.get_tracer("test"), NoOpMeter("test"), log)
    async with fault_provider() as one, fault_provider() as two:
        stand = Stand(one, two, folder / "catalogue.yaml", None, "", spans, lines)  # type: ignore[arg-type]
        stand.write_catalogue(more)
        settings = Settings(
            catalogue_file=stand.catalogue_file,
            catalogue_poll_seconds=0.02,
            database_url=database_url,
            spool_directory=folder / "spool",
            grace_seconds=0,
            **tokens.settings,
        )
        stand.token = tokens.user(roles=("service",))
        async with (
            running(settings, telemetry, {"KEY_ONE": KEY}) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stand.stub = rpc.RouterServiceStub(channel)  # type: ignore[assignment]
            yield stand
