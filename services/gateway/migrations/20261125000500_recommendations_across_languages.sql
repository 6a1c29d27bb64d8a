-- migrate:up

-- The same advice is kept once for a user whatever language it was given in (GAT-10): the
-- fingerprint no longer has the language, which `locale` says of `content`. It may be null: a gateway
-- of the version before writes none.
ALTER TABLE gateway.recommendations ADD COLUMN locale text;

-- The policies say nothing of changes, so that nobody makes any: lifted for their owner, here alone.
ALTER TABLE gateway.recommendations NO FORCE ROW LEVEL SECURITY;
DELETE FROM gateway.recommendations r USING gateway.recommendations earlier
 WHERE r.user_id = earlier.user_id AND r.clinic_id = earlier.clinic_id
   AND regexp_replace(r.fingerprint, ':[^:]*$', '')
       = regexp_replace(earlier.fingerprint, ':[^:]*$', '')
   AND (earlier.created_at, earlier.id) < (r.created_at, r.id);
UPDATE gateway.recommendations
   SET locale = regexp_replace(fingerprint, '^.*:', ''),
       fingerprint = regexp_replace(fingerprint, ':[^:]*$', '');
ALTER TABLE gateway.recommendations FORCE ROW LEVEL SECURITY;

-- migrate:down
