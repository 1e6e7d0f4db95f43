-- Owns the functions that manage Kafka topics. They ask the relay, because only it has a connection to Kafka.

CREATE FUNCTION outbox.ask_kafka(request json, timeout interval) RETURNS json
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_ask_kafka';
COMMENT ON FUNCTION outbox.ask_kafka(json, interval) IS
    'Sends a request to Kafka through the relay and waits for the answer, for outbox.create_topic() and outbox.describe_topics().';

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
            MESSAGE = 'invalid topic name',
            DETAIL = format('The name is %s.', coalesce(quote_literal(name), 'NULL')),
            HINT = 'A topic name has 1 to 249 letters, digits, ".", "_" and "-". The names "." and ".." are not allowed, nor are those of Kafka''s internal topics, such as "__consumer_offsets".';
    END IF;
    IF (partitions < 1 AND partitions <> -1) IS NOT FALSE
       OR (replication_factor NOT BETWEEN 1 AND 32767 AND replication_factor <> -1) IS NOT FALSE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'partitions and replication_factor must be positive',
            DETAIL = format('partitions is %s, replication_factor is %s.',
                            coalesce(partitions::text, 'NULL'), coalesce(replication_factor::text, 'NULL')),
            HINT = 'Omit a parameter, or pass -1, to use the brokers'' default.';
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
    'Creates a Kafka topic immediately; ROLLBACK does not undo it. -1 means the brokers'' default.';

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
    'Returns the topics of the first and last ten thousand events, of ten thousand dead letters, and event_outbox.dead_letter_topic; at most 500.';

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
           -- Kafka uses -1 for unlimited.
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
    'Describes these Kafka topics, or those in use. The column error says why a description is missing or incomplete. A NULL retention is unlimited.';

CREATE VIEW outbox.topics AS
    SELECT t.* FROM outbox.describe_topics() AS t;
COMMENT ON VIEW outbox.topics IS 'The topics in use, as Kafka describes them: those of outbox.topics_in_use(), and those that the relay has published to since it started. Each query asks Kafka.';
COMMENT ON COLUMN outbox.topics.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.topics.partitions IS 'Number of partitions; NULL if the topic does not exist.';
COMMENT ON COLUMN outbox.topics.replication_factor IS 'Number of replicas of each partition.';
COMMENT ON COLUMN outbox.topics.max_message_bytes IS 'Largest record batch that the topic accepts, in bytes.';
COMMENT ON COLUMN outbox.topics.min_insync_replicas IS 'Number of replicas that must have a record before it is acknowledged.';
COMMENT ON COLUMN outbox.topics.cleanup_policy IS 'delete, compact, or both.';
COMMENT ON COLUMN outbox.topics.retention IS 'How long records are kept; NULL if unlimited.';
COMMENT ON COLUMN outbox.topics.error IS 'What is wrong with the topic, or could not be determined.';
