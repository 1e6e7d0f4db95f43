//! The relay's producer: made when it is wanted, heard, and replaced when it stops.

use std::path::Path;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::reading::pace::Pace;

use super::Relay;
use super::metrics;
use super::state::Connection;
use crate::kafka::producer::handle::ProducerHandle;
use crate::kafka::producer::messages::ProducerEvent;

/// Time left for librdkafka's own end, beyond `event_outbox.shutdown_timeout`.
const THREAD_END: Duration = Duration::from_millis(500);

/// First and longest pause after a producer that failed.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The producer, when the next one may be made, and when this one is to be replaced.
#[derive(Debug)]
pub struct ProducerSupervisor {
    handle: Option<ProducerHandle>,
    backoff: Backoff,
    /// It is to be replaced when nothing is in flight any more, or by this time.
    renewal: Option<Instant>,
}

impl Default for ProducerSupervisor {
    fn default() -> Self {
        Self { handle: None, backoff: Backoff::new(PAUSE.0, PAUSE.1), renewal: None }
    }
}

impl ProducerSupervisor {
    /// The producer, if there is one.
    #[must_use]
    pub fn handle(&self) -> Option<&ProducerHandle> {
        self.handle.as_ref()
    }

    /// Whether there is a producer.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.handle.is_some()
    }

    /// Whether it is to be replaced.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.renewal.is_some()
    }

    /// By when, at the latest.
    #[must_use]
    pub fn renewal_date(&self) -> Option<Instant> {
        self.renewal
    }

    /// When a producer may be made, after one that failed.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.backoff.until().filter(|_| self.handle.is_none())
    }

    /// What made the last one fail is over, or may be.
    pub fn forgive(&mut self) {
        self.backoff.record_success();
    }

    /// It is to be replaced, after so long at the latest.
    pub fn renew_within(&mut self, patience: Duration) {
        if self.handle.is_some() {
            self.renewal.get_or_insert_with(|| Instant::now() + patience);
        }
    }

    /// Ends the producer, if there is one.
    pub fn stop(&mut self) {
        self.renewal = None;
        if let Some(handle) = self.handle.take() {
            handle.stop(Instant::now() + THREAD_END);
        }
    }
}

impl Relay {
    /// Has a producer if one is wanted, and only then.
    pub(super) fn tend_producer(&mut self) {
        if self.renewal_is_due() {
            self.drop_producer();
        }
        let may_start = !self.producer.is_there() && self.producer.backoff.is_over(Instant::now());
        if may_start && self.settings.enabled {
            match ProducerHandle::start(&self.settings.producer, self.kafka_wakeup.clone()) {
                Ok(handle) => {
                    self.producer.handle = Some(handle);
                    self.reader.note_new_rows();
                }
                Err(error) => self.producer_failed(&error.to_string(), error.file()),
            }
        }
    }

    /// Whether the producer is to be replaced now: at once if nothing is in flight, or nothing will come
    /// back.
    pub(super) fn renewal_is_due(&self) -> bool {
        self.producer.renewal.is_some_and(|deadline| {
            self.in_flight.window().len() <= self.locked_rows.len() + self.faulty.count()
                || self.is_disconnected()
                || Instant::now() >= deadline
        })
    }

    /// The producer is to be replaced when what is in flight has come back, or patience is over.
    pub(super) fn renew_soon(&mut self) {
        self.producer.renew_within(self.settings.shutdown_timeout);
    }

    /// Gives the producer up. What was in flight is unknown: it is read and sent again.
    fn drop_producer(&mut self) {
        self.producer.stop();
        self.unreplicated = None;
        // But not of those that merely wait for their rows.
        let mut settling = self.locked_rows.ids();
        settling.extend(self.faulty.ids());
        let again = self.in_flight.producer_lost(&settling, self.settings.producer.ordered);
        self.reader.reread(again);
        metrics::of(self.slot).show_connection(Connection::Unknown);
    }

    /// `file` is the one that is wrong: its path is for the log alone.
    fn producer_failed(&mut self, error: &str, file: Option<&Path>) {
        metrics::of(self.slot).count_error(CountedError::Producer);
        if self.producer.backoff.record_failure(Instant::now()) {
            let file = file.map_or_else(String::new, |path| format!(" (the file is {})", path.display()));
            tracing::warn!("the Kafka producer cannot be used, events wait: {error}{file}");
        }
        self.slot.show_error(error);
    }

    pub(super) fn drain_producer_events(&mut self) {
        self.kafka_wakeup.clear();
        let Some(publisher) = &self.producer.handle else { return };
        // Asked before they are read, since the last ones tell why.
        let ended = publisher.has_ended();
        let (mut renew, mut broken) = (false, None);
        for event in publisher.events() {
            match event {
                ProducerEvent::Reports(reports) => self.reports.extend(reports),
                ProducerEvent::Connected => {
                    self.producer.backoff.record_success();
                    if metrics::of(self.slot).connection().0 == Connection::Disconnected {
                        tracing::info!("Kafka answers again");
                    }
                    metrics::of(self.slot).show_connection(Connection::Connected);
                }
                ProducerEvent::Disconnected(reason) => {
                    if metrics::of(self.slot).connection().0 != Connection::Disconnected {
                        tracing::warn!("no Kafka broker answers, events wait: {reason}");
                        metrics::of(self.slot).count_error(CountedError::Disconnected);
                    }
                    self.slot.show_error(&reason);
                    metrics::of(self.slot).show_connection(Connection::Disconnected);
                }
                ProducerEvent::Statistics(statistics) => metrics::of(self.slot).kafka.set(&statistics),
                ProducerEvent::Gap | ProducerEvent::Stale => renew = true,
                ProducerEvent::Broken(error) => broken = Some(error),
            }
        }
        if ended && broken.is_none() && !self.producer.is_leaving() {
            broken = Some("the Kafka thread ended unexpectedly".into());
        }
        renew |= broken.is_some();
        if let Some(error) = broken {
            self.producer_failed(&error, None);
        }
        if renew {
            // What was sent before still comes back; what was not is read again.
            self.renew_soon();
        }
        if ended {
            self.pace = Pace::default();
            self.settle();
            self.reports.clear();
            self.drop_producer();
        }
    }
}
