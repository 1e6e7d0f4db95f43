-- The schema, and what must hold before anything is created.

DO $once$
BEGIN
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'event_outbox needs a database with the encoding UTF8',
            DETAIL = pg_catalog.format('The encoding of this database is %s; Kafka records and CloudEvents headers are UTF-8.',
                                       pg_catalog.getdatabaseencoding()),
            HINT = 'Create the database with ENCODING ''UTF8''.';
    END IF;
END
$once$;

CREATE SCHEMA outbox;

COMMENT ON SCHEMA outbox IS
    'The transactional outbox: emit events here, and they reach Kafka if and only if their transaction commits.';
