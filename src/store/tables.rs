//! Owns the way by which an append reaches the tables: without the executor while they are as the extension has made them, or
//! else in SQL.
//!
//! Runs in: client backends, as the owner of the tables.

use event_outbox_policy::store::append::Expected;
use pgrx::prelude::*;

use super::direct::{Commands, Events, Streams};
use super::row::{EventRow, Stream};
use super::statements;
use crate::pg::indexed;
use crate::pg::snapshot;

/// The tables. Each is `None` if it must be reached in SQL.
pub struct Tables {
    streams: Option<Streams>,
    events: Option<Events>,
    commands: Option<Commands>,
}

impl Tables {
    /// Opens the tables for an append with a command, with events whose ids the caller has chosen, or without. An ERROR in a
    /// read-only transaction.
    #[must_use]
    pub fn open(has_command: bool, has_given_ids: bool) -> Self {
        // SAFETY: the name is a C string.
        unsafe { pg_sys::PreventCommandIfReadOnly(c"event_store.append()".as_ptr()) };
        // A transaction that keeps to its snapshot must learn of what it cannot see, and be seen itself.
        if snapshot::is_kept() {
            return Self { streams: None, events: None, commands: None };
        }
        let commands = has_command.then(Commands::open).flatten();
        Self { streams: Streams::open(), events: Events::open(has_given_ids), commands }
    }

    /// Locks a stream, if there is one of this name. Waits for who has locked it. Who is going to create the stream otherwise
    /// need not be sure that there is none.
    #[must_use]
    pub fn lock(&self, name: &str, is_to_create: bool) -> Option<Stream> {
        match self.streams.as_ref().map(|streams| streams.lock(name)) {
            Some(Ok(Some(stream))) => Some(stream),
            Some(Ok(None)) if is_to_create => None,
            _ => statements::lock(name),
        }
    }

    /// Creates a stream, unless another transaction has created it meanwhile.
    #[must_use]
    pub fn create(&self, name: &str, category: &str) -> Option<i64> {
        // It happens once.
        statements::create(name, category)
    }

    /// The version of a locked stream, which is found sooner if it is as expected.
    #[must_use]
    pub fn last_version(&self, stream: i64, expected: Expected) -> i64 {
        let expected = match expected {
            Expected::Version(version) => Some(version),
            _ => None,
        };
        match &self.events {
            Some(events) => events.last_version(stream, expected),
            None => statements::last_version(stream),
        }
    }

    /// The version at which a command has left a locked stream, if it was handled.
    #[must_use]
    pub fn version_of_command(&self, stream: i64, command: &str) -> Option<i64> {
        match &self.commands {
            Some(commands) => commands.version(stream, command),
            None => statements::version_of_command(stream, command),
        }
    }

    /// The version at which a locked stream has an event with this id, which its writer chose.
    #[must_use]
    pub fn version_of_event(&self, stream: i64, id: pgrx::Uuid) -> Option<i64> {
        match &self.events {
            Some(events) => events.version(stream, id),
            None => statements::version_of_event(stream, id),
        }
    }

    /// The sequence of positions, if it is known.
    #[must_use]
    pub fn sequence(&self) -> Option<pg_sys::Oid> {
        self.events.as_ref().map(Events::sequence)
    }

    /// Stores an event, and returns its position. Later commands see it after [`Tables::show`].
    #[must_use]
    pub fn insert(&self, row: EventRow) -> i64 {
        match &self.events {
            Some(events) => events.insert(row),
            None => statements::insert(&row),
        }
    }

    /// Stores that a command was handled. The same holds for it.
    pub fn remember(&self, stream: i64, command: &str, version: i64) {
        match &self.commands {
            Some(commands) => commands.insert(stream, command, version),
            None => statements::remember(stream, command, version),
        }
    }

    /// Lets later commands of this transaction see what was stored.
    pub fn show(&self) {
        indexed::show();
    }
}
