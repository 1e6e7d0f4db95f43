-- The tables that emit() is compared with.
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total integer NOT NULL);
CREATE TABLE bare_events (LIKE outbox.events INCLUDING ALL);
CREATE TABLE notifying_events (LIKE outbox.events INCLUDING ALL);

CREATE FUNCTION notify_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('new_events', NEW.id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_relay AFTER INSERT ON notifying_events FOR EACH ROW EXECUTE FUNCTION notify_relay();
