-- migrate:up

-- What the chain came to, signed with a key that the database does not have (LOG-4): of every ten
-- minutes the last. They outlive what retention drops.
CREATE TABLE oplog.seals (
    slot timestamptz PRIMARY KEY,
    sealed_at timestamptz NOT NULL,
    position bigint NOT NULL,
    jws text NOT NULL
);
CREATE INDEX seals_by_position ON oplog.seals (position);

ALTER TABLE oplog.seals ENABLE ROW LEVEL SECURITY;
ALTER TABLE oplog.seals FORCE ROW LEVEL SECURITY;
CREATE POLICY written_by_services ON oplog.seals
    USING ((SELECT oplog.caller_has('service'))) WITH CHECK ((SELECT oplog.caller_has('service')));
CREATE POLICY read_for_verification ON oplog.seals FOR SELECT
    USING ((SELECT oplog.caller_has('auditor') OR oplog.caller_has('admin')));
GRANT SELECT, INSERT, UPDATE (sealed_at, position, jws) ON oplog.seals TO gatehouse_oplog;

-- migrate:down
