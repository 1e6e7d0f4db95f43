-- Owns the schema, and checks the preconditions of an installation.

DO $once$
BEGIN
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'event_outbox requires the database encoding UTF8',
            DETAIL = pg_catalog.format('The encoding of this database is %s, but Kafka records and CloudEvents headers are UTF-8.',
                                       pg_catalog.getdatabaseencoding()),
            HINT = 'Create the database with ENCODING ''UTF8''.';
    END IF;
END
$once$;

CREATE SCHEMA outbox;

COMMENT ON SCHEMA outbox IS
    'The transactional outbox: an event emitted here reaches Kafka if and only if its transaction commits.';
