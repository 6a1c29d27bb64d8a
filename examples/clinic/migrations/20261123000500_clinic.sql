-- migrate:up

CREATE SCHEMA IF NOT EXISTS clinic;

CREATE FUNCTION clinic.caller_clinic() RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN nullif(current_setting('gatehouse.clinic_id', true), '')::uuid;

CREATE FUNCTION clinic.caller_has(role text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN role = ANY (string_to_array(coalesce(current_setting('gatehouse.roles', true), ''), ','));

-- Text as it is compared: without regard to case and accents.
CREATE FUNCTION clinic.folded(value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN translate(lower(value), 'áàâãäåéèêëíìîïóòôõöúùûüçñý', 'aaaaaaeeeeiiiiooooouuuucny');

CREATE TABLE clinic.clients (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    clinic_id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    phone text,
    email text,
    birth_date date,
    gender text CHECK (gender IN ('female', 'male')),
    neighbourhood text,
    contact_consent boolean NOT NULL DEFAULT false,
    source_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (clinic_id, id),
    UNIQUE (clinic_id, source_id)
);
CREATE INDEX clients_by_name ON clinic.clients (clinic_id, clinic.folded(name));

CREATE TABLE clinic.invoices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    clinic_id uuid NOT NULL,
    client_id uuid NOT NULL,
    number text NOT NULL CHECK (length(number) BETWEEN 1 AND 40),
    amount numeric(12, 2) NOT NULL CHECK (amount >= 0),
    issued_date date NOT NULL,
    due_date date NOT NULL CHECK (due_date >= issued_date),
    settled_date date,
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'cancelled')),
    disputed boolean NOT NULL DEFAULT false,
    channel text NOT NULL DEFAULT 'electronic' CHECK (channel IN ('paper', 'electronic')),
    -- Closed by the accountant: no longer to be changed.
    locked boolean NOT NULL DEFAULT false,
    deleted_at timestamptz,
    UNIQUE (clinic_id, number),
    FOREIGN KEY (clinic_id, client_id) REFERENCES clinic.clients (clinic_id, id)
);
CREATE INDEX invoices_by_client ON clinic.invoices (client_id);
CREATE INDEX invoices_by_issue ON clinic.invoices (clinic_id, issued_date);

CREATE TABLE clinic.appointments (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    clinic_id uuid NOT NULL,
    client_id uuid NOT NULL,
    starts_at timestamptz NOT NULL,
    status text NOT NULL DEFAULT 'scheduled'
        CHECK (status IN ('scheduled', 'cancelled', 'kept', 'missed')),
    sms_received boolean NOT NULL DEFAULT false,
    source_id text,
    deleted_at timestamptz,
    UNIQUE (clinic_id, id),
    UNIQUE (clinic_id, source_id),
    FOREIGN KEY (clinic_id, client_id) REFERENCES clinic.clients (clinic_id, id)
);
CREATE INDEX appointments_by_client ON clinic.appointments (client_id);
CREATE INDEX appointments_by_time ON clinic.appointments (clinic_id, starts_at);

CREATE TABLE clinic.reminders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    clinic_id uuid NOT NULL,
    client_id uuid NOT NULL,
    channel text NOT NULL DEFAULT 'sms' CHECK (channel IN ('sms', 'email')),
    message text CHECK (length(message) <= 1000),
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    FOREIGN KEY (clinic_id, client_id) REFERENCES clinic.clients (clinic_id, id)
);

-- What was done under which id, so that the same id does nothing twice, and an id that was answered
-- as not applied never is (DOM-1).
CREATE TABLE clinic.operations (
    operation_id uuid PRIMARY KEY,
    clinic_id uuid,
    fingerprint bytea,
    state text NOT NULL CHECK (state IN ('applied', 'abandoned')),
    result bytea,
    recorded_at timestamptz NOT NULL DEFAULT now()
);

-- Every row belongs to a clinic, and only callers of that clinic reach it.
ALTER TABLE clinic.clients ENABLE ROW LEVEL SECURITY;
ALTER TABLE clinic.clients FORCE ROW LEVEL SECURITY;
ALTER TABLE clinic.invoices ENABLE ROW LEVEL SECURITY;
ALTER TABLE clinic.invoices FORCE ROW LEVEL SECURITY;
ALTER TABLE clinic.appointments ENABLE ROW LEVEL SECURITY;
ALTER TABLE clinic.appointments FORCE ROW LEVEL SECURITY;
ALTER TABLE clinic.reminders ENABLE ROW LEVEL SECURITY;
ALTER TABLE clinic.reminders FORCE ROW LEVEL SECURITY;
ALTER TABLE clinic.operations ENABLE ROW LEVEL SECURITY;
ALTER TABLE clinic.operations FORCE ROW LEVEL SECURITY;

CREATE POLICY own_clinic ON clinic.clients
    USING (clinic_id = clinic.caller_clinic()) WITH CHECK (clinic_id = clinic.caller_clinic());
CREATE POLICY own_clinic ON clinic.invoices
    USING (clinic_id = clinic.caller_clinic()) WITH CHECK (clinic_id = clinic.caller_clinic());
CREATE POLICY own_clinic ON clinic.appointments
    USING (clinic_id = clinic.caller_clinic()) WITH CHECK (clinic_id = clinic.caller_clinic());
CREATE POLICY own_clinic ON clinic.reminders
    USING (clinic_id = clinic.caller_clinic()) WITH CHECK (clinic_id = clinic.caller_clinic());
-- The operation log's settler asks about operations of any clinic; what it is told was not applied
-- is so for everybody, and has no clinic.
CREATE POLICY own_clinic ON clinic.operations
    USING (clinic_id = clinic.caller_clinic() OR clinic_id IS NULL
           OR clinic.caller_has('service'))
    WITH CHECK (clinic_id = clinic.caller_clinic() OR clinic.caller_has('service'));

GRANT USAGE ON SCHEMA clinic TO gatehouse_clinic;
GRANT SELECT ON clinic.schema_migrations TO gatehouse_clinic;
GRANT SELECT, INSERT, UPDATE ON clinic.clients, clinic.invoices, clinic.appointments,
    clinic.reminders, clinic.operations TO gatehouse_clinic;

-- migrate:down
