"""One call of one model, read text by text under the task's patience (ROU-3, ROU-8)."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from services.router.catalog import Model, TaskPolicy
from services.router.chat import AnswerReader, fault_from_response, must_read_body
from services.router.nouns import Blame, Fault, Faulty, Outcome
from services.router.transport import Broken, Reply, Transport

END_MARK_SECONDS = 0.25
"""How long the usage and the end mark may come after the model said that it has finished."""
LAST_BYTES_SECONDS = 0.005
"""How long a connection is worth waiting for, to use it again."""
MOST_ERROR_BYTES = 64 << 10
SLOW_SHARE = 0.75
TELLING_SHARE = 0.5
"""A silence that was cut short because the caller's deadline is near says something about the
provider only from this share of the task's patience on.
"""


class DeadlinePassed(Exception):
    """The caller's deadline came before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Both times: one that only goes forward, in seconds, and the calendar's."""

    now: Callable[[], float]
    utc_now: Callable[[], datetime]


class Exchange:
    """Opens with `send`; `leave` gives the connection back or cuts it.

    *alone* says that nobody else could answer. Else each silence takes at most half of the time
    that is left before the deadline, so that the others still have theirs.
    """

    def __init__(
        self,
        transport: Transport,
        model: Model,
        policy: TaskPolicy,
        deadline: float,
        clock: Clock,
        *,
        alone: bool,
        most_characters: int,
    ) -> None:
        self.reader = AnswerReader(most_characters)
        self.http_status = 0
        self.started = clock.now()
        self.first_token_at: float | None = None
        self._transport = transport
        self._model = model
        self._policy = policy
        self._deadline = deadline
        self._clock = clock
        self._alone = alone
        self._last_token_at = self.started
        self._finished_at: float | None = None
        self._reply: Reply | None = None
        self._over = False

    @property
    def was_slow(self) -> bool:
        """The first token took most of the time that the task gives it."""
        waited = (self.first_token_at or self.started) - self.started
        within = self._model.whole_answer_seconds or self._policy.first_token_seconds
        return waited > SLOW_SHARE * within

    async def send(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request and wait for the head of the answer. Raises Faulty, DeadlinePassed."""
        try:
            async with asyncio.timeout_at(self._limit()):
                self._reply = await self._transport.post(
                    self._model.provider, "/chat/completions", body, headers
                )
        except TimeoutError:
            raise self._silence() from None
        except Broken:
            raise Faulty(Fault(Outcome.CONNECTION_ERROR)) from None
        self.http_status = self._reply.status
        if self._reply.status != 200:
            raise Faulty(await self._refusal(self._reply))

    async def next_text(self) -> str | None:
        """The next text, or None when the answer is whole. Raises Faulty, DeadlinePassed.

        The time that whoever reads took for the last one is not the provider's silence.
        """
        self._last_token_at = self._clock.now()
        while not self._over:
            text = await self._read()
            if text:
                return text
        return None

    async def _read(self) -> str:
        assert self._reply is not None
        self.reader.raise_fault()
        try:
            async with asyncio.timeout_at(self._limit()):
                received = await self._reply.read()
        except TimeoutError:
            return self._silent_end()
        except Broken:
            return self._broken_end()
        said_before = self.reader.token_events
        if received:
            text = self.reader.feed(received)
        else:
            self._over = True
            text = self.reader.end()
        self._note_progress(said_before)
        if self.reader.marked_end and not self._over:
            self.reader.conclude()
            self._over = True
            await self._read_last_bytes(self._reply)
        return text

    def _note_progress(self, said_before: int) -> None:
        now = self._clock.now()
        if self.reader.token_events > said_before:
            self._last_token_at = now
            if self.first_token_at is None:
                self.first_token_at = now
        if self.reader.finished and self._finished_at is None:
            self._finished_at = now

    def _limit(self) -> float:
        """When patience ends. Comments and empty events are no sign of life: only tokens are."""
        if self._finished_at is not None:
            return min(self._finished_at + END_MARK_SECONDS, self._deadline)
        since, patience = self._waiting()
        left = self._deadline - since
        return since + min(patience, left if self._alone else left / 2)

    def _waiting(self) -> tuple[float, float]:
        """Since when a token is waited for, and the seconds that the task gives it.

        One that answers in one piece says nothing meanwhile.
        """
        if not self._model.streams:
            return self.started, self._model.whole_answer_seconds
        if self.first_token_at is None:
            return self.started, self._policy.first_token_seconds
        return self._last_token_at, self._policy.stall_seconds

    def _silent_end(self) -> str:
        if not self.reader.finished:
            raise self._silence()
        self._over = True
        self.reader.conclude()
        return ""

    def _broken_end(self) -> str:
        """The connection broke: a finished answer stands, any other is broken with it."""
        self._over = True
        if not self.reader.finished:
            raise Faulty(Fault(Outcome.CONNECTION_ERROR, self.http_status)) from None
        self.reader.conclude()
        return ""

    def _silence(self) -> Exception:
        if self._limit() >= self._deadline:
            return DeadlinePassed()
        since, patience = self._waiting()
        tells = self._limit() - since >= TELLING_SHARE * patience
        silent = Outcome.FIRST_TOKEN_TIMEOUT if self.first_token_at is None else Outcome.STALLED
        blame = Blame.PROVIDER if tells else Blame.NOBODY
        return Faulty(Fault(silent, self.http_status, blame=blame))

    async def _refusal(self, reply: Reply) -> Fault:
        body = b""
        if must_read_body(reply.status):
            try:
                async with asyncio.timeout_at(self._limit()):
                    while len(body) < MOST_ERROR_BYTES and (received := await reply.read()):
                        body += received
            except (TimeoutError, Broken):
                # The status has to do.
                body = b""
        return fault_from_response(reply.status, reply.headers, body, self._clock.utc_now())

    async def _read_last_bytes(self, reply: Reply) -> None:
        """After the end mark only the end of the body is due; mostly it has come already."""
        try:
            async with asyncio.timeout(LAST_BYTES_SECONDS):
                while await reply.read():
                    pass
        except (TimeoutError, Broken):
            return

    def leave(self) -> None:
        if self._reply is not None:
            self._reply.leave()
