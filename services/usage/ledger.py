"""Counters and receipts in Postgres: what was granted, once each, exactly (USE-2, USE-3, USE-7)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.runtime.identity import Caller
from services.runtime.postgres import Pool
from services.usage import quota
from services.usage.nouns import (
    Admission,
    Balance,
    Claim,
    Granted,
    Kind,
    OperationIdReused,
    OverLimit,
    OverWindow,
    Receipt,
    Thresholds,
)
from services.usage.windows import Past

SCHEMA = "usage"
VERSION = "20261123000300"

# As whom the service itself counts.
ITSELF = Caller(user_id=SCHEMA, clinic_id="", roles=frozenset({"service"}))

Day = tuple[UUID, date]
Key = tuple[UUID, UUID]
Decided = Admission | OperationIdReused


class Collided(Exception):
    """Another replica wrote the same receipt on another day at the same time: decide again."""


@dataclass
class Books:
    """What a batch of claims is decided on, and what the decisions come to."""

    balances: dict[Day, Balance]
    receipts: dict[Key, Receipt]
    added: dict[Day, Balance]
    written: list[tuple[Claim, Receipt]]


class Ledger:
    """The tables of counters, receipts and cool-downs. Every method raises StoreUnavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def decide(self, claims: Sequence[Claim], now: datetime) -> list[Decided]:
        """Decide *claims* in their order and count what is granted, all in one transaction.

        The counters of the days at stake are locked first, in one order for everybody, so nobody
        decides on a balance that another is changing. The answer stands once this returns.
        """
        while True:
            try:
                async with self._pool.transaction(ITSELF) as connection:
                    books = await open_books(connection, claims, now)
                    decided = [decide(claim, books, now) for claim in claims]
                    await close_books(connection, books, now)
                    return decided
            except Collided:
                continue

    async def receipts(self, claims: Sequence[Claim]) -> dict[Key, Receipt]:
        """The receipts of *claims* that were granted before."""
        async with self._pool.transaction(ITSELF) as connection:
            return await receipts_of(connection, claims)

    async def release(
        self, user_id: UUID, operation_id: UUID, count: int
    ) -> tuple[int, date, Balance] | None:
        """Give back *count* in all (0: everything) of what was granted under an id.

        Returns what is given back in all, the day and its balance; None where nothing was counted.
        """
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute(
                "SELECT kind, usage_date, granted, released FROM usage.receipts"
                " WHERE user_id = %s AND operation_id = %s FOR UPDATE",
                (user_id, operation_id),
            )
            row = await found.fetchone()
            if row is None:
                return None
            kind, day, granted, released = Kind(row[0]), row[1], row[2], row[3]
            target = max(min(count or granted, granted), released)
            await connection.execute(
                "UPDATE usage.receipts SET released = %s,"
                " reserved_until = CASE WHEN %s THEN NULL ELSE reserved_until END"
                " WHERE user_id = %s AND operation_id = %s",
                (target, target == granted, user_id, operation_id),
            )
            back = Balance().plus(kind, target - released)
            return target, day, await give_back(connection, user_id, day, back)

    async def settle(self, user_id: UUID, operation_id: UUID) -> None:
        """Say that what was granted under an id was carried out."""
        async with self._pool.transaction(ITSELF) as connection:
            await connection.execute(
                "UPDATE usage.receipts SET reserved_until = NULL"
                " WHERE user_id = %s AND operation_id = %s",
                (user_id, operation_id),
            )

    async def sweep(self, now: datetime) -> int:
        """Give back what was reserved until *now* and never settled; how many claims that were."""
        async with self._pool.transaction(ITSELF) as connection:
            found = await connection.execute(
                "WITH late AS (SELECT user_id, operation_id, usage_date, granted - released AS open"
                "   FROM usage.receipts WHERE reserved_until <= %s"
                "   ORDER BY user_id, operation_id LIMIT 500 FOR UPDATE SKIP LOCKED),"
                " settled AS (UPDATE usage.receipts r SET released = r.granted,"
                "   reserved_until = NULL FROM late"
                "   WHERE r.user_id = late.user_id AND r.operation_id = late.operation_id)"
                " SELECT user_id, usage_date, sum(open)::int, count(*)::int FROM late"
                " GROUP BY user_id, usage_date ORDER BY user_id, usage_date",
                (now,),
            )
            rows = await found.fetchall()
            for user_id, day, open_, _ in rows:
                await give_back(connection, user_id, day, Balance(0, open_))
            return sum(row[3] for row in rows)

    async def forget(self, before: datetime) -> int:
        """Delete settled receipts of claims older than *before*; no retry comes that late."""
        async with self._pool.transaction(ITSELF) as connection:
            done = await connection.execute(
                "DELETE FROM usage.receipts WHERE (user_id, operation_id) IN ("
                " SELECT user_id, operation_id FROM usage.receipts"
                " WHERE claimed_at < %s AND reserved_until IS NULL LIMIT 5000)",
                (before,),
            )
            return done.rowcount

    async def balance(self, caller: Caller, user_id: UUID, day: date) -> Balance:
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT read_count, modify_count FROM usage.usage_counters"
                " WHERE user_id = %s AND usage_date = %s",
                (user_id, day),
            )
            row = await found.fetchone()
        return Balance(*row) if row else Balance()

    async def days(
        self, caller: Caller, user_id: UUID, first: date, last: date, size: int
    ) -> list[tuple[date, Balance]]:
        """Days with usage from *first* to *last*, newest first."""
        async with self._pool.transaction(caller) as connection:
            found = await connection.execute(
                "SELECT usage_date, read_count, modify_count FROM usage.usage_counters"
                " WHERE user_id = %s AND usage_date BETWEEN %s AND %s"
                " ORDER BY usage_date DESC LIMIT %s",
                (user_id, first, last, size),
            )
            return [(row[0], Balance(row[1], row[2])) for row in await found.fetchall()]

    async def correct(
        self, caller: Caller, user_id: UUID, day: date, reads: int | None, modifies: int | None
    ) -> tuple[Balance, Balance]:
        """Set the counts of a day that are given; the balance before and after."""
        async with self._pool.transaction(caller) as connection:
            (before,) = (await lock_days(connection, [(user_id, day)])).values()
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

    async def pasts(
        self, users: Sequence[UUID], thresholds: Thresholds, now: datetime
    ) -> dict[UUID, Past]:
        """What the abuse windows of *users* are by their receipts (USE-7)."""
        since = now - max(thresholds.query_window, thresholds.modify_window)
        async with self._pool.transaction(ITSELF) as connection:
            cool_downs = await connection.execute(
                "SELECT user_id, until, cleared_at FROM usage.cool_downs WHERE user_id = ANY (%s)",
                (list(users),),
            )
            ends = {row[0]: (row[1], row[2]) for row in await cool_downs.fetchall()}
            receipts = await connection.execute(
                "SELECT user_id, kind, claimed_at, operation_id FROM usage.receipts"
                " WHERE user_id = ANY (%s) AND claimed_at > %s ORDER BY claimed_at",
                (list(users), since),
            )
            entries: dict[tuple[UUID, str], list[tuple[datetime, UUID]]] = defaultdict(list)
            for user_id, kind, claimed_at, operation_id in await receipts.fetchall():
                cleared = ends.get(user_id, (now, None))[1]
                if cleared is None or claimed_at > cleared:
                    entries[user_id, kind].append((claimed_at, operation_id))
        return {
            user_id: Past(
                entries[user_id, "query"],
                entries[user_id, "modify"],
                ends[user_id][0] if user_id in ends and ends[user_id][0] > now else None,
            )
            for user_id in users
        }

    async def start_cool_downs(self, started: Sequence[tuple[UUID, datetime]]) -> None:
        """Keep the ends of cool-downs, for when Valkey cannot tell."""
        async with self._pool.transaction(ITSELF) as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO usage.cool_downs (user_id, until) VALUES (%s, %s)"
                " ON CONFLICT (user_id) DO UPDATE SET until = excluded.until",
                sorted(started),
            )

    async def clear_cool_down(
        self, caller: Caller, user_id: UUID, now: datetime
    ) -> datetime | None:
        """End the cool-down, and let the windows begin anew; when it would have ended."""
        async with self._pool.transaction(caller) as connection:
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


async def open_books(
    connection: AsyncConnection[TupleRow], claims: Sequence[Claim], now: datetime
) -> Books:
    """Lock the days that *claims* count on, then read the receipts that they may have."""
    days = {
        (claim.user_id, quota.day_of(now, claim.time_zone))
        for claim in claims
        if not claim.validate_only
    }
    balances = await lock_days(connection, sorted(days))
    asked = {(each.user_id, quota.day_of(now, each.time_zone)) for each in claims} - days
    balances |= await read_days(connection, sorted(asked))
    return Books(balances, await receipts_of(connection, claims), {}, [])


def decide(claim: Claim, books: Books, now: datetime) -> Decided:
    """Decide one claim on *books*, and enter it."""
    day = quota.day_of(now, claim.time_zone)
    key, place = (claim.user_id, claim.operation_id), (claim.user_id, day)
    receipt = books.receipts.get(key)
    if receipt is not None:
        return replayed(claim, receipt, books.balances[place], day)
    decision = quota.decide(claim, books.balances[place], day)
    if isinstance(decision, Granted) and not claim.validate_only:
        entered = Receipt(
            claim.user_id, claim.operation_id, claim.kind, day, claim.count, decision.count
        )
        books.receipts[key] = entered
        books.written.append((claim, entered))
        books.balances[place] = books.balances[place].plus(claim.kind, decision.count)
        books.added[place] = books.added.get(place, Balance()).plus(claim.kind, decision.count)
    return admission(claim, decision, books.balances[place], day)


def replayed(claim: Claim, receipt: Receipt, balance: Balance, day: date) -> Decided:
    """The decision of then, with what is left now."""
    if not quota.is_same(claim, receipt):
        return OperationIdReused()
    decision = Granted(receipt.granted, receipt.usage_date)
    return admission(claim, decision, balance, day, replayed=True)


def admission(
    claim: Claim,
    decision: Granted | OverLimit | OverWindow,
    balance: Balance,
    day: date,
    *,
    replayed: bool = False,
) -> Admission:
    resets_at = quota.resets_at(day, claim.time_zone)
    return Admission(claim, decision, balance, resets_at, replayed)


async def close_books(connection: AsyncConnection[TupleRow], books: Books, now: datetime) -> None:
    """Write the receipts and add up the counters. Raises Collided for a receipt that is there."""
    if not books.written:
        return
    receipts = [
        (
            receipt.user_id,
            receipt.operation_id,
            claim.clinic_id,
            receipt.kind.value,
            receipt.usage_date,
            receipt.claimed,
            receipt.granted,
            now,
            reserved_until(claim, receipt, now),
        )
        for claim, receipt in books.written
    ]
    inserted = await connection.execute(
        "INSERT INTO usage.receipts (user_id, operation_id, clinic_id, kind, usage_date, claimed,"
        " granted, claimed_at, reserved_until)"
        " SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::date[],"
        " %s::int[], %s::int[], %s::timestamptz[], %s::timestamptz[])"
        " ON CONFLICT (user_id, operation_id) DO NOTHING",
        tuple(list(column) for column in zip(*receipts, strict=True)),
    )
    if inserted.rowcount != len(receipts):
        raise Collided
    if books.added:
        added = [
            (*place, more.read_count, more.modify_count) for place, more in books.added.items()
        ]
        await connection.execute(
            "UPDATE usage.usage_counters c SET read_count = c.read_count + more.reads,"
            " modify_count = c.modify_count + more.modifies"
            " FROM unnest(%s::uuid[], %s::date[], %s::int[], %s::int[])"
            " AS more (user_id, usage_date, reads, modifies)"
            " WHERE c.user_id = more.user_id AND c.usage_date = more.usage_date",
            tuple(list(column) for column in zip(*added, strict=True)),
        )


def reserved_until(claim: Claim, receipt: Receipt, now: datetime) -> datetime | None:
    """Queries are carried out by being admitted; modifies wait to be settled."""
    open_ = claim.kind is Kind.MODIFY and receipt.granted > 0
    return now + claim.reservation if open_ else None


async def lock_days(
    connection: AsyncConnection[TupleRow], days: Sequence[Day]
) -> dict[Day, Balance]:
    """Make the counters of *days* where there are none, lock them in their order, and read them."""
    if not days:
        return {}
    found = await connection.execute(
        "INSERT INTO usage.usage_counters AS c (user_id, usage_date)"
        " SELECT * FROM unnest(%s::uuid[], %s::date[])"
        " ON CONFLICT (user_id, usage_date) DO UPDATE SET read_count = c.read_count"
        " RETURNING user_id, usage_date, read_count, modify_count",
        ([day[0] for day in days], [day[1] for day in days]),
    )
    return {(row[0], row[1]): Balance(row[2], row[3]) for row in await found.fetchall()}


async def read_days(
    connection: AsyncConnection[TupleRow], days: Sequence[Day]
) -> dict[Day, Balance]:
    if not days:
        return {}
    found = await connection.execute(
        "SELECT user_id, usage_date, read_count, modify_count FROM usage.usage_counters"
        " JOIN unnest(%s::uuid[], %s::date[]) AS asked (user_id, usage_date)"
        " USING (user_id, usage_date)",
        ([day[0] for day in days], [day[1] for day in days]),
    )
    balances = dict.fromkeys(days, Balance())
    return balances | {(row[0], row[1]): Balance(row[2], row[3]) for row in await found.fetchall()}


async def receipts_of(
    connection: AsyncConnection[TupleRow], claims: Sequence[Claim]
) -> dict[Key, Receipt]:
    found = await connection.execute(
        "SELECT user_id, operation_id, kind, usage_date, claimed, granted FROM usage.receipts"
        " JOIN unnest(%s::uuid[], %s::uuid[]) AS asked (user_id, operation_id)"
        " USING (user_id, operation_id)",
        ([each.user_id for each in claims], [each.operation_id for each in claims]),
    )
    return {
        (row[0], row[1]): Receipt(row[0], row[1], Kind(row[2]), *row[3:])
        for row in await found.fetchall()
    }


async def give_back(
    connection: AsyncConnection[TupleRow], user_id: UUID, day: date, back: Balance
) -> Balance:
    """Take *back* off a day's counters, never below zero; the balance after it."""
    found = await connection.execute(
        "UPDATE usage.usage_counters SET read_count = greatest(read_count - %s, 0),"
        " modify_count = greatest(modify_count - %s, 0)"
        " WHERE user_id = %s AND usage_date = %s RETURNING read_count, modify_count",
        (back.read_count, back.modify_count, user_id, day),
    )
    row = await found.fetchone()
    return Balance(*row) if row else Balance()


LONGEST_RETRY = timedelta(days=2)
"""How long receipts are kept: a request's answer is replayed for 24 h (GAT-2), its claim longer."""
