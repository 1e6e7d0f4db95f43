//! Owns the statements by which an append reads and writes the tables, where [`super::direct`] does not.
//!
//! Runs in: client backends, as the owner of the tables.

use pgrx::prelude::*;

use super::row::{EventRow, Stream};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, OrderedScans, Statement};

static LOCK: Statement = Statement::new(
    c"SELECT s.id, s.tombstoned_at IS NOT NULL FROM event_store.stream AS s \
       WHERE s.name OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
    &[pg_sys::TEXTOID],
);

static CREATE: Statement = Statement::new(
    c"INSERT INTO event_store.stream (name, category) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID],
);

static LAST: Statement = Statement::new(
    c"SELECT e.version FROM event_store.event AS e WHERE e.stream_id OPERATOR(pg_catalog.=) $1 \
       ORDER BY e.version USING OPERATOR(pg_catalog.>) LIMIT 1",
    &[pg_sys::INT8OID],
);

static COMMAND: Statement = Statement::new(
    c"SELECT c.version FROM event_store.command AS c \
       WHERE c.stream_id OPERATOR(pg_catalog.=) $1 AND c.command_id OPERATOR(pg_catalog.=) $2",
    &[pg_sys::INT8OID, pg_sys::TEXTOID],
);

static KNOWN: Statement = Statement::new(
    c"SELECT e.version FROM event_store.event AS e \
       WHERE e.stream_id OPERATOR(pg_catalog.=) $1 AND e.event_id OPERATOR(pg_catalog.=) $2 AND e.is_id_given",
    &[pg_sys::INT8OID, pg_sys::UUIDOID],
);

static INSERT: Statement = Statement::new(
    c"INSERT INTO event_store.event (stream_id, version, category, recorded_at, event_id, is_id_given, type, data, metadata, \
                                     causation_id, correlation_id) \
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING position",
    &[
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::TEXTOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::UUIDOID,
        pg_sys::BOOLOID,
        pg_sys::TEXTOID,
        pg_sys::JSONBOID,
        pg_sys::JSONBOID,
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
    ],
);

static REMEMBER: Statement = Statement::new(
    c"INSERT INTO event_store.command (stream_id, command_id, version) VALUES ($1, $2, $3)",
    &[pg_sys::INT8OID, pg_sys::TEXTOID, pg_sys::INT8OID],
);

/// Runs one of the statements, and returns the first value of its first row.
fn first<T: FromDatum>(
    statement: &Statement,
    arguments: &[Option<pg_sys::Datum>],
    access: Access,
) -> Option<T> {
    connected(|| statement.execute(arguments, access, 1).iter().next().and_then(|row| row.get(1)))
}

fn connected<R>(work: impl FnOnce() -> R) -> R {
    // Statements that are kept must not scan tables, which were small when they were planned.
    let _plans = OrderedScans::only();
    spi::connected(work)
}

/// Locks a stream until the end of the transaction, if there is one of this name.
pub fn lock(name: &str) -> Option<Stream> {
    connected(|| {
        let rows = LOCK.execute(&[name.into_datum()], Access::Write, 1);
        let row = rows.iter().next()?;
        Some(Stream { id: row.get(1)?, is_tombstoned: row.get(2)? })
    })
}

/// Creates a stream, unless another transaction has created it meanwhile.
pub fn create(name: &str, category: &str) -> Option<i64> {
    first(&CREATE, &[name.into_datum(), category.into_datum()], Access::Write)
}

/// The version of a locked stream. What is committed counts, though the transaction may keep to an older snapshot: the stream
/// is locked.
pub fn last_version(stream: i64) -> i64 {
    let _snapshot = Snapshot::take_latest();
    first(&LAST, &[stream.into_datum()], Access::Read).unwrap_or(0)
}

/// The version at which a command has left a locked stream.
pub fn version_of_command(stream: i64, command: &str) -> Option<i64> {
    let _snapshot = Snapshot::take_latest();
    first(&COMMAND, &[stream.into_datum(), command.into_datum()], Access::Read)
}

/// The version at which a locked stream has an event with this id, which its writer chose.
pub fn version_of_event(stream: i64, id: pgrx::Uuid) -> Option<i64> {
    let _snapshot = Snapshot::take_latest();
    first(&KNOWN, &[stream.into_datum(), id.into_datum()], Access::Read)
}

/// Stores an event, and returns its position.
pub fn insert(row: &EventRow) -> i64 {
    first(&INSERT, row, Access::Write).unwrap_or(0)
}

/// Stores that a command was handled.
pub fn remember(stream: i64, command: &str, version: i64) {
    connected(|| {
        let arguments = [stream.into_datum(), command.into_datum(), version.into_datum()];
        REMEMBER.execute(&arguments, Access::Write, 0);
    });
}
