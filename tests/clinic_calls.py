"""What the tests of the example clinic call it by: its domains on sockets, and their operations."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2 as pb
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from examples.clinic import sample
from examples.clinic.app import running, utc_now
from examples.clinic.settings import Settings
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from services.runtime.telemetry import open_telemetry

ZONE = "America/Sao_Paulo"
Stubs = dict[str, DomainServiceStub]


class Clinic:
    """The running domains, as a caller of one clinic sees them."""

    def __init__(self, stubs: Stubs, tokens, url: str) -> None:
        self.stubs = stubs
        self.tokens = tokens
        self.url = url
        self.id = str(uuid.uuid4())
        self.call = self.as_("user")

    def as_(self, *roles: str, clinic_id: str = "") -> dict[str, Any]:
        return self.with_token(self.tokens.user(roles=roles, clinic_id=clinic_id or self.id))

    @staticmethod
    def with_token(token: str) -> dict[str, Any]:
        return {"metadata": [("authorization", f"Bearer {token}")], "timeout": 10}

    def stranger(self) -> "Clinic":
        """The same domains, to a caller of another clinic."""
        return Clinic(self.stubs, self.tokens, self.url)

    async def run(
        self,
        domain: str,
        *operations: pb.Operation,
        validate_only: bool = False,
        zone: str = ZONE,
        **call: Any,
    ) -> pb.ExecuteBatchResponse:
        request = pb.ExecuteBatchRequest(
            operations=operations, time_zone=zone, validate_only=validate_only
        )
        return await self.stubs[domain].ExecuteBatch(request, **{**self.call, **call})

    async def done(self, domain: str, *operations: pb.Operation) -> list[pb.Applied]:
        """Run a batch that must succeed."""
        response = await self.run(domain, *operations)
        assert response.committed, reasons(response)
        return [each.applied for each in response.results]

    async def told(self, domain: str, *operations: pb.Operation) -> list[str]:
        """Run a batch, and return the reasons that its results give."""
        return reasons(await self.run(domain, *operations))

    async def read(
        self, domain: str, entity: str, *conditions: pb.Condition, zone: str = ZONE
    ) -> list[dict[str, Any]]:
        operation = op("READ", entity, *conditions)
        operation.limit = 500
        (result,) = (await self.run(domain, operation, zone=zone)).results
        assert result.HasField("applied"), result.status
        return [dict(each) for each in result.applied.records]

    async def state(self, operation: pb.Operation, *roles: str) -> pb.GetOperationResponse:
        """What the domain of clients says of an operation; by the settler's token, or *roles*'."""
        asked = pb.GetOperationRequest(operation_id=operation.operation_id)
        call = self.as_(*roles) if roles else self.as_("service", clinic_id=str(uuid.uuid4()))
        return await self.stubs["clients"].GetOperation(asked, **call)

    async def aggregate(
        self,
        domain: str,
        metric: str,
        *,
        start: datetime,
        end: datetime,
        step: timedelta | None = None,
        group_by: str = "",
        zone: str = ZONE,
    ) -> pb.AggregateResponse:
        request = pb.AggregateRequest(metric=metric, time_zone=zone, group_by=group_by)
        request.start_time.FromDatetime(start.astimezone(UTC))
        request.end_time.FromDatetime(end.astimezone(UTC))
        if step is not None:
            request.step.FromTimedelta(step)
        return await self.stubs[domain].Aggregate(request, **self.call)


@asynccontextmanager
async def clinic_at(
    url: str, tokens, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[dict[str, str]]:
    """Where the three domains listen, over the database at *url*, by the clock *now*."""
    settings = Settings(database_url=url, **tokens.settings)
    with open_telemetry(settings) as telemetry:
        async with running(settings, telemetry, now) as addresses:
            yield addresses


@asynccontextmanager
async def serving_clinic(
    url: str, tokens, now: Callable[[], datetime] = utc_now
) -> AsyncIterator[Stubs]:
    """The three domains on sockets, over the database at *url*, by the clock *now*."""
    async with AsyncExitStack() as stack:
        addresses = await stack.enter_async_context(clinic_at(url, tokens, now))
        yield {
            name: DomainServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(address))
            )
            for name, address in addresses.items()
        }


async def filled(clinic: Clinic) -> Clinic:
    """*clinic* with the sample's records."""
    caller = Caller("loader", clinic.id, frozenset({"service"}))
    async with open_pool(clinic.url, min_size=1, max_size=1, name="sample") as pool:
        made = sample.make(1, clinic.id, datetime.now(UTC), ZoneInfo(ZONE))
        assert await sample.store(pool, made, caller) > 400
        assert await sample.store(pool, made, caller) == 0
    return clinic


def equal(field: str, value: object, comparison: str = "EQUAL") -> pb.Condition:
    condition = pb.Condition(
        field=field, comparison=pb.Comparison.Value(f"COMPARISON_{comparison}")
    )
    json_format.ParseDict(value, condition.value)
    return condition


def op(verb: str, entity: str, *conditions: pb.Condition, **fields: object) -> pb.Operation:
    operation = pb.Operation(
        operation_id=str(uuid.uuid4()), verb=pb.Verb.Value(f"VERB_{verb}"), entity=entity
    )
    if conditions:
        operation.selector.conditions.conditions.extend(conditions)
    if fields:
        operation.fields.update(fields)
    return operation


def client(name: str, **fields: object) -> pb.Operation:
    return op("CREATE", "client", name=name, **fields)


def invoice(number: str, client_name: str, **fields: object) -> pb.Operation:
    given = {"amount": 10, "issued_date": "2026-01-01", "due_date": "2099-01-01", **fields}
    return op("CREATE", "invoice", number=number, client_name=client_name, **given)


def appointment(client_name: str, starts_at: str, **fields: object) -> pb.Operation:
    return op("CREATE", "appointment", client_name=client_name, starts_at=starts_at, **fields)


def detail_of(status: status_pb2.Status, message: Any) -> Any:
    """The detail of *message*'s type, empty where there is none."""
    for detail in status.details:
        if detail.Is(message.DESCRIPTOR):
            detail.Unpack(message)
    return message


def reason_of(status: status_pb2.Status) -> str:
    return detail_of(status, error_details_pb2.ErrorInfo()).reason


def fields_of(status: status_pb2.Status) -> list[str]:
    """The fields that a BadRequest names."""
    found = detail_of(status, error_details_pb2.BadRequest()).field_violations
    return [each.field for each in found]


def reasons(response: pb.ExecuteBatchResponse) -> list[str]:
    return [reason_of(each.status) or "APPLIED" for each in response.results]


async def refused(call: Awaitable[Any]) -> status_pb2.Status:
    """The status with which a call fails as a whole."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


@asynccontextmanager
async def holding(admin_url: str, table: str, column: str, value: str) -> AsyncIterator[None]:
    """Rows of the clinic held by someone else, so that whoever changes them waits."""
    async with await psycopg.AsyncConnection.connect(admin_url) as connection:
        found = await connection.execute(
            f"SELECT 1 FROM clinic.{table} WHERE {column} = %s FOR UPDATE", (value,)
        )
        assert await found.fetchone()
        yield


async def waiting(admin_url: str, count: int) -> list[int]:
    """The backends of the clinic that wait for a lock, once there are *count* of them."""
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(admin_url, autocommit=True) as connection,
    ):
        while True:
            found = await connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'gatehouse-clinic' AND wait_event_type = 'Lock'"
            )
            pids = [row[0] for row in await found.fetchall()]
            if len(pids) == count:
                return pids
            await asyncio.sleep(0.01)
