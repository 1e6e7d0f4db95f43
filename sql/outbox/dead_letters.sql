-- Owns the dead letters: events that Kafka refused until their last attempt. They are kept complete, so people can inspect
-- them, send them again or discard them. The relay does not retry them by itself.

CREATE TABLE outbox.dead_letters (
    dead_letter_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id               bigint NOT NULL,
    event_id         uuid NOT NULL,
    emitted_at       timestamptz NOT NULL,
    topic            text NOT NULL,
    partition        integer,
    key              bytea,
    payload          bytea,
    headers          json,
    event_type       text,
    content_type     text,
    attempts         integer NOT NULL,
    error            text NOT NULL,
    error_class      text,
    first_refused_at timestamptz NOT NULL,
    last_refused_at  timestamptz NOT NULL,
    expires_at       timestamptz
);

CREATE INDEX dead_letters_event_id ON outbox.dead_letters (event_id);

COMMENT ON TABLE outbox.dead_letters IS
    'Events that Kafka refused until their last attempt, and events that expired. Send them again with outbox.redrive(), or delete them with outbox.discard().';
COMMENT ON COLUMN outbox.dead_letters.dead_letter_id IS 'Order in which the events became dead letters.';
COMMENT ON COLUMN outbox.dead_letters.id IS 'Former position of the event in the outbox.';
COMMENT ON COLUMN outbox.dead_letters.event_id IS 'Identity of the event, kept when it is sent again.';
COMMENT ON COLUMN outbox.dead_letters.emitted_at IS 'When the event was emitted.';
COMMENT ON COLUMN outbox.dead_letters.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.dead_letters.partition IS 'Kafka partition, if the event specifies one.';
COMMENT ON COLUMN outbox.dead_letters.key IS 'Record key.';
COMMENT ON COLUMN outbox.dead_letters.payload IS 'Record value.';
COMMENT ON COLUMN outbox.dead_letters.headers IS 'Headers of the event.';
COMMENT ON COLUMN outbox.dead_letters.event_type IS 'CloudEvents type, if the event specifies one.';
COMMENT ON COLUMN outbox.dead_letters.content_type IS 'Media type of the payload.';
COMMENT ON COLUMN outbox.dead_letters.attempts IS 'How often Kafka refused the event.';
COMMENT ON COLUMN outbox.dead_letters.error IS 'Why Kafka last refused the event.';
COMMENT ON COLUMN outbox.dead_letters.error_class IS
    'Class of the refusal: too_large, unknown_topic, unknown_partition, not_authorized, invalid_record, invalid_timestamp, invalid_topic, other, or expired for an event that Kafka was not given in time; NULL if the refusal was reported by hand.';
COMMENT ON COLUMN outbox.dead_letters.first_refused_at IS 'When Kafka first refused the event.';
COMMENT ON COLUMN outbox.dead_letters.last_refused_at IS 'When Kafka last refused the event and it became a dead letter.';
COMMENT ON COLUMN outbox.dead_letters.expires_at IS
    'When the event expired, or would have expired. outbox.redrive() does not carry it over: the event does not expire again.';

SELECT pg_catalog.pg_extension_config_dump('outbox.dead_letters', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.dead_letters_dead_letter_id_seq', '');

CREATE FUNCTION outbox.move_to_dead_letters() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM outbox.act_as_owner('outbox.dead_letters');
    INSERT INTO outbox.dead_letters (id, event_id, emitted_at, topic, partition, key, payload, headers, event_type,
                                     content_type, attempts, error, error_class, first_refused_at, last_refused_at, expires_at)
    VALUES (NEW.id, NEW.event_id, NEW.emitted_at, NEW.topic, NEW.partition, NEW.key, NEW.payload, NEW.headers, NEW.event_type,
            NEW.content_type, NEW.attempts, NEW.last_error, NEW.error_class, NEW.first_refused_at, clock_timestamp(), NEW.expires_at);

    PERFORM pg_notify('outbox_dead_letter',
                      json_build_object('event_id', NEW.event_id, 'topic', left(NEW.topic, 249), 'error_class', NEW.error_class,
                                        'error', left(NEW.last_error, 1000))::text);

    RETURN NULL;
END
$$;
COMMENT ON FUNCTION outbox.move_to_dead_letters() IS
    'Copies an event without attempts left to outbox.dead_letters, and notifies the channel outbox_dead_letter.';

CREATE FUNCTION outbox.log_missing_copy(event_id uuid, topic text, code text, error text) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'outbox_log_missing_copy';
COMMENT ON FUNCTION outbox.log_missing_copy(uuid, text, text, text) IS
    'Logs that a dead event could not be copied to event_outbox.dead_letter_topic: the first for each topic and error, then counts.';

CREATE FUNCTION outbox.remove_dead_event() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    elsewhere text := current_setting('event_outbox.dead_letter_topic');
    errors    text;
    headers   text;
BEGIN
    PERFORM outbox.act_as_owner('outbox.events');
    DELETE FROM outbox.events AS e WHERE e.id = NEW.id;

    -- A copy for consumers in Kafka. A copy that dies is not copied again.
    IF elsewhere = '' OR elsewhere = NEW.topic THEN
        RETURN NULL;
    END IF;
    -- Concatenated as text, because jsonb would lose the order and repetitions of the event's headers.
    errors := json_build_object('__outbox.errors.topic', left(NEW.topic, 249),
                                '__outbox.errors.class', NEW.error_class,
                                '__outbox.errors.message', left(NEW.last_error, 1000),
                                '__outbox.errors.attempts', NEW.attempts::text)::text;
    headers := rtrim(left(btrim(coalesce(NEW.headers::text, '{}'), E' \t\r\n'), -1), E' \t\r\n');
    headers := headers || CASE WHEN headers = '{' THEN '' ELSE ', ' END || substr(errors, 2);
    BEGIN
        INSERT INTO outbox.events (event_id, topic, key, payload, headers, event_type, content_type)
        VALUES (NEW.event_id, elsewhere, coalesce(NEW.key, CASE WHEN NEW.payload IS NULL THEN ''::bytea END), NEW.payload,
                headers::json, NEW.event_type, NEW.content_type);
    -- The headers added may make the copy too large. The dead letter itself is already stored.
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR invalid_name OR reserved_name THEN
        PERFORM outbox.log_missing_copy(NEW.event_id, NEW.topic, SQLSTATE, SQLERRM);
    END;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION outbox.remove_dead_event() IS
    'Deletes an event that is now in outbox.dead_letters, and emits a copy to event_outbox.dead_letter_topic.';

-- count_attempt sets next_attempt_at to NULL after the last attempt.
CREATE TRIGGER move_to_dead_letters AFTER UPDATE OF last_error ON outbox.events
    FOR EACH ROW WHEN (NEW.last_error IS NOT NULL AND NEW.next_attempt_at IS NULL)
    EXECUTE FUNCTION outbox.move_to_dead_letters();

-- PostgreSQL fires triggers in the order of their names, so this one fires after move_to_dead_letters.
CREATE TRIGGER remove_dead_event AFTER UPDATE OF last_error ON outbox.events
    FOR EACH ROW WHEN (NEW.last_error IS NOT NULL AND NEW.next_attempt_at IS NULL)
    EXECUTE FUNCTION outbox.remove_dead_event();

CREATE FUNCTION outbox.select_dead_letters(event_id uuid, topic text, since timestamptz, max bigint) RETURNS SETOF bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF event_id IS NULL AND topic IS NULL AND since IS NULL AND max IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'no dead letters selected',
            DETAIL = 'At least one of event_id, topic, since and max must be given.',
            HINT = 'To select all of them, pass since => ''-infinity''.';
    END IF;
    RETURN QUERY
        SELECT d.dead_letter_id FROM outbox.dead_letters AS d
         WHERE (select_dead_letters.event_id IS NULL OR d.event_id = select_dead_letters.event_id)
           AND (select_dead_letters.topic IS NULL OR d.topic = select_dead_letters.topic)
           AND (since IS NULL OR d.last_refused_at >= since)
         ORDER BY d.id, d.dead_letter_id
         LIMIT max
           FOR UPDATE OF d;
END
$$;
COMMENT ON FUNCTION outbox.select_dead_letters(uuid, text, timestamptz, bigint) IS
    'Selects and locks the dead letters for redrive() and discard(), oldest event first.';

CREATE FUNCTION outbox.redrive(
    event_id uuid DEFAULT NULL,
    topic    text DEFAULT NULL,
    since    timestamptz DEFAULT NULL,
    max      bigint DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- Before the function switches to the rights of the table's owner.
    chosen   bigint[] := ARRAY(SELECT outbox.select_dead_letters(redrive.event_id, redrive.topic, since, max));
    redriven bigint;
BEGIN
    PERFORM outbox.log_dead_letters(chosen, 'redriven');
    IF EXISTS (SELECT FROM pg_class AS c
                WHERE c.oid IN ('outbox.events'::regclass, 'outbox.dead_letters'::regclass)
                  AND NOT pg_has_role(c.relowner, current_user, 'USAGE')) THEN
        IF (SELECT count(DISTINCT c.relowner) FROM pg_class AS c
             WHERE c.oid IN ('outbox.events'::regclass, 'outbox.dead_letters'::regclass)) > 1 THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = 'outbox.events and outbox.dead_letters belong to different roles',
                DETAIL = 'outbox.redrive() uses the rights of the owner of both tables.',
                HINT = 'Use ALTER TABLE ... OWNER TO to give both tables to one role.';
        END IF;
        PERFORM outbox.act_as_owner('outbox.events');
    END IF;
    WITH dead AS (
        DELETE FROM outbox.dead_letters AS d
         WHERE d.dead_letter_id = ANY (chosen)
        RETURNING d.*
    )
    INSERT INTO outbox.events (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type, error_class)
    SELECT c.event_id, c.emitted_at, c.topic, c.partition, c.key, c.payload, c.headers, c.event_type, c.content_type,
           -- Tells the relay to send the record with the current time.
           CASE WHEN c.error_class = 'invalid_timestamp' THEN c.error_class END
      FROM dead AS c
     ORDER BY c.id, c.dead_letter_id;
    GET DIAGNOSTICS redriven = ROW_COUNT;
    RETURN redriven;
END
$$;
COMMENT ON FUNCTION outbox.redrive(uuid, text, timestamptz, bigint) IS
    'Moves dead letters back into outbox.events, behind all other events, with the same event_id and no attempts; returns how many.';

CREATE FUNCTION outbox.discard(
    event_id uuid DEFAULT NULL,
    topic    text DEFAULT NULL,
    since    timestamptz DEFAULT NULL,
    max      bigint DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- Before the function switches to the rights of the table's owner.
    chosen    bigint[] := ARRAY(SELECT outbox.select_dead_letters(discard.event_id, discard.topic, since, max));
    discarded bigint;
BEGIN
    PERFORM outbox.log_dead_letters(chosen, 'discarded');
    PERFORM outbox.act_as_owner('outbox.dead_letters');
    DELETE FROM outbox.dead_letters AS d
     WHERE d.dead_letter_id = ANY (chosen);
    GET DIAGNOSTICS discarded = ROW_COUNT;
    RETURN discarded;
END
$$;
COMMENT ON FUNCTION outbox.discard(uuid, text, timestamptz, bigint) IS 'Deletes dead letters; returns how many.';
