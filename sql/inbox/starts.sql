-- Owns where a subscription begins: its start is resolved to offsets of Kafka at once.

CREATE FUNCTION inbox.start_of(start text) RETURNS json
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    at      timestamptz;
    offsets jsonb;
BEGIN
    IF start IN ('earliest', 'latest') THEN
        RETURN to_json(start);
    END IF;
    BEGIN
        IF starts_with(btrim(start, E' \t\r\n'), '{') THEN
            offsets := start;
            IF NOT EXISTS (SELECT FROM jsonb_each(offsets) AS t
                            WHERE CASE jsonb_typeof(t.value) WHEN 'object' THEN
                                  EXISTS (SELECT FROM jsonb_each(t.value) AS p
                                           WHERE (p.key ~ '^[0-9]{1,9}$' AND jsonb_typeof(p.value) = 'number'
                                                  AND p.value::text ~ '^[0-9]{1,18}$') IS NOT TRUE)
                                  ELSE true END) THEN
                RETURN json_build_object('offsets', offsets);
            END IF;
        ELSE
            at := start;
            IF at >= '1970-01-01 00:00:00+00' AND at < 'infinity' THEN
                RETURN json_build_object('timestamp_ms', trunc(extract(epoch FROM at) * 1000)::bigint);
            END IF;
        END IF;
    EXCEPTION WHEN data_exception THEN
        NULL;
    END;
    RAISE EXCEPTION USING
        ERRCODE = 'invalid_parameter_value',
        MESSAGE = 'invalid place in the topics',
        DETAIL = format('It is %s.', coalesce(quote_literal(left(start, 300)), 'NULL')),
        HINT = 'Pass ''earliest'', ''latest'', a timestamp since 1970, or offsets, such as ''{"orders": {"0": 1200, "1": 34}}''.';
END
$$;
COMMENT ON FUNCTION inbox.start_of(text) IS
    'Parses where to begin: earliest, latest, a timestamp, or offsets. An error for anything else.';

CREATE FUNCTION inbox.list_offsets(topics text[], pattern text, at json, timeout interval)
    RETURNS TABLE (topic text, topic_id text, partition integer, "offset" bigint, low bigint, high bigint, uncommitted bigint, error text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- An answer has room for a few hundred partitions.
    many  CONSTANT integer := 20;
    until CONSTANT timestamptz := clock_timestamp() + coalesce(timeout, '30 seconds');
BEGIN
    -- A pattern is one question.
    FOR at_topic IN 1 .. coalesce(cardinality(topics), 1) BY many LOOP
        RETURN QUERY
            SELECT a.topic, a.topic_id, a.partition, a."offset", a.low, a.high, a.uncommitted, a.error
              FROM json_to_recordset(outbox.ask_kafka(
                       json_build_object('list_offsets', json_build_object(
                           'topics', coalesce(topics[at_topic : at_topic + many - 1], '{}'), 'pattern', pattern, 'at', at)),
                       greatest(until - clock_timestamp(), '1 millisecond')))
                   AS a(topic text, topic_id text, partition integer, "offset" bigint, low bigint, high bigint, uncommitted bigint, error text);
    END LOOP;
END
$$;
COMMENT ON FUNCTION inbox.list_offsets(text[], text, json, interval) IS
    'Asks Kafka through the relay for offsets of the topics, or of those that the pattern finds.';

CREATE FUNCTION inbox.resolve(
    topics text[], pattern text, share_index integer, share_count integer, start text, is_complete boolean, timeout interval
)
    RETURNS TABLE (topic text, topic_id text, partition integer, "offset" bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    start_of CONSTANT json  := inbox.start_of(start);
    offsets  jsonb := start_of -> 'offsets';
    listed   record;
    wanted   bigint;
BEGIN
    FOR listed IN
        SELECT o.* FROM inbox.list_offsets(topics, pattern, CASE WHEN offsets IS NULL THEN start_of ELSE '"earliest"' END, timeout) AS o
         ORDER BY o.topic, o.partition
    LOOP
        IF listed.error IS NOT NULL OR listed.partition IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'undefined_object',
                MESSAGE = format('topic "%s" cannot be read', listed.topic),
                DETAIL = format('%s%s.', CASE WHEN listed.partition IS NOT NULL THEN format('Partition %s: ', listed.partition) END,
                                rtrim(coalesce(listed.error, 'It has no partitions'), '.')),
                HINT = CASE WHEN listed.error LIKE '%has no leader' THEN
                           'Start the brokers that have its replicas, and try again.'
                       ELSE format('SELECT outbox.create_topic(%L); creates the topic. Or allow the server''s Kafka user to read it.', listed.topic) END;
        END IF;
        IF offsets IS NOT NULL THEN
            wanted := (offsets -> listed.topic ->> listed.partition::text)::bigint;
            IF wanted IS NULL AND is_complete AND listed.partition % share_count = share_index - 1 THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'invalid_parameter_value',
                    MESSAGE = format('no offset is given for partition %s of topic "%s"', listed.partition, listed.topic),
                    DETAIL = 'Where offsets are given, each partition needs one.',
                    HINT = format('The offsets of this one go from %s to %s.', listed.low, listed.high);
            END IF;
            CONTINUE WHEN wanted IS NULL;
            offsets := jsonb_set(offsets, ARRAY[listed.topic], (offsets -> listed.topic) - listed.partition::text);
            IF wanted NOT BETWEEN listed.low AND listed.high THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'numeric_value_out_of_range',
                    MESSAGE = format('offset %s is not in partition %s of topic "%s"', wanted, listed.partition, listed.topic),
                    DETAIL = format('Kafka has the offsets from %s on; the next one will be %s.', listed.low, listed.high),
                    HINT = format('Pass an offset from %s to %s, or ''earliest'' or ''latest''.', listed.low, listed.high);
            END IF;
        END IF;
        IF listed.partition % share_count = share_index - 1 THEN
            RETURN QUERY SELECT listed.topic, listed.topic_id, listed.partition, coalesce(wanted, listed."offset");
        END IF;
    END LOOP;
    SELECT t.key AS topic, p.key AS partition INTO listed
      FROM jsonb_each(offsets) AS t CROSS JOIN LATERAL jsonb_each(t.value) AS p
     ORDER BY t.key, p.key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('there is no partition %s of topic "%s" to read', listed.partition, listed.topic),
            DETAIL = 'Either the subscription does not read the topic, or the topic does not have the partition.',
            HINT = 'SELECT * FROM inbox.partitions; shows what subscriptions read, outbox.describe_topics() how many partitions a topic has.';
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.resolve(text[], text, integer, integer, text, boolean, interval) IS
    'Returns the offset of each partition of the share at the given place. With offsets, those partitions alone; an error for one that does not exist, and if they must be complete, for one that is missing.';
