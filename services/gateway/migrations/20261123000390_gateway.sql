-- migrate:up

CREATE SCHEMA IF NOT EXISTS gateway;

CREATE FUNCTION gateway.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- One row a request: what makes the same request_id do nothing twice (GAT-2). The answer holds what
-- the caller was shown, so a row is its user's alone and is deleted when its time is over.
CREATE TABLE gateway.requests (
    user_id uuid NOT NULL,
    clinic_id text NOT NULL,
    request_id text NOT NULL CHECK (length(request_id) BETWEEN 1 AND 128),
    fingerprint bytea NOT NULL,
    -- The language and the zone that its words and times are read in.
    locale text NOT NULL,
    time_zone text NOT NULL,
    -- running: nothing is changed yet; confirming: waits for its token; dispatching: what is in
    -- `planned` may have been carried out, or a part of it; settling: what became of it is in
    -- `answer`, while counts and log may lack it; finished: answered.
    state text NOT NULL
        CHECK (state IN ('running', 'confirming', 'dispatching', 'settling', 'finished')),
    -- Whose it is to carry out, and until when unless it is renewed.
    owner uuid NOT NULL,
    lease_until timestamptz NOT NULL,
    answer bytea,
    -- What waits for a confirmation, exactly, or may have been carried out.
    planned bytea,
    -- How many changes were claimed for it.
    claimed integer NOT NULL DEFAULT 0,
    -- Which records a confirmation was asked for, and the digest of its token (GAT-5).
    records_digest bytea,
    token_digest bytea,
    token_expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, request_id),
    CHECK (state = 'running' OR answer IS NOT NULL),
    CHECK (state NOT IN ('dispatching', 'settling') OR planned IS NOT NULL),
    CHECK (state <> 'confirming' OR (planned IS NOT NULL AND records_digest IS NOT NULL
           AND token_digest IS NOT NULL AND token_expires_at IS NOT NULL))
);
CREATE INDEX requests_by_expiry ON gateway.requests (expires_at);
CREATE INDEX requests_left ON gateway.requests (lease_until)
    WHERE state IN ('running', 'dispatching', 'settling');

ALTER TABLE gateway.requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway.requests FORCE ROW LEVEL SECURITY;

CREATE POLICY own ON gateway.requests
    USING (user_id::text = nullif(current_setting('gatehouse.user_id', true), ''))
    WITH CHECK (user_id::text = nullif(current_setting('gatehouse.user_id', true), ''));
-- What a dead replica left is found by the others, whosesoever it is; it is settled as its user's.
CREATE POLICY left_seen ON gateway.requests FOR SELECT
    USING (gateway.caller_has('service') AND lease_until < now()
           AND state IN ('running', 'dispatching', 'settling'));
-- The sweeper deletes what is over, whosoever it is.
CREATE POLICY sweep_seen ON gateway.requests FOR SELECT
    USING (gateway.caller_has('service') AND expires_at < now());
CREATE POLICY sweep ON gateway.requests FOR DELETE
    USING (gateway.caller_has('service') AND expires_at < now());

GRANT USAGE ON SCHEMA gateway TO gatehouse_gateway;
GRANT SELECT ON gateway.schema_migrations TO gatehouse_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway.requests TO gatehouse_gateway;

-- migrate:down
