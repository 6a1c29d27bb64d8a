"""Plans a service's statements as its own role, and finds those that read what they do not need.

Kind: a statement that reads more the longer a table grows. Row level security makes it easy to
write one: an operator or function that is not leakproof, such as `timestamptz - interval` on a
column, is evaluated after the policies and becomes a filter; a volatile function such as
`clock_timestamp()` is no condition of an index. Neither shows to a superuser, or on a few rows.

One test a service, over all of its statements:

    async def test_no_statement_reads_what_it_does_not_need(database: Database) -> None:
        await grow(database, "INSERT INTO usage.receipts SELECT ... FROM generate_series(1, 50000)")
        async with planning(database, "usage", ITSELF) as planner:
            for name, values in ASKED.items():
                assert await planner.faults(getattr(statements, name), values) == [], name

Fill the tables with at least GROWN rows, most of them of the very user, clinic or record that the
statements ask about: that is where a filter shows. *values* are what the service passes. Statements
are run and rolled back, so they may write. A statement that reads all rows on purpose has no place
in the list: say so beside it.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, sql

from services.runtime.identity import Caller
from services.runtime.postgres import SET_CALLER, named
from tests.conftest import Database

GROWN = 10_000
"""A table with so many rows is one that grows."""
MOST_FILTERED = 500
"""More rows than any statement may read and throw away."""
PARAMETER = re.compile(r"%s|%\((\w+)\)s|%%")
SCANS = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}

Values = Sequence[Any] | Mapping[str, Any]


async def grow(database: Database, *statements: str) -> None:
    """Fill tables as the superuser, whom no policy binds, and have Postgres count their rows."""
    async with await AsyncConnection.connect(database.admin_url, autocommit=True) as connection:
        for each in statements:
            await connection.execute(each)
        await connection.execute("VACUUM ANALYZE")


class Planner:
    """A connection of a service's role, in the name of a caller."""

    def __init__(self, connection: AsyncConnection[Any], grown: frozenset[str]) -> None:
        self._connection = connection
        self._grown = grown

    async def faults(self, statement: str | sql.Composable, values: Values = ()) -> list[str]:
        """What is wrong with the plans of *statement*, asked for *values*.

        Both plans are looked at: the one for these values, and the one for any, which Postgres
        takes for a prepared statement after some runs.
        """
        text = statement if isinstance(statement, str) else statement.as_string(self._connection)
        prepared, ordered = numbered(text, values)
        found: list[str] = []
        for mode in ("force_custom_plan", "force_generic_plan"):
            plan = await self._plan(prepared, ordered, mode)
            found += [f"{each} ({mode})" for each in faults_of(plan, self._grown)]
        return found

    async def _plan(self, prepared: str, values: Sequence[Any], mode: str) -> dict[str, Any]:
        """The plan of a statement that is run, and rolled back."""
        async with self._connection.transaction(force_rollback=True):
            await self._connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
            await self._connection.execute(f"PREPARE planned AS {prepared}")  # type: ignore[arg-type]
            try:
                given = f" ({', '.join(['%s'] * len(values))})" if values else ""
                cursor = AsyncClientCursor(self._connection)
                await cursor.execute(
                    f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE planned{given}", values
                )
                row = await cursor.fetchone()
            finally:
                if not self._connection.broken:
                    await self._forget()
            assert row is not None
            return dict(row[0][0]["Plan"])

    async def _forget(self) -> None:
        with suppress(psycopg.errors.InFailedSqlTransaction):
            await self._connection.execute("DEALLOCATE planned")


@asynccontextmanager
async def planning(database: Database, service: str, caller: Caller) -> AsyncIterator[Planner]:
    """A planner that connects as *service* does, and asks in the name of *caller*."""
    url = database.url_for(service)
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        for_session = SET_CALLER.replace("true", "false")
        await AsyncClientCursor(connection).execute(for_session, named(caller))
        found = await connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'm') AND reltuples >= %s", (GROWN,)
        )
        grown = frozenset(row[0] for row in await found.fetchall())
        assert grown, f"no table has {GROWN} rows: grow them first"
        yield Planner(connection, grown)


def numbered(statement: str, values: Values) -> tuple[str, list[Any]]:
    """*statement* with $1, $2, ... as PREPARE wants them, and its values in that order."""
    names: list[str] = []
    count = 0

    def placed(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] == "%%":
            return "%"
        if found[1] is None:
            count += 1
            return f"${count}"
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    text = PARAMETER.sub(placed, statement)
    if isinstance(values, Mapping):
        return text, [values[name] for name in names]
    return text, list(values)


def faults_of(plan: Mapping[str, Any], grown: frozenset[str]) -> list[str]:
    return [
        fault for node, limited in nodes(plan) for fault in faults_of_node(node, grown, limited)
    ]


def nodes(
    plan: Mapping[str, Any], *, limited: bool = False
) -> Iterator[tuple[Mapping[str, Any], bool]]:
    """Every node of *plan*, and whether a LIMIT stops it."""
    yield plan, limited
    limited = plan["Node Type"] == "Limit" or (limited and plan["Node Type"] != "Sort")
    for each in plan.get("Plans", ()):
        yield from nodes(each, limited=limited)


def faults_of_node(node: Mapping[str, Any], grown: frozenset[str], limited: bool) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name", node.get("Index Name", ""))
    if kind == "Seq Scan" and table in grown:
        yield f"reads all of {table}: {node.get('Filter', 'no filter')}"
    if kind in SCANS and not limited and "Index Cond" not in node and "Order By" not in node:
        yield f"reads all of the index {node['Index Name']}"
    filtered = node.get("Rows Removed by Filter", 0) * node.get("Actual Loops", 1)
    filtered += node.get("Rows Removed by Index Recheck", 0) * node.get("Actual Loops", 1)
    if filtered > MOST_FILTERED:
        yield f"throws away {filtered:.0f} rows of {table}: {node.get('Filter', 'a recheck')}"
