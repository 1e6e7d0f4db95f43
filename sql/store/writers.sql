-- Owns the triggers of the store's tables: transactions announce the events that they may add (src/store/writers.rs), and
-- sessions learn that what they remember has changed.

-- An event without the lock that says where the sequence stood would be missed by who reads the whole store.
CREATE FUNCTION event_store.before_insert() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'event_store_before_insert';
COMMENT ON FUNCTION event_store.before_insert() IS
    'Trigger: tells readers of the store that this transaction may add events at positions that are not drawn yet.';
CREATE TRIGGER before_insert BEFORE INSERT ON event_store.event
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.before_insert();
ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER before_insert;

-- The function invalidates what sessions know of the table on which it fires, whichever that is.
DO $once$
DECLARE
    known text;
BEGIN
    FOREACH known IN ARRAY ARRAY['category_binding', 'category_grants'] LOOP
        EXECUTE pg_catalog.format($ddl$
            CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.%1$I
                FOR EACH STATEMENT EXECUTE FUNCTION outbox.topic_grants_changed();
            ALTER TABLE event_store.%1$I ENABLE ALWAYS TRIGGER changed;
        $ddl$, known);
    END LOOP;
END
$once$;
