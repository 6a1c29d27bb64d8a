-- migrate:up

-- All that one request came to, whoever sent it: without it the filter by request_id reads the whole log.
CREATE INDEX operation_log_by_request ON oplog.operation_log (request_id);

-- migrate:down
