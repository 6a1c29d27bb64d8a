"""Attempts in a real Postgres: one row each, sums that are right, budgets that hold (ROU-6)."""

import asyncio
import json
import logging
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.embedded_stores import PostgresServer
from services.router.accounts import Record, SpendingQuery, Spent
from services.router.journal import Journal, open_journal
from services.router.ledger import Ledger
from services.runtime.failure import Failure, StoreUnavailable
from services.runtime.postgres import open_pool
from tests.conftest import Database, migrated_database

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TODAY = date(2026, 11, 25)
ANA, BEN = (str(uuid.UUID(int=number, version=4)) for number in (1, 2))
CLINIC = str(uuid.UUID(int=3, version=4))
LOG = logging.getLogger("gatehouse.router.test")


def begun(cost: str = "1", **fields: Any) -> Record:
    return {
        "attempt_id": str(uuid.uuid4()),
        "user_id": ANA,
        "clinic_id": CLINIC,
        "task": "CHAT",
        "model": "m",
        "provider": "p",
        "tier": "MODEL_BASIC",
        "outcome": "UNKNOWN",
        "started_at": NOW.isoformat(),
        "input_tokens": 7,
        "cached_input_tokens": 0,
        "output_tokens": 0,
        "reasoning_tokens": 0,
        "estimated": True,
        "cost": cost,
        "currency": "USD",
        **fields,
    }


def ended(record: Record, cost: str, **fields: Any) -> Record:
    at = (datetime.fromisoformat(record["started_at"]) + timedelta(seconds=1)).isoformat()
    known = {"outcome": "SUCCEEDED", "ended_at": at, "estimated": False}
    return {**record, **known, "cost": cost, "output_tokens": 5, **fields}


def told(records: Sequence[Record]) -> str:
    return json.dumps(list(records))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Ledger]:
    async with open_pool(url, min_size=1, max_size=8, name="router") as pool:
        yield Ledger(pool)


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    async with await psycopg.AsyncConnection.connect(database.admin_url) as connection:
        await connection.execute("TRUNCATE router.attempts")
    async with opened(database.url_for("router")) as ledger:
        yield ledger


async def spent(ledger: Ledger, **query: Any) -> list[Spent]:
    return await ledger.spending(SpendingQuery(TODAY, TODAY, **query))


async def total(ledger: Ledger, **query: Any) -> tuple[int, int]:
    """How many attempts were billed, and their cost in whole units."""
    sums = await spent(ledger, by=("model",), **query)
    return sum(one.attempts for one in sums), sum(one.cost for one in sums) // 10**15


# One row an attempt


async def test_how_an_attempt_ended_stands_whatever_comes_again(ledger: Ledger) -> None:
    """ROU-6: begun and ended, in any order, in one message or in several, once or again."""
    record = begun("9")
    end = ended(record, "2")
    for records in ([record], [record, end], [end, record], [record], [end]):
        await ledger.record(told(records))
        await ledger.record(told(records))
    assert await total(ledger) == (1, 2)
    [one] = await spent(ledger)
    assert (one.tokens.input, one.tokens.output, one.tokens.estimated) == (7, 5, False)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(12)), cuts=st.sets(st.integers(1, 11), max_size=4))
async def test_messages_cut_and_mixed_anyhow_give_the_same_sums(
    ledger: Ledger, order: list[int], cuts: set[int]
) -> None:
    """ROU-6: six attempts, two records each, from two senders at once."""
    firsts = [begun("5", user_id=str(uuid.uuid4())) for _ in range(6)]
    records = [*firsts, *(ended(record, "3") for record in firsts)]
    mixed = [records[place] for place in order]
    places = [0, *sorted(cuts), 12]
    messages = [told(mixed[a:b]) for a, b in pairwise(places)]
    await asyncio.gather(*(ledger.record(message) for message in [*messages, *messages[::-1]]))
    for record in firsts:
        assert await total(ledger, user_id=record["user_id"]) == (1, 3)


async def test_an_attempt_that_nobody_ended_counts_with_what_is_known(ledger: Ledger) -> None:
    """ROU-6: a replica that died does not make its attempts cheaper."""
    await ledger.record(told([begun("4")]))
    assert await total(ledger) == (1, 4)


async def test_what_was_not_billed_is_no_completion(ledger: Ledger) -> None:
    """ROU-6: it is recorded with its outcome, and in no sum."""
    record = begun("4")
    none = dict.fromkeys(["input_tokens", "cached_input_tokens", "output_tokens"])
    refused = ended(record, "0", outcome="SERVER_ERROR", **{**none, "reasoning_tokens": None})
    await ledger.record(told([record, refused]))
    assert await total(ledger) == (0, 0)


async def test_sums_are_told_apart_by_what_was_asked(ledger: Ledger) -> None:
    """ROU-6: by user, clinic, model and day; newest day first; each currency for itself."""
    yesterday = (NOW - timedelta(days=1)).isoformat()
    await ledger.record(
        told(
            [
                begun("1"),
                begun("2", user_id=BEN, model="n"),
                begun("4", started_at=yesterday),
                begun("8", clinic_id=None, user_id=None),
                begun("16", currency="BRL"),
            ]
        )
    )

    async def by(*keys: str, **query: Any) -> list[tuple[Any, ...]]:
        asked = SpendingQuery(TODAY - timedelta(days=1), TODAY, by=keys, **query)
        return [
            (*(getattr(one, key) for key in keys), one.currency, one.cost // 10**15)
            for one in await ledger.spending(asked)
        ]

    assert await by() == [("BRL", 16), ("USD", 15)]
    assert await by("day") == [
        (TODAY, "BRL", 16),
        (TODAY, "USD", 11),
        (TODAY - timedelta(days=1), "USD", 4),
    ]
    assert await by("model", user_id=BEN) == [("n", "USD", 2)]
    assert await by("user_id", clinic_id=CLINIC) == [
        (ANA, "BRL", 16),
        (ANA, "USD", 5),
        (BEN, "USD", 2),
    ]
    assert ("", "USD", 8) in await by("clinic_id")
    assert [one.cost // 10**15 for one in await spent(ledger)] == [16, 9, 2]


async def test_sums_are_exact(ledger: Ledger) -> None:
    """ROU-6: a thousand attempts of a millionth of a billionth each."""
    await ledger.record(told([begun("0.000000000000001") for _ in range(1000)]))
    [one] = await spent(ledger)
    assert one.cost == one.attempts == 1000


async def test_what_is_old_is_forgotten(ledger: Ledger) -> None:
    """ROU-6."""
    old = (NOW - timedelta(days=11)).isoformat()
    await ledger.record(told([begun("1"), *(begun("1", started_at=old) for _ in range(20))]))
    await ledger.forget(NOW, days=10)
    found = await ledger.spending(SpendingQuery(date(2026, 1, 1), TODAY))
    assert sum(one.attempts for one in found) == 1


# Budgets


async def test_a_budget_holds_whoever_reserves_at_once(database: Database, ledger: Ledger) -> None:
    """ROU-6: forty at once, over two replicas: seven of 3 fit into 21 and a bit."""
    async with opened(database.url_for("router")) as other:
        reserved = await asyncio.gather(
            *((ledger, other)[n % 2].reserve(begun("3"), NOW, 21_900_000) for n in range(40))
        )
    assert sum(reserved) == 7
    assert await total(ledger) == (7, 21)


async def test_what_was_reserved_and_not_used_is_given_back(ledger: Ledger) -> None:
    """ROU-6: reserved before the call, settled after it."""
    first = begun("3")
    assert await ledger.reserve(first, NOW, 5_000_000)
    assert not await ledger.reserve(begun("3"), NOW, 5_000_000)
    await ledger.record(told([ended(first, "1")]))
    assert await ledger.reserve(begun("3"), NOW, 5_000_000)


async def test_a_budget_is_of_one_user_one_day_and_one_currency(ledger: Ledger) -> None:
    """ROU-6."""
    late = datetime(2026, 11, 25, 23, 59, tzinfo=UTC)
    assert await ledger.reserve(begun("3", started_at=late.isoformat()), late, 3_000_000)
    assert not await ledger.reserve(begun("3"), NOW, 3_000_000)
    assert await ledger.reserve(begun("3", user_id=BEN), NOW, 3_000_000)
    assert await ledger.reserve(begun("3", currency="BRL"), NOW, 3_000_000)
    next_day = late + timedelta(minutes=1)
    assert await ledger.reserve(begun("3", started_at=next_day.isoformat()), next_day, 3_000_000)


# What the database itself refuses


@asynccontextmanager
async def acting(database: Database, user_id: str, roles: str) -> AsyncIterator[Any]:
    url = database.url_for("router")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(
            "SELECT set_config('gatehouse.user_id', %s, true),"
            " set_config('gatehouse.roles', %s, true)",
            (user_id, roles),
        )
        yield connection


@pytest.mark.parametrize(
    ("user_id", "roles", "seen"),
    [
        (ANA, "user", 1),
        (BEN, "user", 2),
        ("", "", 0),
        ("nobody", "user", 0),
        (ANA, "admin", 3),
        ("router", "service", 3),
    ],
)
async def test_an_attempt_is_seen_by_its_user_admins_and_services(
    database: Database, ledger: Ledger, user_id: str, roles: str, seen: int
) -> None:
    """ENT-5, ROU-6."""
    await ledger.record(told([begun(), begun(user_id=BEN), begun(user_id=BEN)]))
    async with acting(database, user_id, roles) as connection:
        found = await connection.execute("SELECT count(*) FROM router.attempts")
        assert await found.fetchone() == (seen,)


@pytest.mark.parametrize("roles", ["user", "admin", ""])
async def test_only_services_write_attempts(database: Database, ledger: Ledger, roles: str) -> None:
    """ENT-5, ROU-6: not even an admin makes an attempt cheaper."""
    await ledger.record(told([begun()]))
    async with acting(database, ANA, roles) as connection:
        for statement in (
            "UPDATE router.attempts SET cost = 0",
            "DELETE FROM router.attempts",
        ):
            assert (await connection.execute(statement)).rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(
                "INSERT INTO router.attempts SELECT (jsonb_populate_record("
                "NULL::router.attempts, %s::jsonb)).*",
                (json.dumps(begun()),),
            )


# On the way


class Post:
    """Stands where the ledger does, and is away as long as it is told to be."""

    def __init__(self) -> None:
        self.away = False
        self.got: list[Record] = []

    async def send(self, records: str) -> None:
        if self.away:
            raise StoreUnavailable("the store does not answer")
        self.got += json.loads(records)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.02)


CRASHING = """
import logging, os, pathlib, signal, sys
from services.router.journal import Journal

journal = Journal(pathlib.Path(sys.argv[1]), print, logging.getLogger())
for number in range(1000):
    journal.append({"number": number})
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_what_waits_outlives_the_process(tmp_path: Path) -> None:
    """ROU-6: nothing is closed, nothing is flushed: the next one on the folder sends it."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASHING, str(tmp_path))
    assert await process.wait() == -signal.SIGKILL
    post = Post()
    async with open_journal(Journal(tmp_path, post.send, LOG)):
        pass
    assert post.got == [{"number": number} for number in range(1000)]
    assert list(tmp_path.iterdir()) == []


async def test_a_line_that_a_crash_tore_does_not_hold_up_the_others(
    ledger: Ledger, tmp_path: Path
) -> None:
    """ROU-6: it is set aside, not deleted."""
    good, impossible = begun("4"), begun("-1")
    torn = [json.dumps(good), '{"attempt_id": "0', json.dumps(impossible), "\x00\x00"]
    (tmp_path / "00000000000000000001.attempts").write_text("\n".join(torn))
    async with open_journal(Journal(tmp_path, ledger.record, LOG)) as journal:
        journal.append(begun("8"))
    assert await total(ledger) == (2, 12)
    [refused] = tmp_path.iterdir()
    assert (refused.suffix, refused.read_text().split("\n")) == (".refused", torn[1:])


async def test_past_the_bound_the_router_goes_on_and_counts_what_is_lost(tmp_path: Path) -> None:
    """ROU-6: the disk is not filled, and what was kept is sent later."""
    post = Post()
    post.away = True
    journal = Journal(tmp_path, post.send, LOG, most_bytes=5000)
    for _ in range(40):
        journal.append(begun())
    kept = 40 - journal.unrecorded
    assert 0 < kept < 40
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5000
    post.away = False
    await journal.send()
    assert len(post.got) == kept
    journal.append(begun())
    assert journal.unrecorded == 40 - kept
    await journal.close()


async def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """ALL-5."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="spool directory"):
        Journal(tmp_path / "file" / "spool", Post().send, LOG)


async def test_every_attempt_is_recorded_once_through_kills_of_postgres(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """ROU-6: killed twice while records come; each attempt has one row in the end."""
    database = await migrated_database(own_postgres)
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(opened(database.url_for("router")))
        journal = await stack.enter_async_context(
            open_journal(Journal(tmp_path, ledger.record, LOG))
        )
        written = 0

        async def attempts() -> None:
            nonlocal written
            while True:
                record = begun("9")
                journal.append(record)
                await asyncio.sleep(0.001)
                journal.append(ended(record, "1"))
                written += 1

        writing = asyncio.create_task(attempts())
        for _ in range(2):
            at = written
            await until(lambda at=at: is_true(written > at + 100))  # type: ignore[misc]
            await own_postgres.kill()
            await until(lambda at=at: is_true(written > at + 300))  # type: ignore[misc]
            await own_postgres.start()
        writing.cancel()
        await asyncio.wait((writing,))

        async def all_there() -> bool:
            try:
                await journal.send()
            except StoreUnavailable:
                return False
            return True

        await until(all_there)
        attempts_there, cost = await total(ledger)
        assert attempts_there in (written, written + 1)  # one may have begun only
        assert cost in (written, written + 9)
        assert journal.unrecorded == 0


async def is_true(value: bool) -> bool:
    return value
