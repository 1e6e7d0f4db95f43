-- The way in. Each acts as the owner of the table, so that the right to emit is all an application needs: the table
-- itself stays closed to it. They are not SECURITY DEFINER, since they have to know whose topics count
-- (src/pg/acting.rs). They name every object in full and use no operator.

CREATE FUNCTION outbox.emit(
    topic      text,
    payload    jsonb,
    key        text DEFAULT NULL,
    event_type text DEFAULT NULL,
    headers    jsonb DEFAULT NULL,
    event_id   uuid DEFAULT NULL,
    partition  integer DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'outbox_emit';
COMMENT ON FUNCTION outbox.emit(text, jsonb, text, text, jsonb, uuid, integer) IS
    'Stores an event with a JSON payload in the current transaction, and returns its event_id. It is published if and only if the transaction commits.';

CREATE FUNCTION outbox.emit_bytes(
    topic        text,
    payload      bytea,
    key          bytea DEFAULT NULL,
    event_type   text DEFAULT NULL,
    headers      jsonb DEFAULT NULL,
    event_id     uuid DEFAULT NULL,
    partition    integer DEFAULT NULL,
    content_type text DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'outbox_emit_bytes';
COMMENT ON FUNCTION outbox.emit_bytes(text, bytea, bytea, text, jsonb, uuid, integer, text) IS
    'Stores an event with a binary payload (Protobuf, Avro and the like) in the current transaction, and returns its event_id.';
