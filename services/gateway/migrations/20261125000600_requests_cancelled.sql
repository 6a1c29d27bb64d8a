-- migrate:up

-- Someone asked for the request to be stopped. Whoever carries it out is told at once, and finds it
-- here when the word was lost on its way (GAT-7).
ALTER TABLE gateway.requests ADD COLUMN cancelled boolean NOT NULL DEFAULT false;

-- migrate:down
