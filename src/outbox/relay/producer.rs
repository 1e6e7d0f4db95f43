//! The relay's producer: made when it is wanted, heard, and replaced when it stops.

use std::path::Path;
use std::time::Instant;

use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::reading::pace::Pace;

use super::main_loop::{Relay, THREAD_END};
use super::metrics;
use super::state::Connection;
use crate::kafka::producer::handle::ProducerHandle;
use crate::kafka::producer::messages::ProducerEvent;

impl Relay {
    /// Has a producer if one is wanted, and only then.
    pub(super) fn tend_producer(&mut self) {
        if self.renewal_is_due() {
            self.drop_producer();
        }
        if self.publisher.is_none() && self.settings.enabled && self.producer_backoff.is_over(Instant::now())
        {
            match ProducerHandle::start(&self.settings.producer, self.kafka_wakeup.clone()) {
                Ok(publisher) => {
                    self.publisher = Some(publisher);
                    self.reader.look();
                }
                Err(error) => self.producer_failed(&error.to_string(), error.file()),
            }
        }
    }

    /// Whether the producer is to be replaced now: at once if nothing is in flight, or nothing will come back.
    pub(super) fn renewal_is_due(&self) -> bool {
        self.renewal.is_some_and(|deadline| {
            self.in_flight.window().len() <= self.locked_rows.len() + self.faulty.count()
                || self.is_disconnected()
                || Instant::now() >= deadline
        })
    }

    /// The producer is to be replaced when what is in flight has come back, or patience is over.
    pub(super) fn renew_soon(&mut self) {
        if self.publisher.is_some() {
            self.renewal.get_or_insert_with(|| Instant::now() + self.settings.shutdown_timeout);
        }
    }

    /// Gives the producer up. What was in flight is unknown: it is read and sent again.
    fn drop_producer(&mut self) {
        self.renewal = None;
        if let Some(publisher) = self.publisher.take() {
            publisher.stop(Instant::now() + THREAD_END);
        }
        self.unreplicated = None;
        // But not of those that merely wait for their rows.
        let mut settling = self.locked_rows.ids();
        settling.extend(self.faulty.ids());
        let again = self.in_flight.producer_lost(&settling, self.settings.producer.ordered);
        self.reader.again(again);
        metrics::of(self.slot).show_connection(Connection::Unknown);
    }

    /// `file` is the one that is wrong: its path is for the log alone.
    fn producer_failed(&mut self, error: &str, file: Option<&Path>) {
        metrics::of(self.slot).count_error(CountedError::Producer);
        if self.producer_backoff.record_failure(Instant::now()) {
            let file = file.map_or_else(String::new, |path| format!(" (the file is {})", path.display()));
            tracing::warn!("the Kafka producer cannot be used, events wait: {error}{file}");
        }
        self.slot.show_error(error);
    }

    pub(super) fn drain_producer_events(&mut self) {
        self.kafka_wakeup.clear();
        let Some(publisher) = &self.publisher else { return };
        // Asked before they are read, since the last ones tell why.
        let ended = publisher.has_ended();
        let (mut renew, mut broken) = (false, None);
        for event in publisher.events() {
            match event {
                ProducerEvent::Reports(reports) => self.reports.extend(reports),
                ProducerEvent::Connected => {
                    self.producer_backoff.record_success();
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
        if ended && broken.is_none() && self.renewal.is_none() {
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
