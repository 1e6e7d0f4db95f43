//! Owns the numbers of events: per topic and key, without gaps, for the topics in `outbox.sequenced_topics`
//! (`sql/outbox/sequences.sql`).
//!
//! A number is drawn by an update of the key's row, which stays locked until the end of the transaction. So a rollback takes
//! it back, and the next transaction waits. The event's id is drawn behind the number, and so has the same order.
//!
//! Each session caches the topics, as the grants of topics are ([`super::topic_grants`]). So emitting costs next to nothing
//! more while no topic is numbered.
//!
//! Runs in: client backends.

use std::cell::RefCell;
use std::collections::HashSet;

use pgrx::prelude::*;

use super::additions;
use crate::outbox::table::{SEQUENCED_TOPICS, SEQUENCED_TOPICS_WATCH, SEQUENCES};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};

/// The header that has the number.
const NUMBER: &str = "outbox_seq";

static TOPICS: Statement = Statement::new(c"SELECT s.topic FROM outbox.sequenced_topics AS s", &[]);

static NEXT: Statement = Statement::new(
    c"INSERT INTO outbox.sequences AS s (topic, key_digest, last) \
      VALUES ($1, pg_catalog.substr(pg_catalog.sha256($2), 1, 16), 1) \
      ON CONFLICT (topic, key_digest) DO UPDATE SET last = s.last OPERATOR(pg_catalog.+) 1 RETURNING s.last",
    &[pg_sys::TEXTOID, pg_sys::BYTEAOID],
);

/// The numbered topics as of the change numbered `age`.
struct Known {
    age: u64,
    topics: HashSet<String>,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// The headers of a new event, a value of the type json, with its number, if its topic is numbered. An event without a key
/// has no order, and so no number. One that has a number, as one that is inserted again, keeps it. Draws a number: call it
/// once for each event, before it has an id.
pub fn to_headers(
    topic: &str,
    key: Option<pg_sys::Datum>,
    own: Option<pg_sys::Datum>,
) -> Option<Option<pg_sys::Datum>> {
    let key = key.filter(|_| is_numbered(topic) && additions::lack(own, NUMBER))?;
    let number = next(topic, key);
    Some(additions::with(own, NUMBER, &number.to_string()))
}

fn next(topic: &str, key: pg_sys::Datum) -> i64 {
    let _owner = UserContext::switch_to(Owner::of(SEQUENCES));
    let number = spi::connected(|| {
        let rows = NEXT.execute(&[topic.into_datum(), Some(key)], Access::Write, 0);
        rows.iter().next().and_then(|row| row.get(1))
    });
    number.unwrap_or_else(|| {
        error!("a trigger on outbox.sequences has prevented the event from being numbered");
    })
}

fn is_numbered(topic: &str) -> bool {
    refresh();
    KNOWN.with_borrow(|known| known.as_ref().is_some_and(|known| known.topics.contains(topic)))
}

/// Reads the topics again if they have changed. The check of the topic's grants has just accepted invalidations.
fn refresh() {
    let age = SEQUENCED_TOPICS_WATCH.changes();
    if KNOWN.with_borrow(|known| known.as_ref().is_some_and(|known| known.age == age)) {
        return;
    }
    let table = SEQUENCED_TOPICS.oid();
    SEQUENCED_TOPICS_WATCH.set_table(table);
    let age = SEQUENCED_TOPICS_WATCH.changes();
    // The objects may be those of an earlier release.
    let topics = if table == pg_sys::InvalidOid { HashSet::new() } else { read() };
    KNOWN.set((table != pg_sys::InvalidOid).then_some(Known { age, topics }));
}

fn read() -> HashSet<String> {
    let _owner = UserContext::switch_to(Owner::of(SEQUENCED_TOPICS));
    // The latest snapshot, not the transaction's: the cache outlives the transaction.
    let _snapshot = Snapshot::take_latest();
    spi::connected(|| TOPICS.execute(&[], Access::Read, 0).iter().filter_map(|row| row.get(1)).collect())
}
