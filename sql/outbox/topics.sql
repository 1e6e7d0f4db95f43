-- Kafka's topics, through the relay: only it has a connection to Kafka.

CREATE FUNCTION outbox.ask_kafka(request json, timeout interval) RETURNS json
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_ask_kafka';
COMMENT ON FUNCTION outbox.ask_kafka(json, interval) IS
    'Has the relay ask Kafka, and waits for the answer; what outbox.create_topic() and outbox.describe_topics() rest on.';

CREATE FUNCTION outbox.create_topic(
    name               text,
    partitions         integer  DEFAULT -1,
    replication_factor integer  DEFAULT -1,
    config             jsonb    DEFAULT '{}',
    timeout            interval DEFAULT '30 seconds'
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF outbox.is_topic_name(name) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'this is no name for a topic',
            DETAIL = format('The name is %s.', coalesce(quote_literal(name), 'NULL')),
            HINT = 'Kafka takes 1 to 249 letters, digits, ".", "_" and "-", but neither "." nor ".."; some names are its own, such as "__consumer_offsets".';
    END IF;
    IF (partitions < 1 AND partitions <> -1) IS NOT FALSE
       OR (replication_factor NOT BETWEEN 1 AND 32767 AND replication_factor <> -1) IS NOT FALSE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'partitions and replication_factor must be positive',
            DETAIL = format('partitions is %s, replication_factor is %s.',
                            coalesce(partitions::text, 'NULL'), coalesce(replication_factor::text, 'NULL')),
            HINT = 'Leave one out, or pass -1, for the default of the brokers.';
    END IF;
    IF (jsonb_typeof(config) = 'object') IS NOT TRUE
       OR EXISTS (SELECT FROM jsonb_each(config) AS e WHERE jsonb_typeof(e.value) NOT IN ('string', 'number', 'boolean')) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'config must be a JSON object of strings, numbers and booleans',
            DETAIL = format('config is %s.', coalesce(left(config::text, 200), 'NULL')),
            HINT = 'For example: config => ''{"retention.ms": "604800000"}''.';
    END IF;
    PERFORM outbox.ask_kafka(
        json_build_object('create_topic', json_build_object(
            'name', name, 'partitions', partitions, 'replication_factor', replication_factor, 'config', config)),
        coalesce(timeout, '30 seconds'));
END
$$;
COMMENT ON FUNCTION outbox.create_topic(text, integer, integer, jsonb, interval) IS
    'Creates a Kafka topic, at once: a ROLLBACK does not take it back. -1 leaves a number to the brokers.';

CREATE FUNCTION outbox.topics_in_use() RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(array_agg(u.topic ORDER BY u.topic), '{}')
      FROM (SELECT e.topic FROM (SELECT topic FROM outbox.events ORDER BY id LIMIT 10000) AS e
            UNION
            SELECT e.topic FROM (SELECT topic FROM outbox.events ORDER BY id DESC LIMIT 10000) AS e
            UNION
            SELECT d.topic FROM (SELECT topic FROM outbox.dead_letters LIMIT 10000) AS d
            UNION
            SELECT current_setting('event_outbox.dead_letter_topic') WHERE current_setting('event_outbox.dead_letter_topic') <> ''
            LIMIT 500) AS u
$$;
COMMENT ON FUNCTION outbox.topics_in_use() IS
    'Topics to which this outbox publishes: those of events and dead letters, the first and last ten thousand; 500 at most.';

CREATE FUNCTION outbox.describe_topics(topics text[] DEFAULT NULL, timeout interval DEFAULT '10 seconds')
    RETURNS TABLE (
        topic               text,
        partitions          integer,
        replication_factor  integer,
        max_message_bytes   bigint,
        min_insync_replicas integer,
        cleanup_policy      text,
        retention           interval,
        error               text
    )
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 10
    AS $$
    SELECT d.topic,
           d.partitions,
           d.replication_factor,
           (d.config->>'max.message.bytes')::bigint,
           (d.config->>'min.insync.replicas')::integer,
           d.config->>'cleanup.policy',
           -- Kafka writes -1 for ever.
           CASE WHEN (d.config->>'retention.ms')::numeric >= 0
                THEN make_interval(secs => (d.config->>'retention.ms')::double precision / 1000) END,
           d.error
      FROM json_to_recordset(outbox.ask_kafka(json_build_object('describe_topics', coalesce($1, outbox.topics_in_use()),
                                                                'and_those_met', $1 IS NULL),
                                              coalesce($2, '10 seconds')))
           AS d(topic text, partitions integer, replication_factor integer, config json, error text)
     ORDER BY d.topic
$$;
COMMENT ON FUNCTION outbox.describe_topics(text[], interval) IS
    'What Kafka says of these topics, or of those in use; error says why it says nothing, or not all. NULL retention is for ever.';

CREATE VIEW outbox.topics AS
    SELECT t.* FROM outbox.describe_topics() AS t;
COMMENT ON VIEW outbox.topics IS 'The topics in use, as Kafka describes them: those of outbox.topics_in_use(), and those that the relay has met since it began. Asks Kafka at each look.';
COMMENT ON COLUMN outbox.topics.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.topics.partitions IS 'Partitions; NULL if there is no such topic.';
COMMENT ON COLUMN outbox.topics.replication_factor IS 'Copies of each record.';
COMMENT ON COLUMN outbox.topics.max_message_bytes IS 'The most bytes of a record batch that the topic takes.';
COMMENT ON COLUMN outbox.topics.min_insync_replicas IS 'Copies that must be there before a record counts as written.';
COMMENT ON COLUMN outbox.topics.cleanup_policy IS 'delete, compact, or both.';
COMMENT ON COLUMN outbox.topics.retention IS 'How long records are kept; NULL for ever.';
COMMENT ON COLUMN outbox.topics.error IS 'What is wrong with the topic, or could not be learned.';
