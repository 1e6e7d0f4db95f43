-- From 0.2.0 to 0.3.0: the inbox is new, and emit() has further arguments. build.rs puts what a file creates once in the
-- place of @create.

-- Their successors have further arguments. Nobody is granted them, and the functions that are granted stay.
DROP FUNCTION IF EXISTS
    outbox.emit(outbox.topic_name, outbox.as_text, outbox.as_text, text, outbox.as_text, outbox.as_text, bigint),
    outbox.emit_bytes(outbox.topic_name, bytea, outbox.as_text, text, jsonb, uuid, integer, text),
    outbox.emit_bytes(outbox.topic_name, bytea, bytea, text, outbox.as_text, outbox.as_text, bigint, text);

-- As in emit.sql.
CREATE DOMAIN outbox.event_time AS timestamptz;

-- @create sql/outbox/idempotency.sql
-- @create sql/outbox/dead_letter_log.sql

-- As in the control file.
COMMENT ON EXTENSION event_outbox IS
    'Transactional outbox and inbox: events reach Apache Kafka if and only if their transaction commits, and are received exactly once';

-- @create sql/store/tables.sql
-- @create sql/inbox/tables.sql
-- @create sql/inbox/receive.sql

-- @create sql/inbox/peek.sql

-- @functions

-- @create sql/outbox/archive.sql
-- @create sql/outbox/scheduled.sql
-- @create sql/outbox/sequences.sql
-- @create sql/outbox/delivery.sql
-- @create sql/schemas/tables.sql
-- @create sql/schemas/registry.sql

-- @create sql/store/writers.sql

-- @create sql/inbox/changed.sql

-- @create sql/inbox/consumers.sql

-- @create sql/inbox/handlers.sql

-- @create sql/inbox/projections.sql

-- @views

ALTER TABLE outbox.events ADD COLUMN expires_at timestamptz;
ALTER TABLE outbox.dead_letters ADD COLUMN expires_at timestamptz;
