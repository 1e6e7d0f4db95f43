-- From 0.1.0 to 0.2.0: changes of types and tables, renames and drops. Functions, views, comments and grants are written
-- in sql/outbox alone; build.rs inserts functions and views at the marks, and appends comments and grants.

CREATE DOMAIN outbox.topic_name AS text;

CREATE TYPE outbox.as_text;
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

-- Renamed.
ALTER FUNCTION outbox.bury_event() RENAME TO move_to_dead_letters;
ALTER FUNCTION outbox.after_retiming() RENAME TO retry_time_changed;
ALTER FUNCTION outbox.choose_dead_letters(uuid, text, timestamptz, bigint) RENAME TO select_dead_letters;

-- @functions

CREATE TABLE outbox.paused (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    paused_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    paused_by name NOT NULL DEFAULT session_user,
    reason    text
);
SELECT pg_catalog.pg_extension_config_dump('outbox.paused', '');
CREATE TRIGGER after_pause AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.paused
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.after_pause();

CREATE TABLE outbox.topic_grants (
    role    regrole NOT NULL,
    pattern text NOT NULL CONSTRAINT topic_or_prefix CHECK (outbox.is_topic_pattern(pattern)),
    PRIMARY KEY (role, pattern)
);
SELECT pg_catalog.pg_extension_config_dump('outbox.topic_grants', '');
CREATE TRIGGER topic_grants_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.topic_grants
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.topic_grants_changed();

-- @views

DROP FUNCTION outbox.relay_status();

ALTER TRIGGER bury_event ON outbox.events RENAME TO move_to_dead_letters;
ALTER TRIGGER after_retiming ON outbox.events RENAME TO retry_time_changed;
CREATE TRIGGER remove_dead_event AFTER UPDATE OF last_error ON outbox.events
    FOR EACH ROW WHEN (NEW.last_error IS NOT NULL AND NEW.next_attempt_at IS NULL)
    EXECUTE FUNCTION outbox.remove_dead_event();
CREATE TRIGGER check_change BEFORE UPDATE OF topic, partition, key, payload, headers, event_type, content_type, emitted_at
    ON outbox.events FOR EACH ROW EXECUTE FUNCTION outbox.check_event();

ALTER TABLE outbox.events ADD COLUMN paused boolean CONSTRAINT events_follow_paused REFERENCES outbox.paused (only_one);

DO $once$
DECLARE
    checking record;
BEGIN
    FOR checking IN
        SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_catalog.pg_trigger AS t
          JOIN pg_catalog.pg_constraint AS c ON c.oid OPERATOR(pg_catalog.=) t.tgconstraint
         WHERE c.conname OPERATOR(pg_catalog.=) 'events_follow_paused'
           AND c.conrelid OPERATOR(pg_catalog.=) 'outbox.events'::regclass
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', checking.relation, checking.tgname);
    END LOOP;
END
$once$;
