-- migrate:up

-- Requests of several users are taken on, and finished, in one statement: it runs in the name of all
-- of them, separated by commas, and reaches nobody else's.
ALTER POLICY own ON gateway.requests
    USING (user_id::text = ANY (string_to_array(current_setting('gatehouse.user_id', true), ',')))
    WITH CHECK (
        user_id::text = ANY (string_to_array(current_setting('gatehouse.user_id', true), ','))
    );

-- migrate:down
