//! Owns the main thread's part of the delivery exactly once: rows whose events were published before this relay started are
//! settled and not published again, and the Kafka thread learns which deletions are durable.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! The protocol with the Kafka thread is in [`crate::kafka::producer::transactional`], the rules in
//! [`event_outbox_policy::delivery::transaction`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use event_outbox_policy::delivery::marker::{EventPart, Instance, Owner};
use event_outbox_policy::delivery::mode::DeliveryMode;
use event_outbox_policy::delivery::outcome::{Outcome, Report};
use event_outbox_policy::delivery::window::{InFlightEvent, Taken};

use super::Relay;
use super::registration::TAKE_OVER;
use crate::kafka::producer::handle::ProducerHandle;
use crate::kafka::producer::messages::ProducerCommand;
use crate::kafka::producer::transactional::Claimant;
use crate::kafka::threads::StartError;
use crate::outbox::table::identity::RowIdentity;
use crate::pg::durability::Place;
use crate::pg::snapshot::Snapshot;
use crate::pg::{backend, function, server};
use crate::worker::transaction;

/// How many listed events are looked up in one transaction.
const LOOKED_UP_TOGETHER: usize = 1_000;

/// The partition and offset of an event of which only its marker is known.
const UNKNOWN_PLACE: (i32, i64) = (-1, -1);

/// An event as markers name it.
type Listed = (i64, EventPart);

/// Where the relay stands with its producer.
#[derive(Debug, Default)]
enum Standing {
    /// The producer, if there is one, does not deliver exactly once.
    #[default]
    Other,
    /// The Kafka thread takes its place among the relays.
    Starting,
    /// These events are in Kafka. Their rows, if they are there, must be settled before anything is read.
    Adopting(VecDeque<Listed>),
    /// Batches can be handed over.
    Ready,
    /// A transaction was rolled back. All that comes back must be settled before anything is read.
    RolledBack,
}

/// The state of the delivery exactly once.
#[derive(Debug)]
pub struct ExactlyOnce {
    standing: Standing,
    /// The name of this relay.
    instance: Instance,
    /// The last number of a claim or transaction.
    serial: Arc<AtomicU64>,
    /// Events whose rows are gone, and up to where the log must be durable for that.
    deleted: VecDeque<(Place, Vec<Listed>)>,
    /// An operator wants this relay to publish, even if a server that was promoted later does.
    takes_over: bool,
    /// The Kafka thread holds everything back, for a reason that was shown.
    holds_back: bool,
}

impl Default for ExactlyOnce {
    fn default() -> Self {
        Self {
            standing: Standing::default(),
            instance: *function::new_uuid().as_bytes(),
            serial: Arc::default(),
            deleted: VecDeque::new(),
            takes_over: false,
            holds_back: false,
        }
    }
}

impl ExactlyOnce {
    /// Whether the producer delivers exactly once.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(self.standing, Standing::Other)
    }

    /// Whether batches can be handed over, as far as it matters.
    #[must_use]
    pub fn may_publish(&self) -> bool {
        matches!(self.standing, Standing::Other | Standing::Ready)
    }

    /// Whether everything is held back, for a reason that was shown.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        self.holds_back
    }

    /// Whether the producer is not ready yet.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self.standing, Standing::Starting | Standing::Adopting(_))
    }

    /// Whether rows of published events must be looked up.
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        matches!(self.standing, Standing::Adopting(_))
    }

    /// The Kafka thread holds everything back.
    pub fn hold_back(&mut self) {
        self.holds_back = true;
    }

    /// The Kafka thread works.
    pub fn goes_on(&mut self) {
        self.holds_back = false;
    }

    /// The Kafka thread has taken its place. These events are in Kafka.
    pub fn started(&mut self, published: Vec<Listed>) {
        self.takes_over = false;
        self.holds_back = false;
        self.standing = Standing::Adopting(published.into());
    }

    /// The Kafka thread has rolled a transaction back.
    pub fn rolled_back(&mut self) {
        if self.is_on() {
            self.standing = Standing::RolledBack;
        }
    }

    /// The producer is gone.
    pub fn ended(&mut self) {
        self.standing = Standing::Other;
        self.holds_back = false;
    }

    /// These rows are deleted, and that is committed. Also for rows that somebody else has deleted.
    pub fn deleted(&mut self, events: impl Iterator<Item = Listed>) {
        let events: Vec<Listed> = events.collect();
        if !events.is_empty() {
            self.deleted.push_back((Place::of_log_end(), events));
        }
    }

    /// Takes out the events whose deletion is durable.
    fn take_durable(&mut self) -> Vec<Listed> {
        let mut durable = Vec::new();
        while self.deleted.front().is_some_and(|(place, _)| place.is_durable()) {
            durable.extend(self.deleted.pop_front().into_iter().flat_map(|(_, events)| events));
        }
        durable
    }
}

/// An event as markers name it.
pub(super) fn listed(row: &RowIdentity) -> Listed {
    (row.id, EventPart::of(&row.event_id))
}

/// Whether a report says that its event is in Kafka.
pub(super) fn is_delivered(report: &Report) -> bool {
    matches!(report.outcome, Outcome::Delivered { .. })
}

impl Relay {
    /// Starts a producer in the mode of the settings.
    pub(super) fn start_producer(&mut self) -> Result<ProducerHandle, StartError> {
        let producer = &self.settings.producer;
        if producer.delivery != DeliveryMode::ExactlyOnce {
            return ProducerHandle::start(producer, self.kafka_wakeup.clone());
        }
        let owner = Owner {
            system: server::system_identifier(),
            database: backend::database().to_u32(),
            timeline: server::timeline(),
        };
        // Without them a topic that was deleted would take this knowledge along.
        let delivered = self.reports.iter().filter(|report| is_delivered(report));
        let settling =
            delivered.filter_map(|report| self.in_flight.get(report.id)).map(|entry| listed(&entry.row));
        let deleted = self.exactly.deleted.iter().flat_map(|(_, events)| events.iter().copied());
        let claimant = Claimant {
            owner,
            instance: self.exactly.instance,
            serial: self.exactly.serial.clone(),
            known: settling.chain(deleted).collect(),
            takes_over: self.exactly.takes_over,
        };
        let handle = ProducerHandle::start_exactly_once(producer, claimant, self.kafka_wakeup.clone())?;
        self.exactly.standing = Standing::Starting;
        Ok(handle)
    }

    /// Settles the events that are in Kafka and still in the table: they become events in flight that are delivered.
    pub(super) fn adopt_published(&mut self) {
        while self.exactly.is_adopting() && !self.must_end() && self.db_backoff.is_over(Instant::now()) {
            let Standing::Adopting(left) = &self.exactly.standing else { return };
            let some: Vec<Listed> = left.iter().take(LOOKED_UP_TOGETHER).copied().collect();
            if some.is_empty() {
                self.exactly.standing = Standing::Ready;
                self.reader.note_new_rows();
                return;
            }
            let found = transaction::run(c"event_outbox: looking for published events", || {
                let outbox = self.outbox()?;
                let _snapshot = Snapshot::take();
                let events = outbox.events();
                let mut rows = Vec::new();
                for (id, part) in &some {
                    events.read_new(id.saturating_sub(1), 1, |row| {
                        if row.id() == *id && EventPart::of(&row.event_id()) == *part {
                            rows.push((row.identity(None), row.topic().into_owned(), row.emitted_at()));
                        }
                        false
                    });
                }
                Some(rows)
            });
            match self.note(found) {
                Some(Some(rows)) => self.adopt(&some, rows),
                Some(None) => self.extension_dropped = true,
                None => return,
            }
        }
    }

    fn adopt(&mut self, listed: &[Listed], rows: Vec<(RowIdentity, String, i64)>) {
        if let Standing::Adopting(left) = &mut self.exactly.standing {
            left.drain(..listed.len());
        }
        let is_there = |(id, _): &Listed| rows.iter().any(|(row, ..)| row.id == *id);
        let gone: Vec<Listed> = listed.iter().filter(|event| !is_there(event)).copied().collect();
        self.exactly.deleted(gone.into_iter());
        let mut taken = Taken::with_capacity(rows.len());
        for (row, topic, emitted_at) in rows {
            if self.in_flight.get(row.id).is_some() {
                continue;
            }
            let (partition, offset) = UNKNOWN_PLACE;
            self.reports.push_back(Report { id: row.id, outcome: Outcome::Delivered { partition, offset } });
            taken.add(InFlightEvent {
                id: row.id,
                row,
                topic: topic.into(),
                emitted_at,
                record_time: emitted_at,
                lane: None,
                sole_in_flight: false,
                is_row_gone: false,
                // Kafka has answered.
                is_open: false,
                place: 0,
                weight: 0,
            });
        }
        self.in_flight.hand_over(taken);
    }

    /// Tells the Kafka thread to go on when all that has come back is settled.
    pub(super) fn resume_transactions(&mut self) {
        if !self.is_all_settled() {
            return;
        }
        let told = self.producer.handle().is_some_and(|producer| producer.tell(ProducerCommand::Resume));
        if told {
            self.exactly.standing = Standing::Ready;
            self.reader.note_new_rows();
        }
    }

    /// Whether a transaction was rolled back, and all of it is settled but what waits for its row.
    pub(super) fn is_all_settled(&self) -> bool {
        matches!(self.exactly.standing, Standing::RolledBack)
            && self.reports.is_empty()
            && self.in_flight.window().len() <= self.locked_rows.len() + self.faulty.count()
    }

    /// Tells the Kafka thread which deletions are durable, so that markers do not grow. Before a batch is handed over.
    pub(super) fn tell_deleted(&mut self) {
        let durable = if self.exactly.is_on() { self.exactly.take_durable() } else { Vec::new() };
        if !durable.is_empty()
            && let Some(producer) = self.producer.handle()
        {
            // If it is not told, markers list these events until the next start.
            let _ = producer.tell(ProducerCommand::Deleted(durable));
        }
    }

    /// Takes note that an operator wants this relay to publish.
    pub(super) fn read_take_over(&mut self) {
        if self.slot.take_notice(TAKE_OVER) {
            self.exactly.takes_over = true;
            if self.exactly.is_starting() {
                self.drop_producer();
                self.producer.forgive();
            }
        }
    }
}
