//! The checker: compares what the writers wrote with what was found. It is pure and sees only [`Evidence`].

mod arrivals;
mod order;
mod projected;
mod receipts;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::evidence::{Delivery, Evidence, Notice, Seen, Span};
use super::journal::{Ending, Entry, Expected, Millis};
use super::receivers::SUBSCRIPTIONS;
use arrivals::Arrivals;

/// A violated guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A committed event is not in Kafka.
    Lost,
    /// An event that was rolled back, or whose commit a crash undid, is in Kafka or a dead letter.
    Ghost,
    /// A record belongs to no event that a writer wrote.
    Invented,
    /// Topic, key, payload or headers differ from what was written.
    Altered,
    /// An event arrived after a later one of its key, or in another partition.
    Disordered,
    /// A duplicate arrived while no fault was active.
    UnexplainedDuplicate,
    /// An event that Kafka must refuse is not a dead letter, is in Kafka, or died twice.
    Undead,
    /// An event that Kafka would have accepted is a dead letter.
    WronglyDead,
    /// No notification announced an event, though the listener was connected when it was settled.
    Unheard,
    /// An event is still in the outbox.
    Left,
    /// The server lost a transaction that it had reported as committed, or kept one that was rolled back.
    Contradicted,
    /// A record of Kafka was neither handled by a receiver, nor is it a dead letter of the subscription.
    Unhandled,
    /// A record, or an event of a subscription that drops duplicates, was handled twice.
    HandledTwice,
    /// An event of a key was handled after a later one.
    HandledDisordered,
    /// What was handled, or died, is not what Kafka has there.
    HandledAltered,
    /// An event at which receivers always fail was handled, or is no dead letter, or more than one.
    Unburied,
    /// An event that receivers would have handled is a dead letter of the subscription.
    WronglyBuried,
    /// An event is still to be stored or received.
    Unreceived,
    /// The table of the projection does not have the last record of a key.
    Misprojected,
}

/// The verdict and its figures.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Events whose transaction and savepoint committed.
    pub committed: usize,
    /// Events that were rolled back.
    pub rolled_back: usize,
    /// Transactions whose end the writer does not know.
    pub unknown: usize,
    /// Transactions that committed without waiting for the disk.
    pub asynchronous: usize,
    /// Those of them that a crash undid.
    pub taken_back: usize,
    /// Records in Kafka.
    pub records: usize,
    /// Keys with more than one event.
    pub keys: usize,
    /// Rightful dead letters.
    pub dead: usize,
    /// Events of delivery at most once that a fault has lost.
    pub given_up: usize,
    /// Events that died and arrived later.
    pub revived: usize,
    /// Duplicates, by the fault that was active.
    pub duplicates: BTreeMap<String, usize>,
    /// Events that a notification announced.
    pub heard: usize,
    /// Events settled while nobody listened.
    pub unheard_of: usize,
    /// What was handled of each subscription.
    pub handled: [usize; SUBSCRIPTIONS.len()],
    /// Rightful dead letters of the subscriptions.
    pub buried: usize,
    /// Keys with more than one event that was handled, of all subscriptions.
    pub handled_keys: usize,
    /// Keys whose last record is in the table of the projection.
    pub projected: usize,
    /// Receipts that a seek has made void.
    pub sought: usize,
    /// What went wrong, and how often.
    pub violations: BTreeMap<Violation, usize>,
    /// The first cases of each violation.
    pub cases: Vec<(Violation, String)>,
}

/// How many cases of a violation are shown.
const CASES: usize = 5;

/// A listener whose connection breaks may miss what was sent in the last moment before.
const LAST_MOMENT: Millis = 2_000;

/// Within this time after a settlement its notifications are heard.
const SOON: Millis = 5_000;

/// A partition that notifications speak of: topic, generation, partition.
type Place = (usize, usize, i32);

impl Verdict {
    /// Judges the evidence.
    pub fn of(evidence: &Evidence) -> Self {
        let mut verdict = Self { records: evidence.records.len(), ..Self::default() };
        let entries: HashMap<Uuid, &Entry> =
            evidence.journal.entries.iter().map(|entry| (entry.event_id, entry)).collect();
        let arrivals = Arrivals::take(evidence, &entries, &mut verdict);
        verdict.judge_fates(evidence, &entries, &arrivals);
        verdict.judge_order(evidence, &entries);
        verdict.judge_duplicates(evidence, &arrivals);
        verdict.judge_notices(evidence, &entries, &arrivals);
        verdict.judge_receipts(evidence);
        verdict.judge_projection(evidence);
        for _ in 0..evidence.left {
            verdict.report(Violation::Left, || "a row of outbox.events".into());
        }
        for _ in
            0..evidence.journal.contradicted_by(&evidence.committed, |at| evidence.crashed_soon_after(at))
        {
            verdict.report(Violation::Contradicted, || "the end of a transaction".into());
        }
        verdict.unknown = evidence.journal.count(|_, ending| ending == Ending::Unknown);
        let is_asynchronous = |ending| matches!(ending, Ending::CommittedAsynchronously(_));
        verdict.asynchronous = evidence.journal.count(|_, ending| is_asynchronous(ending));
        verdict.taken_back = evidence
            .journal
            .count(|number, ending| is_asynchronous(ending) && !evidence.committed.contains(&number));
        verdict
    }

    /// Whether nothing went wrong and there was something to check.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.committed > 0 && self.records > 0
    }

    /// How often a violation was found.
    pub fn count(&self, violation: Violation) -> usize {
        self.violations.get(&violation).copied().unwrap_or(0)
    }

    fn report(&mut self, violation: Violation, case: impl FnOnce() -> String) {
        let count = self.violations.entry(violation).or_default();
        *count += 1;
        if *count <= CASES {
            self.cases.push((violation, case()));
        }
    }

    /// Checks that each event arrived, died or vanished as it should.
    fn judge_fates(&mut self, evidence: &Evidence, entries: &HashMap<Uuid, &Entry>, arrivals: &Arrivals) {
        let mut deaths: HashMap<Uuid, usize> = HashMap::new();
        for event_id in &evidence.dead {
            *deaths.entry(*event_id).or_default() += 1;
            if !entries.get(event_id).is_some_and(|entry| evidence.is_committed(entry)) {
                self.report(Violation::Ghost, || format!("dead letter {event_id} of no committed event"));
            }
        }
        for entry in &evidence.journal.entries {
            if !evidence.is_committed(entry) {
                self.rolled_back += 1;
                continue;
            }
            self.committed += 1;
            let arrived = arrivals.contains(entry.event_id);
            let deaths = deaths.get(&entry.event_id).copied().unwrap_or(0);
            self.judge_fate(evidence, entry, arrived, deaths);
        }
    }

    fn judge_fate(&mut self, evidence: &Evidence, entry: &Entry, arrived: bool, deaths: usize) {
        let case = || format!("{} {entry:?}", evidence.topics[entry.topic]);
        match evidence.expected(entry) {
            Expected::Arrives | Expected::ArrivesLate | Expected::MayArrive if deaths > 0 => {
                self.report(Violation::WronglyDead, case);
            }
            Expected::Arrives | Expected::ArrivesLate if !arrived => {
                match evidence.excuses_loss(evidence.settled.get(&entry.event_id)) {
                    true => self.given_up += 1,
                    false => self.report(Violation::Lost, case),
                }
            }
            Expected::ArrivesLate => self.revived += 1,
            Expected::Dies if arrived || deaths != 1 => self.report(Violation::Undead, case),
            Expected::DiesOrArrivesLate if usize::from(arrived) + deaths != 1 => {
                self.report(Violation::Undead, case)
            }
            Expected::Dies => self.dead += 1,
            Expected::DiesOrArrivesLate => {
                self.dead += deaths;
                self.revived += usize::from(arrived);
            }
            Expected::Arrives | Expected::MayArrive | Expected::Never => {}
        }
    }

    /// Faults cause duplicates, but only of events that have arrived before or while they are active: at that time, or later if
    /// the event had to wait, behind others of its key or with all of its topic.
    fn judge_duplicates(&mut self, evidence: &Evidence, arrivals: &Arrivals) {
        for (event_id, between) in arrivals.repetitions() {
            let at = between.to;
            let explains =
                |span: &Span| span.contains(at) || span.contains(between.from) || between.contains(span.from);
            // Of several faults, the last to begin.
            let fault = evidence.disturbed.iter().filter(|(span, _)| explains(span));
            match fault
                .max_by_key(|(span, _)| span.from)
                .filter(|_| evidence.delivery == Delivery::AtLeastOnce)
            {
                Some((_, fault)) => *self.duplicates.entry(fault.clone()).or_default() += 1,
                None => self.report(Violation::UnexplainedDuplicate, || format!("{event_id} again at {at}")),
            }
        }
    }

    /// The transaction that deletes an event also notifies listeners, and writes the time to `settled`. So an event
    /// without a notification is excused only if it was settled while nobody listened, or in the last moment before.
    /// One notification is enough for an event that was published twice: a crash may have undone its first settlement.
    fn judge_notices(&mut self, evidence: &Evidence, entries: &HashMap<Uuid, &Entry>, arrivals: &Arrivals) {
        let told = Told::of(&evidence.notices);
        for (event_id, records) in arrivals.iter() {
            if records.iter().any(|at| told.covers(&evidence.records[*at])) {
                self.heard += 1;
                continue;
            }
            // It may have been deleted by hand, which notifies nobody.
            if entries.get(event_id).is_some_and(|entry| entry.expected == Expected::MayArrive) {
                continue;
            }
            let was_deaf = |at: Millis| {
                evidence.deaf.iter().any(|span| (span.from - LAST_MOMENT..=span.to).contains(&at))
            };
            match evidence.settled.get(event_id) {
                // The notification follows the deletion, in another transaction.
                at if evidence.excuses_loss(at) => self.unheard_of += 1,
                Some(at) if was_deaf(*at) => self.unheard_of += 1,
                Some(at)
                    if evidence.delivery == Delivery::ExactlyOnce
                        && told.unplaced(records, evidence, *at) =>
                {
                    self.heard += 1;
                }
                settled => self.report(Violation::Unheard, || format!("{event_id}, settled {settled:?}")),
            }
        }
    }
}

impl Evidence {
    /// Whether the event was committed.
    fn is_committed(&self, entry: &Entry) -> bool {
        entry.expected != Expected::Never && self.committed.contains(&entry.transaction)
    }

    /// The fate that an event should have, given the topics that were created.
    fn expected(&self, entry: &Entry) -> Expected {
        if self.created_late.contains(&entry.topic) { Expected::ArrivesLate } else { entry.expected }
    }
}

/// What notifications announced.
struct Told {
    /// Offsets, as disjoint ranges.
    ranges: HashMap<Place, BTreeMap<i64, i64>>,
    /// Topics and times of notifications of events whose place is not known: a relay that delivers exactly once has found them
    /// in the markers of the one before.
    unplaced: HashMap<usize, Vec<Millis>>,
}

impl Told {
    fn of(notices: &[Notice]) -> Self {
        let mut ranges: HashMap<Place, Vec<(i64, i64)>> = HashMap::new();
        let mut unplaced: HashMap<usize, Vec<Millis>> = HashMap::new();
        for notice in notices {
            if notice.partition < 0 {
                unplaced.entry(notice.topic).or_default().push(notice.at);
                continue;
            }
            let place = (notice.topic, notice.generation, notice.partition);
            ranges.entry(place).or_default().push(notice.offsets);
        }
        let joined = ranges.into_iter().map(|(place, mut ranges)| {
            ranges.sort_unstable();
            let mut joined: BTreeMap<i64, i64> = BTreeMap::new();
            for (first, last) in ranges {
                match joined.last_entry() {
                    Some(mut before) if *before.get() >= first - 1 => {
                        let end = (*before.get()).max(last);
                        before.insert(end);
                    }
                    _ => {
                        joined.insert(first, last);
                    }
                }
            }
            (place, joined)
        });
        Self { ranges: joined.collect(), unplaced }
    }

    /// Whether a notification without a place came soon after this settlement of an event.
    fn unplaced(&self, records: &[usize], evidence: &Evidence, settled: Millis) -> bool {
        let topic = records.first().map(|at| evidence.records[*at].topic);
        let times = topic.and_then(|topic| self.unplaced.get(&topic));
        times.is_some_and(|times| times.iter().any(|at| (settled..=settled + SOON).contains(at)))
    }

    fn covers(&self, record: &Seen) -> bool {
        let place = (record.topic, record.generation, record.partition);
        let range = self.ranges.get(&place).and_then(|ranges| ranges.range(..=record.offset).next_back());
        range.is_some_and(|(_, last)| *last >= record.offset)
    }
}
