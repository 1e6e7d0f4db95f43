-- Owns the functions that read no table.

CREATE FUNCTION outbox.uuid_v7() RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_uuid_v7';
COMMENT ON FUNCTION outbox.uuid_v7() IS 'Generates a UUID version 7 (RFC 9562), ordered by time to the millisecond.';

CREATE FUNCTION outbox.channel(topic text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_channel';
COMMENT ON FUNCTION outbox.channel(text) IS
    'Returns the NOTIFY channel that announces a topic''s published events in this database.';

CREATE FUNCTION outbox.readable(bytes bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_readable';
COMMENT ON FUNCTION outbox.readable(bytea) IS 'Shows bytes as text if they are valid text, otherwise in hexadecimal.';

CREATE FUNCTION outbox.is_topic_name(name text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_is_topic_name';
COMMENT ON FUNCTION outbox.is_topic_name(text) IS 'Tells whether an event can have a topic with this name.';

CREATE FUNCTION outbox.is_topic_pattern(pattern text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_is_topic_pattern';
COMMENT ON FUNCTION outbox.is_topic_pattern(text) IS
    'Tells whether this is a valid topic name, or a prefix of topic names followed by an asterisk.';

-- For SECURITY DEFINER functions, whose owner may have more rights than the owner of a table: triggers on that table must
-- not run with them.
CREATE FUNCTION outbox.act_as_owner(owned regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_act_as_owner';
COMMENT ON FUNCTION outbox.act_as_owner(regclass) IS
    'Switches the rest of a SECURITY DEFINER function to the rights of a table''s owner.';
