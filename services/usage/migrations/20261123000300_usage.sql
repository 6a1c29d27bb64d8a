-- migrate:up

CREATE SCHEMA IF NOT EXISTS usage;

CREATE FUNCTION usage.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- A row belongs to its user; besides them an admin sees it, and the services that count (ENT-5).
-- A caller whose id is no UUID, such as a service, has no rows of its own.
CREATE FUNCTION usage.caller_user() RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN pg_input_is_valid(current_setting('gatehouse.user_id', true), 'uuid')
    THEN current_setting('gatehouse.user_id', true)::uuid END;

CREATE FUNCTION usage.caller_counts() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN usage.caller_has('admin') OR usage.caller_has('service');

-- One row a user. Whoever changes anything of a user's locks it first: days end, and a user may be
-- of clinics in several zones, but the windows and the ids are one (USE-2, USE-3, USE-6).
CREATE TABLE usage.users (
    user_id uuid PRIMARY KEY,
    cool_down_until timestamptz,
    -- Which window was overrun.
    cool_down_kind text CHECK (cool_down_kind IN ('query', 'modify')),
    -- The windows have nothing in them of what was before.
    cleared_at timestamptz
);

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
    -- Until when somebody has to say what became of it; null once they have.
    reserved_until timestamptz,
    -- Nobody did, so it was given back; what is said later still counts.
    lapsed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, operation_id)
);
CREATE INDEX receipts_by_time ON usage.receipts (user_id, kind, claimed_at);
-- Receipts come in the order of their time, so a few blocks' ranges find the old ones.
CREATE INDEX receipts_by_age ON usage.receipts USING brin (claimed_at);
CREATE INDEX receipts_unsettled ON usage.receipts (reserved_until) WHERE reserved_until IS NOT NULL;

ALTER TABLE usage.usage_counters ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage.usage_counters FORCE ROW LEVEL SECURITY;
ALTER TABLE usage.receipts ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage.receipts FORCE ROW LEVEL SECURITY;
ALTER TABLE usage.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage.users FORCE ROW LEVEL SECURITY;

-- The sub-selects are asked once a statement, not once a row.
CREATE POLICY read_own ON usage.usage_counters FOR SELECT USING (
    (SELECT usage.caller_counts()) OR user_id = (SELECT usage.caller_user()));
CREATE POLICY count_some ON usage.usage_counters FOR INSERT
    WITH CHECK ((SELECT usage.caller_counts()));
CREATE POLICY count_more ON usage.usage_counters FOR UPDATE
    USING ((SELECT usage.caller_counts())) WITH CHECK ((SELECT usage.caller_counts()));
CREATE POLICY read_own ON usage.receipts FOR SELECT USING (
    (SELECT usage.caller_counts()) OR user_id = (SELECT usage.caller_user()));
CREATE POLICY write_receipts ON usage.receipts FOR INSERT
    WITH CHECK ((SELECT usage.caller_counts()));
CREATE POLICY settle_receipts ON usage.receipts FOR UPDATE
    USING ((SELECT usage.caller_counts())) WITH CHECK ((SELECT usage.caller_counts()));
CREATE POLICY expire_receipts ON usage.receipts FOR DELETE
    USING ((SELECT usage.caller_counts()));
CREATE POLICY read_own ON usage.users FOR SELECT USING (
    (SELECT usage.caller_counts()) OR user_id = (SELECT usage.caller_user()));
CREATE POLICY begin_users ON usage.users FOR INSERT
    WITH CHECK ((SELECT usage.caller_counts()));
CREATE POLICY lock_users ON usage.users FOR UPDATE
    USING ((SELECT usage.caller_counts())) WITH CHECK ((SELECT usage.caller_counts()));

GRANT USAGE ON SCHEMA usage TO gatehouse_usage;
GRANT SELECT ON usage.schema_migrations TO gatehouse_usage;
GRANT SELECT, INSERT, UPDATE ON usage.usage_counters, usage.users TO gatehouse_usage;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage.receipts TO gatehouse_usage;

-- migrate:down
