-- Owns what outbox.check() says of the topic that delivery exactly once needs.

CREATE FUNCTION outbox.check_progress_topic(relay_state text, most_replicas integer)
    RETURNS TABLE (subject text, verdict text, finding text, hint text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp ROWS 1
    AS $$
DECLARE
    described record;
    trouble   text;
BEGIN
    subject := 'progress topic'; verdict := 'ok'; hint := NULL;
    BEGIN
        SELECT d.* INTO described
          FROM outbox.describe_topics(ARRAY[current_setting('event_outbox.progress_topic')]) AS d;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS trouble = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    END;
    IF trouble IS NOT NULL THEN
        verdict := 'error';
        finding := format('"%s" cannot be described: %s.', current_setting('event_outbox.progress_topic'), trouble);
    ELSIF described.partitions IS NULL THEN
        verdict := CASE relay_state WHEN 'asleep' THEN 'ok' ELSE 'error' END;
        finding := format('"%s": %s.', described.topic, described.error);
        hint := format('The relay creates it, if its Kafka user may. Or SELECT outbox.create_topic(%L, 1, config => ''{"cleanup.policy": "compact"}'');',
                       described.topic);
    ELSIF described.partitions <> 1 THEN
        verdict := 'error';
        finding := format('"%s" has %s partitions: markers need the order of one.', described.topic, described.partitions);
        hint := format('ALTER DATABASE %I SET event_outbox.progress_topic = ''another topic'';', current_database());
    ELSIF described.cleanup_policy <> 'compact' THEN
        verdict := 'error';
        finding := format('"%s" has cleanup.policy=%s: Kafka deletes what later relays must know.', described.topic, described.cleanup_policy);
        hint := format('kafka-configs --alter --entity-type topics --entity-name %s --add-config cleanup.policy=compact', described.topic);
    ELSIF described.replication_factor < most_replicas THEN
        verdict := 'warning';
        finding := format('"%s" has %s replicas, other topics have up to %s: without its brokers nothing is published, and with their disks what relays know is lost.',
                          described.topic, described.replication_factor, most_replicas);
        hint := format('Raise its replication factor with kafka-reassign-partitions to %s.', most_replicas);
    ELSIF described.replication_factor > 1 AND described.min_insync_replicas >= described.replication_factor THEN
        verdict := 'warning';
        finding := format('"%s" requires %s of its %s replicas in sync: when one broker is down, nothing is published.',
                          described.topic, described.min_insync_replicas, described.replication_factor);
        hint := format('kafka-configs --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=%s',
                       described.topic, described.replication_factor - 1);
    ELSIF described.replication_factor > 2 AND described.min_insync_replicas = 1 THEN
        verdict := 'warning';
        finding := format('"%s" accepts markers that one broker alone has: with its disk they are lost, and their events can be published again.',
                          described.topic);
        hint := format('kafka-configs --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=2', described.topic);
    ELSE
        finding := format('"%s" has %s partition, replication factor %s.', described.topic, described.partitions, described.replication_factor)
                   || coalesce(' ' || described.error, '');
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION outbox.check_progress_topic(text, integer) IS
    'Examines event_outbox.progress_topic, for a relay in this state and beside topics with up to so many replicas.';
