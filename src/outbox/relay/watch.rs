//! The watchdog at work: looks whether anything comes back, asks Kafka through a client that knows nothing
//! yet, and has the producer replaced that is stuck.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::worker::watchdog::{Findings, Health, Subject, Watchdog};

use super::Relay;
use super::metrics;
use crate::kafka::admin;
use crate::kafka::config;
use crate::kafka::producer::handle::with_signals_blocked;
use crate::kafka::wakeup_fd::SetAtEnd;

/// Time for Kafka to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// The watchdog, and what it has asked.
#[derive(Default)]
pub struct Watch {
    watchdog: Watchdog,
    asked: Option<Question>,
}

struct Question {
    subjects: Vec<Subject>,
    answer: Receiver<Vec<Health>>,
}

impl Relay {
    /// Sees to it that no silence lasts.
    pub(super) fn watch(&mut self) {
        let now = self.age();
        if !self.producer.is_there() || self.producer.is_leaving() {
            self.watch.watchdog.observe(now, []);
            return;
        }
        if now >= self.watch.watchdog.next_check() {
            let adrift = self.is_disconnected().then_some((None, 0));
            let first =
                self.in_flight.window().first_places().into_iter().map(|(topic, place)| (Some(topic), place));
            self.watch.watchdog.observe(now, first.chain(adrift));
            if let Some((topic, why)) = self.watch.watchdog.problem() {
                self.slot.show_error(&format!("events of topic {topic} wait: {why}"));
            }
        }
        self.hear_answer(now);
        if self.watch.asked.is_none()
            && let Some(subjects) = self.watch.watchdog.due_probe(now)
        {
            self.watch.asked = self.ask_kafka(subjects);
        }
    }

    /// When to look again, though nobody rings.
    pub(super) fn next_watch(&self) -> Option<Instant> {
        let something_is_out = !self.in_flight.window().is_empty() || self.is_disconnected();
        (something_is_out && self.producer.is_there())
            .then(|| self.started_at + self.watch.watchdog.next_check())
    }

    fn hear_answer(&mut self, now: Duration) {
        let Some(Question { subjects, answer }) = self.watch.asked.take() else { return };
        let health = match answer.try_recv() {
            Err(TryRecvError::Empty) => {
                self.watch.asked = Some(Question { subjects, answer });
                return;
            }
            Err(TryRecvError::Disconnected) => vec![Health::Unknown; subjects.len()],
            Ok(health) => health,
        };
        self.heed(now, subjects.into_iter().zip(health));
    }

    fn heed(&mut self, now: Duration, answers: impl Iterator<Item = (Subject, Health)>) {
        let Findings { new_problems, stuck } = self.watch.watchdog.record_health(now, answers);
        for (topic, why) in new_problems {
            tracing::warn!("nothing comes back of topic {topic}, its events wait: {why}");
            self.slot.show_error(&format!("events of topic {topic} wait: {why}"));
        }
        if let Some((subject, silence)) = stuck {
            let seconds = silence.as_secs();
            let what = match subject {
                Some(topic) => format!("nothing has come back of topic {topic} for {seconds} s"),
                None => format!("the producer has found no broker for {seconds} s"),
            };
            tracing::warn!("{what} though Kafka is well: the producer is replaced");
            self.slot.show_error(&format!("{what} though Kafka is well"));
            metrics::of(self.slot).count_error(CountedError::Producer);
            self.renew_soon();
        }
    }

    /// Has a thread ask. What cannot be asked now is asked another time.
    fn ask_kafka(&self, subjects: Vec<Subject>) -> Option<Question> {
        let config = config::for_requests(&config::client_config(&self.settings.producer).ok()?);
        let (give, answer) = bounded(1);
        let (bell, about) = (self.kafka_wakeup.clone(), subjects.clone());
        let work = move || {
            // Dropped after the answer is given.
            let _wake = SetAtEnd(bell);
            // Should the relay be gone, nobody needs to know.
            let _ = give.send(admin::check_health(&config, &about, ANSWER_TIMEOUT));
        };
        let thread =
            with_signals_blocked(|| std::thread::Builder::new().name("kafka-watch".into()).spawn(work));
        thread.ok().map(|_| Question { subjects, answer })
    }
}
