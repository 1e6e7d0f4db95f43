//! Changes that people make to an outbox by hand while the relay works.

use postgres::Error;
use uuid::Uuid;

use super::Writer;
use super::events::Target;
use crate::journal::Expected;
use crate::topics;

const NOTIFY: &str = "NOTIFY outbox";
const HURRY: &str = "UPDATE outbox.events SET next_attempt_at = now() WHERE attempts > 0";
/// Events that each broker refuses die again.
const REDRIVE_SOME: &str = "SELECT outbox.redrive(topic => $1, max => 2)";
const REFUSE: &str = "UPDATE outbox.events SET last_error = 'by hand' WHERE event_id = $1";
const KILL: &str = "SET LOCAL event_outbox.max_attempts = 1";
const REDRIVE: &str = "SELECT outbox.redrive(event_id => $1)";
const DELETE: &str = "DELETE FROM outbox.events WHERE event_id = $1";

impl Writer {
    /// Makes one of these changes.
    pub(super) fn change_by_hand(&mut self) -> Result<(), Error> {
        match self.random.below(8) {
            0 => self.execute(NOTIFY),
            1 => self.execute(HURRY),
            2 => {
                let topic = self.shared.topics[self.random.below(topics::VOLATILE)].clone();
                self.query(REDRIVE_SOME, &topic)
            }
            3 => self.kill_and_redrive(),
            4 => self.delete(),
            _ => self.refuse(),
        }
    }

    fn query(&mut self, sql: &str, value: &(dyn postgres::types::ToSql + Sync)) -> Result<(), Error> {
        self.client.as_mut().map_or(Ok(()), |client| client.execute(sql, &[value]).map(drop))
    }

    /// A topic that is never deleted, and a key.
    fn choose_keyed(&mut self) -> Target {
        let Target { topic, key } = self.choose_target();
        Target { topic: topic % topics::VOLATILE, key: key.or(Some(0)) }
    }

    /// Emits an event that counts as refused from the beginning: it waits, and so does its key.
    fn refuse(&mut self) -> Result<(), Error> {
        let (number, target) = (self.begin_notes(), self.choose_keyed());
        self.begin(number)?;
        self.lock(target)?;
        self.emit(number, target, Expected::Arrives)?;
        let refused = self.emit(number, target, Expected::Arrives)?;
        self.emit(number, target, Expected::Arrives)?;
        self.query(REFUSE, &refused)?;
        self.commit(number)
    }

    /// Emits an event, makes it a dead letter, and redrives it.
    fn kill_and_redrive(&mut self) -> Result<(), Error> {
        let (number, target) = (self.begin_notes(), self.choose_keyed());
        self.begin(number)?;
        self.lock(target)?;
        self.execute(KILL)?;
        let killed = self.emit(number, target, Expected::Arrives)?;
        self.query(REFUSE, &killed)?;
        // Another writer may redrive it.
        self.set_expected(killed, Expected::DiesOrArrivesLate);
        self.commit(number)?;
        let number = self.begin_notes();
        self.begin(number)?;
        self.query(REDRIVE, &killed)?;
        self.commit(number)?;
        self.set_expected(killed, Expected::ArrivesLate);
        Ok(())
    }

    /// Emits an event and deletes it, perhaps before it is published.
    fn delete(&mut self) -> Result<(), Error> {
        let (number, target) = (self.begin_notes(), self.choose_keyed());
        self.begin(number)?;
        self.lock(target)?;
        let doomed = self.emit(number, target, Expected::Arrives)?;
        self.commit(number)?;
        self.set_expected(doomed, Expected::MayArrive);
        self.query(DELETE, &doomed)
    }

    fn set_expected(&mut self, event_id: Uuid, expected: Expected) {
        let newest = self.journal.entries.iter_mut().rev();
        if let Some(entry) = newest.take(10).find(|entry| entry.event_id == event_id) {
            entry.expected = expected;
        }
    }
}
