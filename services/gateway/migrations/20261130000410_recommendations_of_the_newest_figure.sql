-- migrate:up

-- A user has one recommendation about each figure, and a newer figure replaces the older one (GAT-10). `fingerprint` says what
-- it is about and no longer the figure, which `figure` has with its days.
ALTER TABLE gateway.recommendations
    ADD COLUMN figure text NOT NULL DEFAULT '',
    ADD COLUMN updated_at timestamptz;

-- No policy allows the owner of the table what follows, so they are lifted for it, here alone.
ALTER TABLE gateway.recommendations NO FORCE ROW LEVEL SECURITY;
DELETE FROM gateway.recommendations r USING gateway.recommendations newer
 WHERE r.user_id = newer.user_id AND r.clinic_id = newer.clinic_id
   AND split_part(r.fingerprint, ':', 1) = split_part(newer.fingerprint, ':', 1)
   AND (newer.created_at, newer.id) > (r.created_at, r.id);
UPDATE gateway.recommendations
   SET fingerprint = split_part(fingerprint, ':', 1), updated_at = created_at;
ALTER TABLE gateway.recommendations FORCE ROW LEVEL SECURITY;
-- A gateway of the version before writes neither.
ALTER TABLE gateway.recommendations ALTER COLUMN updated_at SET DEFAULT now();
ALTER TABLE gateway.recommendations ALTER COLUMN updated_at SET NOT NULL;

-- Changed by their user alone, and only in what a newer figure changes.
CREATE POLICY change_own ON gateway.recommendations FOR UPDATE USING (
    user_id::text = current_setting('gatehouse.user_id', true)
    AND clinic_id::text = current_setting('gatehouse.clinic_id', true)
) WITH CHECK (
    user_id::text = current_setting('gatehouse.user_id', true)
    AND clinic_id::text = current_setting('gatehouse.clinic_id', true)
);
GRANT UPDATE (content, locale, figure, updated_at) ON gateway.recommendations TO gatehouse_gateway;

-- migrate:down
