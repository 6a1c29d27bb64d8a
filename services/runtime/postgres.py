"""Connections to Postgres, each transaction in the name of a caller for row level security."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from services.runtime.failure import StoreUnavailable
from services.runtime.identity import Caller

CHECKOUT_SECONDS = 2.0
CONNECT_SECONDS = 2
SCHEMA_SECONDS = 60.0

SET_CALLER = """
    SELECT set_config('gatehouse.user_id', %s, true),
           set_config('gatehouse.clinic_id', %s, true),
           set_config('gatehouse.roles', %s, true)
"""


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


class Pool:
    """A service's connections to its database."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(
        self, caller: Caller | None = None
    ) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """One transaction, committed at the end of the block and rolled back when it raises.

        What it sees and may write is *caller*'s; without one, nothing that belongs to anybody.
        Raises StoreUnavailable while the server is not there.
        """
        with outages_told():
            async with self._pool.connection() as connection, connection.transaction():
                if caller is not None:
                    roles = ",".join(sorted(caller.roles))
                    await connection.execute(SET_CALLER, (caller.user_id, caller.clinic_id, roles))
                yield connection

    async def check(self) -> bool:
        """Whether the server answers; for the service's health."""
        with outages_told():
            async with self._pool.connection(timeout=1.0) as connection:
                await connection.execute("SELECT 1")
        return True


@asynccontextmanager
async def open_pool(url: str, *, min_size: int, max_size: int, name: str) -> AsyncIterator[Pool]:
    """A pool of connections. A server that is not there is found out by each call, not here."""
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        url,
        min_size=min_size,
        max_size=max_size,
        name=name,
        timeout=CHECKOUT_SECONDS,
        reconnect_timeout=0,
        kwargs={
            "application_name": f"gatehouse-{name}",
            "connect_timeout": CONNECT_SECONDS,
            "autocommit": True,
        },
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield Pool(pool)
    finally:
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
