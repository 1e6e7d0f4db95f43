-- What people look at.

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
COMMENT ON VIEW outbox.pending IS 'Events that wait to be published, readable, with their age.';
COMMENT ON COLUMN outbox.pending.id IS 'Position in the outbox.';
COMMENT ON COLUMN outbox.pending.event_id IS 'Identity of the event.';
COMMENT ON COLUMN outbox.pending.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.pending.partition IS 'Kafka partition, where the author chose one.';
COMMENT ON COLUMN outbox.pending.key IS 'Record key: as text where it is text, else in hexadecimal.';
COMMENT ON COLUMN outbox.pending.payload IS 'Record value: as text where it is text, else in hexadecimal.';
COMMENT ON COLUMN outbox.pending.headers IS 'The author''s headers.';
COMMENT ON COLUMN outbox.pending.event_type IS 'CloudEvents type, where the author gave one.';
COMMENT ON COLUMN outbox.pending.content_type IS 'Media type of the payload.';
COMMENT ON COLUMN outbox.pending.emitted_at IS 'When the event was emitted.';
COMMENT ON COLUMN outbox.pending.age IS 'How long ago that was.';
COMMENT ON COLUMN outbox.pending.attempts IS 'How often Kafka has refused it.';
COMMENT ON COLUMN outbox.pending.next_attempt_at IS 'Not tried again before this time.';
COMMENT ON COLUMN outbox.pending.last_error IS 'Why Kafka refused it last.';

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
    'What outbox.status and outbox.relays show of a database''s relay, read from shared memory.';

CREATE VIEW outbox.status AS
    SELECT s.*
      FROM outbox.relay_status((SELECT d.oid FROM pg_catalog.pg_database AS d
                                 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) AS s;
COMMENT ON VIEW outbox.status IS
    'One row: this database''s relay, read from shared memory without touching the table of events.';

CREATE VIEW outbox.relays AS
    SELECT d.datname AS database, s.*
      FROM pg_catalog.pg_database AS d CROSS JOIN LATERAL outbox.relay_status(d.oid) AS s
     WHERE s.published IS NOT NULL;
COMMENT ON VIEW outbox.relays IS
    'One row for each database of the server that has a relay, or had one and will again: as outbox.status there.';
COMMENT ON COLUMN outbox.relays.database IS 'The database.';

DO $always$
DECLARE
    described record;
    view_name text;
BEGIN
    FOR described IN
        SELECT * FROM (VALUES
            ('pid', 'Process of the relay; NULL if none runs.'),
            ('state', 'absent, starting, idle, publishing, waiting (for Kafka), failing (in the database), misconfigured, disabled, paused, incompatible (with this version of the extension), replica (a copy, kept by a subscription) or stopping.'),
            ('state_since', 'Since when it has been in this state.'),
            ('connection', 'Of the producer to Kafka: unknown, connected or disconnected.'),
            ('connection_since', 'Since when the connection has been so.'),
            ('last_error', 'The last trouble, kept after it is over: see recovered_at.'),
            ('last_error_at', 'When that was.'),
            ('published', 'Events acknowledged by Kafka and deleted, since the server started.'),
            ('refused', 'Refusals of events by Kafka, since the server started.'),
            ('in_flight', 'Events handed to the producer and not yet settled.'),
            ('oldest_event_at', 'When the oldest event in flight was emitted; NULL if none is in flight. Of all that waits: outbox.backlog.'),
            ('last_publish_at', 'When events were last settled as published.'),
            ('sweeps', 'Reads of the table for new events, since the server started.'),
            ('wakeups', 'Times the relay woke from its sleep, since the server started.'),
            ('max_in_flight', 'How many events may be in flight: event_outbox.max_in_flight.'),
            ('waiting_retries', 'Refused events that wait for their next attempt, as far as the relay has met them.'),
            ('blocked_keys', 'Keys whose events wait behind a refused one of theirs.'),
            ('publish_rate', 'Events published per second, over the last minute or so.'),
            ('error_counts', 'What has gone wrong since the server started, and how often: refusals by their class, "disconnected", and "producer" for one that could not be used.'),
            ('round_trip_ms', 'Mean time from a request to Kafka''s answer, of the slowest broker; NULL unless kafka_properties sets statistics.interval.ms, as for the columns below.'),
            ('round_trip_p99_ms', 'The same time, of all but one request in a hundred.'),
            ('queued', 'Events in librdkafka''s queues and on their way to Kafka.'),
            ('open_requests', 'Requests that no broker has answered yet.'),
            ('recovered_at', 'When the trouble of last_error was over; NULL while it lasts, or if there was none.')
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
    'One row: what waits in this database, read from its tables; also while no relay runs.';
COMMENT ON COLUMN outbox.backlog.pending IS
    'Events that wait, as the server''s statistics estimate it; 0 is exact.';
COMMENT ON COLUMN outbox.backlog.oldest_event_at IS 'When the oldest of them was emitted; NULL if there is none.';
COMMENT ON COLUMN outbox.backlog.lag IS 'How long ago that was.';
COMMENT ON COLUMN outbox.backlog.dead_letters IS 'Events that Kafka refused for good, and that nobody has sent again or discarded.';

CREATE FUNCTION outbox.wait_published(timeout interval) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_wait_published';
COMMENT ON FUNCTION outbox.wait_published(interval) IS
    'Waits until all events that were committed before the call have left the outbox; false if the timeout came first.';
