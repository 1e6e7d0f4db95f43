-- Owns outbox.check(), which verifies the set-up.

CREATE FUNCTION outbox.check()
    RETURNS TABLE (subject text, verdict text, finding text, hint text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 12
    AS $$
DECLARE
    relay   outbox.status;
    backlog outbox.backlog;
    pause   outbox.paused;
    version record;
    topics  jsonb;
    described record;
    trouble text;
    detail  text;
    most    bigint := (SELECT s.setting FROM pg_settings AS s WHERE s.name = 'event_outbox.max_event_bytes')::bigint;
    used    bigint;
    workers bigint := current_setting('max_worker_processes')::bigint;
    holder  record;
    disabled record;
    filled  double precision;
BEGIN
    -- Give a relay that is starting a moment.
    FOR looks IN 1..60 LOOP
        SELECT * INTO relay FROM outbox.status;
        EXIT WHEN relay.state NOT IN ('absent', 'queued', 'starting', 'stopping') OR pg_is_in_recovery();
        PERFORM pg_sleep(0.05);
    END LOOP;
    SELECT * INTO backlog FROM outbox.backlog;
    SELECT * INTO pause FROM outbox.paused;

    subject := 'preload';
    IF current_setting('shared_preload_libraries') ~ '(^|[ ,"/])event_outbox($|[ ,"])' THEN
        verdict := 'ok'; finding := 'The library is loaded at server start.'; hint := NULL;
    ELSE
        verdict := 'error';
        finding := 'shared_preload_libraries does not contain event_outbox: no relay will run after the next restart.';
        hint := 'Add event_outbox to shared_preload_libraries in postgresql.conf.';
    END IF;
    RETURN NEXT;

    subject := 'version';
    SELECT e.installed_version, e.default_version INTO version
      FROM pg_available_extensions AS e WHERE e.name = 'event_outbox';
    IF version.installed_version IS NOT DISTINCT FROM version.default_version THEN
        verdict := 'ok'; finding := format('The extension and its library have version %s.', version.installed_version); hint := NULL;
    ELSE
        verdict := 'warning';
        finding := format('The extension in this database has version %s, but its library has version %s.',
                          version.installed_version, version.default_version);
        hint := 'ALTER EXTENSION event_outbox UPDATE;';
    END IF;
    RETURN NEXT;

    subject := 'workers';
    SELECT count(*) INTO used FROM pg_stat_activity AS a
     WHERE a.backend_type NOT IN ('client backend', 'autovacuum worker', 'autovacuum launcher', 'checkpointer', 'background writer',
                                  'walwriter', 'walsender', 'walreceiver', 'archiver', 'startup', 'logger', 'io worker',
                                  'slotsync worker', 'walsummarizer', 'parallel worker', 'standalone backend');
    finding := format('max_worker_processes is %s; %s are in use.', workers, used);
    IF relay.state <> 'asleep' AND relay.pid IS NULL AND used >= workers THEN
        verdict := 'error'; hint := format('Raise max_worker_processes above %s and restart the server; the relay needs one.', workers);
    ELSIF relay.state = 'absent' AND (SELECT count(*) FROM pg_stat_activity AS a WHERE a.backend_type = 'event_outbox relay')
                                >= current_setting('event_outbox.max_workers', true)::bigint THEN
        verdict := 'error';
        finding := format('event_outbox.max_workers is %s, and other databases use all workers.', current_setting('event_outbox.max_workers'));
        hint := 'Raise event_outbox.max_workers above the number of databases with the extension, and restart the server.';
    ELSIF used >= workers THEN
        verdict := 'warning'; hint := 'Raise max_worker_processes; none is left for parallel queries or the relay of another database.';
    ELSE
        verdict := 'ok'; hint := NULL;
    END IF;
    RETURN NEXT;

    subject := 'relay';
    finding := format('The state of the relay is "%s"%s.', relay.state, coalesce(' since ' || relay.state_since::timestamptz(0), ''));
    hint := NULL;
    IF pause.paused_at IS NOT NULL THEN
        verdict := 'warning';
        finding := format('Publishing was paused by %s at %s%s.', pause.paused_by, pause.paused_at::timestamptz(0), coalesce(': ' || pause.reason, ''));
        hint := 'SELECT outbox.resume();';
    ELSIF relay.state IN ('idle', 'publishing', 'asleep') THEN
        verdict := 'ok';
    ELSIF relay.state = 'queued' THEN
        verdict := 'warning';
        finding := finding || ' It waits for a process; the workers of the databases take turns.';
        hint := 'Raise max_worker_processes and restart the server, if events wait for too long.';
    ELSIF relay.state = 'disabled' THEN
        verdict := 'warning';
        hint := format('ALTER DATABASE %I SET event_outbox.enabled = on;', current_database());
    ELSIF relay.state IN ('starting', 'stopping') THEN
        verdict := 'warning'; hint := 'Check again in a moment.';
    ELSIF relay.state IN ('replica', 'incompatible') THEN
        verdict := CASE relay.state WHEN 'replica' THEN 'warning' ELSE 'error' END;
        -- The first sentence says why it waits, the rest says what to do.
        finding := finding || ' ' || split_part(relay.last_error, '. ', 1) || '.';
        hint := substr(relay.last_error, strpos(relay.last_error, '. ') + 2);
    ELSIF relay.state = 'absent' THEN
        verdict := 'error';
        hint := CASE WHEN pg_is_in_recovery() THEN 'This server is a standby. The relay runs on the primary.'
                     ELSE 'See "workers" and the server log for the reason.' END;
    ELSIF relay.state = 'waiting' AND relay.delivery = 'exactly_once' AND relay.connection <> 'disconnected'
          AND relay.last_error !~ '^waiting for a synchronous standby' THEN
        verdict := 'error';
        -- The first sentence says why it waits, the rest says what to do.
        finding := finding || ' ' || split_part(relay.last_error, '. ', 1) || '.';
        hint := coalesce(nullif(substr(relay.last_error, length(split_part(relay.last_error, '. ', 1)) + 3), ''),
                         'The relay tries again by itself; see "brokers".');
    ELSE
        verdict := 'error';
        finding := finding || coalesce(' ' || relay.last_error, '');
        hint := CASE relay.state
                WHEN 'misconfigured' THEN 'Correct event_outbox.bootstrap_servers, kafka_properties or kafka_properties_file. The relay applies the change by itself.'
                WHEN 'failing' THEN 'The error occurred in the database. The relay retries by itself.'
                ELSE CASE WHEN relay.last_error LIKE 'waiting for a synchronous standby%'
                          THEN 'Bring the standby back, or remove it from synchronous_standby_names. pg_stat_replication shows the connected standbys.'
                          ELSE 'See "brokers".' END END;
    END IF;
    RETURN NEXT;

    IF relay.last_error ~ '^event [0-9]+ (is published, and its row cannot|was refused, and that cannot|is not published, since its row cannot)'
       AND relay.last_error_at > clock_timestamp() - interval '1 minute' THEN
        subject := 'settlement'; verdict := 'error'; finding := left(relay.last_error, 300);
        hint := 'Find the foreign key, trigger, rule, policy or constraint of outbox.events or outbox.dead_letters that prevents it, and remove it.';
        RETURN NEXT;
    END IF;

    -- A session that listens and leaves a transaction open prevents the queue from being emptied.
    subject := 'notifications';
    filled := pg_notification_queue_usage();
    finding := format('The NOTIFY queue is %s %% full.', round((100 * filled)::numeric, 1));
    IF filled < 0.5
       AND (relay.last_error LIKE 'the NOTIFY queue%' AND relay.last_error_at > clock_timestamp() - interval '20 seconds') IS NOT TRUE THEN
        verdict := 'ok'; hint := NULL;
    ELSE
        verdict := 'warning';
        finding := finding || ' When it is full, listeners are notified late, and transactions that notify fail to commit in all databases of the server.';
        SELECT a.pid, date_trunc('second', now() - a.xact_start) AS age INTO holder
          FROM pg_stat_activity AS a
         WHERE a.xact_start IS NOT NULL AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
         ORDER BY a.xact_start LIMIT 1;
        hint := CASE WHEN holder.pid IS NULL THEN 'No session has an open transaction. SELECT pg_notification_queue_usage(); empties the queue.'
                     ELSE format('Process %s has the oldest open transaction, %s old. If it listens, it keeps the queue full: SELECT pg_terminate_backend(%s);',
                                 holder.pid, holder.age, holder.pid) END;
    END IF;
    RETURN NEXT;

    subject := 'brokers';
    BEGIN
        SELECT coalesce(jsonb_agg(d), '[]') INTO topics FROM outbox.describe_topics() AS d;
        verdict := 'ok'; finding := format('Kafka answers at %s.', current_setting('event_outbox.bootstrap_servers')); hint := NULL;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS trouble = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        verdict := 'error';
        finding := format('At %s: %s. %s', current_setting('event_outbox.bootstrap_servers'), trouble,
                          coalesce(CASE WHEN relay.connection = 'disconnected' AND relay.recovered_at IS NULL THEN relay.last_error END, detail));
    END;
    RETURN NEXT;

    IF verdict = 'ok' THEN
        subject := 'topic';
        FOR described IN
            SELECT * FROM jsonb_to_recordset(topics) AS t(topic text, partitions integer, replication_factor integer, cleanup_policy text,
                                                          max_message_bytes bigint, min_insync_replicas integer, error text)
        LOOP
            finding := NULL; hint := NULL; verdict := 'ok';
            IF described.partitions IS NULL THEN
                verdict := CASE WHEN current_setting('event_outbox.auto_create_topics')::boolean THEN 'warning' ELSE 'error' END;
                finding := format('"%s": %s', described.topic, described.error);
                hint := format('SELECT outbox.create_topic(%L); or allow the relay''s Kafka user to write to the topic.', described.topic);
            ELSIF described.error LIKE 'partition %' THEN
                verdict := 'error';
                finding := format('"%s": %s; its events wait.', described.topic, described.error);
                hint := 'Bring back the brokers that hold its replicas. kafka-topics --describe --topic shows which.';
            ELSIF described.max_message_bytes < most THEN
                verdict := 'warning';
                finding := format('"%s" accepts up to %s bytes, but events can have %s: Kafka refuses larger events.',
                                  described.topic, described.max_message_bytes, most);
                hint := format('Raise max.message.bytes of the topic above %s, or lower event_outbox.max_event_bytes.', most);
            ELSIF described.cleanup_policy ~ 'compact'
                  AND (EXISTS (SELECT FROM (SELECT e.topic, e.key FROM outbox.events AS e ORDER BY e.id LIMIT 10000) AS e
                                WHERE e.topic = described.topic AND e.key IS NULL)
                       OR EXISTS (SELECT FROM (SELECT d.topic, d.key FROM outbox.dead_letters AS d ORDER BY d.dead_letter_id DESC LIMIT 10000) AS d
                                   WHERE d.topic = described.topic AND d.key IS NULL)) THEN
                verdict := 'error';
                finding := format('"%s" is compacted (cleanup.policy is %s), and some of its events have no key: Kafka refuses them.',
                                  described.topic, described.cleanup_policy);
                hint := 'Emit events with a key, or set cleanup.policy of the topic to delete.';
            ELSIF described.min_insync_replicas >= described.replication_factor AND described.replication_factor > 1 THEN
                verdict := 'warning';
                finding := format('"%s" requires %s of its %s replicas in sync: when one broker is down, its events wait.',
                                  described.topic, described.min_insync_replicas, described.replication_factor);
                hint := 'Lower min.insync.replicas of the topic, or raise its replication factor.';
            ELSE
                finding := format('"%s" has %s partitions, replication factor %s.', described.topic, described.partitions, described.replication_factor)
                           || coalesce(' ' || described.error, '');
            END IF;
            RETURN NEXT;
        END LOOP;
    END IF;

    IF relay.delivery = 'exactly_once' AND topics IS NOT NULL THEN
        RETURN QUERY SELECT c.* FROM outbox.check_progress_topic(relay.state,
            (SELECT max(t.replication_factor) FROM jsonb_to_recordset(topics) AS t(replication_factor integer))) AS c;
    END IF;

    subject := 'backlog';
    finding := format('%s events are waiting, the oldest for %s.', backlog.pending, date_trunc('second', backlog.lag));
    IF backlog.lag > interval '1 minute' THEN
        verdict := 'warning'; hint := 'See "relay", "brokers" and "topic". SELECT * FROM outbox.pending LIMIT 10; shows the first events.';
    ELSE
        verdict := 'ok'; hint := NULL;
    END IF;
    RETURN NEXT;

    subject := 'scheduled events'; verdict := 'ok'; hint := NULL;
    SELECT min(s.deliver_at) AS due, clock_timestamp() - min(s.deliver_at) AS late, pg_stat_get_live_tuples('outbox.scheduled'::regclass) AS events
      INTO described FROM outbox.scheduled AS s;
    IF described.due IS NULL THEN
        finding := 'No event is scheduled for later.';
    ELSIF described.late < interval '1 minute' THEN
        finding := format('About %s events are scheduled, the first of them for %s.', greatest(described.events, 1), described.due::timestamptz(0));
    ELSE
        verdict := 'warning';
        finding := format('A scheduled event was due %s ago, and is still not among those to be published.', date_trunc('second', described.late));
        hint := CASE WHEN (SELECT s.is_called FROM outbox.events_id_seq AS s)
                     THEN 'See "relay". A session that has locked the event keeps it back, too: pg_locks shows who locks rows of outbox.scheduled.'
                     ELSE 'The sequence of the ids is unused, as while a dump is being restored. If none is: SELECT nextval(''outbox.events_id_seq'');' END;
    END IF;
    RETURN NEXT;

    IF EXISTS (SELECT FROM outbox.archived_topics) OR EXISTS (SELECT FROM outbox.archive_segment) THEN
        subject := 'archive'; verdict := 'ok'; hint := NULL;
        SELECT max(a.retention) AS retention, count(*) AS patterns,
               (SELECT min(s.next_opened_at) FROM (SELECT lead(s.opened_at) OVER (ORDER BY s.first_position) AS next_opened_at
                                                     FROM outbox.archive_segment AS s) AS s) AS closed_at,
               (SELECT sum(pg_total_relation_size(to_regclass('outbox.archive_' || n))) FROM generate_series(0, 7) AS n) AS bytes
          INTO described FROM outbox.archived_topics AS a;
        finding := format('%s patterns are archived; the archive takes %s.', described.patterns, pg_size_pretty(described.bytes));
        IF described.closed_at + described.retention < clock_timestamp() - interval '1 hour' THEN
            verdict := 'warning';
            finding := finding || ' Its oldest events are kept beyond their retention.';
            hint := 'See "relay", which removes them while it works. A session that reads the archive keeps them, too: pg_locks shows who reads outbox.archive_0 to archive_7.';
        END IF;
        RETURN NEXT;
    END IF;

    IF EXISTS (SELECT FROM outbox.idempotency_a) OR EXISTS (SELECT FROM outbox.idempotency_b) THEN
        subject := 'idempotency keys'; verdict := 'ok'; hint := NULL;
        finding := format('About %s keys are known; they take %s.',
                          greatest(1, pg_stat_get_live_tuples('outbox.idempotency_a'::regclass) + pg_stat_get_live_tuples('outbox.idempotency_b'::regclass)),
                          pg_size_pretty(pg_total_relation_size('outbox.idempotency_a') + pg_total_relation_size('outbox.idempotency_b')));
        -- The keys of the period before leave when this one has lasted for the retention.
        IF EXISTS (SELECT FROM outbox.idempotency_period AS p
                    WHERE p.former <> 'empty'
                      AND p.began_at < clock_timestamp() - 2 * current_setting('event_outbox.idempotency_retention')::interval - interval '1 hour') THEN
            verdict := 'warning';
            finding := finding || ' They are kept beyond their retention.';
            hint := 'See "relay", which removes them while it works. A transaction that stays open after an emit() with a key keeps them, too.';
        END IF;
        RETURN NEXT;
    END IF;

    subject := 'dead letters';
    finding := format('outbox.dead_letters contains %s events.', backlog.dead_letters);
    IF backlog.dead_letters > 0 THEN
        verdict := 'warning'; hint := 'See outbox.dead_letters. Fix the cause, then use outbox.redrive(...), or outbox.discard(...).';
    ELSE
        verdict := 'ok'; hint := NULL;
    END IF;
    RETURN NEXT;

    subject := 'autovacuum';
    hint := NULL; verdict := 'ok'; finding := 'Autovacuum is on.';
    IF NOT current_setting('autovacuum')::boolean THEN
        verdict := 'error'; finding := 'Autovacuum is off: outbox.events grows with every event.';
        hint := 'Set autovacuum = on.';
    ELSIF EXISTS (SELECT FROM pg_class AS c, pg_options_to_table(c.reloptions) AS o
                   WHERE c.oid = 'outbox.events'::regclass AND o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean) THEN
        verdict := 'error'; finding := 'Autovacuum is off for outbox.events: the table grows with every event.';
        hint := 'ALTER TABLE outbox.events RESET (autovacuum_enabled);';
    ELSE
        SELECT a.pid, now() - a.xact_start AS age INTO holder
          FROM pg_stat_activity AS a
         WHERE a.xact_start < now() - interval '1 hour' AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
           AND a.backend_type <> 'autovacuum worker'
         ORDER BY a.xact_start LIMIT 1;
        IF FOUND THEN
            verdict := 'warning';
            finding := format('Process %s has had a transaction open for %s: rows deleted since then cannot be vacuumed.',
                              holder.pid, date_trunc('second', holder.age));
            hint := format('End the transaction if necessary: SELECT pg_terminate_backend(%s);', holder.pid);
        END IF;
    END IF;
    RETURN NEXT;

    subject := 'table';
    verdict := 'ok'; finding := 'The extension''s tables, triggers and sequences are as installed.'; hint := NULL;
    SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname) AS names,
           string_agg(format('ALTER TABLE %s SET LOGGED;', c.oid::regclass), ' ' ORDER BY c.relname) AS remedy
      INTO described
      FROM pg_class AS c JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
     WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND d.refclassid = 'pg_extension'::regclass
       AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'event_outbox');
    SELECT string_agg(format('%I', t.tgname), ', ' ORDER BY t.tgname) AS names,
           string_agg(format('ALTER TABLE %s ENABLE TRIGGER %I;', t.tgrelid::regclass, t.tgname), ' ' ORDER BY t.tgname) AS remedy
      INTO disabled
      FROM pg_trigger AS t JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid AND d.deptype = 'e'
     WHERE t.tgenabled = 'D' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'event_outbox');
    IF described.names IS NOT NULL THEN
        verdict := 'error';
        finding := format('UNLOGGED: %s. A crash of the server empties what is UNLOGGED, and standbys have no copy of it.', described.names);
        hint := described.remedy;
        RETURN NEXT;
    END IF;
    IF disabled.names IS NOT NULL THEN
        verdict := 'error';
        finding := format('Triggers of the outbox are disabled: %s. Events may be stored unchecked, found late or retried forever.', disabled.names);
        hint := disabled.remedy;
        RETURN NEXT;
    END IF;
    IF (SELECT s.seqcache > 1 FROM pg_sequence AS s WHERE s.seqrelid = 'outbox.events_id_seq'::regclass) THEN
        verdict := 'warning';
        finding := 'The sequence outbox.events_id_seq has a cache: events can be published late, and out of order between sessions.';
        hint := 'ALTER SEQUENCE outbox.events_id_seq CACHE 1;';
        RETURN NEXT;
    END IF;
    IF (SELECT s.seqcache > 1 FROM pg_sequence AS s WHERE s.seqrelid = 'event_store.event_position_seq'::regclass) THEN
        verdict := 'error';
        finding := 'The sequence event_store.event_position_seq has a cache: readers can miss events of the event store.';
        hint := 'ALTER SEQUENCE event_store.event_position_seq CACHE 1; Then end the sessions that have appended meanwhile.';
        RETURN NEXT;
    END IF;
    IF verdict = 'ok' THEN
        RETURN NEXT;
    END IF;

    IF outbox.schema_registry() IS NOT NULL THEN
        subject := 'schema registry';
        SELECT count(*) FILTER (WHERE s.registry_state = 'registered') AS registered,
               count(*) FILTER (WHERE s.registry_state = 'refused') AS refused,
               count(*) FILTER (WHERE s.registry_state = 'waiting') AS waiting,
               min(s.subject) FILTER (WHERE s.registry_state = 'refused') AS refused_subject,
               min(s.registry_error) FILTER (WHERE s.registry_state = 'refused') AS refused_error,
               coalesce(min(s.registry_error) FILTER (WHERE s.registry_state = 'waiting'),
                        (SELECT min(f.error) FROM outbox.schema_fetch AS f
                          WHERE f.registry = outbox.schema_registry() AND f.state = 'waiting')) AS unasked
          INTO described FROM outbox.schemas AS s;
        verdict := 'ok'; hint := NULL;
        finding := format('%s has registered %s versions; %s are waiting, %s are refused.', outbox.schema_registry(),
                          described.registered, described.waiting, described.refused);
        IF described.unasked IS NOT NULL THEN
            verdict := 'error';
            finding := format('%s cannot be asked: %s.', outbox.schema_registry(), described.unasked);
            hint := 'Check event_outbox.schema_registry_url, the schema.registry properties in event_outbox.kafka_properties_file, and the registry. The relay retries by itself.';
        ELSIF described.refused > 0 THEN
            verdict := 'error';
            finding := finding || format(' Subject "%s": %s.', described.refused_subject, described.refused_error);
            hint := 'Register a version that the registry accepts, or change the compatibility of the subject there; then SELECT outbox.retry_registration(). outbox.unregister_schema() removes a version.';
        END IF;
        RETURN NEXT;
    END IF;

    IF EXISTS (SELECT FROM inbox.subscription) THEN
        subject := 'inbox';
        SELECT count(*) AS problems, min(c.verdict) AS verdict, (array_agg(c.finding ORDER BY c.verdict))[1] AS finding
          INTO described FROM inbox.check() AS c WHERE c.verdict <> 'ok';
        IF described.problems = 0 THEN
            verdict := 'ok'; finding := 'inbox.check() finds no problem.'; hint := NULL;
        ELSE
            -- "error" comes before "warning".
            verdict := described.verdict;
            finding := format('inbox.check() finds %s problems. %s', described.problems, described.finding);
            hint := 'SELECT * FROM inbox.check();';
        END IF;
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.check() IS
    'Verifies the set-up, reports problems and says what to do. It asks Kafka, so it can take a few seconds.';
