-- Every row of pgbench_history becomes an event. The journal says what must arrive: it is written in the same
-- transaction. A TPC-B transaction holds its account's row lock, so for one account the order of seq is the
-- order of the commits.
CREATE EXTENSION event_outbox;

CREATE TABLE journal (
    seq      bigserial PRIMARY KEY,
    event_id uuid NOT NULL,
    key      text NOT NULL,
    payload  jsonb NOT NULL
);

CREATE FUNCTION publish_history() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payload jsonb := to_jsonb(NEW);
    event_id uuid := outbox.emit('pgbench_history', payload, key => NEW.aid::text);
BEGIN
    INSERT INTO journal (event_id, key, payload) VALUES (event_id, NEW.aid::text, payload);
    RETURN NULL;
END
$$;

CREATE TRIGGER publish AFTER INSERT ON pgbench_history FOR EACH ROW EXECUTE FUNCTION publish_history();
