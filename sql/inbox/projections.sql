-- Owns the projections: tables that have the latest value of each key of a topic. A projection is a subscription that no session
-- receives from; a background worker applies its events to the table, connected as the table's owner.

-- Without a foreign key, as the tables of tables.sql: a worker must not read a subscription as one that sessions receive from.
CREATE TABLE inbox.projection (
    subscription_id integer     PRIMARY KEY,
    "table"         regclass    UNIQUE,
    table_name      text,
    format          text        NOT NULL CHECK (format IN ('json', 'capture', 'event')),
    key             jsonb       NOT NULL,
    columns         jsonb,
    ready_offsets   bigint[]    NOT NULL,
    ready_at        timestamptz,
    rebuild_of      integer     UNIQUE,
    last_error      text,
    last_error_at   timestamptz,
    failing_since   timestamptz,
    copy_crashes    integer     NOT NULL DEFAULT 0,
    filenode        oid,
    truncated_at    timestamptz,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE inbox.projection IS 'The projections. Changed only through the functions of the schema inbox, and by their workers.';
COMMENT ON COLUMN inbox.projection.subscription_id IS 'The subscription whose events are applied.';
COMMENT ON COLUMN inbox.projection."table" IS 'The table; NULL until that of a rebuild is made, and when it is gone.';
COMMENT ON COLUMN inbox.projection.table_name IS 'Its name when the worker last opened it.';
COMMENT ON COLUMN inbox.projection.format IS 'What a record''s value is: the row as json, a change as outbox.capture() writes it, or the data of an event of the event store.';
COMMENT ON COLUMN inbox.projection.key IS 'The columns that identify a row, each with the source of its value.';
COMMENT ON COLUMN inbox.projection.columns IS 'The other columns, each with the source of its value; NULL for all columns, by their names.';
COMMENT ON COLUMN inbox.projection.ready_offsets IS 'The ends of the topic''s partitions when it was created, by their numbers plus 1.';
COMMENT ON COLUMN inbox.projection.ready_at IS 'When the table had all records before these ends; NULL if it has not yet.';
COMMENT ON COLUMN inbox.projection.rebuild_of IS 'The projection that it takes the place of once it is ready.';
COMMENT ON COLUMN inbox.projection.last_error IS 'Why records could not be applied last.';
COMMENT ON COLUMN inbox.projection.last_error_at IS 'When that was first seen.';
COMMENT ON COLUMN inbox.projection.failing_since IS 'Since when nothing can be applied; NULL while it can.';
COMMENT ON COLUMN inbox.projection.copy_crashes IS
    'For a rebuild: how often the server has crashed while it wrote its rows into the projection''s table.';
COMMENT ON COLUMN inbox.projection.filenode IS 'The file of the table when the worker last opened it: a TRUNCATE gives it another one.';
COMMENT ON COLUMN inbox.projection.truncated_at IS 'When the worker found that somebody had truncated the table; NULL if nobody has.';
COMMENT ON COLUMN inbox.projection.created_at IS 'When it was created.';

-- A restore must not take the number of a table that is gone for that of another one.
SELECT pg_catalog.pg_extension_config_dump(
    'inbox.projection',
    'WHERE "table" IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) "table")');

CREATE TRIGGER projection_changed
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF "table", format, key, columns, rebuild_of ON inbox.projection
    FOR EACH STATEMENT EXECUTE FUNCTION inbox.after_change();
CREATE TRIGGER changed AFTER INSERT OR DELETE OR TRUNCATE ON inbox.projection
    FOR EACH STATEMENT EXECUTE FUNCTION inbox.changed();
ALTER TABLE inbox.projection ENABLE ALWAYS TRIGGER changed;

CREATE FUNCTION inbox.refuse_projection(id integer, call text, hint text) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    name text;
BEGIN
    SELECT s.name INTO name FROM inbox.subscription AS s JOIN inbox.projection AS p ON p.subscription_id = s.id
     WHERE s.id = refuse_projection.id;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('"%s" is a projection', name),
            DETAIL = format('%s is for subscriptions that sessions receive from. The events of a projection go to its table.', call),
            HINT = format(hint, name);
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.refuse_projection(integer, text, text) IS 'Raises an error if the subscription is a projection.';

CREATE FUNCTION inbox.source_error(source text) RETURNS text
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'inbox_source_error';
COMMENT ON FUNCTION inbox.source_error(text) IS 'Says what is wrong with the source of a column''s value; NULL if nothing is.';

-- Which sources the given columns have. Names alone, and no columns at all, stand for sources by the names.
CREATE FUNCTION inbox.column_sources(what text, given jsonb, root text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sources jsonb;
    wrong   text;
BEGIN
    IF jsonb_typeof(given) = 'array' AND NOT EXISTS (SELECT FROM jsonb_array_elements(given) AS e(v) WHERE jsonb_typeof(e.v) <> 'string') THEN
        SELECT coalesce(jsonb_object_agg(e.name, CASE WHEN root = '@key' AND jsonb_array_length(given) = 1 THEN root
                                                      ELSE root || '.' || to_json(e.name) END), '{}')
          INTO sources FROM jsonb_array_elements_text(given) AS e(name);
    ELSIF jsonb_typeof(given) = 'object' THEN
        sources := given;
    END IF;
    IF sources IS NULL OR EXISTS (SELECT FROM jsonb_each(sources) AS e WHERE jsonb_typeof(e.value) <> 'string') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid %s', what),
            DETAIL = format('It is %s.', coalesce(left(given::text, 300), 'NULL')),
            HINT = 'Pass names of columns, such as ["id"], or columns with their sources, such as {"id": "@key", "total": "$.amounts.total"}.';
    END IF;
    SELECT format('The source %s of column "%s" is wrong: %s.', quote_literal(left(e.value, 200)), e.key, inbox.source_error(e.value))
      INTO wrong FROM jsonb_each_text(sources) AS e WHERE inbox.source_error(e.value) IS NOT NULL ORDER BY e.key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid %s', what),
            DETAIL = wrong,
            HINT = 'A source is a place in the value, such as $.a.b[0], or @key, a place in the key, such as @key.a, or @offset, @partition, @timestamp or @header.NAME.';
    END IF;
    RETURN sources;
END
$$;
COMMENT ON FUNCTION inbox.column_sources(text, jsonb, text) IS 'Returns columns with the sources of their values.';

CREATE FUNCTION inbox.require_projectable(caller regrole, "table" regclass) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    target pg_class;
    runs_as pg_roles;
    wrong  text;
BEGIN
    SELECT * INTO target FROM pg_class AS c WHERE c.oid = "table";
    IF target.oid IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = 'the table does not exist',
            DETAIL = CASE WHEN "table" IS NULL THEN 'The table is NULL.' ELSE 'It was dropped.' END,
            HINT = 'Create it with a primary key that is the key of the topic''s records.';
    END IF;
    IF NOT pg_has_role(caller::oid, target.relowner, 'USAGE') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for table %s', "table"),
            DETAIL = format('It is written as its owner, %s, whose rights role %s does not have.', target.relowner::regrole, caller),
            HINT = 'Let the owner of the table call the function, or become a member of that role.';
    END IF;
    wrong := CASE
        WHEN target.relkind NOT IN ('r', 'p') THEN 'It is not a table.'
        WHEN target.relpersistence = 't' THEN 'It is temporary, so only its own session can write it.'
        WHEN target.relpersistence = 'u' THEN 'It is unlogged: a crash of the server would empty it, and the offsets would say that it is full.'
        WHEN target.relforcerowsecurity THEN 'It has row security for its owner, too, so rows could be hidden from the projection.'
        WHEN target.oid < 16384 OR EXISTS (SELECT FROM pg_depend AS d
                                            WHERE d.classid = 'pg_class'::regclass AND d.objid = target.oid AND d.deptype = 'e')
            THEN 'It belongs to the system or an extension.' END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('%s cannot be the table of a projection', "table"),
            DETAIL = wrong,
            HINT = 'Create a table for it.';
    END IF;
    SELECT * INTO runs_as FROM pg_roles AS r WHERE r.oid = target.relowner;
    IF NOT runs_as.rolcanlogin AND current_setting('server_version_num')::integer < 170000 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_authorization_specification',
            MESSAGE = format('role "%s" cannot log in', runs_as.rolname),
            DETAIL = 'The worker of a projection is connected as the owner of the table. Before version 17, PostgreSQL demands that it may log in.',
            HINT = format('ALTER ROLE %I LOGIN, or let a role that can log in own the table.', runs_as.rolname);
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.require_projectable(regrole, regclass) IS
    'Raises an error unless the table can be filled by a projection, for this role.';

CREATE FUNCTION inbox.projection_key("table" regclass, given jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sources jsonb;
    names   text[];
BEGIN
    IF given IS NULL THEN
        given := (SELECT to_jsonb(array_agg(a.attname::text ORDER BY k.at))
                    FROM pg_index AS i CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, at)
                         JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                   WHERE i.indrelid = "table" AND i.indisprimary);
        IF given IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'undefined_object',
                MESSAGE = format('table %s has no primary key', "table"),
                DETAIL = 'A projection needs to know which columns identify a row.',
                HINT = 'Add a primary key, or name the columns of a unique index as key.';
        END IF;
    END IF;
    sources := inbox.column_sources('key', given, '@key');
    names := ARRAY(SELECT k.key FROM jsonb_each(sources) AS k ORDER BY k.key COLLATE "C");
    IF NOT EXISTS (SELECT FROM pg_index AS i
                    WHERE i.indrelid = "table" AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
                      AND names = ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                                         WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::smallint[])[0 : i.indnkeyatts - 1])
                                         ORDER BY a.attname COLLATE "C")) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('table %s has no unique index on its key', "table"),
            DETAIL = format('The key is (%s).', array_to_string(names, ', ')),
            HINT = 'Create a unique index on exactly these columns that is neither partial nor deferrable.';
    END IF;
    RETURN sources;
END
$$;
COMMENT ON FUNCTION inbox.projection_key(regclass, jsonb) IS 'Returns the columns of the key with their sources; an error if they cannot be one.';

CREATE FUNCTION inbox.projection_columns("table" regclass, key jsonb, given jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    sources jsonb;
    wrong   text;
BEGIN
    IF given IS NULL THEN
        RETURN NULL;
    END IF;
    sources := inbox.column_sources('columns', given, '$');
    SELECT CASE WHEN key ? c.name THEN format('Column "%s" is a part of the key.', c.name)
                WHEN a.attnum IS NULL THEN format('There is no column "%s".', c.name)
                ELSE format('Column "%s" is generated.', c.name) END
      INTO wrong
      FROM jsonb_object_keys(sources) AS c(name)
           LEFT JOIN pg_attribute AS a ON a.attrelid = "table" AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
     WHERE key ? c.name OR a.attnum IS NULL OR a.attgenerated <> '' OR a.attidentity = 'a'
     ORDER BY c.name LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_column',
            MESSAGE = format('invalid columns of table %s', "table"),
            DETAIL = wrong,
            HINT = 'Name columns that can be written and are not in the key.';
    END IF;
    RETURN sources;
END
$$;
COMMENT ON FUNCTION inbox.projection_columns(regclass, jsonb, jsonb) IS
    'Returns the columns besides the key with their sources; an error if they cannot be written.';

CREATE FUNCTION inbox.topic_ends(topic text, timeout interval) RETURNS bigint[]
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ends   bigint[];
    reason text;
BEGIN
    SELECT array_agg(o."offset" ORDER BY o.partition),
           min(concat('Partition ' || o.partition || ': ', coalesce(o.error, 'Kafka did not tell its end'))) FILTER (WHERE o."offset" IS NULL)
      INTO ends, reason
      FROM inbox.list_offsets(ARRAY[topic], NULL, '"latest"', timeout) AS o;
    IF ends IS NULL OR reason IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'connection_exception',
            MESSAGE = format('the end of topic "%s" is not known', topic),
            DETAIL = format('%s.', coalesce(rtrim(reason, '.'), 'It has no partitions')),
            HINT = 'Try again. SELECT * FROM inbox.check(); examines the brokers and the topics.';
    END IF;
    RETURN ends;
END
$$;
COMMENT ON FUNCTION inbox.topic_ends(text, interval) IS
    'Asks Kafka for the ends of a topic''s partitions, in their order; an error if one is not known.';

CREATE FUNCTION inbox.add_projection(
    caller regrole, name text, topic text, "table" regclass, format text, key jsonb, columns jsonb, rebuild_of integer, timeout interval
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + coalesce(timeout, '30 seconds');
    ends  bigint[];
BEGIN
    IF format = 'event' THEN
        PERFORM event_store.add_subscription(caller, name, ARRAY[topic], 'earliest', '0', 1, 'partition');
        ends := ARRAY[event_store.end_of(topic)];
    ELSE
        PERFORM inbox.subscribe_for(caller, name, ARRAY[topic], 'earliest', 'partition', '0', 1, 'stop', NULL, NULL, timeout);
        ends := inbox.topic_ends(topic, greatest(until - clock_timestamp(), '1 second'));
    END IF;
    INSERT INTO inbox.projection (subscription_id, "table", table_name, format, key, columns, ready_offsets, rebuild_of)
    SELECT s.id, add_projection."table", add_projection."table"::text, add_projection.format, add_projection.key, add_projection.columns, ends,
           add_projection.rebuild_of
      FROM inbox.subscription AS s WHERE s.name = add_projection.name;
END
$$;
COMMENT ON FUNCTION inbox.add_projection(regrole, text, text, regclass, text, jsonb, jsonb, integer, interval) IS
    'Creates the subscription and the projection. The topic is a category of the event store if the format is event.';

CREATE FUNCTION inbox.project_as(
    caller regrole, name text, topic text, "table" regclass, key jsonb, columns jsonb, format text, timeout interval
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    keys  jsonb;
    other text;
BEGIN
    PERFORM inbox.require_projectable(caller, "table");
    keys := inbox.projection_key("table", key);
    columns := inbox.projection_columns("table", keys, columns);
    SELECT s.name INTO other
      FROM inbox.projection AS p JOIN inbox.subscription AS s ON s.id = p.subscription_id WHERE p."table" = project_as."table";
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_object',
            MESSAGE = format('table %s has a projection already', "table"),
            DETAIL = format('It is "%s". Two topics cannot agree on the rows of one table.', other),
            HINT = format('SELECT inbox.unproject(%L); ends that one.', other);
    END IF;
    PERFORM inbox.add_projection(caller, name, topic, "table", project_as.format, keys, columns, NULL, timeout);
END
$$;
COMMENT ON FUNCTION inbox.project_as(regrole, text, text, regclass, jsonb, jsonb, text, interval) IS
    'Creates a projection of a topic, or, if the format is event, of a category of the event store.';

CREATE FUNCTION inbox.project_for(
    caller regrole, name text, topic text, "table" regclass, key jsonb, columns jsonb, format text, timeout interval
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (format IN ('json', 'capture')) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid format',
            DETAIL = format('It is %s.', coalesce(quote_literal(left(project_for.format, 100)), 'NULL')),
            HINT = 'Pass ''json'' if the value is the row, or ''capture'' if outbox.capture() writes the topic in the style fat.';
    END IF;
    PERFORM inbox.project_as(caller, name, topic, "table", key, columns, project_for.format, timeout);
END
$$;
COMMENT ON FUNCTION inbox.project_for(regrole, text, text, regclass, jsonb, jsonb, text, interval) IS 'Does the work of inbox.project() for the caller.';

CREATE FUNCTION inbox.project(
    name    text,
    topic   text,
    "table" regclass,
    key     jsonb    DEFAULT NULL,
    columns jsonb    DEFAULT NULL,
    format  text     DEFAULT 'json',
    timeout interval DEFAULT '30 seconds'
) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.project(text, text, regclass, jsonb, jsonb, text, interval) IS
    'Keeps the latest value of each key of a topic in a table, from the beginning of the topic on. A background worker writes the table, connected as its owner.';

-- Ends a subscription that is a projection, and drops the table of a rebuild.
CREATE FUNCTION inbox.end_projection(caller regrole, ended integer) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    gone inbox.projection;
    name text := (SELECT s.name FROM inbox.subscription AS s WHERE s.id = ended);
BEGIN
    -- Its process has lanes before it writes to the row of the projection.
    PERFORM inbox.lock_lanes(ended);
    DELETE FROM inbox.projection AS p WHERE p.subscription_id = ended RETURNING * INTO gone;
    PERFORM inbox.unsubscribe_for(caller, name);
    IF gone.rebuild_of IS NOT NULL AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = gone."table") THEN
        EXECUTE format('DROP TABLE %s', gone."table");
    END IF;
END
$$;
COMMENT ON FUNCTION inbox.end_projection(regrole, integer) IS 'Ends a projection. The table of a rebuild is dropped, any other stays.';

CREATE FUNCTION inbox.own_projection(caller regrole, name text) RETURNS inbox.subscription
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    own inbox.subscription := inbox.own_subscription(caller, name, true);
BEGIN
    IF NOT EXISTS (SELECT FROM inbox.projection AS p WHERE p.subscription_id = own.id) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'wrong_object_type',
            MESSAGE = format('"%s" is not a projection', name),
            DETAIL = 'It is a subscription that sessions receive from.',
            HINT = 'SELECT name FROM inbox.projections; shows the projections.';
    END IF;
    RETURN own;
END
$$;
COMMENT ON FUNCTION inbox.own_projection(regrole, text) IS
    'Returns the subscription of a projection, locked against each change; an error if it does not belong to the role.';

CREATE FUNCTION inbox.unproject_for(caller regrole, name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ended inbox.subscription;
BEGIN
    PERFORM inbox.lock_rebuild(caller, name);
    ended := inbox.own_projection(caller, name);
    PERFORM inbox.end_projection(caller, p.subscription_id) FROM inbox.projection AS p WHERE p.rebuild_of = ended.id;
    PERFORM inbox.end_projection(caller, ended.id);
END
$$;
COMMENT ON FUNCTION inbox.unproject_for(regrole, text) IS 'Does the work of inbox.unproject() for the caller.';

CREATE FUNCTION inbox.unproject(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'inbox_for_caller';
COMMENT ON FUNCTION inbox.unproject(text) IS
    'Ends a projection, with its dead letters and its rebuild. The table stays as it is.';
