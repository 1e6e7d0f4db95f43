-- Owns how topics differ from event_outbox.delivery, and the count of events on their way that have no row any more
-- (src/outbox/relay/at_most_once.rs).

CREATE TABLE outbox.topic_delivery (
    pattern  text PRIMARY KEY CONSTRAINT topic_or_prefix CHECK (outbox.is_topic_pattern(pattern)),
    delivery text NOT NULL CHECK (delivery IN ('at_least_once', 'at_most_once'))
);
COMMENT ON TABLE outbox.topic_delivery IS
    'The topics whose events are delivered in another way than event_outbox.delivery says. outbox.set_delivery() changes it.';
COMMENT ON COLUMN outbox.topic_delivery.pattern IS
    'A topic name, or a prefix of topic names followed by an asterisk. A name counts before a prefix, a longer prefix before a shorter one.';
COMMENT ON COLUMN outbox.topic_delivery.delivery IS 'at_least_once or at_most_once.';

CREATE TABLE outbox.unconfirmed (
    claim  bigint PRIMARY KEY,
    events bigint NOT NULL
);
COMMENT ON TABLE outbox.unconfirmed IS
    'Events that were deleted to be published at most once, and that Kafka has not answered yet. Changed only by the relay.';
COMMENT ON COLUMN outbox.unconfirmed.claim IS 'Number of the deletion, since the relay started.';
COMMENT ON COLUMN outbox.unconfirmed.events IS 'How many events it deleted.';

SELECT pg_catalog.pg_extension_config_dump('outbox.topic_delivery', '');

CREATE FUNCTION outbox.after_delivery() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_after_delivery';
COMMENT ON FUNCTION outbox.after_delivery() IS 'Tells the relay at commit that topics are delivered in another way.';

CREATE TRIGGER after_delivery AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.topic_delivery
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.after_delivery();

CREATE FUNCTION outbox.set_delivery(pattern text, delivery text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF pattern IS NULL OR NOT outbox.is_topic_pattern(pattern) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No valid topic name matches "%s".', pattern),
            HINT = 'Pass a topic name, or a prefix and an asterisk, such as ''metrics.*''.';
    END IF;
    IF delivery = 'exactly_once' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid delivery',
            DETAIL = 'A transaction of Kafka has the events of all topics that were read together, so exactly_once is for a whole database.',
            HINT = format('ALTER DATABASE %I SET event_outbox.delivery = ''exactly_once'';', current_database());
    END IF;
    IF delivery NOT IN ('at_least_once', 'at_most_once') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid delivery',
            DETAIL = format('There is no delivery "%s".', delivery),
            HINT = 'Pass ''at_least_once'' or ''at_most_once'', or NULL for what event_outbox.delivery says.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.topic_delivery');
    IF delivery IS NULL THEN
        DELETE FROM outbox.topic_delivery AS t WHERE t.pattern = set_delivery.pattern;
    ELSE
        INSERT INTO outbox.topic_delivery AS t VALUES (set_delivery.pattern, set_delivery.delivery)
            ON CONFLICT ON CONSTRAINT topic_delivery_pkey DO UPDATE SET delivery = excluded.delivery;
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.set_delivery(text, text) IS
    'Has the events of a topic, or of all topics with a prefix, delivered at_least_once or at_most_once; NULL ends that.';

CREATE FUNCTION outbox.take_over() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_take_over';
COMMENT ON FUNCTION outbox.take_over() IS
    'Has the relay deliver exactly once from this server, although one that was promoted later does. Returns false if no relay is running.';
