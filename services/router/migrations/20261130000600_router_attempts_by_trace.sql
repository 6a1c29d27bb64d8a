-- migrate:up

-- What an operator asks for besides a user's: the attempts of one trace, and those of a clinic, newest first.
CREATE INDEX attempts_by_trace ON router.attempts (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX attempts_by_clinic ON router.attempts (clinic_id, started_at) WHERE clinic_id IS NOT NULL;

-- migrate:down
