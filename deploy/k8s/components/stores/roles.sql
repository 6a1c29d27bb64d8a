-- The database and its roles, made once by a superuser, before the first migration. None of them can bypass row level
-- security. The passwords are in the environment: run it with
--   psql --set ON_ERROR_STOP=1 --file roles.sql
-- and leave out gatehouse_clinic where the example domain is not wanted.
\getenv migrator GATEHOUSE_MIGRATOR_PASSWORD
\getenv entitlements GATEHOUSE_ENTITLEMENTS_PASSWORD
\getenv usage GATEHOUSE_USAGE_PASSWORD
\getenv router GATEHOUSE_ROUTER_PASSWORD
\getenv gateway GATEHOUSE_GATEWAY_PASSWORD
\getenv oplog GATEHOUSE_OPLOG_PASSWORD
\getenv clinic GATEHOUSE_CLINIC_PASSWORD

CREATE ROLE gatehouse_migrator LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'migrator';
CREATE ROLE gatehouse_entitlements LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'entitlements';
CREATE ROLE gatehouse_usage LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'usage';
CREATE ROLE gatehouse_router LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'router';
CREATE ROLE gatehouse_gateway LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'gateway';
CREATE ROLE gatehouse_oplog LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'oplog';
CREATE ROLE gatehouse_clinic LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'clinic';

-- What a session of theirs may hold up at most. Services set shorter ones for each transaction; these are for what is done
-- by hand in their names, and for one that would not. A migration does not queue before everybody's reads for long: it is
-- refused, and tried again.
ALTER ROLE gatehouse_migrator SET lock_timeout = '5s';
ALTER ROLE gatehouse_migrator SET idle_in_transaction_session_timeout = '60s';
SELECT format('ALTER ROLE %I SET %I = %L', role, setting, value)
FROM unnest(ARRAY['gatehouse_entitlements', 'gatehouse_usage', 'gatehouse_router', 'gatehouse_gateway', 'gatehouse_oplog',
        'gatehouse_clinic']) AS role,
    (VALUES ('lock_timeout', '5s'), ('statement_timeout', '60s'), ('idle_in_transaction_session_timeout', '10s'))
        AS limits (setting, value)
WHERE role IN (SELECT rolname FROM pg_roles)
\gexec

-- They own the schemas in it: the migrator, who may make them; the services may connect and no more.
CREATE DATABASE gatehouse OWNER gatehouse_migrator;
REVOKE ALL ON DATABASE gatehouse FROM PUBLIC;
GRANT CONNECT ON DATABASE gatehouse
    TO gatehouse_entitlements, gatehouse_usage, gatehouse_router, gatehouse_gateway, gatehouse_oplog, gatehouse_clinic;
