-- migrate:up

-- A token whose clinic is no UUID names no clinic: it sees nothing, rather than breaking each statement.
CREATE OR REPLACE FUNCTION clinic.caller_clinic() RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN pg_input_is_valid(current_setting('gatehouse.clinic_id', true), 'uuid')
    THEN current_setting('gatehouse.clinic_id', true)::uuid END;

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

CREATE INDEX reminders_by_client ON clinic.reminders (client_id);

-- migrate:down
