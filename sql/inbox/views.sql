-- Owns the views of the inbox. Each shows the subscriptions from which the current user may receive, whoever else may see it.

CREATE VIEW inbox.next_offset AS
    SELECT p.source_id, p.number, p.topic, p.partition, coalesce(b.next_offsets[p.number + 1], p.start_offset) AS next_offset
      FROM inbox.partition AS p
           JOIN inbox.subscription AS s ON s.id = p.source_id
           LEFT JOIN LATERAL (SELECT b.generation, b.next_offsets FROM inbox.progress AS b
                               WHERE b.source_id = p.source_id ORDER BY b.batch DESC LIMIT 1) AS b
                  ON b.generation = s.generation;
COMMENT ON VIEW inbox.next_offset IS 'The next offset that the inbox reads of each partition. For the views and functions of the inbox.';
COMMENT ON COLUMN inbox.next_offset.source_id IS 'The subscription.';
COMMENT ON COLUMN inbox.next_offset.number IS 'The number of the partition within the subscription.';
COMMENT ON COLUMN inbox.next_offset.topic IS 'The topic.';
COMMENT ON COLUMN inbox.next_offset.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.next_offset.next_offset IS 'The next offset.';

-- The condition holds for all rows. But PostgreSQL takes it to leave one; it takes a table of which it has no statistics for 10
-- pages, so hundreds of subscriptions with 64 lanes each, and would compile the plan (JIT), which takes far longer than to run it.
CREATE VIEW inbox.lane_state AS
    SELECT s.id AS subscription_id, s.source_id, s.last_position, n.lane, coalesce(l.upto, s.first_position) AS upto
      FROM inbox.subscription AS s
           CROSS JOIN pg_catalog.generate_series(0, 63) AS n(lane)
           LEFT JOIN LATERAL (SELECT l.upto FROM inbox.lane AS l
                               WHERE l.subscription_id = s.id AND l.lane = n.lane ORDER BY l.seq DESC LIMIT 1) AS l ON true
     WHERE s.id + 0 = s.id;
COMMENT ON VIEW inbox.lane_state IS 'How far each lane of each subscription was received. For the views and functions of the inbox.';
COMMENT ON COLUMN inbox.lane_state.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.lane_state.source_id IS 'The subscription whose events it receives.';
COMMENT ON COLUMN inbox.lane_state.last_position IS 'It receives events up to this position; NULL for no end.';
COMMENT ON COLUMN inbox.lane_state.lane IS 'The lane.';
COMMENT ON COLUMN inbox.lane_state.upto IS 'Events up to this position are acknowledged, dead, or in inbox.retry.';

-- The first events of each lane stand for the rest: the cost of a look must not grow with the backlog.
CREATE VIEW inbox.unreceived AS
    SELECT u.subscription_id, u.number, pg_catalog.count(*) AS events, pg_catalog.min(u.produced_at) AS oldest_event_at
      FROM (SELECT s.subscription_id, s.source_id, e.partition AS number, e.position, e.produced_at
              FROM inbox.lane_state AS s
                   CROSS JOIN LATERAL (SELECT e.partition, e.position, e.produced_at FROM inbox.log AS e
                                        WHERE e.source_id = s.source_id AND e.lane = s.lane AND e.position > s.upto
                                          AND (s.last_position IS NULL OR e.position <= s.last_position)
                                        ORDER BY e.position LIMIT 1000) AS e) AS u
     WHERE u.subscription_id <> u.source_id
        OR u.position > (SELECT p.first_position FROM inbox.partition AS p
                          WHERE p.source_id = u.source_id AND p.number = u.number)
     GROUP BY u.subscription_id, u.number;
COMMENT ON VIEW inbox.unreceived IS
    'Stored events that were not received yet, up to 1,000 of each lane. For the views and functions of the inbox.';
COMMENT ON COLUMN inbox.unreceived.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.unreceived.number IS 'The number of the partition within the subscription that reads it.';
COMMENT ON COLUMN inbox.unreceived.events IS 'How many events.';
COMMENT ON COLUMN inbox.unreceived.oldest_event_at IS 'The timestamp of the oldest one.';

CREATE VIEW inbox.subscriptions WITH (security_barrier) AS
    SELECT s.id,
           s.name,
           s.owner,
           CASE WHEN s.source_id <> s.id THEN source.name END AS replay_of,
           CASE WHEN s.pattern IS NULL THEN s.topics
                ELSE ARRAY(SELECT DISTINCT p.topic FROM inbox.partition AS p WHERE p.source_id = s.source_id ORDER BY p.topic) END AS topics,
           s.pattern,
           s.ordering,
           s.retention,
           s.max_attempts,
           s.on_data_loss,
           s.deduplicate,
           CASE WHEN s.share_count > 1 THEN pg_catalog.format('%s/%s', s.share_index, s.share_count) END AS share,
           (SELECT pg_catalog.count(*) FROM inbox.partition AS p WHERE p.source_id = s.source_id) AS partitions,
           (SELECT pg_catalog.count(*) FROM inbox.partition AS p WHERE p.source_id = s.source_id AND p.state = 'stopped') AS stopped,
           (SELECT pg_catalog.count(*) FROM inbox.retry AS r WHERE r.subscription_id = s.id) AS retries,
           (SELECT pg_catalog.count(*) FROM inbox.dead_letters AS d WHERE d.subscription_id = s.id) AS dead_letters,
           s.paused_at,
           s.pause_reason,
           s.created_at,
           source.is_local
      FROM inbox.subscription AS s
           JOIN inbox.subscription AS source ON source.id = s.source_id
           JOIN pg_catalog.pg_class AS c ON c.oid = 'inbox.subscription_grants'::pg_catalog.regclass
     WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE')
        OR EXISTS (SELECT FROM (SELECT s.owner::pg_catalog.oid AS role
                                UNION ALL
                                SELECT g.role::pg_catalog.oid FROM inbox.subscription_grants AS g WHERE g.subscription_id = s.id) AS r
                          JOIN pg_catalog.aclexplode(c.relacl) AS a ON a.grantee = r.role AND a.privilege_type = 'SELECT'
                    WHERE pg_catalog.pg_has_role(r.role, 'USAGE'));
COMMENT ON VIEW inbox.subscriptions IS 'The subscriptions from which the current user may receive.';
COMMENT ON COLUMN inbox.subscriptions.id IS 'Identifies the subscription in the tables of the inbox.';
COMMENT ON COLUMN inbox.subscriptions.name IS 'The name by which sessions receive.';
COMMENT ON COLUMN inbox.subscriptions.owner IS 'The role that subscribed.';
COMMENT ON COLUMN inbox.subscriptions.replay_of IS 'The subscription whose stored events it receives again; NULL if it reads Kafka.';
COMMENT ON COLUMN inbox.subscriptions.topics IS 'The topics that it reads, with those that its pattern has found.';
COMMENT ON COLUMN inbox.subscriptions.pattern IS 'The pattern of topic names; NULL if the topics were named.';
COMMENT ON COLUMN inbox.subscriptions.ordering IS 'Which events keep their order: those of a topic and key, those of a partition, or none.';
COMMENT ON COLUMN inbox.subscriptions.retention IS 'How long events stay in the log after they were stored.';
COMMENT ON COLUMN inbox.subscriptions.max_attempts IS 'How many attempts an event has before it is a dead letter.';
COMMENT ON COLUMN inbox.subscriptions.on_data_loss IS 'What happens when Kafka no longer has the next event of a partition.';
COMMENT ON COLUMN inbox.subscriptions.deduplicate IS 'For how long an event_id is remembered to drop duplicates of producers; NULL if they are kept.';
COMMENT ON COLUMN inbox.subscriptions.share IS 'Which share of the partitions it reads; NULL for all.';
COMMENT ON COLUMN inbox.subscriptions.partitions IS 'How many partitions it reads.';
COMMENT ON COLUMN inbox.subscriptions.stopped IS 'How many of them are stopped because of lost data. See inbox.partitions.';
COMMENT ON COLUMN inbox.subscriptions.retries IS 'How many events failed and wait for another attempt, with those that wait for them. See inbox.retries.';
COMMENT ON COLUMN inbox.subscriptions.dead_letters IS 'How many dead letters it has.';
COMMENT ON COLUMN inbox.subscriptions.paused_at IS 'Since when nothing is received; NULL while it is not paused.';
COMMENT ON COLUMN inbox.subscriptions.pause_reason IS 'Why it is paused.';
COMMENT ON COLUMN inbox.subscriptions.created_at IS 'When it was created.';
COMMENT ON COLUMN inbox.subscriptions.is_local IS 'Whether its topics are categories of the event store of this database, and no Kafka is read.';

CREATE VIEW inbox.partitions WITH (security_barrier) AS
    SELECT s.name AS subscription,
           p.topic,
           p.partition,
           p.topic_id,
           n.next_offset,
           p.state,
           p.stop_reason,
           p.lost_from,
           p.lost_to,
           p.stopped_at
      FROM inbox.subscriptions AS s
           JOIN inbox.partition AS p ON p.source_id = s.id
           JOIN inbox.next_offset AS n ON n.source_id = p.source_id AND n.number = p.number;
COMMENT ON VIEW inbox.partitions IS 'The Kafka partitions that the subscriptions read. Replays read none.';
COMMENT ON COLUMN inbox.partitions.subscription IS 'The subscription.';
COMMENT ON COLUMN inbox.partitions.topic IS 'The topic.';
COMMENT ON COLUMN inbox.partitions.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.partitions.topic_id IS 'The id that Kafka has given the topic; NULL if it gave none.';
COMMENT ON COLUMN inbox.partitions.next_offset IS 'The offset of the next event to be stored.';
COMMENT ON COLUMN inbox.partitions.state IS 'reading, or stopped because of lost data.';
COMMENT ON COLUMN inbox.partitions.stop_reason IS 'Why it is stopped, and what to type.';
COMMENT ON COLUMN inbox.partitions.lost_from IS 'The first offset that Kafka no longer has.';
COMMENT ON COLUMN inbox.partitions.lost_to IS 'The first offset after those that Kafka no longer has.';
COMMENT ON COLUMN inbox.partitions.stopped_at IS 'When it was stopped.';

CREATE FUNCTION inbox.end_offsets(timeout interval DEFAULT '10 seconds')
    RETURNS TABLE (topic text, partition integer, end_offset bigint, uncommitted bigint, error text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 100
    AS $$
DECLARE
    topics CONSTANT text[] := ARRAY(SELECT DISTINCT p.topic FROM inbox.partition AS p JOIN inbox.subscription AS s ON s.id = p.source_id
                                     WHERE NOT s.is_local ORDER BY p.topic);
BEGIN
    RETURN QUERY SELECT o.topic, o.partition, o."offset", CASE WHEN o."offset" IS NOT NULL THEN coalesce(o.uncommitted, 0) END, o.error
                   FROM inbox.list_offsets(topics, NULL, '"latest"', coalesce(timeout, '10 seconds')) AS o;
-- What is stored can be told without Kafka.
EXCEPTION WHEN connection_exception OR object_not_in_prerequisite_state THEN
    RETURN QUERY SELECT u.topic, NULL::integer, NULL::bigint, NULL::bigint, SQLERRM FROM unnest(topics) AS u(topic);
END
$$;
COMMENT ON FUNCTION inbox.end_offsets(interval) IS
    'Asks Kafka for the ends of the partitions that are read. If it does not answer, each topic has a row without a partition, with the error.';

CREATE VIEW inbox.lag WITH (security_barrier) AS
      WITH unreceived AS MATERIALIZED (SELECT * FROM inbox.unreceived),
           kafka AS MATERIALIZED (SELECT k.topic, k.partition, k.end_offset, k.uncommitted, k.error FROM inbox.end_offsets() AS k)
    SELECT s.name AS subscription,
           n.topic,
           n.partition,
           n.next_offset,
           k.end_offset,
           CASE WHEN s.replay_of IS NOT NULL THEN 0
                WHEN k.end_offset IS NOT NULL THEN greatest(k.end_offset - n.next_offset, 0) END AS to_store,
           CASE WHEN s.replay_of IS NOT NULL THEN 0 ELSE k.uncommitted END AS uncommitted,
           coalesce(u.events, 0) AS to_receive,
           u.oldest_event_at,
           coalesce(pg_catalog.clock_timestamp() - u.oldest_event_at, '0'::interval) AS lag,
           k.error
      FROM inbox.subscriptions AS s
           JOIN inbox.subscription AS d ON d.id = s.id
           JOIN inbox.next_offset AS n ON n.source_id = d.source_id
           LEFT JOIN unreceived AS u ON u.subscription_id = s.id AND u.number = n.number
           JOIN inbox.subscription AS source ON source.id = d.source_id
           LEFT JOIN LATERAL (SELECT k.end_offset, k.uncommitted, k.error FROM kafka AS k
                               WHERE NOT source.is_local AND k.topic = n.topic AND (k.partition = n.partition OR k.partition IS NULL)
                              UNION ALL
                              SELECT coalesce(pg_catalog.max(e.position) + 1, 0), 0, NULL FROM event_store.event AS e
                               WHERE source.is_local AND e.category = n.topic HAVING source.is_local) AS k ON true;
COMMENT ON VIEW inbox.lag IS 'How far the subscriptions are behind Kafka, by partition. Each query asks Kafka.';
COMMENT ON COLUMN inbox.lag.subscription IS 'The subscription.';
COMMENT ON COLUMN inbox.lag.topic IS 'The topic.';
COMMENT ON COLUMN inbox.lag.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.lag.next_offset IS 'The offset of the next event to be stored.';
COMMENT ON COLUMN inbox.lag.end_offset IS
    'Where Kafka''s partition, or the category of the event store, ends; NULL if it is not known: see error; or if Kafka does not have the partition any more.';
COMMENT ON COLUMN inbox.lag.to_store IS 'How many offsets lie between; not each needs to be an event. NULL if the end is not known.';
COMMENT ON COLUMN inbox.lag.uncommitted IS
    'How many offsets lie behind the end: of a transaction that is open in Kafka, or written after its begin. Nobody gets them before it ends.';
COMMENT ON COLUMN inbox.lag.to_receive IS 'How many stored events were not received yet. It counts up to 1,000 of each of the 64 lanes.';
COMMENT ON COLUMN inbox.lag.oldest_event_at IS 'The timestamp of the oldest of these; NULL if there is none.';
COMMENT ON COLUMN inbox.lag.lag IS 'Its age.';
COMMENT ON COLUMN inbox.lag.error IS
    'Why the end is not known: Kafka did not answer, the partition has no leader, or the topic may not be read; NULL if it is known.';

CREATE VIEW inbox.retries WITH (security_barrier) AS
    SELECT s.name AS subscription,
           r.position,
           r.topic,
           r.partition,
           r."offset",
           outbox.readable(r.key) AS key,
           outbox.readable(r.value) AS payload,
           r.produced_at,
           r.attempts,
           r.next_attempt_at,
           r.last_error,
           r.failed_at
      FROM inbox.subscriptions AS s
           JOIN inbox.retry AS r ON r.subscription_id = s.id
           LEFT JOIN inbox.partition AS p ON p.source_id = r.subscription_id AND p.topic = r.topic AND p.partition = r.partition
     WHERE (p.first_position > r.skip_after) IS NOT TRUE;
COMMENT ON VIEW inbox.retries IS 'Events that failed and wait for another attempt, and later events of their keys, which wait for them.';
COMMENT ON COLUMN inbox.retries.subscription IS 'The subscription.';
COMMENT ON COLUMN inbox.retries.position IS 'The place in the log.';
COMMENT ON COLUMN inbox.retries.topic IS 'The topic.';
COMMENT ON COLUMN inbox.retries.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.retries."offset" IS 'The offset in the partition.';
COMMENT ON COLUMN inbox.retries.key IS 'The record''s key, as text if it is valid text, otherwise in hexadecimal.';
COMMENT ON COLUMN inbox.retries.payload IS 'The record''s value, as text if it is valid text, otherwise in hexadecimal.';
COMMENT ON COLUMN inbox.retries.produced_at IS 'The record''s timestamp.';
COMMENT ON COLUMN inbox.retries.attempts IS 'How often it failed; 0 for an event that waits for another, or was redriven.';
COMMENT ON COLUMN inbox.retries.next_attempt_at IS 'When it may be received again; NULL for an event that waits for another.';
COMMENT ON COLUMN inbox.retries.last_error IS 'Why it failed last.';
COMMENT ON COLUMN inbox.retries.failed_at IS 'When it failed last.';
