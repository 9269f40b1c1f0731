-- Accounts of the roles in PostgreSQL 15 or later, and what each may do. Safe to repeat. As a superuser, once:
--
--   psql -d postgres -c 'CREATE DATABASE notifyd'
--   psql -d notifyd -f k8s/access/postgres.sql
--   psql -d notifyd -c '\password notifyd_owner'     and so on for the others
--
-- notifyd_owner     the Job `prepare` and the CronJob `retention`: makes, changes and drops tables
-- notifyd_persist   reads and writes rows; makes the partitions of a day by way of a function of the owner's
-- notifyd_sweep     reads and writes rows
-- notifyd_api       reads and writes rows: what users have seen, read and archived
-- notifyd_ws        reads rows
-- deliver           has no database
DO $$
DECLARE
    account text;
BEGIN
    FOREACH account IN ARRAY ARRAY['notifyd_owner', 'notifyd_persist', 'notifyd_sweep', 'notifyd_api', 'notifyd_ws'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = account) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', account);
        END IF;
    END LOOP;
    EXECUTE format('ALTER DATABASE %I OWNER TO notifyd_owner', current_database());
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO notifyd_persist, notifyd_sweep, notifyd_api, notifyd_ws',
                   current_database());
END
$$;

-- What is there, where a release with one account for all came before.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO notifyd_persist, notifyd_sweep, notifyd_api;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO notifyd_ws;

-- What the owner makes from now on.
ALTER DEFAULT PRIVILEGES FOR ROLE notifyd_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO notifyd_persist, notifyd_sweep, notifyd_api;
ALTER DEFAULT PRIVILEGES FOR ROLE notifyd_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO notifyd_ws;
