"""Keeps every admin write in the operation log: its intent before, its outcome after (LOG-2)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID, uuid4, uuid5

import grpc

from services.entitlements.postgres import Write
from services.runtime.failure import Failure
from services.runtime.identity import Caller
from services.runtime.recording import RecordedOperation

DOMAIN = "entitlements"
REQUESTS = UUID("6f3b7d0e-5a0c-4c55-9d3e-0e6a4b1c7f20")
# After these the write may have been committed all the same.
UNSURE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

T = TypeVar("T")


class Recorder(Protocol):
    """The part of `services.runtime.recording.Recorder` that is used here."""

    async def intent(self, operation: RecordedOperation) -> None:
        """Return when the operation log has it. Raises Failure."""

    async def outcome(
        self,
        operation: RecordedOperation,
        outcome: str,
        *,
        reason: str = "",
        started_at: datetime,
        ended_at: datetime,
    ) -> None:
        """Send it now or later. Never raises."""


class Journal:
    """Carries out admin writes between their intent and their outcome.

    Without a *recorder* nothing is logged.
    """

    def __init__(self, recorder: Recorder | None, *, now: Callable[[], datetime]) -> None:
        self._recorder = recorder
        self._now = now

    async def write(
        self,
        caller: Caller,
        action: str,
        carry_out: Callable[[Write], Awaitable[T]],
        *,
        request_id: str = "",
    ) -> T:
        """Carry out a write of *caller*, and return what it returns.

        Raises Failure, before any effect, where its intent cannot be logged.
        """
        write = Write(caller, operation_id_of(caller, request_id), request_id)
        if self._recorder is None:
            return await carry_out(write)
        operation = RecordedOperation(
            operation_id=write.operation_id,
            request_id=request_id or write.operation_id,
            action=f"admin.{action}",
            domain=DOMAIN,
            user_id=caller.user_id,
            clinic_id=caller.clinic_id,
        )
        await self._recorder.intent(operation)
        started_at = self._now()
        outcome, reason = "unknown", "INTERNAL"
        try:
            result = await carry_out(write)
            outcome, reason = "succeeded", ""
        except asyncio.CancelledError:
            reason = "CANCELLED"
            raise
        except Failure as failure:
            outcome, reason = outcome_of(failure), failure.reason
            raise
        finally:
            await self._recorder.outcome(
                operation, outcome, reason=reason, started_at=started_at, ended_at=self._now()
            )
        return result


def operation_id_of(caller: Caller, request_id: str) -> str:
    """The operation's id: the same for a request that comes again, which has one row in the log."""
    return str(uuid5(REQUESTS, f"{caller.user_id}/{request_id}") if request_id else uuid4())


def outcome_of(failure: Failure) -> str:
    return "unknown" if failure.code in UNSURE else "failed"
