-- Owns the registration of schemas and the binding of topics. What is checked by compiling is in src/schemas/functions.rs.

CREATE FUNCTION outbox.check_schema(format text, definition text) RETURNS void
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_check_schema';
COMMENT ON FUNCTION outbox.check_schema(text, text) IS 'Raises an error unless the definition is one of the format.';

CREATE FUNCTION outbox.check_schema_version(format text, definition text, compatibility text, older text, version integer, subject text) RETURNS void
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_check_schema_version';
COMMENT ON FUNCTION outbox.check_schema_version(text, text, text, text, integer, text) IS
    'Raises an error unless the definition is compatible with an older version.';

CREATE FUNCTION outbox.check_schema_message(format text, definition text, message text) RETURNS void
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_check_schema_message';
COMMENT ON FUNCTION outbox.check_schema_message(text, text, text) IS 'Raises an error unless the definition has the message.';

CREATE FUNCTION outbox.resolve_schema(format text, definition text, refers_to text) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_resolve_schema';
COMMENT ON FUNCTION outbox.resolve_schema(text, text, text) IS
    'Returns one definition of a schema and those that it refers to.';

CREATE FUNCTION outbox.check_references(refers_to jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    reference jsonb;
    found integer;
    checked jsonb := '[]';
BEGIN
    IF jsonb_typeof(refers_to) <> 'array' OR jsonb_array_length(refers_to) > 100
       OR EXISTS (SELECT FROM jsonb_array_elements(refers_to) AS e (reference)
                   WHERE jsonb_typeof(e.reference) <> 'object'
                      OR jsonb_typeof(e.reference -> 'name') IS DISTINCT FROM 'string'
                      OR jsonb_typeof(e.reference -> 'subject') IS DISTINCT FROM 'string'
                      OR coalesce(e.reference ->> 'version', '-1') !~ '^(-1|[0-9]{1,9})$') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid references of a schema',
            DETAIL = format('They are %s.', left(refers_to::text, 200)),
            HINT = 'Pass an array of at most 100 objects such as {"name": "customer.json", "subject": "customer", "version": 1}. Without a version, it is the latest one.';
    END IF;
    FOR reference IN SELECT e.reference FROM jsonb_array_elements(refers_to) AS e (reference) LOOP
        SELECT max(v.version) INTO found FROM outbox.schema_version AS v
         WHERE v.subject = reference ->> 'subject'
           AND coalesce(reference ->> 'version', '-1') IN ('-1', v.version::text);
        IF found IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'undefined_object',
                MESSAGE = CASE WHEN EXISTS (SELECT FROM outbox.schema_version AS v WHERE v.subject = reference ->> 'subject')
                               THEN format('subject "%s" has no version %s', reference ->> 'subject', reference ->> 'version')
                               ELSE format('subject "%s" does not exist', reference ->> 'subject') END,
                DETAIL = format('The schema refers to it as "%s".', reference ->> 'name'),
                HINT = 'See outbox.schemas, or register the schemas first that others refer to.';
        END IF;
        checked := checked || jsonb_build_object('name', reference ->> 'name', 'subject', reference ->> 'subject', 'version', found);
    END LOOP;
    RETURN nullif(checked, '[]');
END
$$;
COMMENT ON FUNCTION outbox.check_references(jsonb) IS
    'Raises an error unless there are these versions of subjects; returns them with their numbers, or NULL if there are none.';

CREATE FUNCTION outbox.register_schema(
    subject       text,
    format        text,
    definition    text,
    compatibility text DEFAULT NULL,
    refers_to     jsonb DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    known record;
    found integer;
    older record;
    level text;
    others jsonb;
    whole text := definition;
BEGIN
    IF subject IS NULL OR format IS NULL OR definition IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'subject, format and definition must not be null',
            DETAIL = 'A schema is a definition in a format, and a version of a subject.',
            HINT = 'Pass a name such as ''orders-value'', one of json, avro and protobuf, and the schema''s text.';
    END IF;
    IF octet_length(subject) NOT BETWEEN 1 AND 500 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid subject',
            DETAIL = format('The name has %s bytes.', octet_length(subject)),
            HINT = 'Pass a name of 1 to 500 bytes.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.schema_subject');
    others := outbox.check_references(refers_to);
    IF others IS NOT NULL THEN
        whole := outbox.resolve_schema(register_schema.format, definition, others::text);
    END IF;
    PERFORM outbox.check_schema(register_schema.format, whole);

    -- One at a time, because each version is compared with those before it.
    LOCK TABLE outbox.schema_subject IN SHARE ROW EXCLUSIVE MODE;
    -- Somebody may have removed them meanwhile.
    PERFORM outbox.check_references(others);
    SELECT s.* INTO known FROM outbox.schema_subject AS s WHERE s.subject = register_schema.subject;
    level := coalesce(compatibility, known.compatibility, 'backward');
    IF known.subject IS NOT NULL AND known.format <> register_schema.format THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('subject "%s" has schemas of format %s', subject, known.format),
            DETAIL = 'All versions of a subject have the same format.',
            HINT = 'Register the schema under another subject.';
    END IF;
    -- Also checks the level.
    PERFORM outbox.check_schema_version(register_schema.format, whole, level, whole, 0, subject);
    IF known.subject IS NULL THEN
        INSERT INTO outbox.schema_subject (subject, format, compatibility)
            VALUES (register_schema.subject, register_schema.format, level);
    ELSIF compatibility IS NOT NULL THEN
        UPDATE outbox.schema_subject AS s SET compatibility = level WHERE s.subject = register_schema.subject;
    END IF;

    INSERT INTO outbox.schema_definition (format, definition, fingerprint)
        VALUES (register_schema.format, whole, outbox.schema_fingerprint(register_schema.format, whole))
        ON CONFLICT (fingerprint) DO NOTHING;
    SELECT d.id INTO found FROM outbox.schema_definition AS d
     WHERE d.fingerprint = outbox.schema_fingerprint(register_schema.format, whole);
    IF EXISTS (SELECT FROM outbox.schema_version AS v WHERE v.subject = register_schema.subject AND v.schema_id = found) THEN
        RETURN found;
    END IF;
    IF level <> 'none' THEN
        FOR older IN
            SELECT v.version, d.definition
              FROM outbox.schema_version AS v JOIN outbox.schema_definition AS d ON d.id = v.schema_id
             WHERE v.subject = register_schema.subject
             ORDER BY v.version DESC
             LIMIT CASE WHEN level LIKE '%\_transitive' THEN NULL ELSE 1 END
        LOOP
            PERFORM outbox.check_schema_version(register_schema.format, whole, level, older.definition, older.version, subject);
        END LOOP;
    END IF;
    UPDATE outbox.schema_subject AS s SET last_version = last_version + 1 WHERE s.subject = register_schema.subject;
    INSERT INTO outbox.schema_version (subject, version, schema_id, source, refers_to)
    SELECT s.subject, s.last_version, found, CASE WHEN others IS NOT NULL THEN register_schema.definition END, others
      FROM outbox.schema_subject AS s WHERE s.subject = register_schema.subject;
    RETURN found;
END
$$;
COMMENT ON FUNCTION outbox.register_schema(text, text, text, text, jsonb) IS
    'Registers a schema as the next version of a subject and returns its id. The compatibility says what the next versions must be compatible with; NULL keeps it, and is backward for a new subject. The last argument names the registered schemas that it refers to.';

CREATE FUNCTION outbox.unregister_schema(subject text, version integer DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    removed bigint;
    referrer record;
BEGIN
    PERFORM outbox.act_as_owner('outbox.schema_subject');
    LOCK TABLE outbox.schema_subject IN SHARE ROW EXCLUSIVE MODE;
    SELECT v.subject, v.version INTO referrer
      FROM outbox.schema_version AS v CROSS JOIN LATERAL jsonb_array_elements(v.refers_to) AS r (reference)
     WHERE r.reference ->> 'subject' = unregister_schema.subject
       AND (unregister_schema.version IS NULL AND v.subject <> unregister_schema.subject
            OR r.reference ->> 'version' = unregister_schema.version::text)
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('version %s of subject "%s" refers to it', referrer.version, referrer.subject),
            DETAIL = 'That schema could not be registered anywhere else any more.',
            HINT = 'See refers_to in outbox.schemas, and call outbox.unregister_schema() for that one first.';
    END IF;
    DELETE FROM outbox.schema_version AS v
     WHERE v.subject = unregister_schema.subject
       AND (unregister_schema.version IS NULL OR v.version = unregister_schema.version)
       AND NOT EXISTS (SELECT FROM outbox.schema_binding AS b WHERE b.subject = v.subject AND b.version = v.version);
    GET DIAGNOSTICS removed = ROW_COUNT;
    IF EXISTS (SELECT FROM outbox.schema_binding AS b
                WHERE b.subject = unregister_schema.subject
                  AND (b.version = unregister_schema.version OR unregister_schema.version IS NULL
                       OR NOT EXISTS (SELECT FROM outbox.schema_version AS v WHERE v.subject = b.subject))) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('subject "%s" is bound to a topic', subject),
            DETAIL = 'Events of that topic could not be encoded any more.',
            HINT = 'See outbox.schema_bindings, and call outbox.unbind_schema() first.';
    END IF;
    DELETE FROM outbox.schema_subject AS s
     WHERE s.subject = unregister_schema.subject
       AND NOT EXISTS (SELECT FROM outbox.schema_version AS v WHERE v.subject = s.subject);
    RETURN removed;
END
$$;
COMMENT ON FUNCTION outbox.unregister_schema(text, integer) IS
    'Removes a version of a subject, or the subject with all versions; returns how many. What was written with them can still be decoded.';

CREATE FUNCTION outbox.bind_schema(
    topic       text,
    event_type  text,
    subject     text,
    version     integer DEFAULT NULL,
    message     text DEFAULT NULL,
    wire_format text DEFAULT 'confluent'
) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    used record;
BEGIN
    IF topic IS NULL OR NOT outbox.is_topic_pattern(topic) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_name',
            MESSAGE = 'invalid topic pattern',
            DETAIL = format('No valid topic name matches "%s".', topic),
            HINT = 'Pass a topic name, or a prefix and an asterisk, such as ''orders.*''.';
    END IF;
    IF wire_format IS NULL OR wire_format NOT IN ('confluent', 'plain') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'invalid wire format',
            DETAIL = format('The wire format is %s.', coalesce('"' || wire_format || '"', 'NULL')),
            HINT = 'Pass confluent, which has the schema''s id before each payload, or plain.';
    END IF;
    IF subject IS NULL AND (version IS NOT NULL OR message IS NOT NULL) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'null_value_not_allowed',
            MESSAGE = 'subject must not be null with a version or a message',
            DETAIL = 'Both belong to a subject.',
            HINT = 'Pass the subject, or NULL for all three to let these events pass unchecked.';
    END IF;
    PERFORM outbox.act_as_owner('outbox.schema_binding');
    LOCK TABLE outbox.schema_subject IN SHARE ROW EXCLUSIVE MODE;
    IF subject IS NOT NULL THEN
        SELECT d.format, d.definition INTO used
          FROM outbox.schema_version AS v JOIN outbox.schema_definition AS d ON d.id = v.schema_id
         WHERE v.subject = bind_schema.subject AND (bind_schema.version IS NULL OR v.version = bind_schema.version)
         ORDER BY v.version DESC LIMIT 1;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING
                ERRCODE = 'undefined_object',
                MESSAGE = CASE WHEN version IS NULL THEN format('subject "%s" does not exist', subject)
                               ELSE format('subject "%s" has no version %s', subject, version) END,
                DETAIL = 'Topics are bound to schemas that are registered.',
                HINT = 'See outbox.schemas, or call outbox.register_schema() first.';
        END IF;
        PERFORM outbox.check_schema_message(used.format, used.definition, bind_schema.message);
    END IF;
    INSERT INTO outbox.schema_binding AS b (topic, event_type, subject, version, message, wire_format)
        VALUES (bind_schema.topic, coalesce(bind_schema.event_type, ''), bind_schema.subject, bind_schema.version,
                bind_schema.message, bind_schema.wire_format)
        ON CONFLICT ON CONSTRAINT schema_binding_pkey DO UPDATE
        SET subject = excluded.subject, version = excluded.version, message = excluded.message,
            wire_format = excluded.wire_format;
END
$$;
COMMENT ON FUNCTION outbox.bind_schema(text, text, text, integer, text, text) IS
    'Binds the events of a topic, or of all topics with a prefix followed by an asterisk, to a subject: those of a type, or with NULL of all types. Their payloads are then checked and encoded. A NULL as subject lets them pass.';

CREATE FUNCTION outbox.unbind_schema(topic text, event_type text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM outbox.act_as_owner('outbox.schema_binding');
    DELETE FROM outbox.schema_binding AS b
     WHERE b.topic = unbind_schema.topic AND b.event_type = coalesce(unbind_schema.event_type, '');
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION outbox.unbind_schema(text, text) IS
    'Removes the binding of exactly this topic, or prefix, and type. Returns whether there was one.';
