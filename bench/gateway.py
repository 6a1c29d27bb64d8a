"""A structured read through the gateway: against the echo, and what it adds to the domain's own
call."""

import statistics
import uuid
from collections.abc import Awaitable
from typing import Any

from gatehouse.domain.v1 import domain_pb2
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub

from bench import stand as stands
from bench.measuring import (
    added,
    against,
    at_rate,
    in_turn,
    loaded,
    median_ratio,
    quantile,
    repeated,
)
from bench.stand import Stand

ROUNDS = 3
SECONDS = 3.0
CALLERS = 32
PAIRS = 200
DOMAIN, ENTITY = "clients", "client"


class Reads:
    """The same read of one record, through the gateway and directly."""

    def __init__(self, stand: Stand) -> None:
        self._gateway: Any = GatewayServiceStub(stand.channels["gateway"])
        self._domain: Any = DomainServiceStub(stand.channels[DOMAIN])
        self._callers = stand.callers
        condition = domain_pb2.Condition(field="name", comparison=domain_pb2.COMPARISON_EQUAL)
        condition.value.string_value = "Ana Souza"
        self._selector = domain_pb2.Selector(
            conditions=domain_pb2.ConditionList(conditions=[condition])
        )

    async def execute(self) -> None:
        operation = pb.Operation(
            domain=DOMAIN,
            verb=domain_pb2.VERB_READ,
            entity=ENTITY,
            selector=self._selector,
            limit=1,
        )
        request = pb.ExecuteRequest(
            request_id=str(uuid.uuid4()), operations=pb.OperationList(operations=[operation])
        )
        answer = await self._gateway.Execute(request, **next(self._callers))
        assert answer.report.outcome == pb.OUTCOME_SUCCEEDED

    async def directly(self) -> None:
        operation = domain_pb2.Operation(
            operation_id=str(uuid.uuid4()),
            verb=domain_pb2.VERB_READ,
            entity=ENTITY,
            selector=self._selector,
            limit=1,
        )
        request = domain_pb2.ExecuteBatchRequest(
            operations=[operation], time_zone="America/Sao_Paulo"
        )
        answer = await self._domain.ExecuteBatch(request, **next(self._callers))
        assert answer.committed

    def warm(self) -> Awaitable[float]:
        """Every user's plan is in the gateway's cache afterwards."""
        return repeated(self.execute, count=2 * stands.CALLERS, callers=CALLERS)


async def measure(stand: Stand) -> dict[str, float]:
    reads, process = Reads(stand), stand.process("gateway")
    await reads.warm()
    throughputs: list[float] = []

    async def read() -> float:
        load = await loaded(process, reads.execute, callers=CALLERS, seconds=SECONDS)
        throughputs.append(load.per_second)
        return load.per_core_second

    async def echo() -> float:
        return (await stand.echoed(callers=CALLERS, seconds=SECONDS / 2)).per_core_second

    pairs = await against(read, echo, ROUNDS)
    through, direct = await in_turn(reads.execute, reads.directly, PAIRS)
    half = statistics.median(throughputs) / 2
    took = await at_rate(reads.execute, per_second=half, seconds=8.0)
    return {
        "gateway.read_vs_echo": median_ratio(pairs),
        "gateway.reads_per_core_s": statistics.median(one for one, _ in pairs),
        "gateway.added_ms_p50": added(through, direct),
        "gateway.added_ms_p99_at_half_load": quantile(took, 0.99) - statistics.median(direct),
    }
