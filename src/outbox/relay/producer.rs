//! Owns the relay's producer: it is started when it is needed, its events are processed, and it is replaced
//! when it stops.
//!
//! Runs in: a relay's background worker, main thread.

use std::path::Path;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::reading::pace::Pace;

use super::Relay;
use super::exactly_once::is_delivered;
use super::metrics;
use crate::kafka::producer::handle::ProducerHandle;
use crate::kafka::producer::messages::ProducerEvent;
use crate::worker::metrics::Connection;

/// How long librdkafka may take to end, beyond `event_outbox.shutdown_timeout`.
const THREAD_END: Duration = Duration::from_millis(500);

/// How long events whose rows are gone may take to come back before their producer is replaced, beyond which they count as lost.
/// A new broker, or one that is overloaded, answers within less.
const PATIENCE_WITHOUT_ROWS: Duration = Duration::from_secs(60);

/// The first and the longest pause after a failed producer.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The producer, when the next one may start, and when to replace this one.
#[derive(Debug)]
pub struct ProducerSupervisor {
    handle: Option<ProducerHandle>,
    backoff: Backoff,
    renewal: Option<Renewal>,
}

/// A producer is to be replaced: when nothing is in flight any more, or at these times.
#[derive(Debug, Clone, Copy)]
struct Renewal {
    /// What is in flight can be read and sent again.
    with_rows: Instant,
    /// Some of it cannot, and would be lost.
    without_rows: Instant,
    /// The longer wait was reported.
    is_reported: bool,
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

    /// Whether it must be replaced.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.renewal.is_some()
    }

    /// When to look next whether it must be replaced.
    #[must_use]
    pub fn renewal_date(&self) -> Option<Instant> {
        let Renewal { with_rows, without_rows, .. } = self.renewal?;
        Some(if with_rows > Instant::now() { with_rows } else { without_rows })
    }

    /// When the next producer may start after a failed one.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.backoff.until().filter(|_| self.handle.is_none())
    }

    /// Ends the pause, because the cause of the last failure may be gone.
    pub fn forgive(&mut self) {
        self.backoff.record_success();
    }

    /// Requests its replacement, after `patience` at the latest, or after `without_rows` if events in flight cannot be read again.
    fn renew_within(&mut self, patience: Duration, without_rows: Duration) {
        if self.handle.is_some() {
            let now = Instant::now();
            self.renewal.get_or_insert(Renewal {
                with_rows: now + patience,
                without_rows: now + without_rows,
                is_reported: false,
            });
        }
    }

    /// Stops the producer, if there is one.
    pub fn stop(&mut self) {
        self.renewal = None;
        if let Some(handle) = self.handle.take() {
            handle.stop(Instant::now() + THREAD_END);
        }
    }
}

impl Relay {
    /// Starts, replaces or drops the producer, as needed.
    pub(super) fn tend_producer(&mut self) {
        if self.renewal_is_due() {
            self.drop_producer();
        }
        self.report_wait_without_rows();
        let may_start = !self.producer.is_there() && self.producer.backoff.is_over(Instant::now());
        if may_start && self.settings.enabled {
            match self.start_producer() {
                Ok(handle) => {
                    self.producer.handle = Some(handle);
                    self.reader.note_new_rows();
                }
                Err(error) => self.producer_failed(&error.to_string(), error.file()),
            }
        }
    }

    /// Whether to replace the producer now. If nothing is in flight, or no reports will arrive, this need not
    /// wait, unless events would be lost.
    pub(super) fn renewal_is_due(&self) -> bool {
        self.producer.renewal.is_some_and(|Renewal { with_rows, without_rows, .. }| {
            let now = Instant::now();
            self.in_flight.window().len() <= self.locked_rows.len() + self.faulty.count()
                || now >= without_rows
                || (now >= with_rows || self.is_disconnected()) && self.count_rowless() == 0
        })
    }

    /// Requests the producer's replacement, when all events in flight have come back, or the shutdown timeout
    /// is over. Events that cannot be sent again have more time.
    pub(super) fn renew_soon(&mut self) {
        let patience = self.settings.shutdown_timeout;
        self.producer.renew_within(patience, patience.max(PATIENCE_WITHOUT_ROWS));
    }

    /// Requests the replacement of a producer that has been silent for long. No event has more time than others.
    pub(super) fn replace_stuck(&mut self) {
        let patience = self.settings.shutdown_timeout;
        self.producer.renew_within(patience, patience);
    }

    /// Says that nothing is published because events are on their way that would be lost with their producer.
    fn report_wait_without_rows(&mut self) {
        let Some(renewal) = self.producer.renewal else { return };
        let now = Instant::now();
        if renewal.is_reported || now < renewal.with_rows || now >= renewal.without_rows {
            return;
        }
        let count = self.count_rowless();
        if count > 0 {
            let seconds = (renewal.without_rows - now).as_secs_f64().ceil();
            let text = format!(
                "{count} event(s) of delivery at most once are on their way, and would be lost with their producer, \
                 which is to be replaced; others wait for Kafka's answers, at most {seconds} s"
            );
            tracing::warn!("{text}");
            self.slot.show_error(&text);
            self.producer.renewal = Some(Renewal { is_reported: true, ..renewal });
        }
    }

    /// Drops the producer. The fate of the events in flight is unknown, so they are read and sent again.
    pub(super) fn drop_producer(&mut self) {
        self.producer.stop();
        self.unreplicated = None;
        // This excludes the events that Kafka has answered and that only wait for their rows.
        let mut settling = self.locked_rows.ids();
        settling.extend(self.faulty.ids());
        if self.exactly.is_on() {
            // What is in Kafka stays in flight, and is settled. Other reports are of events that are sent again: they must not
            // be taken for reports of the next transaction.
            self.reports.retain(is_delivered);
            settling
                .extend(self.reports.iter().filter(|report| is_delivered(report)).map(|report| report.id));
        }
        self.exactly.ended();
        self.give_up_lost(self.in_flight.window().count_rowless(&settling));
        let again = self.in_flight.producer_lost(&settling, self.settings.producer.starts_in_groups());
        self.reader.reread(again);
        metrics::of(self.slot).show_connection(Connection::Unknown);
    }

    /// Records that the producer failed. `file` is the invalid file, if any. Its path is shown only in the
    /// log.
    fn producer_failed(&mut self, error: &str, file: Option<&Path>) {
        metrics::of(self.slot).count_error(CountedError::Producer);
        if self.producer.backoff.record_failure(Instant::now()) {
            let file = file.map_or_else(String::new, |path| format!(" (the file is {})", path.display()));
            tracing::warn!("the Kafka producer cannot be used; events wait: {error}{file}");
        }
        self.slot.show_error(error);
    }

    fn connected(&mut self) {
        self.producer.backoff.record_success();
        if metrics::of(self.slot).connection().0 == Connection::Disconnected {
            tracing::info!("Kafka answers again");
        }
        metrics::of(self.slot).show_connection(Connection::Connected);
        let again = self.in_flight.allow_all();
        self.reader.reread(again);
        if std::mem::take(&mut self.holds_back) {
            self.in_flight.end_waits();
        }
    }

    fn disconnected(&self, reason: &str) {
        if metrics::of(self.slot).connection().0 != Connection::Disconnected {
            tracing::warn!("no Kafka broker answers; events wait: {reason}");
            metrics::of(self.slot).count_error(CountedError::Disconnected);
        }
        self.slot.show_error(reason);
        metrics::of(self.slot).show_connection(Connection::Disconnected);
    }

    fn held_back(&mut self, reason: &str) {
        if !self.exactly.holds_back() {
            tracing::warn!("nothing is published for now: {reason}");
        }
        self.exactly.hold_back();
        self.slot.show_error(reason);
    }

    pub(super) fn drain_producer_events(&mut self) {
        self.kafka_wakeup.clear();
        let Some(publisher) = &self.producer.handle else { return };
        // Check this before reading the events, because the last ones tell why it ended.
        let ended = publisher.has_ended();
        let events: Vec<ProducerEvent> = publisher.events().collect();
        let (mut renew, mut broken) = (false, None);
        for event in events {
            match event {
                ProducerEvent::Reports(reports) => {
                    self.exactly.goes_on();
                    self.reports.extend(reports);
                }
                ProducerEvent::Started(published) => self.exactly.started(published),
                ProducerEvent::HoldsBack(reason) => self.held_back(&reason),
                ProducerEvent::RolledBack => {
                    self.exactly.rolled_back();
                    self.give_up_unreplicated();
                }
                ProducerEvent::Connected => self.connected(),
                ProducerEvent::Disconnected(reason) => self.disconnected(&reason),
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
            // Events that were already sent still come back. Events that were not are read again.
            self.renew_soon();
        }
        if ended {
            self.pace = Pace::default();
            self.settle();
            if !self.exactly.is_on() {
                self.reports.clear();
            }
            self.drop_producer();
        }
    }
}
