"""Cancels running requests from any connection, on any replica (GAT-7)."""

import asyncio
import json

import psycopg
from gatehouse.gateway.v1 import gateway_pb2 as pb

from services.gateway.requests import Requests
from services.gateway.runner import Runner
from services.runtime.connection import listening
from services.runtime.identity import Caller
from services.runtime.postgres import Pool

CHANNEL = "gateway_cancel"
RECONNECT_SECONDS = 0.5


class Canceller:
    """Tells whichever replica carries a request out to stop."""

    def __init__(self, runner: Runner, requests: Requests, pool: Pool, url: str) -> None:
        self._runner = runner
        self._requests = requests
        self._pool = pool
        self._url = url

    async def cancel(self, caller: Caller, request_id: str) -> pb.CancelOutcome.ValueType:
        """What there was to cancel. Raises StoreUnavailable."""
        state = await self._requests.state(request_id, caller)
        if state is None:
            return pb.CANCEL_OUTCOME_NOT_FOUND
        if state == "confirming":
            if await self._requests.decline(request_id, caller):
                return pb.CANCEL_OUTCOME_CANCELLING
            state = await self._requests.state(request_id, caller)  # confirmed just now, or over
        if state in ("confirming", "answered", "finished"):
            return pb.CANCEL_OUTCOME_ALREADY_FINISHED
        self._runner.cancel(caller.user_id, request_id)
        async with self._pool.transaction(caller) as connection:
            # For whoever does not hear it: it is found when the lease is renewed.
            await connection.execute(
                "UPDATE gateway.requests SET cancelled = true"
                " WHERE user_id = %s AND request_id = %s",
                (caller.user_id, request_id),
            )
            message = json.dumps([caller.user_id, request_id])
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, message))
        return pb.CANCEL_OUTCOME_CANCELLING

    async def listen(self) -> None:
        """Hear what other replicas are asked to cancel, for ever; run as a task."""
        while True:
            try:
                async with listening(self._url, CHANNEL) as connection:
                    async for notice in connection.notifies():
                        user_id, request_id = json.loads(notice.payload)
                        self._runner.cancel(user_id, request_id)
            except psycopg.Error:
                await asyncio.sleep(RECONNECT_SECONDS)
