"""What the ledger says to Postgres."""

from collections.abc import Sequence
from typing import Any

# A transaction of its own, which Postgres commits without waiting for its client: whoever makes the
# same rows waits for those that are not committed yet (USE-9).
MAKE_USERS = """
    INSERT INTO usage.users (user_id) SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING
"""
# A user whose row another transaction holds is left out, so that nobody else waits for it (USE-9).
LOCK_FREE_USERS = """
    SELECT user_id FROM usage.users WHERE user_id = ANY (%s::uuid[])
    ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED
"""
LOCK_USERS = """
    SELECT user_id FROM usage.users WHERE user_id = ANY (%s::uuid[])
    ORDER BY user_id FOR NO KEY UPDATE
"""
LOCK_USER = "SELECT user_id FROM usage.users WHERE user_id = %s FOR NO KEY UPDATE"
RECEIPT = """r.kind, r.usage_date, r.claimed, r.granted, r.released, r.lapsed, r.revoked,
        r.attempt, r.released_attempt, r.claimed_at"""
# One row a claim. A window's entries are in their order, so one binary search counts them. Of a
# receipt it is said whether the entry that it made is still in its window.
READ_CLAIMS = f"""
    SELECT moment.at, asked.user_id, asked.operation_id, asked.usage_date,
        coalesce(c.read_count, 0), coalesce(c.modify_count, 0),
        coalesce(l.read_count, 0), coalesce(l.modify_count, 0),
        u.user_id IS NOT NULL, u.last_usage_date,
        cardinality(u.last_queries_timestamps) - width_bucket(
            moment.at - %(query_window)s::interval, u.last_queries_timestamps),
        cardinality(u.last_modifies_timestamps) - width_bucket(
            moment.at - %(modify_window)s::interval, u.last_modifies_timestamps),
        u.cool_down_until, u.cool_down_kind,
        CASE r.kind
            WHEN 'query' THEN r.claimed_at > moment.at - %(query_window)s::interval
                AND r.claimed_at = ANY (u.last_queries_timestamps)
            WHEN 'modify' THEN r.claimed_at > moment.at - %(modify_window)s::interval
                AND r.claimed_at = ANY (u.last_modifies_timestamps)
            ELSE false END,
        {RECEIPT}
    FROM unnest(%(users)s::uuid[], %(operations)s::uuid[], %(days)s::date[])
        AS asked (user_id, operation_id, usage_date)
    CROSS JOIN (SELECT coalesce(%(at)s::timestamptz, statement_timestamp()) AS at) AS moment
    LEFT JOIN usage.users u ON u.user_id = asked.user_id
    LEFT JOIN usage.usage_counters c
        ON c.user_id = asked.user_id AND c.usage_date = asked.usage_date
    LEFT JOIN usage.usage_counters l
        ON l.user_id = asked.user_id AND l.usage_date = u.last_usage_date
    LEFT JOIN usage.receipts r
        ON r.user_id = asked.user_id AND r.operation_id = asked.operation_id
"""  # noqa: S608  columns of ours
# All that a batch of decisions changes. The counters grow by what the receipts say that were
# written, so the two cannot differ; a receipt whose grant stands is not written over.
WRITE_DECISIONS = """
    WITH changed AS (
        UPDATE usage.users u SET
            last_queries_timestamps = usage.extended(
                u.last_queries_timestamps, %(at)s, new.queries, %(queries)s),
            last_modifies_timestamps = usage.extended(
                u.last_modifies_timestamps, %(at)s, new.modifies, %(modifies)s),
            last_usage_date = coalesce(new.usage_date, u.last_usage_date),
            cool_down_until = coalesce(new.until, u.cool_down_until),
            cool_down_kind = coalesce(new.kind, u.cool_down_kind)
        FROM unnest(%(changed)s::uuid[], %(queries_added)s::int[], %(modifies_added)s::int[],
            %(last_days)s::date[], %(ends)s::timestamptz[], %(cool_down_kinds)s::text[])
            AS new (user_id, queries, modifies, usage_date, until, kind)
        WHERE u.user_id = new.user_id),
    counted AS (
        INSERT INTO usage.receipts AS r (user_id, operation_id, clinic_id, kind, usage_date,
            claimed, granted, claimed_at, reserved_until, attempt)
        SELECT * FROM unnest(%(users)s::uuid[], %(operations)s::uuid[], %(clinics)s::uuid[],
            %(kinds)s::text[], %(days)s::date[], %(claimed)s::int[], %(granted)s::int[],
            %(claimed_at)s::timestamptz[], %(reserved)s::timestamptz[], %(attempts)s::bigint[])
        ON CONFLICT (user_id, operation_id) DO UPDATE SET
            clinic_id = excluded.clinic_id, kind = excluded.kind,
            usage_date = excluded.usage_date, claimed = excluded.claimed,
            granted = excluded.granted, claimed_at = excluded.claimed_at,
            reserved_until = excluded.reserved_until, attempt = excluded.attempt,
            released = 0, lapsed = false, revoked = false
        WHERE r.lapsed OR r.revoked
        RETURNING user_id, usage_date, kind, granted)
    INSERT INTO usage.usage_counters AS c (user_id, usage_date, read_count, modify_count)
    SELECT user_id, usage_date, coalesce(sum(granted) FILTER (WHERE kind = 'query'), 0),
        coalesce(sum(granted) FILTER (WHERE kind = 'modify'), 0)
    FROM counted GROUP BY user_id, usage_date HAVING sum(granted) > 0
    ON CONFLICT (user_id, usage_date) DO UPDATE SET
        read_count = c.read_count + excluded.read_count,
        modify_count = c.modify_count + excluded.modify_count
"""
ADOPT_GRANTS = """
    UPDATE usage.receipts r SET attempt = new.attempt
    FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS new (user_id, operation_id, attempt)
    WHERE r.user_id = new.user_id AND r.operation_id = new.operation_id
        AND r.attempt < new.attempt
"""
CLEAR_COOL_DOWN = """
    UPDATE usage.users SET cool_down_until = NULL, last_queries_timestamps = '{}',
        last_modifies_timestamps = '{}'
    WHERE user_id = %s
    RETURNING old.cool_down_until, coalesce(%s::timestamptz, statement_timestamp())
"""
READ_RECEIPT = f"""
    SELECT {RECEIPT} FROM usage.receipts r WHERE user_id = %s AND operation_id = %s
"""  # noqa: S608  columns of ours
SETTLE = """
    UPDATE usage.receipts SET reserved_until = NULL
    WHERE user_id = %s AND operation_id = %s AND NOT lapsed RETURNING granted - released
"""
CLOSE_RECEIPT = """
    UPDATE usage.receipts SET released = %s, lapsed = %s, revoked = %s, released_attempt = %s,
        reserved_until = NULL
    WHERE user_id = %s AND operation_id = %s
"""
FENCE = """
    UPDATE usage.receipts SET released_attempt = %s WHERE user_id = %s AND operation_id = %s
"""
# A release that comes before its claim leaves a receipt of nothing.
FENCE_UNKNOWN = """
    INSERT INTO usage.receipts (released_attempt, user_id, operation_id, claimed_at, claimed,
        granted, revoked)
    VALUES (%s, %s, %s, coalesce(%s::timestamptz, statement_timestamp()), 0, 0, true)
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
# The moment is one for the whole statement: of a clock that moves on no index can be asked.
FIND_LATE = """
    SELECT max(reserved_until), array_agg(DISTINCT user_id)
    FROM (SELECT user_id, reserved_until FROM usage.receipts
        WHERE reserved_until <= coalesce(%s::timestamptz, statement_timestamp())
        ORDER BY reserved_until LIMIT %s) AS late
"""
# Only modifies are reserved.
LAPSE = """
    WITH late AS (
        UPDATE usage.receipts SET released = granted, reserved_until = NULL, lapsed = true
        WHERE user_id = ANY (%s::uuid[]) AND reserved_until <= %s::timestamptz
        RETURNING user_id, usage_date, granted - old.released AS open),
    back AS (
        UPDATE usage.usage_counters c SET modify_count = greatest(c.modify_count - day.open, 0)
        FROM (SELECT user_id, usage_date, sum(open) AS open FROM late GROUP BY 1, 2) AS day
        WHERE c.user_id = day.user_id AND c.usage_date = day.usage_date)
    SELECT count(*) FROM late
"""
# Several replicas share the work, and nobody who counts is waited for or kept waiting.
FORGET = """
    DELETE FROM usage.receipts WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM usage.receipts
        WHERE claimed_at < coalesce(%s::timestamptz, statement_timestamp()) - %s::interval
            AND reserved_until IS NULL
        ORDER BY claimed_at LIMIT %s FOR UPDATE SKIP LOCKED))
"""


# The locks of a decision on the tables, and on no row.
TAKE_TABLES = (
    "UPDATE usage.users SET user_id = user_id WHERE false",
    "UPDATE usage.usage_counters SET read_count = read_count WHERE false",
    "UPDATE usage.receipts SET granted = granted WHERE false",
)


def arrays(rows: Sequence[Sequence[Any]], columns: int) -> list[str]:
    """*rows* of so many *columns* as array literals of Postgres, one a column.

    Of values that need no escape: ids, numbers, times, names of ours. A third of the time that the
    driver takes for lists.
    """
    if not rows:
        return ["{}"] * columns
    return [array(column) for column in zip(*rows, strict=True)]


def array(values: Sequence[Any]) -> str:
    written = ["NULL" if value is None else f'"{value}"' for value in values]
    return "{" + ",".join(written) + "}"
