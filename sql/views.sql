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
    OUT pid              integer,
    OUT state            text,
    OUT state_since      timestamptz,
    OUT connection       text,
    OUT connection_since timestamptz,
    OUT last_error       text,
    OUT last_error_at    timestamptz,
    OUT published        bigint,
    OUT refused          bigint,
    OUT in_flight        bigint,
    OUT oldest_event_at  timestamptz,
    OUT last_publish_at  timestamptz,
    OUT sweeps           bigint,
    OUT wakeups          bigint
)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'outbox_relay_status';
COMMENT ON FUNCTION outbox.relay_status() IS 'What outbox.status shows, read from shared memory.';

CREATE VIEW outbox.status AS SELECT s.* FROM outbox.relay_status() AS s;
COMMENT ON VIEW outbox.status IS
    'One row: this database''s relay, read from shared memory without touching the table of events.';
COMMENT ON COLUMN outbox.status.pid IS 'Process of the relay; NULL if none runs.';
COMMENT ON COLUMN outbox.status.state IS
    'absent, starting, idle, publishing, waiting (for Kafka), failing (in the database), misconfigured, disabled, incompatible (with this version of the extension) or stopping.';
COMMENT ON COLUMN outbox.status.state_since IS 'Since when it has been in this state.';
COMMENT ON COLUMN outbox.status.connection IS 'Of the producer to Kafka: unknown, connected or disconnected.';
COMMENT ON COLUMN outbox.status.connection_since IS 'Since when the connection has been so.';
COMMENT ON COLUMN outbox.status.last_error IS 'The last trouble, kept after it is over.';
COMMENT ON COLUMN outbox.status.last_error_at IS 'When that was.';
COMMENT ON COLUMN outbox.status.published IS 'Events acknowledged by Kafka and deleted, since the server started.';
COMMENT ON COLUMN outbox.status.refused IS 'Refusals of events by Kafka, since the server started.';
COMMENT ON COLUMN outbox.status.in_flight IS 'Events handed to the producer and not yet settled.';
COMMENT ON COLUMN outbox.status.oldest_event_at IS
    'When the oldest event in flight was emitted: how long ago that was is the relay''s lag; NULL if none is in flight.';
COMMENT ON COLUMN outbox.status.last_publish_at IS 'When events were last settled as published.';
COMMENT ON COLUMN outbox.status.sweeps IS 'Reads of the table for new events, since the server started.';
COMMENT ON COLUMN outbox.status.wakeups IS 'Times the relay woke from its sleep, since the server started.';

CREATE FUNCTION outbox.wait_published(timeout interval) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'outbox_wait_published';
COMMENT ON FUNCTION outbox.wait_published(interval) IS
    'Waits until all events that were committed before the call have left the outbox; false if the timeout came first.';
