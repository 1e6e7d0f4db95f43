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
    PERFORM inbox.refuse_projection(gone.id, 'inbox.unsubscribe()', 'SELECT inbox.unproject(%L); ends a projection.');
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
    DELETE FROM inbox.handler AS h WHERE h.subscription_id = gone.id;
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
