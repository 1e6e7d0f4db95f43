-- Owns the functions that create, change and end subscriptions. Those named …_for() do the work, as the owner of the tables, for
-- the caller that they are told; see src/inbox/admin/for_caller.rs.

CREATE FUNCTION inbox.channel(name text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT 'inbox:' || $1 $$;
COMMENT ON FUNCTION inbox.channel(text) IS
    'Returns the name of the channel to LISTEN on for the events of a subscription. The payload is {"first_position", "last_position", "count"}.';

CREATE FUNCTION inbox.lock_lanes(subscription_id integer) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_lock_lanes';
COMMENT ON FUNCTION inbox.lock_lanes(integer) IS
    'Waits until no transaction receives from the subscription, and keeps others from it until the end of this one.';

CREATE FUNCTION inbox.last_position() RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT greatest(0,
                    (SELECT max(s.first_position) FROM inbox.subscription AS s),
                    (SELECT max(p.first_position) FROM inbox.partition AS p),
                    (SELECT max(g.first_position) FROM inbox.segment AS g),
                    (SELECT max(p.last_position)
                       FROM inbox.subscription AS s
                            CROSS JOIN LATERAL (SELECT p.last_position FROM inbox.progress AS p
                                                 WHERE p.source_id = s.id ORDER BY p.batch DESC LIMIT 1) AS p))
$$;
COMMENT ON FUNCTION inbox.last_position() IS
    'Returns the greatest position that an event of this database has, or that a subscription counts as passed.';

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
    RETURNS TABLE (topic text, topic_id text, partition integer, "offset" bigint, low bigint, high bigint, error text)
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
            SELECT a.topic, a.topic_id, a.partition, a."offset", a.low, a.high, a.error
              FROM json_to_recordset(outbox.ask_kafka(
                       json_build_object('list_offsets', json_build_object(
                           'topics', coalesce(topics[at_topic : at_topic + many - 1], '{}'), 'pattern', pattern, 'at', at)),
                       greatest(until - clock_timestamp(), '1 millisecond')))
                   AS a(topic text, topic_id text, partition integer, "offset" bigint, low bigint, high bigint, error text);
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
                HINT = format('SELECT outbox.create_topic(%L); creates the topic. Or allow the server''s Kafka user to read it.', listed.topic);
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

CREATE FUNCTION inbox.check_subscription(
    name text, topics text[], ordering text, retention interval, max_attempts integer, on_data_loss text, deduplicate interval, share text
) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    wrong text;
    hint  text;
BEGIN
    IF (name ~ '^[A-Za-z0-9._-]{1,57}$') IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid name of a subscription',
            DETAIL = format('The name is %s.', coalesce(quote_literal(left(name, 100)), 'NULL')),
            HINT = 'It has 1 to 57 letters, digits, ".", "_" and "-".';
    END IF;
    SELECT t.topic INTO wrong
      FROM unnest(topics) WITH ORDINALITY AS t(topic, at)
     WHERE (CASE WHEN cardinality(topics) = 1 AND strpos(t.topic, '*') > 0 THEN t.topic ~ '^[A-Za-z0-9._*-]{1,249}$'
                 ELSE outbox.is_topic_name(t.topic) END) IS NOT TRUE
     ORDER BY t.at LIMIT 1;
    IF FOUND OR cardinality(topics) > 0 IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topics',
            DETAIL = CASE WHEN cardinality(topics) > 0 THEN format('One of them is %s.', coalesce(quote_literal(left(wrong, 300)), 'NULL'))
                          ELSE 'There are none.' END,
            HINT = 'Pass names of topics, such as ARRAY[''orders'', ''payments''], or one pattern, such as ARRAY[''orders.*''].';
    END IF;
    wrong := CASE
        WHEN (ordering IN ('key', 'partition', 'none')) IS NOT TRUE THEN 'ordering'
        WHEN (retention >= interval '0' AND isfinite(retention)) IS NOT TRUE THEN 'retention'
        WHEN (max_attempts >= 1) IS NOT TRUE THEN 'max_attempts'
        WHEN (on_data_loss IN ('stop', 'earliest', 'latest')) IS NOT TRUE THEN 'on_data_loss'
        WHEN (deduplicate > interval '0' AND isfinite(deduplicate)) IS FALSE THEN 'deduplicate'
        WHEN (share ~ '^[0-9]{1,5}/[0-9]{1,5}$') IS FALSE THEN 'share'
        WHEN (split_part(share, '/', 1)::integer BETWEEN 1 AND split_part(share, '/', 2)::integer) IS FALSE THEN 'share' END;
    IF wrong IS NOT NULL THEN
        hint := CASE wrong
            WHEN 'ordering' THEN 'Pass ''key'', ''partition'' or ''none''.'
            WHEN 'retention' THEN 'Pass how long events stay in the database, such as ''1 day''; ''0'' keeps none longer than needed.'
            WHEN 'max_attempts' THEN 'Pass how many attempts an event has, at least 1.'
            WHEN 'on_data_loss' THEN 'Pass ''stop'', or ''earliest'' or ''latest'' to go on there.'
            WHEN 'deduplicate' THEN 'Pass for how long an event_id is remembered, such as ''1 day'', or NULL.'
            ELSE 'Pass which share of how many, such as ''1/3'', or NULL for all partitions.' END;
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid %s', wrong),
            DETAIL = format('It is %s.', coalesce(quote_literal(left(CASE wrong
                WHEN 'ordering' THEN ordering
                WHEN 'retention' THEN retention::text
                WHEN 'max_attempts' THEN max_attempts::text
                WHEN 'on_data_loss' THEN on_data_loss
                WHEN 'deduplicate' THEN deduplicate::text
                ELSE share END, 100)), 'NULL')),
            HINT = hint;
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.check_subscription(text, text[], text, interval, integer, text, interval, text) IS
    'Raises an error unless these can be arguments of inbox.subscribe().';

CREATE FUNCTION inbox.refuse_name(name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'duplicate_object',
        MESSAGE = format('subscription "%s" already exists', name),
        DETAIL = 'The names of subscriptions are unique in a database.',
        HINT = 'Choose another name. inbox.seek() moves a subscription, inbox.unsubscribe() ends it.';
END
$$;
COMMENT ON FUNCTION inbox.refuse_name(text) IS 'Says that there is a subscription with this name.';

CREATE FUNCTION inbox.subscribe_for(
    caller       regrole,
    name         text,
    topics       text[],
    start        text,
    ordering     text,
    retention    interval,
    max_attempts integer,
    on_data_loss text,
    deduplicate  interval,
    share        text,
    timeout      interval
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    pattern     text;
    topic       text;
    share_index integer;
    share_count integer;
    resolved    json;
    new_id      integer;
BEGIN
    PERFORM inbox.check_subscription(name, topics, ordering, retention, max_attempts, on_data_loss, deduplicate, share);
    FOREACH topic IN ARRAY topics LOOP
        IF NOT inbox.may_consume(caller, topic) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = format('permission denied for topic "%s"', topic),
                DETAIL = format('Neither role %s nor a role whose rights it has was granted this topic to consume. Kafka is read as the server''s user.', caller),
                HINT = 'An administrator can grant it with inbox.grant_topic().';
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM inbox.subscription AS s WHERE s.name = subscribe_for.name) THEN
        PERFORM inbox.refuse_name(name);
    END IF;
    IF strpos(topics[1], '*') > 0 THEN
        pattern := topics[1];
        topics := '{}';
    ELSE
        topics := ARRAY(SELECT DISTINCT t.name FROM unnest(topics) AS t(name) ORDER BY t.name);
    END IF;
    share_index := coalesce(split_part(share, '/', 1)::integer, 1);
    share_count := coalesce(split_part(share, '/', 2)::integer, 1);

    -- Kafka is asked before anything is locked.
    resolved := (SELECT json_agg(r) FROM inbox.resolve(
                  CASE WHEN pattern IS NULL THEN topics END, pattern, share_index, share_count, start, true, timeout) AS r);
    PERFORM inbox.mark(caller, 'inbox.subscription_grants');
    new_id := nextval('inbox.subscription_id_seq');
    INSERT INTO inbox.subscription (id, name, owner, source_id, topics, pattern, ordering, retention, max_attempts, on_data_loss,
                                    deduplicate, share_index, share_count, first_position)
    OVERRIDING SYSTEM VALUE
    VALUES (new_id, name, caller, new_id, topics, pattern, ordering, retention, max_attempts, on_data_loss,
            deduplicate, share_index, share_count, inbox.last_position())
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM inbox.refuse_name(name);
    END IF;
    INSERT INTO inbox.partition (source_id, number, topic, partition, topic_id, start_offset)
    SELECT new_id, row_number() OVER (ORDER BY f.topic, f.partition) - 1, f.topic, f.partition, f.topic_id, f."offset"
      FROM json_to_recordset(resolved) AS f(topic text, topic_id text, partition integer, "offset" bigint);
    IF NOT FOUND THEN
        RAISE NOTICE USING
            MESSAGE = format('subscription "%s" has no partitions yet', name),
            DETAIL = CASE WHEN pattern IS NOT NULL THEN format('No topic matches "%s", or none has a partition of this share.', pattern)
                          ELSE 'The topics have no partition of this share.' END,
            HINT = 'Partitions that Kafka gets later are read from their beginning.';
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.subscribe_for(regrole, text, text[], text, text, interval, integer, text, interval, text, interval) IS
    'Does the work of inbox.subscribe() for the caller.';

CREATE FUNCTION inbox.subscribe(
    name         text,
    topics       text[],
    start        text,
    ordering     text     DEFAULT 'key',
    retention    interval DEFAULT '1 day',
    max_attempts integer  DEFAULT 3,
    on_data_loss text     DEFAULT 'stop',
    deduplicate  interval DEFAULT NULL,
    share        text     DEFAULT NULL,
    timeout      interval DEFAULT '30 seconds'
) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.subscribe(text, text[], text, text, interval, integer, text, interval, text, interval) IS
    'Has the database read these Kafka topics, or those that one pattern finds, from earliest, latest, a timestamp or offsets on. The name is for inbox.receive().';

CREATE FUNCTION inbox.unsubscribe_for(caller regrole, name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    gone    inbox.subscription := inbox.own_subscription(caller, name, true);
    replays text := (SELECT string_agg(format('"%s"', s.name), ', ' ORDER BY s.name)
                       FROM inbox.subscription AS s WHERE s.source_id = gone.id AND s.id <> gone.id);
    roles   regrole[];
    role    regrole;
BEGIN
    IF replays IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('subscription "%s" is being replayed', name),
            DETAIL = format('The events that it has stored are received by %s.', replays),
            HINT = 'Unsubscribe these first.';
    END IF;
    -- Whoever receives or redrives at present ends first.
    PERFORM inbox.lock_lanes(gone.id);
    PERFORM FROM inbox.subscription AS s WHERE s.id = gone.id FOR UPDATE;
    DELETE FROM inbox.lane AS l WHERE l.subscription_id = gone.id;
    DELETE FROM inbox.retry AS r WHERE r.subscription_id = gone.id;
    DELETE FROM inbox.dead_letters AS d WHERE d.subscription_id = gone.id;
    WITH ended AS (DELETE FROM inbox.subscription_grants AS g WHERE g.subscription_id = gone.id RETURNING g.role)
    SELECT array_agg(e.role) INTO roles FROM ended AS e;
    DELETE FROM inbox.partition AS p WHERE p.source_id = gone.id;
    DELETE FROM inbox.progress AS p WHERE p.source_id = gone.id;
    DELETE FROM inbox.subscription AS s WHERE s.id = gone.id;
    FOREACH role IN ARRAY roles || gone.owner LOOP
        PERFORM inbox.unmark(role, 'inbox.subscription_grants');
    END LOOP;
END
$$;
COMMENT ON FUNCTION inbox.unsubscribe_for(regrole, text) IS 'Does the work of inbox.unsubscribe() for the caller.';

CREATE FUNCTION inbox.unsubscribe(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.unsubscribe(text) IS
    'Ends a subscription, with its retries and dead letters. Waits until no transaction receives from it.';

CREATE FUNCTION inbox.pause_for(caller regrole, name text, reason text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    paused inbox.subscription := inbox.own_subscription(caller, name, true);
BEGIN
    UPDATE inbox.subscription AS s SET paused_at = clock_timestamp(), pause_reason = reason
     WHERE s.id = paused.id AND s.paused_at IS NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION inbox.pause_for(regrole, text, text) IS 'Does the work of inbox.pause() for the caller.';

CREATE FUNCTION inbox.pause(name text, reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.pause(text, text) IS
    'Nothing is received from the subscription from the commit on, until inbox.resume(). Returns false if it was already paused.';

CREATE FUNCTION inbox.resume_for(caller regrole, name text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    resumed inbox.subscription := inbox.own_subscription(caller, name, true);
BEGIN
    UPDATE inbox.subscription AS s SET paused_at = NULL, pause_reason = NULL
     WHERE s.id = resumed.id AND s.paused_at IS NOT NULL;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION inbox.resume_for(regrole, text) IS 'Does the work of inbox.resume() for the caller.';

CREATE FUNCTION inbox.resume(name text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.resume(text) IS 'Ends a pause when the transaction commits. Returns false if the subscription was not paused.';

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
    resolved := (SELECT json_agg(r) FROM inbox.resolve(topics, NULL, moved.share_index, moved.share_count, "to", false, timeout) AS r
               WHERE (seek_for.partition IS NULL OR r.partition = seek_for.partition)
                 AND EXISTS (SELECT FROM inbox.partition AS p
                              WHERE p.source_id = moved.id AND p.topic = r.topic AND p.partition = r.partition));
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

CREATE FUNCTION inbox.grant_subscription_for(caller regrole, role regrole, name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    granted inbox.subscription := inbox.own_subscription(caller, name, false);
BEGIN
    PERFORM inbox.require_role(role);
    PERFORM inbox.mark(role, 'inbox.subscription_grants');
    INSERT INTO inbox.subscription_grants (role, subscription_id) VALUES (grant_subscription_for.role, granted.id)
        ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION inbox.grant_subscription_for(regrole, regrole, text) IS 'Does the work of inbox.grant_subscription() for the caller.';

CREATE FUNCTION inbox.grant_subscription(role regrole, name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.grant_subscription(regrole, text) IS
    'Lets a role, and its members, receive from the subscription. They also need EXECUTE on inbox.receive().';

CREATE FUNCTION inbox.revoke_subscription_for(caller regrole, role regrole, name text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    closed  inbox.subscription := inbox.own_subscription(caller, name, false);
    revoked boolean;
BEGIN
    DELETE FROM inbox.subscription_grants AS g
     WHERE g.role = revoke_subscription_for.role AND g.subscription_id = closed.id;
    revoked := FOUND;
    PERFORM inbox.unmark(role, 'inbox.subscription_grants');
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION inbox.revoke_subscription_for(regrole, regrole, text) IS 'Does the work of inbox.revoke_subscription() for the caller.';

CREATE FUNCTION inbox.revoke_subscription(role regrole, name text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.revoke_subscription(regrole, text) IS
    'Revokes what inbox.grant_subscription() granted. Returns false if there was no such grant.';
