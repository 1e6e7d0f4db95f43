-- Owns what people do with dead letters: to have them received again, or to delete them.

CREATE FUNCTION inbox.select_dead_letters(
    subscription inbox.subscription, at_position bigint, topic text, since timestamptz, max bigint
) RETURNS SETOF bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF at_position IS NULL AND topic IS NULL AND since IS NULL AND max IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'no dead letters selected',
            DETAIL = 'At least one of at_position, topic, since and max must be given.',
            HINT = 'To select all of them, pass since => ''-infinity''.';
    END IF;
    RETURN QUERY
        SELECT d.dead_letter_id FROM inbox.dead_letters AS d
         WHERE d.subscription_id = subscription.id
           AND (at_position IS NULL OR d.position = at_position)
           AND (select_dead_letters.topic IS NULL OR d.topic = select_dead_letters.topic)
           AND (since IS NULL OR d.died_at >= since)
         ORDER BY d.position
         LIMIT max
           FOR UPDATE OF d;
END
$$;
COMMENT ON FUNCTION inbox.select_dead_letters(inbox.subscription, bigint, text, timestamptz, bigint) IS
    'Selects and locks the dead letters for inbox.redrive() and inbox.discard(), in the order of their positions.';

CREATE FUNCTION inbox.redrive_for(
    caller regrole, subscription text, at_position bigint, topic text, since timestamptz, max bigint
) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- Sessions read the waiting events of a lane at each receive.
    most CONSTANT integer := 10000;
    own            inbox.subscription := inbox.own_subscription(caller, subscription, false);
    room           bigint := most - (SELECT count(*) FROM inbox.retry AS r WHERE r.subscription_id = own.id);
    redriven       bigint;
    first_position bigint;
    last_position  bigint;
BEGIN
    -- A later record of the key may have been applied since.
    PERFORM inbox.refuse_projection(own.id, 'inbox.redrive()', 'Produce the key again, or SELECT inbox.rebuild(%L); inbox.discard() deletes dead letters.');
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM inbox.select_dead_letters(own, at_position, topic, since, max) AS c(id) LIMIT greatest(room, 0)
    ), dead AS (
        DELETE FROM inbox.dead_letters AS d USING chosen AS c WHERE d.dead_letter_id = c.id RETURNING d.*
    ), again AS (
        INSERT INTO inbox.retry (subscription_id, position, lane, topic, partition, "offset", produced_at, key, value, headers,
                                 order_key, attempts, next_attempt_at, last_error, failed_at, skip_after)
        SELECT d.subscription_id, d.position, d.lane, d.topic, d.partition, d."offset", d.produced_at, d.key, d.value, d.headers,
               d.order_key, 0, clock_timestamp(), d.last_error, d.died_at,
               -- Seeks up to now have left it.
               greatest(d.position - 1, (SELECT p.first_position FROM inbox.partition AS p
                                          WHERE p.source_id = d.subscription_id AND p.topic = d.topic AND p.partition = d.partition))
          FROM dead AS d
        ON CONFLICT DO NOTHING
        RETURNING position
    )
    SELECT count(*), min(a.position), max(a.position) INTO redriven, first_position, last_position FROM again AS a;
    IF redriven > 0 AND current_setting('event_outbox.notify') <> 'off' THEN
        PERFORM pg_notify(inbox.channel(subscription), json_build_object(
            'first_position', first_position, 'last_position', last_position, 'count', redriven)::text);
    END IF;
    IF room <= redriven THEN
        RAISE NOTICE USING
            MESSAGE = format('%s events of subscription "%s" wait, which is the most', most, subscription),
            DETAIL = format('%s dead letters were moved.', redriven),
            HINT = 'Call inbox.redrive() again when these have been received.';
    END IF;
    RETURN redriven;
END
$$;
COMMENT ON FUNCTION inbox.redrive_for(regrole, text, bigint, text, timestamptz, bigint) IS 'Does the work of inbox.redrive() for the caller.';

CREATE FUNCTION inbox.redrive(
    subscription text,
    at_position  bigint DEFAULT NULL,
    topic        text DEFAULT NULL,
    since        timestamptz DEFAULT NULL,
    max          bigint DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.redrive(text, bigint, text, timestamptz, bigint) IS
    'Has dead letters received again, in the order of their positions and with no attempts; returns how many. Later events of their keys wait for them.';

CREATE FUNCTION inbox.discard_for(
    caller regrole, subscription text, at_position bigint, topic text, since timestamptz, max bigint
) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    own       inbox.subscription := inbox.own_subscription(caller, subscription, false);
    discarded bigint;
BEGIN
    WITH chosen AS MATERIALIZED (
        SELECT c.id FROM inbox.select_dead_letters(own, at_position, topic, since, max) AS c(id)
    )
    DELETE FROM inbox.dead_letters AS d USING chosen AS c WHERE d.dead_letter_id = c.id;
    GET DIAGNOSTICS discarded = ROW_COUNT;
    RETURN discarded;
END
$$;
COMMENT ON FUNCTION inbox.discard_for(regrole, text, bigint, text, timestamptz, bigint) IS 'Does the work of inbox.discard() for the caller.';

CREATE FUNCTION inbox.discard(
    subscription text,
    at_position  bigint DEFAULT NULL,
    topic        text DEFAULT NULL,
    since        timestamptz DEFAULT NULL,
    max          bigint DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.discard(text, bigint, text, timestamptz, bigint) IS 'Deletes dead letters; returns how many.';
