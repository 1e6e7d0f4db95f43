-- The exporter's user, and the little that it needs: in each database that has the extension.
DO $$ BEGIN
    CREATE ROLE metrics LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
GRANT USAGE ON SCHEMA outbox TO metrics;
GRANT SELECT ON outbox.status, outbox.backlog TO metrics;
-- Of dead letters how many there are of which kind, not what is in them.
GRANT SELECT (topic, error_class) ON outbox.dead_letters TO metrics;
