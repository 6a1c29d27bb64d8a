"""Connections to Postgres, each transaction in the name of a caller for row level security.

Nothing here waits without a bound. Postgres ends what holds others up: every transaction begins
with its own `Limits`. A server that is silent is found out by the pool, on its own connections.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from services.runtime.connection import (
    ANSWER_SECONDS,
    OPTIONS,
    BoundedConnection,
    Waits,
    prefer_host,
    transport_of,
)
from services.runtime.failure import Failure, StoreBusy, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.settings import DatabaseSettings
from services.runtime.sql_watch import SqlWatch, summary_of
from services.runtime.telemetry import Telemetry

# How long a call waits for a transaction to begin.
CHECKOUT_SECONDS = 1.5
# How long health waits for one; less than health itself is given (`serving.HEALTH_SECONDS`).
HEALTHY_SECONDS = 0.8
# How long an idle connection may take to answer before a new one is tried.
PROBE_SECONDS = 0.3
# A server that answers neither an idle connection nor a new one for so long is unavailable.
UNAVAILABLE_SECONDS = 1.0
# How often a server that is unavailable is asked whether it is back, and at most how often one in
# doubt whether it answers.
ASK_SECONDS = 0.05
SCHEMA_SECONDS = 60.0

SET_CALLER = """
    SELECT set_config('gatehouse.user_id', %s, true),
           set_config('gatehouse.clinic_id', %s, true),
           set_config('gatehouse.roles', %s, true)
"""
# The time-outs of Postgres that end what its own statements and locks do not explain.
BUSY = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)


@dataclass(frozen=True)
class Limits:
    """How long Postgres lets a transaction take, in seconds; None for as long as it takes.

    *lock* is a wait for one lock, *statement* one statement with its waits, *idle* the time between
    two statements, in which the client holds what it has locked, and *transaction* the whole.
    """

    lock: float | None = 1.5
    statement: float | None = 2.0
    idle: float | None = 1.0
    transaction: float | None = 2.5

    @property
    def answer_seconds(self) -> float | None:
        """How long the client waits for a statement: Postgres is to end it first."""
        return None if self.statement is None else self.statement + PROBE_SECONDS

    @cached_property
    def settings(self) -> str:
        """The SQL expressions that set them for the running transaction."""
        given = (
            ("lock_timeout", self.lock),
            ("statement_timeout", self.statement),
            ("idle_in_transaction_session_timeout", self.idle),
            # Its clock starts when it is set, and only if it does not run already.
            ("transaction_timeout", None),
            ("transaction_timeout", self.transaction),
        )
        return ", ".join(
            f"set_config('{name}', '{round(1000 * (seconds or 0))}', true)"
            for name, seconds in given
        )


# A call's transaction. A client that hangs is ended after `idle`, so who waits for its locks gets
# them before `lock` is over. docs/decisions/time-outs.md says how they fit together.
CALL = Limits()
# One that reads many rows and locks none: a report, a check of the whole log.
READING = Limits(statement=10.0, idle=5.0, transaction=20.0)
# One of many statements, for as long as its caller waits. Its client may not hang in it longer.
BATCH = Limits(statement=10.0, transaction=30.0)
# One that rearranges tables. It waits for locks no longer than others: whoever comes after it
# waits behind it.
MAINTENANCE = Limits(statement=120.0, transaction=150.0)
# Health's own: a call that gets its lock later than this waits for somebody who hangs.
PROBE = Limits(lock=0.7, statement=0.7, idle=0.5, transaction=1.0)


@dataclass(frozen=True)
class Done:
    """What a statement did: how many rows it is about, and those that it returned."""

    count: int
    rows: list[TupleRow]


@contextmanager
def outages_told() -> Iterator[None]:
    """Turn what a missing, ending or busy server raises into its Failure; mistakes stay.

    What was asked may be done all the same where the answer to a commit is what is missing.
    """
    try:
        yield
    except BUSY:
        raise StoreBusy("others hold what is needed, or it takes too long") from None
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
    except psycopg.DatabaseError as error:
        # What the driver finds wrong with a connection in a pipeline has no class of its own.
        if type(error) is not psycopg.DatabaseError or error.sqlstate is not None:
            raise
        raise StoreUnavailable("the store does not answer") from None


def is_conflict(error: psycopg.OperationalError) -> bool:
    """Whether *error* comes of concurrent transactions, of which this one may begin anew."""
    return (error.sqlstate or "").startswith("40")


def named(caller: Caller) -> tuple[str, str, str]:
    return caller.user_id, caller.clinic_id, ",".join(sorted(caller.roles))


class Ended(Exception):
    """The server has ended a connection, and nothing of what was asked on it was done."""


async def done_on(
    connection: BoundedConnection,
    caller: Caller,
    statement: str,
    values: Sequence[object],
    limits: Limits,
) -> Done:
    """What *statement* does. Raises Ended, and what the server says of the statement."""
    if is_readable(connection.fileno()):
        raise Ended
    cursor = AsyncClientCursor(connection)
    connection.answer_seconds = limits.answer_seconds
    try:
        asked = f"{SET_CALLER}, {limits.settings};{statement}"
        await cursor.execute(asked, (*named(caller), *values))
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

    It judges the server by what its connections can do: whenever a connection fails or an answer
    takes long, it asks on an idle connection, then on a new one. While neither answers, calls fail
    at once, those that wait as well.
    """

    def __init__(
        self,
        url: str,
        *,
        min_size: int,
        max_size: int,
        name: str,
        telemetry: Telemetry | None,
        prepared: bool = True,
    ) -> None:
        self._url = url
        self._watch = None if telemetry is None else SqlWatch(telemetry, url, name)
        self._options: dict[str, Any] = {
            **OPTIONS,
            **transport_of(url),
            "application_name": f"gatehouse-{name}",
            **({} if prepared else {"prepare_threshold": None}),
        }
        self._unavailable = False
        self._doubtful = asyncio.Event()
        self._waits = Waits(self._doubtful.set)
        self._in_use = 0
        self._pool: AsyncConnectionPool[BoundedConnection] = AsyncConnectionPool(
            self._preferred_url,
            connection_class=BoundedConnection,
            min_size=min_size,
            max_size=max_size,
            name=name,
            timeout=CHECKOUT_SECONDS,
            reconnect_timeout=0,
            reconnect_failed=self._doubt,
            configure=self._configure,
            kwargs=self._options,
            open=False,
        )
        self._max_size = max_size
        if self._watch is not None:
            self._watch.follow(max_size, self._pool.get_stats)

    async def _preferred_url(self) -> str:
        return self._url

    async def _configure(self, connection: BoundedConnection) -> None:
        connection.waits = self._waits
        self._prefer(connection)

    def _prefer(self, connection: AsyncConnection[Any]) -> None:
        """Try first, from now on, the host that has just accepted a connection."""
        self._url = prefer_host(self._url, connection.info.host, str(connection.info.port))

    @asynccontextmanager
    async def transaction(
        self, caller: Caller | None = None, limits: Limits = CALL
    ) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """One transaction, committed at the end of the block and rolled back when it raises.

        What it sees and may write is *caller*'s; without one, nothing that belongs to anybody.
        Raises StoreUnavailable while the server does not answer, StoreBusy for what takes longer
        than *limits* and where all connections are in use.
        """
        with outages_told(), self._watched() as statements:
            async with self._begun(CHECKOUT_SECONDS, caller, limits) as connection:
                connection.statements = statements
                try:
                    yield connection
                finally:
                    connection.statements = None

    async def once(
        self, caller: Caller, statement: str, values: Sequence[object], limits: Limits = CALL
    ) -> Done:
        """What one statement does, in a transaction of its own and in one round trip.

        As `transaction`. It is planned anew each time, so it is for those that are quickly planned.
        """
        with outages_told(), self._watched() as statements:
            if statements is not None:
                statements.append(summary_of(statement))
            for _ in range(self._max_size + 1):
                async with self._connection(CHECKOUT_SECONDS) as connection:
                    try:
                        return await done_on(connection, caller, statement, values, limits)
                    except Ended:
                        self._doubtful.set()
                        await connection.close()
            raise PoolTimeout

    def _watched(self) -> AbstractContextManager[list[str] | None]:
        return nullcontext() if self._watch is None else self._watch.transaction()

    async def check(self) -> bool:
        """Whether a call would get its transaction now; for the service's health.

        Raises StoreUnavailable, StoreBusy.
        """
        with outages_told():
            async with self._begun(HEALTHY_SECONDS, limits=PROBE):
                return True

    async def lets_write(self, caller: Caller, *statements: str) -> bool:
        """Whether *statements* get their locks, soon enough for a call; for the service's health.

        They take the locks that changes take, and change nothing. Raises StoreUnavailable,
        StoreBusy.
        """
        async with self.transaction(caller, PROBE) as connection:
            for statement in statements:
                await connection.execute(statement)
        return True

    @asynccontextmanager
    async def _begun(
        self, seconds: float, caller: Caller | None = None, limits: Limits = CALL
    ) -> AsyncIterator[BoundedConnection]:
        """A transaction on a connection out of the pool, one that the server has not ended.

        To begin tells: what was ended before it is replaced unseen, for nothing was done on it.
        """
        whose = "SELECT" if caller is None else f"{SET_CALLER},"
        begin, values = f"BEGIN;{whose} {limits.settings}", named(caller) if caller else ()
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        async with AsyncExitStack() as stack:
            for _ in range(self._max_size + 1):
                left = until - clock()
                connection = await stack.enter_async_context(self._connection(left))
                connection.answer_seconds = min(max(left, PROBE_SECONDS), ANSWER_SECONDS)
                try:
                    await AsyncClientCursor(connection).execute(begin, values)
                    break
                except psycopg.OperationalError:
                    self._doubtful.set()
                    await stack.aclose()
            else:
                raise PoolTimeout
            connection.answer_seconds = limits.answer_seconds
            yield connection

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[BoundedConnection]:
        """A connection out of the pool; what was begun on it ends with the block.

        Raises StoreUnavailable, or StoreBusy where others have all of them.
        """
        if self._unavailable:
            await asyncio.sleep(0)  # one who asks at once again must not keep others from running
            raise StoreUnavailable("the store does not answer")
        connection = await self._taken(seconds)
        self._in_use += 1
        try:
            async with connection:
                yield connection
        finally:
            connection.answer_seconds = ANSWER_SECONDS
            self._in_use -= 1
            await self._pool.putconn(connection)

    async def _taken(self, seconds: float) -> BoundedConnection:
        wait = self._waits.begin()
        try:
            return await self._pool.getconn(seconds)
        except PoolTimeout:
            self._doubtful.set()
            raise self._without_connection() from None
        except asyncio.CancelledError:
            if wait.was_ended():
                raise StoreUnavailable("the store does not answer") from None
            raise
        finally:
            self._waits.finish(wait)

    def _without_connection(self) -> Failure:
        if self._unavailable or not self._in_use:
            return StoreUnavailable("the store does not answer")
        return StoreBusy("all connections to the store are in use")

    def _doubt(self, _: Any) -> None:
        self._doubtful.set()

    async def find_out(self) -> None:
        """Find out, whenever it is doubtful, whether the server answers; run as a task."""
        while True:
            await self._doubtful.wait()
            self._doubtful.clear()
            while not await self._answers_in_time():
                self._tell_unavailable()
                await asyncio.sleep(ASK_SECONDS)
            if self._unavailable:
                await self._renew()
                self._unavailable = False
            await asyncio.sleep(ASK_SECONDS)

    async def _answers_in_time(self) -> bool:
        """Whether the server answers. After UNAVAILABLE_SECONDS nobody waits for it but this.

        A host that is silent may come before one that answers, so the question is not given up.
        """
        answering = asyncio.ensure_future(self._answers())
        try:
            done, _ = await asyncio.wait({answering}, timeout=UNAVAILABLE_SECONDS)
            if not done:
                self._tell_unavailable()
            return await answering
        finally:
            answering.cancel()

    async def _answers(self) -> bool:
        """Whether a transaction can be made: on a connection of the pool, or on a new one."""
        if await self._idle_answers():
            return True
        try:
            await self._connect_alone()
        except psycopg.errors.ConnectionTimeout:
            return False
        except psycopg.Error:
            # A full server turns newcomers away; those who have a connection can work.
            return self._in_use > 0
        return True

    async def _idle_answers(self) -> bool | None:
        """Whether the server answers on an idle connection; None where there is none."""
        if not self._pool.get_stats().get("pool_available"):
            return None
        try:
            connection = await self._pool.getconn(PROBE_SECONDS)
        except PoolTimeout:
            return None
        try:
            connection.waits, connection.answer_seconds = None, PROBE_SECONDS
            await connection.execute("", prepare=False)
            return True
        except psycopg.Error:
            return False
        finally:
            connection.waits, connection.answer_seconds = self._waits, ANSWER_SECONDS
            await self._pool.putconn(connection)

    async def _connect_alone(self) -> None:
        async with await BoundedConnection.connect(self._url, **self._options) as connection:
            self._prefer(connection)

    async def _renew(self) -> None:
        """Drop the connections that an outage has broken, before anybody gets one."""
        if await self._idle_answers() is False:
            await self._pool.drain()  # a host that is gone answers none of them
        else:
            await self._pool.check()

    def _tell_unavailable(self) -> None:
        self._unavailable = True
        self._waits.end_all()

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()


@asynccontextmanager
async def open_pool(
    url: str,
    *,
    min_size: int,
    max_size: int,
    name: str,
    telemetry: Telemetry | None = None,
    prepared: bool = True,
) -> AsyncIterator[Pool]:
    """A pool of connections. A server that is not there is found out by each call, not here.

    *name* is the schema that they are for. With *telemetry* each transaction is a span. Without
    *prepared* no statement is prepared, for poolers that lend a session for one transaction only.
    """
    pool = Pool(
        url,
        min_size=min_size,
        max_size=max_size,
        name=name,
        telemetry=telemetry,
        prepared=prepared,
    )
    await pool.open()
    finding = asyncio.create_task(pool.find_out())
    try:
        yield pool
    finally:
        finding.cancel()
        await asyncio.gather(finding, return_exceptions=True)
        await pool.close()


def open_pool_of(
    settings: DatabaseSettings, name: str, telemetry: Telemetry
) -> AbstractAsyncContextManager[Pool]:
    """The pool that *settings* describe, for the schema *name*."""
    return open_pool(
        settings.database_url.get_secret_value(),
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        name=name,
        telemetry=telemetry,
        prepared=settings.prepared_statements,
    )


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
