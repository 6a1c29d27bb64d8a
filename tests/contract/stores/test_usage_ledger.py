"""Counting in a real Postgres: races of everything that changes a count (USE-2 to USE-4, USE-7)."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer

from services.runtime.failure import Internal, StoreUnavailable
from services.runtime.gathering import MOST_TURNS
from services.runtime.postgres import open_pool
from services.runtime.telemetry import Telemetry
from services.runtime.valkey import open_valkey
from services.usage.books import Decided
from services.usage.cool_downs import CoolDowns
from services.usage.ledger import ITSELF, LONGEST_RETRY, MOST_FORGOTTEN, Ledger
from services.usage.meter import Meter, open_meter
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    Granted,
    Kind,
    Limits,
    Thresholds,
    UserBusy,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DAY = NOON.date()
MANY = Thresholds(queries=200, modifies=200)
LOG = logging.getLogger("gatehouse.usage")
TELEMETRY = Telemetry(NoOpTracer(), NoOpMeter("test"), LOG)


@dataclass
class Books:
    """A ledger whose clock stands until it is moved, and a look past it into the tables."""

    ledger: Ledger
    strict: Ledger
    admin_url: str
    now: datetime = NOON

    async def claim(self, claim: Claim) -> Decided:
        (decided,) = await decided_by(self.ledger, [claim])
        return decided

    async def used(self, user: uuid.UUID, day: Any = DAY) -> Balance:
        rows = await self.asked(
            "SELECT read_count, modify_count FROM usage.usage_counters"
            " WHERE user_id = %s AND usage_date = %s",
            user,
            day,
        )
        return Balance(*rows[0]) if rows else Balance()

    async def asked(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(self.admin_url) as connection:
            return await (await connection.execute(question, values)).fetchall()

    async def outstanding(self, user: uuid.UUID) -> int:
        """What the receipts say is counted and not given back."""
        ((total,),) = await self.asked(
            "SELECT coalesce(sum(granted - released), 0) FROM usage.receipts WHERE user_id = %s",
            user,
        )
        return int(total)


@pytest.fixture
async def books(database: Any) -> AsyncIterator[Books]:
    url = database.url_for("usage")
    async with open_pool(url, min_size=2, max_size=12, name="usage") as pool:
        open_, strict = (
            Ledger(pool, of, lambda: made.now) for of in (MANY, Thresholds(modifies=30))
        )
        made = Books(open_, strict, database.admin_url)
        yield made


@pytest.fixture
def user() -> uuid.UUID:
    return uuid.uuid4()


def modify(user: uuid.UUID, count: int = 1, **changes: Any) -> Claim:
    claim = Claim(uuid.uuid4(), user, None, Kind.MODIFY, count, Limits(40, 40), "UTC")
    return replace(claim, **changes)


async def decided_by(ledger: Ledger, claims: Collection[Claim], *about: Any) -> list[Decided]:
    """The decisions on *claims*; those of a user whose row is held are asked for again."""
    found: dict[Claim, Decided] = {}
    left = list(claims)
    while left:
        decided, _ = await ledger.decide(left, *about)
        found |= dict(zip(left, decided, strict=True))
        left = [each for each in left if isinstance(found[each], UserBusy)]
    return [found[each] for each in claims]


def granted(decided: Decided) -> int:
    assert isinstance(decided, Admission)
    return decided.decision.count if isinstance(decided.decision, Granted) else 0


async def test_an_id_claimed_on_two_days_at_once_counts_once(books: Books) -> None:
    """USE-2, USE-4: whichever comes first, it is of that day."""
    late = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
    for _ in range(10):
        user = uuid.uuid4()
        same = [modify(user) for _ in range(4)]
        batches = [
            [replace(each, time_zone=zone) for each in order]
            for zone, order in (("UTC", same), ("Asia/Tokyo", same[::-1])) * 3
        ]
        found = await asyncio.gather(*(decided_by(books.ledger, batch, late) for batch in batches))
        assert all(granted(each) == 1 for decided in found for each in decided)
        fresh = [each for decided in found for each in decided if not each.replayed]
        assert len(fresh) == 4
        today = await books.used(user)
        tomorrow = await books.used(user, DAY + timedelta(days=1))
        assert today.modify_count + tomorrow.modify_count == 4


async def test_windows_are_exact_where_two_days_meet(books: Books) -> None:
    """USE-4, USE-6: a user of clinics in two zones, or at midnight, has one window."""
    for _ in range(6):
        user = uuid.uuid4()
        racing = [
            [modify(user, limits=Limits(), time_zone=zone) for _ in range(4)]
            for _ in range(8)
            for zone in ("UTC", "Asia/Tokyo")
        ]
        late = datetime(2026, 11, 23, 23, 0, tzinfo=UTC)
        found = await asyncio.gather(*(decided_by(books.strict, batch, late) for batch in racing))
        assert sum(granted(each) for decided in found for each in decided) == 30


async def test_replicas_whose_clocks_are_apart_count_by_one(database: Any) -> None:
    """USE-3, USE-4, USE-6: Postgres says what time it is; theirs decide nothing."""
    url = database.url_for("usage")
    user = uuid.uuid4()
    async with open_pool(url, min_size=2, max_size=12, name="usage") as pool:

        def replica(seconds: float) -> Ledger:
            def here() -> datetime:
                return datetime.now(UTC) + timedelta(seconds=seconds)

            return Ledger(pool, Thresholds(modifies=30), here=here)

        replicas = [replica(seconds) for seconds in (-100_000, -7, 0, 7, 100_000)]
        for each in replicas:
            await each.clear_cool_down(ITSELF, user)
        racing = [
            decided_by(each, [modify(user, limits=Limits()) for _ in range(3)])
            for _ in range(5)
            for each in replicas
        ]
        begun = datetime.now(UTC)
        found = await asyncio.gather(*racing)
        days = {begun.date(), datetime.now(UTC).date()}
        decisions = [each.decision for decided in found for each in decided]
        kept = [each for each in decisions if isinstance(each, Granted)]
        assert len(kept) == 30
        assert {each.usage_date for each in kept} <= days
        assert len({each.until for each in decisions if not isinstance(each, Granted)}) == 1
        assert {(await each.today(ITSELF, user, "UTC")).day for each in replicas} <= days


async def test_a_retry_after_midnight_counts_once(books: Books, user: uuid.UUID) -> None:
    """USE-2, USE-4: while others count on either day."""
    old = modify(user, 3)
    await books.claim(old)
    books.now += timedelta(hours=13)
    again = await asyncio.gather(*(books.claim(each) for each in [old] * 5 + [modify(user)] * 2))
    assert [each.replayed for each in again[:5]] == [True] * 5
    assert {each.decision.usage_date for each in again[:5]} == {DAY}
    assert await books.used(user) == Balance(0, 3)
    assert await books.used(user, DAY + timedelta(days=1)) == Balance(0, 1)


async def test_releases_settlements_and_the_sweeper_race_to_one_end(books: Books) -> None:
    """USE-2: whoever comes first, the counter is what the receipts say, and never below zero."""
    for turn in range(8):
        user = uuid.uuid4()
        books.now = NOON
        claims = [modify(user, 3) for _ in range(6)]
        await books.ledger.decide(claims)
        books.now += timedelta(minutes=16)
        work = [books.ledger.sweep(), books.ledger.sweep()]
        for claim in claims[:2]:
            work += [books.ledger.settle(user, claim.operation_id) for _ in range(2)]
        for claim in claims[2:4]:
            work += [books.ledger.release(user, claim.operation_id, 2) for _ in range(3)]
        for claim in claims[4:]:
            work += [books.claim(claim) for _ in range(2)]
        work = work[turn:] + work[:turn]
        await asyncio.gather(*work)
        for claim in claims[4:]:
            await books.ledger.settle(user, claim.operation_id)
        # Two settled whole, one out of three of two others, and two that were decided anew or kept.
        assert (await books.used(user)).modify_count == 6 + 2 + 6
        assert await books.outstanding(user) == 14


async def test_racing_claims_and_releases_never_overspend(books: Books, user: uuid.UUID) -> None:
    """USE-2, USE-3: room that is given back is given out once."""
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        claim = modify(user, 1 + number % 4, limits=Limits(40, 10), allow_partial=True)
        await books.claim(claim)
        most = max(most, (await books.used(user)).modify_count)
        if number % 2:
            await asyncio.gather(
                *(books.ledger.release(user, claim.operation_id, 0) for _ in range(2))
            )

    await asyncio.gather(*(work(number) for number in range(40)))
    used = (await books.used(user)).modify_count
    assert used == await books.outstanding(user)
    assert used <= most <= 10


async def test_batches_in_any_order_and_of_new_users_never_deadlock(database: Any) -> None:
    """USE-3: the rows of users are made and locked in one order by everybody."""
    url, chance = database.url_for("usage"), random.Random(5)
    users = [uuid.uuid4() for _ in range(60)]
    name = f"gatehouse-{uuid.uuid4().hex[:8]}"
    async with open_pool(url, min_size=8, max_size=8, name=name.removeprefix("gatehouse-")) as pool:
        ledger = Ledger(pool, MANY)

        async def work() -> None:
            for _ in range(12):
                claims = [modify(user) for user in chance.sample(users, 15)]
                claims.append(modify(uuid.uuid4()))
                await decided_by(ledger, claims)
                await asyncio.gather(
                    *(ledger.release(each.user_id, each.operation_id, 0) for each in claims[:3]),
                    ledger.sweep(),
                )

        await asyncio.gather(*(work() for _ in range(8)))
    async with await psycopg.AsyncConnection.connect(database.admin_url, autocommit=True) as admin:
        async with asyncio.timeout(10):
            while await rows(admin, "FROM pg_stat_activity WHERE application_name = %s", name):
                await asyncio.sleep(0.02)  # they tell what happened to them when they end
        found = await rows(
            admin, "deadlocks FROM pg_stat_database WHERE datname = %s", database.name
        )
        assert found == [(0,)]


async def rows(connection: Any, question: str, value: str) -> list[Any]:
    return await (await connection.execute(f"SELECT {question}", (value,))).fetchall()


async def test_what_is_not_given_back_stands(books: Books, user: uuid.UUID) -> None:
    """USE-2: to release some says that the others were carried out; the sweeper leaves them."""
    claim = modify(user, 5)
    await books.claim(claim)
    given = await books.ledger.release(user, claim.operation_id, 2)
    assert given == (2, DAY, Balance(0, 3))
    books.now += timedelta(hours=1)
    await books.ledger.sweep()
    assert await books.used(user) == Balance(0, 3)


async def test_what_lapsed_and_was_carried_out_counts_again(books: Books, user: uuid.UUID) -> None:
    """USE-2: once, however often it is said."""
    claim = modify(user, 5)
    await books.claim(claim)
    books.now += timedelta(minutes=15)
    assert await books.ledger.sweep() >= 1
    assert await books.used(user) == Balance()
    for _ in range(2):
        await books.ledger.settle(user, claim.operation_id)
        assert await books.used(user) == Balance(0, 5)


async def test_what_lapsed_is_granted_anew_only_where_there_is_room(
    books: Books, user: uuid.UUID
) -> None:
    """USE-3: a retry after its reservation does not exceed the limit."""
    late = modify(user, 5, limits=Limits(40, 6))
    await books.claim(late)
    books.now += timedelta(minutes=15)
    await books.ledger.sweep()
    other = modify(user, 4, limits=Limits(40, 6))
    assert granted(await books.claim(other)) == 4
    assert granted(await books.claim(late)) == 0
    await books.ledger.release(user, other.operation_id, 0)
    assert granted(await books.claim(late)) == 5
    assert await books.used(user) == Balance(0, 5)


async def test_a_correction_below_what_is_reserved_stays_above_zero(
    books: Books, user: uuid.UUID
) -> None:
    """USE-8: what is released afterwards takes off no more than there is."""
    claim = modify(user, 5)
    await books.claim(claim)
    await books.ledger.correct(ITSELF, user, DAY, None, 2)
    assert await books.ledger.release(user, claim.operation_id, 0) == (5, DAY, Balance())


async def test_only_days_with_usage_are_listed(books: Books, user: uuid.UUID) -> None:
    """USE-8: a refusal leaves no trace in the counts."""
    assert granted(await books.claim(modify(user, limits=Limits(40, 0)))) == 0
    assert await books.ledger.days(ITSELF, user, DAY, DAY, 5) == []


@pytest.mark.parametrize("table", ["users", "receipts", "usage_counters"])
async def test_the_sweeper_passes_over_users_whose_rows_are_held(books: Books, table: str) -> None:
    """USE-2, USE-9: kind: a job that waits for one row. The claims of others lapse meanwhile."""
    users = [uuid.uuid4(), uuid.uuid4()]
    await books.ledger.decide([modify(user, 2) for user in users])
    books.now += timedelta(minutes=16)
    async with await psycopg.AsyncConnection.connect(books.admin_url) as connection:
        await connection.execute(
            f"SELECT FROM usage.{table} WHERE user_id = %s FOR UPDATE", (users[0],)
        )
        await books.ledger.sweep()
        assert [await books.used(user) for user in users] == [Balance(0, 2), Balance()]
    await books.ledger.sweep()
    assert await books.used(users[0]) == Balance()


async def test_receipts_are_forgotten_once_no_retry_comes(books: Books, user: uuid.UUID) -> None:
    """USE-2: what waits to be settled is kept however old it is."""
    settled, open_ = modify(user), modify(user, reservation=timedelta(days=30))
    await books.ledger.decide([settled, open_])
    await books.ledger.settle(user, settled.operation_id)
    books.now += LONGEST_RETRY
    await books.ledger.forget()
    assert (await books.claim(settled)).replayed
    books.now += timedelta(seconds=1)
    await books.ledger.forget()
    left = await books.asked("SELECT operation_id FROM usage.receipts WHERE user_id = %s", user)
    assert left == [(open_.operation_id,)]


async def test_forgetting_goes_on_while_others_count_and_waits_for_none(books: Books) -> None:
    """USE-2: replicas share it, a receipt that somebody holds is left, and the counts stay."""
    users = [uuid.uuid4() for _ in range(300)]
    claims = [modify(user, limits=Limits(), kind=Kind.QUERY) for user in users for _ in range(4)]
    await books.ledger.decide(claims)
    before = books.now
    books.now += LONGEST_RETRY + timedelta(seconds=1)
    async with await psycopg.AsyncConnection.connect(books.admin_url) as connection:
        await connection.execute(
            "SELECT FROM usage.receipts WHERE user_id = %s FOR UPDATE", (users[0],)
        )
        done = await asyncio.gather(
            books.ledger.forget(),
            books.ledger.forget(),
            *(books.claim(modify(user)) for user in users[:20]),
        )
        while count := await books.ledger.forget():
            done.append(count)
    forgotten = sum(each for each in done if isinstance(each, int))
    assert forgotten >= len(claims) - 4
    assert max(each for each in done if isinstance(each, int)) <= MOST_FORGOTTEN
    left = await books.asked(
        "SELECT user_id FROM usage.receipts WHERE claimed_at <= %s AND reserved_until IS NULL"
        " AND user_id = ANY (%s)",
        before,
        users,
    )
    assert left == [(users[0],)] * 4
    assert await books.used(users[0]) == Balance(4)


async def test_a_cool_down_is_neither_prolonged_nor_cut_short_by_a_race(books: Books) -> None:
    """USE-6: of many claims that overrun a window at once one starts it, for all."""
    user = uuid.uuid4()
    await books.ledger.decide([modify(user) for _ in range(30)])

    async def overrun(number: int, seconds: int) -> Any:
        at = NOON + timedelta(seconds=seconds)
        suspects = {user} if number % 2 else frozenset()
        (decided,) = await decided_by(books.strict, [modify(user)], at, suspects)
        return decided.decision

    overs = await asyncio.gather(*(overrun(number, 0) for number in range(10)))
    overs += await asyncio.gather(*(overrun(number, number) for number in range(10)))
    assert {each.until for each in overs} == {NOON + timedelta(minutes=15)}
    assert sum(each.started for each in overs) == 1


@pytest.mark.parametrize("table", ["usage_counters", "receipts", "users"])
async def test_rows_belong_to_their_user(
    books: Books, database: Any, user: uuid.UUID, table: str
) -> None:
    """ENT-5: in SQL, as the role that the service connects with; no caller, no row."""
    await books.claim(modify(user))
    await books.ledger.clear_cool_down(ITSELF, user)
    url = database.url_for("usage")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:

        async def done_as(user_id: object, roles: str, statement: str) -> int:
            for name, value in (("user_id", str(user_id)), ("roles", roles)):
                await connection.execute(
                    "SELECT set_config(%s, %s, false)", (f"gatehouse.{name}", value)
                )
            return (await connection.execute(statement, (user,))).rowcount

        read = f"SELECT FROM usage.{table} WHERE user_id = %s"
        write = f"UPDATE usage.{table} SET user_id = user_id WHERE user_id = %s"
        for who, roles, seen, written in (
            ("", "", 0, 0),
            ("usage", "", 0, 0),
            (uuid.uuid4(), "user,auditor", 0, 0),
            (user, "user", 1, 0),
            (uuid.uuid4(), "admin", 1, 1),
            ("usage", "service", 1, 1),
        ):
            assert await done_as(who, roles, read) == seen
            assert await done_as(who, roles, write) == written
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await done_as(
                user,
                "user",
                f"INSERT INTO usage.{table} SELECT * FROM usage.{table} WHERE user_id = %s",
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await done_as(user, "admin", "DELETE FROM usage.usage_counters WHERE user_id = %s")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(f"ALTER TABLE usage.{table} DISABLE ROW LEVEL SECURITY")


async def test_the_role_cannot_bypass_row_security(books: Books) -> None:
    """ENT-5: nor does it own a table."""
    rows = await books.asked(
        "SELECT relname, relrowsecurity AND relforcerowsecurity, pg_get_userbyid(relowner)"
        " FROM pg_class WHERE relnamespace = 'usage'::regnamespace AND relkind = 'r'"
        " AND relname <> 'schema_migrations'"
    )
    assert {row[0] for row in rows} == {"usage_counters", "receipts", "users"}
    assert all(row[1] and row[2] != "gatehouse_usage" for row in rows)
    ((super_, bypasses),) = await books.asked(
        "SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'gatehouse_usage'"
    )
    assert not super_
    assert not bypasses


@pytest.mark.parametrize("poison", [{"time_zone": "Nowhere/None"}, {"count": 2**40}])
async def test_what_breaks_on_one_claim_fails_that_one_alone(
    books: Books, valkey: Any, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """USE-2, USE-3: its neighbours in the batch are counted, once, and those after it as well."""
    async with open_valkey(valkey.url) as opened:
        meter = Meter(books.ledger, CoolDowns(opened, TELEMETRY.log), TELEMETRY)
        claims = [modify(uuid.uuid4()) for _ in range(4)]
        bad = modify(uuid.uuid4(), limits=Limits(), **poison)
        async with open_meter(meter, books.ledger, LOG, sweep_seconds=1000):
            answers = await asyncio.gather(
                *(meter.consume([each]) for each in (*claims[:2], bad, *claims[2:])),
                return_exceptions=True,
            )
            assert isinstance(answers[2], Internal)
            for claim in claims:
                ((again),) = await meter.consume([claim])
                assert again.replayed
                assert await books.used(claim.user_id) == Balance(0, 1)


async def test_a_meter_that_stopped_leaves_nobody_waiting(books: Books, valkey: Any) -> None:
    """USE-7: those who wait and those who come are told."""
    async with open_valkey(valkey.url) as opened:
        meter = Meter(books.ledger, CoolDowns(opened, TELEMETRY.log), TELEMETRY)
        async with open_meter(meter, books.ledger, LOG, sweep_seconds=1000):
            waiting = [asyncio.ensure_future(meter.consume([modify(uuid.uuid4())]))]
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await waiting[0]
        with pytest.raises(StoreUnavailable):
            await meter.consume([modify(uuid.uuid4())])


async def test_who_waits_does_not_wait_for_as_long_as_others_come(
    books: Books, valkey: Any
) -> None:
    """USE-7: a claim with each turn of the loop, and the first batch is begun all the same."""
    sizes: list[int] = []

    class Watched(CoolDowns):
        async def running(self, users: Collection[uuid.UUID]) -> set[uuid.UUID]:
            sizes.append(len(users))
            return await super().running(users)

    async with open_valkey(valkey.url) as opened:
        meter = Meter(books.ledger, Watched(opened, TELEMETRY.log), TELEMETRY)
        async with open_meter(meter, books.ledger, LOG, sweep_seconds=1000):
            asked = []
            for _ in range(3 * MOST_TURNS):
                asked.append(asyncio.ensure_future(meter.consume([modify(uuid.uuid4())])))
                await asyncio.sleep(0)
            await asyncio.gather(*asked)
    assert sum(sizes) == len(asked)
    assert 1 < sizes[0] <= MOST_TURNS + 1
