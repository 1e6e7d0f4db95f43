//! Owns `event_store.append()`, which appends events to a stream in the caller's transaction.
//!
//! It locks the row of the stream, and nothing else, until the end of the transaction. Nothing is updated: the version of a stream
//! is that of its last event. `event_outbox_policy::store::append` decides.
//!
//! Runs in: client backends.

use event_outbox_policy::store::append::{Decision, Expected, decide};
use event_outbox_policy::store::name;
use pgrx::prelude::*;

use super::categories::{self, Privilege};
use super::new_events::{self, NewEvent};
use super::publish::{Publication, Recorded};
use super::{STREAM, writers};
use crate::pg::compat;
use crate::pg::function::{Arguments, new_uuid, sql_function};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, OrderedScans, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

sql_function!(event_store_append, pg_finfo_event_store_append, append);
sql_function!(event_store_append_at, pg_finfo_event_store_append_at, append_at);

/// The longest id of a command, in bytes. It lies in an index.
const MAX_COMMAND_BYTES: usize = 255;

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

static REFUSE: Statement = Statement::new(
    c"SELECT event_store.refuse_append($1, $2, $3, $4)",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT8OID],
);

fn append(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let text = required(arguments.text(1), "expected");
    let expected = text.parse().unwrap_or_else(|_| refuse_expectation(text));
    run(arguments, expected).into_datum()
}

fn append_at(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let version = required(arguments.bigint(1), "expected");
    let expected = Expected::of_version(version).unwrap_or_else(|_| refuse_expectation(&version.to_string()));
    run(arguments, expected).into_datum()
}

fn required<T>(value: Option<T>, name: &str) -> T {
    value.unwrap_or_else(|| {
        UserError {
            code: PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            message: format!("{name} must not be null"),
            detail: "An append names its stream, what it expects of it, and the events.".into(),
            hint: "Pass 'any' to expect nothing.".into(),
        }
        .raise()
    })
}

fn refuse_expectation(text: &str) -> ! {
    let shown: String = text.chars().take(100).collect();
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: "invalid expectation of a stream".into(),
        detail: format!("It is \"{shown}\"."),
        hint: "Pass 'any', 'no_stream', 'stream_exists', or the version of the stream's last event.".into(),
    }
    .raise()
}

/// An append as the caller passes it.
struct Append<'a> {
    stream: &'a str,
    category: &'a str,
    expected: Expected,
    events: Vec<NewEvent<'a>>,
    command_id: Option<&'a str>,
    causation_id: Option<pg_sys::Datum>,
    correlation_id: Option<pg_sys::Datum>,
}

/// Appends, and returns the version of the last event.
fn run(arguments: &Arguments, expected: Expected) -> i64 {
    let stream = required(arguments.text(0), "stream");
    let category = name::category_of(stream).unwrap_or_else(|| refuse_name(stream));
    let document = required(arguments.datum(2), "events");
    let command_id = arguments.text(3);
    if let Some(id) = command_id.filter(|id| id.is_empty() || id.len() > MAX_COMMAND_BYTES) {
        refuse_command(id.len());
    }
    let owner = Owner::of(STREAM);
    categories::require(category, Privilege::Append, owner);
    let append = Append {
        stream,
        category,
        expected,
        // SAFETY: declared jsonb in sql/, alive until the call ends.
        events: unsafe { new_events::read(document) },
        command_id,
        causation_id: arguments.datum(5),
        correlation_id: arguments.datum(6),
    };
    let publication = Publication {
        bound: categories::topic_of(category),
        asked: arguments.text(4),
        owner,
        stream,
        causation_id: arguments.uuid(5),
        correlation_id: arguments.uuid(6),
    };
    let (version, recorded) = {
        let _owner = UserContext::switch_to(owner);
        // Statements that are kept must not scan tables, which were small when they were planned.
        let _plans = OrderedScans::only();
        spi::connected(|| append.store())
    };
    publication.publish(&append.events, &recorded);
    version
}

/// A stream that is locked until the end of the transaction.
struct Locked {
    id: i64,
    version: i64,
    is_new: bool,
}

impl Append<'_> {
    /// Stores the events, unless they are stored. Returns the version of the last one, and what was stored now.
    fn store(&self) -> (i64, Vec<Recorded>) {
        let Some(locked) = self.lock() else { self.refuse("OE001", 0) };
        if !locked.is_new
            && let Some(version) = self.stored_before(&locked)
        {
            return (version, Vec::new());
        }
        let recorded = self.insert(&locked);
        let version = locked.version + count(self.events.len());
        if let Some(id) = self.command_id {
            REMEMBER.execute(
                &[locked.id.into_datum(), id.into_datum(), version.into_datum()],
                Access::Write,
                0,
            );
        }
        (version, recorded)
    }

    /// Locks the stream, or creates it. `None` if there is none, but should be.
    fn lock(&self) -> Option<Locked> {
        let name = self.stream.into_datum();
        loop {
            let rows = LOCK.execute(&[name], Access::Write, 1);
            if let Some(row) = rows.iter().next() {
                if row.get(2) == Some(true) {
                    self.refuse("OE002", 0);
                }
                let id: i64 = row.get(1)?;
                return Some(Locked { id, version: self.last_version(id), is_new: false });
            }
            if self.expected.needs_events() {
                return None;
            }
            let created = CREATE.execute(&[name, self.category.into_datum()], Access::Write, 1);
            if let Some(id) = created.iter().next().and_then(|row| row.get(1)) {
                return Some(Locked { id, version: 0, is_new: true });
            }
            // Another transaction has created it meanwhile.
            pgrx::check_for_interrupts!();
        }
    }

    /// The version of the stream. What is committed counts, though the transaction may keep to an older snapshot: the stream is
    /// locked.
    fn last_version(&self, id: i64) -> i64 {
        let _snapshot = Snapshot::take_latest();
        let rows = LAST.execute(&[id.into_datum()], Access::Read, 1);
        rows.iter().next().and_then(|row| row.get(1)).unwrap_or(0)
    }

    /// The version that this append has had before, if it was stored before. An ERROR if it cannot be stored.
    fn stored_before(&self, locked: &Locked) -> Option<i64> {
        let _snapshot = Snapshot::take_latest();
        if let Some(id) = self.command_id {
            let rows = COMMAND.execute(&[locked.id.into_datum(), id.into_datum()], Access::Read, 1);
            if let Some(row) = rows.iter().next() {
                return row.get(1);
            }
        }
        let known = self.events.iter().map(|event| self.known(locked, event));
        match decide(self.expected, locked.version, &known.collect::<Vec<_>>()) {
            Decision::Store => None,
            Decision::Stored(version) => Some(version),
            Decision::WrongVersion => self.refuse("OE001", locked.version),
            Decision::IdConflict => self.refuse("OE003", locked.version),
        }
    }

    /// The version at which the stream has an event with the id that the caller has chosen.
    fn known(&self, locked: &Locked, event: &NewEvent<'_>) -> Option<i64> {
        let id = pgrx::Uuid::from_bytes(*event.id?.as_bytes());
        let rows = KNOWN.execute(&[locked.id.into_datum(), id.into_datum()], Access::Read, 1);
        let version = rows.iter().next().and_then(|row| row.get(1));
        rows.free();
        version
    }

    fn insert(&self, locked: &Locked) -> Vec<Recorded> {
        writers::announce();
        let now = pg_sys::Datum::from(compat::pg_timestamp(crate::pg::now()));
        let mut recorded = Vec::with_capacity(self.events.len());
        for (event, version) in self.events.iter().zip(locked.version + 1..) {
            let id = event.id.map_or_else(new_uuid, |id| pgrx::Uuid::from_bytes(*id.as_bytes()));
            let rows = INSERT.execute(
                &[
                    locked.id.into_datum(),
                    version.into_datum(),
                    self.category.into_datum(),
                    Some(now),
                    id.into_datum(),
                    event.id.is_some().into_datum(),
                    event.event_type.into_datum(),
                    event.data,
                    event.metadata,
                    self.causation_id,
                    self.correlation_id,
                ],
                Access::Write,
                0,
            );
            let position = rows.iter().next().and_then(|row| row.get(1)).unwrap_or(0);
            rows.free();
            recorded.push(Recorded { id, version, position });
        }
        recorded
    }

    /// Raises one of the errors that drivers tell apart by their SQLSTATE.
    fn refuse(&self, code: &str, version: i64) -> ! {
        let expected = self.expected.to_string();
        REFUSE.execute(
            &[code.into_datum(), self.stream.into_datum(), expected.into_datum(), version.into_datum()],
            Access::Write,
            0,
        );
        error!("an append was refused with {code}")
    }
}

fn count(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}

/// Raises an ERROR about the name of a stream.
pub fn refuse_name(stream: &str) -> ! {
    let shown: String = stream.chars().take(300).collect();
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_NAME,
        message: "invalid name of a stream".into(),
        detail: format!("The name is \"{shown}\"."),
        hint: "Pass a category, \"-\" and an id, such as 'account-42'. The category has letters, digits, \".\" and \"_\"."
            .into(),
    }
    .raise()
}

fn refuse_command(bytes: usize) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: "invalid id of a command".into(),
        detail: format!("It has {bytes} bytes."),
        hint: format!("Pass 1 to {MAX_COMMAND_BYTES} bytes, or NULL."),
    }
    .raise()
}
