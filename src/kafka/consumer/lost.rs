//! Owns the partitions whose next record Kafka does not have, until Kafka has told where they begin and end.
//!
//! Runs in: the Kafka thread.

use std::time::{Duration, Instant};

use super::client::Client;
use super::message::LostPlace;
use super::messages::{Assigned, OutOfRange};
use crate::kafka::offsets::{self, At, PartitionOffset};
use crate::kafka::probe::PATIENCE;
use crate::kafka::question::Question;
use crate::kafka::wakeup_fd::WakeupFd;

/// When to ask again if Kafka did not tell.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The partitions.
#[derive(Debug, Default)]
pub struct Lost {
    partitions: Vec<LostPlace>,
    /// The open questions.
    questions: Option<[Asked; 2]>,
    next: Option<Instant>,
}

/// A question, and its answer.
#[derive(Debug)]
struct Asked {
    question: Question,
    /// `None` if it is not answered yet. Empty if Kafka did not tell.
    answer: Option<Vec<PartitionOffset>>,
}

impl Lost {
    /// A partition cannot be read on from this place.
    pub fn add(&mut self, place: LostPlace) {
        self.partitions.push(place);
        self.next = Some(Instant::now());
    }

    /// When to ask Kafka next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Takes Kafka's answers, and asks, if that is due. Returns what is known now, for this assignment.
    pub fn look(
        &mut self,
        (generation, assigned): (u64, &[Assigned]),
        client: &Client,
        wakeup: &WakeupFd,
    ) -> Vec<OutOfRange> {
        let mut found = Vec::new();
        if let Some([low, high]) = self.answers() {
            self.partitions.retain(|place| {
                let range = assigned
                    .iter()
                    .find(|of| of.number == place.number)
                    .and_then(|of| Some((of_partition(&low, of)?, of_partition(&high, of)?)));
                if let Some((low, high)) = range {
                    let LostPlace { number, offset, truncation } = *place;
                    let truncated_at = truncation.map(|truncation| truncation.from.unwrap_or(low));
                    found.push(OutOfRange { generation, number, offset, low, high, truncated_at });
                }
                range.is_none()
            });
            self.next = (!self.partitions.is_empty()).then(|| Instant::now() + ASK_AGAIN);
        }
        if self.questions.is_none() && self.next.is_some_and(|next| next <= Instant::now()) {
            self.ask(assigned, client, wakeup);
        }
        found
    }

    fn ask(&mut self, assigned: &[Assigned], client: &Client, wakeup: &WakeupFd) {
        self.partitions.retain(|place| assigned.iter().any(|of| of.number == place.number));
        let is_lost = |of: &&Assigned| self.partitions.iter().any(|place| place.number == of.number);
        let names: Vec<_> =
            assigned.iter().filter(is_lost).map(|of| (of.topic.clone(), of.partition)).collect();
        self.next = None;
        if !names.is_empty() {
            self.questions = Some([At::Earliest, At::Latest].map(|at| Asked {
                question: client.ask_about_offsets(&names, at, PATIENCE, wakeup),
                answer: None,
            }));
        }
    }

    /// The beginnings and the ends, once both questions are answered.
    fn answers(&mut self) -> Option<[Vec<PartitionOffset>; 2]> {
        for asked in self.questions.as_mut()? {
            if asked.answer.is_none()
                && let Some(answer) = asked.question.answer_within(Duration::ZERO)
            {
                asked.answer = Some(offsets::read(&answer).unwrap_or_default());
            }
        }
        if self.questions.as_ref()?.iter().any(|asked| asked.answer.is_none()) {
            return None;
        }
        self.questions.take().map(|questions| questions.map(|asked| asked.answer.unwrap_or_default()))
    }
}

fn of_partition(told: &[PartitionOffset], of: &Assigned) -> Option<i64> {
    let told = told.iter().find(|told| told.partition == of.partition && told.topic == of.topic)?;
    told.offset.ok()?
}
