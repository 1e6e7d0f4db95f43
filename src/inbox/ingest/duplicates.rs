//! Finds events that a producer has sent twice, by their ids, for subscriptions that drop them.
//!
//! Ids are remembered in two tables: new ones go into one of them, and both are asked. When the one has been in use for as long
//! as ids are to be remembered, the other is emptied and used instead. Only a digest of each id is kept: producers choose how
//! long ids are.
//!
//! Runs in: an ingest worker, main thread, in the transaction that stores a batch.

use std::borrow::Cow;
use std::collections::HashSet;

use event_outbox_policy::inbox::attributes::Attributes;
use event_outbox_policy::inbox::records::{self, RecordRef};
use event_outbox_policy::inbox::structured;
use pgrx::prelude::*;

use crate::pg::spi::{Access, Statement};
use crate::pg::varlena;

/// Remembers ids, and returns those that are remembered already. Each id is asked once.
static KNOWN: Statement = Statement::new(
    c"WITH asked AS MATERIALIZED ( \
          SELECT e.id, pg_catalog.substr(pg_catalog.sha256(pg_catalog.convert_to(e.id, 'UTF8')), 1, 16) AS digest \
            FROM pg_catalog.unnest($2) AS e (id)), \
      known AS MATERIALIZED ( \
          SELECT a.id FROM asked AS a \
           WHERE EXISTS (SELECT FROM inbox.seen_0 AS s WHERE s.source_id OPERATOR(pg_catalog.=) $1 \
                                                         AND s.digest OPERATOR(pg_catalog.=) a.digest) \
              OR EXISTS (SELECT FROM inbox.seen_1 AS s WHERE s.source_id OPERATOR(pg_catalog.=) $1 \
                                                         AND s.digest OPERATOR(pg_catalog.=) a.digest)), \
      current AS (SELECT coalesce((SELECT s.number FROM inbox.seen AS s), 0) AS number), \
      into_0 AS (INSERT INTO inbox.seen_0 (source_id, digest) SELECT $1, a.digest FROM asked AS a, current AS c \
                  WHERE c.number OPERATOR(pg_catalog.=) 0 ON CONFLICT DO NOTHING), \
      into_1 AS (INSERT INTO inbox.seen_1 (source_id, digest) SELECT $1, a.digest FROM asked AS a, current AS c \
                  WHERE c.number OPERATOR(pg_catalog.=) 1 ON CONFLICT DO NOTHING) \
      SELECT k.id FROM known AS k",
    &[pg_sys::INT4OID, pg_sys::TEXTARRAYOID],
);

/// The table that is no longer needed, if the other has been in use long enough.
static OUTDATED: Statement = Statement::new(
    c"SELECT 1 OPERATOR(pg_catalog.-) s.number FROM inbox.seen AS s \
       WHERE s.opened_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) \
             (SELECT pg_catalog.max(d.deduplicate) FROM inbox.subscription AS d))",
    &[],
);

static EMPTY: [Statement; 2] =
    [Statement::new(c"TRUNCATE inbox.seen_0", &[]), Statement::new(c"TRUNCATE inbox.seen_1", &[])];

/// Fails at once if somebody reads the table, such as a dump.
static LOCK: [Statement; 2] = [
    Statement::new(c"LOCK TABLE inbox.seen_0 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE inbox.seen_1 IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
];

static USE: Statement = Statement::new(
    c"INSERT INTO inbox.seen (number) VALUES ($1) \
      ON CONFLICT (is_only) DO UPDATE SET number = excluded.number, opened_at = excluded.opened_at",
    &[pg_sys::INT4OID],
);

/// Begins with the first table, if ids are remembered at all.
static BEGIN: Statement = Statement::new(
    c"INSERT INTO inbox.seen (number) \
      SELECT 0 FROM inbox.subscription AS s WHERE s.deduplicate IS NOT NULL LIMIT 1 ON CONFLICT DO NOTHING",
    &[],
);

/// Those of the records that are to be stored: not those whose id was stored before. As the owner of the tables.
#[must_use]
pub fn without<'a>(source: i32, all: Vec<RecordRef<'a>>) -> Vec<RecordRef<'a>> {
    let ids: Vec<Option<String>> = all.iter().map(event_id).collect();
    let asked: HashSet<&str> = ids.iter().flatten().map(String::as_str).collect();
    if asked.is_empty() {
        return all;
    }
    let asked: Vec<&str> = asked.into_iter().collect();
    let rows = KNOWN.execute(&[source.into_datum(), asked.into_datum()], Access::Write, 0);
    let known: HashSet<String> = rows.iter().filter_map(|row| row.get(1)).collect();
    let mut met = HashSet::new();
    let is_new =
        |id: &Option<String>| id.as_ref().is_none_or(|id| !known.contains(id) && met.insert(id.clone()));
    let are_new: Vec<bool> = ids.iter().map(is_new).collect();
    all.into_iter().zip(are_new).filter_map(|(record, is_new)| is_new.then_some(record)).collect()
}

/// The id of a record's event.
fn event_id(record: &RecordRef<'_>) -> Option<String> {
    let unfolded = record
        .value
        .filter(|_| structured::is_structured(records::headers(record.headers)))
        .and_then(|value| {
            varlena::require_memory((record.headers.len() + value.len()).saturating_mul(structured::MEMORY));
            structured::unfold(record.headers, value)
        });
    let packed = unfolded.as_ref().map_or(record.headers, |event| &event.headers);
    Attributes::of(records::headers(packed)).event_id.map(Cow::into_owned)
}

/// Forgets the ids that were remembered for long enough. As the owner of the tables. An ERROR if somebody reads the table.
pub fn forget() {
    BEGIN.execute(&[], Access::Write, 0);
    let outdated = OUTDATED.execute(&[], Access::Write, 1).iter().next().and_then(|row| row.get::<i32>(1));
    if let Some(table) = outdated.filter(|table| (0..2).contains(table)) {
        LOCK[table as usize].execute(&[], Access::Write, 0);
        EMPTY[table as usize].execute(&[], Access::Write, 0);
        USE.execute(&[table.into_datum()], Access::Write, 0);
    }
}
