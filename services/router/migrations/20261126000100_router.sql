-- migrate:up

CREATE SCHEMA IF NOT EXISTS router;

CREATE FUNCTION router.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- A caller whose id is no UUID, such as a service, has no rows of its own.
CREATE FUNCTION router.caller_user() RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN pg_input_is_valid(current_setting('gatehouse.user_id', true), 'uuid')
    THEN current_setting('gatehouse.user_id', true)::uuid END;

-- One row an attempt at a model: what it took, what it cost, for whom, and why it ended (ROU-6).
--
-- It is written before the provider is asked, with what the attempt costs at the least, or, where a budget
-- is kept, at the most; and again when it has ended, with what it did cost. A row that says UNKNOWN is of an
-- attempt that still runs, or of a replica that died: what it says counts until somebody knows better.
CREATE TABLE router.attempts (
    attempt_id uuid PRIMARY KEY,
    -- Null: for nobody in particular.
    user_id uuid,
    clinic_id uuid,
    task text NOT NULL,
    -- The catalogue's names.
    model text NOT NULL,
    provider text NOT NULL,
    tier text NOT NULL,
    -- The names of gatehouse.router.v1.AttemptOutcome, without the prefix.
    outcome text NOT NULL,
    http_status integer,
    started_at timestamptz NOT NULL,
    -- Null: it runs, or its replica died.
    ended_at timestamptz CHECK (ended_at >= started_at),
    seconds_to_first_token double precision CHECK (seconds_to_first_token >= 0),
    -- As the provider counted them: cached ones are among the input, reasoning among the output. Null: it was not
    -- billed.
    input_tokens bigint CHECK (input_tokens >= 0),
    cached_input_tokens bigint CHECK (cached_input_tokens BETWEEN 0 AND input_tokens),
    output_tokens bigint CHECK (output_tokens >= 0),
    reasoning_tokens bigint CHECK (reasoning_tokens BETWEEN 0 AND output_tokens),
    -- The provider did not say.
    estimated boolean NOT NULL,
    -- In units of the currency, exact to the token's price.
    cost numeric(38, 15) NOT NULL CHECK (cost >= 0),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    trace_id text
);
CREATE INDEX attempts_by_user ON router.attempts (user_id, started_at);
CREATE INDEX attempts_by_time ON router.attempts (started_at);

ALTER TABLE router.attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE router.attempts FORCE ROW LEVEL SECURITY;

-- The sub-selects are asked once a statement, not once a row.
CREATE POLICY read_own ON router.attempts FOR SELECT USING (
    (SELECT router.caller_has('admin') OR router.caller_has('service'))
    OR user_id = (SELECT router.caller_user()));
CREATE POLICY recorded_by_services ON router.attempts FOR INSERT
    WITH CHECK ((SELECT router.caller_has('service')));
CREATE POLICY ended_by_services ON router.attempts FOR UPDATE
    USING ((SELECT router.caller_has('service'))) WITH CHECK ((SELECT router.caller_has('service')));
CREATE POLICY forgotten_by_services ON router.attempts FOR DELETE
    USING ((SELECT router.caller_has('service')));

GRANT USAGE ON SCHEMA router TO gatehouse_router;
GRANT SELECT ON router.schema_migrations TO gatehouse_router;
GRANT SELECT, INSERT, UPDATE, DELETE ON router.attempts TO gatehouse_router;

-- migrate:down
