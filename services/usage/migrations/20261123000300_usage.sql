-- migrate:up

CREATE SCHEMA IF NOT EXISTS usage;

CREATE FUNCTION usage.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- A row belongs to its user; besides them an admin sees it, and the services that count (ENT-5).
CREATE FUNCTION usage.caller_reaches(of_user uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN of_user::text = nullif(current_setting('gatehouse.user_id', true), '')
    OR usage.caller_has('admin') OR usage.caller_has('service');

CREATE FUNCTION usage.caller_counts() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN usage.caller_has('admin') OR usage.caller_has('service');

-- What a user used on a day of their clinic (USE-2, USE-4).
CREATE TABLE usage.usage_counters (
    user_id uuid NOT NULL,
    usage_date date NOT NULL,
    read_count integer NOT NULL DEFAULT 0 CHECK (read_count >= 0),
    modify_count integer NOT NULL DEFAULT 0 CHECK (modify_count >= 0),
    PRIMARY KEY (user_id, usage_date)
);

-- One row a granted claim: why the same claim is never counted twice, and what answers the abuse
-- windows when Valkey does not (USE-2, USE-7).
CREATE TABLE usage.receipts (
    user_id uuid NOT NULL,
    operation_id uuid NOT NULL,
    clinic_id uuid,
    kind text NOT NULL CHECK (kind IN ('query', 'modify')),
    usage_date date NOT NULL,
    claimed integer NOT NULL CHECK (claimed >= 0),
    granted integer NOT NULL CHECK (granted BETWEEN 0 AND claimed),
    released integer NOT NULL DEFAULT 0 CHECK (released BETWEEN 0 AND granted),
    claimed_at timestamptz NOT NULL,
    reserved_until timestamptz,
    PRIMARY KEY (user_id, operation_id)
);
CREATE INDEX receipts_by_time ON usage.receipts (user_id, claimed_at DESC);
CREATE INDEX receipts_unsettled ON usage.receipts (reserved_until) WHERE reserved_until IS NOT NULL;

-- The cool-downs that run, for when Valkey cannot tell (USE-7).
CREATE TABLE usage.cool_downs (
    user_id uuid PRIMARY KEY,
    until timestamptz NOT NULL,
    cleared_at timestamptz
);

ALTER TABLE usage.usage_counters ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage.usage_counters FORCE ROW LEVEL SECURITY;
ALTER TABLE usage.receipts ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage.receipts FORCE ROW LEVEL SECURITY;
ALTER TABLE usage.cool_downs ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage.cool_downs FORCE ROW LEVEL SECURITY;

CREATE POLICY read_own ON usage.usage_counters FOR SELECT USING (usage.caller_reaches(user_id));
CREATE POLICY count_some ON usage.usage_counters FOR INSERT WITH CHECK (usage.caller_counts());
CREATE POLICY count_more ON usage.usage_counters FOR UPDATE
    USING (usage.caller_counts()) WITH CHECK (usage.caller_counts());
CREATE POLICY read_own ON usage.receipts FOR SELECT USING (usage.caller_reaches(user_id));
CREATE POLICY write_receipts ON usage.receipts FOR INSERT WITH CHECK (usage.caller_counts());
CREATE POLICY settle_receipts ON usage.receipts FOR UPDATE
    USING (usage.caller_counts()) WITH CHECK (usage.caller_counts());
CREATE POLICY expire_receipts ON usage.receipts FOR DELETE USING (usage.caller_counts());
CREATE POLICY read_own ON usage.cool_downs FOR SELECT USING (usage.caller_reaches(user_id));
CREATE POLICY start_cool_downs ON usage.cool_downs FOR INSERT WITH CHECK (usage.caller_counts());
CREATE POLICY change_cool_downs ON usage.cool_downs FOR UPDATE
    USING (usage.caller_counts()) WITH CHECK (usage.caller_counts());

GRANT USAGE ON SCHEMA usage TO gatehouse_usage;
GRANT SELECT ON usage.schema_migrations TO gatehouse_usage;
GRANT SELECT, INSERT, UPDATE ON usage.usage_counters, usage.cool_downs TO gatehouse_usage;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage.receipts TO gatehouse_usage;

-- migrate:down
