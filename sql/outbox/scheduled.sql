-- Owns the scheduled events: emit(deliver_at => ...) stores them here, and the relay moves those that are due into
-- outbox.events. Until then an event is in nobody's way, and cancel() can withdraw it.

CREATE TABLE outbox.scheduled (
    -- Drawn from the sequence of outbox.events. While a dump is being restored, that sequence has not been used yet, and the
    -- relay moves nothing: ids that it would assign are those of events that are still to be restored.
    id           bigint NOT NULL DEFAULT pg_catalog.nextval('outbox.events_id_seq'),
    event_id     uuid NOT NULL DEFAULT outbox.uuid_v7(),
    deliver_at   timestamptz NOT NULL,
    emitted_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    topic        text NOT NULL,
    partition    integer,
    key          bytea,
    payload      bytea,
    headers      json,
    event_type   text,
    content_type text,
    expires_at   timestamptz,
    -- A restore follows foreign keys. So it restores the pause before the first scheduled event.
    paused       boolean CONSTRAINT scheduled_follow_paused REFERENCES outbox.paused (only_one),
    PRIMARY KEY (deliver_at, id)
)
-- Like outbox.events: each row is inserted once and deleted.
WITH (
    fillfactor = 100,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_threshold = 1000000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX scheduled_event_id ON outbox.scheduled (event_id);

COMMENT ON TABLE outbox.scheduled IS
    'Events to be published at a later time. The relay moves a row to outbox.events at its deliver_at.';
COMMENT ON COLUMN outbox.scheduled.id IS 'Order among events with the same deliver_at.';
COMMENT ON COLUMN outbox.scheduled.event_id IS 'Identity of the event.';
COMMENT ON COLUMN outbox.scheduled.deliver_at IS 'When the event is due. It becomes the emitted_at of the event.';
COMMENT ON COLUMN outbox.scheduled.emitted_at IS 'When emit() was called.';
COMMENT ON COLUMN outbox.scheduled.topic IS 'Kafka topic.';
COMMENT ON COLUMN outbox.scheduled.partition IS 'Kafka partition, if the event specifies one.';
COMMENT ON COLUMN outbox.scheduled.key IS 'Record key.';
COMMENT ON COLUMN outbox.scheduled.payload IS 'Record value.';
COMMENT ON COLUMN outbox.scheduled.headers IS 'Headers of the event.';
COMMENT ON COLUMN outbox.scheduled.event_type IS 'CloudEvents type, if the event specifies one.';
COMMENT ON COLUMN outbox.scheduled.content_type IS 'Media type of the payload.';
COMMENT ON COLUMN outbox.scheduled.expires_at IS 'The event is not published from this time on; NULL if it does not expire.';
COMMENT ON COLUMN outbox.scheduled.paused IS
    'Always NULL. Its foreign key makes a restore load outbox.paused before the scheduled events.';
COMMENT ON CONSTRAINT scheduled_follow_paused ON outbox.scheduled IS 'Orders a restore; it never checks a row.';

SELECT pg_catalog.pg_extension_config_dump('outbox.scheduled', '');

DO $once$
DECLARE
    checking record;
BEGIN
    FOR checking IN
        SELECT t.tgrelid::regclass AS relation, t.tgname FROM pg_catalog.pg_trigger AS t
          JOIN pg_catalog.pg_constraint AS c ON c.oid OPERATOR(pg_catalog.=) t.tgconstraint
         WHERE c.conname OPERATOR(pg_catalog.=) 'scheduled_follow_paused'
           AND c.conrelid OPERATOR(pg_catalog.=) 'outbox.scheduled'::regclass
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', checking.relation, checking.tgname);
    END LOOP;
END
$once$;

CREATE FUNCTION outbox.check_scheduled() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_check_scheduled';
COMMENT ON FUNCTION outbox.check_scheduled() IS
    'Rejects a scheduled event that Kafka could never accept, and tells the relay at commit when it is due.';

CREATE TRIGGER check_scheduled BEFORE INSERT OR UPDATE ON outbox.scheduled
    FOR EACH ROW EXECUTE FUNCTION outbox.check_scheduled();

-- After TRUNCATE ... RESTART IDENTITY the sequence looks as while a dump is being restored. With an id drawn it does not.
CREATE FUNCTION outbox.events_truncated() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM outbox.act_as_owner('outbox.events');
    IF NOT (SELECT s.is_called FROM outbox.events_id_seq AS s) THEN
        PERFORM nextval('outbox.events_id_seq');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION outbox.events_truncated() IS
    'Draws an id after TRUNCATE ... RESTART IDENTITY, so that the relay goes on with scheduled events.';

CREATE TRIGGER events_truncated AFTER TRUNCATE ON outbox.events
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.events_truncated();

CREATE FUNCTION outbox.cancel(event_id uuid) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_cancel';
COMMENT ON FUNCTION outbox.cancel(uuid) IS
    'Withdraws a scheduled event; returns false if there is none, or if it is due and on its way. Requires the right to emit to its topic.';

CREATE VIEW outbox.scheduled_events AS
    SELECT pg_catalog.count(*) AS scheduled,
           pg_catalog.min(s.deliver_at) AS next_deliver_at,
           pg_catalog.max(s.deliver_at) AS last_deliver_at
      FROM outbox.scheduled AS s;
COMMENT ON VIEW outbox.scheduled_events IS 'One row about the events that are to be published at a later time.';
COMMENT ON COLUMN outbox.scheduled_events.scheduled IS 'Number of scheduled events.';
COMMENT ON COLUMN outbox.scheduled_events.next_deliver_at IS 'When the next one is due; NULL if there is none.';
COMMENT ON COLUMN outbox.scheduled_events.last_deliver_at IS 'When the last one is due.';
