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
use super::row::Stream;
use super::tables::Tables;
use super::{direct, writers};
use crate::pg::compat;
use crate::pg::function::{Arguments, new_uuid};
use crate::pg::refusal::{Refusal, refusing_function};
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

refusing_function!(event_store_append, pg_finfo_event_store_append, append);
refusing_function!(event_store_append_at, pg_finfo_event_store_append_at, append_at);

/// The longest id of a command, in bytes. It lies in an index.
const MAX_COMMAND_BYTES: usize = 255;

type Value = Result<Option<pg_sys::Datum>, Refusal>;

fn append(arguments: &Arguments) -> Value {
    let text = required(arguments.text(1), "expected");
    let expected = text.parse().unwrap_or_else(|_| refuse_expectation(text));
    run(arguments, expected).map(IntoDatum::into_datum)
}

fn append_at(arguments: &Arguments) -> Value {
    let version = required(arguments.bigint(1), "expected");
    let expected = Expected::of_version(version).unwrap_or_else(|_| refuse_expectation(&version.to_string()));
    run(arguments, expected).map(IntoDatum::into_datum)
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
fn run(arguments: &Arguments, expected: Expected) -> Result<i64, Refusal> {
    let stream = required(arguments.text(0), "stream");
    let category = name::category_of(stream).unwrap_or_else(|| refuse_name(stream));
    let document = required(arguments.datum(2), "events");
    let command_id = arguments.text(3);
    if let Some(id) = command_id.filter(|id| id.is_empty() || id.len() > MAX_COMMAND_BYTES) {
        refuse_command(id.len());
    }
    let owner = Owner::of_table(direct::streams());
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
    let stored = {
        let _owner = UserContext::switch_to(owner);
        let has_given_ids = append.events.iter().any(|event| event.id.is_some());
        append.store(&Tables::open(command_id.is_some(), has_given_ids))
    };
    let (version, recorded) = stored.map_err(|refused| append.refusal(refused))?;
    publication.publish(&append.events, &recorded);
    Ok(version)
}

/// Why nothing can be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// The stream has another version than expected: this one.
    WrongVersion(i64),
    /// The stream has a tombstone.
    Tombstoned,
    /// Some of the events are in the stream, but not where they were to be.
    IdConflict,
}

/// A stream that is locked until the end of the transaction.
struct Locked {
    id: i64,
    version: i64,
    is_new: bool,
}

impl Append<'_> {
    /// Stores the events, unless they are stored. Returns the version of the last one, and what was stored now.
    fn store(&self, tables: &Tables) -> Result<(i64, Vec<Recorded>), Refused> {
        let locked = self.lock(tables)?;
        if !locked.is_new
            && let Some(version) = self.stored_before(tables, &locked)?
        {
            return Ok((version, Vec::new()));
        }
        let recorded = self.insert(tables, &locked);
        let version = locked.version + count(self.events.len());
        if let Some(id) = self.command_id {
            tables.remember(locked.id, id, version);
        }
        tables.show();
        Ok((version, recorded))
    }

    /// Locks the stream, or creates it.
    fn lock(&self, tables: &Tables) -> Result<Locked, Refused> {
        loop {
            let is_to_create = !self.expected.needs_events();
            if let Some(Stream { id, is_tombstoned }) = tables.lock(self.stream, is_to_create) {
                if is_tombstoned {
                    return Err(Refused::Tombstoned);
                }
                return Ok(Locked { id, version: tables.last_version(id, self.expected), is_new: false });
            }
            if !is_to_create {
                return Err(Refused::WrongVersion(0));
            }
            if let Some(id) = tables.create(self.stream, self.category) {
                return Ok(Locked { id, version: 0, is_new: true });
            }
            // Another transaction has created it meanwhile.
            pgrx::check_for_interrupts!();
        }
    }

    /// The version that this append has had before, if it was stored before.
    fn stored_before(&self, tables: &Tables, locked: &Locked) -> Result<Option<i64>, Refused> {
        if let Some(id) = self.command_id
            && let Some(version) = tables.version_of_command(locked.id, id)
        {
            return Ok(Some(version));
        }
        let known = self.events.iter().map(|event| tables.version_of_event(locked.id, uuid(event.id?)));
        match decide(self.expected, locked.version, &known.collect::<Vec<_>>()) {
            Decision::Store => Ok(None),
            Decision::Stored(version) => Ok(Some(version)),
            Decision::WrongVersion => Err(Refused::WrongVersion(locked.version)),
            Decision::IdConflict => Err(Refused::IdConflict),
        }
    }

    fn insert(&self, tables: &Tables, locked: &Locked) -> Vec<Recorded> {
        writers::announce(tables.sequence());
        let now = pg_sys::Datum::from(compat::pg_timestamp(crate::pg::now()));
        let mut recorded = Vec::with_capacity(self.events.len());
        for (event, version) in self.events.iter().zip(locked.version + 1..) {
            let id = event.id.map_or_else(new_uuid, uuid);
            let position = tables.insert([
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
            ]);
            recorded.push(Recorded { id, version, position });
        }
        recorded
    }

    /// The error that says so, with an SQLSTATE by which applications tell it apart.
    fn refusal(&self, refused: Refused) -> Refusal {
        let stream = self.stream;
        match refused {
            Refused::WrongVersion(version) => Refusal::new(
                *b"OE001",
                &format!("stream \"{stream}\" does not have {}, as expected", self.expected),
                // Drivers read it.
                &format!("The version is {version}."),
                "Another transaction may have appended events. Read them, decide again, and append with this version.",
            ),
            Refused::Tombstoned => Refusal::new(
                *b"OE002",
                &format!("stream \"{stream}\" has ended"),
                "It has a tombstone: nothing can be appended to it any more.",
                "Use another stream.",
            ),
            Refused::IdConflict => Refusal::new(
                *b"OE003",
                &format!("stream \"{stream}\" has some of these events already"),
                "Their ids are in the stream, but they are not these events in this order where they were to be appended.",
                "Append the same events with the same ids, or give new events new ids.",
            ),
        }
    }
}

fn uuid(id: uuid::Uuid) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(*id.as_bytes())
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
