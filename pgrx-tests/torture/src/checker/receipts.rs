//! Judges what receivers handled: each record of Kafka once, in the order of its key, and the poisoned ones never.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Verdict, Violation};
use crate::evidence::{Burial, Evidence, Inbox, Receipt, Seek, Seen, is_poison, key_digest};
use crate::receivers::{RECREATED, SUBSCRIPTIONS};
use crate::topics::VOLATILE;

/// Where a record is: topic, partition, offset. A topic that was created again has several records of a place.
type Place = (usize, i32, i64);

/// All records by their places, those of a place by generation.
type Records<'a> = HashMap<Place, Vec<&'a Seen>>;

/// What must be handled once: a record, or in a subscription that drops duplicates an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject {
    /// With the generation of the topic.
    Record(Place, usize),
    Event(Uuid),
}

/// What became of a subject.
#[derive(Debug)]
struct Fate<'a> {
    record: &'a Seen,
    handled: usize,
    died: usize,
    /// How often a seek has made it come again.
    again: usize,
}

impl Verdict {
    /// Compares the receipts of each subscription with all records of the topics that it reads.
    pub(super) fn judge_receipts(&mut self, evidence: &Evidence) {
        let Some(inbox) = &evidence.inbox else { return };
        for (subscription, name) in SUBSCRIPTIONS.iter().enumerate() {
            let reads = |topic: usize| if *name == RECREATED { topic == VOLATILE } else { topic < VOLATILE };
            let mut records: Records<'_> = HashMap::new();
            for record in evidence.records.iter().filter(|record| reads(record.topic)) {
                records.entry((record.topic, record.partition, record.offset)).or_default().push(record);
            }
            records.values_mut().for_each(|of_place| of_place.sort_by_key(|record| record.generation));
            self.judge_subscription(subscription, inbox, &records);
        }
        for _ in 0..inbox.left {
            self.report(Violation::Unreceived, || "an event of a subscription".into());
        }
    }

    fn judge_subscription(&mut self, subscription: usize, inbox: &Inbox, records: &Records<'_>) {
        let name = SUBSCRIPTIONS[subscription];
        let seeks: Vec<&Seek> = inbox.seeks.iter().filter(|seek| seek.subscription == subscription).collect();
        let subject = |record: &Seen| match record.event_id {
            Some(event_id) if drops_duplicates(subscription) => Subject::Event(event_id),
            _ => Subject::Record((record.topic, record.partition, record.offset), record.generation),
        };
        let mut fates: HashMap<Subject, Fate<'_>> = HashMap::new();
        for (place, record) in
            records.iter().flat_map(|(place, of_place)| of_place.iter().map(move |at| (place, *at)))
        {
            let again = seeks.iter().filter(|seek| seek.covers(*place)).count();
            let fate = Fate { record, handled: 0, died: 0, again };
            let known = fates.entry(subject(record)).or_insert(fate);
            known.again = known.again.max(again);
        }
        let mut valid: Vec<(&Receipt, &Seen)> = Vec::new();
        for receipt in inbox.receipts.iter().filter(|receipt| receipt.subscription == subscription) {
            let mut of_place = records.get(&receipt.at()).into_iter().flatten();
            let Some(record) = of_place.find(|record| is_unaltered(receipt, record)) else {
                self.report(Violation::HandledAltered, || format!("{name}: {receipt:?}"));
                continue;
            };
            if seeks.iter().any(|seek| seek.place > receipt.place && seek.covers(receipt.at())) {
                self.sought += 1;
                continue;
            }
            if let Some(fate) = fates.get_mut(&subject(record)) {
                fate.handled += 1;
            }
            valid.push((receipt, record));
        }
        for burial in inbox.burials.iter().filter(|burial| burial.subscription == subscription) {
            // A dead letter does not say of which generation it is.
            let of_place = records.get(&burial.at()).into_iter().flatten();
            let fated = |record: &&&Seen| {
                let is_dead = fates.get(&subject(record)).is_some_and(|fate| fate.died > fate.again);
                record.event_id.is_some_and(is_poison) && !is_dead
            };
            let found = of_place.clone().find(fated).or_else(|| of_place.last());
            match found.and_then(|record| fates.get_mut(&subject(record))) {
                Some(fate) => fate.died += 1,
                None => self.report(Violation::HandledAltered, || format!("{name}: {burial:?}")),
            }
        }
        self.judge_subjects(subscription, &fates);
        self.judge_handled_order(name, &valid);
    }

    fn judge_subjects(&mut self, subscription: usize, fates: &HashMap<Subject, Fate<'_>>) {
        let name = SUBSCRIPTIONS[subscription];
        let mut fates: Vec<(&Subject, &Fate<'_>)> = fates.iter().collect();
        fates.sort_unstable_by_key(|(subject, _)| **subject);
        for (subject, fate) in fates {
            let case = || format!("{name}: {subject:?} {fate:?}");
            if fate.record.event_id.is_some_and(is_poison) {
                // What died before a seek stays a dead letter.
                let is_buried = (1..=1 + fate.again).contains(&fate.died);
                if fate.handled > 0 || !is_buried {
                    self.report(Violation::Unburied, case);
                } else {
                    self.buried += 1;
                }
                continue;
            }
            self.handled[subscription] += fate.handled.min(1);
            if fate.died > 0 {
                self.report(Violation::WronglyBuried, case);
            } else if fate.handled == 0 {
                self.report(Violation::Unhandled, case);
            } else if fate.handled > 1 {
                self.report(Violation::HandledTwice, case);
            }
        }
    }

    /// The events of a key are handled in the order of their offsets.
    fn judge_handled_order(&mut self, name: &str, receipts: &[(&Receipt, &Seen)]) {
        let mut last: HashMap<(usize, u64), (&Receipt, usize)> = HashMap::new();
        let mut busy = std::collections::HashSet::new();
        let no_key = key_digest(None);
        let mut in_order = receipts.to_vec();
        in_order.sort_unstable_by_key(|(receipt, _)| receipt.place);
        for (receipt, record) in in_order {
            if record.key == no_key {
                continue;
            }
            let lane = (record.topic, record.key);
            let Some((before, generation)) = last.insert(lane, (receipt, record.generation)) else {
                continue;
            };
            busy.insert(lane);
            let is_behind = (generation, before.offset) > (record.generation, receipt.offset);
            if before.partition == receipt.partition && is_behind {
                self.report(Violation::HandledDisordered, || format!("{name}: {receipt:?} after {before:?}"));
            }
        }
        self.handled_keys += busy.len();
    }
}

/// The handler's subscription does.
fn drops_duplicates(subscription: usize) -> bool {
    SUBSCRIPTIONS[subscription] == crate::receivers::HANDLER
}

fn is_unaltered(receipt: &Receipt, record: &Seen) -> bool {
    let is_key = match &receipt.key {
        None => record.key == key_digest(None),
        Some((start, length)) => usize::try_from(*length)
            .is_ok_and(|length| record.key == key_digest(Some(whole(start, length).as_bytes()))),
    };
    receipt.event_id == record.event_id && is_key
}

/// The key that begins so: keys repeat their number.
fn whole(start: &str, length: usize) -> String {
    if length <= start.len() {
        start.into()
    } else {
        start.repeat(length.div_ceil(start.len().max(1)))[..length].into()
    }
}

impl Receipt {
    fn at(&self) -> Place {
        (self.topic, self.partition, self.offset)
    }
}

impl Burial {
    fn at(&self) -> Place {
        (self.topic, self.partition, self.offset)
    }
}

impl Seek {
    fn covers(&self, (topic, partition, offset): Place) -> bool {
        (self.topic, self.partition) == (topic, partition) && offset >= self.from_offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{Inbox, Says};

    /// The number of the poisoned record.
    const POISONED: i64 = 4;

    /// A record of one of two keys; every id but one is not poison.
    fn record(offset: i64) -> Seen {
        let event_id = Uuid::from_u128(if offset == POISONED { 0x1003 } else { 0x100 + offset as u128 });
        Seen {
            topic: 0,
            generation: 0,
            partition: 0,
            offset,
            at: 0,
            event_id: Some(event_id),
            key: key_digest(Some((offset % 2).to_string().as_bytes())),
            content: Some(0),
            says: Says::Nothing,
        }
    }

    fn receipt(subscription: usize, place: i64, offset: i64) -> Receipt {
        let Seen { topic, partition, offset, event_id, .. } = record(offset);
        let key = Some(((offset % 2).to_string(), 1));
        Receipt { place, subscription, topic, partition, offset, event_id, key }
    }

    fn burial(subscription: usize) -> Burial {
        Burial { subscription, topic: 0, partition: 0, offset: POISONED, error: String::new() }
    }

    /// Six records, one of them poisoned, which both subscriptions have handled.
    fn good() -> Evidence {
        let mut inbox = Inbox::default();
        for subscription in 0..2 {
            let healthy = (0..6).filter(|offset| *offset != POISONED);
            inbox.receipts.extend(healthy.map(|offset| receipt(subscription, offset, offset)));
            inbox.burials.push(burial(subscription));
        }
        Evidence { records: (0..6).map(record).collect(), inbox: Some(inbox), ..Evidence::default() }
    }

    fn violations_with(change: impl FnOnce(&mut Evidence, &mut Inbox)) -> Vec<Violation> {
        let mut evidence = good();
        let mut inbox = evidence.inbox.take().unwrap();
        change(&mut evidence, &mut inbox);
        evidence.inbox = Some(inbox);
        let mut verdict = Verdict::default();
        verdict.judge_receipts(&evidence);
        verdict.violations.into_keys().collect()
    }

    #[test]
    fn all_is_well() {
        let mut verdict = Verdict::default();
        verdict.judge_receipts(&good());
        assert!(verdict.violations.is_empty(), "{verdict:?}");
        assert_eq!((verdict.handled, verdict.buried, verdict.handled_keys), ([5, 5, 0], 2, 4));
    }

    #[test]
    fn without_receivers_nothing_is_judged() {
        let mut verdict = Verdict::default();
        verdict.judge_receipts(&Evidence { inbox: None, ..good() });
        assert!(verdict.violations.is_empty(), "{verdict:?}");
    }

    #[test]
    fn a_record_that_nobody_handled() {
        for at in [2, 7] {
            let found = violations_with(|_, inbox| drop(inbox.receipts.remove(at)));
            assert_eq!(found, [Violation::Unhandled]);
        }
    }

    #[test]
    fn a_record_that_was_handled_twice() {
        for subscription in 0..2 {
            let found = violations_with(|_, inbox| inbox.receipts.push(receipt(subscription, 9, 5)));
            assert_eq!(found, [Violation::HandledTwice]);
        }
    }

    #[test]
    fn a_duplicate_is_handled_by_sessions_and_dropped_before_the_handler() {
        let duplicate = |evidence: &mut Evidence| evidence.records.push(Seen { offset: 6, ..record(5) });
        let again = |subscription| Receipt { offset: 6, ..receipt(subscription, 9, 5) };
        let found = violations_with(|evidence, inbox| {
            duplicate(evidence);
            inbox.receipts.push(again(0));
        });
        assert_eq!(found, []);
        assert_eq!(violations_with(|evidence, _| duplicate(evidence)), [Violation::Unhandled]);
        let found = violations_with(|evidence, inbox| {
            duplicate(evidence);
            inbox.receipts.extend([again(0), again(1)]);
        });
        assert_eq!(found, [Violation::HandledTwice]);
    }

    #[test]
    fn a_topic_that_was_created_again_has_other_records_at_the_same_places() {
        let old = |offset| Seen { topic: VOLATILE, ..record(offset) };
        let new = |offset| {
            let event_id = Some(Uuid::from_u128(0x900 + offset as u128));
            Seen { topic: VOLATILE, generation: 1, event_id, ..record(offset) }
        };
        let of = |place, seen: &Seen| Receipt {
            topic: VOLATILE,
            event_id: seen.event_id,
            ..receipt(2, place, seen.offset)
        };
        let judge = |receipts: Vec<Receipt>| {
            violations_with(|evidence, inbox| {
                evidence.records.extend([old(0), old(1), old(2), new(0), new(1)]);
                inbox.receipts.extend(receipts);
            })
        };
        let mut all = vec![of(1, &old(0)), of(2, &old(1)), of(3, &old(2)), of(4, &new(0)), of(5, &new(1))];
        assert_eq!(judge(all.clone()), []);
        assert_eq!(judge(all[..4].to_vec()), [Violation::Unhandled]);
        (all[2].place, all[3].place) = (4, 3);
        assert_eq!(judge(all), [Violation::HandledDisordered]);
    }

    #[test]
    fn an_event_after_a_later_one_of_its_key() {
        let found = violations_with(|_, inbox| (inbox.receipts[1].place, inbox.receipts[3].place) = (3, 1));
        assert_eq!(found, [Violation::HandledDisordered]);
        let found = violations_with(|_, inbox| (inbox.receipts[1].place, inbox.receipts[2].place) = (2, 1));
        assert_eq!(found, [], "other keys");
    }

    #[test]
    fn what_kafka_does_not_have() {
        let spoil: [fn(&mut Receipt); 4] = [
            |receipt| receipt.offset = 70,
            |receipt| receipt.event_id = None,
            |receipt| receipt.key = None,
            |receipt| receipt.key = Some(("1".into(), 2)),
        ];
        for spoil in spoil {
            let found = violations_with(|_, inbox| spoil(&mut inbox.receipts[5]));
            assert_eq!(found, [Violation::Unhandled, Violation::HandledAltered]);
        }
        let found = violations_with(|_, inbox| {
            inbox.burials.push(Burial { offset: 70, ..burial(0) });
        });
        assert_eq!(found, [Violation::HandledAltered]);
    }

    #[test]
    fn poison_dies_once_and_nothing_else_does() {
        assert_eq!(violations_with(|_, inbox| drop(inbox.burials.pop())), [Violation::Unburied]);
        assert_eq!(violations_with(|_, inbox| inbox.burials.push(burial(1))), [Violation::Unburied]);
        let found = violations_with(|_, inbox| inbox.receipts.push(receipt(1, 9, POISONED)));
        assert!(found.contains(&Violation::Unburied), "{found:?}");
        let found = violations_with(|_, inbox| inbox.burials.push(Burial { offset: 5, ..burial(0) }));
        assert_eq!(found, [Violation::WronglyBuried]);
    }

    #[test]
    fn what_a_seek_brings_again_is_handled_once_after_it() {
        let seek = Seek { place: 20, subscription: 0, topic: 0, partition: 0, from_offset: 3 };
        let found = violations_with(|_, inbox| inbox.seeks.push(seek.clone()));
        assert_eq!(found, [Violation::Unhandled], "not handled after it");
        let again = |inbox: &mut Inbox| {
            inbox.receipts.extend([receipt(0, 21, 3), receipt(0, 22, 5)]);
            inbox.burials.push(burial(0));
        };
        let found = violations_with(|_, inbox| {
            inbox.seeks.push(seek.clone());
            again(inbox);
        });
        assert_eq!(found, []);
        let found = violations_with(|_, inbox| {
            inbox.seeks.push(Seek { place: 4, ..seek.clone() });
            again(inbox);
        });
        let twice = [Violation::HandledTwice, Violation::HandledDisordered];
        assert_eq!(found, twice, "one was handled after the seek already");
    }

    #[test]
    fn what_is_left() {
        assert_eq!(violations_with(|_, inbox| inbox.left = 2), [Violation::Unreceived]);
    }
}
