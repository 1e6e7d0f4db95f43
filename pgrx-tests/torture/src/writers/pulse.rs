//! A writer that checks whether the relay works.

use std::sync::Arc;

use uuid::Uuid;

use super::events::Target;
use super::{Shared, Writer};
use crate::journal::{Expected, Journal};

/// The topic of its events.
const TOPIC: usize = 2;
const IS_GONE: &str = "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE id = $1)";

/// A writer that writes on demand.
pub struct Pulse(Writer);

impl Pulse {
    /// Creates the writer.
    pub fn new(seed: u64, shared: Arc<Shared>) -> Self {
        Self(Writer::new(0, seed, shared))
    }

    /// Emits an event; returns its id if it was committed.
    pub fn beat(&mut self) -> Option<i64> {
        if !self.0.connect() {
            return None;
        }
        let number = self.0.begin_notes();
        let done = self.0.begin(number);
        let done =
            done.and_then(|()| self.0.emit(number, Target { topic: TOPIC, key: None }, Expected::Arrives));
        let done = done.and_then(|_| self.0.commit(number));
        let is_done = done.is_ok();
        self.0.clean_up(done);
        self.0.journal.entries.last().filter(|_| is_done).map(|entry| entry.id)
    }

    /// The id of the newest event.
    pub fn last_event_id(&self) -> Option<Uuid> {
        self.0.journal.entries.last().map(|entry| entry.event_id)
    }

    /// Emits `count` events that are refused; returns whether they were committed.
    pub fn flood(&mut self, topic: usize, count: usize, is_keyed: bool) -> bool {
        let done = self.0.connect().then(|| self.0.flood(topic, count, is_keyed));
        self.has_done(done)
    }

    /// Emits an event with a key of `bytes` bytes; returns whether it was committed.
    pub fn emit_huge(&mut self, topic: usize, bytes: usize) -> bool {
        let done = self.0.connect().then(|| self.0.emit_huge(topic, bytes));
        self.has_done(done)
    }

    fn has_done(&mut self, done: Option<Result<(), postgres::Error>>) -> bool {
        let is_done = matches!(done, Some(Ok(())));
        self.0.clean_up(done.unwrap_or(Ok(())));
        is_done
    }

    /// `Some(true)` if the event has left the outbox, `Some(false)` if the connection broke.
    pub fn is_gone(&mut self, id: i64) -> Option<bool> {
        let client = self.0.client.as_mut()?;
        match client.query_one(IS_GONE, &[&id]) {
            Ok(row) => row.get::<_, bool>(0).then_some(true),
            Err(_) => {
                self.0.client = None;
                Some(false)
            }
        }
    }

    /// The writer's journal.
    pub fn into_journal(self) -> Journal {
        self.0.journal
    }
}
