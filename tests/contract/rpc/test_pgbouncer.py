"""Every service behind PgBouncer in transaction mode: no session keeps anything of a caller.

Kind: state of a session (a setting, a LISTEN, a prepared statement) where the next transaction is
somebody else's.
"""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from gatehouse.gateway.v1 import gateway_pb2 as pb
from gatehouse.oplog.v1 import oplog_pb2
from gatehouse.oplog.v1.oplog_pb2_grpc import OperationLogServiceStub

from services.embedded import DATABASE, suite
from services.embedded_services import SERVICES
from services.embedded_stores import temporary_folder
from services.runtime.connection import hosts_of
from services.runtime.identity import Caller
from services.runtime.postgres import open_pool
from tests.gateway_calls import CREATE, READ, Stage, operation, staged
from tests.pooler import Pooler, pgbouncer, pooler, sessions
from tests.sentences import reading_channel

IDENTITY = (
    "SELECT concat_ws('/', nullif(current_setting('gatehouse.user_id', true), ''),"
    " nullif(current_setting('gatehouse.clinic_id', true), ''),"
    " nullif(current_setting('gatehouse.roles', true), ''),"
    " nullif(current_setting('statement_timeout'), '0'),"
    " nullif(current_setting('lock_timeout'), '0'))"
)
LISTENERS = {"entitlements", "oplog", "gateway"}


@pytest.fixture
async def before(postgres: Any) -> AsyncIterator[Pooler]:
    async with pooler(Path(hosts_of(postgres.url())[0][0])) as made:
        yield made


async def test_rows_stay_with_their_users_over_two_sessions(before: Pooler, database: Any) -> None:
    """ENT-5, ALL-3: forty callers at once, in blocks and in single statements, also ended ones."""
    users = [Caller(str(uuid.uuid4()), "", frozenset({"user"})) for _ in range(40)]
    async with await psycopg.AsyncConnection.connect(database.admin_url) as admin:
        for count, user in enumerate(users):
            await admin.execute(
                "INSERT INTO usage.usage_counters VALUES (%s, %s, %s, 0)",
                (user.user_id, date(2026, 11, 30), count),
            )
    rows = "SELECT user_id::text, read_count, %s FROM usage.usage_counters"
    url = before.url("gatehouse_usage", database.name)
    async with open_pool(url, min_size=2, max_size=20, name="usage", prepared=False) as pool:

        async def look(place: int, turn: int) -> None:
            user = users[place]
            expected = [(user.user_id, place, turn)]
            if turn % 3 == 0:
                assert (await pool.once(user, rows, (turn,))).rows == expected
            elif turn % 3 == 1:
                async with pool.transaction(user) as connection:
                    for _ in range(7):  # the driver prepares what is repeated, if it may
                        found = await connection.execute(rows, (turn,))
                        assert await found.fetchall() == expected
            else:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await pool.once(user, "SELECT 1/0", ())

        for turn in range(6):
            await asyncio.gather(*(look(place, turn) for place in range(len(users))))
            assert await sessions(before, "gatehouse_usage", database.name, IDENTITY) == ["", ""]
        nobody = "SELECT count(*) FROM usage.usage_counters"
        assert await sessions(before, "gatehouse_usage", database.name, nobody) == [0, 0]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """The suite, every service behind the pooler, and listening beside it."""
    pgbouncer()
    folder = temporary_folder("pooled")
    try:
        async with pooler(folder / "postgres" / "socket") as made:
            direct = f"postgresql://gatehouse_{{}}@/{DATABASE}?host={folder}/postgres/socket"
            overrides = {
                name: {
                    "database_url": made.url(f"gatehouse_{name}", DATABASE),
                    "prepared_statements": "false",
                    **({"listen_database_url": direct.format(name)} if name in LISTENERS else {}),
                    # Followers hear of what is new, or they would wait for as long.
                    **({"heartbeat_seconds": "60"} if name == "oplog" else {}),
                }
                for name in SERVICES
                if name != "router"
            }
            async with (
                suite(data_folder=folder, model_tiers=(), sample=False, overrides=overrides) as run,
                staged(run, replicas=1) as staged_,
            ):
                staged_.pooler = made  # type: ignore[attr-defined]
                yield staged_
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def test_the_suite_works_behind_a_pooler(stage: Stage) -> None:
    """USE-9, ENT-5: two users at once, changes and reads, notifications over the other URL."""
    users = [await stage.user() for _ in range(2)]
    names = ["Ana Prado", "Rui Lima"]
    async with reading_channel(stage.suite.addresses["oplog"]) as channel:
        log = OperationLogServiceStub(channel)
        tail = log.TailOperations(oplog_pb2.TailOperationsRequest(), **stage.admin)
        first = asyncio.ensure_future(tail.read())

        async def work(place: int) -> None:
            user = users[place]
            made = operation("clients", CREATE)
            made.fields.update({"name": names[place]})
            for turn in range(4):
                id_ = f"id-{turn}"
                created = await user.execute([made], request_id=id_)
                assert created.report.successes, created
                again = await user.execute([made], request_id=id_)
                assert again.replayed
                assert again.report == created.report
                seen = await user.execute([operation("clients", READ)])
                records = seen.report.successes[0].records
                assert {each["name"] for each in records} == {names[place]}
            usage = await stage.gateways[0].GetUsage(pb.GetUsageRequest(), **user.call)
            assert (usage.usage.read_count, usage.usage.modify_count) == (4, 4)

        await asyncio.gather(work(0), work(1))
        async with asyncio.timeout(10):  # well before a follower would look by itself
            response = await first
            while not response.HasField("operation"):
                response = await tail.read()
        tail.cancel()
    for user, other in zip(users, users[::-1], strict=True):
        answer = await stage.gateways[0].ListOperations(pb.ListOperationsRequest(), **user.call)
        found = {each.user_id for each in answer.operations}
        assert other.id not in found
    for name in SERVICES:
        if name != "router":
            role = f"gatehouse_{name}"
            found = await sessions(stage.pooler, role, DATABASE, IDENTITY)  # type: ignore[attr-defined]
            assert found == ["", ""], name
    listening = await stage.rows(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE query LIKE 'LISTEN%%'"
    )
    assert {name for (name,) in listening} == {f"gatehouse_{name}" for name in LISTENERS}
