"""Counters, receipts and cool-downs in Postgres: what is granted, once each, exactly.

Everything that changes something of a user's locks the user's row first, and reads what it decides
on after that; so nobody decides on what another is changing (USE-3, USE-7). Postgres' clock is the
only one that counts: what is decided is decided at a moment after the lock was had.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.runtime.failure import StoreBusy
from services.runtime.identity import Caller
from services.runtime.postgres import CALL, Pool
from services.runtime.postgres import Limits as Bounds
from services.usage import quota, statements
from services.usage.books import Books, Decided, Key, days_of, decide, reserved_until
from services.usage.failures import BusyUser
from services.usage.nouns import (
    Balance,
    Claim,
    Kind,
    Receipt,
    Thresholds,
    UserBusy,
    Window,
)
from services.usage.statements import array, arrays

SCHEMA = "usage"
VERSION = "20261130000300"

# As whom the service itself counts.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

LONGEST_RETRY = timedelta(days=2)
"""How long receipts are kept: a request's answer is replayed for 24 h (GAT-2), its claim longer."""
NO_OPERATION = UUID(int=0)
# Of a batch of decisions. Rows of users are skipped where they are held, so what it still waits for
# is held by somebody who hangs.
DECIDING = Bounds(lock=0.2)
# Of how many users a batch is in which one is looked for of whom a row is held.
APART = 8
MOST_SWEPT = 500
MOST_FORGOTTEN = 1000

Connection = AsyncConnection[TupleRow]
T = TypeVar("T")


class Held(Exception):
    """Another transaction has held a row for longer than this one waits."""


class AnotherDay(Exception):
    """It was of another day than had been guessed when the store said what time it was."""


@dataclass(frozen=True)
class Today:
    """A user's day and abuse windows at a moment."""

    at: datetime
    day: date
    balance: Balance
    window: Window


@dataclass
class Decisions:
    """Decisions on claims, in their order; of *absent* users, who have no row yet, UserBusy."""

    decided: list[Decided]
    books: Books
    absent: set[UUID]


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

    async def _repeated(
        self,
        work: Callable[[Connection], Awaitable[T]],
        caller: Caller = ITSELF,
        limits: Bounds = CALL,
    ) -> T:
        """What *work* does in a transaction of its own, again where something came between.

        Raises Held where another transaction holds a row for longer than *limits* say.
        """
        while True:
            try:
                async with self._pool.transaction(caller, limits) as connection:
                    with held_rows_told():
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
        *,
        wait: bool = False,
    ) -> tuple[list[Decided], Books]:
        """Decide *claims* in their order, count what is granted, in one transaction.

        The answers are committed once this returns. *at* is when; the store's own time when not
        given. Claims of *suspects*, users who are likely in a cool-down, take no locks as long as
        they are refused. Claims of a user of whom another transaction holds a row are UserBusy, and
        those of others are decided (USE-9); with *wait*, all wait for that row for a moment first.
        """
        counting = {each.user_id for each in claims if not each.validate_only}
        locked = counting - set(suspects)

        async def work(connection: Connection) -> Decisions | None:
            return await self._decided(connection, claims, at, locked, wait=wait)

        try:
            done = await self._repeated(work, ITSELF, DECIDING)
        except Held:
            return await self._decide_apart(claims, at, suspects)
        if done is None:  # something is to be written of a user who was thought to be refused
            return await self.decide(claims, at)
        if done.absent:
            await self._decide_absent(claims, at, done)
        return done.decided, done.books

    async def _decide_absent(
        self, claims: Sequence[Claim], at: datetime | None, done: Decisions
    ) -> None:
        """Make the rows of new users, and decide their claims in *done*."""
        made = await self._make_users(done.absent)
        for place, claim in enumerate(claims):
            if claim.user_id in done.absent:
                done.decided[place] = UserBusy(at_last=True)
        again = [place for place, claim in enumerate(claims) if claim.user_id in made]
        if again:
            decided, books = await self.decide([claims[place] for place in again], at)
            done.books.started |= books.started
            for place, each in zip(again, decided, strict=True):
                done.decided[place] = each

    async def _decide_apart(
        self, claims: Sequence[Claim], at: datetime | None, suspects: Collection[UUID]
    ) -> tuple[list[Decided], Books]:
        """Decide *claims* in smaller batches: another transaction holds a row of one of the users.

        It is not the row that is locked first, so it was not skipped. Alone, that user is busy.
        """
        books = Books(self._guess(), self._thresholds, {}, {}, {})
        found: dict[int, Decided] = dict.fromkeys(range(len(claims)), UserBusy(at_last=True))
        for part in apart({each.user_id for each in claims}):
            places = [place for place, each in enumerate(claims) if each.user_id in part]
            decided, theirs = await self.decide([claims[place] for place in places], at, suspects)
            found |= zip(places, decided, strict=True)
            books.started |= theirs.started
        return [found[place] for place in range(len(claims))], books

    async def _decided(
        self,
        connection: Connection,
        claims: Sequence[Claim],
        at: datetime | None,
        to_lock: set[UUID],
        *,
        wait: bool,
    ) -> Decisions | None:
        books, locked, absent = await self._open_books(connection, claims, at, to_lock, wait=wait)
        barred = to_lock - locked
        decided = [
            UserBusy() if claim.user_id in barred else decide(claim, books) for claim in claims
        ]
        if not books.touched <= locked:
            return None
        await close_books(connection, books)
        return Decisions(decided, books, barred & absent)

    async def _open_books(
        self,
        connection: Connection,
        claims: Sequence[Claim],
        at: datetime | None,
        to_lock: Collection[UUID],
        *,
        wait: bool,
    ) -> tuple[Books, set[UUID], set[UUID]]:
        """Lock users, then read all that is at stake for *claims*.

        Also returns which of *to_lock* could be locked, and which users have no row.
        """
        days = days_of(claims, at or self._guess())
        asked = arrays(
            [
                (each.user_id, each.operation_id, day)
                for each, day in zip(claims, days, strict=True)
            ],
            3,
        )
        async with connection.pipeline():
            if to_lock:
                users = (array(sorted(to_lock)),)
                lock = statements.LOCK_USERS if wait else statements.LOCK_FREE_USERS
                locking = await connection.execute(lock, users)
            found = await connection.execute(statements.READ_CLAIMS, self._question(asked, at))
        locked = {row[0] for row in await locking.fetchall()} if to_lock else set()
        rows = await found.fetchall()
        moment = self._noted(rows[0][0])
        if days_of(claims, moment) != days:
            raise AnotherDay
        books = Books(moment, self._thresholds, {}, {}, {})
        for row in rows:
            read_into(books, row)
        return books, locked, {row[1] for row in rows if not row[8]}

    async def _make_users(self, users: Collection[UUID]) -> set[UUID]:
        """Make rows of *users*; those that have one then.

        All but those whom another transaction is making and does not go on.
        """
        try:
            await self._pool.once(
                ITSELF, statements.MAKE_USERS, (array(sorted(users)),), limits=DECIDING
            )
        except StoreBusy:
            return {each for part in apart(users) for each in await self._make_users(part)}
        return set(users)

    def _guess(self) -> datetime:
        """About what the store will say that the time is."""
        return self._now() if self._now else self._here() + self._ahead

    def _noted(self, moment: datetime) -> datetime:
        """*moment*, which the store has just said, remembered for the next guess."""
        self._ahead = moment - self._here()
        return moment

    def _question(self, asked: Sequence[str], at: datetime | None) -> dict[str, Any]:
        users, operations, days = asked
        return {
            "users": users,
            "operations": operations,
            "days": days,
            "at": at or (self._now() if self._now else None),
            "query_window": self._thresholds.query_window,
            "modify_window": self._thresholds.modify_window,
        }

    async def today(self, caller: Caller, user_id: UUID, time_zone: str) -> Today:
        """What a user has used of the running day in a zone, and how full the windows are."""

        async def work(connection: Connection) -> Today:
            day = quota.day_of(self._guess(), time_zone)
            question = self._question(arrays([(user_id, NO_OPERATION, day)], 3), None)
            row = await (await connection.execute(statements.READ_CLAIMS, question)).fetchone()
            assert row is not None
            moment = self._noted(row[0])
            if quota.day_of(moment, time_zone) != day:
                raise AnotherDay
            books = Books(moment, self._thresholds, {}, {}, {})
            read_into(books, row)
            day = quota.day_after(books.last_days.get(user_id), day, moment)
            return Today(moment, day, books.balances[user_id, day], books.windows[user_id])

        return await self._repeated(work, caller)

    async def release(
        self, user_id: UUID, operation_id: UUID, count: int, attempt: int = 0
    ) -> tuple[int, date, Balance] | None:
        """Give back *count* in all (0: everything) of what was granted under an id, by *attempt*.

        What is not given back stands from then on. Returns what is given back in all, the day and
        its balance; None where nothing was counted. An unknown id is fenced up to *attempt*.
        """

        async def work(connection: Connection) -> tuple[int, date, Balance] | None:
            key = (user_id, operation_id)
            receipt = await read_receipt(connection, key)
            if receipt is None:
                if attempt:
                    await connection.execute(
                        statements.FENCE_UNKNOWN, (attempt, *key, self._now and self._now())
                    )
                return None
            after = quota.released(receipt, count, attempt)
            return await close_receipt(connection, key, receipt, after)

        return await self._with_user(user_id, work)

    async def settle(self, user_id: UUID, operation_id: UUID) -> int:
        """Say that what was granted under an id was carried out; how many stand.

        What had lapsed before it was said counts again: it was carried out after all.
        """
        key = (user_id, operation_id)

        async def work(connection: Connection) -> int:
            done = await connection.execute(statements.SETTLE, key)
            if row := await done.fetchone():
                return int(row[0])
            await connection.execute(statements.LOCK_USER, (user_id,))
            receipt = await read_receipt(connection, key)
            if receipt is None:
                return 0
            after = quota.settled(receipt)
            await close_receipt(connection, key, receipt, after)
            return after.counted

        return await self._of_user(work)

    async def _with_user(
        self, user_id: UUID, work: Callable[[Connection], Awaitable[T]], caller: Caller = ITSELF
    ) -> T:
        """What *work* does with the user's row locked, which is made where there is none."""

        async def locking(connection: Connection) -> tuple[T] | None:
            found = await connection.execute(statements.LOCK_USER, (user_id,))
            if await found.fetchone() is None:
                return None
            return (await work(connection),)

        done = await self._of_user(locking, caller)
        if done is None:
            if not await self._make_users([user_id]):
                raise BusyUser
            return await self._with_user(user_id, work, caller)
        return done[0]

    async def _of_user(
        self, work: Callable[[Connection], Awaitable[T]], caller: Caller = ITSELF
    ) -> T:
        """What *work* does to one user. Raises BusyUser where others hold what is the user's."""
        try:
            return await self._repeated(work, caller)
        except Held:
            raise BusyUser from None

    async def sweep(self) -> int:
        """Give back what was reserved until now and never settled; how many claims that were.

        Those of users of whom another transaction holds a row are left for the next time.
        """
        swept = 0
        while found := await self._find_late():
            count = await self._lapse(*found)
            swept += count
            if not count:
                break
        return swept

    async def _find_late(self) -> tuple[set[UUID], datetime] | None:
        """Some users with claims that are late, and until when the latest was reserved."""
        now = self._now() if self._now else None
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute(statements.FIND_LATE, (now, MOST_SWEPT))
            row = await found.fetchone()
        assert row is not None
        return (set(row[1]), row[0]) if row[1] else None

    async def _lapse(self, late: set[UUID], until: datetime) -> int:
        async def work(connection: Connection) -> int:
            found = await connection.execute(statements.LOCK_FREE_USERS, (array(sorted(late)),))
            users = array([row[0] for row in await found.fetchall()])
            row = await (await connection.execute(statements.LAPSE, (users, until))).fetchone()
            assert row is not None
            return int(row[0])

        try:
            return await self._repeated(work, ITSELF, DECIDING)
        except Held:
            return sum([await self._lapse(part, until) for part in apart(late)])

    async def check_writes(self) -> bool:
        """Whether claims could be counted, as far as tables go; for the service's health.

        Raises StoreBusy where somebody holds one of them locked.
        """
        return await self._pool.lets_write(ITSELF, *statements.TAKE_TABLES)

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
            before = await balance_of(connection, user_id, day)
            after = Balance(
                before.read_count if reads is None else reads,
                before.modify_count if modifies is None else modifies,
            )
            await connection.execute(
                statements.SET_COUNTS, (user_id, day, after.read_count, after.modify_count)
            )
            return before, after

        return await self._with_user(user_id, work, caller)

    async def clear_cool_down(self, caller: Caller, user_id: UUID) -> datetime | None:
        """End the cool-down, and let the windows begin anew; when it would have ended."""
        now = self._now() if self._now else None

        async def work(connection: Connection) -> TupleRow:
            found = await connection.execute(statements.CLEAR_COOL_DOWN, (user_id, now))
            row = await found.fetchone()
            assert row is not None
            return row

        until, at = await self._with_user(user_id, work, caller)
        if until is None or until <= at:
            return None
        ended: datetime = min(until, at + self._thresholds.cool_down)
        return ended


def apart(users: Collection[UUID]) -> list[set[UUID]]:
    """*users* in smaller groups, to find the one who is in the way; none of one user alone."""
    ordered, size = sorted(users), APART if len(users) > APART else 1
    if len(ordered) == 1:
        return []
    return [set(ordered[place : place + size]) for place in range(0, len(ordered), size)]


@contextmanager
def held_rows_told() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.LockNotAvailable:
        raise Held from None


async def balance_of(connection: Connection, user_id: UUID, day: date) -> Balance:
    found = await connection.execute(statements.READ_COUNTS, (user_id, day))
    row = await found.fetchone()
    return Balance(*row) if row else Balance()


def read_into(books: Books, row: TupleRow) -> None:
    """Enter what READ_CLAIMS says of one claim."""
    user_id, operation_id, day, last_day = row[1], row[2], row[3], row[9]
    books.balances[user_id, day] = Balance(row[4], row[5])
    queries, modifies, until, kind = row[10:14]
    if row[8]:
        kind = Kind(kind) if kind else None
        window = Window(queries, modifies, until, kind)
        books.windows[user_id] = window.believed(books.at, books.thresholds)
    else:
        books.windows[user_id] = Window()
    if last_day is not None:
        books.last_days[user_id] = last_day
        books.balances[user_id, last_day] = Balance(row[6], row[7])
    if row[17] is not None:
        books.receipts[user_id, operation_id] = receipt_of(row[15:], in_window=row[14])


def receipt_of(row: Sequence[Any], *, in_window: bool = False) -> Receipt:
    """The receipt in the columns RECEIPT."""
    receipt = Receipt(Kind(row[0]) if row[0] else None, *row[1:])
    return replace(receipt, in_window=True) if in_window else receipt


async def read_receipt(connection: Connection, key: Key) -> Receipt | None:
    found = await connection.execute(statements.READ_RECEIPT, key)
    row = await found.fetchone()
    return None if row is None else receipt_of(row)


async def close_receipt(
    connection: Connection, key: Key, before: Receipt, after: Receipt
) -> tuple[int, date, Balance] | None:
    """Write *after* in place of *before*, and give back what no longer counts.

    Returns what is released in all, the day and its balance; None where nothing was ever granted.
    """
    fence = after.released_attempt
    if after != replace(before, released_attempt=fence):
        written = (after.released, after.lapsed, after.revoked, fence)
        await connection.execute(statements.CLOSE_RECEIPT, (*written, *key))
    elif after != before:
        await connection.execute(statements.FENCE, (fence, *key))
    if after.kind is None or after.usage_date is None:
        return None
    back = Balance().plus(after.kind, before.counted - after.counted)
    place = (key[0], after.usage_date)
    found = await connection.execute(
        statements.GIVE_BACK, (back.read_count, back.modify_count, *place)
    )
    row = await found.fetchone()
    return after.released, after.usage_date, Balance(*row) if row else Balance()


async def close_books(connection: Connection, books: Books) -> None:
    """Write the receipts, add them up in the counters, and keep what changed of the users."""
    if books.written or books.changes:
        await connection.execute(statements.WRITE_DECISIONS, written_in(books))
    if books.adopted:
        adopted = [(*key, attempt) for key, attempt in books.adopted.items()]
        await connection.execute(statements.ADOPT_GRANTS, arrays(adopted, 3))


RECEIPT_COLUMNS = (
    *("users", "operations", "clinics", "kinds", "days", "claimed", "granted"),
    *("claimed_at", "reserved", "attempts"),
)
CHANGE_COLUMNS = (
    *("changed", "queries_added", "modifies_added", "last_days", "ends", "cool_down_kinds"),
)


def written_in(books: Books) -> dict[str, Any]:
    """What WRITE_DECISIONS writes of *books*."""
    receipts = [
        (
            *key,
            claim.clinic_id,
            claim.kind.value,
            receipt.usage_date,
            receipt.claimed,
            receipt.granted,
            receipt.claimed_at,
            reserved_until(claim, receipt, books.at),
            receipt.attempt,
        )
        for key, (claim, receipt) in books.written.items()
    ]
    changes = [
        (
            user_id,
            each.queries,
            each.modifies,
            each.usage_date,
            each.cool_down_until,
            each.cool_down_kind and each.cool_down_kind.value,
        )
        for user_id, each in books.changes.items()
    ]
    of = books.thresholds
    return {
        "at": books.at,
        # One more than the threshold shows that a window was overrun.
        "queries": of.queries + 1,
        "modifies": of.modifies + 1,
        **dict(zip(RECEIPT_COLUMNS, arrays(receipts, len(RECEIPT_COLUMNS)), strict=True)),
        **dict(zip(CHANGE_COLUMNS, arrays(changes, len(CHANGE_COLUMNS)), strict=True)),
    }
