-- migrate:up

-- A token whose clinic is no UUID names no clinic: it sees nothing, rather than breaking each statement.
CREATE OR REPLACE FUNCTION clinic.caller_clinic() RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN pg_input_is_valid(current_setting('gatehouse.clinic_id', true), 'uuid')
    THEN current_setting('gatehouse.clinic_id', true)::uuid END;

-- As a subquery it is asked once a statement, and not once a row.
ALTER POLICY own_clinic ON clinic.clients
    USING (clinic_id = (SELECT clinic.caller_clinic()))
    WITH CHECK (clinic_id = (SELECT clinic.caller_clinic()));
ALTER POLICY own_clinic ON clinic.invoices
    USING (clinic_id = (SELECT clinic.caller_clinic()))
    WITH CHECK (clinic_id = (SELECT clinic.caller_clinic()));
ALTER POLICY own_clinic ON clinic.appointments
    USING (clinic_id = (SELECT clinic.caller_clinic()))
    WITH CHECK (clinic_id = (SELECT clinic.caller_clinic()));
ALTER POLICY own_clinic ON clinic.reminders
    USING (clinic_id = (SELECT clinic.caller_clinic()))
    WITH CHECK (clinic_id = (SELECT clinic.caller_clinic()));

-- By decomposition, so that every accent of every script goes, however the letter was typed.
CREATE OR REPLACE FUNCTION clinic.folded(value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
RETURN regexp_replace(normalize(lower(value), NFKD), '[\u0300-\u036f]', '', 'g');
REINDEX INDEX clinic.clients_by_name;

-- What is deleted is there for nobody, so its number is free again.
ALTER TABLE clinic.invoices DROP CONSTRAINT invoices_clinic_id_number_key;
CREATE UNIQUE INDEX invoices_by_number ON clinic.invoices (clinic_id, number)
    WHERE deleted_at IS NULL;

-- A paid invoice has the day on which it was paid, and no other has one: what is overdue hangs on it.
-- The owner sees the rows of all clinics for as long as they are mended.
ALTER TABLE clinic.invoices NO FORCE ROW LEVEL SECURITY;
UPDATE clinic.invoices SET settled_date = due_date WHERE status = 'paid' AND settled_date IS NULL;
UPDATE clinic.invoices SET settled_date = NULL WHERE status <> 'paid' AND settled_date IS NOT NULL;
ALTER TABLE clinic.invoices FORCE ROW LEVEL SECURITY;
ALTER TABLE clinic.invoices
    ADD CONSTRAINT settled_when_paid CHECK ((status = 'paid') = (settled_date IS NOT NULL));
ALTER TABLE clinic.invoices RENAME CONSTRAINT invoices_check TO due_not_before_issue;

-- For ANALYZE after a load: until then a join is planned as for the few rows that were there before.
GRANT MAINTAIN ON clinic.clients, clinic.invoices, clinic.appointments TO gatehouse_clinic;

CREATE INDEX reminders_by_client ON clinic.reminders (client_id);

-- migrate:down
