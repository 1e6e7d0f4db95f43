-- Owns try_emit(), for messages that may be invalid, such as those that another system delivers repeatedly.

CREATE TABLE outbox.intake (
    source_id text PRIMARY KEY,
    status    text NOT NULL DEFAULT 'invalid' CHECK (status IN ('stored', 'invalid', 'rejected')),
    attempts  integer NOT NULL DEFAULT 0,
    event_id  uuid,
    error     text,
    first_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

COMMENT ON TABLE outbox.intake IS
    'Messages passed to outbox.try_emit(), by source_id. Delete rows that their sources will not deliver again.';
COMMENT ON COLUMN outbox.intake.source_id IS 'Identity of the message, assigned by its source.';
COMMENT ON COLUMN outbox.intake.status IS 'stored, invalid (can be retried) or rejected (permanently).';
COMMENT ON COLUMN outbox.intake.attempts IS 'How often the message was checked.';
COMMENT ON COLUMN outbox.intake.event_id IS 'Identity of the event, if one was stored.';
COMMENT ON COLUMN outbox.intake.error IS 'The error found last.';
COMMENT ON COLUMN outbox.intake.first_at IS 'When the message was first received.';
COMMENT ON COLUMN outbox.intake.last_at IS 'When the message was last checked.';

SELECT pg_catalog.pg_extension_config_dump('outbox.intake', '');

CREATE FUNCTION outbox.store_message(
    source_id      text,
    topic          text,
    payload        text,
    key            text,
    event_type     text,
    headers        jsonb,
    OUT status     text,
    OUT attempt    integer,
    INOUT event_id uuid,
    OUT error      text,
    partition      integer
)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    known outbox.intake;
BEGIN
    IF source_id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'source_id must not be null',
            DETAIL = 'Attempts are counted and duplicates are found by source_id.',
            HINT = 'Use outbox.emit() for messages without an identity.';
    END IF;
    -- The index on it could not store a longer one.
    IF octet_length(source_id) > 1000 THEN
        status := 'rejected';
        attempt := 1;
        event_id := NULL;
        error := 'source_id is longer than 1000 bytes';
        RETURN;
    END IF;
    -- A session that stores the same message concurrently waits here.
    INSERT INTO outbox.intake AS i (source_id) VALUES (store_message.source_id) ON CONFLICT DO NOTHING;
    SELECT i.* INTO known FROM outbox.intake AS i WHERE i.source_id = store_message.source_id FOR UPDATE;
    IF known.status <> 'invalid' THEN
        status := CASE known.status WHEN 'stored' THEN 'duplicate' ELSE known.status END;
        attempt := known.attempts;
        event_id := known.event_id;
        error := known.error;
        RETURN;
    END IF;

    attempt := known.attempts + 1;
    BEGIN
        event_id := outbox.emit(topic, payload::jsonb, key, event_type, headers, event_id, partition);
        status := 'stored';
    -- Errors of the message. Errors of the database are raised to the caller.
    EXCEPTION WHEN data_exception OR invalid_name OR reserved_name OR program_limit_exceeded OR check_violation THEN
        event_id := NULL;
        status := CASE WHEN attempt < current_setting('event_outbox.max_attempts')::integer THEN 'invalid' ELSE 'rejected' END;
        error := SQLERRM;
    END;
    UPDATE outbox.intake AS i
       SET status = store_message.status, attempts = attempt, event_id = store_message.event_id, error = store_message.error,
           last_at = clock_timestamp()
     WHERE i.source_id = store_message.source_id;
END
$$;
COMMENT ON FUNCTION outbox.store_message(text, text, text, text, text, jsonb, uuid, integer) IS
    'Implements outbox.try_emit() with the rights of the owner, after the caller''s right to the topic is checked.';

CREATE FUNCTION outbox.try_emit(
    source_id      text,
    topic          text,
    payload        text,
    key            text DEFAULT NULL,
    event_type     text DEFAULT NULL,
    headers        jsonb DEFAULT NULL,
    OUT status     text,
    OUT attempt    integer,
    INOUT event_id uuid DEFAULT NULL,
    OUT error      text,
    partition      integer DEFAULT NULL
)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'outbox_try_emit';
COMMENT ON FUNCTION outbox.try_emit(text, text, text, text, text, jsonb, uuid, integer) IS
    'Stores an event for a message that may be invalid, once per source_id, without aborting the transaction. The status is stored, duplicate, invalid or, after event_outbox.max_attempts, rejected.';

CREATE FUNCTION outbox.try_emit(
    source_id      text,
    topic          text,
    payload        jsonb,
    key            text DEFAULT NULL,
    event_type     text DEFAULT NULL,
    headers        jsonb DEFAULT NULL,
    OUT status     text,
    OUT attempt    integer,
    INOUT event_id uuid DEFAULT NULL,
    OUT error      text,
    partition      integer DEFAULT NULL
)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'outbox_try_emit_json';
COMMENT ON FUNCTION outbox.try_emit(text, text, jsonb, text, text, jsonb, uuid, integer) IS
    'Like the form with a text payload, for a payload that is known to be JSON.';

-- For other types, as in emit.sql.
CREATE FUNCTION outbox.try_emit(
    source_id    outbox.as_text,
    topic        outbox.topic_name,
    payload      outbox.as_text,
    key          outbox.as_text DEFAULT NULL,
    event_type   text DEFAULT NULL,
    headers      outbox.as_text DEFAULT NULL,
    OUT status   text,
    OUT attempt  integer,
    event_id     outbox.as_text DEFAULT NULL,
    OUT event_id uuid,
    OUT error    text,
    partition    bigint DEFAULT NULL
)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT t.status, t.attempt, t.event_id, t.error
      FROM outbox.try_emit($1::text, $2::text, $3::text, $4::text, $5, $6::text::jsonb, $7::text::uuid, $8::integer) AS t;
END;
COMMENT ON FUNCTION outbox.try_emit(outbox.as_text, outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint) IS
    'Like the form with a text payload, for other types, such as json or a driver''s strings and longs.';
