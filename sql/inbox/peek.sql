-- Owns the function that looks at records in Kafka. It asks the relay, which reads them as a subscription would.

CREATE TYPE inbox.kafka_record AS (
    "offset"    bigint,
    produced_at timestamptz,
    key         bytea,
    payload     bytea,
    headers     jsonb,
    truncated   boolean
);
COMMENT ON TYPE inbox.kafka_record IS 'A record of Kafka as inbox.peek() shows it.';
COMMENT ON COLUMN inbox.kafka_record."offset" IS 'The offset in the partition.';
COMMENT ON COLUMN inbox.kafka_record.produced_at IS 'The record''s timestamp; NULL if it has none, or one that PostgreSQL cannot hold.';
COMMENT ON COLUMN inbox.kafka_record.key IS 'The record''s key.';
COMMENT ON COLUMN inbox.kafka_record.payload IS 'The record''s value; NULL for a tombstone.';
COMMENT ON COLUMN inbox.kafka_record.headers IS 'The record''s headers; a name that is repeated has an array of its values.';
COMMENT ON COLUMN inbox.kafka_record.truncated IS
    'Whether the record is too long to be shown whole: the key or the payload ends early, or the headers are NULL.';

CREATE FUNCTION inbox.peek_for(caller regrole, topic text, partition integer, "offset" bigint, max integer, timeout interval)
    RETURNS SETOF inbox.kafka_record
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp ROWS 10
    AS $$
DECLARE
    most  CONSTANT integer := 1000;
    until CONSTANT timestamptz := clock_timestamp() + coalesce(timeout, '10 seconds');
    -- The last millisecond of 9999: whatever a producer has written, the record is shown.
    last_ms CONSTANT bigint := 253402300799999;
    answer json;
    shown  integer := 0;
BEGIN
    IF (outbox.is_topic_name(topic) AND partition >= 0 AND "offset" >= 0 AND max BETWEEN 1 AND most) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'topic, partition, offset and max must say which records to show',
            DETAIL = format('The topic is %s, the partition %s, the offset %s, max %s.',
                            coalesce(quote_literal(left(topic, 300)), 'NULL'), coalesce(partition::text, 'NULL'),
                            coalesce("offset"::text, 'NULL'), coalesce(max::text, 'NULL')),
            HINT = format('Pass the name of a topic, a partition and an offset from 0 on, and max from 1 to %s.', most);
    END IF;
    IF NOT inbox.may_consume(caller, topic) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for topic "%s"', topic),
            DETAIL = format('Neither role %s nor a role whose rights it has was granted this topic to consume. Kafka is read as the server''s user.', caller),
            HINT = 'An administrator can grant it with inbox.grant_topic().';
    END IF;
    -- An answer has room for some records.
    LOOP
        answer := outbox.ask_kafka(
            json_build_object('peek', json_build_object(
                'topic', topic, 'partition', partition, 'offset', "offset", 'max', max - shown)),
            greatest(until - clock_timestamp(), '1 millisecond'));
        RETURN QUERY
            SELECT r."offset",
                   CASE WHEN r.timestamp_ms BETWEEN 0 AND last_ms
                        THEN timestamptz 'epoch' + r.timestamp_ms * interval '1 millisecond' END,
                   decode(r.key, 'hex'), decode(r.value, 'hex'), r.headers, r.truncated
              FROM json_to_recordset(answer -> 'records')
                   AS r("offset" bigint, timestamp_ms bigint, key text, value text, headers jsonb, truncated boolean);
        shown := shown + json_array_length(answer -> 'records');
        EXIT WHEN shown >= max OR (answer ->> 'at_end')::boolean;
        "offset" := (answer -> 'records' -> -1 ->> 'offset')::bigint + 1;
    END LOOP;
END
$$;
COMMENT ON FUNCTION inbox.peek_for(regrole, text, integer, bigint, integer, interval) IS
    'Does the work of inbox.peek() for the caller.';

CREATE FUNCTION inbox.peek(
    topic     text,
    partition integer,
    "offset"  bigint,
    max       integer  DEFAULT 10,
    timeout   interval DEFAULT '10 seconds'
) RETURNS SETOF inbox.kafka_record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.peek(text, integer, bigint, integer, interval) IS
    'Shows records of a partition in Kafka from this offset on, without receiving them: those that a subscription would read. Only roles that may subscribe to the topic.';
