"""What the database itself refuses, to the service's own role, whatever the service's code does
(ENT-5).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from services.embedded_stores import SERVICES

TABLES = (
    "plans",
    "user_plan",
    "clinic_plan",
    "domain_descriptors",
    "changes",
    "revision",
    "former_epochs",
    "page_token_key",
)
ADMIN = "a0000000-0000-4000-8000-00000000000a"
ANA = "a0000000-0000-4000-8000-000000000001"
BEN = "a0000000-0000-4000-8000-000000000002"
CLINIC = "c0000000-0000-4000-8000-000000000001"
OTHER_CLINIC = "c0000000-0000-4000-8000-000000000002"
BASIC = "0b51c000-0000-4000-8000-000000000001"

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@asynccontextmanager
async def acting(
    url: str, user_id: str = "", clinic_id: str = "", roles: str = ""
) -> AsyncIterator[Connection]:
    """A transaction of the service's role in the name of a caller."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for name, value in (("user_id", user_id), ("clinic_id", clinic_id), ("roles", roles)):
            await connection.execute(
                "SELECT set_config(%s, %s, true)", (f"gatehouse.{name}", value)
            )
        yield connection


async def count(connection: Connection, table: str) -> int:
    statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("entitlements", table))
    row = await (await connection.execute(statement)).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
async def url(database) -> str:
    """The service role's URL, of a database with two users' and two clinics' plans and a
    descriptor.
    """
    service_url = database.url_for("entitlements")
    async with acting(service_url, user_id=ADMIN, roles="admin") as connection:
        for user in (ANA, BEN):
            await connection.execute(
                "INSERT INTO entitlements.user_plan (user_id, plan_id) VALUES (%s, %s)",
                (user, BASIC),
            )
        for clinic in (CLINIC, OTHER_CLINIC):
            await connection.execute(
                "INSERT INTO entitlements.clinic_plan (clinic_id, plan_id) VALUES (%s, %s)",
                (clinic, BASIC),
            )
        await connection.execute(
            """
            INSERT INTO entitlements.domain_descriptors
                (name, operations, sensitivity_level, endpoint, entities, synonyms, metrics)
            VALUES ('finance', '{read}', 'high', '127.0.0.1:1', '[]', '[]', '{}')
            """
        )
    return service_url


@pytest.mark.parametrize("table", TABLES)
async def test_row_level_security_is_enabled_and_forced(database, table: str) -> None:
    """ENT-5: forced, so that the owner of the table is held to it too."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass",
            (f"entitlements.{table}",),
        )
        assert await found.fetchone() == (True, True)


async def test_no_table_of_the_schema_is_left_out(database) -> None:
    """ENT-5: a table added later without row level security fails here."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            """
            SELECT relname FROM pg_class
            WHERE relnamespace = 'entitlements'::regnamespace AND relkind IN ('r', 'p')
              AND NOT (relrowsecurity AND relforcerowsecurity)
            """
        )
        assert {row[0] for row in await found.fetchall()} <= {"schema_migrations"}


async def test_the_service_role_cannot_bypass_it(url: str) -> None:
    """ENT-5: not a superuser, not BYPASSRLS, and not the owner of anything."""
    async with acting(url) as connection:
        found = await connection.execute(
            "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        assert await found.fetchone() == (False, False)
        owned = await connection.execute(
            """
            SELECT count(*) FROM pg_class
            WHERE relnamespace = 'entitlements'::regnamespace AND relowner = current_user::regrole
            """
        )
        assert await owned.fetchone() == (0,)


@pytest.mark.parametrize("table", TABLES)
async def test_without_a_caller_nothing_is_visible(url: str, table: str) -> None:
    """ENT-5: a forgotten context shows nothing rather than everything."""
    async with acting(url) as connection:
        assert await count(connection, table) == 0


async def test_without_any_setting_nothing_is_visible(url: str) -> None:
    """ENT-5: the settings need not even exist."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for table in TABLES:
            assert await count(connection, table) == 0


@pytest.mark.parametrize("table", ["plans", "user_plan", "clinic_plan", "domain_descriptors"])
async def test_the_owner_without_a_caller_sees_nothing_either(
    database, url: str, table: str
) -> None:
    """ENT-5: FORCE."""
    async with acting(database.migrator_url) as connection:
        assert await count(connection, table) == 0


async def test_a_user_sees_only_their_own_plan(url: str) -> None:
    """ENT-5."""
    async with acting(url, ANA, CLINIC, "user") as connection:
        users = await connection.execute("SELECT user_id::text FROM entitlements.user_plan")
        assert await users.fetchall() == [(ANA,)]
        clinics = await connection.execute("SELECT clinic_id::text FROM entitlements.clinic_plan")
        assert await clinics.fetchall() == [(CLINIC,)]


async def test_a_user_sees_only_their_own_history(url: str) -> None:
    """ENT-5."""
    async with acting(url, ANA, CLINIC, "user") as connection:
        found = await connection.execute(
            "SELECT DISTINCT kind, key FROM entitlements.changes WHERE kind <> 'plan'"
        )
        assert set(await found.fetchall()) == {("user_plan", ANA), ("clinic_plan", CLINIC)}


async def test_naming_another_user_finds_nothing(url: str) -> None:
    """ENT-5."""
    async with acting(url, ANA, CLINIC, "user") as connection:
        found = await connection.execute(
            "SELECT 1 FROM entitlements.user_plan WHERE user_id = %s", (BEN,)
        )
        assert await found.fetchone() is None


@pytest.mark.parametrize("role", ["service", "admin", "user,service"])
async def test_services_and_admins_see_everyone(url: str, role: str) -> None:
    """ENT-5."""
    async with acting(url, "gateway", "", role) as connection:
        assert await count(connection, "user_plan") == 2
        assert await count(connection, "clinic_plan") == 2


@pytest.mark.parametrize("role", ["administrator", "user,admins", "Admin", "", "auditor"])
async def test_only_the_exact_role_counts(url: str, role: str) -> None:
    """ENT-5: a name that contains a role is not that role."""
    async with acting(url, "someone", "", role) as connection:
        assert await count(connection, "user_plan") == 0


WRITES = {
    "plans": "INSERT INTO entitlements.plans"
    " (name, allows_crud, analytics_window_days, model_tiers)"
    " VALUES ('mine', true, 365, '{MODEL_BASIC}')",
    "user_plan": "INSERT INTO entitlements.user_plan (user_id, plan_id)"
    " VALUES (gen_random_uuid(), '0b51c000-0000-4000-8000-000000000002')",
    "clinic_plan": "INSERT INTO entitlements.clinic_plan (clinic_id, plan_id)"
    " VALUES (gen_random_uuid(), '0b51c000-0000-4000-8000-000000000002')",
    "domain_descriptors": "INSERT INTO entitlements.domain_descriptors"
    " (name, operations, sensitivity_level, endpoint, entities, synonyms, metrics)"
    " VALUES ('mine', '{read}', 'low', 'x', '[]', '[]', '{}')",
}


@pytest.mark.parametrize("roles", ["", "user", "service", "auditor"])
@pytest.mark.parametrize("table", list(WRITES))
async def test_only_an_admin_may_insert(url: str, table: str, roles: str) -> None:
    """ENT-5, ENT-3."""
    async with acting(url, ANA, CLINIC, roles) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            await connection.execute(WRITES[table])


@pytest.mark.parametrize("table", list(WRITES))
async def test_an_admin_may_insert(url: str, table: str) -> None:
    """ENT-3: what is refused above is refused for the role, not for the statement."""
    async with acting(url, ADMIN, "", "user,admin") as connection:
        assert (await connection.execute(WRITES[table])).rowcount == 1
        await connection.rollback()


CHANGES = {
    "plans": "UPDATE entitlements.plans SET allows_crud = true",
    "user_plan": "UPDATE entitlements.user_plan"
    " SET plan_id = '0b51c000-0000-4000-8000-000000000002'",
    "clinic_plan": "UPDATE entitlements.clinic_plan"
    " SET plan_id = '0b51c000-0000-4000-8000-000000000002'",
    "domain_descriptors": "UPDATE entitlements.domain_descriptors SET endpoint = 'evil:1'",
}


@pytest.mark.parametrize("roles", ["", "user", "service", "auditor"])
@pytest.mark.parametrize("table", list(CHANGES))
async def test_only_an_admin_may_update_or_delete(url: str, table: str, roles: str) -> None:
    """ENT-5: the rows that can be read are not there to be written, one's own included."""
    async with acting(url, ANA, CLINIC, roles) as connection:
        assert (await connection.execute(CHANGES[table])).rowcount == 0
        delete = sql.SQL("DELETE FROM {}").format(sql.Identifier("entitlements", table))
        assert (await connection.execute(delete)).rowcount == 0


@pytest.mark.parametrize("roles", ["user", "service", "admin"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entitlements.changes SET changed_by = 'nobody'",
        "DELETE FROM entitlements.changes",
        "INSERT INTO entitlements.changes VALUES (99, now(), 'x', 'plan', 'x', false, '{}')",
        "UPDATE entitlements.revision SET revision = 0",
        "UPDATE entitlements.page_token_key SET key = ''",
        "TRUNCATE entitlements.plans CASCADE",
        "ALTER TABLE entitlements.plans DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE entitlements.plans NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY written_by_admins ON entitlements.plans",
        "SELECT entitlements.next_revision()",
        "SET ROLE gatehouse_migrator",
        "SET session_replication_role = replica",
    ],
)
async def test_nobody_rewrites_the_history_or_the_rules(
    url: str, roles: str, statement: str
) -> None:
    """ENT-5: not even an admin, through the service's role."""
    async with acting(url, ADMIN, CLINIC, roles) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(statement)


async def test_a_caller_does_not_outlive_the_transaction(url: str) -> None:
    """ENT-5: a pooled connection starts blank."""
    async with acting(url, ADMIN, "", "admin") as connection:
        assert await count(connection, "user_plan") == 2
        await connection.commit()
        assert await count(connection, "user_plan") == 0


@pytest.mark.parametrize("service", sorted(set(SERVICES) - {"entitlements"}))
@pytest.mark.parametrize("table", TABLES)
async def test_another_service_s_role_cannot_enter_the_schema(
    database, service: str, table: str
) -> None:
    """ENT-5: no query crosses schemas."""
    async with acting(database.url_for(service), ADMIN, "", "admin,service") as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await count(connection, table)


async def test_no_view_and_no_function_leads_around_the_policies(database, url: str) -> None:
    """ENT-5: what runs with its owner's rights is a trigger, or not the service's to call."""
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        views = await connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'entitlements'::regnamespace"
            " AND relkind IN ('v', 'm', 'f')"
        )
        assert await views.fetchall() == []
        found = await connection.execute(
            """
            SELECT proname::text FROM pg_proc
            WHERE pronamespace = 'entitlements'::regnamespace AND prosecdef
              AND prorettype <> 'trigger'::regtype
              AND has_function_privilege('gatehouse_entitlements', oid, 'EXECUTE')
            """
        )
        # It takes nothing, and says what every caller may read.
        assert await found.fetchall() == [("current_epoch",)]
    for statement in (
        "CREATE VIEW entitlements.everyone AS SELECT * FROM entitlements.user_plan",
        "CREATE FUNCTION entitlements.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ):
        async with acting(url, ADMIN, "", "admin") as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)


async def test_a_condition_sees_no_row_before_the_policy_has(url: str) -> None:
    """ENT-5: neither a function that tells what it is given, nor one that breaks on a value."""
    async with acting(url, ANA, CLINIC, "user") as connection:
        told: list[str] = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        await connection.execute(
            "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
            " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
        )
        await connection.execute(
            "SELECT 1 FROM entitlements.user_plan WHERE pg_temp.tell(user_id::text)"
        )
        await connection.execute(
            "SELECT 1 FROM entitlements.changes WHERE pg_temp.tell(key) AND kind = 'user_plan'"
        )
        assert set(told) == {ANA}
        await connection.execute(
            "SELECT 1 FROM entitlements.user_plan"
            " WHERE 1 / CASE WHEN user_id = %s THEN 0 ELSE 1 END = 1",
            (BEN,),
        )


@pytest.mark.parametrize("roles", ["user", "service", "auditor"])
async def test_neither_keys_nor_references_tell_what_is_there(url: str, roles: str) -> None:
    """ENT-5: an assignment that is there is refused as a new one is, a plan likewise."""
    nobody = "e0000000-0000-4000-8000-000000000001"
    told = set()
    for conflict in ("", " ON CONFLICT DO NOTHING"):
        for user, plan in ((BEN, BASIC), (nobody, BASIC), (nobody, nobody), (BEN, nobody)):
            async with acting(url, ANA, CLINIC, roles) as connection:
                with pytest.raises(psycopg.Error) as caught:
                    await connection.execute(
                        "INSERT INTO entitlements.user_plan (user_id, plan_id)"
                        f" VALUES (%s, %s){conflict}",
                        (user, plan),
                    )
                told.add((type(caught.value), str(caught.value)))
    assert len(told) == 1


async def test_two_plans_are_seeded_and_no_others(url: str) -> None:
    """ENT-1: as the rows stand, to the value."""
    async with acting(url, ANA, CLINIC, "user") as connection:
        found = await connection.execute(
            "SELECT name, allows_crud, analytics_window_days, model_tiers, daily_read_limit,"
            " daily_modify_limit FROM entitlements.plans ORDER BY name"
        )
        every_tier = ["MODEL_BASIC", "MODEL_SPEED", "MODEL_ADV_REASON", "MODEL_ANALYTICS"]
        assert await found.fetchall() == [
            ("basic", False, 30, ["MODEL_BASIC"], 40, 0),
            ("premium", True, 365, every_tier, None, None),
        ]


async def test_a_plan_cannot_go_while_it_is_being_assigned(database, url: str) -> None:
    """ENT-3: by the tables alone, without the line in which the service's writers stand."""
    async with acting(url, ADMIN, "", "admin") as connection:
        made = await connection.execute(f"{WRITES['plans']} RETURNING id")
        (plan,) = await made.fetchone() or ()
        await connection.commit()
    assign = "INSERT INTO entitlements.user_plan (user_id, plan_id) VALUES (gen_random_uuid(), %s)"
    remove = "DELETE FROM entitlements.plans WHERE id = %s"
    async with (
        acting(url, ADMIN, "", "admin") as first,
        acting(url, ADMIN, "", "admin") as second,
    ):
        await first.execute(assign, (plan,))
        removing = asyncio.ensure_future(second.execute(remove, (plan,)))
        await blocked(database.admin_url, second.info.backend_pid)
        await first.commit()
        with pytest.raises(psycopg.errors.RestrictViolation):
            await removing
    async with acting(url, ADMIN, "", "admin") as connection:
        await connection.execute("DELETE FROM entitlements.user_plan WHERE plan_id = %s", (plan,))
        await connection.execute(remove, (plan,))
        await connection.commit()


async def test_the_tables_refuse_what_the_protos_refuse(url: str) -> None:
    """ENT-1, ENT-3: the constraint is the rule."""
    wrong = [
        "UPDATE entitlements.plans SET analytics_window_days = 0",
        "UPDATE entitlements.plans SET model_tiers = '{}'",
        "UPDATE entitlements.plans SET model_tiers = '{MODEL_GREAT}'",
        "UPDATE entitlements.plans SET daily_read_limit = -1",
        "UPDATE entitlements.plans SET name = 'Two words' WHERE name = 'premium'",
        "UPDATE entitlements.domain_descriptors SET operations = '{drop}'",
        "UPDATE entitlements.domain_descriptors SET sensitivity_level = 'none'",
    ]
    for statement in wrong:
        async with acting(url, ADMIN, "", "admin") as connection:
            with pytest.raises(psycopg.errors.CheckViolation):
                await connection.execute(statement)


async def test_basic_can_be_neither_renamed_nor_removed(url: str) -> None:
    """ENT-2: there is always a plan to fall back on."""
    for statement in (
        "UPDATE entitlements.plans SET name = 'other' WHERE name = 'basic'",
        "DELETE FROM entitlements.plans WHERE name = 'basic'",
    ):
        async with acting(url, ADMIN, "", "admin") as connection:
            with pytest.raises(psycopg.errors.RestrictViolation):
                await connection.execute(statement)


async def blocked(admin_url: str, pid: int) -> None:
    """Wait until a backend waits for another."""
    async with (
        asyncio.timeout(20),
        await psycopg.AsyncConnection.connect(admin_url, autocommit=True) as connection,
    ):
        while True:
            found = await connection.execute("SELECT pg_blocking_pids(%s) <> '{}'", (pid,))
            if await found.fetchone() == (True,):
                return
            await asyncio.sleep(0.01)
