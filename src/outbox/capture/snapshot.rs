//! Owns snapshots of captured tables: the rows that are there become events, beside the changes of others.
//!
//! The last event of a key must tell of its row as it is. So a row is locked while its event is made and until that is
//! committed: what others changed before has an earlier event, and what they change afterwards gets a later one. Rows that
//! others have locked are left out of a chunk, and done one by one: a session that waits while it holds other rows could
//! end a transaction of the application by a deadlock.
//!
//! Runs in: client backends.

use std::collections::HashSet;
use std::ffi::{CStr, CString};

use event_outbox_policy::event::capture::change::{Action, Update};
use pgrx::prelude::*;

use super::cache::{self, Capture};
use super::event::Change;
use super::row::{Column, Row};
use super::table::{command, identifier, no_table, open, ours, primary_key, qualified};
use super::writer::Writer;
use crate::outbox::emit::append::Table;
use crate::outbox::emit::topic_grants;
use crate::pg::catalog;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::relation::OpenRelation;
use crate::pg::session_format::CanonicalFormat;
use crate::pg::spi::{self, Access, Rows, Statement};
use crate::pg::user_error::UserError;

sql_function!(outbox_emit_snapshot, pg_finfo_outbox_emit_snapshot, emit_snapshot);

/// The lock of a reader who locks rows.
const LOCK: pg_sys::LOCKMODE = pg_sys::RowShareLock as pg_sys::LOCKMODE;

/// How many rows are fetched at once by a snapshot in one transaction.
const FETCHED: i64 = 1000;

static CONDITION: Statement = Statement::new(
    c"SELECT pg_catalog.substring(pg_catalog.pg_get_triggerdef($1), ' WHEN (\\(.*\\)) EXECUTE FUNCTION ')",
    &[pg_sys::OIDOID],
);

fn emit_snapshot(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let Some(table) = arguments.oid(0) else { no_table() };
    let chunk = arguments.integer(1).unwrap_or(1000).clamp(1, 10_000);
    if !arguments.may_commit() {
        in_a_transaction().raise();
    }
    let mut done = None;
    loop {
        next_transaction();
        let Some(page) = next_page(table, done.as_deref(), chunk) else { break };
        let upto = page.keys.last()?.clone();
        let left = emit_page(table, done.as_deref(), &upto, &page.keys);
        for key in left {
            next_transaction();
            emit_one(table, &key);
        }
        done = Some(upto);
    }
    spi::commit();
    None
}

/// Emits all rows in this transaction, in which nobody else writes to the table.
pub fn emit_at_once(table: &OpenRelation) {
    let source = source(table);
    let query = command(format!("SELECT new.* FROM {}", source.rows));
    // SAFETY: the query is a C string. The portal lives until it is closed, or the transaction ends.
    spi::connected(|| unsafe {
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() {
            error!("could not prepare \"{}\"", query.to_string_lossy());
        }
        let portal =
            pg_sys::SPI_cursor_open(std::ptr::null(), plan, std::ptr::null_mut(), std::ptr::null(), false);
        loop {
            pg_sys::SPI_cursor_fetch(portal, true, FETCHED as std::ffi::c_long);
            let rows = Rows::of_last_call();
            if rows.is_empty() {
                break;
            }
            emit_rows(table, &rows);
            rows.free();
        }
        pg_sys::SPI_cursor_close(portal);
    });
}

/// Ends the transaction. In the next one each statement sees what was committed before it, whatever the session prefers.
fn next_transaction() {
    spi::commit();
    spi::connected(|| spi::run(c"SET TRANSACTION ISOLATION LEVEL READ COMMITTED"));
}

/// Where the rows of a capture come from.
struct Source {
    /// The table under the name `new`, and the condition of the capture.
    rows: String,
    /// The columns of the primary key, as they are written in SQL.
    key: Vec<String>,
    names: Vec<CString>,
}

fn source(table: &OpenRelation) -> Source {
    let Some(trigger) = ours(table).next() else { not_captured(table) };
    let id = [trigger.tgoid.into_datum()];
    let condition = spi::connected(|| {
        let found = CONDITION.execute(&id, Access::Read, 1);
        found.row(0).get::<&str>(1).map(str::to_owned)
    });
    // Children by inheritance have captures of their own.
    let only = if table.class().relkind as u8 == pg_sys::RELKIND_RELATION { "ONLY " } else { "" };
    let rows = format!("{only}{} AS new WHERE {}", qualified(table), condition.as_deref().unwrap_or("true"));
    let names = primary_key(table);
    Source { rows, key: names.iter().map(|name| format!("new.{}", identifier(name))).collect(), names }
}

impl Source {
    fn key(&self) -> String {
        format!("({})", self.key.join(", "))
    }

    /// The rows behind one key, up to another.
    fn between(&self, after: Option<&str>, upto: Option<&str>) -> String {
        let key = self.key();
        let after = after.map_or_else(String::new, |after| format!(" AND {key} > {after}"));
        let upto = upto.map_or_else(String::new, |upto| format!(" AND {key} <= {upto}"));
        format!("{}{after}{upto}", self.rows)
    }
}

/// The keys of the next rows, each as it is written in SQL.
struct Page {
    keys: Vec<String>,
}

/// `None` if there are no more rows.
fn next_page(table: pg_sys::Oid, after: Option<&str>, chunk: i32) -> Option<Page> {
    let opened = open(table, LOCK);
    let source = source(&opened);
    if source.key.is_empty() {
        no_primary_key(&opened);
    }
    let _format = CanonicalFormat::set();
    let columns = source.key.join(", ");
    let rows = source.between(after, None);
    let query = command(format!("SELECT {columns} FROM {rows} ORDER BY {columns} LIMIT {chunk}"));
    let keys = spi::connected(|| keys_of(&spi::query(&query, Access::Read), &source.names));
    (!keys.is_empty()).then_some(Page { keys })
}

/// Emits the rows of a page that nobody else has locked. Gives the keys of the others.
fn emit_page(table: pg_sys::Oid, after: Option<&str>, upto: &str, keys: &[String]) -> Vec<String> {
    let opened = open(table, LOCK);
    let source = source(&opened);
    let _format = CanonicalFormat::set();
    let rows = source.between(after, Some(upto));
    let query = command(format!(
        "SELECT new.* FROM {rows} ORDER BY {} FOR SHARE OF new SKIP LOCKED",
        source.key.join(", ")
    ));
    spi::connected(|| {
        let rows = spi::query(&query, Access::Write);
        emit_rows(&opened, &rows);
        let emitted: HashSet<String> = keys_of(&rows, &source.names).into_iter().collect();
        keys.iter().filter(|key| !emitted.contains(*key)).cloned().collect()
    })
}

/// Emits the row with this key, if there is one, once nobody else has it locked.
fn emit_one(table: pg_sys::Oid, key: &str) {
    let opened = open(table, LOCK);
    let source = source(&opened);
    let _format = CanonicalFormat::set();
    let rows = format!("{} AND {} = {key}", source.rows, source.key());
    let query = command(format!("SELECT new.* FROM {rows} FOR SHARE OF new"));
    spi::connected(|| emit_rows(&opened, &spi::query(&query, Access::Write)));
}

/// The keys of rows, each as a row of literals in SQL.
fn keys_of(rows: &Rows, names: &[CString]) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    // SAFETY: the descriptor lives as long as the rows; texts of values are C strings.
    unsafe {
        let described: Vec<_> = catalog::columns_of(rows.descriptor()).enumerate().collect();
        let find = |wanted: &CString| described.iter().find(|(_, (name, _))| *name == wanted.as_c_str());
        let columns: Vec<Column> =
            names.iter().filter_map(find).map(|(at, (name, stored))| Column::of(*at, name, stored)).collect();
        let literal = |row: &Row, column: &Column| {
            let text = row.value(column).map(|value| column.encoder().text(value));
            text.map_or("NULL".into(), |text| {
                CStr::from_ptr(pg_sys::quote_literal_cstr(text)).to_string_lossy()
            })
        };
        let mut keys = Vec::with_capacity(rows.len());
        each(rows, |row| {
            let literals: Vec<_> = columns.iter().map(|column| literal(&row, column)).collect();
            keys.push(format!("({})", literals.join(", ")));
        });
        keys
    }
}

fn each(rows: &Rows, mut work: impl FnMut(Row)) {
    // SAFETY: the rows have the descriptor, and live as long as the connection to SPI.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot(rows.descriptor(), &raw const pg_sys::TTSOpsHeapTuple);
        for row in rows.iter() {
            pg_sys::ExecStoreHeapTuple(row.tuple(), slot, false);
            work(Row::of_slot(slot));
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

fn emit_rows(table: &OpenRelation, rows: &Rows) {
    if rows.is_empty() {
        return;
    }
    let Some(trigger) = ours(table).next() else { not_captured(table) };
    let capture: Capture = cache::of_rows(table.data().rd_id, trigger, rows.descriptor());
    let events = Table::open();
    topic_grants::check_of(capture.owner(table.raw()).role(), &capture.definition.topic, events.owner());
    let _format = capture.format();
    let mut writer = Writer::on(&events);
    each(rows, |row| writer.write(&Change::of(&capture, Action::Snapshot, Update::Nothing, None, Some(row))));
    writer.finish();
}

fn in_a_transaction() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION,
        message: "outbox.emit_snapshot() cannot run in a transaction block".into(),
        detail: "It commits after each chunk of rows.".into(),
        hint: "Call it by CALL outside of a transaction, or pass snapshot => true to outbox.capture()."
            .into(),
    }
}

fn not_captured(table: &OpenRelation) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: format!("table {} is not captured", qualified(table)),
        detail: "A snapshot is of the rows and columns that the capture of the table says.".into(),
        hint: "Call outbox.capture() first.".into(),
    }
    .raise()
}

fn no_primary_key(table: &OpenRelation) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: format!("table {} has no primary key", qualified(table)),
        detail: "Chunks of rows follow each other in the order of the primary key.".into(),
        hint: "Pass snapshot => true to outbox.capture(), which needs none.".into(),
    }
    .raise()
}
