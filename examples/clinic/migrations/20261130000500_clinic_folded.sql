-- migrate:up

-- Text as it is compared is kept beside the text as it was written. Under row level security a function of a column that is
-- not leakproof is asked of every row, whatever index there is; a comparison of texts is leakproof. To find a client by name
-- took 700 ms among 62,000.
ALTER TABLE clinic.clients
    ADD COLUMN name_folded text GENERATED ALWAYS AS (clinic.folded(name)) STORED,
    ADD COLUMN phone_folded text GENERATED ALWAYS AS (clinic.folded(phone)) STORED,
    ADD COLUMN email_folded text GENERATED ALWAYS AS (clinic.folded(email)) STORED,
    ADD COLUMN neighbourhood_folded text GENERATED ALWAYS AS (clinic.folded(neighbourhood)) STORED;
ALTER TABLE clinic.invoices
    ADD COLUMN number_folded text GENERATED ALWAYS AS (clinic.folded(number)) STORED;
ALTER TABLE clinic.reminders
    ADD COLUMN message_folded text GENERATED ALWAYS AS (clinic.folded(message)) STORED;
DROP INDEX clinic.clients_by_name;
-- Records of clients who were deleted are found by the name as well, so it is of all clients.
CREATE INDEX clients_by_name ON clinic.clients (clinic_id, name_folded);
CREATE INDEX clients_by_phone ON clinic.clients (clinic_id, phone_folded) WHERE deleted_at IS NULL;
CREATE INDEX clients_by_email ON clinic.clients (clinic_id, email_folded) WHERE deleted_at IS NULL;
CREATE INDEX invoices_by_folded_number ON clinic.invoices (clinic_id, number_folded) WHERE deleted_at IS NULL;

-- The orders in which records are listed.
CREATE INDEX clients_in_order ON clinic.clients (clinic_id, name, id) WHERE deleted_at IS NULL;
CREATE INDEX invoices_in_order ON clinic.invoices (clinic_id, due_date, number) WHERE deleted_at IS NULL;
CREATE INDEX appointments_in_order ON clinic.appointments (clinic_id, starts_at, id) WHERE deleted_at IS NULL;
CREATE INDEX reminders_in_order ON clinic.reminders (clinic_id, created_at, id) WHERE deleted_at IS NULL;

-- migrate:down
