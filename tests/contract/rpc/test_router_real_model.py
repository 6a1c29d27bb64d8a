"""The router before a real model: SmolLM2 behind llama.cpp, in a process of its own."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from gatehouse.router.v1 import router_pb2 as pb
from gatehouse.router.v1 import router_pb2_grpc as rpc
from gatehouse.router.v1 import tier_pb2
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer

from services.embedded_model import model_server
from services.embedded_stores import StartFailed
from services.router.app import running
from services.router.settings import Settings
from services.runtime.telemetry import Telemetry
from tests.conftest import Database

CATALOGUE = """
providers: {{local: {{base_url: "{url}", max_concurrent_calls: 2}}}}
models:
  smollm2:
    {{tier: MODEL_BASIC, provider: local, provider_model: smollm2-135m-instruct,
      context_tokens: 8192, max_output_tokens: 64, prices: {{input: 0, output: 0}}}}
# A cold model on a busy machine is no failure here: its patience is not what is tested.
tasks: {{CHAT: {{first_token_seconds: 60, stall_seconds: 60}}}}
"""
SCHEMA = {
    "type": "object",
    "properties": {"verb": {"enum": ["create", "read", "update", "delete"]}},
    "required": ["verb"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
async def real(
    tmp_path_factory: pytest.TempPathFactory, tokens: Any, database: Database
) -> AsyncIterator[tuple[Any, list[tuple[str, str]]]]:
    folder = tmp_path_factory.mktemp("model")
    try:
        opened = model_server()
        server = await opened.__aenter__()
    except StartFailed as error:
        pytest.skip(f"no model server here: {error}")
    try:
        path = folder / "catalogue.yaml"
        path.write_text(CATALOGUE.format(url=server.base_url))
        telemetry = Telemetry(NoOpTracer(), NoOpMeter("test"), logging.Logger("test"))
        settings = Settings(
            catalogue_file=path,
            database_url=database.url_for("router"),
            spool_directory=folder / "spool",
            grace_seconds=0,
            **tokens.settings,
        )
        async with (
            running(settings, telemetry, {}) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            token = tokens.user(roles=("service",))
            yield rpc.RouterServiceStub(channel), [("authorization", f"Bearer {token}")]
    finally:
        await opened.__aexit__(None, None, None)


def request(**fields: Any) -> pb.CompleteRequest:
    return pb.CompleteRequest(
        task=pb.TASK_KIND_CHAT,
        messages=[pb.Message(role=pb.ROLE_USER, content="Remove the invoice. Which verb is it?")],
        model_tiers=[tier_pb2.MODEL_BASIC],
        temperature=0,
        **fields,
    )


async def test_a_real_model_streams_and_counts(real: Any) -> None:
    """ROU-6."""
    stub, metadata = real
    asked = pb.StreamCompleteRequest(request=request(max_output_tokens=12))
    events = [e async for e in stub.StreamComplete(asked, timeout=90, metadata=metadata)]
    assert events[0].started.model_used == "smollm2"
    assert len(events) > 4
    usage = events[-1].finished.usage
    assert usage.input_tokens > 5
    assert 0 < usage.output_tokens <= 12
    assert not usage.estimated


async def test_a_real_model_is_held_to_a_schema(real: Any) -> None:
    """ROU-7."""
    stub, metadata = real
    asked = request()
    asked.json_schema.update(SCHEMA)
    answer = await stub.Complete(asked, timeout=90, metadata=metadata)
    assert json.loads(answer.content)["verb"] in SCHEMA["properties"]["verb"]["enum"]  # type: ignore[index]


async def test_a_prompt_too_long_for_a_real_model_is_told_as_that(real: Any) -> None:
    """ROU-3."""
    stub, metadata = real
    asked = request()
    asked.messages[0].content = "um dois " * 8000
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Complete(asked, timeout=90, metadata=metadata)
    assert "longer than any model" in str(raised.value.details())
