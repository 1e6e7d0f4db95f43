-- Nothing is open until an administrator grants it. An application needs
--   GRANT USAGE ON SCHEMA outbox TO app;
--   GRANT EXECUTE ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) TO app;

-- New objects have no privileges yet, not even empty ones. An update therefore closes what it created, and leaves
-- alone what an administrator granted or revoked before.
DO $always$
DECLARE
    -- Called with the rights of roles that an administrator has granted something else: the tables' defaults and checks,
    -- what the views and the triggers call, and the forms of emit() that call the one that is granted. None shows or
    -- changes anything by itself; relay_status() and relay_delivery() require the right to read outbox.status, or
    -- outbox.relays for another database, consumer_status() that to read inbox.consumers, and cancel() that to emit.
    for_all CONSTANT pg_catalog.regprocedure[] := ARRAY[
        'outbox.uuid_v7()', 'outbox.channel(text)', 'outbox.readable(bytea)', 'inbox.channel(text)',
        'inbox.consumer_status(oid)',
        'outbox.is_topic_name(text)', 'outbox.is_topic_pattern(text)', 'outbox.relay_status(oid)',
        'outbox.relay_delivery(oid)', 'outbox.schema_registry()',
        'outbox.log_missing_copy(uuid, text, text, text)', 'outbox.capture_definition(bytea)',
        'outbox.emit(text, jsonb, outbox.as_text, text, jsonb, uuid, integer)',
        'outbox.emit(character varying, jsonb, text, text, jsonb, uuid, integer, timestamptz, timestamptz, text, text, text)',
        'outbox.emit(outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint, outbox.event_time, outbox.event_time, outbox.as_text, outbox.as_text, outbox.as_text)',
        'outbox.emit_bytes(character varying, bytea, bytea, text, jsonb, uuid, integer, text, timestamptz, timestamptz, text, text, text)',
        'outbox.emit_bytes(outbox.topic_name, bytea, outbox.as_text, text, jsonb, uuid, integer, text, outbox.event_time, outbox.event_time, outbox.topic_name, outbox.topic_name, outbox.topic_name)',
        'outbox.emit_bytes(outbox.topic_name, bytea, bytea, text, outbox.as_text, outbox.as_text, bigint, text, outbox.event_time, outbox.event_time, outbox.as_text, outbox.as_text, outbox.as_text)',
        'outbox.cancel(uuid)',
        'outbox.try_emit(outbox.as_text, outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint)',
        'outbox.as_text_in(cstring)', 'outbox.as_text_out(outbox.as_text)', 'outbox.as_text_recv(internal)',
        'outbox.as_text_send(outbox.as_text)', 'outbox.as_text(character)'
    ]::pg_catalog.regprocedure[];
    created record;
BEGIN
    FOR created IN
        SELECT p.oid::pg_catalog.regprocedure AS name, p.oid OPERATOR(pg_catalog.=) ANY (for_all) AS is_for_all
          FROM pg_catalog.pg_extension AS e
          JOIN pg_catalog.pg_depend AS d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                                        AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
          JOIN pg_catalog.pg_proc AS p ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
                                      AND d.objid OPERATOR(pg_catalog.=) p.oid
         WHERE e.extname OPERATOR(pg_catalog.=) 'event_outbox' AND p.proacl IS NULL
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', created.name);
        IF created.is_for_all THEN
            EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', created.name);
        END IF;
    END LOOP;
    FOR created IN
        SELECT c.oid::pg_catalog.regclass AS name
          FROM pg_catalog.pg_extension AS e
          JOIN pg_catalog.pg_depend AS d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                                        AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
          JOIN pg_catalog.pg_class AS c ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                                       AND d.objid OPERATOR(pg_catalog.=) c.oid
         WHERE e.extname OPERATOR(pg_catalog.=) 'event_outbox' AND c.relacl IS NULL
           AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'v']::pg_catalog."char"[])
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON TABLE %s FROM PUBLIC', created.name);
    END LOOP;
END
$always$;
