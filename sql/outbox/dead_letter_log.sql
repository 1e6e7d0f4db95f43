-- Owns the log of what became of dead letters.

CREATE TABLE outbox.dead_letter_log (
    log_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    logged_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    action      text NOT NULL CHECK (action IN ('redriven', 'discarded', 'expired')),
    role        name,
    event_id    uuid NOT NULL,
    topic       text NOT NULL,
    error_class text,
    died_at     timestamptz NOT NULL
);
COMMENT ON TABLE outbox.dead_letter_log IS 'Who redrove or discarded which dead letter, and when. event_outbox.dead_letter_log_retention says how long entries stay.';
COMMENT ON COLUMN outbox.dead_letter_log.log_id IS 'Order of the entries.';
COMMENT ON COLUMN outbox.dead_letter_log.logged_at IS 'When it was done.';
COMMENT ON COLUMN outbox.dead_letter_log.action IS
    'What was done: redriven by outbox.redrive(), discarded by outbox.discard(), or expired after event_outbox.dead_letter_retention.';
COMMENT ON COLUMN outbox.dead_letter_log.role IS 'The role that was logged in; NULL if the dead letter has expired.';
COMMENT ON COLUMN outbox.dead_letter_log.event_id IS 'The event.';
COMMENT ON COLUMN outbox.dead_letter_log.topic IS 'Its topic.';
COMMENT ON COLUMN outbox.dead_letter_log.error_class IS 'Why it died, as in outbox.dead_letters.';
COMMENT ON COLUMN outbox.dead_letter_log.died_at IS 'When it became a dead letter.';

SELECT pg_catalog.pg_extension_config_dump('outbox.dead_letter_log', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.dead_letter_log_log_id_seq', '');

-- Called by redrive() and discard() before they switch to the rights of the owner of the dead letters.
CREATE FUNCTION outbox.log_dead_letters(chosen bigint[], action text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    event_ids     uuid[];
    topics        text[];
    error_classes text[];
    deaths        timestamptz[];
BEGIN
    SELECT array_agg(d.event_id), array_agg(d.topic), array_agg(d.error_class), array_agg(d.last_refused_at)
      INTO event_ids, topics, error_classes, deaths
      FROM (SELECT d.* FROM outbox.dead_letters AS d WHERE d.dead_letter_id = ANY (chosen) ORDER BY d.id, d.dead_letter_id) AS d;
    PERFORM outbox.act_as_owner('outbox.dead_letter_log');
    INSERT INTO outbox.dead_letter_log (action, role, event_id, topic, error_class, died_at)
    SELECT log_dead_letters.action, session_user, l.event_id, l.topic, l.error_class, l.died_at
      FROM unnest(event_ids, topics, error_classes, deaths) AS l (event_id, topic, error_class, died_at);
END
$$;
COMMENT ON FUNCTION outbox.log_dead_letters(bigint[], text) IS 'Notes in outbox.dead_letter_log what becomes of dead letters.';
