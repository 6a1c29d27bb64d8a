-- migrate:up

-- Whose midnight begins the day that counts (USE-4), an IANA name. Null: that of each user's token. A clinic that has a zone
-- has a plan as well, so that one row says all that is kept of a clinic.
ALTER TABLE entitlements.clinic_plan
    ADD COLUMN time_zone text CHECK (time_zone ~ '^[A-Za-z][A-Za-z0-9_+/-]{0,63}$');

-- migrate:down
