-- Owns the functions that move a subscription: to other offsets, or over what is kept.

CREATE FUNCTION inbox.seek_for(caller regrole, name text, "to" text, topic text, partition integer, timeout interval) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    moved    inbox.subscription;
    resolved json;
    passed   bigint;
    topics   text[];
BEGIN
    -- What was stored until the subscription is locked must be seen.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_transaction_state',
            MESSAGE = format('inbox.seek() cannot run in a transaction that is %s', current_setting('transaction_isolation')),
            DETAIL = 'It must see what other transactions have stored meanwhile.',
            HINT = 'Call it in a READ COMMITTED transaction.';
    END IF;
    moved := inbox.own_subscription(caller, name, false);
    PERFORM inbox.refuse_projection(moved.id, 'inbox.seek()', 'SELECT inbox.rebuild(%L); reads the topic again, from its beginning.');
    IF moved.source_id <> moved.id THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('subscription "%s" is a replay', name),
            DETAIL = 'It receives what another subscription has stored, and reads nothing from Kafka.',
            HINT = 'Unsubscribe it, and call inbox.replay() with another time.';
    END IF;
    topics := ARRAY(SELECT DISTINCT p.topic FROM inbox.partition AS p
                     WHERE p.source_id = moved.id
                       AND (seek_for.topic IS NULL OR p.topic = seek_for.topic)
                       AND (seek_for.partition IS NULL OR p.partition = seek_for.partition)
                     ORDER BY p.topic);
    IF (partition IS NOT NULL AND topic IS NULL) OR topics = '{}' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('subscription "%s" does not read such a partition', name),
            DETAIL = CASE WHEN topic IS NULL THEN 'A partition needs a topic.'
                          WHEN partition IS NULL THEN format('The topic is "%s".', topic)
                          ELSE format('It is partition %s of topic "%s".', partition, topic) END,
            HINT = 'SELECT topic, partition FROM inbox.partitions; shows what it reads.';
    END IF;
    -- A number is an offset of the one partition that is named.
    IF partition IS NOT NULL AND "to" ~ '^[0-9]{1,18}$' THEN
        "to" := jsonb_build_object(topic, jsonb_build_object(partition::text, "to"::bigint))::text;
    END IF;
    IF moved.is_local AND (topic IS NOT NULL OR partition IS NOT NULL) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = format('subscription "%s" can only be moved as a whole', name),
            DETAIL = 'It takes the events of its categories in the order of their commits.',
            HINT = 'Leave out topic and partition.';
    END IF;
    IF moved.is_local THEN
        resolved := (SELECT json_agg(json_build_object('topic', p.topic, 'partition', p.partition, 'offset', s.start))
                       FROM inbox.partition AS p CROSS JOIN event_store.start_of(topics, "to") AS s(start) WHERE p.source_id = moved.id);
    ELSE
        -- A topic that was created again may have fewer partitions: one that is missing is read from its beginning if it is added.
        resolved := (
            WITH listed AS MATERIALIZED (
                SELECT r.* FROM inbox.resolve(topics, NULL, moved.share_index, moved.share_count, "to", false, timeout) AS r)
            SELECT json_agg(f)
              FROM (SELECT p.topic, coalesce(l.topic_id, (SELECT o.topic_id FROM listed AS o WHERE o.topic = p.topic LIMIT 1), p.topic_id) AS topic_id,
                           p.partition, CASE WHEN l.topic IS NULL THEN 0 ELSE l."offset" END AS "offset"
                      FROM inbox.partition AS p LEFT JOIN listed AS l ON l.topic = p.topic AND l.partition = p.partition
                     WHERE p.source_id = moved.id AND p.topic = ANY (topics)
                       AND (seek_for.partition IS NULL OR p.partition = seek_for.partition)
                       AND (l.topic IS NOT NULL OR inbox.start_of("to") -> 'offsets' IS NULL)) AS f);
    END IF;
    IF resolved IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'no partition to move',
            DETAIL = 'The offsets name none that the subscription reads.',
            HINT = 'Name at least one, such as in ''{"orders": {"0": 1200}}''.';
    END IF;

    -- The ingest worker locks the row FOR SHARE while it stores events of the subscription, and nothing of an older generation.
    moved := inbox.own_subscription(caller, name, true);
    passed := inbox.last_position();
    -- What was stored so far says no more where to go on.
    UPDATE inbox.partition AS p SET start_offset = n.next_offset
      FROM inbox.next_offset AS n WHERE p.source_id = moved.id AND n.source_id = p.source_id AND n.number = p.number;
    UPDATE inbox.subscription AS s SET generation = s.generation + 1 WHERE s.id = moved.id;
    UPDATE inbox.partition AS p
       SET start_offset = f."offset", first_position = greatest(passed, p.first_position + 1), topic_id = f.topic_id, state = 'reading',
           stop_reason = NULL, lost_from = NULL, lost_to = NULL, stopped_at = NULL
      FROM json_to_recordset(resolved) AS f(topic text, topic_id text, partition integer, "offset" bigint)
     WHERE p.source_id = moved.id AND p.topic = f.topic AND p.partition = f.partition;
    -- Those that are being received are not waited for. Whoever meets them later knows by skip_after that they are skipped.
    DELETE FROM inbox.retry AS r
     USING (SELECT w.position FROM inbox.retry AS w
                   JOIN json_to_recordset(resolved) AS f(topic text, partition integer) ON w.topic = f.topic AND w.partition = f.partition
             WHERE w.subscription_id = moved.id
               FOR UPDATE OF w SKIP LOCKED) AS w
     WHERE r.subscription_id = moved.id AND r.position = w.position;
END
$$;
COMMENT ON FUNCTION inbox.seek_for(regrole, text, text, text, integer, interval) IS 'Does the work of inbox.seek() for the caller.';

CREATE FUNCTION inbox.seek(
    name      text,
    "to"      text,
    topic     text     DEFAULT NULL,
    partition integer  DEFAULT NULL,
    timeout   interval DEFAULT '30 seconds'
) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.seek(text, text, text, integer, interval) IS
    'Goes on at another place in Kafka: earliest, latest, a timestamp or offsets; in all partitions, those of a topic, or one. What is stored of them and was not received is skipped, also what waits for a retry. Starts stopped partitions.';

CREATE FUNCTION inbox.replay_for(caller regrole, name text, since timestamptz, until timestamptz) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    replayed     inbox.subscription := inbox.own_subscription(caller, name, false);
    begins_after bigint;
    ends_with    bigint;
    new_id       integer;
    suffix       text;
    new_name     text;
BEGIN
    PERFORM inbox.refuse_projection(replayed.id, 'inbox.replay()', 'SELECT inbox.rebuild(%L); reads the topic again, from its beginning.');
    IF (since < coalesce(until, 'infinity')) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid time to replay',
            DETAIL = format('It is from %s to %s.', coalesce(since::text, 'NULL'), coalesce(until::text, 'now on')),
            HINT = 'Pass since, and an until after it, or none to go on with what is stored later.';
    END IF;
    SELECT min(l.position) - 1 INTO begins_after FROM inbox.log AS l
     WHERE l.source_id = replayed.source_id AND l.produced_at >= since
       AND l.position <= coalesce(replayed.last_position, 9223372036854775807);
    ends_with := replayed.last_position;
    IF until IS NOT NULL AND until < 'infinity' THEN
        SELECT max(l.position) INTO ends_with FROM inbox.log AS l
         WHERE l.source_id = replayed.source_id AND l.produced_at < until
           AND l.position <= coalesce(replayed.last_position, 9223372036854775807);
    END IF;
    begins_after := coalesce(begins_after, inbox.last_position());
    ends_with := greatest(begins_after, ends_with);
    IF replayed.last_position IS NULL AND (until IS NULL OR until = 'infinity') THEN
        ends_with := NULL;
    END IF;
    new_id := nextval('inbox.subscription_id_seq');
    suffix := format('.replay-%s', new_id);
    new_name := left(name, 57 - length(suffix)) || suffix;
    INSERT INTO inbox.subscription (id, name, owner, source_id, topics, pattern, ordering, retention, max_attempts, on_data_loss,
                                    deduplicate, share_index, share_count, first_position, last_position)
    OVERRIDING SYSTEM VALUE
    VALUES (new_id, new_name, replayed.owner, replayed.source_id, replayed.topics, replayed.pattern, replayed.ordering,
            replayed.retention, replayed.max_attempts, replayed.on_data_loss, replayed.deduplicate, replayed.share_index,
            replayed.share_count, begins_after, ends_with)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM inbox.refuse_name(new_name);
    END IF;
    RETURN new_name;
END
$$;
COMMENT ON FUNCTION inbox.replay_for(regrole, text, timestamptz, timestamptz) IS 'Does the work of inbox.replay() for the caller.';

CREATE FUNCTION inbox.replay(name text, since timestamptz, until timestamptz DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.replay(text, timestamptz, timestamptz) IS
    'Creates a second subscription that receives again what the first has stored, by the times of the records; returns its name. Without until it goes on with what is stored later.';
