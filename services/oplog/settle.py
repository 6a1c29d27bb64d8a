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
from services.oplog.projection import ABANDONED, OperationSpan, Row
from services.oplog.settings import Settings
from services.runtime.calling import ACCEPTING, TokenSource, as_service, channel, peer_tls
from services.runtime.failure import Failure

CALL_SECONDS = 2.0
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
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
        """Settle what can be settled now; how many were. Raises Failure: nobody can be asked.

        A domain that does not answer is not asked again in the same round, and keeps no other
        from being asked.
        """
        age = timedelta(seconds=self._settings.settle_after_seconds)
        rows = await self._store.unsettled(age, None, AT_ONCE)
        count = 0
        async with AsyncExitStack() as stack:
            stubs = await self._stubs(stack) if rows else {}
            while rows:
                asked = [await self._asked(stubs, row) for row in rows]
                if settled := [span for span in asked if span is not None]:
                    await self._committer.commit(settled, [])
                count += len(settled)
                rows = await self._store.unsettled(age, rows[-1], AT_ONCE)
        return count

    async def _stubs(self, stack: AsyncExitStack) -> dict[str, DomainServiceStub]:
        """Of every domain; a channel connects once it is used."""
        return {
            name: DomainServiceStub(
                await stack.enter_async_context(channel(endpoint, tls=self._tls))
            )
            for name, endpoint in (await self._endpoints()).items()
        }

    async def _endpoints(self) -> dict[str, str]:
        assert self._settings.entitlements_target is not None
        found: dict[str, str] = {}
        request = entitlements_pb2.ListDescriptorsRequest(page_size=500)
        async with channel(
            self._settings.entitlements_target, tls=self._tls, watching=ACCEPTING
        ) as opened:
            stub = EntitlementsServiceStub(opened)
            while True:
                page = await stub.ListDescriptors(
                    request, timeout=CALL_SECONDS, metadata=as_service(self._tokens)
                )
                found |= {each.name: each.endpoint for each in page.descriptors}
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token

    async def _asked(self, stubs: dict[str, DomainServiceStub], row: Row) -> OperationSpan | None:
        """What its domain says of *row*, or None where it cannot say yet.

        A domain that does not answer leaves *stubs*.
        """
        if row.domain not in stubs:
            return None
        request = domain_pb2.GetOperationRequest(operation_id=str(row.id))
        try:
            answer = await stubs[row.domain].GetOperation(
                request, timeout=CALL_SECONDS, metadata=as_service(self._tokens)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in AWAY:
                del stubs[row.domain]
            return None
        return settled_span(row, answer.state, self._now())


def settled_span(
    row: Row, state: domain_pb2.OperationState.ValueType, now: datetime
) -> OperationSpan | None:
    """The outcome that a domain's answer comes to; an operation of an intent began with it."""
    outcomes = {
        domain_pb2.OPERATION_STATE_APPLIED: ("succeeded", ""),
        domain_pb2.OPERATION_STATE_NOT_APPLIED: ("failed", ABANDONED),
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
        except Exception as error:
            log.error("open intents could not be settled", exc_info=error)
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
