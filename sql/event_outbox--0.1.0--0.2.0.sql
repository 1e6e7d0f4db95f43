-- From 0.1.0 to 0.2.0. What stands in the other files of this directory, as far as 0.1.0 lacks it.

CREATE FUNCTION outbox.relay_status(
    database oid,
    OUT pid                integer,
    OUT state              text,
    OUT state_since        timestamptz,
    OUT connection         text,
    OUT connection_since   timestamptz,
    OUT last_error         text,
    OUT last_error_at      timestamptz,
    OUT published          bigint,
    OUT refused            bigint,
    OUT in_flight          bigint,
    OUT oldest_event_at    timestamptz,
    OUT last_publish_at    timestamptz,
    OUT sweeps             bigint,
    OUT wakeups            bigint,
    OUT max_in_flight      bigint,
    OUT waiting_retries    bigint,
    OUT held_keys          bigint,
    OUT publish_rate       double precision,
    OUT troubles           jsonb,
    OUT round_trip_ms      double precision,
    OUT round_trip_p99_ms  double precision,
    OUT queued             bigint,
    OUT open_requests      bigint,
    OUT recovered_at       timestamptz
)
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'outbox_relay_status';
COMMENT ON FUNCTION outbox.relay_status(oid) IS
    'What outbox.status and outbox.relays show of a database''s relay, read from shared memory.';

-- Replaced and not dropped, as all below: what was granted stays.
CREATE OR REPLACE VIEW outbox.status AS
    SELECT s.*
      FROM outbox.relay_status((SELECT d.oid FROM pg_catalog.pg_database AS d
                                 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) AS s;
COMMENT ON VIEW outbox.status IS
    'One row: this database''s relay, read from shared memory without touching the table of events.';

DROP FUNCTION outbox.relay_status();

CREATE VIEW outbox.relays AS
    SELECT d.datname AS database, s.*
      FROM pg_catalog.pg_database AS d CROSS JOIN LATERAL outbox.relay_status(d.oid) AS s
     WHERE s.published IS NOT NULL;
COMMENT ON VIEW outbox.relays IS
    'One row for each database of the server that has a relay, or had one and will again: as outbox.status there.';
COMMENT ON COLUMN outbox.relays.database IS 'The database.';

DO $comments$
DECLARE
    described record;
    view_name text;
BEGIN
    FOR described IN
        SELECT * FROM (VALUES
            ('pid', 'Process of the relay; NULL if none runs.'),
            ('state', 'absent, starting, idle, publishing, waiting (for Kafka), failing (in the database), misconfigured, disabled, paused, incompatible (with this version of the extension), replica (a copy, kept by a subscription) or stopping.'),
            ('state_since', 'Since when it has been in this state.'),
            ('connection', 'Of the producer to Kafka: unknown, connected or disconnected.'),
            ('connection_since', 'Since when the connection has been so.'),
            ('last_error', 'The last trouble, kept after it is over: see recovered_at.'),
            ('last_error_at', 'When that was.'),
            ('published', 'Events acknowledged by Kafka and deleted, since the server started.'),
            ('refused', 'Refusals of events by Kafka, since the server started.'),
            ('in_flight', 'Events handed to the producer and not yet settled.'),
            ('oldest_event_at', 'When the oldest event in flight was emitted; NULL if none is in flight. Of all that waits: outbox.backlog.'),
            ('last_publish_at', 'When events were last settled as published.'),
            ('sweeps', 'Reads of the table for new events, since the server started.'),
            ('wakeups', 'Times the relay woke from its sleep, since the server started.'),
            ('max_in_flight', 'How many events may be in flight: event_outbox.max_in_flight.'),
            ('waiting_retries', 'Refused events that wait for their next attempt, as far as the relay has met them.'),
            ('held_keys', 'Keys whose events wait behind a refused one of theirs.'),
            ('publish_rate', 'Events published per second, over the last minute or so.'),
            ('troubles', 'What has gone wrong since the server started, and how often: refusals by their class, "disconnected", and "producer" for one that could not be used.'),
            ('round_trip_ms', 'Mean time from a request to Kafka''s answer, of the slowest broker; NULL unless kafka_properties sets statistics.interval.ms, as for the columns below.'),
            ('round_trip_p99_ms', 'The same time, of all but one request in a hundred.'),
            ('queued', 'Events in librdkafka''s queues and on their way to Kafka.'),
            ('open_requests', 'Requests that no broker has answered yet.'),
            ('recovered_at', 'When the trouble of last_error was over; NULL while it lasts, or if there was none.')
        ) AS v(column_name, description)
    LOOP
        FOREACH view_name IN ARRAY ARRAY['status', 'relays'] LOOP
            EXECUTE pg_catalog.format('COMMENT ON COLUMN outbox.%I.%I IS %L',
                                      view_name, described.column_name, described.description);
        END LOOP;
    END LOOP;
END
$comments$;

CREATE VIEW outbox.backlog AS
    SELECT CASE WHEN oldest.emitted_at IS NULL THEN 0
                ELSE greatest(1, pg_catalog.pg_stat_get_live_tuples('outbox.events'::pg_catalog.regclass)) END AS pending,
           oldest.emitted_at AS oldest_event_at,
           coalesce(pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) oldest.emitted_at, '0'::interval) AS lag,
           (SELECT pg_catalog.count(*) FROM outbox.dead_letters) AS dead_letters
      FROM (SELECT) AS one_row
           LEFT JOIN LATERAL (SELECT e.emitted_at FROM outbox.events AS e ORDER BY e.id LIMIT 1) AS oldest ON true;
COMMENT ON VIEW outbox.backlog IS
    'One row: what waits in this database, read from its tables; also while no relay runs.';
COMMENT ON COLUMN outbox.backlog.pending IS
    'Events that wait, as the server''s statistics estimate it; 0 is exact.';
COMMENT ON COLUMN outbox.backlog.oldest_event_at IS 'When the oldest of them was emitted; NULL if there is none.';
COMMENT ON COLUMN outbox.backlog.lag IS 'How long ago that was.';
COMMENT ON COLUMN outbox.backlog.dead_letters IS 'Events that Kafka refused for good, and that nobody has sent again or discarded.';

-- What an operator tells the relay of this database.

CREATE TABLE outbox.paused (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    paused_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    paused_by name NOT NULL DEFAULT session_user,
    reason    text
);
COMMENT ON TABLE outbox.paused IS 'A row while the outbox is paused: events are stored and wait.';
COMMENT ON COLUMN outbox.paused.only_one IS 'There is no second row.';
COMMENT ON COLUMN outbox.paused.paused_at IS 'Since when.';
COMMENT ON COLUMN outbox.paused.paused_by IS 'By whom: the user who logged in.';
COMMENT ON COLUMN outbox.paused.reason IS 'Why, in the words of who paused it.';

-- A copy of a database that is paused is paused too.
SELECT pg_catalog.pg_extension_config_dump('outbox.paused', '');

CREATE FUNCTION outbox.after_pause() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_after_pause';
COMMENT ON FUNCTION outbox.after_pause() IS 'Has the relay notice at commit that the outbox was paused or resumed.';

CREATE TRIGGER after_pause AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.paused
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.after_pause();

-- For functions that have more rights than a table's owner may have: the owner's triggers are not to get them.
CREATE FUNCTION outbox.act_as_owner(owned regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_act_as_owner';
COMMENT ON FUNCTION outbox.act_as_owner(regclass) IS
    'Gives the rest of a SECURITY DEFINER function the rights of a table''s owner, and no others.';

CREATE FUNCTION outbox.pause(reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT outbox.act_as_owner('outbox.paused');
    WITH new AS (INSERT INTO outbox.paused (reason) VALUES ($1) ON CONFLICT DO NOTHING RETURNING 1)
    SELECT count(*) > 0 FROM new
$$;
COMMENT ON FUNCTION outbox.pause(text) IS
    'Stops publishing when the transaction commits, until outbox.resume(), through restarts too; what is in flight is still settled. True if it was not paused already.';

CREATE FUNCTION outbox.resume() RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT outbox.act_as_owner('outbox.paused');
    WITH old AS (DELETE FROM outbox.paused RETURNING 1)
    SELECT count(*) > 0 FROM old
$$;
COMMENT ON FUNCTION outbox.resume() IS 'Goes on publishing when the transaction commits. True if it was paused.';

CREATE FUNCTION outbox.restart_relay() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_restart_relay';
COMMENT ON FUNCTION outbox.restart_relay() IS
    'Has the relay end in order and begin anew, at once and with a new connection to Kafka. False if there is none.';

-- Kafka's topics, through the relay: only it has a connection to Kafka.

CREATE FUNCTION outbox.ask_kafka(request json, timeout interval) RETURNS json
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_ask_kafka';
COMMENT ON FUNCTION outbox.ask_kafka(json, interval) IS
    'Has the relay ask Kafka, and waits for the answer; what outbox.create_topic() and outbox.describe_topics() rest on.';

CREATE FUNCTION outbox.create_topic(
    name               text,
    partitions         integer  DEFAULT -1,
    replication_factor integer  DEFAULT -1,
    config             jsonb    DEFAULT '{}',
    timeout            interval DEFAULT '30 seconds'
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF name IS NULL OR name !~ '^[a-zA-Z0-9._-]{1,249}$'
       OR name IN ('.', '..', '__consumer_offsets', '__transaction_state', '__share_group_state', '__cluster_metadata') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'this is no name for a topic',
            DETAIL = format('The name is %s.', coalesce(quote_literal(name), 'NULL')),
            HINT = 'Kafka takes 1 to 249 letters, digits, ".", "_" and "-", but neither "." nor ".."; some names are its own, such as "__consumer_offsets".';
    END IF;
    IF (partitions < 1 AND partitions <> -1) IS NOT FALSE
       OR (replication_factor NOT BETWEEN 1 AND 32767 AND replication_factor <> -1) IS NOT FALSE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'partitions and replication_factor must be positive',
            DETAIL = format('partitions is %s, replication_factor is %s.',
                            coalesce(partitions::text, 'NULL'), coalesce(replication_factor::text, 'NULL')),
            HINT = 'Leave one out, or pass -1, for the default of the brokers.';
    END IF;
    IF (jsonb_typeof(config) = 'object') IS NOT TRUE
       OR EXISTS (SELECT FROM jsonb_each(config) AS e WHERE jsonb_typeof(e.value) NOT IN ('string', 'number', 'boolean')) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'config must be a JSON object of strings, numbers and booleans',
            DETAIL = format('config is %s.', coalesce(left(config::text, 200), 'NULL')),
            HINT = 'For example: config => ''{"retention.ms": "604800000"}''.';
    END IF;
    PERFORM outbox.ask_kafka(
        json_build_object('create_topic', json_build_object(
            'name', name, 'partitions', partitions, 'replication_factor', replication_factor, 'config', config)),
        coalesce(timeout, '30 seconds'));
END
$$;
COMMENT ON FUNCTION outbox.create_topic(text, integer, integer, jsonb, interval) IS
    'Creates a Kafka topic, at once: a ROLLBACK does not take it back. -1 leaves a number to the brokers.';

CREATE FUNCTION outbox.topics_in_use() RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(array_agg(u.topic ORDER BY u.topic), '{}')
      FROM (SELECT e.topic FROM (SELECT topic FROM outbox.events ORDER BY id LIMIT 10000) AS e
            UNION
            SELECT e.topic FROM (SELECT topic FROM outbox.events ORDER BY id DESC LIMIT 10000) AS e
            UNION
            SELECT d.topic FROM (SELECT topic FROM outbox.dead_letters LIMIT 10000) AS d
            UNION
            SELECT current_setting('event_outbox.dead_letter_topic') WHERE current_setting('event_outbox.dead_letter_topic') <> ''
            LIMIT 500) AS u
$$;
COMMENT ON FUNCTION outbox.topics_in_use() IS
    'Topics to which this outbox publishes: those of events and dead letters, the first and last ten thousand; 500 at most.';

CREATE FUNCTION outbox.describe_topics(topics text[] DEFAULT NULL, timeout interval DEFAULT '10 seconds')
    RETURNS TABLE (
        topic               text,
        partitions          integer,
        replication_factor  integer,
        max_message_bytes   bigint,
        min_insync_replicas integer,
        cleanup_policy      text,
        retention           interval,
        error               text
    )
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 10
    AS $$
    SELECT d.topic,
           d.partitions,
           d.replication_factor,
           (d.config->>'max.message.bytes')::bigint,
           (d.config->>'min.insync.replicas')::integer,
           d.config->>'cleanup.policy',
           -- Kafka writes -1 for ever.
           CASE WHEN (d.config->>'retention.ms')::numeric >= 0
                THEN make_interval(secs => (d.config->>'retention.ms')::double precision / 1000) END,
           d.error
      FROM json_to_recordset(outbox.ask_kafka(json_build_object('describe_topics', coalesce($1, outbox.topics_in_use()),
                                                                'and_those_met', $1 IS NULL),
                                              coalesce($2, '10 seconds')))
           AS d(topic text, partitions integer, replication_factor integer, config json, error text)
     ORDER BY d.topic
$$;
COMMENT ON FUNCTION outbox.describe_topics(text[], interval) IS
    'What Kafka says of these topics, or of those in use; error says why it says nothing, or not all. NULL retention is for ever.';

CREATE VIEW outbox.topics AS
    SELECT t.* FROM outbox.describe_topics() AS t;
COMMENT ON VIEW outbox.topics IS 'The topics in use, as Kafka describes them: those of outbox.topics_in_use(), and those that the relay has met since it began. Asks Kafka at each look.';
COMMENT ON COLUMN outbox.topics.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.topics.partitions IS 'Partitions; NULL if there is no such topic.';
COMMENT ON COLUMN outbox.topics.replication_factor IS 'Copies of each record.';
COMMENT ON COLUMN outbox.topics.max_message_bytes IS 'The most bytes of a record batch that the topic takes.';
COMMENT ON COLUMN outbox.topics.min_insync_replicas IS 'Copies that must be there before a record counts as written.';
COMMENT ON COLUMN outbox.topics.cleanup_policy IS 'delete, compact, or both.';
COMMENT ON COLUMN outbox.topics.retention IS 'How long records are kept; NULL for ever.';
COMMENT ON COLUMN outbox.topics.error IS 'What is wrong with the topic, or could not be learned.';

-- outbox.check(): the set-up in plain words.

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
    -- One that is just being started is there in a moment.
    FOR looks IN 1..60 LOOP
        SELECT * INTO relay FROM outbox.status;
        EXIT WHEN relay.state NOT IN ('absent', 'starting', 'stopping') OR pg_is_in_recovery();
        PERFORM pg_sleep(0.05);
    END LOOP;
    SELECT * INTO backlog FROM outbox.backlog;
    SELECT * INTO pause FROM outbox.paused;

    subject := 'preload';
    IF current_setting('shared_preload_libraries') ~ '(^|[ ,"/])event_outbox($|[ ,"])' THEN
        verdict := 'ok'; finding := 'The library is loaded when the server starts.'; hint := NULL;
    ELSE
        verdict := 'error';
        finding := 'shared_preload_libraries does not name event_outbox: after the next restart there is no relay.';
        hint := 'Set shared_preload_libraries = ''event_outbox'' in postgresql.conf, beside what stands there.';
    END IF;
    RETURN NEXT;

    subject := 'version';
    SELECT e.installed_version, e.default_version INTO version
      FROM pg_available_extensions AS e WHERE e.name = 'event_outbox';
    IF version.installed_version IS NOT DISTINCT FROM version.default_version THEN
        verdict := 'ok'; finding := format('The objects in the database are those of version %s.', version.installed_version); hint := NULL;
    ELSE
        verdict := 'warning';
        finding := format('The objects in the database are those of version %s, the library is of version %s.',
                          version.installed_version, version.default_version);
        hint := 'ALTER EXTENSION event_outbox UPDATE;';
    END IF;
    RETURN NEXT;

    subject := 'workers';
    SELECT count(*) INTO used FROM pg_stat_activity AS a
     WHERE a.backend_type NOT IN ('client backend', 'autovacuum worker', 'autovacuum launcher', 'checkpointer', 'background writer',
                                  'walwriter', 'walsender', 'walreceiver', 'archiver', 'startup', 'logger', 'io worker',
                                  'slotsync worker', 'walsummarizer', 'parallel worker', 'standalone backend');
    finding := format('max_worker_processes is %s, %s are in use.', workers, used);
    IF relay.pid IS NULL AND used >= workers THEN
        verdict := 'error'; hint := format('Raise max_worker_processes above %s and restart the server: the relay needs one.', workers);
    ELSIF used >= workers THEN
        verdict := 'warning'; hint := 'Raise max_worker_processes: none is left, for parallel queries or the relay of another database.';
    ELSE
        verdict := 'ok'; hint := NULL;
    END IF;
    RETURN NEXT;

    subject := 'relay';
    finding := format('Its state is "%s"%s.', relay.state, coalesce(' since ' || relay.state_since::timestamptz(0), ''));
    hint := NULL;
    IF pause.paused_at IS NOT NULL THEN
        verdict := 'warning';
        finding := format('Publishing was paused by %s at %s%s.', pause.paused_by, pause.paused_at::timestamptz(0), coalesce(': ' || pause.reason, ''));
        hint := 'SELECT outbox.resume();';
    ELSIF relay.state IN ('idle', 'publishing') THEN
        verdict := 'ok';
    ELSIF relay.state = 'disabled' THEN
        verdict := 'warning';
        hint := format('ALTER DATABASE %I SET event_outbox.enabled = on;', current_database());
    ELSIF relay.state IN ('starting', 'stopping') THEN
        verdict := 'warning'; hint := 'Look again in a moment.';
    ELSIF relay.state IN ('replica', 'incompatible') THEN
        verdict := CASE relay.state WHEN 'replica' THEN 'warning' ELSE 'error' END;
        -- What it waits for, and behind it what to do.
        finding := finding || ' ' || split_part(relay.last_error, '. ', 1) || '.';
        hint := substr(relay.last_error, strpos(relay.last_error, '. ') + 2);
    ELSIF relay.state = 'absent' THEN
        verdict := 'error';
        hint := CASE WHEN pg_is_in_recovery() THEN 'This server is a standby: the relay runs on the primary.'
                     ELSE 'See "workers" and the server''s log for what keeps it from starting.' END;
    ELSE
        verdict := 'error';
        finding := finding || coalesce(' ' || relay.last_error, '');
        hint := CASE relay.state
                WHEN 'misconfigured' THEN 'Correct event_outbox.bootstrap_servers, kafka_properties or kafka_properties_file; the relay takes them up by itself.'
                WHEN 'failing' THEN 'The error is one of the database; the relay tries again by itself.'
                ELSE CASE WHEN relay.last_error LIKE 'waiting for a synchronous standby%'
                          THEN 'Bring the standby back, or take it out of synchronous_standby_names; pg_stat_replication shows which are connected.'
                          ELSE 'See "brokers".' END END;
    END IF;
    RETURN NEXT;

    IF relay.last_error ~ '^event [0-9]+ (is published, and its row cannot|was refused, and that cannot)'
       AND relay.last_error_at > clock_timestamp() - interval '1 minute' THEN
        subject := 'settlement'; verdict := 'error'; finding := left(relay.last_error, 300);
        hint := 'Look at the foreign keys, triggers, rules, policies and constraints of outbox.events and outbox.dead_letters, and remove what is in the way.';
        RETURN NEXT;
    END IF;

    -- Whoever listens, and leaves a transaction open, keeps the queue from being emptied.
    subject := 'notifications';
    filled := pg_notification_queue_usage();
    finding := format('The NOTIFY queue is filled to %s %%.', round((100 * filled)::numeric, 1));
    IF filled < 0.5
       AND (relay.last_error LIKE 'the NOTIFY queue%' AND relay.last_error_at > clock_timestamp() - interval '20 seconds') IS NOT TRUE THEN
        verdict := 'ok'; hint := NULL;
    ELSE
        verdict := 'warning';
        finding := finding || ' When it is full, listeners hear later of what was published, and commits with a NOTIFY fail in all databases of the server.';
        SELECT a.pid, date_trunc('second', now() - a.xact_start) AS age INTO holder
          FROM pg_stat_activity AS a
         WHERE a.xact_start IS NOT NULL AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
         ORDER BY a.xact_start LIMIT 1;
        hint := CASE WHEN holder.pid IS NULL THEN 'No session has a transaction open; SELECT pg_notification_queue_usage(); empties the queue.'
                     ELSE format('The oldest open transaction is that of process %s, since %s; if it listens, it keeps the queue: SELECT pg_terminate_backend(%s);',
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
                hint := format('SELECT outbox.create_topic(%L); or allow the relay''s user to write to it.', described.topic);
            ELSIF described.error LIKE 'partition %' THEN
                verdict := 'error';
                finding := format('"%s": %s; events for it wait.', described.topic, described.error);
                hint := 'Bring the brokers back that hold its replicas; kafka-topics --describe --topic shows which.';
            ELSIF described.max_message_bytes < most THEN
                verdict := 'warning';
                finding := format('"%s" takes up to %s bytes, events can have %s: Kafka refuses the larger ones.',
                                  described.topic, described.max_message_bytes, most);
                hint := format('Raise max.message.bytes of the topic above %s, or lower event_outbox.max_event_bytes.', most);
            ELSIF described.cleanup_policy ~ 'compact'
                  AND (EXISTS (SELECT FROM (SELECT e.topic, e.key FROM outbox.events AS e ORDER BY e.id LIMIT 10000) AS e
                                WHERE e.topic = described.topic AND e.key IS NULL)
                       OR EXISTS (SELECT FROM (SELECT d.topic, d.key FROM outbox.dead_letters AS d ORDER BY d.dead_letter_id DESC LIMIT 10000) AS d
                                   WHERE d.topic = described.topic AND d.key IS NULL)) THEN
                verdict := 'error';
                finding := format('"%s" is compacted (cleanup.policy is %s): Kafka refuses its events that have no key, and there are some.',
                                  described.topic, described.cleanup_policy);
                hint := 'Emit with a key, or set cleanup.policy of the topic to delete.';
            ELSIF described.min_insync_replicas >= described.replication_factor AND described.replication_factor > 1 THEN
                verdict := 'warning';
                finding := format('"%s" wants %s of its %s replicas in sync: when one broker is down, its events wait.',
                                  described.topic, described.min_insync_replicas, described.replication_factor);
                hint := 'Lower min.insync.replicas of the topic, or raise its replication factor.';
            ELSE
                finding := format('"%s" has %s partitions, %s copies each.', described.topic, described.partitions, described.replication_factor)
                           || coalesce(' ' || described.error, '');
            END IF;
            RETURN NEXT;
        END LOOP;
    END IF;

    subject := 'backlog';
    finding := format('%s events wait, the oldest for %s.', backlog.pending, date_trunc('second', backlog.lag));
    IF backlog.lag > interval '1 minute' THEN
        verdict := 'warning'; hint := 'See "relay", "brokers" and "topic"; SELECT * FROM outbox.pending LIMIT 10 shows the first.';
    ELSE
        verdict := 'ok'; hint := NULL;
    END IF;
    RETURN NEXT;

    subject := 'dead letters';
    finding := format('Kafka has refused %s events for good.', backlog.dead_letters);
    IF backlog.dead_letters > 0 THEN
        verdict := 'warning'; hint := 'Look at outbox.dead_letters; mend the cause, then outbox.redrive(...), or outbox.discard(...).';
    ELSE
        verdict := 'ok'; hint := NULL;
    END IF;
    RETURN NEXT;

    subject := 'autovacuum';
    hint := NULL; verdict := 'ok'; finding := 'Autovacuum is on.';
    IF NOT current_setting('autovacuum')::boolean THEN
        verdict := 'error'; finding := 'Autovacuum is off: the table of events grows with every event.';
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
            finding := format('A transaction of process %s has been open for %s: no row deleted since then can be vacuumed.',
                              holder.pid, date_trunc('second', holder.age));
            hint := format('End it, if need be: SELECT pg_terminate_backend(%s);', holder.pid);
        END IF;
    END IF;
    RETURN NEXT;

    subject := 'table';
    verdict := 'ok'; finding := 'outbox.events is as it was made.'; hint := NULL;
    SELECT string_agg(format('%I', t.tgname), ', ' ORDER BY t.tgname) AS names,
           string_agg(format('ALTER TABLE %s ENABLE TRIGGER %I;', t.tgrelid::regclass, t.tgname), ' ' ORDER BY t.tgname) AS remedy
      INTO disabled
      FROM pg_trigger AS t JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid AND d.deptype = 'e'
     WHERE t.tgenabled = 'D' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'event_outbox');
    IF (SELECT c.relpersistence = 'u' FROM pg_class AS c WHERE c.oid = 'outbox.events'::regclass) THEN
        verdict := 'error'; finding := 'outbox.events is UNLOGGED: a crash of the server empties it, and a standby has none of it.';
        hint := 'ALTER TABLE outbox.events SET LOGGED;';
        RETURN NEXT;
    END IF;
    IF disabled.names IS NOT NULL THEN
        verdict := 'error';
        finding := format('Triggers of the outbox are disabled: %s. Events are not checked, found late, or tried for ever.', disabled.names);
        hint := disabled.remedy;
        RETURN NEXT;
    END IF;
    IF (SELECT s.seqcache > 1 FROM pg_sequence AS s WHERE s.seqrelid = 'outbox.events_id_seq'::regclass) THEN
        verdict := 'warning';
        finding := 'The sequence outbox.events_id_seq has a cache: events can be late, and out of order between sessions.';
        hint := 'ALTER SEQUENCE outbox.events_id_seq CACHE 1;';
        RETURN NEXT;
    END IF;
    IF verdict = 'ok' THEN
        RETURN NEXT;
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.check() IS
    'Verifies the set-up: what is well, what is wrong, and what to type. Asks Kafka, and so takes up to some seconds.';

-- Which roles may emit to which topics. While the table is empty, everybody who may emit may emit to all;
-- as soon as it holds a grant, a role may emit to the topics granted to it, or to a role whose rights it has,
-- and to no others. The check is in src/outbox/emit/topic_grants.rs.

CREATE TABLE outbox.topic_grants (
    role    regrole NOT NULL,
    pattern text NOT NULL
        CONSTRAINT topic_or_prefix CHECK (pattern OPERATOR(pg_catalog.~) '^([a-zA-Z0-9._-]{1,249}|[a-zA-Z0-9._-]{0,248}\*)$'),
    PRIMARY KEY (role, pattern)
);

COMMENT ON TABLE outbox.topic_grants IS
    'Which roles may emit to which topics; while it is empty, those who may emit may emit to all. Changed by outbox.grant_topic() and outbox.revoke_topic().';
COMMENT ON COLUMN outbox.topic_grants.role IS 'The role, and all that have its rights by membership. A grant counts while the role has the right to read this table, which comes with it.';
COMMENT ON COLUMN outbox.topic_grants.pattern IS
    'A topic; or the beginning of topics, followed by an asterisk.';

-- A role by its name: an oid would mean another one in another cluster.
SELECT pg_catalog.pg_extension_config_dump('outbox.topic_grants', '');

CREATE FUNCTION outbox.topic_grants_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_topic_grants_changed';
COMMENT ON FUNCTION outbox.topic_grants_changed() IS 'Has all sessions read outbox.topic_grants anew.';

CREATE TRIGGER topic_grants_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.topic_grants
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.topic_grants_changed();

CREATE FUNCTION outbox.grant_topic(role regrole, pattern text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF role IS NULL OR pattern IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role and pattern must not be null',
            DETAIL = 'A topic grant says which role may emit to which topics.',
            HINT = 'To mean all topics, pass ''*''.';
    END IF;
    -- regrole takes any number, and - for none.
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = grant_topic.role) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', role),
            DETAIL = 'Topics are granted to roles; there is no grant to PUBLIC.',
            HINT = 'Create a role for all who are to have the grant, and make them its members.';
    END IF;
    IF pattern !~ '^([a-zA-Z0-9._-]{1,249}|[a-zA-Z0-9._-]{0,248}\*)$' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No topic has a name like "%s".', pattern),
            HINT = 'Pass a topic''s name, or the beginning of names and an asterisk, such as ''orders.*''.';
    END IF;

    -- One after the other, since each may change the table's privileges.
    PERFORM outbox.act_as_owner('outbox.topic_grants');
    LOCK TABLE outbox.topic_grants IN SHARE ROW EXCLUSIVE MODE;
    -- What counts no more, since DROP OWNED has taken the role's rights, or the role is gone.
    DELETE FROM outbox.topic_grants AS g
     WHERE NOT EXISTS (SELECT FROM pg_class AS c
                        WHERE c.oid = g.tableoid
                          AND (c.relowner = g.role OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a
                                                               WHERE a.grantee = g.role AND a.privilege_type = 'SELECT')));
    IF NOT FOUND AND NOT EXISTS (SELECT FROM outbox.topic_grants) THEN
        RAISE NOTICE USING
            MESSAGE = 'from now on roles can emit only to topics that are granted to them',
            DETAIL = 'This is the first topic grant in this database.',
            HINT = 'Superusers, and the owner of outbox.events, can emit to all topics.';
    END IF;
    INSERT INTO outbox.topic_grants (role, pattern) VALUES (grant_topic.role, grant_topic.pattern)
        ON CONFLICT DO NOTHING;
    -- A role that has grants can see them, and they count as long as it can: so DROP OWNED takes them too, without anything
    -- of ours to run. And PostgreSQL does not drop a role that is mentioned in privileges.
    IF role <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'outbox.topic_grants'::regclass) THEN
        EXECUTE format('GRANT SELECT ON outbox.topic_grants TO %s', role);
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.grant_topic(regrole, text) IS
    'Lets a role emit to a topic, or to all whose names begin with what stands before an asterisk. The first grant closes all topics to roles without one.';

CREATE FUNCTION outbox.revoke_topic(role regrole, pattern text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    revoked bigint;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'role must not be null',
            DETAIL = 'Topic grants are revoked from one role at a time.',
            HINT = 'outbox.topic_grants shows who has any.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.topic_grants');
    LOCK TABLE outbox.topic_grants IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM outbox.topic_grants AS g
     WHERE g.role = revoke_topic.role AND (revoke_topic.pattern IS NULL OR g.pattern = revoke_topic.pattern);
    GET DIAGNOSTICS revoked = ROW_COUNT;
    IF revoked = 0 THEN
        RETURN 0;
    END IF;

    IF NOT EXISTS (SELECT FROM outbox.topic_grants AS g WHERE g.role = revoke_topic.role)
       AND EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = revoke_topic.role)
       AND role <> (SELECT c.relowner FROM pg_class AS c WHERE c.oid = 'outbox.topic_grants'::regclass) THEN
        EXECUTE format('REVOKE SELECT ON outbox.topic_grants FROM %s', role);
    END IF;
    IF NOT EXISTS (SELECT FROM outbox.topic_grants) THEN
        RAISE WARNING USING
            MESSAGE = 'from now on every role that can emit can emit to all topics',
            DETAIL = 'There are no topic grants left in this database.',
            HINT = 'To close all topics, grant one to a role that nobody has.';
    END IF;
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION outbox.revoke_topic(regrole, text) IS
    'Takes back a grant with just this pattern, or without a pattern all grants of the role; returns how many. When the last is gone, all topics are open again.';

-- They act as the owner of the table by themselves (src/pg/user_context.rs).
ALTER FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) SECURITY INVOKER;
ALTER FUNCTION outbox.emit_bytes(text, bytea, bytea, text, jsonb, uuid, integer, text) SECURITY INVOKER;

CREATE FUNCTION outbox.take_in(
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
            DETAIL = 'Attempts are counted, and duplicates found, by the identity that the source gives a message.',
            HINT = 'Messages without an identity can be emitted with outbox.emit().';
    END IF;
    -- The index on it could not hold a longer one.
    IF octet_length(source_id) > 1000 THEN
        status := 'rejected';
        attempt := 1;
        event_id := NULL;
        error := 'source_id is longer than 1000 bytes';
        RETURN;
    END IF;
    -- Whoever brings the same message at the same time waits here.
    INSERT INTO outbox.intake AS i (source_id) VALUES (take_in.source_id) ON CONFLICT DO NOTHING;
    SELECT i.* INTO known FROM outbox.intake AS i WHERE i.source_id = take_in.source_id FOR UPDATE;
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
    -- What is wrong with the message. Trouble of the database is not its fault, and goes on to the caller.
    EXCEPTION WHEN data_exception OR invalid_name OR reserved_name OR program_limit_exceeded THEN
        event_id := NULL;
        status := CASE WHEN attempt < current_setting('event_outbox.max_attempts')::integer THEN 'invalid' ELSE 'rejected' END;
        error := SQLERRM;
    END;
    UPDATE outbox.intake AS i
       SET status = take_in.status, attempts = attempt, event_id = take_in.event_id, error = take_in.error,
           last_at = clock_timestamp()
     WHERE i.source_id = take_in.source_id;
END
$$;
COMMENT ON FUNCTION outbox.take_in(text, text, text, text, text, jsonb, uuid, integer) IS
    'What outbox.try_emit() does as the owner of the outbox, once the caller''s right to the topic is checked.';

CREATE OR REPLACE FUNCTION outbox.try_emit(
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
    'Stores an event for a message that may be invalid, once per source_id, without aborting the transaction; says stored, duplicate, invalid or, after event_outbox.max_attempts, rejected.';

CREATE OR REPLACE FUNCTION outbox.try_emit(
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
    'As with a payload of text, for one that is known to be JSON.';

-- As in grants.sql.
REVOKE ALL ON outbox.topic_grants, outbox.relays, outbox.backlog, outbox.paused, outbox.topics FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.relay_status(oid), outbox.after_pause(), outbox.pause(text), outbox.resume(),
    outbox.restart_relay(), outbox.ask_kafka(json, interval),
    outbox.create_topic(text, integer, integer, jsonb, interval), outbox.topics_in_use(),
    outbox.describe_topics(text[], interval), outbox.check(), outbox.topic_grants_changed(),
    outbox.grant_topic(regrole, text), outbox.revoke_topic(regrole, text),
    outbox.take_in(text, text, text, text, text, jsonb, uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION outbox.relay_status(oid) TO PUBLIC;

-- A notification can tell of a name of any length.
CREATE OR REPLACE FUNCTION outbox.bury_event() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM outbox.act_as_owner('outbox.dead_letters');
    INSERT INTO outbox.dead_letters (id, event_id, emitted_at, topic, partition, key, payload, headers, event_type,
                                     content_type, attempts, error, error_class, first_refused_at, last_refused_at)
    VALUES (NEW.id, NEW.event_id, NEW.emitted_at, NEW.topic, NEW.partition, NEW.key, NEW.payload, NEW.headers, NEW.event_type,
            NEW.content_type, NEW.attempts, NEW.last_error, NEW.error_class, NEW.first_refused_at, clock_timestamp());

    PERFORM pg_notify('outbox_dead_letter',
                      json_build_object('event_id', NEW.event_id, 'topic', left(NEW.topic, 249), 'error_class', NEW.error_class,
                                        'error', left(NEW.last_error, 1000))::text);

    RETURN NULL;
END
$$;
COMMENT ON FUNCTION outbox.bury_event() IS
    'Copies an event that used up its attempts to the dead letters, and says so on the channel outbox_dead_letter.';

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

    -- A copy for whoever watches in Kafka. One that dies there stays here.
    IF elsewhere = '' OR elsewhere = NEW.topic THEN
        RETURN NULL;
    END IF;
    -- Put together as text: jsonb would lose the order and the repetition of the author's headers.
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
    -- With its error it may be too large. What counts is kept already.
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR invalid_name OR reserved_name THEN
        RAISE LOG 'event_outbox: no copy of dead event % was sent to %: %', NEW.event_id, elsewhere, SQLERRM;
    END;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION outbox.remove_dead_event() IS
    'Removes an event that is among the dead letters, and sends a copy to event_outbox.dead_letter_topic.';

-- After bury_event, as its name says to PostgreSQL.
CREATE TRIGGER remove_dead_event AFTER UPDATE OF last_error ON outbox.events
    FOR EACH ROW WHEN (NEW.last_error IS NOT NULL AND NEW.next_attempt_at IS NULL)
    EXECUTE FUNCTION outbox.remove_dead_event();
REVOKE ALL ON FUNCTION outbox.act_as_owner(regclass), outbox.remove_dead_event() FROM PUBLIC;

-- What callers have and their drivers send is not always jsonb, text and uuid: a trigger has row_to_json() and a bigint,
-- JDBC sends each string as varchar and each long as bigint. So each way in has a second form that takes more types. The first is always
-- preferred where it fits: drivers that ask the server for the types of parameters are told jsonb and uuid, which they
-- know how to encode. This rests on how PostgreSQL chooses among functions of one name:
--   * no type of the second forms is one that anybody passes, so none is an exact match;
--   * where nothing is known about an argument, text is preferred to outbox.topic_name, a string like it; and for all
--     other arguments the forms' types are of one category, so that they decide nothing.
-- The second forms are bodies in SQL that call the first: they are inlined, and need no right but that to the first.

CREATE DOMAIN outbox.topic_name AS text;
COMMENT ON DOMAIN outbox.topic_name IS 'Text for which PostgreSQL prefers text, so that outbox.emit() is found with any types.';

CREATE TYPE outbox.as_text;
COMMENT ON TYPE outbox.as_text IS 'A value taken as its text, whatever its type: what outbox.emit() accepts for keys, documents and identities.';
CREATE FUNCTION outbox.as_text_in(cstring) RETURNS outbox.as_text
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'textin';
CREATE FUNCTION outbox.as_text_out(outbox.as_text) RETURNS cstring
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'textout';
CREATE FUNCTION outbox.as_text_recv(internal) RETURNS outbox.as_text
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'textrecv';
CREATE FUNCTION outbox.as_text_send(outbox.as_text) RETURNS bytea
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'textsend';
CREATE TYPE outbox.as_text (
    INPUT = outbox.as_text_in, OUTPUT = outbox.as_text_out, RECEIVE = outbox.as_text_recv, SEND = outbox.as_text_send,
    LIKE = pg_catalog.text, CATEGORY = 'U'
);
CREATE FUNCTION outbox.as_text(character) RETURNS outbox.as_text
    LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'rtrim1';
COMMENT ON FUNCTION outbox.as_text_in(cstring) IS 'Input of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text_out(outbox.as_text) IS 'Output of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text_recv(internal) IS 'Binary input of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text_send(outbox.as_text) IS 'Binary output of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text(character) IS 'Without the blanks that fill it up.';

-- Implicit only towards the extension's own type: no statement without it means anything else through them.
CREATE CAST (text AS outbox.as_text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (character varying AS outbox.as_text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (json AS outbox.as_text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (character AS outbox.as_text) WITH FUNCTION outbox.as_text(character) AS IMPLICIT;
CREATE CAST (name AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (jsonb AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (uuid AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (smallint AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (integer AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (bigint AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (numeric AS outbox.as_text) WITH INOUT AS IMPLICIT;
CREATE CAST (outbox.as_text AS text) WITHOUT FUNCTION;
COMMENT ON CAST (text AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (character varying AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (json AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (character AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (name AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (jsonb AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (uuid AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (smallint AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (integer AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (bigint AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (numeric AS outbox.as_text) IS 'For outbox.emit() and its siblings.';
COMMENT ON CAST (outbox.as_text AS text) IS 'For outbox.emit() and its siblings.';

CREATE FUNCTION outbox.emit(
    topic      text,
    payload    jsonb,
    key        outbox.as_text,
    event_type text DEFAULT NULL,
    headers    jsonb DEFAULT NULL,
    event_id   uuid DEFAULT NULL,
    partition  integer DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit(topic, payload, key::text, event_type, headers, event_id, partition);
COMMENT ON FUNCTION outbox.emit(text, jsonb, outbox.as_text, text, jsonb, uuid, integer) IS
    'As with a key of text, for a number or a UUID.';

CREATE FUNCTION outbox.emit(
    topic      outbox.topic_name,
    payload    outbox.as_text,
    key        outbox.as_text DEFAULT NULL,
    event_type text DEFAULT NULL,
    headers    outbox.as_text DEFAULT NULL,
    event_id   outbox.as_text DEFAULT NULL,
    partition  bigint DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit(topic::text, payload::text::jsonb, key::text, event_type, headers::text::jsonb,
                       event_id::text::uuid, partition::integer);
COMMENT ON FUNCTION outbox.emit(outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint) IS
    'The same for other types, such as json or a driver''s strings and longs; who may emit may use it.';

CREATE FUNCTION outbox.emit_bytes(
    topic        outbox.topic_name,
    payload      bytea,
    key          outbox.as_text,
    event_type   text DEFAULT NULL,
    headers      jsonb DEFAULT NULL,
    event_id     uuid DEFAULT NULL,
    partition    integer DEFAULT NULL,
    content_type text DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit_bytes(topic::text, payload, pg_catalog.convert_to(key::text, 'UTF8'), event_type, headers, event_id,
                             partition, content_type);
COMMENT ON FUNCTION outbox.emit_bytes(outbox.topic_name, bytea, outbox.as_text, text, jsonb, uuid, integer, text) IS
    'As with a key of bytes, for text, a number or a UUID: the key is its text in UTF-8.';

CREATE FUNCTION outbox.emit_bytes(
    topic        outbox.topic_name,
    payload      bytea,
    key          bytea DEFAULT NULL,
    event_type   text DEFAULT NULL,
    headers      outbox.as_text DEFAULT NULL,
    event_id     outbox.as_text DEFAULT NULL,
    partition    bigint DEFAULT NULL,
    content_type text DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit_bytes(topic::text, payload, key, event_type, headers::text::jsonb, event_id::text::uuid,
                             partition::integer, content_type);
COMMENT ON FUNCTION outbox.emit_bytes(outbox.topic_name, bytea, bytea, text, outbox.as_text, outbox.as_text, bigint, text) IS
    'The same for other types, such as a driver''s strings and longs.';

-- As in emit.sql: for other types.
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
    'The same for other types, such as json or a driver''s strings and longs.';

-- These call the functions of their names that an application is granted, with the caller's own rights.
GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, outbox.as_text, text, jsonb, uuid, integer),
    outbox.emit(outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint),
    outbox.emit_bytes(outbox.topic_name, bytea, outbox.as_text, text, jsonb, uuid, integer, text),
    outbox.emit_bytes(outbox.topic_name, bytea, bytea, text, outbox.as_text, outbox.as_text, bigint, text),
    outbox.try_emit(outbox.as_text, outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint), outbox.as_text_in(cstring), outbox.as_text_out(outbox.as_text), outbox.as_text_recv(internal),
    outbox.as_text_send(outbox.as_text), outbox.as_text(character)
    TO PUBLIC;
-- What was refused for its time is sent again with the present time.
CREATE OR REPLACE FUNCTION outbox.redrive(
    event_id uuid DEFAULT NULL,
    topic    text DEFAULT NULL,
    since    timestamptz DEFAULT NULL,
    max      bigint DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- As long as the function has its own rights.
    chosen   bigint[] := ARRAY(SELECT outbox.choose_dead_letters(redrive.event_id, redrive.topic, since, max));
    redriven bigint;
BEGIN
    IF EXISTS (SELECT FROM pg_class AS c
                WHERE c.oid IN ('outbox.events'::regclass, 'outbox.dead_letters'::regclass)
                  AND NOT pg_has_role(c.relowner, current_user, 'USAGE')) THEN
        IF (SELECT count(DISTINCT c.relowner) FROM pg_class AS c
             WHERE c.oid IN ('outbox.events'::regclass, 'outbox.dead_letters'::regclass)) > 1 THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = 'outbox.events and outbox.dead_letters belong to different roles',
                DETAIL = 'Dead letters are sent again with the rights of the tables'' owner.',
                HINT = 'Let both belong to one role: ALTER TABLE ... OWNER TO.';
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
           -- By this the relay knows that the record is to tell the present time.
           CASE WHEN c.error_class = 'invalid_timestamp' THEN c.error_class END
      FROM dead AS c
     ORDER BY c.id, c.dead_letter_id;
    GET DIAGNOSTICS redriven = ROW_COUNT;
    RETURN redriven;
END
$$;
COMMENT ON COLUMN outbox.dead_letters.error_class IS
    'Kind of the refusal: too_large, unknown_topic, unknown_partition, not_authorized, invalid_record, invalid_timestamp, invalid_topic; NULL if it was reported by hand.';
COMMENT ON COLUMN outbox.events.emitted_at IS 'When the event was emitted; ce_time, and the record''s CreateTime unless the topic refuses such a time.';

-- A dump is restored in the order of foreign keys, by several processes too: the pause before the first event.
ALTER TABLE outbox.events ADD COLUMN paused boolean CONSTRAINT events_follow_paused REFERENCES outbox.paused (only_one);
COMMENT ON COLUMN outbox.events.paused IS
    'Always NULL. That it refers to outbox.paused has pg_dump restore a pause before the events.';
COMMENT ON CONSTRAINT events_follow_paused ON outbox.events IS 'For pg_dump; nothing is ever checked by it.';

DO $off$
DECLARE
    checking record;
BEGIN
    FOR checking IN
        SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_catalog.pg_trigger AS t
          JOIN pg_catalog.pg_constraint AS c ON c.oid OPERATOR(pg_catalog.=) t.tgconstraint
         WHERE c.conname OPERATOR(pg_catalog.=) 'events_follow_paused'
           AND c.conrelid OPERATOR(pg_catalog.=) 'outbox.events'::regclass
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', checking.relation, checking.tgname);
    END LOOP;
END
$off$;

-- As in dead_letters.sql: with the rights of the table's owner.
CREATE OR REPLACE FUNCTION outbox.discard(
    event_id uuid DEFAULT NULL,
    topic    text DEFAULT NULL,
    since    timestamptz DEFAULT NULL,
    max      bigint DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- As long as the function has its own rights.
    chosen    bigint[] := ARRAY(SELECT outbox.choose_dead_letters(discard.event_id, discard.topic, since, max));
    discarded bigint;
BEGIN
    PERFORM outbox.act_as_owner('outbox.dead_letters');
    DELETE FROM outbox.dead_letters AS d
     WHERE d.dead_letter_id = ANY (chosen);
    GET DIAGNOSTICS discarded = ROW_COUNT;
    RETURN discarded;
END
$$;

-- What is changed by hand is as valid as what is emitted.
CREATE TRIGGER check_change BEFORE UPDATE OF topic, partition, key, payload, headers, event_type, content_type, emitted_at
    ON outbox.events FOR EACH ROW EXECUTE FUNCTION outbox.check_event();
