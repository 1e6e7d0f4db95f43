-- Owns the rules for each row of the table of events, whether it comes from emit(), INSERT or COPY.

CREATE FUNCTION outbox.before_insert() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_before_insert';
COMMENT ON FUNCTION outbox.before_insert() IS
    'Assigns the transaction id before the first event id, as the relay''s search for new rows requires, and wakes the relay at commit.';

CREATE FUNCTION outbox.check_event() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_check_event';
COMMENT ON FUNCTION outbox.check_event() IS
    'Rejects an event that Kafka could never accept.';

CREATE FUNCTION outbox.count_attempt() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_count_attempt';
COMMENT ON FUNCTION outbox.count_attempt() IS
    'Counts an attempt of a refused event and sets the time of the next one, if any.';

CREATE FUNCTION outbox.retry_time_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_after_retiming';
COMMENT ON FUNCTION outbox.retry_time_changed() IS
    'Tells the relay at commit that the time of an event''s next attempt has changed.';

CREATE TRIGGER before_insert BEFORE INSERT ON outbox.events
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.before_insert();
CREATE TRIGGER check_event BEFORE INSERT ON outbox.events
    FOR EACH ROW EXECUTE FUNCTION outbox.check_event();
CREATE TRIGGER check_change BEFORE UPDATE OF topic, partition, key, payload, headers, event_type, content_type, emitted_at
    ON outbox.events FOR EACH ROW EXECUTE FUNCTION outbox.check_event();
CREATE TRIGGER count_attempt BEFORE UPDATE OF last_error ON outbox.events
    FOR EACH ROW WHEN (NEW.last_error IS NOT NULL) EXECUTE FUNCTION outbox.count_attempt();
CREATE TRIGGER retry_time_changed AFTER UPDATE OF next_attempt_at ON outbox.events
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.retry_time_changed();
