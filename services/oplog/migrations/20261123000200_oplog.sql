-- migrate:up

CREATE SCHEMA IF NOT EXISTS oplog;

CREATE FUNCTION oplog.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

CREATE FUNCTION oplog.caller_reads(of_user uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN of_user::text = nullif(current_setting('gatehouse.user_id', true), '')
    OR oplog.caller_has('auditor') OR oplog.caller_has('admin') OR oplog.caller_has('service');

-- The end of the chain. Its row's lock puts writers in a line: positions are given out without gaps
-- and become visible in their order, so a tail that has seen one has seen all before it.
CREATE TABLE oplog.head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    position bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO oplog.head (position, hash) VALUES (0, '\x');

-- Every operation span that the log took, chained by hash: appended to, never changed (LOG-4).
CREATE TABLE oplog.links (
    position bigint PRIMARY KEY,
    recorded_at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('intent', 'outcome', 'settled')),
    operation_id uuid NOT NULL,
    request_id text NOT NULL,
    user_id uuid NOT NULL,
    clinic_id uuid,
    action text NOT NULL,
    domain text NOT NULL,
    outcome text NOT NULL,
    reason text NOT NULL,
    model_used text NOT NULL,
    failover boolean NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    trace_id text NOT NULL,
    span_id text NOT NULL,
    parent_span_id text NOT NULL,
    service text NOT NULL,
    hash bytea NOT NULL,
    UNIQUE (trace_id, span_id)
);
CREATE INDEX links_by_operation ON oplog.links (operation_id);

-- One row an operation: what its links come to (LOG-1, LOG-5).
CREATE TABLE oplog.operation_log (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    clinic_id uuid,
    action text NOT NULL,
    domain text NOT NULL,
    outcome text NOT NULL
        CHECK (outcome IN ('succeeded', 'failed', 'refused', 'cancelled', 'unknown')),
    reason text NOT NULL,
    latency_ms integer NOT NULL CHECK (latency_ms >= 0),
    model_used text NOT NULL,
    failover boolean NOT NULL,
    created_at timestamptz NOT NULL,
    request_id text NOT NULL,
    trace_id text NOT NULL,
    span_id text NOT NULL,
    settled_later boolean NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX operation_log_by_time ON oplog.operation_log (created_at DESC, id DESC);
CREATE INDEX operation_log_by_user ON oplog.operation_log (user_id, created_at DESC, id DESC);
CREATE INDEX operation_log_by_clinic ON oplog.operation_log (clinic_id, created_at DESC, id DESC);
CREATE INDEX operation_log_by_trace ON oplog.operation_log (trace_id);
CREATE INDEX operation_log_by_position ON oplog.operation_log (position);
CREATE INDEX operation_log_unsettled ON oplog.operation_log (created_at)
    WHERE outcome = 'unknown';

-- Operation spans that could not be understood: kept as they came (LOG-1).
CREATE TABLE oplog.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    trace_id text NOT NULL,
    span_id text NOT NULL,
    problem text NOT NULL,
    span bytea NOT NULL,
    UNIQUE (trace_id, span_id, problem)
);

-- The key of page tokens, the same for every replica.
CREATE TABLE oplog.page_token_key (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    key bytea NOT NULL
);
INSERT INTO oplog.page_token_key (key)
    VALUES (sha256((gen_random_uuid()::text || gen_random_uuid()::text)::bytea));

ALTER TABLE oplog.head ENABLE ROW LEVEL SECURITY;
ALTER TABLE oplog.head FORCE ROW LEVEL SECURITY;
ALTER TABLE oplog.links ENABLE ROW LEVEL SECURITY;
ALTER TABLE oplog.links FORCE ROW LEVEL SECURITY;
ALTER TABLE oplog.operation_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE oplog.operation_log FORCE ROW LEVEL SECURITY;
ALTER TABLE oplog.quarantine ENABLE ROW LEVEL SECURITY;
ALTER TABLE oplog.quarantine FORCE ROW LEVEL SECURITY;
ALTER TABLE oplog.page_token_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE oplog.page_token_key FORCE ROW LEVEL SECURITY;

CREATE POLICY written_by_services ON oplog.head
    USING (oplog.caller_has('service')) WITH CHECK (oplog.caller_has('service'));
CREATE POLICY read_for_verification ON oplog.head FOR SELECT
    USING (oplog.caller_has('auditor') OR oplog.caller_has('admin'));
CREATE POLICY read_links ON oplog.links FOR SELECT USING (oplog.caller_reads(user_id));
CREATE POLICY append_links ON oplog.links FOR INSERT WITH CHECK (oplog.caller_has('service'));
CREATE POLICY read_rows ON oplog.operation_log FOR SELECT USING (oplog.caller_reads(user_id));
CREATE POLICY add_rows ON oplog.operation_log FOR INSERT WITH CHECK (oplog.caller_has('service'));
CREATE POLICY settle_rows ON oplog.operation_log FOR UPDATE
    USING (oplog.caller_has('service')) WITH CHECK (oplog.caller_has('service'));
CREATE POLICY read_quarantine ON oplog.quarantine FOR SELECT USING (
    oplog.caller_has('auditor') OR oplog.caller_has('admin') OR oplog.caller_has('service')
);
CREATE POLICY fill_quarantine ON oplog.quarantine FOR INSERT
    WITH CHECK (oplog.caller_has('service'));
CREATE POLICY read_key ON oplog.page_token_key FOR SELECT USING (oplog.caller_has('service'));

GRANT USAGE ON SCHEMA oplog TO gatehouse_oplog;
GRANT SELECT ON oplog.schema_migrations, oplog.page_token_key TO gatehouse_oplog;
GRANT SELECT, UPDATE ON oplog.head TO gatehouse_oplog;
GRANT SELECT, INSERT ON oplog.links, oplog.quarantine TO gatehouse_oplog;
-- Of a row only what an outcome brings may change, and nothing is ever deleted.
GRANT SELECT, INSERT ON oplog.operation_log TO gatehouse_oplog;
GRANT UPDATE (outcome, reason, latency_ms, model_used, failover, created_at, trace_id, span_id,
              settled_later, position) ON oplog.operation_log TO gatehouse_oplog;

-- migrate:down
