//! A writer that feels whether the relay lives.

use std::sync::Arc;

use super::events::Target;
use super::{Shared, Writer};
use crate::journal::{Journal, Lot};

/// The topic of its events.
const TOPIC: usize = 2;
const IS_GONE: &str = "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE id = $1)";

/// A writer that writes when it is told to.
pub struct Pulse(Writer);

impl Pulse {
    /// It has not written yet.
    pub fn new(seed: u64, shared: Arc<Shared>) -> Self {
        Self(Writer::new(0, seed, shared))
    }

    /// Emits an event; gives its id if it was committed.
    pub fn beat(&mut self) -> Option<i64> {
        if !self.0.connect() {
            return None;
        }
        let number = self.0.begin_notes();
        let done = self.0.begin(number);
        let done = done.and_then(|()| self.0.emit(number, Target { topic: TOPIC, key: None }, Lot::Arrives));
        let done = done.and_then(|_| self.0.commit(number));
        let is_done = done.is_ok();
        self.0.clean_up(done);
        self.0.journal.entries.last().filter(|_| is_done).map(|entry| entry.id)
    }

    /// Emits so many events that are refused. They reach the outbox, or the server is down.
    pub fn flood(&mut self, topic: usize, count: usize, is_keyed: bool) -> bool {
        let done = self.0.connect().then(|| self.0.flood(topic, count, is_keyed));
        self.has_done(done)
    }

    /// Emits an event with a key of so many bytes.
    pub fn emit_huge(&mut self, topic: usize, bytes: usize) -> bool {
        let done = self.0.connect().then(|| self.0.emit_huge(topic, bytes));
        self.has_done(done)
    }

    fn has_done(&mut self, done: Option<Result<(), postgres::Error>>) -> bool {
        let is_done = matches!(done, Some(Ok(())));
        self.0.clean_up(done.unwrap_or(Ok(())));
        is_done
    }

    /// Whether the event has left the outbox. `Some(false)` if that cannot be asked any more.
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

    /// What it has written.
    pub fn into_journal(self) -> Journal {
        self.0.journal
    }
}
