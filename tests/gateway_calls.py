"""What the tests of the gateway call it by: a running suite, replicas, users of fresh ids."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import grpc.aio
import psycopg
import pytest
from gatehouse.domain.v1 import domain_pb2
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.gateway.v1.gateway_pb2_grpc import GatewayServiceStub
from gatehouse.router.v1 import tier_pb2
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from bench.fault_provider import Behaviour, FaultProvider, fault_provider
from services.embedded import ADMIN, TIME_ZONE, Suite
from services.embedded_services import Place, common, inside, told
from services.runtime.failure import PeerFailure, failure_from
from tests.lab_domain import Lab, lab_domain
from tests.sentences import reading_channel

CREATE, READ = domain_pb2.VERB_CREATE, domain_pb2.VERB_READ
UPDATE, DELETE = domain_pb2.VERB_UPDATE, domain_pb2.VERB_DELETE
SECONDS = 15.0


@dataclass
class Stage:
    """A suite in this process, with a second gateway over the same stores."""

    suite: Suite
    gateways: list[GatewayServiceStub]
    entitlements: EntitlementsServiceStub
    plans: dict[str, str] = field(default_factory=dict)
    # The zone of users who are given no other.
    time_zone: str = TIME_ZONE

    def now(self) -> datetime:
        """The time in UTC by the clock of the suite, which may have been set."""
        return self.suite.now()

    def today(self) -> date:
        """The day that it is in `time_zone`."""
        return self.now().astimezone(ZoneInfo(self.time_zone)).date()

    @property
    def admin(self) -> dict[str, Any]:
        token = self.suite.token(ADMIN, roles=("user", "admin", "auditor"))
        return {"metadata": [("authorization", f"Bearer {token}")], "timeout": SECONDS}

    async def user(self, plan: str = "premium", **claims: Any) -> "User":
        """A new user of a new clinic; without a *plan*, whatever they have by default."""
        user = User(self, str(uuid.uuid4()), claims.pop("clinic_id", str(uuid.uuid4())), claims)
        if plan:
            await self.assign(user, plan)
        return user

    async def assign(self, user: "User", plan: str) -> entitlements_pb2.Revision:
        """The revision that has it."""
        request = entitlements_pb2.AssignUserPlanRequest(user_id=user.id, plan_name=plan)
        assigned = await self.entitlements.AssignUserPlan(request, **self.admin)
        return assigned.revision

    async def plan(self, **limits: Any) -> str:
        """A new plan that allows changes; its name."""
        name = f"plan-{uuid.uuid4().hex[:10]}"
        wanted = {"allows_crud": True, "analytics_window_days": 365} | limits
        plan = entitlements_pb2.Plan(name=name, model_tiers=[tier_pb2.MODEL_BASIC], **wanted)
        request = entitlements_pb2.CreatePlanRequest(plan=plan, request_id=str(uuid.uuid4()))
        await self.entitlements.CreatePlan(request, **self.admin)
        return name

    @asynccontextmanager
    async def lab(self, **more: object) -> AsyncIterator[Lab]:
        """A domain of the test's own, known to both gateways."""
        folder = place_of(self.suite).sockets
        async with lab_domain(self.entitlements, self.admin, folder, **more) as lab:
            user = await self.user()

            async def is_known(replica: int) -> bool:
                asked = [operation(lab.name, READ)]
                answer = await user.execute(asked, replica=replica, validate_only=True)
                return bool(answer.report.successes)

            for replica in range(len(self.gateways)):
                await eventually(partial(is_known, replica))
            yield lab

    async def change(self, lab: Lab, **fields: Any) -> entitlements_pb2.Revision:
        """The revision that has the descriptor of *lab* with other *fields*."""
        wanted = entitlements_pb2.DomainDescriptor(id=lab.descriptor.id, **fields)
        request = entitlements_pb2.UpdateDescriptorRequest(descriptor=wanted)
        request.update_mask.paths.extend(fields)
        changed = await self.entitlements.UpdateDescriptor(request, **self.admin)
        return changed.revision

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the superuser reads in the database."""
        url = self.suite.database_url("postgres")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            found = await connection.execute(statement, values)
            return await found.fetchall() if found.description else []


@dataclass
class User:
    """A user as a caller of the gateway."""

    stage: Stage
    id: str
    clinic_id: str
    claims: dict[str, Any] = field(default_factory=dict)

    def token(self, **claims: Any) -> str:
        given = {"clinic_id": self.clinic_id, "time_zone": self.stage.time_zone}
        return self.stage.suite.token(self.id, **{**given, **self.claims, **claims})

    @property
    def call(self) -> dict[str, Any]:
        return {"metadata": [("authorization", f"Bearer {self.token()}")], "timeout": SECONDS}

    async def execute(
        self,
        what: str | Sequence[pb.Operation] | None,
        *,
        replica: int = 0,
        request_id: str = "",
        timeout: float = SECONDS,
        metadata: Sequence[tuple[str, str]] = (),
        **more: Any,
    ) -> pb.ExecuteResponse:
        request = pb.ExecuteRequest(request_id=request_id or str(uuid.uuid4()), **more)
        if isinstance(what, str):
            request.instruction = what
        elif what is not None:
            request.operations.operations.extend(what)
        call = {"metadata": [*self.call["metadata"], *metadata], "timeout": timeout}
        return await self.stage.gateways[replica].Execute(request, **call)

    async def refused(self, call: Awaitable[Any]) -> PeerFailure:
        return await refused(call)

    async def usage(self) -> tuple[int, int]:
        """Reads and modifies of today, as the database has them."""
        rows = await self.stage.rows(
            "SELECT coalesce(sum(read_count), 0), coalesce(sum(modify_count), 0)"
            " FROM usage.usage_counters WHERE user_id = %s",
            self.id,
        )
        return int(rows[0][0]), int(rows[0][1])

    async def log(self) -> list[tuple[str, str, str, str]]:
        """(action, domain, outcome, reason) of each of the user's rows in the operation log.

        Reads are answered a moment before the log has them.
        """
        await eventually(self._is_logged)
        return await self.stage.rows(  # type: ignore[return-value]
            "SELECT action, domain, outcome, reason FROM oplog.operation_log WHERE user_id = %s"
            " ORDER BY created_at, action, domain",
            self.id,
        )

    async def _is_logged(self) -> bool:
        on_its_way = "SELECT 1 FROM gateway.requests WHERE state = 'answered'"
        return not await self.stage.rows(f"{on_its_way} AND user_id = %s", self.id)

    async def clients(self) -> list[str]:
        """The names of the clinic's clients, out of its tables."""
        rows = await self.stage.rows(
            "SELECT name FROM clinic.clients WHERE clinic_id = %s AND deleted_at IS NULL"
            " ORDER BY name",
            self.clinic_id,
        )
        return [row[0] for row in rows]


async def refused(call: Awaitable[Any]) -> PeerFailure:
    """The failure that *call* ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    failure = failure_from(caught.value)
    assert isinstance(failure, PeerFailure), f"{caught.value.code()} without a reason"
    return failure


async def eventually(holds: Callable[[], Awaitable[Any]], seconds: float = 10) -> Any:
    """The first true answer of *holds*; asked again until then."""
    async with asyncio.timeout(seconds):
        while not (answer := await holds()):
            await asyncio.sleep(0.03)
        return answer


def operation(
    domain: str,
    verb: domain_pb2.Verb.ValueType,
    entity: str = "",
    *,
    record: str = "",
    where: dict[str, Any] | None = None,
    max_affected: int = 0,
    **fields: Any,
) -> pb.Operation:
    made = pb.Operation(domain=domain, verb=verb, entity=entity, max_affected=max_affected)
    if fields:
        made.fields.update(fields)
    if record:
        made.selector.id = record
    for name, value in (where or {}).items():
        condition = made.selector.conditions.conditions.add(
            field=name, comparison=domain_pb2.COMPARISON_EQUAL
        )
        if isinstance(value, str):
            condition.value.string_value = value
        else:
            condition.value.number_value = value
    return made


def client(name: str, **fields: Any) -> pb.Operation:
    return operation("clients", CREATE, "client", name=name, **fields)


def clients(**where: Any) -> pb.Operation:
    return operation("clients", READ, "client", where=where)


def invoice(number: str, client_name: str, **fields: Any) -> pb.Operation:
    wanted = {"amount": 10, "due_date": "2099-01-01"} | fields
    return operation("finance", CREATE, "invoice", number=number, client_name=client_name, **wanted)


def appointment(client_name: str, starts_at: str) -> pb.Operation:
    return operation(
        "appointments", CREATE, "appointment", client_name=client_name, starts_at=starts_at
    )


def reason_of(status: Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details, "a status without details"
    assert status.details[0].Unpack(info)
    assert info.domain == "gatehouse"
    return str(info.reason)


def reasons(report: pb.PartialOutcomeReport) -> list[str]:
    return [reason_of(each.status) for each in report.failures]


def indexes(report: pb.PartialOutcomeReport) -> list[int]:
    """The places of all operations in the report."""
    return sorted(each.index for each in (*report.successes, *report.failures))


def detail_of(failure: PeerFailure, kind: Any) -> Any:
    """A failure's detail of a kind."""
    found = kind()
    for detail in failure.details:
        if detail.Unpack(found):
            return found
    raise AssertionError(f"no {kind.__name__} in the details")


def place_of(suite: Suite) -> Place:
    sockets = Path(suite.addresses["usage"].removeprefix("unix:")).parent
    stores = (suite.postgres, suite.valkey)
    return Place(suite.folder, sockets, *stores, suite.issuer, None, suite.clock)


@asynccontextmanager
async def serving_gateway(suite: Suite, **more: str) -> AsyncIterator[str]:
    """One more replica over the same stores, and its address; *more* are settings of its own."""
    place, name = place_of(suite), uuid.uuid4().hex[:8]
    settings = told(place, place.address(f"gateway-{name}"))["gateway"]
    settings["spool_directory"] = str(suite.folder / "spool" / name)
    async with inside(place, "gateway", settings | more) as address:
        yield address


@asynccontextmanager
async def another_gateway(suite: Suite, **more: str) -> AsyncIterator[GatewayServiceStub]:
    """One more replica, and a stub to it."""
    async with (
        serving_gateway(suite, **more) as address,
        reading_channel(address) as channel,
    ):
        yield GatewayServiceStub(channel)


@asynccontextmanager
async def staged(suite: Suite, *, replicas: int = 2) -> AsyncIterator[Stage]:
    """*suite* as tests use it; gateways beyond its own run in this process."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        first = await enter(reading_channel(suite.addresses["gateway"]))
        more = [await enter(another_gateway(suite)) for _ in range(replicas - 1)]
        entitlements = await enter(grpc.aio.insecure_channel(suite.addresses["entitlements"]))
        yield Stage(
            suite, [GatewayServiceStub(first), *more], EntitlementsServiceStub(entitlements)
        )


CATALOGUE = """
providers:
  one: {{base_url: "{url}"}}
models:
  first: {{tier: MODEL_ANALYTICS, provider: one, context_tokens: 9000, weight: 2,
           prices: {{input: 1, output: 1}}}}
  second: {{tier: MODEL_ADV_REASON, provider: one, context_tokens: 9000,
            prices: {{input: 1, output: 1}}}}
  basic: {{tier: MODEL_BASIC, provider: one, context_tokens: 9000,
           prices: {{input: 1, output: 1}}}}
  quick: {{tier: MODEL_SPEED, provider: one, context_tokens: 9000,
           prices: {{input: 1, output: 1}}}}
"""
MODELS = ("first", "second", "basic", "quick")


@dataclass
class Worded:
    """A gateway with a router, before a provider that says what it is told to say."""

    gateway: GatewayServiceStub
    provider: FaultProvider

    def says(self, text: str, *models: str) -> None:
        for model in models or MODELS:
            self.provider.behave(model, Behaviour(text=text))

    @property
    def asked(self) -> list[str]:
        return [model for model in MODELS if self.provider.seen(model).requests]


@asynccontextmanager
async def with_models(suite: Suite, folder: Path) -> AsyncIterator[Worded]:
    place = place_of(suite)
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(fault_provider())
        catalogue = folder / "catalogue.yaml"
        catalogue.write_text(CATALOGUE.format(url=provider.base_url))
        router = {
            **common(place, "router"),
            "catalogue_file": str(catalogue),
            "spool_directory": str(folder / "spool"),
            "listen": place.address(f"router-{uuid.uuid4().hex[:8]}"),
        }
        address = await stack.enter_async_context(inside(place, "router", router))
        gateway = another_gateway(suite, router_target=address)
        yield Worded(await stack.enter_async_context(gateway), provider)
