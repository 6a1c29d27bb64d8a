"""What the tables promise whoever writes them: revisions, history, notifications (ENT-4)."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from services.embedded_stores import MIGRATOR, create_database
from services.entitlements.failures import EtagMismatch, PlanInUse
from services.entitlements.postgres import PLANS, USER_PLAN, WRITERS_LOCK, Store, Write
from services.runtime.failure import NotFound, StoreBusy, StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.migrations import migrate
from services.runtime.postgres import open_pool

ADMIN = Caller(
    user_id="a0000000-0000-4000-8000-00000000000a", clinic_id="", roles=frozenset({"admin"})
)
READER = Caller(user_id="gateway", clinic_id="", roles=frozenset({"service"}))


def new_id() -> str:
    return str(uuid.uuid4())


def write(**fields: str) -> Write:
    return Write(ADMIN, new_id(), **fields)


def columns(**fields: Any) -> dict[str, Any]:
    return {
        "name": f"p-{uuid.uuid4().hex[:12]}",
        "allows_crud": False,
        "analytics_window_days": 30,
        "model_tiers": ["MODEL_BASIC"],
        **fields,
    }


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    async with open_pool(url, min_size=1, max_size=8, name="entitlements") as pool:
        yield Store(pool)


@pytest.fixture(scope="module")
async def store(database) -> AsyncIterator[Store]:
    async with opened(database.url_for("entitlements")) as store:
        yield store


@pytest.fixture(scope="module")
async def other_store(database) -> AsyncIterator[Store]:
    """Another replica's, so that writers wait for one another in the database."""
    async with opened(database.url_for("entitlements")) as store:
        yield store


async def make(store: Store, **fields: Any) -> Any:
    row, _ = await store.create(write(), PLANS, columns(**fields), lambda made: True)
    return row


async def test_every_write_is_in_the_history_with_its_writer_and_operation(store, database) -> None:
    """ENT-3: who changed what, under which id in the operation log."""
    making, changing, removing = write(), write(), write()
    row, _ = await store.create(making, PLANS, columns(), lambda made: True)
    await store.update(changing, PLANS, row["id"], "", lambda standing: {"allows_crud": True})
    await store.delete(removing, PLANS, row["id"], "")
    changes = [
        change
        for change in await store.changes_after(READER, row["revision"] - 1, 100)
        if change.row["id"] == row["id"]
    ]
    assert [(change.kind, change.removed) for change in changes] == [
        ("plan", False),
        ("plan", False),
        ("plan", True),
    ]
    assert [change.row["allows_crud"] for change in changes] == [False, True, True]
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        found = await connection.execute(
            "SELECT changed_by, operation_id::text FROM entitlements.changes"
            " WHERE key = %s ORDER BY revision",
            (row["id"],),
        )
        assert await found.fetchall() == [
            (ADMIN.user_id, each.operation_id) for each in (making, changing, removing)
        ]


async def test_a_write_that_fails_leaves_no_revision_and_no_history(store) -> None:
    """ENT-4."""
    row = await make(store)
    before = (await store.revision(READER)).number
    with pytest.raises(EtagMismatch):
        await store.update(write(), PLANS, row["id"], "r0", lambda standing: columns())
    with pytest.raises(NotFound):
        await store.delete(write(), PLANS, new_id(), "")
    await store.assign(write(), USER_PLAN, new_id(), ("id", row["id"]), "", {})
    with pytest.raises(PlanInUse):
        await store.delete(write(), PLANS, row["id"], "")
    assert (await store.revision(READER)).number == before + 1


async def test_no_revision_is_ever_seen_before_an_earlier_one(store, other_store) -> None:
    """ENT-4: read in a race with writers, the history never has a gap that fills up later."""
    start = (await store.revision(READER)).number
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            changes = await store.changes_after(READER, start, 1000)
            revisions = [change.revision for change in changes]
            assert revisions == list(range(start + 1, start + 1 + len(revisions)))

    reading = asyncio.ensure_future(read())
    await asyncio.gather(*(make(each) for each in (store, other_store) * 30))
    done.set()
    await reading
    assert (await store.revision(READER)).number == start + 60


async def test_the_times_of_the_history_follow_its_revisions(store, other_store) -> None:
    """ENT-2: the history is searched by time, so that time may not go back."""
    start = (await store.revision(READER)).number
    await asyncio.gather(*(make(each) for each in (store, other_store) * 10))
    changes = await store.changes_after(READER, start, 100)
    times = [datetime.fromisoformat(change.row["updated_at"]) for change in changes]
    assert times == sorted(set(times))


async def test_a_change_is_notified_when_it_is_committed(store, database) -> None:
    """ENT-4."""
    url = database.url_for("entitlements")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("LISTEN entitlements_changes")
        row = await make(store)
        async for notification in connection.notifies(timeout=10, stop_after=1):
            assert notification.payload == str(row["revision"])
            return
    pytest.fail("there was no notification within ten seconds")


async def test_a_read_and_its_revision_belong_together(store) -> None:
    """ENT-4: never a plan with a revision at which it was another."""
    row = await make(store)
    done = asyncio.Event()

    async def change() -> None:
        for days in range(1, 120):
            await store.update(
                write(), PLANS, row["id"], "", lambda _, days=days: {"analytics_window_days": days}
            )
        done.set()

    changing = asyncio.ensure_future(change())
    while not done.is_set():
        found, revision = await store.one(READER, PLANS, "id", row["id"])
        assert found["revision"] == revision.number
    await changing


async def test_the_store_sees_as_its_caller(store) -> None:
    """ENT-5: what the store is asked for by a user is answered as to that user."""
    user = new_id()
    await store.assign(write(), USER_PLAN, user, ("name", "premium"), "", {})
    own = Caller(user_id=user, clinic_id="", roles=frozenset({"user"}))
    other = Caller(user_id=new_id(), clinic_id="", roles=frozenset({"user"}))
    assert (await store.candidates(own, user, "")).user is not None
    assert (await store.candidates(other, user, "")).user is None
    now = datetime.now(UTC)
    assert (await store.candidates_at(own, user, "", now)).user is not None
    assert (await store.candidates_at(other, user, "", now)).user is None
    with pytest.raises(NotFound):
        await store.one(other, USER_PLAN, "user_id", user)


async def test_a_user_who_reaches_the_store_s_writes_is_refused_by_the_database(store) -> None:
    """ENT-5: were the role forgotten in the service, the policy would still hold."""
    user = Caller(user_id=new_id(), clinic_id="", roles=frozenset({"user"}))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await store.create(Write(user, new_id()), PLANS, columns(), lambda made: True)


async def test_with_postgres_gone_the_store_says_so_and_comes_back(own_postgres) -> None:
    """ALL-2: a store that is down is told as that; what was committed is there afterwards."""
    await create_database(own_postgres, "plans")
    await asyncio.to_thread(migrate, own_postgres.url(MIGRATOR, "plans"), "entitlements")
    async with opened(own_postgres.url("gatehouse_entitlements", "plans")) as store:
        row = await make(store)
        await own_postgres.kill()
        with pytest.raises(StoreUnavailable):
            await store.one(READER, PLANS, "id", row["id"])
        await own_postgres.start()
        async with asyncio.timeout(30):
            while True:
                with suppress(StoreUnavailable):
                    found, _ = await store.one(READER, PLANS, "id", row["id"])
                    break
        assert found == row


async def test_reads_go_on_while_writers_wait(database) -> None:
    """ENT-3: many waiting writers do not take the connections that reads need."""
    url = database.url_for("entitlements")
    async with opened(url) as store:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (WRITERS_LOCK,))
            waiting = [asyncio.ensure_future(make(store)) for _ in range(30)]
            for _ in range(20):
                await store.one(READER, PLANS, "name", "basic")
            assert not any(each.done() for each in waiting)
        await asyncio.gather(*waiting)


async def test_slow_readers_of_a_snapshot_are_not_waited_for(store: Store) -> None:
    """USE-9: who comes after them is refused soon, and served once one of them is done."""
    slow = [store.snapshot(READER, 1) for _ in range(2)]
    for each in slow:
        await anext(each)
    async with asyncio.timeout(10):
        with pytest.raises(StoreBusy):
            await anext(store.snapshot(READER, 1))
    await slow.pop().aclose()
    slow.append(store.snapshot(READER, 1))
    assert await anext(slow[-1])
    for each in slow:
        await each.aclose()
