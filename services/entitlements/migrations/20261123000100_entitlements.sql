-- migrate:up

-- Row level security reads who is calling from settings of the transaction: gatehouse.user_id, gatehouse.clinic_id and
-- gatehouse.roles (comma separated). Without them nothing is visible, also to the owner of the tables.
CREATE SCHEMA IF NOT EXISTS entitlements;

CREATE FUNCTION entitlements.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- The identifiers are compared as text: a service's own id need not be a UUID.
CREATE FUNCTION entitlements.caller_is(user_id text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN user_id = nullif(current_setting('gatehouse.user_id', true), '');

CREATE FUNCTION entitlements.caller_is_of(clinic_id text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN clinic_id = nullif(current_setting('gatehouse.clinic_id', true), '');

CREATE FUNCTION entitlements.caller_is_known() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN coalesce(current_setting('gatehouse.user_id', true), '') <> '';

CREATE FUNCTION entitlements.caller_reads_anyone() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN entitlements.caller_has('service') OR entitlements.caller_has('admin');

-- One row. Its lock puts writers in a line, so that revisions are committed in their order and a reader who sees one has
-- seen all before it.
CREATE TABLE entitlements.revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL,
    changed_at timestamptz NOT NULL
);

-- What was changed, when and by whom: what followers are sent, and the history that says which plan a user had.
CREATE TABLE entitlements.changes (
    revision bigint PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('plan', 'user_plan', 'clinic_plan', 'descriptor')),
    key text NOT NULL,
    removed boolean NOT NULL,
    state jsonb NOT NULL,
    request_id uuid,
    operation_id uuid
);
CREATE INDEX changes_by_key ON entitlements.changes (kind, key, revision DESC);
CREATE UNIQUE INDEX changes_by_request ON entitlements.changes (changed_by, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE entitlements.plans (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9-]{0,63}$'),
    allows_crud boolean NOT NULL,
    analytics_window_days integer NOT NULL CHECK (analytics_window_days BETWEEN 1 AND 3650),
    model_tiers text[] NOT NULL CHECK (
        cardinality(model_tiers) BETWEEN 1 AND 8
        AND model_tiers <@ ARRAY['MODEL_BASIC', 'MODEL_SPEED', 'MODEL_ADV_REASON', 'MODEL_ANALYTICS']
    ),
    daily_read_limit integer CHECK (daily_read_limit BETWEEN 0 AND 1000000),
    daily_modify_limit integer CHECK (daily_modify_limit BETWEEN 0 AND 1000000),
    revision bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE entitlements.user_plan (
    user_id uuid PRIMARY KEY,
    plan_id uuid NOT NULL REFERENCES entitlements.plans (id) ON DELETE RESTRICT,
    assigned_at timestamptz NOT NULL,
    revision bigint NOT NULL
);
CREATE INDEX user_plan_by_plan ON entitlements.user_plan (plan_id, user_id);

CREATE TABLE entitlements.clinic_plan (
    clinic_id uuid PRIMARY KEY,
    plan_id uuid NOT NULL REFERENCES entitlements.plans (id) ON DELETE RESTRICT,
    assigned_at timestamptz NOT NULL,
    revision bigint NOT NULL
);
CREATE INDEX clinic_plan_by_plan ON entitlements.clinic_plan (plan_id, clinic_id);

CREATE TABLE entitlements.domain_descriptors (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_]{0,63}$'),
    operations text[] NOT NULL CHECK (
        cardinality(operations) BETWEEN 1 AND 4
        AND operations <@ ARRAY['create', 'read', 'update', 'delete']
    ),
    sensitivity_level text NOT NULL CHECK (sensitivity_level IN ('low', 'medium', 'high')),
    endpoint text NOT NULL CHECK (length(endpoint) BETWEEN 1 AND 255),
    entities jsonb NOT NULL,
    synonyms jsonb NOT NULL,
    metrics text[] NOT NULL,
    revision bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- Signs page tokens, so that every replica knows its neighbours' tokens and nobody makes one up.
CREATE TABLE entitlements.page_token_key (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    key bytea NOT NULL
);
INSERT INTO entitlements.page_token_key (key)
VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

INSERT INTO entitlements.revision (revision, changed_at) VALUES (0, clock_timestamp());

-- Time and revision of a change. The time never goes back, whatever the clock does: the history is searched by it.
CREATE FUNCTION entitlements.next_revision(OUT revision bigint, OUT changed_at timestamptz)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE entitlements.revision AS r
    SET revision = r.revision + 1,
        changed_at = greatest(clock_timestamp(), r.changed_at + interval '1 microsecond')
    RETURNING r.revision, r.changed_at
$$;
REVOKE EXECUTE ON FUNCTION entitlements.next_revision() FROM PUBLIC;

CREATE FUNCTION entitlements.stamp_resource() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT n.revision, n.changed_at INTO NEW.revision, NEW.updated_at
    FROM entitlements.next_revision() AS n;
    NEW.created_at := CASE TG_OP WHEN 'INSERT' THEN NEW.updated_at ELSE OLD.created_at END;
    RETURN NEW;
END
$$;

CREATE FUNCTION entitlements.stamp_assignment() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT n.revision, n.changed_at INTO NEW.revision, NEW.assigned_at
    FROM entitlements.next_revision() AS n;
    RETURN NEW;
END
$$;

-- Takes the kind and the name of the key column. Every write is seen here, whoever makes it, so no change is missed.
CREATE FUNCTION entitlements.keep_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state jsonb := to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END);
    revision bigint;
    changed_at timestamptz;
BEGIN
    IF TG_OP = 'DELETE' THEN
        SELECT n.revision, n.changed_at INTO revision, changed_at FROM entitlements.next_revision() AS n;
    ELSE
        revision := NEW.revision;
        changed_at := coalesce(state ->> 'updated_at', state ->> 'assigned_at')::timestamptz;
    END IF;
    INSERT INTO entitlements.changes
        (revision, changed_at, changed_by, kind, key, removed, state, request_id, operation_id)
    VALUES (
        revision,
        changed_at,
        coalesce(nullif(current_setting('gatehouse.user_id', true), ''), session_user),
        TG_ARGV[0],
        state ->> TG_ARGV[1],
        TG_OP = 'DELETE',
        state,
        nullif(current_setting('gatehouse.request_id', true), '')::uuid,
        nullif(current_setting('gatehouse.operation_id', true), '')::uuid
    );
    PERFORM pg_notify('entitlements_changes', revision::text);
    RETURN NULL;
END
$$;

-- `basic` is what everyone has who has nothing else (ENT-2): without it there would be no answer.
CREATE FUNCTION entitlements.keep_basic() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.name <> OLD.name THEN
        RAISE EXCEPTION 'basic is the plan that everyone has' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER keep_basic BEFORE UPDATE OF name OR DELETE ON entitlements.plans
    FOR EACH ROW WHEN (OLD.name = 'basic') EXECUTE FUNCTION entitlements.keep_basic();

CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON entitlements.plans
    FOR EACH ROW EXECUTE FUNCTION entitlements.stamp_resource();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON entitlements.domain_descriptors
    FOR EACH ROW EXECUTE FUNCTION entitlements.stamp_resource();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON entitlements.user_plan
    FOR EACH ROW EXECUTE FUNCTION entitlements.stamp_assignment();
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON entitlements.clinic_plan
    FOR EACH ROW EXECUTE FUNCTION entitlements.stamp_assignment();

CREATE TRIGGER keep_change AFTER INSERT OR UPDATE OR DELETE ON entitlements.plans
    FOR EACH ROW EXECUTE FUNCTION entitlements.keep_change('plan', 'id');
CREATE TRIGGER keep_change AFTER INSERT OR UPDATE OR DELETE ON entitlements.user_plan
    FOR EACH ROW EXECUTE FUNCTION entitlements.keep_change('user_plan', 'user_id');
CREATE TRIGGER keep_change AFTER INSERT OR UPDATE OR DELETE ON entitlements.clinic_plan
    FOR EACH ROW EXECUTE FUNCTION entitlements.keep_change('clinic_plan', 'clinic_id');
CREATE TRIGGER keep_change AFTER INSERT OR UPDATE OR DELETE ON entitlements.domain_descriptors
    FOR EACH ROW EXECUTE FUNCTION entitlements.keep_change('descriptor', 'id');

-- ENT-5. FORCE holds the owner to the policies as well.
ALTER TABLE entitlements.plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.plans FORCE ROW LEVEL SECURITY;
ALTER TABLE entitlements.user_plan ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.user_plan FORCE ROW LEVEL SECURITY;
ALTER TABLE entitlements.clinic_plan ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.clinic_plan FORCE ROW LEVEL SECURITY;
ALTER TABLE entitlements.domain_descriptors ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.domain_descriptors FORCE ROW LEVEL SECURITY;
ALTER TABLE entitlements.changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.changes FORCE ROW LEVEL SECURITY;
ALTER TABLE entitlements.revision ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.revision FORCE ROW LEVEL SECURITY;
ALTER TABLE entitlements.page_token_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.page_token_key FORCE ROW LEVEL SECURITY;

CREATE POLICY read_by_any_caller ON entitlements.plans FOR SELECT
    USING (entitlements.caller_is_known());
CREATE POLICY written_by_admins ON entitlements.plans
    USING (entitlements.caller_has('admin')) WITH CHECK (entitlements.caller_has('admin'));

CREATE POLICY read_by_any_caller ON entitlements.domain_descriptors FOR SELECT
    USING (entitlements.caller_is_known());
CREATE POLICY written_by_admins ON entitlements.domain_descriptors
    USING (entitlements.caller_has('admin')) WITH CHECK (entitlements.caller_has('admin'));

CREATE POLICY read_by_its_user ON entitlements.user_plan FOR SELECT
    USING (entitlements.caller_is(user_id::text) OR entitlements.caller_reads_anyone());
CREATE POLICY written_by_admins ON entitlements.user_plan
    USING (entitlements.caller_has('admin')) WITH CHECK (entitlements.caller_has('admin'));

CREATE POLICY read_by_its_clinic ON entitlements.clinic_plan FOR SELECT
    USING (entitlements.caller_is_of(clinic_id::text) OR entitlements.caller_reads_anyone());
CREATE POLICY written_by_admins ON entitlements.clinic_plan
    USING (entitlements.caller_has('admin')) WITH CHECK (entitlements.caller_has('admin'));

CREATE POLICY read_by_whom_it_concerns ON entitlements.changes FOR SELECT
    USING (
        entitlements.caller_reads_anyone()
        OR (kind = 'plan' AND entitlements.caller_is_known())
        OR (kind = 'user_plan' AND entitlements.caller_is(key))
        OR (kind = 'clinic_plan' AND entitlements.caller_is_of(key))
    );
-- Only the trigger writes here, which runs as the owner: nobody rewrites the history.
CREATE POLICY written_by_the_trigger ON entitlements.changes FOR INSERT TO CURRENT_USER
    WITH CHECK (true);

CREATE POLICY read_by_any_caller ON entitlements.revision FOR SELECT
    USING (entitlements.caller_is_known());
CREATE POLICY written_by_the_trigger ON entitlements.revision TO CURRENT_USER
    USING (true) WITH CHECK (true);

CREATE POLICY read_by_services ON entitlements.page_token_key FOR SELECT
    USING (entitlements.caller_has('service'));

GRANT USAGE ON SCHEMA entitlements TO gatehouse_entitlements;
GRANT SELECT ON ALL TABLES IN SCHEMA entitlements TO gatehouse_entitlements;
GRANT INSERT, UPDATE, DELETE
    ON entitlements.plans, entitlements.user_plan, entitlements.clinic_plan, entitlements.domain_descriptors
    TO gatehouse_entitlements;

-- The plans of ENT-1. Absent limits mean unlimited.
SELECT set_config('gatehouse.roles', 'admin', true);
INSERT INTO entitlements.plans
    (id, name, allows_crud, analytics_window_days, model_tiers, daily_read_limit, daily_modify_limit)
VALUES
    ('0b51c000-0000-4000-8000-000000000001', 'basic', false, 30, '{MODEL_BASIC}', 40, 0),
    (
        '0b51c000-0000-4000-8000-000000000002', 'premium', true, 365,
        '{MODEL_BASIC,MODEL_SPEED,MODEL_ADV_REASON,MODEL_ANALYTICS}', NULL, NULL
    );
SELECT set_config('gatehouse.roles', '', true);

-- migrate:down
