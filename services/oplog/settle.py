"""Asks domains what became of intents without an outcome (LOG-2)."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import grpc
from gatehouse.domain.v1 import domain_pb2
from gatehouse.domain.v1.domain_pb2_grpc import DomainServiceStub
from gatehouse.entitlements.v1 import entitlements_pb2
from gatehouse.entitlements.v1.entitlements_pb2_grpc import EntitlementsServiceStub

from services.oplog.committer import Committer
from services.oplog.postgres import Store
from services.oplog.projection import OperationSpan, Row
from services.oplog.settings import Settings
from services.runtime.calling import TokenSource, as_service, channel, peer_tls
from services.runtime.failure import Failure

CALL_SECONDS = 2.0
AT_ONCE = 100


class Settler:
    """Gives every operation its outcome in the end, as far as its domain can tell."""

    def __init__(
        self, settings: Settings, store: Store, committer: Committer, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._store = store
        self._committer = committer
        self._now = now
        self._tokens = TokenSource(settings.service_token_file)
        self._tls = peer_tls(settings)

    async def settle(self) -> int:
        """Settle what can be settled now; how many were. Raises Failure: nobody can be asked."""
        age = timedelta(seconds=self._settings.settle_after_seconds)
        rows = await self._store.unsettled(age, AT_ONCE)
        if not rows:
            return 0
        endpoints = await self._endpoints()
        settled = []
        async with AsyncExitStack() as stack:
            stubs: dict[str, DomainServiceStub] = {}
            for row in rows:
                if row.domain not in endpoints:
                    continue
                if row.domain not in stubs:
                    opened = channel(endpoints[row.domain], tls=self._tls)
                    stubs[row.domain] = DomainServiceStub(await stack.enter_async_context(opened))
                if (span := await self._asked(stubs[row.domain], row)) is not None:
                    settled.append(span)
        if settled:
            await self._committer.commit(settled, [])
        return len(settled)

    async def _endpoints(self) -> dict[str, str]:
        assert self._settings.entitlements_target is not None
        found: dict[str, str] = {}
        request = entitlements_pb2.ListDescriptorsRequest(page_size=500)
        async with channel(self._settings.entitlements_target, tls=self._tls) as opened:
            stub = EntitlementsServiceStub(opened)
            while True:
                page = await stub.ListDescriptors(
                    request, timeout=CALL_SECONDS, metadata=as_service(self._tokens)
                )
                found |= {each.name: each.endpoint for each in page.descriptors}
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token

    async def _asked(self, stub: DomainServiceStub, row: Row) -> OperationSpan | None:
        """What the domain says of *row*, or None where it cannot say yet."""
        request = domain_pb2.GetOperationRequest(operation_id=str(row.id))
        try:
            answer = await stub.GetOperation(
                request, timeout=CALL_SECONDS, metadata=as_service(self._tokens)
            )
        except grpc.aio.AioRpcError:
            return None
        return settled_span(row, answer.state, self._now())


def settled_span(
    row: Row, state: domain_pb2.OperationState.ValueType, now: datetime
) -> OperationSpan | None:
    """The outcome that a domain's answer comes to; an operation of an intent began with it."""
    outcomes = {
        domain_pb2.OPERATION_STATE_APPLIED: ("succeeded", ""),
        domain_pb2.OPERATION_STATE_NOT_APPLIED: ("failed", "OPERATION_ABANDONED"),
    }
    if state not in outcomes:
        return None
    outcome, reason = outcomes[state]
    return OperationSpan(
        kind="settled",
        operation_id=row.id,
        request_id=row.request_id,
        user_id=row.user_id,
        clinic_id=row.clinic_id if isinstance(row.clinic_id, UUID) else None,
        action=row.action,
        domain=row.domain,
        outcome=outcome,
        reason=reason,
        model_used="",
        failover=False,
        started_at=row.created_at,
        ended_at=max(now, row.created_at),
        trace_id=row.trace_id,
        span_id=secrets.token_hex(8),
        parent_span_id=row.span_id,
        service="gatehouse-oplog",
    )


async def settling(settler: Settler, every_seconds: float, log: logging.Logger) -> None:
    """Settle now and then, for ever; run as a task."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            count = await settler.settle()
        except (Failure, grpc.aio.AioRpcError) as error:
            log.warning("nobody could be asked about open intents: %s", type(error).__name__)
            continue
        if count:
            log.info("settled %d operations by asking their domains", count)


@asynccontextmanager
async def open_settler(
    settings: Settings,
    store: Store,
    committer: Committer,
    log: logging.Logger,
    now: Callable[[], datetime],
) -> AsyncIterator[None]:
    """A settler at work; none where the settings name no entitlements."""
    if settings.entitlements_target is None:
        yield
        return
    settler = Settler(settings, store, committer, now)
    running = asyncio.create_task(settling(settler, settings.settle_every_seconds, log))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
