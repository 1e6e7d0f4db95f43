-- Owns the trigger by which transactions announce the events that they may add. See src/store/writers.rs.

-- An event without the lock that says where the sequence stood would be missed by who reads the whole store.
CREATE FUNCTION event_store.before_insert() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'event_store_before_insert';
COMMENT ON FUNCTION event_store.before_insert() IS
    'Trigger: tells readers of the store that this transaction may add events at positions that are not drawn yet.';
CREATE TRIGGER before_insert BEFORE INSERT ON event_store.event
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.before_insert();
ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER before_insert;
