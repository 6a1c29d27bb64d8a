"""What the ledger says to Postgres."""

from collections.abc import Sequence
from typing import Any

# Everybody makes rows, in their order, before anybody locks any, in theirs: no two wait for each
# other, because a row that is not committed yet is waited for only by those who hold no lock.
MAKE_USERS = """
    INSERT INTO usage.users (user_id) SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING
"""
LOCK_USERS = """
    SELECT FROM usage.users WHERE user_id = ANY (%s::uuid[]) ORDER BY user_id FOR NO KEY UPDATE
"""
# No more are counted than the thresholds ask for, however many there are.
READ_DAYS = """
    SELECT moment.at, asked.user_id, asked.usage_date,
        coalesce(c.read_count, 0), coalesce(c.modify_count, 0),
        (SELECT count(*) FROM (SELECT FROM usage.receipts r
            WHERE r.user_id = asked.user_id AND r.kind = 'query'
            AND r.claimed_at > greatest(moment.at - %(query_window)s::interval, u.cleared_at)
            LIMIT %(queries)s) AS queries),
        (SELECT count(*) FROM (SELECT FROM usage.receipts r
            WHERE r.user_id = asked.user_id AND r.kind = 'modify'
            AND r.claimed_at > greatest(moment.at - %(modify_window)s::interval, u.cleared_at)
            LIMIT %(modifies)s) AS modifies),
        u.cool_down_until, u.cool_down_kind
    FROM unnest(%(users)s::uuid[], %(days)s::date[]) AS asked (user_id, usage_date)
    CROSS JOIN (SELECT coalesce(%(at)s::timestamptz, statement_timestamp()) AS at) AS moment
    LEFT JOIN usage.usage_counters c USING (user_id, usage_date)
    LEFT JOIN usage.users u USING (user_id)
"""
RECEIPT = """r.user_id, r.operation_id, r.kind, r.usage_date, r.claimed, r.granted, r.released,
    r.lapsed"""
READ_RECEIPTS = f"""
    SELECT {RECEIPT} FROM usage.receipts r
    JOIN unnest(%s::uuid[], %s::uuid[]) AS asked (user_id, operation_id)
    USING (user_id, operation_id)
"""  # noqa: S608  columns of ours
# The counters grow by what the receipts say that were written, so the two cannot differ.
ADD_UP = """
    INSERT INTO usage.usage_counters AS c (user_id, usage_date, read_count, modify_count)
    SELECT user_id, usage_date, coalesce(sum(granted) FILTER (WHERE kind = 'query'), 0),
        coalesce(sum(granted) FILTER (WHERE kind = 'modify'), 0)
    FROM counted GROUP BY user_id, usage_date HAVING sum(granted) > 0
    ON CONFLICT (user_id, usage_date) DO UPDATE SET
        read_count = c.read_count + excluded.read_count,
        modify_count = c.modify_count + excluded.modify_count
"""
WRITE_RECEIPTS = f"""
    WITH counted AS (
        INSERT INTO usage.receipts (claimed_at, user_id, operation_id, clinic_id, kind, usage_date,
            claimed, granted, reserved_until)
        SELECT %s::timestamptz, * FROM unnest(%s::uuid[], %s::uuid[], %s::uuid[], %s::text[],
            %s::date[], %s::int[], %s::int[], %s::timestamptz[])
        RETURNING user_id, usage_date, kind, granted)
    {ADD_UP}
"""  # noqa: S608  a statement of ours
REVIVE_RECEIPTS = f"""
    WITH counted AS (
        UPDATE usage.receipts r SET usage_date = again.usage_date, granted = again.granted,
            reserved_until = again.reserved_until, released = 0, lapsed = false
        FROM unnest(%s::uuid[], %s::uuid[], %s::date[], %s::int[], %s::timestamptz[])
            AS again (user_id, operation_id, usage_date, granted, reserved_until)
        WHERE r.user_id = again.user_id AND r.operation_id = again.operation_id
        RETURNING r.user_id, r.usage_date, r.kind, r.granted)
    {ADD_UP}
"""  # noqa: S608  a statement of ours
START_COOL_DOWNS = """
    UPDATE usage.users u SET cool_down_until = began.until, cool_down_kind = began.kind
    FROM unnest(%s::uuid[], %s::timestamptz[], %s::text[]) AS began (user_id, until, kind)
    WHERE u.user_id = began.user_id
"""
CLEAR_COOL_DOWN = """
    UPDATE usage.users
    SET cool_down_until = NULL, cleared_at = coalesce(%s::timestamptz, statement_timestamp())
    WHERE user_id = %s RETURNING old.cool_down_until, new.cleared_at
"""
READ_RECEIPT = f"""
    SELECT {RECEIPT} FROM usage.receipts r WHERE user_id = %s AND operation_id = %s
"""  # noqa: S608  columns of ours
SETTLE = """
    UPDATE usage.receipts SET reserved_until = NULL
    WHERE user_id = %s AND operation_id = %s AND NOT lapsed
"""
CLOSE_RECEIPT = """
    UPDATE usage.receipts SET released = %s, reserved_until = NULL, lapsed = false
    WHERE user_id = %s AND operation_id = %s
"""
GIVE_BACK = """
    UPDATE usage.usage_counters SET read_count = greatest(read_count - %s, 0),
        modify_count = greatest(modify_count - %s, 0)
    WHERE user_id = %s AND usage_date = %s RETURNING read_count, modify_count
"""
SET_COUNTS = """
    INSERT INTO usage.usage_counters (user_id, usage_date, read_count, modify_count)
    VALUES (%s, %s, %s, %s) ON CONFLICT (user_id, usage_date) DO UPDATE
    SET read_count = excluded.read_count, modify_count = excluded.modify_count
"""
READ_COUNTS = """
    SELECT read_count, modify_count FROM usage.usage_counters
    WHERE user_id = %s AND usage_date = %s
"""
LIST_DAYS = """
    SELECT usage_date, read_count, modify_count FROM usage.usage_counters
    WHERE user_id = %s AND usage_date BETWEEN %s AND %s AND (read_count, modify_count) <> (0, 0)
    ORDER BY usage_date DESC LIMIT %s
"""
FIND_LATE = """
    SELECT DISTINCT user_id FROM (SELECT user_id FROM usage.receipts
        WHERE reserved_until <= coalesce(%s, clock_timestamp())
        ORDER BY reserved_until LIMIT %s) AS late
"""
# Only modifies are reserved.
LAPSE = """
    WITH late AS (
        UPDATE usage.receipts SET released = granted, reserved_until = NULL, lapsed = true
        WHERE user_id = ANY (%s::uuid[]) AND reserved_until <= coalesce(%s, clock_timestamp())
        RETURNING user_id, usage_date, granted - old.released AS open),
    back AS (
        UPDATE usage.usage_counters c SET modify_count = greatest(c.modify_count - day.open, 0)
        FROM (SELECT user_id, usage_date, sum(open) AS open FROM late GROUP BY 1, 2) AS day
        WHERE c.user_id = day.user_id AND c.usage_date = day.usage_date)
    SELECT count(*) FROM late
"""
# Several replicas share the work, and nobody who counts is waited for or kept waiting.
FORGET = """
    DELETE FROM usage.receipts WHERE (user_id, operation_id) IN (
        SELECT user_id, operation_id FROM usage.receipts
        WHERE claimed_at < coalesce(%s, clock_timestamp()) - %s AND reserved_until IS NULL
        LIMIT %s FOR UPDATE SKIP LOCKED)
"""


def arrays(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows, of which there are some, as arrays in Postgres' words, one a column.

    Of values that need no escape: ids, numbers, times, names of ours. A third of the time that the
    driver takes for lists.
    """
    return [array(column) for column in zip(*rows, strict=True)]


def array(values: Sequence[Any]) -> str:
    written = ["NULL" if value is None else f'"{value}"' for value in values]
    return "{" + ",".join(written) + "}"
