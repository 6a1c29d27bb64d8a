"""Counters, receipts and cool-downs in Postgres: what is granted, once each, exactly.

Everything that changes a day's counts locks the day's row first and touches receipts after it, in
one order for everybody; so nobody decides on a balance that another is changing (USE-3, USE-7).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.runtime.failure import StoreUnavailable
from services.runtime.identity import Caller
from services.runtime.postgres import Pool
from services.usage import quota
from services.usage.books import Books, Day, Decided, days_of, decide, reserved_until
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    Kind,
    OverWindow,
    Receipt,
    Thresholds,
    Window,
)

SCHEMA = "usage"
VERSION = "20261123000300"

# As whom the service itself counts.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

LONGEST_RETRY = timedelta(days=2)
"""How long receipts are kept: a request's answer is replayed for 24 h (GAT-2), its claim longer."""
MOST_SWEPT = 500
DOUBT_SECONDS = 0.03
PROBE_SECONDS = 0.05

Connection = AsyncConnection[TupleRow]
T = TypeVar("T")

RECEIPT = "r.user_id, r.operation_id, r.kind, r.usage_date, r.claimed, r.granted, r.released"
READ_RECEIPTS = f"""
    SELECT {RECEIPT}, r.lapsed FROM usage.receipts r
    JOIN unnest(%s::uuid[], %s::uuid[]) AS asked (user_id, operation_id)
    USING (user_id, operation_id)
"""  # noqa: S608  columns of ours
READ_BALANCES = """
    SELECT user_id, usage_date, read_count, modify_count FROM usage.usage_counters
    JOIN unnest(%s::uuid[], %s::date[]) AS asked (user_id, usage_date) USING (user_id, usage_date)
"""
LOCK_DAYS = """
    INSERT INTO usage.usage_counters AS c (user_id, usage_date)
    SELECT * FROM unnest(%s::uuid[], %s::date[])
    ON CONFLICT (user_id, usage_date) DO UPDATE SET read_count = c.read_count
    RETURNING user_id, usage_date, read_count, modify_count
"""
# No more are counted than the thresholds ask for, however many there are.
READ_WINDOWS = """
    SELECT asked.user_id, c.until,
        (SELECT count(*) FROM (SELECT FROM usage.receipts r
            WHERE r.user_id = asked.user_id AND r.kind = 'query'
            AND r.claimed_at > greatest(%(queries_since)s, c.cleared_at)
            LIMIT %(queries)s) AS queries),
        (SELECT count(*) FROM (SELECT FROM usage.receipts r
            WHERE r.user_id = asked.user_id AND r.kind = 'modify'
            AND r.claimed_at > greatest(%(modifies_since)s, c.cleared_at)
            LIMIT %(modifies)s) AS modifies)
    FROM unnest(%(users)s::uuid[]) AS asked (user_id)
    LEFT JOIN usage.cool_downs c USING (user_id)
"""
WRITE_RECEIPTS = """
    INSERT INTO usage.receipts (user_id, operation_id, clinic_id, kind, usage_date, claimed,
        granted, claimed_at, reserved_until)
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::date[],
        %s::int[], %s::int[], %s::timestamptz[], %s::timestamptz[])
    ON CONFLICT (user_id, operation_id) DO NOTHING
"""
REVIVE_RECEIPTS = """
    UPDATE usage.receipts r SET usage_date = again.usage_date, granted = again.granted,
        reserved_until = again.reserved_until, released = 0, lapsed = false
    FROM unnest(%s::uuid[], %s::uuid[], %s::date[], %s::int[], %s::timestamptz[])
        AS again (user_id, operation_id, usage_date, granted, reserved_until)
    WHERE r.user_id = again.user_id AND r.operation_id = again.operation_id AND r.lapsed
"""
ADD_COUNTS = """
    UPDATE usage.usage_counters c SET read_count = c.read_count + more.reads,
        modify_count = c.modify_count + more.modifies
    FROM unnest(%s::uuid[], %s::date[], %s::int[], %s::int[])
        AS more (user_id, usage_date, reads, modifies)
    WHERE c.user_id = more.user_id AND c.usage_date = more.usage_date
"""
# One that runs is neither prolonged nor cut short by another that starts meanwhile (USE-6).
START_COOL_DOWNS = """
    INSERT INTO usage.cool_downs AS c (user_id, until)
    SELECT * FROM unnest(%(users)s::uuid[], %(ends)s::timestamptz[])
    ON CONFLICT (user_id) DO UPDATE SET until =
        CASE WHEN c.until > %(at)s THEN c.until ELSE excluded.until END
    RETURNING user_id, until
"""
FIND_LATE = """
    SELECT DISTINCT user_id, usage_date FROM (SELECT user_id, usage_date FROM usage.receipts
        WHERE reserved_until <= coalesce(%s, clock_timestamp())
        ORDER BY reserved_until LIMIT %s) AS late
    ORDER BY user_id, usage_date
"""
LAPSE = """
    UPDATE usage.receipts r SET released = r.granted, reserved_until = NULL, lapsed = true
    FROM unnest(%s::uuid[], %s::date[]) AS late (user_id, usage_date)
    WHERE r.user_id = late.user_id AND r.usage_date = late.usage_date
        AND r.reserved_until <= coalesce(%s, clock_timestamp())
    RETURNING r.user_id, r.usage_date, r.granted - old.released
"""
GIVE_BACK = """
    UPDATE usage.usage_counters SET read_count = greatest(read_count - %s, 0),
        modify_count = greatest(modify_count - %s, 0)
    WHERE user_id = %s AND usage_date = %s RETURNING read_count, modify_count
"""


class Collided(Exception):
    """Another replica wrote the same receipt under another day's lock: decide again."""


class Ledger:
    """The tables of counters, receipts and cool-downs. Every method raises StoreUnavailable.

    Once the store is known to be away every call is told so at once, also those that wait for a
    connection already, until it is back; `watch`, run as a task, finds out both by asking
    *reachable*. A *now* given takes the place of the store's clock.
    """

    def __init__(
        self,
        pool: Pool,
        thresholds: Thresholds,
        reachable: Callable[[], Awaitable[bool]],
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._pool = pool
        self._thresholds = thresholds
        self._reachable = reachable
        self._now = now
        self._away = False
        self._doubted = asyncio.Event()
        self._entering: set[asyncio.Timeout] = set()

    async def watch(self) -> None:
        """Ask after the store whenever there is doubt, for ever; run as a task."""
        while True:
            await self._doubted.wait()
            while not await self._reachable():
                self._away = True
                now = asyncio.get_running_loop().time()
                while self._entering:
                    self._entering.pop().reschedule(now)
                await asyncio.sleep(PROBE_SECONDS)
            self._away = False
            self._doubted.clear()
            await asyncio.sleep(PROBE_SECONDS)  # doubts under load are not worth more than that

    @asynccontextmanager
    async def _transaction(self, caller: Caller) -> AsyncIterator[Connection]:
        if self._away:
            raise StoreUnavailable("the counts cannot be kept at the moment")
        async with AsyncExitStack() as stack:
            try:
                connection = await self._entered(stack, caller)
                yield connection
            except StoreUnavailable:
                self._doubted.set()
                raise

    async def _entered(self, stack: AsyncExitStack, caller: Caller) -> Connection:
        """A transaction begun; the wait for it ends when the store is found to be away."""
        doubt = asyncio.get_running_loop().call_later(DOUBT_SECONDS, self._doubted.set)
        try:
            async with asyncio.timeout(None) as wait:
                self._entering.add(wait)
                try:
                    return await stack.enter_async_context(self._pool.transaction(caller))
                finally:
                    self._entering.discard(wait)
        except TimeoutError:
            raise StoreUnavailable("the store does not answer") from None
        finally:
            doubt.cancel()

    async def _repeated(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What *work* does in a transaction of its own, again where another came between."""
        while True:
            try:
                async with self._transaction(ITSELF) as connection:
                    return await work(connection)
            except (
                Collided,
                psycopg.errors.DeadlockDetected,
                psycopg.errors.SerializationFailure,
            ):
                continue

    async def decide(
        self,
        claims: Sequence[Claim],
        at: datetime | None = None,
        suspects: Collection[UUID] = frozenset(),
    ) -> tuple[list[Decided], Books]:
        """Decide *claims* in their order, count what is granted, in one transaction.

        The answers stand once this returns. *at* is when; the store's own time when not given.
        Claims of *suspects*, users who are likely in a cool-down, take no locks as long as they
        are refused.
        """
        now = at or (self._now() if self._now else None)

        async def work(connection: Connection) -> tuple[list[Decided] | None, Books]:
            moment = now or await time_of(connection)
            return await self._decided(connection, claims, moment, suspects)

        decided, books = await self._repeated(work)
        if decided is None:  # somebody is granted who was thought to be refused: that takes locks
            return await self.decide(claims, at)
        return decided, books

    async def _decided(
        self,
        connection: Connection,
        claims: Sequence[Claim],
        at: datetime,
        suspects: Collection[UUID],
    ) -> tuple[list[Decided] | None, Books]:
        locked = {each.user_id for each in claims if not each.validate_only} - set(suspects)
        books = await self._open_books(connection, claims, at, locked)
        decided = [decide(claim, books) for claim in claims]
        granted = {key[0] for key in (*books.written, *books.revived)}
        if not granted <= locked:
            return None, books
        await close_books(connection, books)
        if books.started:
            decided = with_actual_ends(decided, books, await start_cool_downs(connection, books))
        return decided, books

    async def _open_books(
        self, connection: Connection, claims: Sequence[Claim], at: datetime, locked: set[UUID]
    ) -> Books:
        """Lock the days that *locked* users' claims count on, then read all that is at stake."""
        counting = [each for each in claims if each.user_id in locked and not each.validate_only]
        locks = days_of(counting, at)
        others = sorted(set(days_of(claims, at)) - set(locks))
        async with connection.pipeline():
            cursors = [
                await connection.execute(LOCK_DAYS, columns(locks, 2)),
                await connection.execute(READ_BALANCES, columns(others, 2)),
                await connection.execute(
                    READ_RECEIPTS,
                    (
                        [each.user_id for each in claims],
                        [each.operation_id for each in claims],
                    ),
                ),
                await connection.execute(
                    READ_WINDOWS, self._window_question({each.user_id for each in claims}, at)
                ),
            ]
        balances = dict.fromkeys(others, Balance())
        for cursor in cursors[:2]:
            balances |= {(row[0], row[1]): Balance(row[2], row[3]) async for row in cursor}
        receipts = {(row[0], row[1]): receipt_of(row) async for row in cursors[2]}
        windows = {row[0]: window_of(row) async for row in cursors[3]}
        return Books(at, self._thresholds, balances, receipts, windows)

    def _window_question(self, users: Collection[UUID], at: datetime) -> dict[str, Any]:
        of = self._thresholds
        return {
            "users": list(users),
            "queries": of.queries,
            "queries_since": at - of.query_window,
            "modifies": of.modifies,
            "modifies_since": at - of.modify_window,
        }

    async def window(self, caller: Caller, user_id: UUID, at: datetime) -> Window:
        """How full the abuse windows of a user are."""
        async with self._transaction(caller) as connection:
            found = await connection.execute(READ_WINDOWS, self._window_question({user_id}, at))
            row = await found.fetchone()
        assert row is not None
        return window_of(row)

    async def release(
        self, user_id: UUID, operation_id: UUID, count: int
    ) -> tuple[int, date, Balance] | None:
        """Give back *count* in all (0: everything) of what was granted under an id.

        What is not given back stands from then on. Returns what is given back in all, the day and
        its balance; None where nothing was counted.
        """
        return await self._closed(
            user_id, operation_id, lambda receipt: quota.given_back(receipt, count)
        )

    async def settle(self, user_id: UUID, operation_id: UUID) -> None:
        """Say that what was granted under an id was carried out.

        What had lapsed before it was said counts again: it was carried out after all.
        """
        async with self._transaction(ITSELF) as connection:
            done = await connection.execute(
                "UPDATE usage.receipts SET reserved_until = NULL"
                " WHERE user_id = %s AND operation_id = %s AND NOT lapsed",
                (user_id, operation_id),
            )
        if not done.rowcount:
            await self._closed(
                user_id, operation_id, lambda each: 0 if each.lapsed else each.released
            )

    async def _closed(
        self, user_id: UUID, operation_id: UUID, released: Callable[[Receipt], int]
    ) -> tuple[int, date, Balance] | None:
        async def work(connection: Connection) -> tuple[int, date, Balance] | None:
            seen = await receipt_under(connection, user_id, operation_id)
            if seen is None:
                return None
            locked = await locked_days(connection, [(user_id, seen.usage_date)])
            receipt = await receipt_under(connection, user_id, operation_id, lock=True)
            if receipt is None or (user_id, receipt.usage_date) not in locked:
                raise Collided  # it was forgotten, or decided anew on another day, meanwhile
            target = released(receipt)
            await connection.execute(
                "UPDATE usage.receipts SET released = %s, reserved_until = NULL, lapsed = false"
                " WHERE user_id = %s AND operation_id = %s",
                (target, user_id, operation_id),
            )
            back = Balance().plus(receipt.kind, target - receipt.released)
            balance = await give_back(connection, (user_id, receipt.usage_date), back)
            return target, receipt.usage_date, balance

        return await self._repeated(work)

    async def sweep(self) -> int:
        """Give back what was reserved until now and never settled; how many claims that were."""
        now = self._now() if self._now else None
        swept = 0
        while True:

            async def work(connection: Connection) -> int:
                found = await connection.execute(FIND_LATE, (now, MOST_SWEPT))
                days: list[Day] = [(row[0], row[1]) for row in await found.fetchall()]
                await locked_days(connection, days)
                late = await connection.execute(LAPSE, (*columns(days, 2), now))
                rows = await late.fetchall()
                for user_id, day, open_ in sorted(rows):
                    await give_back(connection, (user_id, day), Balance(0, open_))
                return len(rows)

            count = await self._repeated(work)
            swept += count
            if count < MOST_SWEPT:
                return swept

    async def forget(self) -> int:
        """Delete what was closed so long ago that no retry of it comes any more."""
        now = self._now() if self._now else None
        async with self._transaction(ITSELF) as connection:
            done = await connection.execute(
                "DELETE FROM usage.receipts WHERE (user_id, operation_id) IN ("
                " SELECT user_id, operation_id FROM usage.receipts"
                " WHERE claimed_at < coalesce(%s, clock_timestamp()) - %s"
                " AND reserved_until IS NULL LIMIT 5000)",
                (now, LONGEST_RETRY),
            )
            return done.rowcount

    async def balance(self, caller: Caller, user_id: UUID, day: date) -> Balance:
        async with self._transaction(caller) as connection:
            found = await connection.execute(READ_BALANCES, ([user_id], [day]))
            row = await found.fetchone()
        return Balance(row[2], row[3]) if row else Balance()

    async def days(
        self, caller: Caller, user_id: UUID, first: date, last: date, size: int
    ) -> list[tuple[date, Balance]]:
        """Days with usage from *first* to *last*, newest first."""
        async with self._transaction(caller) as connection:
            found = await connection.execute(
                "SELECT usage_date, read_count, modify_count FROM usage.usage_counters"
                " WHERE user_id = %s AND usage_date BETWEEN %s AND %s"
                " AND (read_count, modify_count) <> (0, 0)"
                " ORDER BY usage_date DESC LIMIT %s",
                (user_id, first, last, size),
            )
            return [(row[0], Balance(row[1], row[2])) for row in await found.fetchall()]

    async def correct(
        self, caller: Caller, user_id: UUID, day: date, reads: int | None, modifies: int | None
    ) -> tuple[Balance, Balance]:
        """Set the counts of a day that are given; the balance before and after."""
        async with self._transaction(caller) as connection:
            found = await connection.execute(LOCK_DAYS, ([user_id], [day]))
            row = await found.fetchone()
            assert row is not None
            before = Balance(row[2], row[3])
            after = Balance(
                before.read_count if reads is None else reads,
                before.modify_count if modifies is None else modifies,
            )
            await connection.execute(
                "UPDATE usage.usage_counters SET read_count = %s, modify_count = %s"
                " WHERE user_id = %s AND usage_date = %s",
                (after.read_count, after.modify_count, user_id, day),
            )
            return before, after

    async def clear_cool_down(self, caller: Caller, user_id: UUID) -> datetime | None:
        """End the cool-down, and let the windows begin anew; when it would have ended."""
        async with self._transaction(caller) as connection:
            now = self._now() if self._now else await time_of(connection)
            found = await connection.execute(
                "SELECT until FROM usage.cool_downs WHERE user_id = %s FOR UPDATE", (user_id,)
            )
            row = await found.fetchone()
            await connection.execute(
                "INSERT INTO usage.cool_downs (user_id, until, cleared_at) VALUES (%s, %s, %s)"
                " ON CONFLICT (user_id) DO UPDATE"
                " SET until = excluded.until, cleared_at = excluded.cleared_at",
                (user_id, now, now),
            )
        return row[0] if row and row[0] > now else None


def columns(rows: Sequence[Sequence[Any]], width: int) -> tuple[list[Any], ...]:
    """Rows as arrays, one a column."""
    return tuple([row[place] for row in rows] for place in range(width))


async def time_of(connection: Connection) -> datetime:
    found = await connection.execute("SELECT clock_timestamp()")
    row = await found.fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def receipt_of(row: TupleRow) -> Receipt:
    return Receipt(row[0], row[1], Kind(row[2]), *row[3:])


def window_of(row: TupleRow) -> Window:
    return Window(queries=row[2], modifies=row[3], cool_down_until=row[1])


async def close_books(connection: Connection, books: Books) -> None:
    """Write the receipts and add up the counters.

    Raises Collided for a receipt that has come, or was decided, in the meantime.
    """
    fresh = [
        (
            *key,
            claim.clinic_id,
            receipt.kind.value,
            receipt.usage_date,
            receipt.claimed,
            receipt.granted,
            books.at,
            reserved_until(claim, receipt, books.at),
        )
        for key, (claim, receipt) in sorted(books.written.items(), key=lambda item: item[0])
    ]
    again = [
        (
            *key,
            receipt.usage_date,
            receipt.granted,
            reserved_until(claim, receipt, books.at),
        )
        for key, (claim, receipt) in sorted(books.revived.items(), key=lambda item: item[0])
    ]
    added = [(*place, more.read_count, more.modify_count) for place, more in books.added.items()]
    async with connection.pipeline():
        done = [
            (len(rows), await connection.execute(statement, columns(rows, len(rows[0]))))
            for statement, rows in ((WRITE_RECEIPTS, fresh), (REVIVE_RECEIPTS, again))
            if rows
        ]
        if added:
            await connection.execute(ADD_COUNTS, columns(added, 4))
    if any(cursor.rowcount != expected for expected, cursor in done):
        raise Collided


async def start_cool_downs(connection: Connection, books: Books) -> dict[UUID, datetime]:
    """Keep the cool-downs that began; when each ends, which one that began meanwhile decides."""
    started = sorted(books.started.items())
    found = await connection.execute(
        START_COOL_DOWNS,
        {
            "users": [each[0] for each in started],
            "ends": [each[1] for each in started],
            "at": books.at,
        },
    )
    return {row[0]: row[1] for row in await found.fetchall()}


def with_actual_ends(
    decided: Sequence[Decided], books: Books, ends: dict[UUID, datetime]
) -> list[Decided]:
    """The decisions, where another replica started the same user's cool-down a moment before."""
    earlier = {user: end for user, end in ends.items() if end != books.started[user]}
    books.started |= earlier

    def actual(each: Decided) -> Decided:
        if not isinstance(each, Admission) or not isinstance(each.decision, OverWindow):
            return each
        user_id = each.claim.user_id
        if user_id not in earlier or each.claim.validate_only:
            return each
        over = OverWindow(
            None, each.decision.limit, each.decision.window, earlier[user_id], started=False
        )
        return Admission(each.claim, over, each.balance, each.resets_at)

    return [actual(each) for each in decided]


async def receipt_under(
    connection: Connection, user_id: UUID, operation_id: UUID, *, lock: bool = False
) -> Receipt | None:
    found = await connection.execute(
        f"SELECT {RECEIPT}, r.lapsed FROM usage.receipts r"  # noqa: S608  columns of ours
        " WHERE user_id = %s AND operation_id = %s" + (" FOR UPDATE" if lock else ""),
        (user_id, operation_id),
    )
    row = await found.fetchone()
    return receipt_of(row) if row else None


async def locked_days(connection: Connection, days: Sequence[Day]) -> set[Day]:
    """Lock the counters of *days*, in their order."""
    found = await connection.execute(
        "SELECT c.user_id, c.usage_date FROM usage.usage_counters c"
        " JOIN unnest(%s::uuid[], %s::date[]) AS asked (user_id, usage_date)"
        " USING (user_id, usage_date) ORDER BY c.user_id, c.usage_date FOR UPDATE OF c",
        columns(days, 2),
    )
    return {(row[0], row[1]) for row in await found.fetchall()}


async def give_back(connection: Connection, place: Day, back: Balance) -> Balance:
    """Take *back* off a day's counters, never below zero; the balance after it."""
    found = await connection.execute(GIVE_BACK, (back.read_count, back.modify_count, *place))
    row = await found.fetchone()
    return Balance(*row) if row else Balance()
