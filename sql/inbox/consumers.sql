-- Owns what the inbox's worker needs in SQL, and what it shows of itself.

CREATE FUNCTION inbox.order_key(ordering text, topic text, partition integer, key bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE ordering
               WHEN 'key' THEN convert_to(topic, 'UTF8') || '\x00' || key
               WHEN 'partition' THEN convert_to(topic, 'UTF8') || '\x00' || convert_to(partition::text, 'UTF8')
           END
$$;
COMMENT ON FUNCTION inbox.order_key(text, text, integer, bytea) IS
    'Returns what events that keep their order have in common; NULL for an event that waits for no other.';

CREATE FUNCTION inbox.after_change() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'inbox_after_change';
COMMENT ON FUNCTION inbox.after_change() IS 'Has the inbox''s worker read the subscriptions again, and starts it if there is none.';

CREATE TRIGGER subscription_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON inbox.subscription
    FOR EACH STATEMENT EXECUTE FUNCTION inbox.after_change();
CREATE TRIGGER partition_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON inbox.partition
    FOR EACH STATEMENT EXECUTE FUNCTION inbox.after_change();
-- inbox.redrive() has them received again.
CREATE TRIGGER dead_letters_removed AFTER DELETE ON inbox.dead_letters
    FOR EACH STATEMENT EXECUTE FUNCTION inbox.after_change();

CREATE FUNCTION inbox.consumer_status(
    database                oid,
    OUT pid                 integer,
    OUT state               text,
    OUT state_since         timestamptz,
    OUT connection          text,
    OUT connection_since    timestamptz,
    OUT last_error          text,
    OUT last_error_at       timestamptz,
    OUT recovered_at        timestamptz,
    OUT stored              bigint,
    OUT store_rate          double precision,
    OUT batches             bigint,
    OUT last_store_at       timestamptz,
    OUT failures            bigint
) RETURNS record
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'inbox_consumer_status';
COMMENT ON FUNCTION inbox.consumer_status(oid) IS 'Returns the status of the inbox''s worker of a database, for inbox.consumers.';

CREATE VIEW inbox.consumers AS
    SELECT d.datname AS database, s.*
      FROM pg_catalog.pg_database AS d CROSS JOIN LATERAL inbox.consumer_status(d.oid) AS s
     WHERE s.state <> 'absent' OR d.datname = pg_catalog.current_database();
COMMENT ON VIEW inbox.consumers IS
    'The inbox''s workers of all databases: there is one while a database has a subscription.';
COMMENT ON COLUMN inbox.consumers.database IS 'The database.';
COMMENT ON COLUMN inbox.consumers.pid IS 'The worker''s process; NULL if there is none.';
COMMENT ON COLUMN inbox.consumers.state IS
    'absent, queued (for a process), starting, idle (all is stored), reading, waiting (no broker answers, or a partition has no leader), failing (a transaction failed and is repeated), misconfigured (a consumer cannot be started), disabled, or stopping.';
COMMENT ON COLUMN inbox.consumers.state_since IS 'Since when it has been in this state.';
COMMENT ON COLUMN inbox.consumers.connection IS 'connected, disconnected, or unknown while not yet known.';
COMMENT ON COLUMN inbox.consumers.connection_since IS 'Since when the connection has been in this state.';
COMMENT ON COLUMN inbox.consumers.last_error IS 'The last error.';
COMMENT ON COLUMN inbox.consumers.last_error_at IS 'When it occurred.';
COMMENT ON COLUMN inbox.consumers.recovered_at IS 'When it was over; NULL if it is not.';
COMMENT ON COLUMN inbox.consumers.stored IS 'How many events were stored since the server started.';
COMMENT ON COLUMN inbox.consumers.store_rate IS 'Events stored per second, over about the last minute.';
COMMENT ON COLUMN inbox.consumers.batches IS 'How many batches were stored since the server started.';
COMMENT ON COLUMN inbox.consumers.last_store_at IS 'When events were last stored.';
COMMENT ON COLUMN inbox.consumers.failures IS 'How many failures of receivers were recorded since the server started.';
