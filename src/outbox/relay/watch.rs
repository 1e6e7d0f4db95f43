//! Owns the watchdog's run: it checks whether delivery reports arrive, asks Kafka through a fresh client, and
//! requests the replacement of a stuck producer.
//!
//! Runs in: a relay's background worker, main thread; the questions to Kafka in a thread of their own.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use event_outbox_policy::delivery::error_class::CountedError;
use event_outbox_policy::worker::watchdog::{Findings, Health, Subject, Watchdog};

use super::Relay;
use super::metrics;
use crate::kafka::admin;
use crate::kafka::config;
use crate::kafka::threads::with_signals_blocked;
use crate::kafka::wakeup_fd::SetAtEnd;

/// How long Kafka may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// The watchdog, and its open question to Kafka.
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
    /// Runs the watchdog, so that a stuck producer is found and replaced.
    pub(super) fn watch(&mut self) {
        let now = self.age();
        if !self.producer.is_there() || self.producer.is_leaving() {
            self.watch.watchdog.observe(now, []);
            return;
        }
        if now >= self.watch.watchdog.next_check() {
            let disconnected = self.is_disconnected().then_some((None, 0));
            let first =
                self.in_flight.window().first_places().into_iter().map(|(topic, place)| (Some(topic), place));
            self.watch.watchdog.observe(now, first.chain(disconnected));
            if let Some((topic, why)) = self.watch.watchdog.problem() {
                self.slot.show_error(&format!("events of topic \"{topic}\" wait: {why}"));
            }
        }
        self.receive_answer(now);
        if self.watch.asked.is_none()
            && let Some(subjects) = self.watch.watchdog.due_probe(now)
        {
            self.watch.asked = self.ask_kafka(subjects);
        }
    }

    /// When the next check is due, even if nothing wakes the relay.
    pub(super) fn next_watch(&self) -> Option<Instant> {
        let is_needed = !self.in_flight.window().is_empty() || self.is_disconnected();
        (is_needed && self.producer.is_there()).then(|| self.started_at + self.watch.watchdog.next_check())
    }

    fn receive_answer(&mut self, now: Duration) {
        let Some(Question { subjects, answer }) = self.watch.asked.take() else { return };
        let health = match answer.try_recv() {
            Err(TryRecvError::Empty) => {
                self.watch.asked = Some(Question { subjects, answer });
                return;
            }
            Err(TryRecvError::Disconnected) => vec![Health::Unknown; subjects.len()],
            Ok(health) => health,
        };
        self.act_on_answers(now, subjects.into_iter().zip(health));
    }

    fn act_on_answers(&mut self, now: Duration, answers: impl Iterator<Item = (Subject, Health)>) {
        let Findings { new_problems, stuck } = self.watch.watchdog.record_health(now, answers);
        for (topic, why) in new_problems {
            tracing::warn!("no delivery reports for topic \"{topic}\"; its events wait: {why}");
            self.slot.show_error(&format!("events of topic \"{topic}\" wait: {why}"));
        }
        if let Some((subject, silence)) = stuck {
            let seconds = silence.as_secs();
            let what = match subject {
                Some(topic) => format!("no delivery report for topic \"{topic}\" in {seconds} s"),
                None => format!("the producer has found no broker for {seconds} s"),
            };
            tracing::warn!("{what} although Kafka is healthy; replacing the producer");
            self.slot.show_error(&format!("{what} although Kafka is healthy"));
            metrics::of(self.slot).count_error(CountedError::Producer);
            self.replace_stuck();
        }
    }

    /// Asks Kafka in a thread of its own. If that is not possible now, the watchdog asks another time.
    fn ask_kafka(&self, subjects: Vec<Subject>) -> Option<Question> {
        let config = config::for_requests(&config::client_config(&self.settings.producer).ok()?);
        let (sender, answer) = bounded(1);
        let (wakeup, about) = (self.kafka_wakeup.clone(), subjects.clone());
        let work = move || {
            // Dropped after the answer is sent.
            let _wake = SetAtEnd(wakeup);
            // If the relay is gone, nobody needs the answer.
            let _ = sender.send(admin::check_health(&config, &about, ANSWER_TIMEOUT));
        };
        let thread =
            with_signals_blocked(|| std::thread::Builder::new().name("kafka-watch".into()).spawn(work));
        thread.ok().map(|_| Question { subjects, answer })
    }
}
