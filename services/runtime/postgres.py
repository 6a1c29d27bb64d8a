"""Connections to Postgres, each transaction in the name of a caller for row level security."""

import asyncio
import select
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from services.runtime.failure import StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.settings import LOOPBACK_HOSTS
from services.runtime.sql_watch import SqlWatch, WatchedConnection, summary_of
from services.runtime.telemetry import Telemetry

CHECKOUT_SECONDS = 2.0
# How long health waits for a connection before it makes one of its own.
BUSY_SECONDS = 0.3
# How often a server that is away is asked whether it is back.
ASK_SECONDS = 0.1
TOO_MANY_CONNECTIONS = "53300"
# The last four notice a peer that went without a word; they say nothing about Unix sockets.
OPTIONS = {
    "autocommit": True,
    "connect_timeout": 2,
    "keepalives_idle": 10,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}
SCHEMA_SECONDS = 60.0

SET_CALLER = """
    SELECT set_config('gatehouse.user_id', %s, true),
           set_config('gatehouse.clinic_id', %s, true),
           set_config('gatehouse.roles', %s, true)
"""
BEGIN = "BEGIN"
BEGIN_AS = f"{BEGIN};{SET_CALLER}"


@dataclass(frozen=True)
class Done:
    """What a statement did: how many rows it is about, and those that it returned."""

    count: int
    rows: list[TupleRow]


@contextmanager
def outages_told() -> Iterator[None]:
    """Turn what a missing or ending server raises into StoreUnavailable; mistakes stay."""
    try:
        yield
    except (
        PoolTimeout,
        PoolClosed,
        psycopg.InterfaceError,
        psycopg.errors.ReadOnlySqlTransaction,
    ):
        raise StoreUnavailable("the store does not answer") from None
    except psycopg.OperationalError as error:
        if is_conflict(error):
            raise
        raise StoreUnavailable("the store does not answer") from None


def is_conflict(error: psycopg.OperationalError) -> bool:
    """Whether *error* is one of concurrency or of a caller's doing, not of a missing server."""
    state = error.sqlstate or ""
    return state.startswith("40") or state == "55P03"


def named(caller: Caller) -> tuple[str, str, str]:
    return caller.user_id, caller.clinic_id, ",".join(sorted(caller.roles))


class Ended(Exception):
    """The server has ended a connection, and nothing of what was asked on it was done."""


async def done_on(
    connection: WatchedConnection, caller: Caller, statement: str, values: Sequence[object]
) -> Done:
    """What *statement* does. Raises Ended, and what the server says of the statement."""
    if is_readable(connection.fileno()):
        raise Ended
    cursor = AsyncClientCursor(connection)
    try:
        await cursor.execute(f"{SET_CALLER};{statement}", (*named(caller), *values))
    except psycopg.errors.AdminShutdown:  # said in place of what was asked
        raise Ended from None
    cursor.nextset()
    rows = await cursor.fetchall() if cursor.description else []
    return Done(cursor.rowcount, rows)


def is_readable(descriptor: int) -> bool:
    """Whether something has come over a connection that nobody has asked anything."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class Pool:
    """A service's connections to its database.

    Once a connection has failed and the server takes no other, it is known to be away: calls fail
    at once, those that wait as well, until it answers again.
    """

    def __init__(
        self, url: str, *, min_size: int, max_size: int, name: str, telemetry: Telemetry | None
    ) -> None:
        self._url = url
        self._watch = None if telemetry is None else SqlWatch(telemetry, url, name)
        self._options: dict[str, Any] = {
            **OPTIONS,
            **transport_of(url),
            "application_name": f"gatehouse-{name}",
        }
        self._away = False
        self._doubtful = asyncio.Event()
        self._waiting: set[asyncio.Timeout] = set()
        self._pool: AsyncConnectionPool[WatchedConnection] = AsyncConnectionPool(
            url,
            connection_class=WatchedConnection,
            min_size=min_size,
            max_size=max_size,
            name=name,
            timeout=CHECKOUT_SECONDS,
            reconnect_timeout=0,
            reconnect_failed=self._doubt,
            kwargs=self._options,
            open=False,
        )
        self._max_size = max_size
        if self._watch is not None:
            self._watch.follow(max_size, self._pool.get_stats)

    @asynccontextmanager
    async def transaction(
        self, caller: Caller | None = None
    ) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """One transaction, committed at the end of the block and rolled back when it raises.

        What it sees and may write is *caller*'s; without one, nothing that belongs to anybody.
        Raises StoreUnavailable while the server is not there.
        """
        with outages_told(), self._watched() as statements:
            async with self._begun(CHECKOUT_SECONDS, caller) as connection:
                connection.statements = statements
                try:
                    yield connection
                finally:
                    connection.statements = None

    async def once(self, caller: Caller, statement: str, values: Sequence[object]) -> Done:
        """What one statement does, in a transaction of its own and in one round trip.

        As `transaction`. It is planned anew each time, so it is for those that are quickly planned.
        """
        with outages_told(), self._watched() as statements:
            if statements is not None:
                statements.append(summary_of(statement))
            for _ in range(self._max_size + 1):
                async with self._connection(CHECKOUT_SECONDS) as connection:
                    try:
                        return await done_on(connection, caller, statement, values)
                    except Ended:
                        self._doubtful.set()
                        await connection.close()
            raise PoolTimeout

    def _watched(self) -> AbstractContextManager[list[str] | None]:
        return nullcontext() if self._watch is None else self._watch.transaction()

    async def check(self) -> bool:
        """Whether the server answers; for the service's health. Raises StoreUnavailable."""
        with outages_told():
            try:
                async with self._begun(BUSY_SECONDS):
                    pass
            except PoolTimeout:  # all are in use, which does not say that the server is away
                await self._connect_alone()
        return True

    @asynccontextmanager
    async def _begun(
        self, seconds: float, caller: Caller | None = None
    ) -> AsyncIterator[WatchedConnection]:
        """A transaction on a connection out of the pool, one that the server has not ended.

        To begin tells: what was ended before it is replaced unseen, for nothing was done on it.
        """
        begin, values = (BEGIN, ()) if caller is None else (BEGIN_AS, named(caller))
        async with AsyncExitStack() as stack:
            for _ in range(self._max_size + 1):
                connection = await stack.enter_async_context(self._connection(seconds))
                try:
                    await AsyncClientCursor(connection).execute(begin, values)
                    break
                except psycopg.OperationalError:
                    self._doubtful.set()
                    await stack.aclose()
            else:
                raise PoolTimeout
            yield connection

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[WatchedConnection]:
        """A connection out of the pool; what was begun on it ends with the block.

        Raises PoolTimeout.
        """
        if self._away:
            await asyncio.sleep(0)  # one who asks at once again must not keep others from running
            raise PoolTimeout
        try:
            async with asyncio.timeout(seconds) as limit:
                self._waiting.add(limit)
                try:
                    connection = await self._pool.getconn(seconds)
                finally:
                    self._waiting.discard(limit)
        except (TimeoutError, PoolTimeout):
            self._doubtful.set()
            raise PoolTimeout from None
        try:
            async with connection:
                yield connection
        finally:
            await self._pool.putconn(connection)

    def _doubt(self, _: Any) -> None:
        self._doubtful.set()

    async def find_out(self) -> None:
        """Say whether the server is away whenever it is doubtful, for ever; run as a task."""
        while True:
            await self._doubtful.wait()
            self._doubtful.clear()
            while not await self._accepts():
                self._give_up_waiting()
                await asyncio.sleep(ASK_SECONDS)
            if self._away:
                await self._pool.check()  # what the server has forgotten goes at once
                self._away = False

    async def _accepts(self) -> bool:
        try:
            await self._connect_alone()
        except psycopg.OperationalError as error:
            return error.sqlstate == TOO_MANY_CONNECTIONS
        return True

    async def _connect_alone(self) -> None:
        async with await AsyncConnection.connect(self._url, **self._options):
            pass

    def _give_up_waiting(self) -> None:
        self._away = True
        now = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(now)

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()


def transport_of(url: str) -> dict[str, str]:
    """TLS off this machine (ALL-3), unless *url* says otherwise itself."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StoreUnavailable("the store's URL is not one") from None
    hosts = str(given.get("hostaddr") or given.get("host") or "").split(",")
    local = all(host in ("", *LOOPBACK_HOSTS) or host.startswith(("/", "@")) for host in hosts)
    return {} if local or "sslmode" in given else {"sslmode": "require"}


@asynccontextmanager
async def open_pool(
    url: str, *, min_size: int, max_size: int, name: str, telemetry: Telemetry | None = None
) -> AsyncIterator[Pool]:
    """A pool of connections. A server that is not there is found out by each call, not here.

    *name* is the schema that they are for. With *telemetry* each transaction is a span.
    """
    pool = Pool(url, min_size=min_size, max_size=max_size, name=name, telemetry=telemetry)
    await pool.open()
    finding = asyncio.create_task(pool.find_out())
    try:
        yield pool
    finally:
        finding.cancel()
        await asyncio.gather(finding, return_exceptions=True)
        await pool.close()


async def wait_for_schema(pool: Pool, schema: str, version: str) -> None:
    """Wait until the migrations of *schema* are there up to *version*. Raises StoreUnavailable.

    Replicas may start before the migration has run; they serve once it has.
    """
    try:
        async with asyncio.timeout(SCHEMA_SECONDS):
            while not await has_schema(pool, schema, version):  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StoreUnavailable(
            f"the schema {schema} is not at version {version}: run its migrations"
        ) from None


async def has_schema(pool: Pool, schema: str, version: str) -> bool:
    try:
        async with pool.transaction() as connection:
            found = await connection.execute(
                psycopg.sql.SQL("SELECT 1 FROM {} WHERE version >= %s").format(
                    psycopg.sql.Identifier(schema, "schema_migrations")
                ),
                (version,),
            )
            return await found.fetchone() is not None
    except (StoreUnavailable, psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return False
    except psycopg.errors.InsufficientPrivilege:
        if await is_barred(pool, schema):
            raise  # and it stays so: the role is not the service's
        return False


async def is_barred(pool: Pool, schema: str) -> bool:
    """Whether *schema* is laid out, and yet not for this role to see.

    It is laid out once it has more than the list of its migrations, which dbmate makes before them.
    """
    async with pool.transaction() as connection:
        found = await connection.execute(
            "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename <> 'schema_migrations'"
            " AND NOT has_schema_privilege(to_regnamespace(schemaname), 'USAGE')",
            (schema,),
        )
        return await found.fetchone() is not None
