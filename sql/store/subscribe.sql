-- Owns subscriptions to categories: what is appended to them is received through the inbox, without Kafka. The inbox's worker
-- takes the events (src/inbox/ingest/local.rs); everything else is as with topics.

CREATE FUNCTION event_store.start_of(categories text[], start text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    stable CONSTANT bigint := event_store.stable_position();
    since  timestamptz;
BEGIN
    CASE
    WHEN start = 'earliest' THEN
        RETURN 1;
    WHEN start = 'latest' THEN
        RETURN stable + 1;
    WHEN start ~ '^[0-9]{1,18}$' THEN
        RETURN start::bigint + 1;
    ELSE
        BEGIN
            since := start;
        EXCEPTION WHEN data_exception THEN
            NULL;
        END;
    END CASE;
    IF since IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid place in the event store',
            DETAIL = format('It is %s.', coalesce(quote_literal(left(start, 300)), 'NULL')),
            HINT = 'Pass ''earliest'', ''latest'', a timestamp, or the position after which to begin.';
    END IF;
    RETURN least(stable + 1, (SELECT min(e.position) FROM event_store.event AS e
                               WHERE e.category = ANY (categories) AND e.recorded_at >= since));
END
$$;
COMMENT ON FUNCTION event_store.start_of(text[], text) IS
    'Returns the first position at or after a place: earliest, latest, a timestamp, or a position after which to begin.';

CREATE FUNCTION event_store.end_of(category text) RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(max(e.position) + 1, 0) FROM event_store.event AS e WHERE e.category = $1 $$;
COMMENT ON FUNCTION event_store.end_of(text) IS 'Returns the first position after all events of a category that are committed; 0 if there is none.';

CREATE FUNCTION event_store.add_subscription(
    caller regrole, name text, categories text[], start text, retention interval, max_attempts integer, ordering text
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    category text;
    begins   bigint;
    new_id   integer;
BEGIN
    PERFORM inbox.check_subscription(name, ARRAY['any'], ordering, retention, max_attempts, 'stop', NULL, NULL);
    categories := ARRAY(SELECT DISTINCT c.name FROM unnest(categories) AS c(name) ORDER BY c.name);
    IF categories = '{}' OR EXISTS (SELECT FROM unnest(categories) AS c(name)
                                     WHERE (event_store.is_category_pattern(c.name) AND strpos(c.name, '*') = 0) IS NOT TRUE) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid categories',
            DETAIL = format('They are %s.', left(categories::text, 300)),
            HINT = 'Pass names of categories, such as ARRAY[''account'', ''transfer''].';
    END IF;
    FOREACH category IN ARRAY categories LOOP
        PERFORM event_store.require_grant(caller, category, false);
    END LOOP;
    IF (SELECT count(DISTINCT c.relowner) FROM pg_class AS c
         WHERE c.oid IN ('event_store.stream'::regclass, 'inbox.subscription'::regclass)) <> 1 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = 'the tables of the event store and of the inbox belong to different roles',
            DETAIL = 'A subscription to categories uses both.',
            HINT = 'Use ALTER ... OWNER TO to give them to one role.';
    END IF;
    IF EXISTS (SELECT FROM inbox.subscription AS s WHERE s.name = add_subscription.name) THEN
        PERFORM inbox.refuse_name(name);
    END IF;
    begins := event_store.start_of(categories, start);
    PERFORM inbox.mark(caller, 'inbox.subscription_grants');
    new_id := nextval('inbox.subscription_id_seq');
    INSERT INTO inbox.subscription (id, name, owner, source_id, topics, ordering, retention, max_attempts, on_data_loss,
                                    first_position, is_local)
    OVERRIDING SYSTEM VALUE
    VALUES (new_id, name, caller, new_id, categories, add_subscription.ordering, retention, max_attempts, 'stop', inbox.last_position(), true)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        PERFORM inbox.refuse_name(name);
    END IF;
    INSERT INTO inbox.partition (source_id, number, topic, partition, start_offset)
    SELECT new_id, c.place - 1, c.name, 0, begins FROM unnest(categories) WITH ORDINALITY AS c(name, place);
END
$$;
COMMENT ON FUNCTION event_store.add_subscription(regrole, text, text[], text, interval, integer, text) IS
    'Creates a subscription to categories.';

CREATE FUNCTION event_store.subscribe_for(
    caller regrole, name text, categories text[], start text, retention interval, max_attempts integer
) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$ SELECT event_store.add_subscription($1, $2, $3, $4, $5, $6, 'key') $$;
COMMENT ON FUNCTION event_store.subscribe_for(regrole, text, text[], text, interval, integer) IS
    'Does the work of event_store.subscribe() for the caller.';

CREATE FUNCTION event_store.subscribe(
    name         text,
    categories   text[],
    start        text,
    retention    interval DEFAULT '1 day',
    max_attempts integer  DEFAULT 3
) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.subscribe(text, text[], text, interval, integer) IS
    'Has the inbox take the events of these categories in the order of their commits, from earliest, latest, a timestamp or a position on. The name is for inbox.receive().';

-- A projection of events: the same as of a topic, with the stream as the record's key.
CREATE FUNCTION event_store.project_for(
    caller regrole, name text, category text, "table" regclass, key jsonb, columns jsonb
) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$ SELECT inbox.project_as($1, $2, $3, $4, $5, $6, 'event', NULL) $$;
COMMENT ON FUNCTION event_store.project_for(regrole, text, text, regclass, jsonb, jsonb) IS
    'Does the work of event_store.project() for the caller.';

CREATE FUNCTION event_store.project(
    name     text,
    category text,
    "table"  regclass,
    key      jsonb DEFAULT NULL,
    columns  jsonb DEFAULT NULL
) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.project(text, text, regclass, jsonb, jsonb) IS
    'Keeps what the last event of each stream of a category says in a table, from the first event on. A background worker writes the table, connected as its owner; inbox.projections shows how far it is.';
