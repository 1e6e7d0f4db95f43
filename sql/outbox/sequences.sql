-- Owns the numbering of events per topic and key: which topics are numbered, and the last number of each key. The numbers are
-- drawn in src/outbox/emit/sequences.rs.

CREATE TABLE outbox.sequenced_topics (
    topic text PRIMARY KEY CONSTRAINT topic_name CHECK (outbox.is_topic_name(topic))
);
COMMENT ON TABLE outbox.sequenced_topics IS
    'The topics whose events are numbered per key. outbox.sequence_topic() and outbox.unsequence_topic() change it.';
COMMENT ON COLUMN outbox.sequenced_topics.topic IS 'The topic.';

-- Each event updates the row of its key. The room on the page lets such updates do without the index.
CREATE TABLE outbox.sequences (
    topic      text   NOT NULL REFERENCES outbox.sequenced_topics ON DELETE CASCADE,
    key_digest bytea  NOT NULL,
    last       bigint NOT NULL,
    PRIMARY KEY (topic, key_digest)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE outbox.sequences IS
    'The last number of each key of a numbered topic. A transaction that emits an event locks the row of its key until its end.';
COMMENT ON COLUMN outbox.sequences.topic IS 'The topic.';
COMMENT ON COLUMN outbox.sequences.key_digest IS 'The first 16 bytes of the SHA-256 of the key, which may be too long for an index.';
COMMENT ON COLUMN outbox.sequences.last IS 'The number of the last event.';

SELECT pg_catalog.pg_extension_config_dump('outbox.sequenced_topics', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.sequences', '');

-- The function invalidates what sessions know of the table on which it fires, whichever that is.
CREATE TRIGGER sequenced_topics_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.sequenced_topics
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.topic_grants_changed();

CREATE FUNCTION outbox.sequence_topic(topic text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF topic IS NULL OR NOT outbox.is_topic_name(topic) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid event topic',
            DETAIL = format('No event can have the topic "%s".', topic),
            HINT = 'Pass the name of one topic.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.sequenced_topics');
    INSERT INTO outbox.sequenced_topics (topic) VALUES (sequence_topic.topic) ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION outbox.sequence_topic(text) IS
    'Numbers the events of a topic per key from now on, without gaps, in the header outbox_seq. Returns whether they were not numbered before.';

CREATE FUNCTION outbox.unsequence_topic(topic text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM outbox.act_as_owner('outbox.sequenced_topics');
    DELETE FROM outbox.sequenced_topics AS s WHERE s.topic = unsequence_topic.topic;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION outbox.unsequence_topic(text) IS
    'Ends the numbering of a topic''s events, and forgets the numbers. Returns whether they were numbered.';
