-- The tables of the database that receives.
CREATE EXTENSION event_outbox;
CREATE SCHEMA torture;
CREATE ROLE torture_handler LOGIN;

-- What was handled, written by the transaction that acknowledges it. `place` is drawn while the lane is locked, so that the
-- events of a key have places in the order in which they were handled. Nothing is unique: what is handled twice must be seen.
CREATE TABLE torture.handled (
    place        bigint GENERATED ALWAYS AS IDENTITY,
    subscription text,
    topic        text,
    partition    integer,
    "offset"     bigint,
    event_id     text,
    key_start    text,
    key_length   integer,
    transaction  bigint DEFAULT txid_current()
);

CREATE INDEX handled_by_event ON torture.handled (event_id);
CREATE INDEX handled_by_offset ON torture.handled (subscription, topic, partition, "offset");

-- The last record of each key of a topic, as a projection keeps it.
CREATE TABLE torture.latest (key text PRIMARY KEY, of_partition integer, at_offset bigint);

-- A seek: what was handled from this offset on, at lower places, is handled again.
CREATE TABLE torture.seeks (place bigint, subscription text, topic text, partition integer, from_offset bigint);

-- What the handler does now: its work, or it fails, or it ends its own process.
CREATE TABLE torture.mood (mood text);
INSERT INTO torture.mood VALUES ('good');

-- Some ids are poison: whoever receives such an event fails. The same rule is in evidence.rs.
CREATE FUNCTION torture.is_poison(event_id text) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN right(event_id, 3) COLLATE "C" < '004';

-- Fails as the fault says that handlers do at present, but not so often that an event dies of it.
CREATE FUNCTION torture.have_mood(attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF attempt <= 3 THEN
        CASE (SELECT m.mood FROM torture.mood AS m)
            WHEN 'fail' THEN RAISE EXCEPTION 'a bad mood';
            WHEN 'end' THEN PERFORM pg_terminate_backend(pg_backend_pid());
            ELSE NULL;
        END CASE;
    END IF;
END $$;

CREATE FUNCTION torture.handle(event inbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF torture.is_poison(event.event_id) THEN
        RAISE EXCEPTION 'poison';
    END IF;
    PERFORM torture.have_mood(event.attempt);
    INSERT INTO torture.handled (subscription, topic, partition, "offset", event_id, key_start, key_length)
    VALUES ('handler', event.topic, event.partition, event."offset", event.event_id,
            left(convert_from(event.key, 'UTF8'), 8), length(event.key));
END
$$;
ALTER FUNCTION torture.handle OWNER TO torture_handler;
GRANT USAGE ON SCHEMA inbox, torture TO torture_handler;
GRANT EXECUTE ON FUNCTION inbox.receive TO torture_handler;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA torture TO torture_handler;
