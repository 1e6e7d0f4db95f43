-- The tables of the torture test beside the outbox.
CREATE EXTENSION event_outbox;
CREATE SCHEMA torture;

-- Writers of the same key serialise on a row, as applications do on the row of an aggregate.
CREATE TABLE torture.aggregates (topic text, key text, PRIMARY KEY (topic, key));

-- The number of each committed transaction, written by the transaction itself. Transaction ids would not do: after a
-- crash they may be assigned again.
CREATE TABLE torture.transactions (number bigint PRIMARY KEY);

-- When events left the outbox. The transaction that deletes them writes it, so a crash undoes both or neither.
CREATE TABLE torture.settled (event_id uuid, at timestamptz);

CREATE FUNCTION torture.note_settled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO torture.settled SELECT g.event_id, pg_catalog.clock_timestamp() FROM gone AS g;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_settled AFTER DELETE ON outbox.events REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION torture.note_settled();
