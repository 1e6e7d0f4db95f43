//! Tests of the checker: it finds each violation, and nothing else.

use uuid::Uuid;

use super::{Verdict, Violation};
use crate::evidence::{Delivery, Evidence, Notice, Says, Seen, Span, key_digest};
use crate::journal::{Ending, Entry, Expected};

const TOPIC: usize = 0;
const LOST_TOPIC: usize = 1;

fn uuid(number: u32) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

fn entry(number: u32, key: u16) -> Entry {
    Entry {
        event_id: uuid(number),
        id: i64::from(number),
        transaction: i64::from(number),
        topic: TOPIC,
        key: Some(key),
        content: u64::from(number),
        expected: Expected::Arrives,
    }
}

fn seen(number: u32, key: u16, offset: i64) -> Seen {
    Seen {
        topic: TOPIC,
        generation: 0,
        partition: 0,
        offset,
        at: 1_000 * offset,
        event_id: Some(uuid(number)),
        key: key_digest(Some(key.to_string().as_bytes())),
        content: Some(u64::from(number)),
        says: Says::Nothing,
    }
}

/// Four events of two keys, without a violation.
fn good() -> Evidence {
    let mut evidence =
        Evidence { topics: vec!["torture.a".into(), "torture.lost.0".into()], ..Evidence::default() };
    for number in 0..4 {
        let key = (number % 2) as u16;
        evidence.journal.entries.push(entry(number, key));
        evidence.journal.endings.insert(i64::from(number), Ending::Committed);
        evidence.committed.insert(i64::from(number));
        evidence.records.push(seen(number, key, i64::from(number)));
        evidence.settled.insert(uuid(number), 50_000);
    }
    evidence.notices = vec![notice(0, 1), notice(1, 3)];
    evidence
}

fn notice(first: i64, last: i64) -> Notice {
    Notice { topic: TOPIC, generation: 0, partition: 0, offsets: (first, last), at: 0 }
}

/// The violations that are found.
fn violations(evidence: &Evidence) -> Vec<Violation> {
    let verdict = Verdict::of(evidence);
    assert_eq!(verdict.is_clean(), verdict.violations.is_empty());
    verdict.violations.into_keys().collect()
}

#[test]
fn all_is_well() {
    let verdict = Verdict::of(&good());
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!((verdict.committed, verdict.records, verdict.keys, verdict.heard), (4, 4, 2, 4));
}

#[test]
fn nothing_at_all_is_not_well() {
    assert!(!Verdict::of(&Evidence::default()).is_clean());
}

#[test]
fn a_committed_event_is_missing() {
    let mut evidence = good();
    evidence.records.remove(2);
    assert_eq!(violations(&evidence), [Violation::Lost]);
}

#[test]
fn an_event_of_a_transaction_or_savepoint_that_was_rolled_back() {
    let mut evidence = good();
    evidence.committed.remove(&3);
    evidence.journal.endings.insert(3, Ending::RolledBack);
    assert_eq!(violations(&evidence), [Violation::Ghost]);
    let mut evidence = good();
    evidence.journal.entries[3].expected = Expected::Never;
    assert_eq!(violations(&evidence), [Violation::Ghost]);
}

#[test]
fn a_transaction_of_unknown_end_is_judged_by_its_marker() {
    let mut evidence = good();
    evidence.journal.endings.insert(3, Ending::Unknown);
    assert!(Verdict::of(&evidence).is_clean());
    evidence.committed.remove(&3);
    assert_eq!(violations(&evidence), [Violation::Ghost]);
    evidence.records.pop();
    assert!(Verdict::of(&evidence).is_clean());
}

#[test]
fn the_server_forgot_a_commit() {
    let mut evidence = good();
    evidence.committed.remove(&3);
    evidence.records.pop();
    assert_eq!(violations(&evidence), [Violation::Contradicted]);
}

#[test]
fn a_crash_takes_a_commit_back_that_was_not_on_disk() {
    let mut evidence = good();
    evidence.journal.endings.insert(3, Ending::CommittedAsynchronously(40_000));
    assert!(Verdict::of(&evidence).is_clean());
    evidence.committed.remove(&3);
    assert_eq!(violations(&evidence), [Violation::Ghost, Violation::Contradicted], "without a crash");
    // An event that is in Kafka must not be undone.
    for crash in [Span { from: 40_100, to: 41_000 }, Span { from: 39_000, to: 40_001 }] {
        evidence.crashes = vec![crash];
        assert_eq!(violations(&evidence), [Violation::Ghost]);
    }
    let record = evidence.records.pop();
    let verdict = Verdict::of(&evidence);
    assert!(verdict.is_clean() && (verdict.asynchronous, verdict.taken_back) == (1, 1), "{verdict:?}");
    evidence.crashes = vec![Span { from: 80_000, to: 81_000 }, Span { from: 30_000, to: 31_000 }];
    assert_eq!(violations(&evidence), [Violation::Contradicted], "it was on disk by then");
    evidence.records.extend(record);
    evidence.committed.insert(3);
    assert!(Verdict::of(&evidence).is_clean());
}

#[test]
fn a_record_of_nobody() {
    let mut evidence = good();
    evidence.records.push(seen(77, 0, 9));
    evidence.records.push(Seen { event_id: None, ..seen(1, 1, 10) });
    assert_eq!(Verdict::of(&evidence).count(Violation::Invented), 2);
}

#[test]
fn another_content_key_or_topic() {
    let spoil: [fn(&mut Seen); 4] = [
        |record| record.content = Some(77),
        |record| record.content = None,
        |record| record.key = key_digest(None),
        |record| record.topic = LOST_TOPIC,
    ];
    for spoil in spoil {
        let mut evidence = good();
        spoil(&mut evidence.records[3]);
        assert_eq!(Verdict::of(&evidence).count(Violation::Altered), 1);
    }
}

#[test]
fn an_event_before_an_earlier_one_of_its_key() {
    let mut evidence = good();
    (evidence.records[0].offset, evidence.records[2].offset) = (2, 0);
    assert_eq!(violations(&evidence), [Violation::Disordered]);
    // An event that died may arrive late, as may repetitions.
    evidence.journal.entries[0].expected = Expected::ArrivesLate;
    let verdict = Verdict::of(&evidence);
    assert!(verdict.is_clean() && verdict.revived == 1, "{verdict:?}");
}

#[test]
fn a_key_in_two_partitions() {
    let mut evidence = good();
    evidence.records[3].partition = 1;
    evidence.notices.push(Notice { partition: 1, ..notice(0, 9) });
    assert_eq!(violations(&evidence), [Violation::Disordered]);
}

#[test]
fn a_topic_that_was_created_again_counts_from_0() {
    let mut evidence = good();
    for (record, offset) in evidence.records[2..].iter_mut().zip(0..) {
        (record.generation, record.offset) = (1, offset);
    }
    evidence.notices = vec![notice(0, 1), Notice { generation: 1, ..notice(0, 1) }];
    assert!(Verdict::of(&evidence).is_clean());
    evidence.notices.pop();
    assert_eq!(violations(&evidence), [Violation::Unheard]);
}

/// Only of delivery exactly once, and soon after the settlement.
#[test]
fn an_event_of_a_former_relay_is_announced_without_a_place() {
    let unplaced = |at| Notice { partition: -1, at, ..notice(-1, -1) };
    let judge = |delivery, notices: Vec<Notice>| {
        let mut evidence = Evidence { delivery, notices, ..good() };
        let ids: Vec<Uuid> = evidence.records.iter().filter_map(|record| record.event_id).collect();
        evidence.settled = ids.into_iter().map(|id| (id, 1_000)).collect();
        violations(&evidence)
    };
    assert_eq!(judge(Delivery::ExactlyOnce, vec![unplaced(1_200)]), []);
    assert_eq!(judge(Delivery::ExactlyOnce, vec![unplaced(900), unplaced(9_000)]), [Violation::Unheard]);
    assert_eq!(judge(Delivery::AtLeastOnce, vec![unplaced(1_200)]), [Violation::Unheard]);
}

#[test]
fn a_duplicate_needs_a_fault() {
    let mut evidence = good();
    evidence.records.push(seen(1, 1, 9));
    assert_eq!(violations(&evidence), [Violation::UnexplainedDuplicate]);
    evidence.disturbed.push((Span { from: 8_000, to: 9_500 }, "relay killed".into()));
    let verdict = Verdict::of(&evidence);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(verdict.duplicates.get("relay killed"), Some(&1));
    // It had to wait behind others; or it had not arrived yet when the fault was over.
    evidence.disturbed[0].0 = Span { from: 2_000, to: 3_000 };
    assert!(Verdict::of(&evidence).is_clean());
    // The fault had begun when the event arrived for the first time: its report was lost.
    evidence.disturbed[0].0 = Span { from: 900, to: 1_500 };
    assert!(Verdict::of(&evidence).is_clean());
    evidence.disturbed[0].0 = Span { from: 0, to: 900 };
    assert_eq!(violations(&evidence), [Violation::UnexplainedDuplicate]);
}

#[test]
fn what_is_not_disturbed_is_calm() {
    let span = |from, to| (Span { from, to }, String::new());
    let mut evidence = Evidence { lasted: Span { from: 100, to: 200 }, ..Evidence::default() };
    assert_eq!(evidence.calm_percent(), 100);
    evidence.disturbed = vec![span(150, 160), span(90, 110), span(105, 107), span(155, 170), span(190, 300)];
    assert_eq!(evidence.calm_percent(), 60);
}

#[test]
fn what_must_die_and_what_must_not() {
    let mut evidence = good();
    evidence.dead.push(uuid(1));
    assert_eq!(violations(&evidence), [Violation::WronglyDead]);

    let mut evidence = good();
    evidence.journal.entries[3].expected = Expected::Dies;
    assert_eq!(violations(&evidence), [Violation::Undead], "it arrived");
    evidence.records.pop();
    assert_eq!(violations(&evidence), [Violation::Undead], "it vanished");
    evidence.dead.push(uuid(3));
    assert!(Verdict::of(&evidence).is_clean());
    evidence.dead.push(uuid(3));
    assert_eq!(violations(&evidence), [Violation::Undead], "it died twice");
}

#[test]
fn the_dead_of_a_topic_that_was_created_arrive_late() {
    let mut evidence = good();
    let entry = &mut evidence.journal.entries[3];
    (entry.topic, entry.expected) = (LOST_TOPIC, Expected::Dies);
    evidence.records.pop();
    evidence.dead.push(uuid(3));
    assert!(Verdict::of(&evidence).is_clean());
    evidence.created_late.insert(LOST_TOPIC);
    assert_eq!(violations(&evidence), [Violation::WronglyDead]);
    evidence.dead.clear();
    assert_eq!(violations(&evidence), [Violation::Lost]);
    evidence.records.push(Seen { topic: LOST_TOPIC, ..seen(3, 1, 0) });
    evidence.notices.push(Notice { topic: LOST_TOPIC, ..notice(0, 0) });
    assert!(Verdict::of(&evidence).is_clean());
}

#[test]
fn a_dead_letter_of_nobody() {
    let mut evidence = good();
    evidence.dead.push(uuid(77));
    assert_eq!(violations(&evidence), [Violation::Ghost]);
}

#[test]
fn a_redrive_of_unknown_end() {
    let mut evidence = good();
    evidence.journal.entries[3].expected = Expected::DiesOrArrivesLate;
    assert!(Verdict::of(&evidence).is_clean());
    evidence.dead.push(uuid(3));
    assert_eq!(violations(&evidence), [Violation::Undead], "both");
    evidence.records.pop();
    assert!(Verdict::of(&evidence).is_clean());
    evidence.dead.clear();
    assert_eq!(violations(&evidence), [Violation::Undead], "neither");
}

#[test]
fn an_event_that_was_deleted_by_hand() {
    let mut evidence = good();
    evidence.journal.entries[3].expected = Expected::MayArrive;
    evidence.notices = vec![notice(0, 2)];
    assert!(Verdict::of(&evidence).is_clean());
    evidence.records.pop();
    assert!(Verdict::of(&evidence).is_clean());
}

#[test]
fn an_event_that_nobody_was_told_of() {
    let mut evidence = good();
    evidence.notices = vec![notice(0, 1), notice(3, 3)];
    assert_eq!(violations(&evidence), [Violation::Unheard]);
    // Nobody listened when it was settled, or the connection was about to break.
    for span in [Span { from: 49_000, to: 51_000 }, Span { from: 51_000, to: 52_000 }] {
        evidence.deaf = vec![span];
        let verdict = Verdict::of(&evidence);
        assert!(verdict.is_clean() && verdict.unheard_of == 1, "{verdict:?}");
    }
    evidence.deaf = vec![Span { from: 60_000, to: 61_000 }, Span { from: 40_000, to: 49_000 }];
    assert_eq!(violations(&evidence), [Violation::Unheard]);
    // A notification of one of its records is enough.
    evidence.records.push(seen(2, 0, 4));
    evidence.disturbed.push((Span { from: 0, to: 9_000 }, "a fault".into()));
    evidence.notices.push(notice(4, 4));
    assert!(Verdict::of(&evidence).is_clean());
}

#[test]
fn an_event_that_is_left() {
    let mut evidence = good();
    evidence.left = 2;
    assert_eq!(Verdict::of(&evidence).count(Violation::Left), 2);
}
