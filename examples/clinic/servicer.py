"""One domain's calls: translates, and does nothing else."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

import grpc
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceServicer

from examples.clinic import aggregates, batches
from examples.clinic.aggregates import METRICS
from examples.clinic.entities import descriptors
from services.runtime.identity import current_caller
from services.runtime.postgres import Pool

Context: TypeAlias = grpc.aio.ServicerContext


class ClinicServicer(DomainServiceServicer):
    """One of the clinic's domains; all of them share one schema."""

    def __init__(self, domain: str, pool: Pool, *, now: Callable[[], datetime]) -> None:
        self._domain = domain
        self._pool = pool
        self._now = now

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        descriptor = descriptors()[self._domain]
        return pb.DescribeResponse(
            name=self._domain,
            entities=[
                pb.Entity(name=each.name, verbs=each.operations, json_schema=each.json_schema)
                for each in descriptor.entities
            ],
            metrics=[
                pb.Metric(
                    name=name,
                    numerator=metric.numerator_text,
                    denominator=metric.denominator_text,
                    group_by=metric.groups,
                    unit=metric.unit,
                )
                for name, metric in METRICS.items()
                if metric.domain == self._domain
            ],
        )

    async def ExecuteBatch(
        self, request: pb.ExecuteBatchRequest, context: Context
    ) -> pb.ExecuteBatchResponse:
        return await batches.execute(
            self._pool, self._domain, request, current_caller(), self._now()
        )

    async def GetOperation(
        self, request: pb.GetOperationRequest, context: Context
    ) -> pb.GetOperationResponse:
        try:
            return await batches.state_of(self._pool, request.operation_id, current_caller())
        except batches.Undecided:
            return pb.GetOperationResponse(state=pb.OPERATION_STATE_IN_PROGRESS)

    async def Aggregate(
        self, request: pb.AggregateRequest, context: Context
    ) -> pb.AggregateResponse:
        return await aggregates.aggregate(
            self._pool, self._domain, request, current_caller(), self._now()
        )
