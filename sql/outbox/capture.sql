-- Owns captures: tables whose changes become events, by triggers. The triggers' argument is the whole definition, so dumps
-- and copies of a table carry its capture along.

CREATE FUNCTION outbox.capture_changes() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_capture_changes';
COMMENT ON FUNCTION outbox.capture_changes() IS
    'Emits the changes of a captured table. The right to call it is that to make the triggers of outbox.capture().';

CREATE FUNCTION outbox.capture(
    "table"    regclass,
    style      text,
    topic      text DEFAULT NULL,
    key        text[] DEFAULT NULL,
    operations text[] DEFAULT NULL,
    "when"     text DEFAULT NULL,
    columns    text[] DEFAULT NULL,
    "except"   text[] DEFAULT NULL,
    event_type text DEFAULT NULL,
    mode       text DEFAULT 'row',
    replicated boolean DEFAULT false,
    snapshot   boolean DEFAULT false
) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_capture';
COMMENT ON FUNCTION outbox.capture(regclass, text, text, text[], text[], text, text[], text[], text, text, boolean, boolean) IS
    'Makes every change of a table an event, from now on; returns the topic. Another call replaces the capture. The caller must own the table.';

CREATE FUNCTION outbox.uncapture("table" regclass) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_uncapture';
COMMENT ON FUNCTION outbox.uncapture(regclass) IS 'Ends the capture of a table. Returns false if there was none.';

CREATE PROCEDURE outbox.emit_snapshot("table" regclass, chunk integer DEFAULT 1000)
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_emit_snapshot';
COMMENT ON PROCEDURE outbox.emit_snapshot(regclass, integer) IS
    'Emits the rows of a captured table, beside the changes of others, in transactions of this many rows. The caller must own the table.';

CREATE FUNCTION outbox.capture_definition(arguments bytea) RETURNS json
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'outbox_capture_definition';
COMMENT ON FUNCTION outbox.capture_definition(bytea) IS
    'Returns the definition in the arguments of a capture''s trigger, for outbox.captures.';

CREATE VIEW outbox.captures AS
    SELECT DISTINCT ON (t.tgrelid)
           t.tgrelid::pg_catalog.regclass AS "table",
           d.definition OPERATOR(pg_catalog.->>) 'style' AS style,
           d.definition OPERATOR(pg_catalog.->>) 'topic' AS topic,
           ARRAY(SELECT pg_catalog.json_array_elements_text(d.definition OPERATOR(pg_catalog.->) 'key')) AS key,
           ARRAY(SELECT pg_catalog.json_array_elements_text(d.definition OPERATOR(pg_catalog.->) 'operations')) AS operations,
           CASE WHEN t.tgqual IS NOT NULL
                THEN pg_catalog.substring(pg_catalog.pg_get_triggerdef(t.oid), ' WHEN \((.*)\) EXECUTE FUNCTION ') END AS "when",
           CASE WHEN d.definition OPERATOR(pg_catalog.->) 'columns' IS NOT NULL
                THEN ARRAY(SELECT pg_catalog.json_array_elements_text(d.definition OPERATOR(pg_catalog.->) 'columns')) END
               AS columns,
           CASE WHEN d.definition OPERATOR(pg_catalog.->) 'except' IS NOT NULL
                THEN ARRAY(SELECT pg_catalog.json_array_elements_text(d.definition OPERATOR(pg_catalog.->) 'except')) END
               AS "except",
           d.definition OPERATOR(pg_catalog.->>) 'event_type' AS event_type,
           d.definition OPERATOR(pg_catalog.->>) 'mode' AS mode,
           t.tgenabled OPERATOR(pg_catalog.=) 'A' AS replicated,
           t.tgenabled OPERATOR(pg_catalog.<>) 'D' AS enabled
      FROM pg_catalog.pg_trigger AS t
      CROSS JOIN LATERAL outbox.capture_definition(t.tgargs) AS d (definition)
     WHERE t.tgfoid OPERATOR(pg_catalog.=) 'outbox.capture_changes()'::pg_catalog.regprocedure
       AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
       AND d.definition IS NOT NULL
     ORDER BY t.tgrelid, t.tgqual IS NULL, t.tgname;
COMMENT ON VIEW outbox.captures IS 'The tables whose changes become events, as outbox.capture() was told.';
COMMENT ON COLUMN outbox.captures."table" IS 'The table; its partitions are captured with it.';
COMMENT ON COLUMN outbox.captures.style IS 'How much the events carry: notification, delta or fat.';
COMMENT ON COLUMN outbox.captures.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.captures.key IS 'The columns that identify a row.';
COMMENT ON COLUMN outbox.captures.operations IS 'The kinds of changes that become events.';
COMMENT ON COLUMN outbox.captures."when" IS 'Only rows for which this is true become events; NULL for all.';
COMMENT ON COLUMN outbox.captures.columns IS 'The only columns that events carry besides the key; NULL for all.';
COMMENT ON COLUMN outbox.captures."except" IS 'The columns that events never carry; NULL for none.';
COMMENT ON COLUMN outbox.captures.event_type IS 'The events'' type; {action} stands for what happened.';
COMMENT ON COLUMN outbox.captures.mode IS 'Whether events are made by row or by statement.';
COMMENT ON COLUMN outbox.captures.replicated IS 'Whether changes that a subscription applies become events, too.';
COMMENT ON COLUMN outbox.captures.enabled IS 'Whether the capture''s trigger is enabled.';
