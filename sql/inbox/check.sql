-- Owns inbox.check(), which verifies the subscriptions.

CREATE FUNCTION inbox.check()
    RETURNS TABLE (subject text, verdict text, finding text, hint text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 12
    AS $$
DECLARE
    most CONSTANT integer := 10000;
    -- Seconds.
    moment CONSTANT integer := 2;
    worker  inbox.consumers;
    sub     record;
    item    record;
    holder  record;
    trouble text;
    detail  text;
    listed  json := '[]';
    late    interval;
    waiting text[];
BEGIN
    subject := 'subscriptions'; verdict := 'ok'; hint := NULL;
    finding := format('Subscriptions of this database: %s.', (SELECT count(*) FROM inbox.subscription));
    RETURN NEXT;
    IF NOT EXISTS (SELECT FROM inbox.subscription) THEN
        RETURN;
    END IF;

    subject := 'worker';
    -- Give a worker that is starting a moment.
    FOR looks IN 1..60 LOOP
        SELECT c.* INTO worker FROM inbox.consumers AS c WHERE c.database = current_database();
        EXIT WHEN worker.state NOT IN ('absent', 'starting', 'stopping') OR pg_is_in_recovery();
        PERFORM pg_sleep(0.05);
    END LOOP;
    finding := format('The state of the worker that stores events is "%s"%s.', worker.state,
                      coalesce(' since ' || worker.state_since::timestamptz(0), ''));
    CASE
        WHEN worker.state IN ('idle', 'reading') THEN
            verdict := 'ok';
        WHEN worker.state = 'disabled' THEN
            verdict := 'warning';
            hint := format('ALTER DATABASE %I SET event_outbox.enabled = on;', current_database());
        WHEN worker.state IN ('starting', 'stopping') THEN
            verdict := 'warning'; hint := 'Check again in a moment.';
        WHEN worker.state = 'queued' THEN
            -- Databases take turns of five seconds.
            verdict := CASE WHEN worker.state_since < clock_timestamp() - interval '1 minute' THEN 'error' ELSE 'warning' END;
            hint := 'It waits for one of max_worker_processes, with other workers: outbox.relays and inbox.consumers show them. Raise max_worker_processes, and restart the server.';
        WHEN worker.state = 'absent' AND pg_is_in_recovery() THEN
            verdict := 'warning'; hint := 'This server is a standby. The worker runs on the primary.';
        WHEN worker.state = 'absent' THEN
            verdict := 'error'; hint := 'See "workers" in outbox.check(), and the server log for the reason.';
        ELSE
            verdict := 'error';
            finding := finding || coalesce(' ' || worker.last_error, '');
            hint := CASE worker.state
                    WHEN 'misconfigured' THEN 'Correct event_outbox.bootstrap_servers, kafka_properties or kafka_properties_file. The worker applies the change by itself.'
                    WHEN 'failing' THEN 'The error occurred in the database. The worker retries by itself.'
                    ELSE CASE WHEN worker.connection = 'connected' THEN 'See "topic".' ELSE 'See "brokers".' END END;
    END CASE;
    RETURN NEXT;

    subject := 'brokers'; hint := NULL;
    BEGIN
        listed := (SELECT coalesce(json_agg(o), '[]')
                     FROM inbox.list_offsets(ARRAY(SELECT p.topic FROM inbox.partition AS p JOIN inbox.subscription AS x ON x.id = p.source_id
                                                    WHERE NOT x.is_local
                                                   UNION SELECT unnest(x.topics) FROM inbox.subscription AS x WHERE NOT x.is_local ORDER BY 1),
                                             NULL, '"earliest"', '10 seconds') AS o);
        verdict := 'ok';
        finding := CASE WHEN EXISTS (SELECT FROM inbox.subscription AS x WHERE NOT x.is_local)
                        THEN format('Kafka answers at %s.', current_setting('event_outbox.bootstrap_servers'))
                        ELSE 'No subscription reads Kafka.' END;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS trouble = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        verdict := 'error'; finding := format('At %s: %s. %s', current_setting('event_outbox.bootstrap_servers'), trouble, detail);
    END;
    RETURN NEXT;

    subject := 'topic';
    FOR item IN
        SELECT o.topic, count(o.partition) AS partitions,
               min(concat('partition ' || o.partition || ': ', o.error)) FILTER (WHERE o.error <> '') AS error
          FROM json_to_recordset(listed) AS o(topic text, partition integer, error text)
         GROUP BY o.topic ORDER BY o.topic
    LOOP
        IF item.error IS NULL THEN
            verdict := 'ok'; finding := format('"%s" has %s partitions, which can be read.', item.topic, item.partitions); hint := NULL;
        ELSE
            verdict := 'error'; finding := format('"%s": %s', item.topic, item.error);
            hint := CASE WHEN item.error LIKE '%has no leader' THEN
                        format('Start the brokers that have its replicas: kafka-topics.sh --describe --topic %s names them. The worker goes on by itself.', item.topic)
                    ELSE 'Create the topic, or allow the server''s Kafka user to read it: READ and DESCRIBE on the topic.' END;
        END IF;
        RETURN NEXT;
    END LOOP;

    subject := 'position'; verdict := 'error';
    FOR item IN
        SELECT x.name, x.on_data_loss, EXISTS (SELECT FROM inbox.projection AS q WHERE q.subscription_id = x.id) AS is_projection, n.topic, n.partition, n.next_offset, o.low, o.high
          FROM json_to_recordset(listed) AS o(topic text, partition integer, low bigint, high bigint)
               JOIN inbox.next_offset AS n ON n.topic = o.topic AND n.partition = o.partition
               JOIN inbox.partition AS p ON p.source_id = n.source_id AND p.number = n.number AND p.state = 'reading'
               JOIN inbox.subscription AS x ON x.id = n.source_id AND NOT x.is_local
         WHERE n.next_offset NOT BETWEEN o.low AND o.high ORDER BY x.name, n.topic, n.partition
    LOOP
        finding := format('Subscription "%s" is at offset %s of partition %s of "%s", but Kafka has %s to %s.',
                          item.name, item.next_offset, item.partition, item.topic, item.low, item.high);
        hint := CASE
                WHEN item.is_projection THEN format('SELECT inbox.rebuild(%L); fills the table again.', item.name)
                WHEN item.on_data_loss = 'stop' THEN format('SELECT inbox.seek(%L, ''earliest'', %L, %s); goes on with what Kafka still has.',
                                        item.name, item.topic, item.partition)
                ELSE format('The worker goes on with the %s by itself.', item.on_data_loss) END;
        RETURN NEXT;
    END LOOP;

    subject := 'transaction'; verdict := 'warning';
    waiting := ARRAY(SELECT DISTINCT o.topic FROM json_to_recordset(listed) AS o(topic text, uncommitted bigint) WHERE o.uncommitted > 0);
    IF waiting <> '{}' THEN
        -- Most transactions are over by then.
        PERFORM pg_sleep(moment);
        FOR item IN
            SELECT o.topic, o.partition, o.high, now.uncommitted
              FROM json_to_recordset(listed) AS o(topic text, partition integer, high bigint, uncommitted bigint)
                   JOIN inbox.list_offsets(waiting, NULL, '"earliest"', '10 seconds') AS now USING (topic, partition, high)
             WHERE o.uncommitted > 0 AND now.uncommitted > 0 ORDER BY o.topic, o.partition
        LOOP
            finding := format('A transaction has been open in partition %s of "%s" for %s seconds at least; nobody gets what is written from offset %s on (%s offsets) before it ends.',
                              item.partition, item.topic, moment, item.high, item.uncommitted);
            hint := format('If this lasts: kafka-transactions describe-producers --topic %s --partition %s shows whose it is. Its producer''s next transaction there ends it. '
                           'kafka-transactions abort does, too, but loses its records, which the producer may count as committed.', item.topic, item.partition);
            RETURN NEXT;
        END LOOP;
    END IF;

    subject := 'partition';
    FOR item IN
        SELECT x.topic, x.partition, x.state, x.stop_reason, x.stopped_at, x.lost_from, x.lost_to, s.name,
               EXISTS (SELECT FROM inbox.projection AS p WHERE p.subscription_id = s.id) AS is_projection
          FROM inbox.partition AS x JOIN inbox.subscription AS s ON s.id = x.source_id
         WHERE x.state = 'stopped' ORDER BY s.name, x.topic, x.partition
    LOOP
        verdict := 'error';
        finding := format('Subscription "%s" has not read partition %s of "%s" since %s: %s', item.name, item.partition, item.topic,
                          item.stopped_at::timestamptz(0), coalesce(item.stop_reason, 'data was lost.'));
        hint := CASE WHEN item.is_projection THEN format('SELECT inbox.rebuild(%L); fills the table again.', item.name)
                     ELSE coalesce(substring(item.stop_reason FROM 'run (SELECT inbox\.seek\(.*\))\.$'),
                                   format('SELECT inbox.seek(%L, ''earliest'', %L, %s)', item.name, item.topic, item.partition))
                          || '; goes on with what Kafka still has.' END;
        RETURN NEXT;
    END LOOP;

    verdict := 'warning';
    FOR item IN
        SELECT s.name, x.topic, x.partition
          FROM inbox.partition AS x JOIN inbox.subscription AS s ON s.id = x.source_id
         WHERE x.state = 'reading'
           AND EXISTS (SELECT FROM json_to_recordset(listed) AS o(topic text, partition integer)
                        WHERE o.topic = x.topic AND o.partition IS NOT NULL)
           AND NOT EXISTS (SELECT FROM json_to_recordset(listed) AS o(topic text, partition integer)
                            WHERE o.topic = x.topic AND o.partition = x.partition)
         ORDER BY s.name, x.topic, x.partition
    LOOP
        finding := format('Subscription "%s" reads partition %s of "%s", which the topic does not have any more.',
                          item.name, item.partition, item.topic);
        hint := 'The topic was created again with fewer partitions. Nothing is to be done: the partition is read from its beginning if it is added.';
        RETURN NEXT;
    END LOOP;

    FOR sub IN
        SELECT x.*, (SELECT count(*) FROM inbox.retry AS r WHERE r.subscription_id = x.id) AS retries,
               (SELECT count(*) FROM inbox.dead_letters AS d WHERE d.subscription_id = x.id) AS dead,
               (SELECT clock_timestamp() - min(u.oldest_event_at) FROM inbox.unreceived AS u WHERE u.subscription_id = x.id) AS behind
          FROM inbox.subscription AS x ORDER BY x.name
    LOOP
        subject := 'subscription'; verdict := 'ok'; hint := NULL;
        IF sub.paused_at IS NOT NULL THEN
            verdict := 'warning';
            finding := format('"%s" was paused at %s%sub.', sub.name, sub.paused_at::timestamptz(0), coalesce(': ' || sub.pause_reason, ''));
            hint := format('SELECT inbox.resume(%L);', sub.name);
        ELSIF sub.behind > interval '1 minute' THEN
            verdict := 'warning';
            finding := format('The oldest event of "%s" that was not received is %s old.', sub.name, date_trunc('second', sub.behind));
            hint := 'Let more sessions receive, or see why those that do are slow. inbox.lag shows the partitions.';
        ELSE
            finding := format('The events of "%s" are received.', sub.name);
        END IF;
        RETURN NEXT;

        IF sub.retries > 0 THEN
            subject := 'retries';
            verdict := CASE WHEN sub.retries >= most THEN 'error' ELSE 'warning' END;
            finding := format('%s events of "%s" wait, because some have failed%s.', sub.retries, sub.name,
                              CASE WHEN sub.retries >= most THEN '; these are the most, and lanes with such keys stand still' ELSE '' END);
            hint := 'SELECT last_error, count(*) FROM inbox.retries WHERE attempts > 0 GROUP BY last_error; shows why.';
            RETURN NEXT;
        END IF;
        IF sub.dead > 0 THEN
            subject := 'dead letters'; verdict := 'warning';
            finding := format('"%s" has %s dead letters.', sub.name, sub.dead);
            hint := CASE WHEN EXISTS (SELECT FROM inbox.projection AS p WHERE p.subscription_id = sub.id)
                         THEN format('See inbox.dead_letters. Produce the keys again, or correct the table and SELECT inbox.rebuild(%L); Then use inbox.discard(%1$L, ...).', sub.name)
                         ELSE format('See inbox.dead_letters. Fix the cause, then use inbox.redrive(%L, ...), or inbox.discard(%L, ...).', sub.name, sub.name) END;
            RETURN NEXT;
        END IF;
    END LOOP;

    subject := 'projection';
    FOR item IN
        SELECT p.name, p."table", p.state, p.lag, p.last_error, p.failing_since, p.what_to_do
          FROM inbox.projections AS p WHERE p.state NOT IN ('paused', 'stopped') ORDER BY p.name
    LOOP
        verdict := CASE WHEN item.state IN ('failing', 'dropped', 'truncated') THEN 'error' ELSE 'ok' END;
        finding := CASE item.state
            WHEN 'failing' THEN format('"%s" cannot write to %s since %s: %s.', item.name, item."table", item.failing_since::timestamptz(0), item.last_error)
            WHEN 'dropped' THEN format('The table of "%s" was dropped%s.', item.name, coalesce(': ' || item."table", ''))
            WHEN 'truncated' THEN format('Somebody has truncated %s: the rows that "%s" had written before are missing.', item."table", item.name)
            WHEN 'following' THEN format('"%s" keeps %s.', item.name, item."table")
            ELSE format('"%s" reads its topic from the beginning; %s offsets are stored and not yet applied.', item.name, item.lag) END;
        hint := CASE WHEN verdict = 'error' THEN item.what_to_do END;
        RETURN NEXT;
    END LOOP;

    -- A segment is emptied as a whole, when each event in it was received and is old enough.
    subject := 'retention'; verdict := 'ok'; hint := NULL; finding := 'Stored events leave in time.';
    late := (SELECT max(x.retention) FROM inbox.subscription AS x) * 1.25 + interval '10 minutes';
    SELECT g.number, g.opened_at, g.next_position, g.next_opened_at INTO item
      FROM (SELECT g.*, lead(g.first_position) OVER (ORDER BY g.first_position) AS next_position,
                   lead(g.opened_at) OVER (ORDER BY g.first_position) AS next_opened_at
              FROM inbox.segment AS g) AS g
     WHERE g.next_opened_at < clock_timestamp() - late
     ORDER BY g.first_position LIMIT 1;
    IF FOUND THEN
        verdict := 'warning';
        finding := format('Events stored between %s and %s are still there.', item.opened_at::timestamptz(0), item.next_opened_at::timestamptz(0));
        SELECT x.name, x.source_id <> x.id AS is_replay INTO sub
          FROM inbox.subscription AS x
         WHERE EXISTS (SELECT FROM inbox.lane_state AS l
                        WHERE l.subscription_id = x.id AND l.upto < item.next_position
                          AND EXISTS (SELECT FROM inbox.log AS e
                                             JOIN inbox.partition AS p ON p.source_id = e.source_id AND p.number = e.partition
                                            AND (e.position > p.first_position OR x.id <> x.source_id)
                                       WHERE e.source_id = l.source_id AND e.lane = l.lane AND e.position > l.upto
                                         AND e.position < item.next_position
                                         AND (l.last_position IS NULL OR e.position <= l.last_position)))
         ORDER BY x.id LIMIT 1;
        IF FOUND THEN
            finding := finding || format(' Subscription "%s" has not received them.', sub.name);
            hint := 'Receive them, ' || CASE WHEN NOT sub.is_replay THEN format('or SELECT inbox.seek(%L, ''latest''); ', sub.name) ELSE '' END
                    || format('or SELECT inbox.unsubscribe(%L);', sub.name);
        ELSE
            SELECT a.pid, date_trunc('second', now() - a.xact_start) AS age INTO holder
              FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
             WHERE l.locktype = 'relation' AND l.granted
               AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
               AND l.relation = format('inbox.log_%s', item.number)::regclass
             ORDER BY a.xact_start LIMIT 1;
            IF FOUND THEN
                finding := finding || format(' Process %s holds a lock on their table, in a transaction that is %s old.', holder.pid, holder.age);
                hint := format('End it if necessary: SELECT pg_terminate_backend(%s);', holder.pid);
            ELSE
                hint := 'See "worker".';
            END IF;
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION inbox.check() IS
    'Verifies the subscriptions, reports problems and says what to do. It asks Kafka, so it can take a few seconds.';
