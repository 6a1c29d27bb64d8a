"""Records the plans of what the services run, over tables with many rows.

`auto_explain` logs the plan of each statement that a service runs, as the role that it runs as, and
so under its row level security. Which statements there are is read from the source, so that none is
forgotten. `tests.plans` plans single statements instead, for values that a test chooses.
"""

import ast
import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

ROOT = Path(__file__).parents[1]
ROWS = 50_000
# What a scan may touch of a growing table, a batch of some hundreds included: far below all of it.
MOST_ROWS = 1_500
MOST_BLOCKS = 600
# Those of usage are planned one by one, for one user with many receipts (test_usage_plans.py).
SERVICES = ("entitlements", "router", "gateway", "oplog", "clinic")
# As many rows as administrators write, or exactly one.
SMALL = frozenset(
    {
        "entitlements.plans",
        "entitlements.domain_descriptors",
        "entitlements.revision",
        # One row a start of the store.
        "entitlements.former_epochs",
        "entitlements.page_token_key",
        "oplog.head",
        "oplog.page_token_key",
    }
)
SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_verbose": "on",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
}
ENTRY = re.compile(r"LOG:  duration: [0-9.]+ ms  plan:\n((?:\t.*\n)+)")
SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|MERGE)\s")
OF_A_TABLE = re.compile(r"\b(FROM|INTO|UPDATE|JOIN)\s")
PLACEHOLDER = re.compile(r"%\(\w+\)s|%s|\{[^{}]*\}")


@dataclass(frozen=True)
class Plan:
    """A statement that was run, and what was done for it."""

    text: str
    tree: Mapping[str, Any]

    @property
    def scans(self) -> Iterator[Mapping[str, Any]]:
        pending = [self.tree]
        while pending:
            node = pending.pop()
            pending += node.get("Plans", ())
            if "Relation Name" in node and "Scan" in node["Node Type"]:
                yield node


class Recorder:
    """Writes down the plans of the services in one database, from `start` on."""

    def __init__(self, url: str) -> None:
        self._url = url
        sockets = Path(parse_qs(urlsplit(url).query)["host"][0])
        self._log = sockets.parent / "postgres.log"
        self._from = 0
        self._plans: list[Plan] = []
        # The tables that have grown, and their partitions.
        self._grown: set[str] = set()

    async def start(self) -> None:
        """From now on; raises AssertionError for a table that has not grown."""
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            self._grown = await grown(connection)
            name = connection.info.dbname
            for setting, value in SETTINGS.items():
                await connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
            silent = "SET auto_explain.log_min_duration = '-1'"
            await connection.execute(f"ALTER ROLE postgres IN DATABASE {name} {silent}")
            self._from = self._log.stat().st_size
            # They come back with the settings.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename LIKE 'gatehouse\\_%'"
            )

    def of(self, service: str) -> list[Plan]:
        """The plans of statements about the tables of *service*, as far as they are written."""
        self._read()
        named = re.compile(rf'"?\b{service}\b"?\.')
        return [plan for plan in self._plans if named.search(plan.text)]

    def _read(self) -> None:
        with self._log.open("rb") as log:
            log.seek(self._from)
            text = log.read().decode(errors="replace")
        end = 0
        for entry in ENTRY.finditer(text):
            # The last one may not be written to its end.
            with suppress(ValueError):
                read = json.loads(entry[1])
                self._plans.append(Plan(" ".join(read["Query Text"].split()), read["Plan"]))
                end = entry.end()
        self._from += len(text[:end].encode())

    def faults(self, service: str, excused: Mapping[str, str]) -> dict[str, str]:
        """What reads more than it needs: by statement, how. *excused* are parts of statements."""
        return {
            plan.text: fault
            for plan in self.of(service)
            if not any(part in plan.text for part in excused)
            for node in plan.scans
            if f"{node['Schema']}.{node['Relation Name']}" in self._grown
            if (fault := fault_of(node))
        }

    async def missing(self, service: str, seconds: float) -> set[str]:
        """The statements in the source that were not run, at the latest after *seconds*."""
        wanted = statements_in(service)
        assert wanted
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            texts = [plan.text for plan in self.of(service)]
            missing = {
                place
                for place, pattern in wanted.items()
                if not any(pattern.search(text) for text in texts)
            }
            if not missing or loop.time() > until:
                return missing
            await asyncio.sleep(0.5)


async def grown(connection: psycopg.AsyncConnection[Any]) -> set[str]:
    """The tables of the services that have many rows, and partitions of them that have."""
    await connection.execute("ANALYZE")
    found = await connection.execute(
        "SELECT n.nspname || '.' || c.relname, c.reltuples, c.relispartition, c.relkind"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = ANY (%s) AND c.relkind IN ('r', 'p')"
        " AND c.relname <> 'schema_migrations'",
        (list(SERVICES),),
    )
    rows = await found.fetchall()
    few = [row[0] for row in rows if row[0] not in SMALL and not row[2] and row[1] < 0.9 * ROWS]
    assert not few, f"these tables have few rows: {few}"
    return {row[0] for row in rows if row[1] > ROWS / 10 and row[3] == "r"}


def fault_of(node: Mapping[str, Any]) -> str:
    """Why the scan *node* of a growing table is none to be had; empty where it may be."""
    loops = node["Actual Loops"]
    removed = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
    touched = round(loops * (node.get("Actual Rows", 0) + removed))
    blocks = node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0)
    what = f"{node['Node Type']} of {node['Schema']}.{node['Relation Name']}"
    # Without a filter it ends where its LIMIT is reached.
    if node["Node Type"] == "Seq Scan" and loops and "Filter" in node:
        return what
    if touched > MOST_ROWS:
        return f"{what} touches {touched} rows"
    if blocks > MOST_BLOCKS:
        return f"{what} touches {blocks} blocks"
    return ""


def statements_in(service: str) -> dict[str, re.Pattern[str]]:
    """The statements in the source of *service* that are not of small tables alone, by their place.

    What is bound or formatted into one is left open.
    """
    folder = next(
        ROOT / parent / service
        for parent in ("services", "examples")
        if (ROOT / parent / service).is_dir()
    )
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for line, text in texts_in(ast.parse(path.read_text(encoding="utf-8"))):
            tables = set(re.findall(rf"\b{service}\.\w+", text))
            if SQL.match(text) and OF_A_TABLE.search(text) and not (tables and tables <= SMALL):
                found[f"{path.relative_to(ROOT)}:{line}"] = pattern_of(text)
    return found


def texts_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The literals of a module that are no docstrings, with `{}` for what is formatted in."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield (
                node.lineno,
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "{}"
                    for part in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def pattern_of(text: str) -> re.Pattern[str]:
    words = " ".join(text.split())
    parts = [re.escape(part.replace("%%", "%")) for part in PLACEHOLDER.split(words)]
    return re.compile(".*?".join(parts), re.DOTALL)


async def multiply(url: str, table: str, columns: Mapping[str, str], where: str = "true") -> None:
    """Fill *table* with copies of one of its rows that *where* holds for.

    *columns* are what is different in each, as expressions of the number `n` and of the row
    `template.t`; triggers and foreign keys are left out, and so is row level security.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")
        found = await connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = ''",
            (table,),
        )
        names = [row[0] for row in await found.fetchall()]
        made = await connection.execute(
            f"INSERT INTO {table} ({', '.join(names)}) OVERRIDING SYSTEM VALUE"
            f" SELECT {', '.join(columns.get(name, f'(template.t).{name}') for name in names)}"
            f" FROM generate_series(1, {ROWS}) AS n,"
            f" (SELECT t FROM {table} AS t WHERE {where} LIMIT 1) AS template"
            " ON CONFLICT DO NOTHING"
        )
        assert made.rowcount > 0.9 * ROWS, f"{table}: {made.rowcount} rows of a template"
