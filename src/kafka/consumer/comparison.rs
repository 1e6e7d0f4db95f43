//! Owns the comparison of what was read with what Kafka has, by which a consumer that stands still is found.
//!
//! Runs in: the Kafka thread.

use std::time::{Duration, Instant};

use event_outbox_policy::inbox::progress::Progress;

use super::client::Client;
use super::messages::{Assigned, Fetched};
use crate::kafka::offsets::{self, At};
use crate::kafka::question::{Answer, Question};
use crate::kafka::wakeup_fd::WakeupFd;

/// How often to compare while something is read, and while nothing is.
const INTERVAL: Duration = Duration::from_secs(15);
const QUIET_INTERVAL: Duration = Duration::from_secs(60);

/// How long to wait for Kafka's answer: less than until the next question.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is read, and when to compare it with Kafka.
#[derive(Debug, Default)]
pub struct Comparison {
    progress: Progress,
    /// The open question for the ends of the partitions.
    question: Option<Question>,
    next: Option<Instant>,
    /// Something was read since the last question.
    has_read: bool,
}

impl Comparison {
    /// These partitions are read from now on.
    #[must_use]
    pub fn of(assigned: &[Assigned]) -> Self {
        Self {
            progress: Progress::from(assigned.iter().map(|of| (of.number, of.offset))),
            next: Some(Instant::now() + INTERVAL),
            ..Self::default()
        }
    }

    /// Takes note of what was read.
    pub fn note(&mut self, fetched: &Fetched) {
        let records = fetched.records.iter().map(|record| (record.partition, record.offset + 1));
        records
            .chain(fetched.ends.iter().copied())
            .for_each(|(number, next)| self.progress.reached(number, next));
        if !fetched.records.is_empty() && !std::mem::replace(&mut self.has_read, true) {
            let soon = Instant::now() + INTERVAL;
            self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
        }
    }

    /// When to ask Kafka next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Compares, if Kafka has answered, and asks, if that is due. Returns the partition that stands still, if one does, or
    /// `None` within if Kafka tells the end of none. Call it when all that has arrived was taken.
    pub fn look(&mut self, assigned: &[Assigned], client: &Client, wakeup: &WakeupFd) -> Option<Option<i32>> {
        let answer = self.question.as_ref().and_then(|question| question.answer_within(Duration::ZERO));
        let standing = answer.and_then(|answer| {
            self.question = None;
            let standing = self.compare(assigned, &answer);
            if self.progress.is_behind() {
                // Though it was quiet before.
                let soon = Instant::now() + INTERVAL;
                self.next = Some(self.next.map_or(soon, |next| next.min(soon)));
            }
            standing
        });
        if self.next.is_some_and(|next| next <= Instant::now()) {
            // An idle consumer compares seldom.
            let is_quiet = !std::mem::take(&mut self.has_read) && !self.progress.is_behind();
            self.next = Some(Instant::now() + if is_quiet { QUIET_INTERVAL } else { INTERVAL });
            if self.question.is_none() && !assigned.is_empty() {
                let names: Vec<_> = assigned.iter().map(|of| (of.topic.clone(), of.partition)).collect();
                self.question = Some(client.ask_about_offsets(&names, At::Latest, PATIENCE, wakeup));
            }
        }
        standing
    }

    fn compare(&mut self, assigned: &[Assigned], answer: &Answer) -> Option<Option<i32>> {
        let number = |topic: &str, partition: i32| {
            assigned.iter().find(|of| of.partition == partition && of.topic == topic).map(|of| of.number)
        };
        let told = offsets::read(answer).unwrap_or_default();
        let ends: Vec<(i32, i64)> =
            told.iter().filter_map(|of| Some((number(&of.topic, of.partition)?, of.offset.ok()??))).collect();
        match ends.is_empty() {
            true => self.progress.told_nothing().then_some(None),
            false => self.progress.compare(ends.into_iter()).map(Some),
        }
    }
}
