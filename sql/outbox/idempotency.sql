-- Owns the idempotency keys: two tables that take turns, so that keys leave by a TRUNCATE. Sessions store keys
-- (src/outbox/emit/idempotency.rs), the relay changes the periods (src/outbox/relay/tidy.rs).

CREATE TABLE outbox.idempotency_a (
    topic    text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (topic, key)
);
COMMENT ON TABLE outbox.idempotency_a IS 'The idempotency keys of every second period. outbox.idempotency_keys shows all.';
COMMENT ON COLUMN outbox.idempotency_a.topic IS 'The topic of the event.';
COMMENT ON COLUMN outbox.idempotency_a.key IS 'The idempotency key.';
COMMENT ON COLUMN outbox.idempotency_a.event_id IS 'The event that was emitted with the key.';

CREATE TABLE outbox.idempotency_b (
    topic    text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (topic, key)
);
COMMENT ON TABLE outbox.idempotency_b IS 'The idempotency keys of the other periods. outbox.idempotency_keys shows all.';
COMMENT ON COLUMN outbox.idempotency_b.topic IS 'The topic of the event.';
COMMENT ON COLUMN outbox.idempotency_b.key IS 'The idempotency key.';
COMMENT ON COLUMN outbox.idempotency_b.event_id IS 'The event that was emitted with the key.';

-- Has no row before the first period is over.
CREATE TABLE outbox.idempotency_period (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    number    bigint NOT NULL CHECK (number >= 0),
    began_at  timestamptz NOT NULL,
    former    text NOT NULL CHECK (former IN ('open', 'closed', 'expired', 'empty')),
    closed_at timestamptz CHECK ((closed_at IS NOT NULL) = (former = 'closed'))
);
COMMENT ON TABLE outbox.idempotency_period IS 'The period in which idempotency keys are stored now. Changed only by the relay.';
COMMENT ON COLUMN outbox.idempotency_period.only_one IS 'Always true: the table has one row at most.';
COMMENT ON COLUMN outbox.idempotency_period.number IS 'The number of the period: keys are stored in idempotency_a if it is even.';
COMMENT ON COLUMN outbox.idempotency_period.began_at IS 'When the period began.';
COMMENT ON COLUMN outbox.idempotency_period.former IS
    'What is in the table of the period before: keys that count (open, closed), keys that no longer count (expired), or none (empty).';
COMMENT ON COLUMN outbox.idempotency_period.closed_at IS 'Since when no session stores keys in the table of the period before.';

SELECT pg_catalog.pg_extension_config_dump('outbox.idempotency_a', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.idempotency_b', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.idempotency_period', '');

CREATE VIEW outbox.idempotency_keys AS
    SELECT k.topic, k.key, k.event_id FROM outbox.idempotency_a AS k
    UNION ALL
    SELECT k.topic, k.key, k.event_id FROM outbox.idempotency_b AS k;
COMMENT ON VIEW outbox.idempotency_keys IS 'The idempotency keys that are known, for at least event_outbox.idempotency_retention.';
COMMENT ON COLUMN outbox.idempotency_keys.topic IS 'The topic of the event.';
COMMENT ON COLUMN outbox.idempotency_keys.key IS 'The idempotency key.';
COMMENT ON COLUMN outbox.idempotency_keys.event_id IS 'The event that was emitted with the key.';
