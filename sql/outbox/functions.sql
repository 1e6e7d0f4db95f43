-- Functions that need no table.

CREATE FUNCTION outbox.uuid_v7() RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_uuid_v7';
COMMENT ON FUNCTION outbox.uuid_v7() IS 'A new UUID version 7 (RFC 9562): ordered by time to the millisecond.';

CREATE FUNCTION outbox.channel(topic text) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_channel';
COMMENT ON FUNCTION outbox.channel(text) IS
    'The NOTIFY channel on which consumers in this database hear of a topic''s published events.';

CREATE FUNCTION outbox.readable(bytes bytea) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_readable';
COMMENT ON FUNCTION outbox.readable(bytea) IS 'Bytes for a reader: as text where they are text, else in hexadecimal.';

CREATE FUNCTION outbox.is_topic_name(name text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_is_topic_name';
COMMENT ON FUNCTION outbox.is_topic_name(text) IS 'Whether events can go to a topic of this name.';

CREATE FUNCTION outbox.is_topic_pattern(pattern text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_is_topic_pattern';
COMMENT ON FUNCTION outbox.is_topic_pattern(text) IS
    'Whether this is the name of a topic, or the beginning of names followed by an asterisk.';

-- For functions that have more rights than a table's owner may have: the owner's triggers are not to get them.
CREATE FUNCTION outbox.act_as_owner(owned regclass) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_act_as_owner';
COMMENT ON FUNCTION outbox.act_as_owner(regclass) IS
    'Gives the rest of a SECURITY DEFINER function the rights of a table''s owner, and no others.';
