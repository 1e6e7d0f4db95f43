-- The tables for the event store, beside those of the receivers.

-- The number of each committed transaction of an appender, written by the transaction itself.
CREATE TABLE torture.store_transactions (number bigint PRIMARY KEY);

-- What the handler was called with, in its own transaction. `place` is drawn while the lane is locked. Nothing is unique: what is
-- handled twice must be seen.
CREATE TABLE torture.store_handled (place bigint GENERATED ALWAYS AS IDENTITY, stream text, version bigint);

-- What a reader of the whole store has got, page by page.
CREATE TABLE torture.store_read (place bigint GENERATED ALWAYS AS IDENTITY, position bigint, stream text, version bigint);

CREATE FUNCTION torture.handle_store(event inbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM torture.have_mood(event.attempt);
    INSERT INTO torture.store_handled (stream, version)
    VALUES (convert_from(event.key, 'UTF8'), (event.headers ->> 'version')::bigint);
END
$$;
ALTER FUNCTION torture.handle_store OWNER TO torture_handler;
GRANT INSERT ON torture.store_handled TO torture_handler;

SELECT event_store.subscribe('store', '{stream}', 'earliest', retention => '1 s', max_attempts => 12);
SELECT inbox.grant_subscription('torture_handler', 'store'),
       inbox.handle('store', 'torture.handle_store(inbox.event)', workers => 2, batch => 40);
