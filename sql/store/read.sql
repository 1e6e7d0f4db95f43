-- Owns the functions that read events. A stream is read as it is: its order is that in which its events were committed. Who reads
-- across streams gets nothing beyond event_store.stable_position(), so that going on after the last position misses nothing.

CREATE FUNCTION event_store.find_stable_position() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_stable_position';
COMMENT ON FUNCTION event_store.find_stable_position() IS 'Does the work of event_store.stable_position().';

CREATE FUNCTION event_store.stable_position() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'a standby does not know which events are still to come',
            DETAIL = 'It does not see which transactions of the primary are appending.',
            HINT = 'Read across streams on the primary. event_store.read_stream() works here.';
    END IF;
    -- What was committed since an older snapshot was taken would be passed over.
    PERFORM event_store.require_read_committed('A read across streams');
    RETURN event_store.find_stable_position();
END
$$;
COMMENT ON FUNCTION event_store.stable_position() IS
    'Returns the position up to which everything is decided: no event will be committed at or below it any more. Ask in a statement of its own, before you read.';

CREATE FUNCTION event_store.check_page(low bigint, "limit" bigint, backwards boolean) RETURNS void
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF backwards IS NULL OR low < 0 OR "limit" < 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid part of the events',
            DETAIL = format('It begins at %s, the limit is %s, backwards is %s.', coalesce(low::text, 'NULL'),
                            coalesce("limit"::text, 'NULL'), coalesce(backwards::text, 'NULL')),
            HINT = 'Pass where to begin and a limit, neither negative, or NULL; and true or false for backwards.';
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.check_page(bigint, bigint, boolean) IS 'Raises an error unless these say which events to read.';

CREATE FUNCTION event_store.read_stream_for(caller regrole, stream text, "from" bigint, "limit" bigint, backwards boolean)
    RETURNS SETOF event_store.recorded_event
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off ROWS 100
    AS $$
DECLARE
    wanted bigint;
BEGIN
    PERFORM event_store.require_grant(caller, event_store.category_of(stream), false);
    PERFORM event_store.check_page("from", "limit", backwards);
    wanted := (SELECT s.id FROM event_store.stream AS s WHERE s.name = read_stream_for.stream);
    IF backwards THEN
        RETURN QUERY
            SELECT e.position, read_stream_for.stream, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id,
                   e.correlation_id, e.recorded_at
              FROM event_store.event AS e
             WHERE e.stream_id = wanted AND e.version <= coalesce("from", 9223372036854775807)
             ORDER BY e.version DESC LIMIT "limit";
    ELSE
        RETURN QUERY
            SELECT e.position, read_stream_for.stream, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id,
                   e.correlation_id, e.recorded_at
              FROM event_store.event AS e
             WHERE e.stream_id = wanted AND e.version >= coalesce("from", 1)
             ORDER BY e.version LIMIT "limit";
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.read_stream_for(regrole, text, bigint, bigint, boolean) IS
    'Does the work of event_store.read_stream() for the caller.';

CREATE FUNCTION event_store.read_stream(
    stream    text,
    "from"    bigint  DEFAULT NULL,
    "limit"   bigint  DEFAULT NULL,
    backwards boolean DEFAULT false
) RETURNS SETOF event_store.recorded_event
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.read_stream(text, bigint, bigint, boolean) IS
    'Returns events of a stream, from a version on, forwards or backwards. None if there is no such stream.';

CREATE FUNCTION event_store.read_category_for(caller regrole, category text, after bigint, "limit" bigint, backwards boolean)
    RETURNS SETOF event_store.recorded_event
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off ROWS 1000
    AS $$
DECLARE
    stable CONSTANT bigint := event_store.stable_position();
BEGIN
    PERFORM event_store.require_category(category);
    PERFORM event_store.require_grant(caller, category, false);
    PERFORM event_store.check_page(after, "limit", backwards);
    IF backwards THEN
        RETURN QUERY
            SELECT e.position, s.name, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id, e.correlation_id, e.recorded_at
              FROM (SELECT * FROM event_store.event AS e
                     WHERE e.category = read_category_for.category AND e.position <= stable
                       AND e.position < coalesce(after, 9223372036854775807)
                     ORDER BY e.position DESC LIMIT "limit") AS e
                   JOIN event_store.stream AS s ON s.id = e.stream_id
             ORDER BY e.position DESC;
    ELSE
        RETURN QUERY
            SELECT e.position, s.name, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id, e.correlation_id, e.recorded_at
              FROM (SELECT * FROM event_store.event AS e
                     WHERE e.category = read_category_for.category AND e.position <= stable AND e.position > coalesce(after, 0)
                     ORDER BY e.position LIMIT "limit") AS e
                   JOIN event_store.stream AS s ON s.id = e.stream_id
             ORDER BY e.position;
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.read_category_for(regrole, text, bigint, bigint, boolean) IS
    'Does the work of event_store.read_category() for the caller.';

CREATE FUNCTION event_store.read_category(
    category  text,
    after     bigint  DEFAULT NULL,
    "limit"   bigint  DEFAULT 1000,
    backwards boolean DEFAULT false
) RETURNS SETOF event_store.recorded_event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.read_category(text, bigint, bigint, boolean) IS
    'Returns events of all streams of a category after a position, or before it if backwards. Going on after the last position misses no event.';

CREATE FUNCTION event_store.read_all_for(caller regrole, after bigint, "limit" bigint, backwards boolean)
    RETURNS SETOF event_store.recorded_event
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off ROWS 1000
    AS $$
DECLARE
    stable CONSTANT bigint := event_store.stable_position();
BEGIN
    PERFORM event_store.require_grant(caller, '*', false);
    PERFORM event_store.check_page(after, "limit", backwards);
    IF backwards THEN
        RETURN QUERY
            SELECT e.position, s.name, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id, e.correlation_id, e.recorded_at
              FROM (SELECT * FROM event_store.event AS e
                     WHERE e.position <= stable AND e.position < coalesce(after, 9223372036854775807)
                     ORDER BY e.position DESC LIMIT "limit") AS e
                   JOIN event_store.stream AS s ON s.id = e.stream_id
             ORDER BY e.position DESC;
    ELSE
        RETURN QUERY
            SELECT e.position, s.name, e.version, e.event_id, e.type, e.data, e.metadata, e.causation_id, e.correlation_id, e.recorded_at
              FROM (SELECT * FROM event_store.event AS e
                     WHERE e.position <= stable AND e.position > coalesce(after, 0)
                     ORDER BY e.position LIMIT "limit") AS e
                   JOIN event_store.stream AS s ON s.id = e.stream_id
             ORDER BY e.position;
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.read_all_for(regrole, bigint, bigint, boolean) IS
    'Does the work of event_store.read_all() for the caller.';

CREATE FUNCTION event_store.read_all(
    after     bigint  DEFAULT NULL,
    "limit"   bigint  DEFAULT 1000,
    backwards boolean DEFAULT false
) RETURNS SETOF event_store.recorded_event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.read_all(bigint, bigint, boolean) IS
    'Returns events of all streams after a position, or before it if backwards. Going on after the last position misses no event. It requires a grant of all categories.';

CREATE FUNCTION event_store.stream_version_for(caller regrole, stream text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
    AS $$
BEGIN
    PERFORM event_store.require_grant(caller, event_store.category_of(stream), false);
    RETURN coalesce((SELECT max(e.version) FROM event_store.event AS e
                      WHERE e.stream_id = (SELECT s.id FROM event_store.stream AS s WHERE s.name = stream_version_for.stream)), 0);
END
$$;
COMMENT ON FUNCTION event_store.stream_version_for(regrole, text) IS 'Does the work of event_store.stream_version() for the caller.';

CREATE FUNCTION event_store.stream_version(stream text) RETURNS bigint
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.stream_version(text) IS 'Returns the version of a stream: that of its last event; 0 if it has none.';
