-- Owns the functions that pause, resume and restart the relay of this database.

CREATE TABLE outbox.paused (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    paused_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    paused_by name NOT NULL DEFAULT session_user,
    reason    text
);
COMMENT ON TABLE outbox.paused IS 'Contains a row while the outbox is paused. Events are stored, but not published.';
COMMENT ON COLUMN outbox.paused.only_one IS 'Always true: allows only one row.';
COMMENT ON COLUMN outbox.paused.paused_at IS 'When the outbox was paused.';
COMMENT ON COLUMN outbox.paused.paused_by IS 'Session user who paused the outbox.';
COMMENT ON COLUMN outbox.paused.reason IS 'Reason given by that user.';

-- The copy of a paused database is paused, too.
SELECT pg_catalog.pg_extension_config_dump('outbox.paused', '');

-- A restore follows foreign keys, even with several processes. So it restores the pause before the first event.
ALTER TABLE outbox.events ADD COLUMN paused boolean CONSTRAINT events_follow_paused REFERENCES outbox.paused (only_one);
COMMENT ON COLUMN outbox.events.paused IS
    'Always NULL. Its foreign key makes a restore load outbox.paused before the events.';
COMMENT ON CONSTRAINT events_follow_paused ON outbox.events IS 'Orders a restore; it never checks a row.';

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

-- Behind the columns of earlier releases, as in a database that was updated.
ALTER TABLE outbox.events ADD COLUMN expires_at timestamptz;
COMMENT ON COLUMN outbox.events.expires_at IS
    'The event is not published from this time on, and becomes a dead letter of class expired; NULL if it does not expire.';

CREATE FUNCTION outbox.after_pause() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'outbox_after_pause';
COMMENT ON FUNCTION outbox.after_pause() IS 'Tells the relay at commit that the outbox was paused or resumed.';

CREATE TRIGGER after_pause AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON outbox.paused
    FOR EACH STATEMENT EXECUTE FUNCTION outbox.after_pause();

CREATE FUNCTION outbox.pause(reason text DEFAULT NULL) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT outbox.act_as_owner('outbox.paused');
    WITH new AS (INSERT INTO outbox.paused (reason) VALUES ($1) ON CONFLICT DO NOTHING RETURNING 1)
    SELECT count(*) > 0 FROM new
$$;
COMMENT ON FUNCTION outbox.pause(text) IS
    'Stops publishing when the transaction commits, until outbox.resume(), even across restarts. Events in flight are still settled. Returns false if the outbox was already paused.';

CREATE FUNCTION outbox.resume() RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT outbox.act_as_owner('outbox.paused');
    WITH old AS (DELETE FROM outbox.paused RETURNING 1)
    SELECT count(*) > 0 FROM old
$$;
COMMENT ON FUNCTION outbox.resume() IS 'Resumes publishing when the transaction commits. Returns false if the outbox was not paused.';

CREATE FUNCTION outbox.restart_relay() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'outbox_restart_relay';
COMMENT ON FUNCTION outbox.restart_relay() IS
    'Restarts the relay at once, with an orderly shutdown and a new connection to Kafka. Returns false if no relay is running.';
