-- Owns emit() and emit_bytes(). They act as the owner of the table, so an application needs only the right to call them,
-- and no right to the table. They are not SECURITY DEFINER, because the caller's topic grants apply
-- (src/pg/user_context.rs). They qualify every name and use no operator.
--
-- The first forms are as they were in the first release: grants name them, in dumps too. Later arguments are those of
-- further forms.

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
    'Stores an event with a JSON payload in the current transaction and returns its event_id. The event is published if and only if the transaction commits.';

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
    'Stores an event with a binary payload, such as Protobuf or Avro, in the current transaction and returns its event_id.';

-- Callers and drivers do not always pass jsonb, text and uuid: a trigger has row_to_json() and a bigint, and JDBC sends
-- every string as varchar and every long as bigint. So each function has a second form that accepts more types. PostgreSQL
-- prefers the first form wherever it fits. Drivers that ask the server for parameter types are told jsonb and uuid, which
-- they can encode. This relies on how PostgreSQL resolves overloaded functions:
--   * nobody passes the types of the second forms, so a second form is never an exact match;
--   * for an argument of unknown type, text is preferred to outbox.topic_name, which is in the same category; for all
--     other arguments both forms have types of one category, so these do not decide.
-- The second forms are SQL functions that call the first: they are inlined, and need only the right to call the first.
--
-- Arguments that came later are those of a form whose topic is a varchar, which every driver knows: the first form is
-- preferred to it, but for a topic that is a varchar, for which both do the same. It checks the right to call the first form
-- itself. The most general form has those arguments as well, each with a type that loses against that of this form.

CREATE DOMAIN outbox.topic_name AS text;
COMMENT ON DOMAIN outbox.topic_name IS 'A topic name in the forms of outbox.emit() that accept further types. PostgreSQL prefers text to it.';

CREATE DOMAIN outbox.event_time AS timestamptz;
COMMENT ON DOMAIN outbox.event_time IS 'A time in the forms of outbox.emit() that accept further types. PostgreSQL prefers timestamptz to it.';

CREATE TYPE outbox.as_text;
COMMENT ON TYPE outbox.as_text IS 'A value of any type, as text: what outbox.emit() accepts for keys, documents and event ids.';
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
COMMENT ON FUNCTION outbox.as_text_in(cstring) IS 'Input function of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text_out(outbox.as_text) IS 'Output function of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text_recv(internal) IS 'Binary input function of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text_send(outbox.as_text) IS 'Binary output function of outbox.as_text.';
COMMENT ON FUNCTION outbox.as_text(character) IS 'Converts character to outbox.as_text, without trailing blanks.';

-- Implicit only to the extension's own type, so the casts change no statement that does not use it.
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
COMMENT ON CAST (text AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (character varying AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (json AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (character AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (name AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (jsonb AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (uuid AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (smallint AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (integer AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (bigint AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (numeric AS outbox.as_text) IS 'For the forms of outbox.emit() that accept further types.';
COMMENT ON CAST (outbox.as_text AS text) IS 'For the forms of outbox.emit() that accept further types.';

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
    'Like the form with a text key, for a key that is a number or a UUID.';

CREATE FUNCTION outbox.emit(
    topic           character varying,
    payload         jsonb,
    key             text DEFAULT NULL,
    event_type      text DEFAULT NULL,
    headers         jsonb DEFAULT NULL,
    event_id        uuid DEFAULT NULL,
    partition       integer DEFAULT NULL,
    deliver_at      timestamptz DEFAULT NULL,
    expires_at      timestamptz DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    traceparent     text DEFAULT NULL,
    tracestate      text DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'outbox_emit_further';
COMMENT ON FUNCTION outbox.emit(character varying, jsonb, text, text, jsonb, uuid, integer, timestamptz, timestamptz, text, text, text) IS
    'Like the form with a text topic, with further arguments. It requires only the right to call that form.';

CREATE FUNCTION outbox.emit(
    topic           outbox.topic_name,
    payload         outbox.as_text,
    key             outbox.as_text DEFAULT NULL,
    event_type      text DEFAULT NULL,
    headers         outbox.as_text DEFAULT NULL,
    event_id        outbox.as_text DEFAULT NULL,
    partition       bigint DEFAULT NULL,
    deliver_at      outbox.event_time DEFAULT NULL,
    expires_at      outbox.event_time DEFAULT NULL,
    idempotency_key outbox.as_text DEFAULT NULL,
    traceparent     outbox.as_text DEFAULT NULL,
    tracestate      outbox.as_text DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit(topic::varchar, payload::text::jsonb, key::text, event_type, headers::text::jsonb,
                       event_id::text::uuid, partition::integer, deliver_at, expires_at, idempotency_key::text,
                       traceparent::text, tracestate::text);
COMMENT ON FUNCTION outbox.emit(outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint, outbox.event_time, outbox.event_time, outbox.as_text, outbox.as_text, outbox.as_text) IS
    'Like the form with a jsonb payload, for other types, such as json or a driver''s strings and longs. It requires only the right to call that form.';

CREATE FUNCTION outbox.emit_bytes(
    topic           character varying,
    payload         bytea,
    key             bytea DEFAULT NULL,
    event_type      text DEFAULT NULL,
    headers         jsonb DEFAULT NULL,
    event_id        uuid DEFAULT NULL,
    partition       integer DEFAULT NULL,
    content_type    text DEFAULT NULL,
    deliver_at      timestamptz DEFAULT NULL,
    expires_at      timestamptz DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    traceparent     text DEFAULT NULL,
    tracestate      text DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'outbox_emit_bytes_further';
COMMENT ON FUNCTION outbox.emit_bytes(character varying, bytea, bytea, text, jsonb, uuid, integer, text, timestamptz, timestamptz, text, text, text) IS
    'Like the form with a text topic, with further arguments. It requires only the right to call that form.';

CREATE FUNCTION outbox.emit_bytes(
    topic           outbox.topic_name,
    payload         bytea,
    key             outbox.as_text,
    event_type      text DEFAULT NULL,
    headers         jsonb DEFAULT NULL,
    event_id        uuid DEFAULT NULL,
    partition       integer DEFAULT NULL,
    content_type    text DEFAULT NULL,
    deliver_at      outbox.event_time DEFAULT NULL,
    expires_at      outbox.event_time DEFAULT NULL,
    idempotency_key outbox.topic_name DEFAULT NULL,
    traceparent     outbox.topic_name DEFAULT NULL,
    tracestate      outbox.topic_name DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit_bytes(topic::varchar, payload, pg_catalog.convert_to(key::text, 'UTF8'), event_type, headers, event_id,
                             partition, content_type, deliver_at, expires_at, idempotency_key::text,
                       traceparent::text, tracestate::text);
COMMENT ON FUNCTION outbox.emit_bytes(outbox.topic_name, bytea, outbox.as_text, text, jsonb, uuid, integer, text, outbox.event_time, outbox.event_time, outbox.topic_name, outbox.topic_name, outbox.topic_name) IS
    'Like the form with a bytea key, for a key that is text, a number or a UUID; the key is sent as its text in UTF-8.';

CREATE FUNCTION outbox.emit_bytes(
    topic           outbox.topic_name,
    payload         bytea,
    key             bytea DEFAULT NULL,
    event_type      text DEFAULT NULL,
    headers         outbox.as_text DEFAULT NULL,
    event_id        outbox.as_text DEFAULT NULL,
    partition       bigint DEFAULT NULL,
    content_type    text DEFAULT NULL,
    deliver_at      outbox.event_time DEFAULT NULL,
    expires_at      outbox.event_time DEFAULT NULL,
    idempotency_key outbox.as_text DEFAULT NULL,
    traceparent     outbox.as_text DEFAULT NULL,
    tracestate      outbox.as_text DEFAULT NULL
) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN outbox.emit_bytes(topic::varchar, payload, key, event_type, headers::text::jsonb, event_id::text::uuid,
                             partition::integer, content_type, deliver_at, expires_at, idempotency_key::text,
                       traceparent::text, tracestate::text);
COMMENT ON FUNCTION outbox.emit_bytes(outbox.topic_name, bytea, bytea, text, outbox.as_text, outbox.as_text, bigint, text, outbox.event_time, outbox.event_time, outbox.as_text, outbox.as_text, outbox.as_text) IS
    'Like the form with jsonb headers, for other types, such as a driver''s strings and longs.';
