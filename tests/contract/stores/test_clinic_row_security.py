"""What the clinic's tables refuse to its own role, whatever the example's code does (DOM-2)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from examples.clinic.selecting import folded
from services.embedded_stores import MIGRATOR, create_database, drop_database
from services.runtime.migrations import connected, dbmate, migrate, migrations_of, url_for_dbmate

OURS = "c0000000-0000-4000-8000-000000000001"
THEIRS = "c0000000-0000-4000-8000-000000000002"
OUR_CLIENT = "d0000000-0000-4000-8000-000000000001"
THEIR_CLIENT = "d0000000-0000-4000-8000-000000000002"
TABLES = ("clients", "invoices", "appointments", "reminders", "operations")

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@asynccontextmanager
async def acting(url: str, clinic_id: str = "", roles: str = "user") -> AsyncIterator[Connection]:
    """A transaction of the example's role in the name of a caller of a clinic."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(
            "SELECT set_config('gatehouse.clinic_id', %s, true),"
            " set_config('gatehouse.roles', %s, true)",
            (clinic_id, roles),
        )
        yield connection


async def count(connection: Connection, table: str) -> int:
    row = await (await connection.execute(f"SELECT count(*) FROM clinic.{table}")).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
async def url(database) -> str:
    """The role's URL, of a database in which two clinics have one record of each kind."""
    service_url = database.url_for("clinic")
    for clinic, client in ((OURS, OUR_CLIENT), (THEIRS, THEIR_CLIENT)):
        async with acting(service_url, clinic) as connection:
            await connection.execute(
                "INSERT INTO clinic.clients (id, clinic_id, name) VALUES (%s, %s, 'Ana')",
                (client, clinic),
            )
            for table, columns, values in (
                ("invoices", "number, amount, issued_date, due_date", "'1', 1, now(), now()"),
                ("appointments", "starts_at", "now()"),
                ("reminders", "channel", "'sms'"),
            ):
                await connection.execute(
                    f"INSERT INTO clinic.{table} (clinic_id, client_id, {columns})"
                    f" VALUES (%s, %s, {values})",
                    (clinic, client),
                )
            await connection.execute(
                "INSERT INTO clinic.operations (operation_id, clinic_id, state)"
                " VALUES (gen_random_uuid(), %s, 'applied')",
                (clinic,),
            )
    return service_url


async def test_no_table_of_the_schema_is_left_out(database) -> None:
    """DOM-2: row level security is on and forced; a table added later without it fails here."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            """
            SELECT relname, relrowsecurity AND relforcerowsecurity FROM pg_class
            WHERE relnamespace = 'clinic'::regnamespace AND relkind IN ('r', 'p')
              AND relname <> 'schema_migrations'
            """
        )
        assert dict(await found.fetchall()) == dict.fromkeys(TABLES, True)


async def test_there_is_no_way_around_the_policies(database, url: str) -> None:
    """DOM-2: the role is no superuser, owns nothing, and finds no view or definer's function."""
    async with acting(url) as connection:
        found = await connection.execute(
            "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        assert await found.fetchone() == (False, False)
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            """
            SELECT relname::text FROM pg_class WHERE relnamespace = 'clinic'::regnamespace
              AND (relkind IN ('v', 'm', 'f') OR relowner = 'gatehouse_clinic'::regrole)
            UNION ALL
            SELECT proname::text FROM pg_proc
            WHERE pronamespace = 'clinic'::regnamespace AND prosecdef
            """
        )
        assert await found.fetchall() == []


@pytest.mark.parametrize("table", TABLES)
async def test_a_clinic_sees_its_own_rows_and_no_others(url: str, table: str) -> None:
    """DOM-2: and without a clinic, or with what is no clinic's id, there are none."""
    async with acting(url, OURS) as connection:
        found = await connection.execute(f"SELECT clinic_id::text FROM clinic.{table}")
        assert await found.fetchall() == [(OURS,)]
    for nobody in ("", str(uuid.uuid4()), "north", "' OR true --"):
        async with acting(url, nobody) as connection:
            assert await count(connection, table) == 0
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await count(connection, table) == 0


@pytest.mark.parametrize("table", TABLES)
async def test_the_owner_without_a_caller_sees_nothing_either(
    database, url: str, table: str
) -> None:
    """DOM-2: FORCE, which the migrations that mend rows leave as it was."""
    async with acting(database.migrator_url) as connection:
        assert await count(connection, table) == 0


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("roles", ["user", "admin"])
async def test_a_clinic_s_caller_writes_into_no_other(url: str, table: str, roles: str) -> None:
    """DOM-2: neither by changing a row of theirs, nor by giving them one of ours."""
    async with acting(url, OURS, roles) as connection:
        changed = await connection.execute(
            f"UPDATE clinic.{table} SET clinic_id = clinic_id WHERE clinic_id = %s", (THEIRS,)
        )
        assert changed.rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            await connection.execute(f"UPDATE clinic.{table} SET clinic_id = %s", (THEIRS,))


@pytest.mark.parametrize("roles", ["user", "admin", "service"])
async def test_a_row_is_made_for_one_s_own_clinic_alone(url: str, roles: str) -> None:
    """DOM-2."""
    for clinic in ("", OURS):
        async with acting(url, clinic, roles) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                await connection.execute(
                    "INSERT INTO clinic.clients (clinic_id, name) VALUES (%s, 'X')", (THEIRS,)
                )


async def test_a_foreign_key_does_not_tell_of_another_clinic_s_client(url: str) -> None:
    """DOM-2: theirs is refused as one that is nowhere is, though foreign keys see every row."""
    told = []
    for client in (THEIR_CLIENT, str(uuid.uuid4())):
        async with acting(url, OURS) as connection:
            with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
                await connection.execute(
                    "INSERT INTO clinic.reminders (clinic_id, client_id) VALUES (%s, %s)",
                    (OURS, client),
                )
            told.append(str(caught.value).replace(client, "…"))
    assert told[0] == told[1]


async def test_a_unique_number_does_not_tell_of_another_clinic_s_invoice(url: str) -> None:
    """DOM-2: unique within a clinic, and among what is not deleted."""
    make = (
        "INSERT INTO clinic.invoices (clinic_id, client_id, number, amount, issued_date, due_date)"
        " VALUES (%s, %s, '1', 1, now(), now())"
    )
    async with acting(url, OURS) as connection:
        async with connection.transaction(force_rollback=True):
            await connection.execute("UPDATE clinic.invoices SET number = '2'")
            await connection.execute(make, (OURS, OUR_CLIENT))
        async with connection.transaction(force_rollback=True):
            await connection.execute("UPDATE clinic.invoices SET deleted_at = now()")
            await connection.execute(make, (OURS, OUR_CLIENT))
        with pytest.raises(psycopg.errors.UniqueViolation):
            await connection.execute(make, (OURS, OUR_CLIENT))


async def test_only_a_service_sees_the_operations_of_all_clinics(url: str) -> None:
    """DOM-1, LOG-2: the settler; it sees their records no more than others do."""
    async with acting(url, "", "service") as connection:
        assert await count(connection, "operations") == 2
        for table in TABLES[:-1]:
            assert await count(connection, table) == 0
    for roles in ("user", "admin", "auditor", "services", ""):
        async with acting(url, "", roles) as connection:
            assert await count(connection, "operations") == 0


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM clinic.{table}" for table in TABLES),
        "TRUNCATE clinic.clients CASCADE",
        "ALTER TABLE clinic.clients DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own_clinic ON clinic.clients",
        "CREATE VIEW clinic.everyone AS SELECT * FROM clinic.clients",
        "CREATE FUNCTION clinic.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE gatehouse_migrator",
        "SET session_replication_role = replica",
        "SELECT * FROM entitlements.plans",
    ],
)
async def test_nobody_changes_the_rules_or_takes_rows_away(url: str, statement: str) -> None:
    """DOM-2: deleting is marking; no query crosses schemas."""
    async with acting(url, OURS, "user,admin,service") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement)


async def test_a_clinic_does_not_outlive_the_transaction(url: str) -> None:
    """DOM-2: a pooled connection starts blank."""
    async with acting(url, OURS) as connection:
        assert await count(connection, "clients") == 1
        await connection.commit()
        assert await count(connection, "clients") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ÁÇÃO Zélia NÚÑEZ", "acao zelia nunez"),
        ("e\u0301clair", "eclair"),
        ("ŽIŽEK Ș Ấ", "zizek s a"),
        ("O'Brien-Łódź", "o'brien-łodz"),
        ("", ""),
    ],
)
async def test_text_is_folded_by_decomposition(url: str, text: str, expected: str) -> None:
    """DOM-2: without case and accents, however a letter was typed; as the service folds it."""
    async with acting(url) as connection:
        found = await connection.execute("SELECT clinic.folded(%s)", (text,))
        assert await found.fetchone() == (expected,)
    assert folded(text) == expected


async def test_records_of_before_are_mended_when_the_rules_come(postgres, tmp_path: Path) -> None:
    """DOM-2: the schema moves forward over rows that the rules of today would refuse."""
    name = f"before_{uuid.uuid4().hex[:12]}"
    await create_database(postgres, name)
    first = min(migrations_of("clinic").iterdir())
    (tmp_path / first.name).write_text(first.read_text())
    owner = postgres.url(MIGRATOR, name)
    with connected(owner) as connection:
        target = url_for_dbmate(owner, connection)
    process = await asyncio.create_subprocess_exec(
        *(str(dbmate()), "--url", target, "--migrations-dir", str(tmp_path)),
        *("--migrations-table", "clinic.schema_migrations", "--no-dump-schema", "up"),
        stdout=asyncio.subprocess.PIPE,
    )
    await process.communicate()
    assert process.returncode == 0
    async with acting(postgres.url("gatehouse_clinic", name), OURS) as connection:
        await connection.execute(
            "INSERT INTO clinic.clients (id, clinic_id, name) VALUES (%s, %s, 'Ana')",
            (OUR_CLIENT, OURS),
        )
        for number, status, settled in (("1", "paid", None), ("2", "open", "2026-01-05")):
            await connection.execute(
                "INSERT INTO clinic.invoices (clinic_id, client_id, number, amount, issued_date,"
                " due_date, status, settled_date) VALUES (%s, %s, %s, 1, '2026-01-01',"
                " '2026-02-01', %s, %s)",
                (OURS, OUR_CLIENT, number, status, settled),
            )
    await asyncio.to_thread(migrate, owner, "clinic")
    async with acting(postgres.url("gatehouse_clinic", name), OURS) as connection:
        found = await connection.execute(
            "SELECT number, status, settled_date::text FROM clinic.invoices ORDER BY number"
        )
        assert await found.fetchall() == [("1", "paid", "2026-02-01"), ("2", "open", None)]
    async with acting(postgres.url("gatehouse_clinic", name), THEIRS) as connection:
        assert await count(connection, "invoices") == 0
    await drop_database(postgres, name)
