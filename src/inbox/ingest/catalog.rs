//! Owns what the worker reads of the definitions: subscriptions, their partitions, and how far they were read.
//!
//! Runs in: an ingest worker, main thread, in a transaction.

use event_outbox_policy::inbox::data_loss::OnDataLoss;
use event_outbox_policy::inbox::lanes::Ordering;
use event_outbox_policy::store::cursor::Cursor;
use pgrx::prelude::*;

use crate::inbox::handlers::supervisor::Wanted;
use crate::inbox::handlers::task::Task;
use crate::inbox::table::{SUBSCRIPTION, as_owner};
use crate::kafka::consumer::messages::LastRead;
use crate::pg::backend;
use crate::pg::spi::{Access, Row, Statement};

/// A subscription that reads topics; a replay reads none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its id.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// Which events keep their order.
    pub ordering: Ordering,
    /// What it does about lost data.
    pub on_data_loss: OnDataLoss,
    /// Whether it drops what producers have sent twice.
    pub drops_duplicates: bool,
    /// Raised by each seek.
    pub generation: i64,
    /// Its topics, without those that its pattern has found.
    pub topics: Vec<String>,
    /// The pattern of its topics, if it has one.
    pub pattern: Option<String>,
    /// Its share of the partitions: which, and of how many.
    pub share: (i32, i32),
    /// Whether it is a projection.
    pub is_projection: bool,
    /// The number of its last batch.
    pub batch: i64,
    /// Its partitions, by their numbers; the categories of one of the event store.
    pub partitions: Vec<Partition>,
    /// What was taken, if it takes events of the event store.
    pub cursor: Option<Cursor>,
}

/// A partition of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its topic.
    pub topic: String,
    /// The partition of the topic.
    pub partition: i32,
    /// The topic's id, if it is known.
    pub topic_id: Option<String>,
    /// The offset of the next record.
    pub next_offset: i64,
    /// The last record that was read, if its leader epoch is known and it was not left behind.
    pub last_read: Option<LastRead>,
    /// It stopped because of lost data.
    pub is_stopped: bool,
    /// The topic has it, as far as is known. It has not if it was created again with fewer partitions.
    pub exists: bool,
}

impl Partition {
    /// Whether it is read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.exists && !self.is_stopped
    }
}

static SUBSCRIPTIONS: Statement = Statement::new(
    c"SELECT s.id, s.name, s.ordering, s.on_data_loss, s.generation, s.pattern, s.share_index, s.share_count, \
             coalesce(p.batch, 0), CASE WHEN p.generation OPERATOR(pg_catalog.=) s.generation THEN p.next_offsets END, \
             s.deduplicate IS NOT NULL, \
             CASE WHEN p.generation OPERATOR(pg_catalog.=) s.generation THEN p.leader_epochs END, \
             CASE WHEN p.generation OPERATOR(pg_catalog.=) s.generation THEN p.epoch_ends END, \
             EXISTS (SELECT FROM inbox.projection AS j WHERE j.subscription_id OPERATOR(pg_catalog.=) s.id), s.topics, s.is_local, \
             CASE WHEN p.generation OPERATOR(pg_catalog.=) s.generation THEN p.undecided END \
        FROM inbox.subscription AS s \
        LEFT JOIN LATERAL (SELECT p.batch, p.generation, p.next_offsets, p.leader_epochs, p.epoch_ends, p.undecided \
                             FROM inbox.progress AS p \
                            WHERE p.source_id OPERATOR(pg_catalog.=) s.id ORDER BY p.batch DESC LIMIT 1) AS p ON true \
       WHERE s.source_id OPERATOR(pg_catalog.=) s.id ORDER BY s.id",
    &[],
);

static PARTITIONS: Statement = Statement::new(
    c"SELECT p.number, p.topic, p.partition, p.topic_id, p.start_offset, p.state OPERATOR(pg_catalog.=) 'stopped' \
        FROM inbox.partition AS p WHERE p.source_id OPERATOR(pg_catalog.=) $1 ORDER BY p.number",
    &[pg_sys::INT4OID],
);

static LAST_POSITION: Statement = Statement::new(c"SELECT inbox.last_position()", &[]);

static ANY: Statement = Statement::new(c"SELECT FROM inbox.subscription LIMIT 1", &[]);

static HANDLERS: Statement = Statement::new(
    c"SELECT s.name, h.workers, h.batch, p.oid, p.proowner, \
             p.proargtypes[0] OPERATOR(pg_catalog.=) 'inbox.event[]'::pg_catalog.regtype \
        FROM inbox.handler AS h JOIN inbox.subscription AS s ON s.id OPERATOR(pg_catalog.=) h.subscription_id \
             JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(h.handler) \
       WHERE s.paused_at IS NULL",
    &[],
);

/// The handlers of the subscriptions that are not paused, and whose function exists.
#[must_use]
pub fn handlers() -> Vec<Wanted<Task>> {
    let handler = |row: Row| {
        let task = Task {
            database: backend::database(),
            role: row.get(5)?,
            function: row.get(4)?,
            takes_array: row.get(6)?,
            batch: row.get(3)?,
            subscription: row.get(1)?,
        };
        Some(Wanted { task, workers: usize::try_from(row.get::<i32>(2)?).ok()? })
    };
    as_owner(|| HANDLERS.execute(&[], Access::Read, 0).iter().filter_map(handler).collect())
}

/// Whether the database has the inbox, and a subscription. Call it in a transaction.
#[must_use]
pub fn has_subscriptions() -> bool {
    SUBSCRIPTION.oid() != pg_sys::InvalidOid && as_owner(|| !ANY.execute(&[], Access::Read, 1).is_empty())
}

/// The last position that was given to an event.
#[must_use]
pub fn last_position() -> i64 {
    as_owner(|| LAST_POSITION.execute(&[], Access::Read, 1).iter().next().and_then(|row| row.get(1)))
        .unwrap_or(0)
}

/// The subscriptions that read topics, or categories of the event store.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    as_owner(|| {
        let rows = SUBSCRIPTIONS.execute(&[], Access::Read, 0);
        rows.iter().filter_map(|row| definition(&row)).collect()
    })
}

fn definition(row: &Row) -> Option<Definition> {
    let id: i32 = row.get(1)?;
    let next_offsets: Vec<Option<i64>> = row.get(10).unwrap_or_default();
    let leader_epochs: Vec<Option<i32>> = row.get(12).unwrap_or_default();
    let epoch_ends: Vec<Option<i64>> = row.get(13).unwrap_or_default();
    let last_read = |place: usize| {
        let leader_epoch = leader_epochs.get(place).copied().flatten()?;
        Some(LastRead { leader_epoch, end: epoch_ends.get(place).copied().flatten()? })
    };
    let rows = PARTITIONS.execute(&[id.into_datum()], Access::Read, 0);
    let partition = |(place, row): (usize, Row)| {
        let stored = next_offsets.get(place).copied().flatten();
        Some(Partition {
            topic: row.get(2)?,
            partition: row.get(3)?,
            topic_id: row.get(4),
            next_offset: stored.or(row.get(5))?,
            last_read: last_read(place),
            is_stopped: row.get(6)?,
            exists: true,
        })
    };
    let partitions: Vec<Partition> = rows.iter().enumerate().map_while(partition).collect();
    let is_local: bool = row.get(16)?;
    let cursor = is_local.then(|| {
        let undecided: Vec<i64> = row.get(17).unwrap_or_default();
        let next = partitions.iter().map(|partition| partition.next_offset).min().unwrap_or(1);
        let ranges = undecided.chunks_exact(2).map(|range| (range[0], range[1]));
        Cursor::new(next - 1, ranges.collect())
    });
    Some(Definition {
        id,
        cursor,
        name: row.get(2)?,
        ordering: row.get::<String>(3)?.parse().ok()?,
        on_data_loss: row.get::<String>(4)?.parse().ok()?,
        drops_duplicates: row.get(11)?,
        is_projection: row.get(14)?,
        generation: row.get(5)?,
        topics: row.get(15).unwrap_or_default(),
        pattern: row.get(6),
        share: (row.get(7)?, row.get(8)?),
        batch: row.get(9)?,
        partitions,
    })
}
