"""What a request leaves behind for those who read traces: one trace through every service."""

import asyncio
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bench.fault_provider import Behaviour, FaultProvider, fault_provider
from services.embedded import BASIC_USER, PREMIUM_USER, Suite, suite
from tests.collector import Collector, Seen, collecting

SERVICES = ("gateway", "entitlements", "usage", "router", "clinic", "oplog")
CALLER = "ca11e4ca11e4ca11"
# The rules do not understand it, so a model is asked.
WORDS = "anything about Ana Souza lately"
READ = {
    "domain": "appointments",
    "entity": "appointment",
    "verb": "VERB_READ",
    "conditions": [
        {"field": "client_name", "comparison": "COMPARISON_EQUAL", "value": "Ana Souza"}
    ],
    "fields": {},
    "all": False,
}
CATALOGUE = """
providers: {{p: {{base_url: "{url}", max_concurrent_calls: 10}}}}
models:
  small: {{tier: MODEL_BASIC, provider: p, context_tokens: 9999, prices: {{input: 1, output: 1}}}}
"""


@dataclass
class Stage:
    suite: Suite
    collector: Collector
    provider: FaultProvider
    gateway: GatewayServiceStub

    async def execute(
        self, request: pb.ExecuteRequest, user: str = PREMIUM_USER, *, sampled: bool = True
    ) -> Any:
        """What the gateway answers, in a trace of the caller's."""
        request.request_id = str(uuid.uuid4())
        flag = "01" if sampled else "00"
        return await self.gateway.Execute(
            request,
            timeout=20,
            metadata=[
                ("authorization", f"Bearer {self.suite.token(user)}"),
                ("traceparent", f"00-{secrets.token_hex(16)}-{CALLER}-{flag}"),
            ],
        )

    async def whole(self, trace_id: str, *services: str) -> list[Seen]:
        """The spans of a trace, once all *services* are in it and none hangs in the air."""

        def is_whole() -> bool:
            spans = self.collector.of(trace_id)
            known = {CALLER, *(each.id for each in spans)}
            hung = all(each.parent in known for each in spans)
            return hung and {each.service for each in spans} >= set(services)

        await self.collector.until(is_whole)
        return self.collector.of(trace_id)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as opened:
        yield opened


@asynccontextmanager
async def opened_stage(collector: Collector, catalogue: Path) -> AsyncIterator[Stage]:
    async with fault_provider() as provider:
        catalogue.write_text(CATALOGUE.format(url=provider.base_url))
        provider.behave("small", Behaviour(text=json.dumps({"operations": [READ]})))
        told = {name: {"otlp_endpoint": collector.address} for name in SERVICES}
        async with (
            suite(model_tiers=(), overrides=told) as running,
            grpc.aio.insecure_channel(running.addresses["gateway"]) as channel,
        ):
            yield Stage(running, collector, provider, GatewayServiceStub(channel))


@dataclass
class Asked:
    """A request that asked a model, what was answered, and its spans."""

    answer: pb.ExecuteResponse
    spans: list[Seen]


@pytest.fixture(scope="module")
async def opened(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Stage, Asked]]:
    catalogue = tmp_path_factory.mktemp("traces") / "catalogue.yaml"
    catalogue.touch()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GATEHOUSE_CATALOGUE", str(catalogue))
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")  # milliseconds, of the SDK
        async with opened_stage(collector, catalogue) as stage:
            answer = await stage.execute(pb.ExecuteRequest(instruction=WORDS))
            yield stage, Asked(answer, await stage.whole(answer.trace_id, *SERVICES))


@pytest.fixture
def stage(opened: tuple[Stage, Asked]) -> Stage:
    return opened[0]


@pytest.fixture
def first(opened: tuple[Stage, Asked]) -> Asked:
    """The first request of all: nothing is cached for it, so that every service is asked."""
    return opened[1]


def drawn(spans: list[Seen], parent: str = CALLER, depth: int = 0) -> list[str]:
    """The tree below *parent*, a line a span, those of one parent in the order of their names.

    A transaction is drawn as the schema that it is on: what it runs is the stores' own affair.
    """
    lines: list[tuple[str, list[str]]] = []
    for each in spans:
        if each.parent == parent:
            line = str(each)
            if (on := each.attributes.get("db.namespace", "")).startswith("gatehouse|"):
                line = f"{each.service} CLIENT {on}"
            lines.append((line, drawn(spans, each.id, depth + 1)))
    found: list[str] = []
    for line, below in sorted(lines):
        if "  " * depth + line not in found[-1:] or below:
            found += ["  " * depth + line, *below]
    return found


TREE = """
gateway SERVER GatewayService/Execute
  gateway CLIENT DomainService/ExecuteBatch
    clinic SERVER DomainService/ExecuteBatch
      clinic CLIENT gatehouse|clinic
  gateway CLIENT EntitlementsService/GetEntitlements
    entitlements SERVER EntitlementsService/GetEntitlements
      entitlements CLIENT gatehouse|entitlements
  gateway CLIENT EntitlementsService/ListDescriptors
    entitlements SERVER EntitlementsService/ListDescriptors
      entitlements CLIENT gatehouse|entitlements
  gateway CLIENT RouterService/Complete
    router SERVER RouterService/Complete
      router CLIENT chat small
  gateway CLIENT TraceService/Export
    oplog SERVER TraceService/Export
      oplog CLIENT gatehouse|oplog
  gateway CLIENT UsageService/ConsumeBatch
    usage SERVER UsageService/ConsumeBatch
      usage CLIENT MGET
      usage CLIENT gatehouse|usage
  gateway CLIENT gatehouse|gateway
""".strip().splitlines()


def test_a_request_is_one_trace_to_the_stores_and_the_provider(stage: Stage, first: Asked) -> None:
    """ALL-4: from the caller's context on, every call seen from both its sides."""
    answer, spans = first.answer, first.spans
    assert answer.interpretation.reader == pb.READER_MODEL
    assert answer.report.successes
    assert drawn(spans) == TREE
    assert not any(each.span.status.code == Status.STATUS_CODE_ERROR for each in spans)
    carried = stage.provider.seen("small").headers[0]["traceparent"].split("-")
    (attempt,) = [each for each in spans if each.span.name == "chat small"]
    assert carried[1:3] == [answer.trace_id, attempt.id]


def test_spans_are_named_and_described_by_the_conventions(stage: Stage, first: Asked) -> None:
    """ALL-4: rpc, db and gen_ai, as far as what they say is known here."""
    spans = first.spans
    for each in spans:
        about = each.attributes
        if "rpc.system.name" in about:
            address = stage.suite.addresses
            assert about["rpc.system.name"] == "grpc"
            assert about["rpc.method"] == each.span.name
            assert about["rpc.response.status_code"] == "OK"
            assert about["server.address"] in {x.removeprefix("unix:") for x in address.values()}
        if about.get("db.system.name") == "postgresql":
            assert each.span.kind == Span.SPAN_KIND_CLIENT
            assert about["db.namespace"] == f"gatehouse|{each.service}"
            assert about["db.query.summary"] == each.span.name
            assert about["server.address"]
    (asked,) = [each for each in spans if each.attributes.get("db.system.name") == "valkey"]
    assert asked.span.kind == Span.SPAN_KIND_CLIENT
    assert (asked.span.name, asked.attributes["db.operation.name"]) == ("MGET", "MGET")
    assert asked.attributes["db.namespace"] == "0"
    (attempt,) = [each for each in spans if each.span.name == "chat small"]
    about = attempt.attributes
    assert about["server.port"] == int(stage.provider.base_url.split(":")[2].split("/")[0])
    assert about["gen_ai.usage.input_tokens"] > about["gen_ai.usage.cache_read.input_tokens"]
    assert about["gen_ai.usage.output_tokens"] > 0
    assert 0 < about["gen_ai.response.time_to_first_chunk"] < 20
    assert (
        about.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "p",
            "gen_ai.request.model": "small",
            "gen_ai.request.stream": True,
            "gen_ai.response.model": "small",
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.output.type": "json",
            "server.address": "127.0.0.1",
        }.items()
    )


async def test_no_span_has_a_word_of_what_was_asked_or_found(stage: Stage, first: Asked) -> None:
    """LOG-6: neither of the instruction, nor of records, nor what is bound to statements."""
    (done,) = first.answer.report.successes
    found = {
        value.string_value
        for record in done.records
        for value in record.fields.values()
        if value.WhichOneof("kind") == "string_value" and len(value.string_value) > 4
    }
    assert found
    note = f"note {uuid.uuid4()}"
    changed = await stage.execute(pb.ExecuteRequest(operations=creating(note)))
    assert changed.report.successes, changed
    await stage.whole(changed.trace_id, "clinic", "oplog", "usage")
    told = " ".join(str(each.span) for each in stage.collector.spans)
    assert not [word for word in (*found, *WORDS.split(), note, done.summary) if word in told]


def creating(name: str) -> pb.OperationList:
    operation = pb.Operation(domain="clients", entity="client", verb=domain_pb2.VERB_CREATE)
    operation.fields.update({"name": name, "phone": "+55 11 91234-5678"})
    return pb.OperationList(operations=[operation])


async def test_a_change_shows_its_intent_before_and_its_outcome_after_it(stage: Stage) -> None:
    """LOG-2, ALL-4: the log has committed the one before the domain hears of the change."""
    answer = await stage.execute(pb.ExecuteRequest(operations=creating("Bruno Lima")))
    assert answer.report.successes, answer
    await stage.whole(answer.trace_id, "clinic", "oplog", "usage")

    def exports() -> list[Seen]:
        spans = stage.collector.of(answer.trace_id)
        return [each for each in spans if str(each) == "oplog SERVER TraceService/Export"]

    await stage.collector.until(lambda: len(exports()) == 2)
    (batch,) = [
        each
        for each in stage.collector.of(answer.trace_id)
        if str(each) == "clinic SERVER DomainService/ExecuteBatch"
    ]
    intent, outcome = sorted(exports(), key=lambda each: each.span.start_time_unix_nano)
    assert intent.span.end_time_unix_nano <= batch.span.start_time_unix_nano
    assert batch.span.end_time_unix_nano <= outcome.span.start_time_unix_nano


async def test_what_is_decided_for_many_leads_to_each_of_them(stage: Stage) -> None:
    """ALL-4: claims are decided together; whoever's trace it is not in is linked to it."""
    read = pb.Operation(domain="clients", entity="client", verb=domain_pb2.VERB_READ, limit=1)
    requests = [
        pb.ExecuteRequest(operations=pb.OperationList(operations=[read])) for _ in range(12)
    ]
    answers = await asyncio.gather(*(stage.execute(each, BASIC_USER) for each in requests))
    traces = {each.trace_id for each in answers}

    def reached() -> set[str]:
        decided = [each for each in stage.collector.spans if each.span.name == "consume claims"]
        calls = [each for each in stage.collector.spans if str(each).startswith("usage SERVER")]
        linked = {link.trace_id.hex() for each in decided for link in each.span.links}
        return linked | {each.span.trace_id.hex() for each in calls}

    await stage.collector.until(lambda: traces <= reached())
    together = [each for each in stage.collector.spans if each.span.name == "consume claims"]
    assert any(each.span.links for each in together)


async def test_a_trace_that_is_not_sampled_leaves_no_span_and_still_its_id(stage: Stage) -> None:
    """LOG-3, ALL-4: the caller's own wish; the answer and the log name the trace all the same."""
    answer = await stage.execute(pb.ExecuteRequest(instruction=WORDS), sampled=False)
    after = await stage.execute(pb.ExecuteRequest(instruction=WORDS))
    await stage.whole(after.trace_id, "usage", "router", "clinic", "oplog")
    assert stage.collector.of(answer.trace_id) == []
    listed = await stage.gateway.ListOperations(
        pb.ListOperationsRequest(),
        timeout=10,
        metadata=[("authorization", f"Bearer {stage.suite.token()}")],
    )
    assert answer.trace_id in {each.trace_id for each in listed.operations}
