-- Owns the views of the outbox and its relays, and wait_published().

CREATE VIEW outbox.pending AS
    SELECT e.id,
           e.event_id,
           e.topic,
           e.partition,
           outbox.readable(e.key) AS key,
           outbox.readable(e.payload) AS payload,
           e.headers,
           e.event_type,
           e.content_type,
           e.emitted_at,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) e.emitted_at AS age,
           e.attempts,
           e.next_attempt_at,
           e.last_error
      FROM outbox.events AS e;
COMMENT ON VIEW outbox.pending IS 'Events waiting to be published, with readable keys and payloads and their age.';
COMMENT ON COLUMN outbox.pending.id IS 'Position in the outbox.';
COMMENT ON COLUMN outbox.pending.event_id IS 'Identity of the event.';
COMMENT ON COLUMN outbox.pending.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.pending.partition IS 'Kafka partition, if the event specifies one.';
COMMENT ON COLUMN outbox.pending.key IS 'Record key, as text if it is valid text, otherwise in hexadecimal.';
COMMENT ON COLUMN outbox.pending.payload IS 'Record value, as text if it is valid text, otherwise in hexadecimal.';
COMMENT ON COLUMN outbox.pending.headers IS 'Headers of the event.';
COMMENT ON COLUMN outbox.pending.event_type IS 'CloudEvents type, if the event specifies one.';
COMMENT ON COLUMN outbox.pending.content_type IS 'Media type of the payload.';
COMMENT ON COLUMN outbox.pending.emitted_at IS 'When the event was emitted.';
COMMENT ON COLUMN outbox.pending.age IS 'Time since the event was emitted.';
COMMENT ON COLUMN outbox.pending.attempts IS 'How often Kafka has refused the event.';
COMMENT ON COLUMN outbox.pending.next_attempt_at IS 'Earliest time of the next attempt; NULL if the event was never refused.';
COMMENT ON COLUMN outbox.pending.last_error IS 'Why Kafka last refused the event.';

CREATE FUNCTION outbox.relay_status(
    database oid,
    OUT pid                integer,
    OUT state              text,
    OUT state_since        timestamptz,
    OUT connection         text,
    OUT connection_since   timestamptz,
    OUT last_error         text,
    OUT last_error_at      timestamptz,
    OUT published          bigint,
    OUT refused            bigint,
    OUT in_flight          bigint,
    OUT oldest_event_at    timestamptz,
    OUT last_publish_at    timestamptz,
    OUT sweeps             bigint,
    OUT wakeups            bigint,
    OUT max_in_flight      bigint,
    OUT waiting_retries    bigint,
    OUT blocked_keys       bigint,
    OUT publish_rate       double precision,
    OUT error_counts       jsonb,
    OUT round_trip_ms      double precision,
    OUT round_trip_p99_ms  double precision,
    OUT queued             bigint,
    OUT open_requests      bigint,
    OUT recovered_at       timestamptz
)
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'outbox_relay_status';
COMMENT ON FUNCTION outbox.relay_status(oid) IS
    'Returns what outbox.status and outbox.relays show about a database''s relay, from shared memory.';

CREATE FUNCTION outbox.relay_delivery(database oid, OUT delivery text, OUT given_up bigint)
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'outbox_relay_delivery';
COMMENT ON FUNCTION outbox.relay_delivery(oid) IS
    'Returns what outbox.status and outbox.relays show about how a database''s relay delivers, from shared memory.';

CREATE VIEW outbox.status AS
    SELECT s.*, l.*
      FROM pg_catalog.pg_database AS d
     CROSS JOIN LATERAL outbox.relay_status(d.oid) AS s
     CROSS JOIN LATERAL outbox.relay_delivery(d.oid) AS l
     WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();
COMMENT ON VIEW outbox.status IS
    'One row about the relay of this database, read from shared memory without reading the table of events.';

CREATE VIEW outbox.relays AS
    SELECT d.datname AS database, s.*, l.*
      FROM pg_catalog.pg_database AS d
     CROSS JOIN LATERAL outbox.relay_status(d.oid) AS s
     CROSS JOIN LATERAL outbox.relay_delivery(d.oid) AS l
     WHERE s.published IS NOT NULL;
COMMENT ON VIEW outbox.relays IS
    'One row for each database of the server with a relay, running or to be started again, as outbox.status shows it there.';
COMMENT ON COLUMN outbox.relays.database IS 'The database.';

DO $always$
DECLARE
    described record;
    view_name text;
BEGIN
    FOR described IN
        SELECT * FROM (VALUES
            ('pid', 'Process ID of the relay; NULL if none is running.'),
            ('state', 'absent, queued (for a process), asleep (nothing to do, see event_outbox.idle_timeout), starting, idle, publishing, waiting (for Kafka), failing (in the database), misconfigured, disabled, paused, incompatible (with this version of the extension), replica (a copy, kept by a subscription) or stopping.'),
            ('state_since', 'When the relay entered this state.'),
            ('connection', 'Connection of the producer to Kafka: unknown, connected or disconnected.'),
            ('connection_since', 'When the connection entered this state.'),
            ('last_error', 'The last error, kept after recovery: see recovered_at.'),
            ('last_error_at', 'When the last error occurred.'),
            ('published', 'Events acknowledged by Kafka and deleted, since the server started.'),
            ('refused', 'How often Kafka refused an event, since the server started.'),
            ('in_flight', 'Events passed to the producer and not settled yet.'),
            ('oldest_event_at', 'When the oldest event in flight was emitted; NULL if none is in flight. See outbox.backlog for all waiting events.'),
            ('last_publish_at', 'When published events were last settled.'),
            ('sweeps', 'How often the relay read the table for new events, since the server started.'),
            ('wakeups', 'How often the relay was woken, since the server started.'),
            ('max_in_flight', 'Maximum number of events in flight: event_outbox.max_in_flight.'),
            ('waiting_retries', 'Refused events waiting for their next attempt, as far as the relay has read them.'),
            ('blocked_keys', 'Keys with events waiting behind a refused event.'),
            ('publish_rate', 'Events published per second, over the last minute or so.'),
            ('error_counts', 'Number of errors by kind since the server started: the classes of refusals, "disconnected", and "producer" for a producer that could not be used.'),
            ('round_trip_ms', 'Mean round-trip time of requests to the slowest broker, in milliseconds. This and the next three columns are NULL unless kafka_properties sets statistics.interval.ms.'),
            ('round_trip_p99_ms', '99th percentile of that round-trip time, in milliseconds.'),
            ('queued', 'Events in librdkafka''s queues or being sent.'),
            ('open_requests', 'Requests not answered by a broker yet.'),
            ('recovered_at', 'When the relay recovered from last_error; NULL if it has not, or if there was no error.'),
            ('delivery', 'How the relay delivers: event_outbox.delivery. NULL if none is running.'),
            ('given_up', 'Events of delivery at most once that were deleted and then not acknowledged by Kafka, since the server started.')
        ) AS v(column_name, description)
    LOOP
        FOREACH view_name IN ARRAY ARRAY['status', 'relays'] LOOP
            EXECUTE pg_catalog.format('COMMENT ON COLUMN outbox.%I.%I IS %L',
                                      view_name, described.column_name, described.description);
        END LOOP;
    END LOOP;
END
$always$;

CREATE VIEW outbox.backlog AS
    SELECT CASE WHEN oldest.emitted_at IS NULL THEN 0
                ELSE greatest(1, pg_catalog.pg_stat_get_live_tuples('outbox.events'::pg_catalog.regclass)) END AS pending,
           oldest.emitted_at AS oldest_event_at,
           coalesce(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest.emitted_at, '0'::interval) AS lag,
           (SELECT pg_catalog.count(*) FROM outbox.dead_letters) AS dead_letters
      FROM (SELECT) AS one_row
           LEFT JOIN LATERAL (SELECT e.emitted_at FROM outbox.events AS e ORDER BY e.id LIMIT 1) AS oldest ON true;
COMMENT ON VIEW outbox.backlog IS
    'One row about the events waiting in this database, read from its tables. It works without a relay, too.';
COMMENT ON COLUMN outbox.backlog.pending IS
    'Number of waiting events, estimated from the server''s statistics; 0 is exact.';
COMMENT ON COLUMN outbox.backlog.oldest_event_at IS 'When the oldest waiting event was emitted; NULL if none is waiting.';
COMMENT ON COLUMN outbox.backlog.lag IS 'Age of the oldest waiting event.';
COMMENT ON COLUMN outbox.backlog.dead_letters IS 'Number of events in outbox.dead_letters.';

CREATE FUNCTION outbox.wait_published(timeout interval) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_wait_published';
COMMENT ON FUNCTION outbox.wait_published(interval) IS
    'Waits until all events committed before the call have left the outbox; returns false if the timeout expires first.';
