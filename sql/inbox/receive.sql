-- Owns the functions by which sessions receive; see src/inbox/receive.

CREATE TYPE inbox.event AS (
    position     bigint,
    topic        text,
    partition    integer,
    "offset"     bigint,
    key          bytea,
    payload      bytea,
    data         jsonb,
    decode_error text,
    headers      jsonb,
    event_id     text,
    event_type   text,
    event_source text,
    event_time   timestamptz,
    content_type text,
    produced_at  timestamptz,
    attempt      integer,
    lease        uuid
);
COMMENT ON TYPE inbox.event IS 'An event as inbox.receive() returns it.';
COMMENT ON COLUMN inbox.event.position IS 'Its place in the log of this database.';
COMMENT ON COLUMN inbox.event.topic IS 'The topic.';
COMMENT ON COLUMN inbox.event.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.event."offset" IS 'The offset in the partition.';
COMMENT ON COLUMN inbox.event.key IS 'The record''s key.';
COMMENT ON COLUMN inbox.event.payload IS 'The record''s value, or the data of a CloudEvent in structured mode; NULL for a tombstone.';
COMMENT ON COLUMN inbox.event.data IS 'The payload as JSON; NULL if it is none.';
COMMENT ON COLUMN inbox.event.decode_error IS 'Why data or headers are NULL, although the record has some.';
COMMENT ON COLUMN inbox.event.headers IS 'The record''s headers, with the attributes of a CloudEvent in structured mode as ce_…; a name that is repeated has an array of its values.';
COMMENT ON COLUMN inbox.event.event_id IS 'The header ce_id of CloudEvents, or id of Debezium''s outbox router.';
COMMENT ON COLUMN inbox.event.event_type IS 'The header ce_type of CloudEvents, or eventType of Debezium''s outbox router.';
COMMENT ON COLUMN inbox.event.event_source IS 'The header ce_source of CloudEvents.';
COMMENT ON COLUMN inbox.event.event_time IS 'The header ce_time of CloudEvents; NULL if it is not a time.';
COMMENT ON COLUMN inbox.event.content_type IS 'The header content-type, or the attribute datacontenttype of a CloudEvent in structured mode.';
COMMENT ON COLUMN inbox.event.produced_at IS 'The record''s timestamp.';
COMMENT ON COLUMN inbox.event.attempt IS 'The number of this attempt, from 1, as far as failures are charged to the event.';
COMMENT ON COLUMN inbox.event.lease IS 'The lease, for inbox.ack(); NULL if the commit acknowledges the event.';

CREATE FUNCTION inbox.receive(subscription text, max_events integer DEFAULT 100, lease interval DEFAULT NULL)
    RETURNS SETOF inbox.event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'inbox_receive';
COMMENT ON FUNCTION inbox.receive(text, integer, interval) IS
    'Returns the next events of the subscription that no other session has. The commit of the transaction acknowledges all of them, also those that the query drops by LIMIT or WHERE; max_events is the limit. With a lease, inbox.ack() acknowledges them.';

CREATE FUNCTION inbox.nack(subscription text, at_position bigint, error text, retry_after interval DEFAULT NULL) RETURNS bigint[]
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_nack';
COMMENT ON FUNCTION inbox.nack(text, bigint, text, interval) IS
    'Gives back an event that this transaction has received: it comes again later, or is a dead letter if its attempts are used up. Later events of its key go back behind it; returns their positions, which the caller must not handle.';

CREATE FUNCTION inbox.ack(lease uuid) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_ack';
COMMENT ON FUNCTION inbox.ack(uuid) IS
    'Acknowledges the events of a lease. Returns false if the lease has expired and the events are received again.';

CREATE FUNCTION inbox.extend(lease uuid, by interval) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_extend';
COMMENT ON FUNCTION inbox.extend(uuid, interval) IS
    'Lets a lease hold at least this long from now on. Returns false if it has expired and the events are received again.';

CREATE PROCEDURE inbox.await(subscription text, timeout interval DEFAULT '1 minute', INOUT ready boolean DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'inbox_await';
COMMENT ON PROCEDURE inbox.await(text, interval, boolean) IS
    'Commits, and waits until the subscription has something to receive. ready is false if the time was up before. A timeout of NULL is none.';
