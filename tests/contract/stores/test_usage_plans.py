"""What a statement of usage reads does not grow with what was counted before (USE-9)."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from services.usage import statements
from services.usage.ledger import ITSELF, LONGEST_RETRY, MOST_FORGOTTEN, MOST_SWEPT
from services.usage.statements import array, arrays
from tests.conftest import Database
from tests.plans import grow, planning

USER = uuid.UUID(int=1)
OTHERS = [uuid.UUID(int=100 + number) for number in range(30)]
USERS = [USER, *OTHERS]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY = NOW.date()
KEY = (USER, uuid.UUID(int=7))
WINDOWS = {"query_window": timedelta(seconds=60), "modify_window": timedelta(minutes=10)}

# 34,000 receipts of one user in two days, 16,000 of others; 50,000 users and counters.
ID = "lpad(to_hex({}), 32, '0')::uuid"
FILL = [
    f"INSERT INTO usage.users (user_id) SELECT {ID.format('g')} FROM generate_series(1, 50000) g",
    f"""INSERT INTO usage.usage_counters (user_id, usage_date, read_count)
        SELECT {ID.format("g % 2000 + 1")}, DATE '2026-11-23' - g / 2000, 3
        FROM generate_series(0, 49999) g""",
    f"""INSERT INTO usage.receipts (user_id, operation_id, kind, usage_date, claimed, granted,
            claimed_at, reserved_until)
        SELECT CASE WHEN g <= 34000 THEN {ID.format("1")} ELSE {ID.format("100 + g % 9000")} END,
            {ID.format("g")}, CASE WHEN g % 2 = 0 THEN 'query' ELSE 'modify' END,
            DATE '2026-11-23', 1, 1,
            TIMESTAMPTZ '2026-11-23 12:00+00' - g * INTERVAL '5 s',
            CASE WHEN g % 5000 = 1 THEN TIMESTAMPTZ '2026-11-23 12:00+00' + g * INTERVAL '1 s' END
        FROM generate_series(1, 50000) g""",
]


def claims() -> dict[str, Any]:
    users, operations, days = arrays([(each, uuid.uuid4(), TODAY) for each in USERS], 3)
    return {"users": users, "operations": operations, "days": days, "at": NOW, **WINDOWS}


def decisions() -> dict[str, Any]:
    receipts = arrays(
        [(each, uuid.uuid4(), None, "query", TODAY, 1, 1, NOW, None, 0) for each in USERS], 10
    )
    changes = arrays([(each, 1, 0, TODAY, None, None) for each in USERS], 6)
    names = ["users", "operations", "clinics", "kinds", "days", "claimed", "granted"]
    names += ["claimed_at", "reserved", "attempts"]
    names += ["changed", "queries_added", "modifies_added", "last_days", "ends", "cool_down_kinds"]
    return {
        "at": NOW,
        "queries": 13,
        "modifies": 6,
        **dict(zip(names, [*receipts, *changes], strict=True)),
    }


ASKED: dict[str, Sequence[Any] | Mapping[str, Any]] = {
    "MAKE_USERS": (array(USERS),),
    "LOCK_FREE_USERS": (array(USERS),),
    "LOCK_USERS": (array(USERS),),
    "LOCK_USER": (USER,),
    "READ_CLAIMS": claims(),
    "WRITE_DECISIONS": decisions(),
    "ADOPT_GRANTS": arrays([(*KEY, 3)], 3),
    "CLEAR_COOL_DOWN": (USER, None),
    "READ_RECEIPT": KEY,
    "SETTLE": KEY,
    "CLOSE_RECEIPT": (1, False, True, 0, *KEY),
    "FENCE": (3, *KEY),
    "FENCE_UNKNOWN": (3, USER, uuid.UUID(int=999_999), None),
    "GIVE_BACK": (1, 0, USER, TODAY),
    "SET_COUNTS": (USER, TODAY, 1, 2),
    "READ_COUNTS": (USER, TODAY),
    "LIST_DAYS": (USER, date(2026, 1, 1), TODAY, 50),
    "FIND_LATE": (NOW + timedelta(hours=1), MOST_SWEPT),
    "LAPSE": (array(USERS), NOW + timedelta(hours=1)),
    "FORGET": (NOW, LONGEST_RETRY, MOST_FORGOTTEN),
}


@pytest.fixture(scope="module")
async def grown(database: Database) -> Database:
    await grow(database, *FILL)
    return database


def test_every_statement_is_asked_about() -> None:
    """USE-9: a new one comes into the list, or into the exceptions with its reason."""
    told = {name for name in vars(statements) if name.isupper()}
    # A list of columns; and what takes the locks of tables, and no row.
    assert told - {"RECEIPT", "TAKE_TABLES"} == ASKED.keys()


async def test_no_statement_reads_what_it_does_not_need(grown: Database) -> None:
    """USE-9: kind: a statement that reads more the longer a table grows."""
    async with planning(grown, "usage", ITSELF) as planner:
        found = {
            name: faults
            for name, values in ASKED.items()
            if (faults := await planner.faults(getattr(statements, name), values))
        }
    assert found == {}


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        # The clock moves on while the statement runs, so no index can be asked.
        (
            "SELECT FROM usage.receipts WHERE reserved_until <= clock_timestamp()",
            "reads all of",
        ),
        # Not leakproof on a column: a filter over all receipts of the user.
        (
            "SELECT FROM usage.receipts WHERE user_id = %s"
            " AND claimed_at - INTERVAL '60 s' > TIMESTAMPTZ '2026-11-23 11:59+00'",
            "throws away 34000 rows of receipts",
        ),
        ("SELECT count(*) FROM usage.receipts", "reads all of"),
    ],
)
async def test_a_statement_that_reads_too_much_is_found(
    grown: Database, statement: str, words: str
) -> None:
    """USE-9: as the service's role under its policies; a judge that finds nothing says nothing."""
    async with planning(grown, "usage", ITSELF) as planner:
        values = (USER,) * statement.count("%s")
        assert any(words in each for each in await planner.faults(statement, values))
