-- migrate:up

CREATE SCHEMA IF NOT EXISTS gateway;

CREATE FUNCTION gateway.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- One row a request: what makes the same request_id do nothing twice (GAT-2). The answer holds what
-- the caller was shown, so a row is its user's alone and is deleted when its time is over.
CREATE TABLE gateway.requests (
    user_id uuid NOT NULL,
    request_id text NOT NULL CHECK (length(request_id) BETWEEN 1 AND 128),
    fingerprint bytea NOT NULL,
    -- running: by `owner` until `lease_until`; confirming: waits for its token; finished: answered.
    state text NOT NULL CHECK (state IN ('running', 'confirming', 'finished')),
    owner uuid NOT NULL,
    lease_until timestamptz NOT NULL,
    answer bytea,
    -- What a confirmation was asked for, exactly, and the token's digest (GAT-5).
    planned bytea,
    token_digest bytea,
    token_expires_at timestamptz,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, request_id),
    CHECK (state <> 'finished' OR answer IS NOT NULL),
    CHECK (state <> 'confirming' OR (answer IS NOT NULL AND planned IS NOT NULL
           AND token_digest IS NOT NULL AND token_expires_at IS NOT NULL))
);
CREATE INDEX requests_by_expiry ON gateway.requests (expires_at);

ALTER TABLE gateway.requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway.requests FORCE ROW LEVEL SECURITY;

CREATE POLICY own ON gateway.requests
    USING (user_id::text = nullif(current_setting('gatehouse.user_id', true), ''))
    WITH CHECK (user_id::text = nullif(current_setting('gatehouse.user_id', true), ''));
-- The sweeper deletes what is over, whosoever it is.
CREATE POLICY sweep_seen ON gateway.requests FOR SELECT
    USING (gateway.caller_has('service') AND expires_at < now());
CREATE POLICY sweep ON gateway.requests FOR DELETE
    USING (gateway.caller_has('service') AND expires_at < now());

GRANT USAGE ON SCHEMA gateway TO gatehouse_gateway;
GRANT SELECT ON gateway.schema_migrations TO gatehouse_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.requests TO gatehouse_gateway;

-- migrate:down
