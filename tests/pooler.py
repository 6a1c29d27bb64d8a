"""PgBouncer in transaction mode, where it is installed."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from services.embedded_stores import (
    MIGRATOR,
    SERVICES,
    UNPRIVILEGED_USER,
    GuardedProgram,
    temporary_folder,
)

PORT = 6432
POOL_SIZE = 2


def pgbouncer() -> str:
    """The program; skips the test where there is none. No wheel has it."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer, or the like")
    return found


class Pooler:
    """A PgBouncer that lends each of its few sessions for one transaction."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def url(self, user: str, database: str) -> str:
        host = quote(str(self._folder), safe="")
        return f"postgresql://{user}@/{database}?host={host}&port={PORT}"


@asynccontextmanager
async def pooler(postgres_sockets: Path) -> AsyncIterator[Pooler]:
    """A pooler before the Postgres of these sockets, which need not be there yet."""
    program = pgbouncer()
    folder = temporary_folder("pgbouncer")
    try:
        users = ["postgres", MIGRATOR, *(f"gatehouse_{service}" for service in SERVICES)]
        (folder / "users.txt").write_text("".join(f'"{user}" ""\n' for user in users))
        (folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host={postgres_sockets} port=5432\n"
            "[pgbouncer]\n"
            f"unix_socket_dir = {folder}\nlisten_addr =\nlisten_port = {PORT}\n"
            f"auth_type = trust\nauth_file = {folder}/users.txt\n"
            f"pool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 500\n"
            "server_login_retry = 0.1\n"
        )
        user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        log = folder / "pgbouncer.log"
        running = GuardedProgram("PgBouncer", [program, str(folder / "pgbouncer.ini")], log, user)
        await running.start()
        try:
            async with asyncio.timeout(20):
                while not (folder / f".s.PGSQL.{PORT}").exists():
                    assert running.running, running.last_words()
                    await asyncio.sleep(0.01)
            yield Pooler(folder)
        finally:
            await running.stop()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def sessions(made: Pooler, user: str, database: str, statement: str) -> list[object]:
    """What *statement* returns in every session that the pooler has for a role."""
    found: list[object] = []
    connections = []
    for _ in range(POOL_SIZE):
        connection = await psycopg.AsyncConnection.connect(
            made.url(user, database), prepare_threshold=None
        )
        connections.append(connection)
        row = await (await connection.execute(statement)).fetchone()  # keeps its session
        found.append(row and row[0])
    for connection in connections:
        with suppress(psycopg.Error):
            await connection.close()
    return found
