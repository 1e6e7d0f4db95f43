-- Sample traffic: each change of an order becomes an event.
CREATE TABLE orders (
    id      integer PRIMARY KEY,
    state   text NOT NULL,
    changed timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION order_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM outbox.emit('orders', to_jsonb(NEW), key => NEW.id::text, event_type => 'com.example.order.' || NEW.state);
    RETURN NULL;
END
$$;

CREATE TRIGGER order_changed AFTER INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION order_changed();
