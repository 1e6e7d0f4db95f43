//! Owns the writing of many events at once.
//!
//! Runs in: client backends, and workers that write to captured tables.

use super::event::Change;
use crate::outbox::emit::append::Table;
use crate::outbox::emit::append_many::Appender;
use crate::outbox::emit::{backlog, functions};

/// Writes events in the order in which they are given.
pub struct Writer<'a> {
    events: &'a Table,
    /// `None` if the table requires INSERTs in SQL.
    appender: Option<Appender<'a>>,
}

impl<'a> Writer<'a> {
    /// Begins to write to the open table.
    #[must_use]
    pub fn on(events: &'a Table) -> Self {
        Self { events, appender: Appender::begin(events) }
    }

    /// Writes the event of a change.
    pub fn write(&mut self, change: &Change<'_>) {
        backlog::check();
        let left = match &mut self.appender {
            Some(appender) => appender.add(|| change.to_values()),
            None => Some(change.to_values()),
        };
        if let Some(values) = left {
            functions::insert(self.events, &values);
        }
    }

    /// Ends: all events are there for later commands.
    pub fn finish(self) {
        if let Some(appender) = self.appender {
            appender.finish();
        }
    }
}
