-- Owns the archive: what was published to the topics that somebody has archived. The relay stores events in segments, which
-- leave by a TRUNCATE (src/outbox/relay/archive.rs).

CREATE TABLE outbox.archived_topics (
    pattern   text PRIMARY KEY CONSTRAINT topic_or_prefix CHECK (outbox.is_topic_pattern(pattern)),
    retention interval NOT NULL CHECK (retention > interval '0')
);
COMMENT ON TABLE outbox.archived_topics IS 'The topics whose published events are archived. outbox.set_archive() changes it.';
COMMENT ON COLUMN outbox.archived_topics.pattern IS 'A topic name, or a prefix of topic names followed by an asterisk.';
COMMENT ON COLUMN outbox.archived_topics.retention IS 'How long their events are kept at least.';

CREATE TABLE outbox.archive_segment (
    number         smallint PRIMARY KEY CHECK (number BETWEEN 0 AND 7),
    first_position bigint NOT NULL,
    opened_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE outbox.archive_segment IS 'The segments of the archive that hold events. Changed only by the relay.';
COMMENT ON COLUMN outbox.archive_segment.number IS 'Which of the tables archive_0 to archive_7 it is.';
COMMENT ON COLUMN outbox.archive_segment.first_position IS 'Order of the segments.';
COMMENT ON COLUMN outbox.archive_segment.opened_at IS 'When its first event was stored.';

-- The ring of segments.
DO $once$
BEGIN
    FOR n IN 0..7 LOOP
        EXECUTE pg_catalog.format($ddl$
            CREATE TABLE outbox.archive_%1$s (
                topic            text COLLATE "C" NOT NULL,
                published_at     timestamptz NOT NULL,
                partition        integer NOT NULL,
                "offset"         bigint NOT NULL,
                id               bigint NOT NULL,
                event_id         uuid NOT NULL,
                emitted_at       timestamptz NOT NULL,
                chosen_partition integer,
                key              bytea,
                payload          bytea,
                headers          json,
                event_type       text,
                content_type     text
            );
            CREATE INDEX archive_%1$s_index ON outbox.archive_%1$s (topic, published_at);
            COMMENT ON TABLE outbox.archive_%1$s IS 'A segment of the archive. outbox.archive shows all.';
            COMMENT ON COLUMN outbox.archive_%1$s.topic IS 'The topic.';
            COMMENT ON COLUMN outbox.archive_%1$s.published_at IS 'When the acknowledgement of Kafka was settled.';
            COMMENT ON COLUMN outbox.archive_%1$s.partition IS 'The partition in which the record lies.';
            COMMENT ON COLUMN outbox.archive_%1$s."offset" IS 'The offset of the record.';
            COMMENT ON COLUMN outbox.archive_%1$s.id IS 'Former position of the event in the outbox.';
            COMMENT ON COLUMN outbox.archive_%1$s.event_id IS 'Identity of the event.';
            COMMENT ON COLUMN outbox.archive_%1$s.emitted_at IS 'When the event was emitted.';
            COMMENT ON COLUMN outbox.archive_%1$s.chosen_partition IS 'The partition that the event specified, if it did.';
            COMMENT ON COLUMN outbox.archive_%1$s.key IS 'Record key.';
            COMMENT ON COLUMN outbox.archive_%1$s.payload IS 'Record value.';
            COMMENT ON COLUMN outbox.archive_%1$s.headers IS 'Headers of the event.';
            COMMENT ON COLUMN outbox.archive_%1$s.event_type IS 'CloudEvents type, if the event specified one.';
            COMMENT ON COLUMN outbox.archive_%1$s.content_type IS 'Media type of the payload.';
        $ddl$, n);
        PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('outbox.archive_%s', n)::pg_catalog.regclass, '');
    END LOOP;
END
$once$;

SELECT pg_catalog.pg_extension_config_dump('outbox.archived_topics', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.archive_segment', '');

CREATE VIEW outbox.archive AS
    SELECT a.topic, a.partition, a."offset", a.published_at, a.event_id, a.emitted_at, a.id, a.chosen_partition, a.key, a.payload,
           a.headers, a.event_type, a.content_type
      FROM (          SELECT * FROM outbox.archive_0 UNION ALL SELECT * FROM outbox.archive_1
            UNION ALL SELECT * FROM outbox.archive_2 UNION ALL SELECT * FROM outbox.archive_3
            UNION ALL SELECT * FROM outbox.archive_4 UNION ALL SELECT * FROM outbox.archive_5
            UNION ALL SELECT * FROM outbox.archive_6 UNION ALL SELECT * FROM outbox.archive_7) AS a;
COMMENT ON VIEW outbox.archive IS 'The archived events, with their places in Kafka.';
COMMENT ON COLUMN outbox.archive.topic IS 'The topic.';
COMMENT ON COLUMN outbox.archive.partition IS 'The partition in which the record lies.';
COMMENT ON COLUMN outbox.archive."offset" IS 'The offset of the record.';
COMMENT ON COLUMN outbox.archive.published_at IS 'When the acknowledgement of Kafka was settled.';
COMMENT ON COLUMN outbox.archive.event_id IS 'Identity of the event.';
COMMENT ON COLUMN outbox.archive.emitted_at IS 'When the event was emitted.';
COMMENT ON COLUMN outbox.archive.id IS 'Former position of the event in the outbox.';
COMMENT ON COLUMN outbox.archive.chosen_partition IS 'The partition that the event specified, if it did.';
COMMENT ON COLUMN outbox.archive.key IS 'Record key.';
COMMENT ON COLUMN outbox.archive.payload IS 'Record value.';
COMMENT ON COLUMN outbox.archive.headers IS 'Headers of the event.';
COMMENT ON COLUMN outbox.archive.event_type IS 'CloudEvents type, if the event specified one.';
COMMENT ON COLUMN outbox.archive.content_type IS 'Media type of the payload.';

CREATE FUNCTION outbox.set_archive(pattern text, retention interval) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF pattern IS NULL OR NOT outbox.is_topic_pattern(pattern) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No valid topic name matches "%s".', pattern),
            HINT = 'Pass a topic name, or a prefix and an asterisk, such as ''orders.*''.';
    END IF;
    IF retention <= interval '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid retention',
            DETAIL = format('The retention is %s.', retention),
            HINT = 'Pass an interval above zero, or NULL to stop archiving the topics.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.archived_topics');
    IF retention IS NULL THEN
        DELETE FROM outbox.archived_topics AS a WHERE a.pattern = set_archive.pattern;
    ELSE
        INSERT INTO outbox.archived_topics AS a VALUES (set_archive.pattern, set_archive.retention)
            ON CONFLICT ON CONSTRAINT archived_topics_pkey DO UPDATE SET retention = excluded.retention;
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.set_archive(text, interval) IS
    'Has the events of a topic, or of all topics with a prefix, archived when they are published, for at least this long; NULL ends that.';

CREATE FUNCTION outbox.replay(
    topic text,
    since timestamptz DEFAULT NULL,
    until timestamptz DEFAULT NULL,
    key   text DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    tables   CONSTANT regclass[] := ARRAY['outbox.events', 'outbox.archive', 'outbox.archive_0', 'outbox.archive_1',
                                          'outbox.archive_2', 'outbox.archive_3', 'outbox.archive_4', 'outbox.archive_5',
                                          'outbox.archive_6', 'outbox.archive_7'];
    replayed bigint;
BEGIN
    IF topic IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'topic must not be null',
            DETAIL = 'Events are replayed topic by topic.',
            HINT = 'Pass the name of the topic as the first argument.';
    END IF;
    IF EXISTS (SELECT FROM pg_class AS c WHERE c.oid = ANY (tables) AND NOT pg_has_role(c.relowner, current_user, 'USAGE')) THEN
        IF (SELECT count(DISTINCT c.relowner) FROM pg_class AS c WHERE c.oid = ANY (tables)) > 1 THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = 'outbox.events and outbox.archive belong to different roles',
                DETAIL = 'outbox.replay() uses the rights of the owner of both.',
                HINT = 'Use ALTER TABLE ... OWNER TO to give outbox.events, outbox.archive and its segments to one role.';
        END IF;
        PERFORM outbox.act_as_owner('outbox.events');
    END IF;
    -- Concatenated as text, because jsonb would lose the order and repetitions of the event's headers.
    INSERT INTO outbox.events (event_id, emitted_at, topic, partition, key, payload, headers, event_type, content_type)
    SELECT a.event_id, a.emitted_at, a.topic, a.chosen_partition, a.key, a.payload,
           (h.open || CASE WHEN h.open = '{' THEN '' ELSE ', ' END || '"__outbox.replayed": "true"}')::json,
           a.event_type, a.content_type
      FROM outbox.archive AS a
      CROSS JOIN LATERAL rtrim(left(btrim(coalesce(a.headers::text, '{}'), E' \t\r\n'), -1), E' \t\r\n') AS h (open)
     WHERE a.topic = replay.topic
       AND (since IS NULL OR a.published_at >= since)
       AND (until IS NULL OR a.published_at < until)
       AND (replay.key IS NULL OR a.key = convert_to(replay.key, 'UTF8'))
       -- What was replayed is there already, as it was first published.
       AND NOT coalesce(a.headers::text LIKE '%"\_\_outbox.replayed": "true"}', false)
     ORDER BY a.id, a.published_at;
    GET DIAGNOSTICS replayed = ROW_COUNT;
    RETURN replayed;
END
$$;
COMMENT ON FUNCTION outbox.replay(text, timestamptz, timestamptz, text) IS
    'Emits archived events of a topic again, in their order, with the same event_id and the header __outbox.replayed; returns how many.';
