-- migrate:up

-- A revision names a history, not only a number (ENT-6). A promoted replica that lacks the last changes goes on from the
-- last number that it has, so a number alone may stand for two changes. An epoch is one stretch of history that nothing
-- was lost from while it lasted; with where it ended, the store tells a revision that it has from one that it lost.

-- The server that runs now, over these files. It is another one after every start, so also after a promotion and a
-- restore, and after the table was restored in place. Any role may ask; no rights of a provider are needed.
CREATE FUNCTION entitlements.incarnation() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN extract(epoch FROM pg_postmaster_start_time())::text || '/'
    || pg_relation_filenode('entitlements.changes'::regclass)::text;

ALTER TABLE entitlements.revision
    ADD COLUMN epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN incarnation text NOT NULL DEFAULT '';

-- The epochs before, each with its last revision.
CREATE TABLE entitlements.former_epochs (
    epoch uuid PRIMARY KEY,
    last_revision bigint NOT NULL,
    ended_at timestamptz NOT NULL
);
ALTER TABLE entitlements.former_epochs ENABLE ROW LEVEL SECURITY;
ALTER TABLE entitlements.former_epochs FORCE ROW LEVEL SECURITY;
CREATE POLICY read_by_any_caller ON entitlements.former_epochs FOR SELECT
    USING ((SELECT entitlements.caller_is_known()));
CREATE POLICY written_by_the_trigger ON entitlements.former_epochs FOR INSERT TO CURRENT_USER
    WITH CHECK (true);
GRANT SELECT ON entitlements.former_epochs TO gatehouse_entitlements;

-- Begins a new epoch where the server is another one than wrote last. Every change passes here before it takes its
-- number, so no number is given out twice in one epoch, whoever writes; services pass here whenever they look, so that what
-- was lost is known before anybody writes.
CREATE FUNCTION entitlements.current_epoch() RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here text := entitlements.incarnation();
    found uuid;
BEGIN
    SELECT r.epoch INTO found FROM entitlements.revision AS r WHERE r.incarnation = here;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    -- One at a time: who comes second finds it begun.
    PERFORM FROM entitlements.revision FOR UPDATE;
    INSERT INTO entitlements.former_epochs (epoch, last_revision, ended_at)
        SELECT r.epoch, r.revision, clock_timestamp() FROM entitlements.revision AS r
        WHERE r.incarnation <> here;
    UPDATE entitlements.revision AS r SET epoch = gen_random_uuid(), incarnation = here
        WHERE r.incarnation <> here;
    SELECT r.epoch INTO found FROM entitlements.revision AS r;
    RETURN found;
END
$$;

CREATE OR REPLACE FUNCTION entitlements.next_revision(OUT revision bigint, OUT changed_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM entitlements.current_epoch();
    UPDATE entitlements.revision AS r
    SET revision = r.revision + 1,
        changed_at = greatest(clock_timestamp(), r.changed_at + interval '1 microsecond')
    RETURNING r.revision, r.changed_at INTO next_revision.revision, next_revision.changed_at;
END
$$;
REVOKE EXECUTE ON FUNCTION entitlements.next_revision() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION entitlements.current_epoch() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION entitlements.current_epoch() TO gatehouse_entitlements;

-- migrate:down
