"""Counters, receipts and cool-downs in Postgres: what is granted, once each, exactly.

Everything that changes something of a user's locks the user's row first, and reads what it decides
on after that; so nobody decides on what another is changing (USE-3, USE-7). Postgres' clock is the
only one that counts: what is decided is decided at a moment after the lock was had.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.runtime.identity import Caller
from services.runtime.postgres import Pool
from services.usage import quota, statements
from services.usage.books import Books, Day, Decided, days_of, decide, reserved_until
from services.usage.nouns import Balance, Claim, Kind, Receipt, Thresholds, Window
from services.usage.statements import array, arrays

SCHEMA = "usage"
VERSION = "20261123000300"

# As whom the service itself counts.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

LONGEST_RETRY = timedelta(days=2)
"""How long receipts are kept: a request's answer is replayed for 24 h (GAT-2), its claim longer."""
MOST_SWEPT = 500
MOST_FORGOTTEN = 1000

Connection = AsyncConnection[TupleRow]
T = TypeVar("T")


class AnotherDay(Exception):
    """It was of another day than had been guessed when the store said what time it was."""


@dataclass(frozen=True)
class Today:
    """A user's day and abuse windows at a moment."""

    at: datetime
    day: date
    balance: Balance
    window: Window


def utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """The tables of users, counters and receipts. Every method raises StoreUnavailable.

    A *now* given takes the place of the store's clock. *here* is this machine's, which
    is trusted with nothing but a guess of what day the store will say it is.
    """

    def __init__(
        self,
        pool: Pool,
        thresholds: Thresholds,
        now: Callable[[], datetime] | None = None,
        here: Callable[[], datetime] = utc_now,
    ) -> None:
        self._pool = pool
        self._thresholds = thresholds
        self._now = now
        self._here = here
        self._ahead = timedelta(0)

    async def _repeated(self, work: Callable[[Connection], Awaitable[T]], caller: Caller) -> T:
        """What *work* does in a transaction of its own, again where something came between."""
        while True:
            try:
                async with self._pool.transaction(caller) as connection:
                    return await work(connection)
            except (
                AnotherDay,
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
        counting = {each.user_id for each in claims if not each.validate_only}
        locked = counting - set(suspects)

        async def work(connection: Connection) -> tuple[list[Decided], Books] | None:
            return await self._decided(connection, claims, at, locked)

        done = await self._repeated(work, ITSELF)
        if done is None:  # something is to be written of a user who was thought to be refused
            return await self.decide(claims, at)
        return done

    async def _decided(
        self,
        connection: Connection,
        claims: Sequence[Claim],
        at: datetime | None,
        locked: set[UUID],
    ) -> tuple[list[Decided], Books] | None:
        books = await self._open_books(connection, claims, at, locked)
        decided = [decide(claim, books) for claim in claims]
        written = {key[0] for key in (*books.written, *books.revived)}
        if not written | books.started.keys() <= locked:
            return None
        await close_books(connection, books)
        return decided, books

    async def _open_books(
        self,
        connection: Connection,
        claims: Sequence[Claim],
        at: datetime | None,
        locked: Collection[UUID],
    ) -> Books:
        """Lock the *locked* users, then read all that is at stake for *claims*."""
        days = days_of(claims, at or self._guess())
        asked = array([each.user_id for each in claims]), array([x.operation_id for x in claims])
        async with connection.pipeline():
            if locked:
                await lock(connection, locked)
            found = await connection.execute(statements.READ_DAYS, self._question(days, at))
            receipts = await connection.execute(statements.READ_RECEIPTS, asked)
        rows = await found.fetchall()
        moment = self._noted(rows[0][0])
        if days_of(claims, moment) != days:
            raise AnotherDay
        return Books(
            moment,
            self._thresholds,
            {(row[1], row[2]): Balance(row[3], row[4]) for row in rows},
            {(row[0], row[1]): receipt_of(row) for row in await receipts.fetchall()},
            {row[1]: window_of(row) for row in rows},
        )

    def _guess(self) -> datetime:
        """About what the store will say that the time is."""
        return self._now() if self._now else self._here() + self._ahead

    def _noted(self, moment: datetime) -> datetime:
        """*moment*, which the store has just said, remembered for the next guess."""
        self._ahead = moment - self._here()
        return moment

    def _question(self, days: Sequence[Day], at: datetime | None) -> dict[str, Any]:
        of = self._thresholds
        users, dates = arrays(days)
        return {
            "users": users,
            "days": dates,
            "at": at or (self._now() if self._now else None),
            "queries": of.queries,
            "query_window": of.query_window,
            "modifies": of.modifies,
            "modify_window": of.modify_window,
        }

    async def today(self, caller: Caller, user_id: UUID, time_zone: str) -> Today:
        """What a user has used of the running day in a zone, and how full the windows are."""

        async def work(connection: Connection) -> Today:
            day = quota.day_of(self._guess(), time_zone)
            question = self._question([(user_id, day)], None)
            row = await (await connection.execute(statements.READ_DAYS, question)).fetchone()
            assert row is not None
            if quota.day_of(self._noted(row[0]), time_zone) != day:
                raise AnotherDay
            return Today(row[0], day, Balance(row[3], row[4]), window_of(row))

        return await self._repeated(work, caller)

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
        async with self._pool.transaction(ITSELF) as connection:
            done = await connection.execute(statements.SETTLE, (user_id, operation_id))
        if not done.rowcount:
            await self._closed(
                user_id, operation_id, lambda each: 0 if each.lapsed else each.released
            )

    async def _closed(
        self, user_id: UUID, operation_id: UUID, released: Callable[[Receipt], int]
    ) -> tuple[int, date, Balance] | None:
        async def work(connection: Connection) -> tuple[int, date, Balance] | None:
            async with connection.pipeline():
                await connection.execute(statements.LOCK_USERS, (array([user_id]),))
                found = await connection.execute(statements.READ_RECEIPT, (user_id, operation_id))
            row = await found.fetchone()
            if row is None:
                return None
            receipt = receipt_of(row)
            target = released(receipt)
            back = Balance().plus(receipt.kind, target - receipt.released)
            place = (user_id, receipt.usage_date)
            async with connection.pipeline():
                await connection.execute(statements.CLOSE_RECEIPT, (target, user_id, operation_id))
                found = await connection.execute(
                    statements.GIVE_BACK, (back.read_count, back.modify_count, *place)
                )
            row = await found.fetchone()
            return target, receipt.usage_date, Balance(*row) if row else Balance()

        return await self._repeated(work, ITSELF)

    async def sweep(self) -> int:
        """Give back what was reserved until now and never settled; how many claims that were."""
        now = self._now() if self._now else None

        async def work(connection: Connection) -> int:
            found = await connection.execute(statements.FIND_LATE, (now, MOST_SWEPT))
            users = array([row[0] for row in await found.fetchall()])
            await connection.execute(statements.LOCK_USERS, (users,))
            row = await (await connection.execute(statements.LAPSE, (users, now))).fetchone()
            assert row is not None
            return int(row[0])

        swept = 0
        while count := await self._repeated(work, ITSELF):
            swept += count
        return swept

    async def forget(self) -> int:
        """Delete some of what was closed so long ago that no retry of it comes any more.

        Returns how many; MOST_FORGOTTEN where there may be more.
        """
        now = self._now() if self._now else None
        async with self._pool.transaction(ITSELF) as connection:
            done = await connection.execute(statements.FORGET, (now, LONGEST_RETRY, MOST_FORGOTTEN))
            return done.rowcount

    async def days(
        self, caller: Caller, user_id: UUID, first: date, last: date, size: int
    ) -> list[tuple[date, Balance]]:
        """Days with usage from *first* to *last*, newest first."""
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(statements.LIST_DAYS, (user_id, first, last, size))
            return [(row[0], Balance(row[1], row[2])) for row in await found.fetchall()]

    async def correct(
        self, caller: Caller, user_id: UUID, day: date, reads: int | None, modifies: int | None
    ) -> tuple[Balance, Balance]:
        """Set the counts of a day that are given; the balance before and after."""

        async def work(connection: Connection) -> tuple[Balance, Balance]:
            await lock(connection, [user_id])
            before = await balance_of(connection, user_id, day)
            after = Balance(
                before.read_count if reads is None else reads,
                before.modify_count if modifies is None else modifies,
            )
            await connection.execute(
                statements.SET_COUNTS, (user_id, day, after.read_count, after.modify_count)
            )
            return before, after

        return await self._repeated(work, caller)

    async def clear_cool_down(self, caller: Caller, user_id: UUID) -> datetime | None:
        """End the cool-down, and let the windows begin anew; when it would have ended."""
        now = self._now() if self._now else None

        async def work(connection: Connection) -> TupleRow:
            await lock(connection, [user_id])
            found = await connection.execute(statements.CLEAR_COOL_DOWN, (now, user_id))
            row = await found.fetchone()
            assert row is not None
            return row

        until, at = await self._repeated(work, caller)
        return until if until is not None and until > at else None


async def lock(connection: Connection, users: Collection[UUID]) -> None:
    """Have the rows of *users* for this transaction, also of those who are new."""
    asked = (array(sorted(users)),)
    await connection.execute(statements.MAKE_USERS, asked)
    await connection.execute(statements.LOCK_USERS, asked)


async def balance_of(connection: Connection, user_id: UUID, day: date) -> Balance:
    found = await connection.execute(statements.READ_COUNTS, (user_id, day))
    row = await found.fetchone()
    return Balance(*row) if row else Balance()


def window_of(row: TupleRow) -> Window:
    queries, modifies, until, kind = row[5:]
    return Window(queries, modifies, until, Kind(kind) if kind else None)


def receipt_of(row: TupleRow) -> Receipt:
    return Receipt(row[0], row[1], Kind(row[2]), *row[3:])


async def close_books(connection: Connection, books: Books) -> None:
    """Write the receipts, add them up in the counters, and keep the cool-downs that began."""
    fresh = [
        (
            *key,
            claim.clinic_id,
            receipt.kind.value,
            receipt.usage_date,
            receipt.claimed,
            receipt.granted,
            reserved_until(claim, receipt, books.at),
        )
        for key, (claim, receipt) in books.written.items()
    ]
    again = [
        (*key, receipt.usage_date, receipt.granted, reserved_until(claim, receipt, books.at))
        for key, (claim, receipt) in books.revived.items()
    ]
    async with connection.pipeline():
        if fresh:
            await connection.execute(statements.WRITE_RECEIPTS, (books.at, *arrays(fresh)))
        if again:
            await connection.execute(statements.REVIVE_RECEIPTS, arrays(again))
        if books.started:
            began = arrays(
                [(user, each.until, each.kind.value) for user, each in books.started.items()]
            )
            await connection.execute(statements.START_COOL_DOWNS, began)
