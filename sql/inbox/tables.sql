-- Owns the schema inbox and its tables. The ingest worker writes the log; receivers insert the states of lanes; nothing is
-- updated or deleted one by one.
--
-- The tables that say how far a subscription has come have no foreign key to it. A dump restores tables in the order of their
-- names, except that a table follows those to which it refers; as soon as there is a subscription, a worker reads for it. So
-- everything else must be there before inbox.subscription.

CREATE SCHEMA inbox;
COMMENT ON SCHEMA inbox IS
    'The inbox: the database reads Kafka topics itself, and sessions receive each event exactly once, in their own transactions.';

CREATE TABLE inbox.subscription (
    id             integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text        NOT NULL UNIQUE,
    owner          regrole     NOT NULL,
    source_id      integer     NOT NULL REFERENCES inbox.subscription,
    topics         text[]      NOT NULL,
    pattern        text,
    ordering       text        NOT NULL CHECK (ordering IN ('key', 'partition', 'none')),
    retention      interval    NOT NULL CHECK (retention >= interval '0'),
    max_attempts   integer     NOT NULL CHECK (max_attempts >= 1),
    on_data_loss   text        NOT NULL CHECK (on_data_loss IN ('stop', 'earliest', 'latest')),
    deduplicate    interval    CHECK (deduplicate > interval '0'),
    share_index    integer     NOT NULL DEFAULT 1,
    share_count    integer     NOT NULL DEFAULT 1 CHECK (share_count >= share_index AND share_index >= 1),
    first_position bigint      NOT NULL,
    last_position  bigint,
    generation     bigint      NOT NULL DEFAULT 1,
    is_local       boolean     NOT NULL DEFAULT false,
    paused_at      timestamptz,
    pause_reason   text,
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE inbox.subscription IS 'The subscriptions. Changed only through the functions of the schema inbox.';
COMMENT ON COLUMN inbox.subscription.id IS 'Identifies the subscription in the other tables.';
COMMENT ON COLUMN inbox.subscription.name IS 'The name by which sessions receive.';
COMMENT ON COLUMN inbox.subscription.owner IS 'The role that subscribed; it may change the subscription and grant it to others.';
COMMENT ON COLUMN inbox.subscription.source_id IS 'The subscription whose events it receives: itself, or the replayed one.';
COMMENT ON COLUMN inbox.subscription.topics IS 'The topics that it reads, without those found by the pattern.';
COMMENT ON COLUMN inbox.subscription.pattern IS 'A pattern of topic names with * for any characters; NULL if the topics were named.';
COMMENT ON COLUMN inbox.subscription.ordering IS 'Which events keep their order: those of a topic and key, those of a partition, or none.';
COMMENT ON COLUMN inbox.subscription.retention IS 'How long events stay in the log after they were stored.';
COMMENT ON COLUMN inbox.subscription.max_attempts IS 'How many attempts an event has before it is a dead letter.';
COMMENT ON COLUMN inbox.subscription.on_data_loss IS 'What happens when Kafka no longer has the next event of a partition.';
COMMENT ON COLUMN inbox.subscription.deduplicate IS 'For how long an event_id is remembered to drop duplicates of producers; NULL if they are kept.';
COMMENT ON COLUMN inbox.subscription.share_index IS 'Which share of the partitions it reads, from 1 to share_count.';
COMMENT ON COLUMN inbox.subscription.share_count IS 'Among how many databases the partitions are divided.';
COMMENT ON COLUMN inbox.subscription.first_position IS 'It receives events of the log after this position.';
COMMENT ON COLUMN inbox.subscription.last_position IS 'It receives events of the log up to this position; NULL for no end.';
COMMENT ON COLUMN inbox.subscription.generation IS 'Raised by each seek: what was read from Kafka before it is not stored any more.';
COMMENT ON COLUMN inbox.subscription.is_local IS 'Whether its topics are categories of the event store of this database, and no Kafka is read.';
COMMENT ON COLUMN inbox.subscription.paused_at IS 'Since when nothing is received; NULL while it is not paused.';
COMMENT ON COLUMN inbox.subscription.pause_reason IS 'Why it is paused.';
COMMENT ON COLUMN inbox.subscription.created_at IS 'When it was created.';

CREATE TABLE inbox.partition (
    source_id      integer NOT NULL,
    number         integer NOT NULL CHECK (number >= 0),
    topic          text    NOT NULL,
    partition      integer NOT NULL CHECK (partition >= 0),
    topic_id       text,
    start_offset   bigint  NOT NULL CHECK (start_offset >= 0),
    first_position bigint NOT NULL DEFAULT 0,
    state          text    NOT NULL DEFAULT 'reading' CHECK (state IN ('reading', 'stopped')),
    stop_reason    text,
    lost_from      bigint,
    lost_to        bigint,
    stopped_at     timestamptz,
    PRIMARY KEY (source_id, number),
    UNIQUE (source_id, topic, partition)
);
COMMENT ON TABLE inbox.partition IS 'The Kafka partitions that each subscription reads.';
COMMENT ON COLUMN inbox.partition.source_id IS 'The subscription.';
COMMENT ON COLUMN inbox.partition.number IS 'The number of the partition within the subscription, from 0, without gaps.';
COMMENT ON COLUMN inbox.partition.topic IS 'The topic.';
COMMENT ON COLUMN inbox.partition.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.partition.topic_id IS 'The id of the topic, by which a recreated topic is recognised; NULL if Kafka gave none.';
COMMENT ON COLUMN inbox.partition.start_offset IS 'The offset at which reading begins as long as no batch was stored since the last seek.';
COMMENT ON COLUMN inbox.partition.first_position IS
    'Events of this partition up to this position are not received: a seek has discarded them. A replay receives them.';
COMMENT ON COLUMN inbox.partition.state IS 'Whether the partition is read, or stopped because of lost data.';
COMMENT ON COLUMN inbox.partition.stop_reason IS 'Why it is stopped, and what to type.';
COMMENT ON COLUMN inbox.partition.lost_from IS 'The first offset that Kafka no longer has.';
COMMENT ON COLUMN inbox.partition.lost_to IS 'The first offset after those that Kafka no longer has.';
COMMENT ON COLUMN inbox.partition.stopped_at IS 'When it was stopped.';

CREATE TABLE inbox.progress (
    source_id     integer     NOT NULL,
    batch         bigint      NOT NULL,
    generation    bigint      NOT NULL,
    next_offsets  bigint[]    NOT NULL,
    last_position bigint      NOT NULL,
    leader_epochs integer[]   NOT NULL,
    epoch_ends    bigint[]    NOT NULL,
    undecided     bigint[],
    stored_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (source_id, batch)
);
COMMENT ON TABLE inbox.progress IS
    'How far each subscription has stored Kafka''s events: one row is inserted with each batch, in its transaction. The newest counts.';
COMMENT ON COLUMN inbox.progress.source_id IS 'The subscription.';
COMMENT ON COLUMN inbox.progress.batch IS 'The number of the batch. Two workers cannot store the same one.';
COMMENT ON COLUMN inbox.progress.generation IS 'The generation of the subscription; offsets of an earlier one do not count.';
COMMENT ON COLUMN inbox.progress.next_offsets IS 'The next offset of each partition, by its number plus 1; NULL where nothing was stored yet.';
COMMENT ON COLUMN inbox.progress.last_position IS 'The last position that was given to an event of any subscription.';
COMMENT ON COLUMN inbox.progress.leader_epochs IS
    'The leader epoch of the last record that was read of each partition, by its number plus 1; NULL where there is none. Kafka must have that record still.';
COMMENT ON COLUMN inbox.progress.epoch_ends IS 'The offset after that record.';
COMMENT ON COLUMN inbox.progress.undecided IS
    'Ranges of positions of the event store, each by its first and last, at which events may have been committed late; NULL for Kafka.';
COMMENT ON COLUMN inbox.progress.stored_at IS 'When the batch was stored.';

-- The ring of segments.
DO $once$
BEGIN
    FOR n IN 0..7 LOOP
        EXECUTE pg_catalog.format($ddl$
            CREATE TABLE inbox.log_%1$s (
                source_id   integer     NOT NULL,
                lane        smallint    NOT NULL,
                position    bigint      NOT NULL,
                partition   integer     NOT NULL,
                "offset"    bigint      NOT NULL,
                produced_at timestamptz,
                key         bytea,
                value       bytea,
                headers     bytea
            ) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off);
            CREATE INDEX log_%1$s_by_lane ON inbox.log_%1$s (source_id, lane, position);
            COMMENT ON TABLE inbox.log_%1$s IS 'A segment of the log: events as Kafka had them. Emptied as a whole when its retention is over.';
            COMMENT ON COLUMN inbox.log_%1$s.source_id IS 'The subscription that read it.';
            COMMENT ON COLUMN inbox.log_%1$s.lane IS 'The lane, in which order is kept.';
            COMMENT ON COLUMN inbox.log_%1$s.position IS 'The place in the log of this database.';
            COMMENT ON COLUMN inbox.log_%1$s.partition IS 'The number of its partition; see inbox.partition.';
            COMMENT ON COLUMN inbox.log_%1$s."offset" IS 'The offset in the partition.';
            COMMENT ON COLUMN inbox.log_%1$s.produced_at IS 'The record''s timestamp.';
            COMMENT ON COLUMN inbox.log_%1$s.key IS 'The record''s key.';
            COMMENT ON COLUMN inbox.log_%1$s.value IS 'The record''s value; NULL for a tombstone.';
            COMMENT ON COLUMN inbox.log_%1$s.headers IS 'The record''s headers, packed; NULL if it has none.';
        $ddl$, n);
    END LOOP;
END
$once$;

CREATE VIEW inbox.log AS
              SELECT * FROM inbox.log_0 UNION ALL SELECT * FROM inbox.log_1
    UNION ALL SELECT * FROM inbox.log_2 UNION ALL SELECT * FROM inbox.log_3
    UNION ALL SELECT * FROM inbox.log_4 UNION ALL SELECT * FROM inbox.log_5
    UNION ALL SELECT * FROM inbox.log_6 UNION ALL SELECT * FROM inbox.log_7;
COMMENT ON VIEW inbox.log IS 'All segments of the log.';

CREATE TABLE inbox.segment (
    number         smallint    PRIMARY KEY CHECK (number BETWEEN 0 AND 7),
    first_position bigint      NOT NULL,
    opened_at      timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE inbox.segment IS 'The segments of the log that hold events. The one with the greatest first position is being written.';
COMMENT ON COLUMN inbox.segment.number IS 'The segment inbox.log_N.';
COMMENT ON COLUMN inbox.segment.first_position IS 'No event in it has a lower position.';
COMMENT ON COLUMN inbox.segment.opened_at IS 'When its first event was stored.';

CREATE TABLE inbox.seen (
    is_only   boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (is_only),
    number    integer     NOT NULL CHECK (number IN (0, 1)),
    opened_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE inbox.seen IS 'Which of inbox.seen_0 and inbox.seen_1 new ids of events go into. Both are asked.';
COMMENT ON COLUMN inbox.seen.is_only IS 'There is one row.';
COMMENT ON COLUMN inbox.seen.number IS 'The table inbox.seen_N.';
COMMENT ON COLUMN inbox.seen.opened_at IS 'Since when. After the longest time for which ids are remembered, the other is emptied and used.';

CREATE TABLE inbox.seen_0 (
    source_id integer NOT NULL,
    digest    bytea   NOT NULL,
    PRIMARY KEY (source_id, digest)
) WITH (autovacuum_enabled = off);
COMMENT ON TABLE inbox.seen_0 IS 'Ids of events that were stored, for subscriptions that drop duplicates.';
COMMENT ON COLUMN inbox.seen_0.source_id IS 'The subscription.';
COMMENT ON COLUMN inbox.seen_0.digest IS 'The first 16 bytes of the id''s SHA-256.';

CREATE TABLE inbox.seen_1 (LIKE inbox.seen_0 INCLUDING ALL) WITH (autovacuum_enabled = off);
COMMENT ON TABLE inbox.seen_1 IS 'Ids of events that were stored, for subscriptions that drop duplicates.';
COMMENT ON COLUMN inbox.seen_1.source_id IS 'The subscription.';
COMMENT ON COLUMN inbox.seen_1.digest IS 'The first 16 bytes of the id''s SHA-256.';

-- A foreign key would have each receiver lock the one row of the subscription. Whoever ends a subscription holds the locks
-- of all its lanes.
CREATE TABLE inbox.lane (
    subscription_id  integer     NOT NULL,
    lane             smallint    NOT NULL,
    seq              bigint      NOT NULL,
    upto             bigint      NOT NULL,
    batch_limit      integer     NOT NULL DEFAULT 0,
    lease            uuid,
    lease_upto       bigint,
    lease_count      integer,
    lease_expires_at timestamptz,
    suspect_upto     bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (subscription_id, lane, seq)
);
COMMENT ON TABLE inbox.lane IS
    'The state of each lane of a subscription: each change inserts a row. The newest counts; the primary key keeps two transactions from building on the same one.';
COMMENT ON COLUMN inbox.lane.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.lane.lane IS 'The lane.';
COMMENT ON COLUMN inbox.lane.seq IS 'The number of the state.';
COMMENT ON COLUMN inbox.lane.upto IS 'Events up to this position are acknowledged, dead, or in inbox.retry.';
COMMENT ON COLUMN inbox.lane.batch_limit IS 'How many events may be received at once, after a failure; 0 for no limit.';
COMMENT ON COLUMN inbox.lane.lease IS 'The token of the lease that holds the next events, if any.';
COMMENT ON COLUMN inbox.lane.lease_upto IS 'The lease holds the events up to this position.';
COMMENT ON COLUMN inbox.lane.lease_count IS 'The number of events that the lease holds.';
COMMENT ON COLUMN inbox.lane.lease_expires_at IS 'When the lease expires.';
COMMENT ON COLUMN inbox.lane.suspect_upto IS 'Events after upto and up to this position were being received when the server crashed, or may have been; they are received alone.';

CREATE TABLE inbox.retry (
    subscription_id integer     NOT NULL,
    position        bigint      NOT NULL,
    lane            smallint    NOT NULL,
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    "offset"        bigint      NOT NULL,
    produced_at     timestamptz,
    key             bytea,
    value           bytea,
    headers         bytea,
    order_key       bytea,
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text,
    failed_at       timestamptz,
    is_suspect      boolean     NOT NULL DEFAULT false,
    skip_after      bigint      NOT NULL,
    PRIMARY KEY (subscription_id, position)
);
CREATE INDEX retry_by_lane ON inbox.retry (subscription_id, lane, position);
COMMENT ON TABLE inbox.retry IS 'Events that failed and wait for another attempt, and later events of their keys, which wait for them.';
COMMENT ON COLUMN inbox.retry.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.retry.position IS 'The place in the log.';
COMMENT ON COLUMN inbox.retry.lane IS 'The lane.';
COMMENT ON COLUMN inbox.retry.topic IS 'The topic.';
COMMENT ON COLUMN inbox.retry.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.retry."offset" IS 'The offset in the partition.';
COMMENT ON COLUMN inbox.retry.produced_at IS 'The record''s timestamp.';
COMMENT ON COLUMN inbox.retry.key IS 'The record''s key.';
COMMENT ON COLUMN inbox.retry.value IS 'The record''s value; NULL for a tombstone.';
COMMENT ON COLUMN inbox.retry.headers IS 'The record''s headers, packed.';
COMMENT ON COLUMN inbox.retry.order_key IS 'Events with the same value keep their order; NULL for an event that waits for no other.';
COMMENT ON COLUMN inbox.retry.attempts IS 'How often it failed; 0 for an event that waits for another.';
COMMENT ON COLUMN inbox.retry.next_attempt_at IS 'When it may be received again; NULL for an event that waits for another.';
COMMENT ON COLUMN inbox.retry.last_error IS 'Why it failed last.';
COMMENT ON COLUMN inbox.retry.failed_at IS 'When it failed last.';
COMMENT ON COLUMN inbox.retry.is_suspect IS 'It was being received when the server crashed, or may have been; it is received alone.';
COMMENT ON COLUMN inbox.retry.skip_after IS
    'A seek has skipped it if inbox.partition.first_position is greater: also one that did not see it, because it was just being set aside.';

CREATE TABLE inbox.dead_letters (
    dead_letter_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id integer     NOT NULL,
    position        bigint      NOT NULL,
    lane            smallint    NOT NULL,
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    "offset"        bigint      NOT NULL,
    produced_at     timestamptz,
    key             bytea,
    value           bytea,
    headers         bytea,
    order_key       bytea,
    attempts        integer     NOT NULL,
    last_error      text        NOT NULL,
    died_at         timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX dead_letters_by_position ON inbox.dead_letters (subscription_id, position);
COMMENT ON TABLE inbox.dead_letters IS
    'Events whose attempts are used up. inbox.redrive() has them received again; inbox.discard() deletes them.';
COMMENT ON COLUMN inbox.dead_letters.dead_letter_id IS 'Identifies the dead letter.';
COMMENT ON COLUMN inbox.dead_letters.subscription_id IS 'The subscription.';
COMMENT ON COLUMN inbox.dead_letters.position IS 'The place in the log.';
COMMENT ON COLUMN inbox.dead_letters.lane IS 'The lane.';
COMMENT ON COLUMN inbox.dead_letters.topic IS 'The topic.';
COMMENT ON COLUMN inbox.dead_letters.partition IS 'The partition of the topic.';
COMMENT ON COLUMN inbox.dead_letters."offset" IS 'The offset in the partition.';
COMMENT ON COLUMN inbox.dead_letters.produced_at IS 'The record''s timestamp.';
COMMENT ON COLUMN inbox.dead_letters.key IS 'The record''s key.';
COMMENT ON COLUMN inbox.dead_letters.value IS 'The record''s value; NULL for a tombstone.';
COMMENT ON COLUMN inbox.dead_letters.headers IS 'The record''s headers, packed.';
COMMENT ON COLUMN inbox.dead_letters.order_key IS 'Events with the same value keep their order.';
COMMENT ON COLUMN inbox.dead_letters.attempts IS 'How often it failed.';
COMMENT ON COLUMN inbox.dead_letters.last_error IS 'Why it failed last.';
COMMENT ON COLUMN inbox.dead_letters.died_at IS 'When its attempts were used up.';

CREATE TABLE inbox.subscription_grants (
    role            regrole NOT NULL,
    subscription_id integer NOT NULL REFERENCES inbox.subscription,
    PRIMARY KEY (role, subscription_id)
);
COMMENT ON TABLE inbox.subscription_grants IS 'Who may receive from which subscription besides its owner. See inbox.grant_subscription().';
COMMENT ON COLUMN inbox.subscription_grants.role IS 'The role.';
COMMENT ON COLUMN inbox.subscription_grants.subscription_id IS 'The subscription.';

CREATE TABLE inbox.topic_grants (
    role    regrole NOT NULL,
    pattern text    NOT NULL,
    PRIMARY KEY (role, pattern)
);
COMMENT ON TABLE inbox.topic_grants IS
    'Who may subscribe to which topics besides superusers. Kafka is read with the server''s credentials. See inbox.grant_topic().';
COMMENT ON COLUMN inbox.topic_grants.role IS 'The role.';
COMMENT ON COLUMN inbox.topic_grants.pattern IS 'A topic, or a pattern of topics that ends in *.';

DO $once$
DECLARE
    config record;
BEGIN
    FOR config IN
        SELECT pg_catalog.unnest(ARRAY['subscription', 'partition', 'progress', 'log_0', 'log_1', 'log_2', 'log_3', 'log_4', 'log_5',
                                       'log_6', 'log_7', 'segment', 'seen', 'seen_0', 'seen_1', 'lane', 'retry', 'dead_letters', 'subscription_grants',
                                       'topic_grants', 'subscription_id_seq', 'dead_letters_dead_letter_id_seq']) AS name
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('inbox.%I', config.name)::pg_catalog.regclass, '');
    END LOOP;
END
$once$;
