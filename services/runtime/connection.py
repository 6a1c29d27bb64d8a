"""One connection to Postgres: no wait on it is unbounded, and hosts that answer come first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncPipeline, waiting
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import _WaitTimeout
from psycopg.pq import TransactionStatus

from services.runtime.failure import StoreUnavailable
from services.runtime.settings import LOOPBACK_HOSTS
from services.runtime.sql_watch import WatchedConnection

T = TypeVar("T")

# A wait that lasts longer makes it doubtful whether the server answers at all.
DOUBT_SECONDS = 0.25
# How long a wait may last where no transaction says otherwise.
ANSWER_SECONDS = 1.0
# How long the server gets to stop a statement whose caller has left.
CANCEL_SECONDS = 0.5
# Of one host; the driver takes no less than 2.
CONNECT_SECONDS = 2
# How long names may take to resolve, beside that.
RESOLVE_SECONDS = 2.0
# The driver looks this often whether it was interrupted.
POLL_SECONDS = 1.0
# The last four detect a peer that is gone without a word; they do not apply to Unix sockets.
OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}


class Unanswered(psycopg.OperationalError):
    """The server did not answer in time. The connection is closed; what was asked may be done."""


class Wait:
    """One wait for the server, of the running task."""

    __slots__ = ("_cancelling", "_ended", "_task", "since")

    def __init__(self, since: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._ended = False
        self.since = since

    def end(self) -> None:
        self._ended = True
        self._task.cancel()

    def was_ended(self) -> bool:
        """Whether the CancelledError that has just been raised is of `end` alone; asked once."""
        return self._ended and self._task.uncancel() <= self._cancelling


class Waits:
    """The waits for one server. All of them end once it is known to be unavailable.

    It looks at them rarely, so that a wait costs next to nothing. One that lasts longer than
    DOUBT_SECONDS, or up to twice that, calls *doubt*.
    """

    def __init__(self, doubt: Callable[[], None]) -> None:
        self._doubt = doubt
        self._running: set[Wait] = set()
        self._looking = False

    def begin(self) -> Wait:
        loop = asyncio.get_running_loop()
        wait = Wait(loop.time())
        self._running.add(wait)
        if not self._looking:
            self._looking = True
            loop.call_later(DOUBT_SECONDS, self._look, loop)
        return wait

    def finish(self, wait: Wait) -> None:
        self._running.discard(wait)

    def end_all(self) -> None:
        for wait in self._running:
            wait.end()
        self._running.clear()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = bool(self._running)
        if not self._looking:
            return
        loop.call_later(DOUBT_SECONDS, self._look, loop)
        if min(wait.since for wait in self._running) <= loop.time() - DOUBT_SECONDS:
            self._doubt()


class Batch(AsyncPipeline):
    """A pipeline after which the server counts the time that the client is idle.

    The driver ends one with a Sync, which makes the session idle, and a Flush. Any message stops
    Postgres' idle-in-transaction clock, and none but a command starts it again, so a client that
    hangs after a Flush keeps its locks.
    """

    def _exit_gen(self) -> PQGen[None]:
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from self._fetch_gen(flush=False)


class BoundedConnection(WatchedConnection):
    """A connection of a pool on which every wait ends.

    Where the server stays silent, the connection is closed and the wait raises Unanswered.
    """

    # Those of the pool that has it; without them nobody ends a wait from outside.
    waits: Waits | None = None
    answer_seconds: float | None = ANSWER_SECONDS

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect to the first host that accepts, in bounded time whatever hosts do."""
        hosts = len(hosts_of(conninfo))
        try:
            async with asyncio.timeout(hosts * CONNECT_SECONDS + RESOLVE_SECONDS):
                return await super().connect(conninfo, **kwargs)
        except TimeoutError:
            raise psycopg.errors.ConnectionTimeout("connecting takes too long") from None

    async def wait(self, gen: Any, interval: float = POLL_SECONDS, timeout: Any = None) -> Any:
        """Run one exchange with the server, within `answer_seconds`. Raises Unanswered.

        A caller that leaves has its statement cancelled. A server that does not do that in
        CANCEL_SECONDS loses the connection, so that no answer ever reaches another caller.
        """
        waits = self.waits
        wait = waits.begin() if waits is not None else None
        try:
            return await waiting.wait_async(
                gen,
                self.pgconn.socket,
                interval=interval,
                timeout=self.answer_seconds if timeout is None else timeout,
            )
        except _WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise Unanswered("the server does not answer") from None
        except asyncio.CancelledError:
            if wait is not None and wait.was_ended():
                self.pgconn.finish()
                raise Unanswered("the server does not answer") from None
            await self._stop_statement(gen)
            raise
        finally:
            if waits is not None and wait is not None:
                waits.finish(wait)

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        if self._pipeline is None:
            self._pipeline = Batch(self)
        async with super().pipeline() as batch:
            yield batch

    async def _stop_statement(self, gen: Any) -> None:
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self.cancel_safe(timeout=CANCEL_SECONDS)
                await waiting.wait_async(gen, self.pgconn.socket, interval=CANCEL_SECONDS)
        except psycopg.errors.QueryCanceled:
            pass
        except BaseException as error:
            self.pgconn.finish()
            if not isinstance(error, Exception):
                raise


def hosts_of(url: str) -> list[tuple[str, str]]:
    """The hosts that *url* names, each with its port; both may be empty.

    Raises StoreUnavailable for what is neither a URL nor a connection string.
    """
    given = parameters_of(url)
    hosts = str(given.get("host") or given.get("hostaddr") or "").split(",")
    ports = str(given.get("port") or "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    return list(zip(hosts, ports, strict=False))


def prefer_host(url: str, host: str, port: str) -> str:
    """*url* with that host tried first: the one that accepted the last connection."""
    given, hosts = parameters_of(url), hosts_of(url)
    place = next((i for i, each in enumerate(hosts) if each == (host, each[1] and port)), 0)
    if not place:
        return url
    for name in ("host", "hostaddr", "port"):
        values = str(given.get(name) or "").split(",")
        if len(values) == len(hosts):
            given[name] = ",".join([values[place], *values[:place], *values[place + 1 :]])
    return make_conninfo("", **given)


def parameters_of(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise StoreUnavailable("the store's URL is not one") from None


def transport_of(url: str) -> dict[str, str]:
    """TLS off this machine (ALL-3), unless *url* says otherwise itself."""
    given = parameters_of(url)
    hosts = str(given.get("hostaddr") or given.get("host") or "").split(",")
    local = all(host in ("", *LOOPBACK_HOSTS) or host.startswith(("/", "@")) for host in hosts)
    return {} if local or "sslmode" in given else {"sslmode": "require"}


@asynccontextmanager
async def listening(url: str, channel: str) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection of its own that hears what is notified on *channel*; it asks nothing else.

    Notifications reach a session, so *url* must lead to Postgres itself or to a pooler that keeps
    sessions. Raises psycopg.Error where the server cannot be reached or does not answer.
    """
    connection = await BoundedConnection.connect(
        url, **OPTIONS, **transport_of(url), application_name=f"gatehouse-{channel}"
    )
    async with connection:
        await connection.execute(
            psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel))
        )
        connection.answer_seconds = None  # from here on silence is no news
        yield connection
