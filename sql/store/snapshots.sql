-- Owns aggregates and the snapshots that spare them the reading of old events.

CREATE FUNCTION event_store.load_snapshot_for(
    caller regrole, stream text, reducer_version integer, OUT version bigint, OUT state jsonb
) RETURNS SETOF record
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp ROWS 1
    AS $$
BEGIN
    PERFORM event_store.require_grant(caller, event_store.category_of(stream), false);
    RETURN QUERY
        SELECT n.version, n.state FROM event_store.stream AS s JOIN event_store.snapshot AS n ON n.stream_id = s.id
         WHERE s.name = load_snapshot_for.stream AND n.reducer_version = load_snapshot_for.reducer_version;
END
$$;
COMMENT ON FUNCTION event_store.load_snapshot_for(regrole, text, integer) IS 'Does the work of event_store.load_snapshot() for the caller.';

CREATE FUNCTION event_store.load_snapshot(stream text, reducer_version integer DEFAULT 1, OUT version bigint, OUT state jsonb)
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.load_snapshot(text, integer) IS
    'Returns the newest snapshot of a stream by this version of the reducer; no row if there is none.';

CREATE FUNCTION event_store.save_snapshot_for(
    caller regrole, stream text, version bigint, state jsonb, reducer_version integer
) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    saved bigint;
BEGIN
    PERFORM event_store.require_grant(caller, event_store.category_of(stream), true);
    IF version IS NULL OR state IS NULL OR reducer_version IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'version, state and reducer_version must not be null',
            DETAIL = 'A snapshot is the state after the event with a version, by one version of a reducer.',
            HINT = 'Pass what event_store.aggregate() has returned.';
    END IF;
    -- KEY SHARE: an erasure waits, or is waited for; appends are not hindered.
    SELECT s.id INTO saved FROM event_store.stream AS s WHERE s.name = save_snapshot_for.stream FOR KEY SHARE;
    IF NOT EXISTS (SELECT FROM event_store.event AS e WHERE e.stream_id = saved AND e.version = save_snapshot_for.version) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('stream "%s" has no event with version %s', stream, version),
            DETAIL = 'A snapshot is the state after an event.',
            HINT = 'Pass the version that event_store.aggregate() has returned with the state.';
    END IF;
    INSERT INTO event_store.snapshot AS n (stream_id, reducer_version, version, state)
    VALUES (saved, save_snapshot_for.reducer_version, save_snapshot_for.version, save_snapshot_for.state)
        ON CONFLICT ON CONSTRAINT snapshot_pkey
        DO UPDATE SET version = excluded.version, state = excluded.state, saved_at = now() WHERE n.version < excluded.version;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION event_store.save_snapshot_for(regrole, text, bigint, jsonb, integer) IS
    'Does the work of event_store.save_snapshot() for the caller.';

CREATE FUNCTION event_store.save_snapshot(stream text, version bigint, state jsonb, reducer_version integer DEFAULT 1) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.save_snapshot(text, bigint, jsonb, integer) IS
    'Keeps the state of a stream at a version for event_store.aggregate(). Returns false if there is one as new already. It requires the right to append.';

CREATE FUNCTION event_store.aggregate(
    stream          text,
    reducer         regprocedure,
    initial         jsonb   DEFAULT '{}',
    reducer_version integer DEFAULT NULL,
    OUT version     bigint,
    OUT state       jsonb
) RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_aggregate';
COMMENT ON FUNCTION event_store.aggregate(text, regprocedure, jsonb, integer) IS
    'Returns the version of a stream and the state that the reducer makes of its events, one after the other. With a version of the reducer it begins with the snapshot of that version. The reducer runs with the rights of the caller.';
