-- migrate:up

-- Every counted call keeps its answer here: Execute, Analyze, StreamAnalyze and Recommend (GAT-2).
--
-- use_id: one use of a request_id; the ids of its operations and claims derive from it, so that an
-- id used again after its answer expired does not meet the rows of its first use.
-- attempt: how often the request was taken on; fences what an earlier attempt still has under way.
-- delivered: a part of the answer reached the caller, so what was counted for it is not released.
-- unlogged: the spans that the operation log may lack, an ExportTraceServiceRequest.
ALTER TABLE gateway.requests
    ADD COLUMN use_id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN attempt bigint NOT NULL DEFAULT 1,
    ADD COLUMN delivered boolean NOT NULL DEFAULT false,
    ADD COLUMN unlogged bytea;

-- answered: the request only read, its answer stands, and `unlogged` may not be in the log yet;
-- abandoned: an attempt ended without an answer, and nothing is counted for it.
ALTER TABLE gateway.requests DROP CONSTRAINT requests_state_check;
ALTER TABLE gateway.requests ADD CONSTRAINT requests_state_check CHECK (state IN (
    'running', 'confirming', 'dispatching', 'settling', 'answered', 'finished', 'abandoned'));
ALTER TABLE gateway.requests DROP CONSTRAINT requests_check;
ALTER TABLE gateway.requests ADD CONSTRAINT requests_answer_check
    CHECK (state IN ('running', 'abandoned') OR answer IS NOT NULL);
ALTER TABLE gateway.requests ADD CONSTRAINT requests_unlogged_check
    CHECK (state <> 'answered' OR unlogged IS NOT NULL);

DROP INDEX gateway.requests_left;
CREATE INDEX requests_orphaned ON gateway.requests (lease_until)
    WHERE state IN ('running', 'dispatching', 'settling', 'answered');
ALTER POLICY left_seen ON gateway.requests
    USING (gateway.caller_has('service') AND lease_until < now()
           AND state IN ('running', 'dispatching', 'settling', 'answered'));

-- migrate:down
