-- migrate:up

-- What a user was advised (GAT-10). `fingerprint` says the same advice apart from its wording, so
-- that it is kept once.
CREATE TABLE gateway.recommendations (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    clinic_id uuid NOT NULL,
    category text NOT NULL
        CHECK (category IN ('PAYMENT_FOLLOWUP', 'SCHEDULING_OPTIMIZATION', 'CLIENT_ENGAGEMENT')),
    content text NOT NULL CHECK (length(content) BETWEEN 1 AND 2000),
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (user_id, clinic_id, fingerprint)
);

CREATE INDEX recommendations_by_user ON gateway.recommendations (user_id, created_at DESC);

ALTER TABLE gateway.recommendations ENABLE ROW LEVEL SECURITY;
ALTER TABLE gateway.recommendations FORCE ROW LEVEL SECURITY;

-- Visible to their user or an admin (ENT-5); written by their user alone.
CREATE POLICY read_own ON gateway.recommendations FOR SELECT USING (
    user_id::text = current_setting('gatehouse.user_id', true)
    OR 'admin' = ANY (string_to_array(current_setting('gatehouse.roles', true), ','))
);
CREATE POLICY write_own ON gateway.recommendations FOR INSERT WITH CHECK (
    user_id::text = current_setting('gatehouse.user_id', true)
    AND clinic_id::text = current_setting('gatehouse.clinic_id', true)
);

GRANT SELECT, INSERT ON gateway.recommendations TO gatehouse_gateway;

-- migrate:down
