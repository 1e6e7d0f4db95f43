-- Owns what projections show of themselves, and how far they are.

CREATE VIEW inbox.projected_offset AS
    SELECT n.source_id AS subscription_id, n.number, n.partition, n.next_offset AS stored_offset,
           least(n.next_offset,
                 (SELECT e."offset" FROM inbox.log AS e
                   WHERE e.source_id = n.source_id AND e.lane = n.number % 64 AND e.position > greatest(l.upto, p.first_position)
                     AND e.partition = n.number
                   ORDER BY e.position LIMIT 1)) AS next_offset
      FROM inbox.next_offset AS n
           JOIN inbox.partition AS p ON p.source_id = n.source_id AND p.number = n.number
           JOIN inbox.lane_state AS l ON l.subscription_id = n.source_id AND l.lane = n.number % 64;
COMMENT ON VIEW inbox.projected_offset IS
    'How far the partitions of projections are applied: the state of the lane says which stored events are. For the views and functions of the inbox.';
COMMENT ON COLUMN inbox.projected_offset.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.projected_offset.number IS 'The number of the partition within the subscription.';
COMMENT ON COLUMN inbox.projected_offset.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.projected_offset.stored_offset IS 'The next offset to be stored.';
COMMENT ON COLUMN inbox.projected_offset.next_offset IS 'The next offset to be applied to the table.';

-- Positions of the event store are not committed in their order, so that of the last event does not say that those before it are
-- applied.
CREATE FUNCTION inbox.has_applied_events(subscription_id integer, "end" bigint) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT NOT EXISTS (SELECT FROM inbox.next_offset AS n
                              JOIN event_store.event AS e ON e.category = n.topic AND e.position >= n.next_offset AND e.position < $2
                        WHERE n.source_id = $1)
       AND NOT EXISTS (SELECT FROM inbox.subscription AS s
                              CROSS JOIN LATERAL (SELECT p.generation, p.undecided FROM inbox.progress AS p
                                                   WHERE p.source_id = s.id ORDER BY p.batch DESC LIMIT 1) AS p
                              CROSS JOIN LATERAL generate_series(1, cardinality(p.undecided), 2) AS r(at)
                              JOIN event_store.event AS e
                                ON e.position >= p.undecided[r.at] AND e.position <= p.undecided[r.at + 1] AND e.position < $2
                               AND e.category = ANY (s.topics)
                        WHERE s.id = $1 AND p.generation = s.generation)
       AND NOT EXISTS (SELECT FROM inbox.partition AS p
                              JOIN inbox.lane_state AS l ON l.subscription_id = p.source_id AND l.lane = p.number % 64
                              JOIN inbox.log AS e ON e.source_id = p.source_id AND e.lane = p.number % 64 AND e.partition = p.number
                                                 AND e.position > greatest(l.upto, p.first_position)
                        WHERE p.source_id = $1 AND e."offset" < $2)
$$;
COMMENT ON FUNCTION inbox.has_applied_events(integer, bigint) IS
    'Whether a projection of the event store has applied all committed events before this position.';

CREATE FUNCTION inbox.has_reached(subscription_id integer, ends bigint[]) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE
        WHEN (SELECT s.is_local FROM inbox.subscription AS s WHERE s.id = $1) THEN
            inbox.has_applied_events($1, (SELECT max(e."end") FROM unnest($2) AS e("end")))
        ELSE
            NOT EXISTS (SELECT FROM unnest($2) WITH ORDINALITY AS e("end", number)
                               LEFT JOIN inbox.projected_offset AS o ON o.subscription_id = $1 AND o.number = e.number - 1
                         WHERE e."end" > 0 AND (o.next_offset >= e."end") IS NOT TRUE)
        END
$$;
COMMENT ON FUNCTION inbox.has_reached(integer, bigint[]) IS
    'Whether all events before these offsets are applied; the offsets are by the numbers of the partitions plus 1, NULL for any.';

CREATE FUNCTION inbox.projection_to_wait_for(caller regrole, name text, "offset" bigint, partition integer) RETURNS integer
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found inbox.projection;
BEGIN
    SELECT p.* INTO found FROM inbox.projection AS p JOIN inbox.subscription AS s ON s.id = p.subscription_id
     WHERE s.name = projection_to_wait_for.name;
    IF found.subscription_id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('projection "%s" does not exist', left(name, 100)),
            DETAIL = 'No projection of this database has this name.',
            HINT = 'SELECT name FROM inbox.projections; shows them.';
    END IF;
    IF NOT inbox.may_receive(caller, found.subscription_id) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for projection "%s"', name),
            DETAIL = format('Role %s neither has the rights of its owner nor was it granted.', caller),
            HINT = 'Its owner can grant it with inbox.grant_subscription().';
    END IF;
    IF ("offset" >= 0 AND "offset" < 9223372036854775807) IS FALSE
       OR ("offset" IS NOT NULL AND NOT EXISTS (SELECT FROM inbox.partition AS p
                                                 WHERE p.source_id = found.subscription_id
                                                   AND p.partition = projection_to_wait_for.partition)) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('projection "%s" has no such offset', name),
            DETAIL = format('It is offset %s of partition %s.', "offset", coalesce(partition::text, 'NULL')),
            HINT = 'Pass the offset of a record, and its partition, as they are in the notification of outbox.channel(), or neither.';
    END IF;
    RETURN found.subscription_id;
END
$$;
COMMENT ON FUNCTION inbox.projection_to_wait_for(regrole, text, bigint, integer) IS 'Returns the subscription of a projection, for inbox.wait_projected().';

CREATE FUNCTION inbox.ends_to_wait_for(subscription_id integer, "offset" bigint, partition integer, timeout interval) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    source inbox.subscription;
BEGIN
    IF "offset" IS NOT NULL THEN
        RETURN array_fill(NULL::bigint, ARRAY[(SELECT p.number FROM inbox.partition AS p
                                                WHERE p.source_id = ends_to_wait_for.subscription_id
                                                  AND p.partition = ends_to_wait_for.partition)]) || ("offset" + 1);
    END IF;
    SELECT * INTO source FROM inbox.subscription AS s WHERE s.id = subscription_id;
    IF source.is_local THEN
        RETURN ARRAY[event_store.end_of(source.topics[1])];
    END IF;
    RETURN inbox.topic_ends(source.topics[1], greatest(timeout, '1 second'));
-- They are asked for again until the timeout.
EXCEPTION WHEN connection_exception OR object_not_in_prerequisite_state THEN
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION inbox.ends_to_wait_for(integer, bigint, integer, interval) IS
    'Returns the offsets for which inbox.wait_projected() waits: those after the given record, or the ends that Kafka, or the event store, has now; NULL if these are not known yet.';

CREATE FUNCTION inbox.wait_projected(
    name      text,
    "offset"  bigint   DEFAULT NULL,
    partition integer  DEFAULT 0,
    timeout   interval DEFAULT '30 seconds'
) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_wait_projected';
COMMENT ON FUNCTION inbox.wait_projected(text, bigint, integer, interval) IS
    'Waits until the record with this offset is applied to the table of the projection, or all that Kafka has now; false after the timeout.';

CREATE VIEW inbox.projections WITH (security_barrier) AS
    SELECT x.*,
           CASE x.state
               WHEN 'paused' THEN pg_catalog.format('SELECT inbox.resume(%L);', x.name)
               WHEN 'dropped' THEN pg_catalog.format('SELECT inbox.unproject(%L);', x.name)
               WHEN 'stopped' THEN pg_catalog.format('SELECT inbox.rebuild(%L);', x.name)
               WHEN 'truncated' THEN pg_catalog.format('SELECT inbox.rebuild(%L);', x.name)
               WHEN 'failing' THEN CASE WHEN x.copy_crashes >= 3 THEN
                        pg_catalog.format('See the server''s log for what crashes. SELECT inbox.unproject(%L); ends the rebuild, and leaves the table as it is. Then SELECT inbox.rebuild(%L); begins again.', x.name, x.rebuild_of)
                    ELSE 'Remove the cause of last_error. The worker retries by itself.' END
               ELSE CASE WHEN x.dead_letters > 0 THEN
                        pg_catalog.format('See inbox.dead_letters. Produce these keys again, or correct the table and SELECT inbox.rebuild(%L); Then SELECT inbox.discard(%1$L, since => ''-infinity'');', x.name)
                    END
           END AS what_to_do
      FROM (SELECT s.name,
                   CASE WHEN c.oid IS NULL THEN p.table_name ELSE p."table"::text END AS "table",
                   s.topics[1] AS topic,
                   CASE WHEN s.paused_at IS NOT NULL THEN 'paused'
                        WHEN c.oid IS NULL AND p.table_name IS NOT NULL OR b.subscription_id IS NOT NULL AND bc.oid IS NULL THEN 'dropped'
                        WHEN s.stopped > 0 THEN 'stopped'
                        WHEN p.failing_since IS NOT NULL THEN 'failing'
                        WHEN p.truncated_at IS NOT NULL THEN 'truncated'
                        WHEN p.rebuild_of IS NOT NULL THEN 'rebuilding'
                        WHEN p.ready_at IS NULL THEN 'filling'
                        ELSE 'following' END AS state,
                   p.ready_at IS NOT NULL AND c.oid IS NOT NULL AND s.stopped = 0 AND p.rebuild_of IS NULL
                       AND p.truncated_at IS NULL AS ready,
                   p.ready_at,
                   o.offsets,
                   o.lag,
                   s.dead_letters,
                   p.last_error,
                   p.last_error_at,
                   p.failing_since,
                   p.format,
                   p.key,
                   p.columns,
                   pg_catalog.pg_get_userbyid(c.relowner) AS role,
                   (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_activity(NULL) AS a
                     WHERE a.datid = d.oid
                       AND a.application_name = pg_catalog.left(pg_catalog.concat('event_outbox projection ', s.name), 63)) > 0 AS running,
                   (SELECT r.name FROM inbox.subscription AS r WHERE r.id = p.rebuild_of) AS rebuild_of,
                   p.created_at,
                   p.copy_crashes,
                   p.truncated_at
              FROM inbox.projection AS p
                   JOIN inbox.subscriptions AS s ON s.id = p.subscription_id
                   JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
                   LEFT JOIN pg_catalog.pg_class AS c ON c.oid = p."table"
                   LEFT JOIN inbox.projection AS b ON b.subscription_id = p.rebuild_of
                   LEFT JOIN pg_catalog.pg_class AS bc ON bc.oid = b."table"
                   CROSS JOIN LATERAL (SELECT pg_catalog.jsonb_object_agg(o.partition, o.next_offset) AS offsets,
                                              coalesce(pg_catalog.sum(o.stored_offset - o.next_offset), 0)::bigint AS lag
                                         FROM inbox.projected_offset AS o WHERE o.subscription_id = p.subscription_id) AS o) AS x;
COMMENT ON VIEW inbox.projections IS 'The projections whose subscription the current user may receive.';
COMMENT ON COLUMN inbox.projections.name IS 'The name.';
COMMENT ON COLUMN inbox.projections."table" IS 'The name of the table that it fills, or filled until it was dropped; NULL until that of a rebuild is made.';
COMMENT ON COLUMN inbox.projections.topic IS 'The topic, or the category of the event store.';
COMMENT ON COLUMN inbox.projections.state IS
    'filling (from the beginning), following (it has reached the end as of its creation), rebuilding, failing (nothing can be applied, or a schema has not come), stopped (Kafka has lost records), truncated (somebody has emptied the table), paused, or dropped (the table is gone).';
COMMENT ON COLUMN inbox.projections.ready IS 'Whether the table has had all records that the topic had when the projection was created, and nothing was lost since.';
COMMENT ON COLUMN inbox.projections.ready_at IS 'Since when it has; NULL if it has not.';
COMMENT ON COLUMN inbox.projections.offsets IS 'The next offset of each partition to be applied. It is of the same snapshot as the table''s rows.';
COMMENT ON COLUMN inbox.projections.lag IS 'How many offsets are stored and not yet applied. inbox.lag has how far Kafka is ahead of that.';
COMMENT ON COLUMN inbox.projections.dead_letters IS 'How many records the table has refused.';
COMMENT ON COLUMN inbox.projections.last_error IS 'Why nothing could be applied last.';
COMMENT ON COLUMN inbox.projections.last_error_at IS 'When that was first seen.';
COMMENT ON COLUMN inbox.projections.failing_since IS 'Since when nothing can be applied; NULL while it can.';
COMMENT ON COLUMN inbox.projections.format IS
    'What a record''s value is, decoded: the row as json, a change as outbox.capture() writes it, or the data of an event of the event store.';
COMMENT ON COLUMN inbox.projections.key IS 'The columns that identify a row, each with the source of its value.';
COMMENT ON COLUMN inbox.projections.columns IS 'The other columns with their sources; NULL for all columns, by their names.';
COMMENT ON COLUMN inbox.projections.role IS 'The role that its worker is connected as: the owner of the table.';
COMMENT ON COLUMN inbox.projections.running IS 'Whether its worker runs.';
COMMENT ON COLUMN inbox.projections.rebuild_of IS 'The projection that it takes the place of once it is ready.';
COMMENT ON COLUMN inbox.projections.created_at IS 'When it was created.';
COMMENT ON COLUMN inbox.projections.copy_crashes IS
    'How often the server has crashed while this rebuild wrote its rows into the projection''s table. After the third time it writes no more.';
COMMENT ON COLUMN inbox.projections.truncated_at IS
    'When the worker found that somebody had truncated the table; the rows of before are missing until a rebuild.';
COMMENT ON COLUMN inbox.projections.what_to_do IS 'What to type, if something is wrong.';
