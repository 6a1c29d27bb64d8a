-- migrate:up

-- The rows below are read and written as the service would: row level security binds the owner too.
SELECT set_config('gatehouse.roles', 'service', true);

-- The two abuse windows, oldest entry first, and the day that the user was last counted on. They are
-- read and written with the user's lock, so a decision costs the same whatever was counted before.
ALTER TABLE usage.users
    ADD COLUMN last_queries_timestamps timestamptz[] NOT NULL DEFAULT '{}',
    ADD COLUMN last_modifies_timestamps timestamptz[] NOT NULL DEFAULT '{}',
    ADD COLUMN last_usage_date date;

-- A window that is open now must not be forgotten by an upgrade. 201 entries of a day hold every
-- window that the settings allow; the first decision cuts them to its own threshold.
UPDATE usage.users u SET
    last_queries_timestamps = ARRAY(SELECT claimed_at FROM (
        SELECT claimed_at FROM usage.receipts r
        WHERE r.user_id = u.user_id AND kind = 'query' AND claimed_at > now() - interval '1 day'
            AND claimed_at > coalesce(u.cleared_at, '-infinity')
        ORDER BY claimed_at DESC LIMIT 201) AS last ORDER BY claimed_at),
    last_modifies_timestamps = ARRAY(SELECT claimed_at FROM (
        SELECT claimed_at FROM usage.receipts r
        WHERE r.user_id = u.user_id AND kind = 'modify' AND claimed_at > now() - interval '1 day'
            AND claimed_at > coalesce(u.cleared_at, '-infinity')
        ORDER BY claimed_at DESC LIMIT 201) AS last ORDER BY claimed_at),
    last_usage_date = (
        SELECT max(usage_date) FROM usage.usage_counters c WHERE c.user_id = u.user_id);
ALTER TABLE usage.users DROP COLUMN cleared_at;

-- A window with *added* entries at *at*, cut to the last *most*. What lies in the future, because a
-- clock was ahead, is as of now: the entries stay in their order and leave with this one.
CREATE FUNCTION usage.extended(
    entries timestamptz[], at timestamptz, added integer, most integer
) RETURNS timestamptz[] LANGUAGE sql IMMUTABLE
RETURN (CASE WHEN entries[cardinality(entries)] > at
        THEN ARRAY(SELECT least(entry, at) FROM unnest(entries) WITH ORDINALITY AS of (entry, place)
            ORDER BY place)
        ELSE entries END
    || array_fill(at, ARRAY[added]))[greatest(cardinality(entries) + added - most, 0) + 1 :];

ALTER TABLE usage.receipts
    -- A caller released all of it; the id is decided anew.
    ADD COLUMN revoked boolean NOT NULL DEFAULT false,
    -- The highest attempt that the grant was given to, and the highest that was released.
    ADD COLUMN attempt bigint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    ADD COLUMN released_attempt bigint NOT NULL DEFAULT 0 CHECK (released_attempt >= 0),
    -- A release that came before its claim knows neither.
    ALTER COLUMN kind DROP NOT NULL,
    ALTER COLUMN usage_date DROP NOT NULL,
    ADD CONSTRAINT receipts_known CHECK (revoked OR (kind IS NOT NULL AND usage_date IS NOT NULL)),
    ADD CONSTRAINT receipts_closed_once CHECK (NOT (lapsed AND revoked));
UPDATE usage.receipts SET revoked = true WHERE released = granted AND granted > 0 AND NOT lapsed;

-- Windows are no longer counted here. Old receipts are found in the order of their time; blocks'
-- ranges served only as long as no receipt was changed.
DROP INDEX usage.receipts_by_time;
DROP INDEX usage.receipts_by_age;
CREATE INDEX receipts_by_age ON usage.receipts (claimed_at);

-- Every decision rewrites these two rows; with room on their page no index is touched.
ALTER TABLE usage.users SET (fillfactor = 60);
ALTER TABLE usage.usage_counters SET (fillfactor = 60);

-- migrate:down
