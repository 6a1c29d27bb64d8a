-- migrate:up

CREATE SCHEMA IF NOT EXISTS oplog;

CREATE FUNCTION oplog.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

CREATE FUNCTION oplog.caller_reads_all() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN oplog.caller_has('auditor') OR oplog.caller_has('admin') OR oplog.caller_has('service');

-- A caller whose id is no UUID, such as a service, has no rows of its own.
CREATE FUNCTION oplog.caller_user() RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN pg_input_is_valid(current_setting('gatehouse.user_id', true), 'uuid')
    THEN current_setting('gatehouse.user_id', true)::uuid END;

-- The end of the chain. Its row's lock puts writers in a line: positions are given out without gaps
-- and become visible in their order, so a tail that has seen one has seen all before it.
CREATE TABLE oplog.head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    position bigint NOT NULL,
    hash bytea NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT 'epoch',
    -- The last link that retention has dropped: what is kept follows from it.
    dropped_position bigint NOT NULL DEFAULT 0,
    dropped_hash bytea NOT NULL DEFAULT '\x'
);
INSERT INTO oplog.head (position, hash) VALUES (0, '\x');

-- Every operation span that the log took, chained by hash: appended to, never changed (LOG-4).
-- Whoever writes holds the head, so positions and spans are unique although no index says so over
-- all partitions.
CREATE TABLE oplog.links (
    position bigint NOT NULL,
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
    PRIMARY KEY (position, recorded_at),
    UNIQUE (trace_id, span_id, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE INDEX links_by_operation ON oplog.links (operation_id);

-- One row an operation: what its links come to (LOG-1, LOG-5).
CREATE TABLE oplog.operation_log (
    id uuid NOT NULL,
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
    position bigint NOT NULL,
    -- When the first of its links was recorded: its partition.
    logged_at timestamptz NOT NULL,
    PRIMARY KEY (id, logged_at)
) PARTITION BY RANGE (logged_at);
CREATE INDEX operation_log_by_time ON oplog.operation_log (created_at DESC, id DESC);
CREATE INDEX operation_log_by_user ON oplog.operation_log (user_id, created_at DESC, id DESC);
CREATE INDEX operation_log_by_clinic ON oplog.operation_log (clinic_id, created_at DESC, id DESC);
CREATE INDEX operation_log_by_trace ON oplog.operation_log (trace_id);
CREATE INDEX operation_log_by_position ON oplog.operation_log (position);
CREATE INDEX operation_log_unsettled ON oplog.operation_log (created_at)
    WHERE outcome = 'unknown';

-- Operation spans that could not be understood, without what nobody may keep (LOG-1, LOG-6).
CREATE TABLE oplog.quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    trace_id text NOT NULL,
    span_id text NOT NULL,
    problem text NOT NULL,
    span bytea NOT NULL
);
-- Sent again it is there once; as something else under the same ids it is there besides.
CREATE UNIQUE INDEX quarantine_once ON oplog.quarantine
    (trace_id, span_id, problem, sha256(span));
CREATE INDEX quarantine_by_time ON oplog.quarantine (received_at);

-- A partition holds a quarter of a year, by UTC. The service may have them made and, once they are
-- old, dropped; it can do neither by itself (LOG-4).
CREATE FUNCTION oplog.prepare_partitions(moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    begins timestamptz := date_trunc('quarter', moment, 'UTC');
    parent text;
    partition text;
BEGIN
    FOR ahead IN 0..1 LOOP
        FOREACH parent IN ARRAY ARRAY['links', 'operation_log'] LOOP
            partition := parent || to_char(begins AT TIME ZONE 'UTC', '_YYYY"q"Q');
            IF to_regclass('oplog.' || partition) IS NULL THEN
                -- One at a time, and nobody writes meanwhile.
                PERFORM FROM oplog.head FOR UPDATE;
                EXECUTE format(
                    'CREATE TABLE IF NOT EXISTS oplog.%I PARTITION OF oplog.%I'
                    ' FOR VALUES FROM (%L) TO (%L)',
                    partition, parent, begins, date_add(begins, interval '3 months', 'UTC')
                );
            END IF;
        END LOOP;
        begins := date_add(begins, interval '3 months', 'UTC');
    END LOOP;
END
$$;

CREATE FUNCTION oplog.drop_partitions(before timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    quarter text;
    ends timestamptz;
    dropped integer := 0;
    last record;
BEGIN
    IF before > clock_timestamp() - interval '90 days' THEN
        RAISE EXCEPTION 'what is younger than 90 days is not dropped';
    END IF;
    PERFORM FROM oplog.head FOR UPDATE;
    PERFORM oplog.prepare_partitions(greatest(before, (SELECT recorded_at FROM oplog.head)));
    FOR quarter, ends IN
        SELECT right(relname, 6), date_add(make_timestamptz(
            substr(right(relname, 6), 1, 4)::int, 3 * right(relname, 1)::int - 2, 1, 0, 0, 0, 'UTC'
        ), interval '3 months', 'UTC')
        FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid
        WHERE inhparent = 'oplog.links'::regclass ORDER BY 1
    LOOP
        EXIT WHEN ends > before;
        EXECUTE format('SELECT position, hash FROM oplog.%I ORDER BY position DESC LIMIT 1',
            'links_' || quarter) INTO last;
        IF last.position IS NOT NULL THEN
            UPDATE oplog.head SET dropped_position = last.position, dropped_hash = last.hash;
        END IF;
        -- What has changed since lives on with its newest link.
        UPDATE oplog.operation_log o SET logged_at = l.recorded_at FROM oplog.links l
            WHERE o.logged_at < ends AND l.recorded_at >= ends
            AND l.position = o.position AND l.operation_id = o.id;
        EXECUTE format('DROP TABLE oplog.%I, oplog.%I',
            'links_' || quarter, 'operation_log_' || quarter);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM oplog.quarantine WHERE received_at < before;
    RETURN dropped;
END
$$;

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

-- The sub-selects are asked once a statement, not once a row.
CREATE POLICY written_by_services ON oplog.head
    USING ((SELECT oplog.caller_has('service'))) WITH CHECK ((SELECT oplog.caller_has('service')));
CREATE POLICY read_for_verification ON oplog.head FOR SELECT
    USING ((SELECT oplog.caller_has('auditor') OR oplog.caller_has('admin')));
CREATE POLICY read_links ON oplog.links FOR SELECT
    USING ((SELECT oplog.caller_reads_all()) OR user_id = (SELECT oplog.caller_user()));
CREATE POLICY append_links ON oplog.links FOR INSERT
    WITH CHECK ((SELECT oplog.caller_has('service')));
CREATE POLICY read_rows ON oplog.operation_log FOR SELECT
    USING ((SELECT oplog.caller_reads_all()) OR user_id = (SELECT oplog.caller_user()));
CREATE POLICY add_rows ON oplog.operation_log FOR INSERT
    WITH CHECK ((SELECT oplog.caller_has('service')));
CREATE POLICY settle_rows ON oplog.operation_log FOR UPDATE
    USING ((SELECT oplog.caller_has('service'))) WITH CHECK ((SELECT oplog.caller_has('service')));
-- Granted to nobody: what moves and drops is the functions above, as the owner.
CREATE POLICY move_rows ON oplog.operation_log FOR DELETE
    USING ((SELECT oplog.caller_has('service')));
CREATE POLICY expire_quarantine ON oplog.quarantine FOR DELETE
    USING ((SELECT oplog.caller_has('service')));
CREATE POLICY read_quarantine ON oplog.quarantine FOR SELECT
    USING ((SELECT oplog.caller_reads_all()));
CREATE POLICY fill_quarantine ON oplog.quarantine FOR INSERT
    WITH CHECK ((SELECT oplog.caller_has('service')));
CREATE POLICY read_key ON oplog.page_token_key FOR SELECT
    USING ((SELECT oplog.caller_has('service')));

GRANT USAGE ON SCHEMA oplog TO gatehouse_oplog;
GRANT SELECT ON oplog.schema_migrations, oplog.page_token_key TO gatehouse_oplog;
GRANT SELECT, UPDATE (position, hash, recorded_at) ON oplog.head TO gatehouse_oplog;
REVOKE ALL ON FUNCTION oplog.prepare_partitions, oplog.drop_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION oplog.prepare_partitions, oplog.drop_partitions TO gatehouse_oplog;
GRANT SELECT, INSERT ON oplog.links, oplog.quarantine TO gatehouse_oplog;
-- Of a row only what an outcome brings may change, and nothing is ever deleted.
GRANT SELECT, INSERT ON oplog.operation_log TO gatehouse_oplog;
GRANT UPDATE (outcome, reason, latency_ms, model_used, failover, created_at, trace_id, span_id,
              settled_later, position) ON oplog.operation_log TO gatehouse_oplog;

-- migrate:down
