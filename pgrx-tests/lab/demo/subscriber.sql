-- The other database of the demo: it subscribes to the topic, and a handler stores each event. The extension was created
-- in a transaction before, because subscribing asks its relay.

CREATE TABLE received (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    event_id    text        NOT NULL,
    key         bytea       NOT NULL
);

CREATE FUNCTION store(event inbox.event) RETURNS void
    LANGUAGE sql
    AS $$
    INSERT INTO public.received (partition, "offset", event_id, key)
    VALUES (event.partition, event."offset", event.event_id, event.key)
$$;

SELECT inbox.subscribe('history', ARRAY['pgbench_history'], 'earliest');
SELECT inbox.handle('history', 'public.store(inbox.event)', workers => 2, batch => 500);
