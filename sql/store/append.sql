-- Owns append(), its errors, and what ends streams. append() acts as the owner of the tables, so an application needs the right to
-- call it and a grant of the category; it is not SECURITY DEFINER, because the caller's grants apply. The work is in
-- src/store/append.rs.

CREATE FUNCTION event_store.append(
    stream         text,
    expected       text,
    events         jsonb,
    command_id     text DEFAULT NULL,
    emit           text DEFAULT NULL,
    causation_id   uuid DEFAULT NULL,
    correlation_id uuid DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_append';
COMMENT ON FUNCTION event_store.append(text, text, jsonb, text, text, uuid, uuid) IS
    'Appends events to a stream that is as expected: any, no_stream, stream_exists or a version. Returns the version of the last of them. SQLSTATE OE001 if the stream is not as expected.';

CREATE FUNCTION event_store.append(
    stream         text,
    expected       bigint,
    events         jsonb,
    command_id     text DEFAULT NULL,
    emit           text DEFAULT NULL,
    causation_id   uuid DEFAULT NULL,
    correlation_id uuid DEFAULT NULL
) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_append_at';
COMMENT ON FUNCTION event_store.append(text, bigint, jsonb, text, text, uuid, uuid) IS
    'Appends events to a stream whose last event has this version; 0 for a stream without events. It requires only the right to call the form for words.';

CREATE FUNCTION event_store.command_version_for(caller regrole, stream text, command_id text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM event_store.require_grant(caller, event_store.category_of(stream), false);
    RETURN (SELECT c.version FROM event_store.stream AS s JOIN event_store.command AS c ON c.stream_id = s.id
             WHERE s.name = command_version_for.stream AND c.command_id = command_version_for.command_id);
END
$$;
COMMENT ON FUNCTION event_store.command_version_for(regrole, text, text) IS 'Does the work of event_store.command_version() for the caller.';

CREATE FUNCTION event_store.command_version(stream text, command_id text) RETURNS bigint
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.command_version(text, text) IS
    'Returns the version that event_store.append() has returned for this command; NULL if it was not handled in this stream.';

CREATE FUNCTION event_store.forget_commands(older_than interval) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    forgotten bigint;
BEGIN
    IF (older_than >= interval '0' AND isfinite(older_than)) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid age of commands',
            DETAIL = format('It is %s.', coalesce(older_than::text, 'NULL')),
            HINT = 'Pass an interval, such as ''30 days''. Commands that may still be retried must not be forgotten.';
    END IF;
    PERFORM outbox.act_as_owner('event_store.command');
    DELETE FROM event_store.command AS c WHERE c.handled_at < now() - older_than;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION event_store.forget_commands(interval) IS
    'Forgets the commands that were handled longer ago than this; returns how many. One that is retried afterwards counts as new.';

CREATE FUNCTION event_store.require_read_committed(what text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_transaction_state',
            MESSAGE = format('%s cannot run in a transaction that is %s', what, current_setting('transaction_isolation')),
            DETAIL = 'It must see what other transactions have committed meanwhile.',
            HINT = 'Call it in a READ COMMITTED transaction.';
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.require_read_committed(text) IS 'Raises an error unless each statement sees what is committed.';

CREATE FUNCTION event_store.lock_stream(stream text) RETURNS event_store.stream
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    locked event_store.stream;
BEGIN
    PERFORM event_store.category_of(stream);
    SELECT s.* INTO locked FROM event_store.stream AS s WHERE s.name = lock_stream.stream FOR NO KEY UPDATE;
    IF locked.id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_object',
            MESSAGE = format('stream "%s" does not exist', stream),
            DETAIL = 'No event was ever appended to it.',
            HINT = 'SELECT stream FROM event_store.streams; shows the streams.';
    END IF;
    RETURN locked;
END
$$;
COMMENT ON FUNCTION event_store.lock_stream(text) IS 'Returns a stream, locked until the end of the transaction; an error if there is none.';

CREATE FUNCTION event_store.end_stream(caller regrole, stream text, what text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ended event_store.stream;
BEGIN
    PERFORM event_store.require_administrator(caller, what);
    PERFORM event_store.require_read_committed(what);
    ended := event_store.lock_stream(stream);
    UPDATE event_store.stream AS s SET tombstoned_at = clock_timestamp() WHERE s.id = ended.id AND s.tombstoned_at IS NULL;
    RETURN ended.id;
END
$$;
COMMENT ON FUNCTION event_store.end_stream(regrole, text, text) IS
    'Locks a stream and ends it, for an administrator; returns its id.';

CREATE FUNCTION event_store.tombstone_for(caller regrole, stream text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ended CONSTANT bigint := event_store.end_stream(caller, stream, 'event_store.tombstone()');
BEGIN
    RETURN coalesce((SELECT max(e.version) FROM event_store.event AS e WHERE e.stream_id = ended), 0);
END
$$;
COMMENT ON FUNCTION event_store.tombstone_for(regrole, text) IS 'Does the work of event_store.tombstone() for the caller.';

CREATE FUNCTION event_store.tombstone(stream text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.tombstone(text) IS
    'Ends a stream: nothing can be appended to it any more; its events can be read. Returns its version. Only for administrators.';

CREATE FUNCTION event_store.erase_for(caller regrole, stream text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    erased CONSTANT bigint := event_store.end_stream(caller, stream, 'event_store.erase()');
    events bigint;
BEGIN
    DELETE FROM event_store.snapshot AS n WHERE n.stream_id = erased;
    DELETE FROM event_store.command AS c WHERE c.stream_id = erased;
    DELETE FROM event_store.event AS e WHERE e.stream_id = erased;
    GET DIAGNOSTICS events = ROW_COUNT;
    RETURN events;
END
$$;
COMMENT ON FUNCTION event_store.erase_for(regrole, text) IS 'Does the work of event_store.erase() for the caller.';

CREATE FUNCTION event_store.erase(stream text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'event_store_for_caller';
COMMENT ON FUNCTION event_store.erase(text) IS
    'Deletes the events, snapshots and commands of a stream for good, and ends it; returns how many events. What was published, or stored in the inbox, is elsewhere. Only for administrators.';
