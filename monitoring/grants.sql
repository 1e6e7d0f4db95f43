-- Creates the exporter's user with the few privileges that it needs. Run this in each database that has the extension.
DO $$ BEGIN
    CREATE ROLE metrics LOGIN;
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
GRANT USAGE ON SCHEMA outbox TO metrics;
GRANT SELECT ON outbox.status, outbox.backlog TO metrics;
-- The user can count the dead letters of each kind, but not read their contents.
GRANT SELECT (topic, error_class) ON outbox.dead_letters TO metrics;
-- When events are scheduled, but not what they say.
GRANT SELECT (deliver_at) ON outbox.scheduled TO metrics;
-- Whether the Schema Registry has the schemas, but not what they say.
GRANT SELECT (registry_state) ON outbox.schemas TO metrics;
GRANT SELECT (registry, state) ON outbox.schema_fetch TO metrics;
-- The same for the inbox, of which it sees what is subscribed, and how far.
GRANT USAGE ON SCHEMA inbox TO metrics;
GRANT SELECT ON inbox.consumers, inbox.subscription, inbox.partition, inbox.segment, inbox.next_offset, inbox.unreceived TO metrics;
GRANT EXECUTE ON FUNCTION inbox.end_offsets(interval) TO metrics;
GRANT SELECT (subscription_id, ready_at, failing_since) ON inbox.projection TO metrics;
GRANT SELECT (subscription_id) ON inbox.retry, inbox.dead_letters TO metrics;
