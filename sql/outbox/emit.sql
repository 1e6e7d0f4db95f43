-- The way in. Each acts as the owner of the table, so that the right to emit is all an application needs: the table
-- itself stays closed to it. They are not SECURITY DEFINER, since they have to know whose topics count
-- (src/pg/user_context.rs). They name every object in full and use no operator.

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
