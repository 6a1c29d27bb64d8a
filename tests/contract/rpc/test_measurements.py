"""What is measured, as a collector gets it: every name that is promised, and no user's (ALL-4)."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.usage.v1 import usage_pb2
from gatehouse.usage.v1.usage_pb2_grpc import UsageServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from bench.fault_provider import Behaviour, fault_provider
from services.embedded import ADMIN, BASIC_USER, TIME_ZONE, Suite, suite
from services.runtime.recording import attribute
from tests.collector import Collector, collecting, values
from tests.contract.rpc.test_one_trace import READ, SERVICES, WORDS, creating
from tests.gateway_calls import refused
from tests.measurements import documented

CATALOGUE = """
providers: {{locked: {{base_url: "{url}"}}, p: {{base_url: "{url}"}}}}
models:
  first:
    {{tier: MODEL_SPEED, provider: locked, context_tokens: 999, prices: &p {{input: 1, output: 1}}}}
  small: {{tier: MODEL_BASIC, provider: p, context_tokens: 9999, prices: *p}}
tasks: {{INTERPRET: {{tiers: [MODEL_SPEED, MODEL_BASIC], first_token_seconds: 5}}}}
"""
A_USER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}")


@dataclass
class Stage:
    suite: Suite
    collector: Collector
    gateway: GatewayServiceStub
    usage: UsageServiceStub
    log: TraceServiceStub

    def as_(self, user: str | None = None, *roles: str) -> dict[str, Any]:
        token = self.suite.token(*([user] if user else []), roles=roles or ("user",))
        return {"timeout": 20, "metadata": [("authorization", f"Bearer {token}")]}

    async def execute(self, request: pb.ExecuteRequest, user: str | None = None) -> Any:
        request.request_id = str(uuid.uuid4())
        return await self.gateway.Execute(request, **self.as_(user))

    async def until(self, name: str, **about: Any) -> dict[str, Any]:
        """The point of a metric with these attributes, once it is there; dots are underscores."""

        def fits(point: dict[str, Any]) -> bool:
            plain = {key.replace(".", "_"): value for key, value in point.items()}
            return all(plain.get(key) == value for key, value in about.items())

        def found() -> list[dict[str, Any]]:
            return [each for each in self.collector.points(name) if fits(each)]

        await self.collector.until(lambda: bool(found()))
        return found()[0]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


@asynccontextmanager
async def opened_stage(collector: Collector, catalogue: Path) -> AsyncIterator[Stage]:
    async with fault_provider() as provider:
        catalogue.write_text(CATALOGUE.format(url=provider.base_url))
        provider.behave("first", Behaviour(fault="status", status=401))
        provider.behave("small", Behaviour(text=json.dumps({"operations": [READ]})))
        told = {name: {"otlp_endpoint": collector.address} for name in SERVICES}
        async with (
            suite(model_tiers=(), overrides=told) as running,
            grpc.aio.insecure_channel(running.addresses["gateway"]) as gateway,
            grpc.aio.insecure_channel(running.addresses["usage"]) as usage,
            grpc.aio.insecure_channel(running.addresses["oplog"]) as log,
        ):
            yield Stage(
                running,
                collector,
                GatewayServiceStub(gateway),
                UsageServiceStub(usage),
                TraceServiceStub(log),
            )


@pytest.fixture(scope="module")
async def stage(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    """A suite on which everything has happened once."""
    catalogue = tmp_path_factory.mktemp("measurements") / "catalogue.yaml"
    catalogue.touch()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GATEHOUSE_CATALOGUE", str(catalogue))
        environment.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")  # milliseconds, of the SDK
        async with opened_stage(collector, catalogue) as opened:
            await everything_happens(opened)
            yield opened


async def test_everything_that_is_promised_is_measured_and_nothing_of_users(stage: Stage) -> None:
    """ALL-4, LOG-6: the table in docs/operations.md, by name, kind and unit, and nothing else."""
    promised = documented()

    def came() -> dict[str, tuple[str, str]]:
        return {metric.name: kind_of(metric) for _, metric in list(stage.collector.metrics)}

    await stage.collector.until(lambda: set(promised) <= set(came()))
    assert came() == {name: (each.kind, each.unit) for name, each in promised.items()}
    for _, metric in stage.collector.metrics:
        for point in getattr(metric, metric.WhichOneof("data")).data_points:
            told = " ".join(str(value) for value in values(point.attributes).values())
            assert not A_USER.search(told.replace(str(stage.suite.folder), "")), metric.name


async def test_the_measurements_say_what_happened(stage: Stage) -> None:
    """ALL-4, ROU-3, LOG-1: counted once each, and by the names that alerts go by."""
    until = stage.until
    for kind, outcome, count in (
        ("execute", "succeeded", 2),
        ("execute", "refused", 1),
        ("analyze", "succeeded", 1),
        ("recommend", "succeeded", 1),
    ):
        about = {"gatehouse_query_kind": kind, "gatehouse_query_outcome": outcome}
        await until("gatehouse.queries", **about, value=count)
    await until("gatehouse.upgrades.prompted", gatehouse_query_kind="execute", value=1)
    await until("gatehouse.usage.approaching", gatehouse_query_kind="execute", value=1)
    await until("gatehouse.refusals", service="gateway", gatehouse_reason="PLAN_FORBIDS", value=1)
    over = {"gatehouse_failover_from": "first", "gatehouse_failover_to": "small"}
    await until("gatehouse.router.failovers", **over)
    await until("gatehouse.router.circuit.open", gatehouse_model="first", value=1)
    await until("gatehouse.router.circuit.open", gatehouse_model="small", value=0)
    await until("gatehouse.router.rejected_keys", gen_ai_provider_name="locked", value=1)
    failed = {"gen_ai_request_model": "first", "error_type": "KEY_REJECTED"}
    await until("gen_ai.client.inference.duration", **failed, count=1)
    await until("gen_ai.client.operation.duration", **failed, count=1)
    used = await until("gen_ai.client.inference.usage.input_tokens", gen_ai_request_model="small")
    assert used["value"] > 0
    await until("gatehouse.oplog.quarantined", service="oplog", value=1)
    await until("gatehouse.oplog.chain.intact", service="oplog", value=1)
    await until("gatehouse.spool.limit", service="gateway", value=64 * 1024 * 1024)
    await until("gatehouse.spool.size", service="gateway", value=0)
    for name in ("postgres", "usage", "oplog", "router", "entitlements"):
        about = {"gatehouse_dependency": name}
        await until("gatehouse.dependency.up", service="gateway", **about, value=1)
    await until("db.client.connection.limit", service="usage", value=8)


async def everything_happens(stage: Stage) -> None:
    """A read by a failover, a plan that forbids, a quota that runs out, figures, and nonsense."""
    assert (await stage.execute(pb.ExecuteRequest(instruction=WORDS))).report.successes
    failure = await refused(
        stage.execute(pb.ExecuteRequest(operations=creating("Bruno Lima")), BASIC_USER)
    )
    assert failure.reason == "PLAN_FORBIDS"
    today = stage.suite.now().astimezone(ZoneInfo(TIME_ZONE)).date()
    used = usage_pb2.CorrectUsageRequest(
        user_id=BASIC_USER, usage_date=today.isoformat(), read_count=35
    )
    await stage.usage.CorrectUsage(used, **stage.as_(ADMIN, "admin"))
    read = pb.Operation(domain="clients", entity="client", verb=domain_pb2.VERB_READ, limit=1)
    request = pb.ExecuteRequest(operations=pb.OperationList(operations=[read]))
    assert (await stage.execute(request, BASIC_USER)).usage.approaching_quota
    await stage.gateway.Analyze(
        pb.AnalyzeRequest(
            request_id=str(uuid.uuid4()), metrics=["overdue_ratio"], window=pb.Window(last_days=30)
        ),
        **stage.as_(),
    )
    await stage.gateway.Recommend(pb.RecommendRequest(request_id=str(uuid.uuid4())), **stage.as_())
    nonsense = ExportTraceServiceRequest()
    span = nonsense.resource_spans.add().scope_spans.add().spans.add()
    span.name, span.trace_id, span.span_id = "operation", b"t" * 16, b"s" * 8
    span.attributes.append(attribute("gatehouse.operation.id", "no id"))
    token = stage.suite.issuer.mint(user_id="test", roles=("service",))
    await stage.log.Export(nonsense, timeout=20, metadata=[("authorization", f"Bearer {token}")])


def kind_of(metric: Any) -> tuple[str, str]:
    """What the table calls it, and its unit."""
    kind = metric.WhichOneof("data")
    if kind == "sum":
        kind = "counter" if metric.sum.is_monotonic else "up-down counter"
    return kind, metric.unit
