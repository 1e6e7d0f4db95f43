use super::*;

#[test]
fn an_event_that_was_let_through_and_vanished_opens_its_lane() {
    let mut lanes = Lanes::new(10);
    lanes.block(Some(1), 5, 0);
    assert_eq!(lanes.due(0), Some(4));
    assert!(lanes.admits(Some(1), 5, None, 0) && !lanes.admits(Some(1), 6, None, 0));
    assert_eq!(lanes.swept(Reached::End), None);
    lanes.recheck(|id| id == 5);
    assert_eq!(lanes.swept(Reached::End), None, "it is in flight");
    lanes.recheck(|_| false);
    assert_eq!(lanes.swept(Reached::End), Some(5));
    assert!(lanes.is_empty());
}

const A: Lane = Some(1);
const B: Lane = Some(2);

#[test]
fn a_refused_event_closes_its_lane_for_itself_and_higher_ids_and_no_other_lane() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 100);
    assert!(!lanes.admits(A, 5, Some(100), 0));
    assert!(!lanes.admits(A, 6, None, 0));
    assert!(lanes.admits(A, 4, None, 0));
    assert!(lanes.admits(B, 7, None, 0));
    assert!(lanes.admits(None, 8, None, 0));
}

#[test]
fn when_due_the_event_goes_first_and_those_behind_follow_its_delivery() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 100);
    assert!(!lanes.admits(A, 9, None, 0));
    assert!(!lanes.admits(A, 7, None, 0));
    assert_eq!((lanes.next_due(), lanes.due(99)), (Some(100), None));
    assert_eq!((lanes.due(100), lanes.next_due()), (Some(4), None));
    assert!(lanes.admits(A, 5, Some(100), 100));
    assert!(!lanes.admits(A, 7, None, 100));
    assert_eq!(lanes.release(A, 5), Some(6));
    assert!(lanes.is_empty());
    assert!(lanes.admits(A, 7, None, 100));
}

#[test]
fn an_event_that_is_not_sent_holds_its_lane_until_it_is_settled() {
    let mut lanes = Lanes::new(10);
    assert!(lanes.admits(A, 5, None, 0) && lanes.admits(None, 6, None, 0));
    lanes.hold_back(A, 5);
    lanes.hold_back(None, 6);
    assert!(!lanes.admits(A, 7, None, 0) && lanes.admits(A, 4, None, 0) && lanes.admits(None, 8, None, 0));
    assert!(lanes.admits(A, 5, None, 0), "it is read again, after a transaction that failed");
    lanes.block(A, 5, 100);
    assert_eq!(lanes.due(100), Some(4));
    assert!(lanes.admits(A, 5, Some(100), 100));
    lanes.hold_back(A, 5);
    assert_eq!(lanes.release(A, 5), Some(6));
}

#[test]
fn a_second_refusal_finds_nothing_ahead_of_it() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 100);
    lanes.due(100);
    assert!(lanes.admits(A, 5, Some(100), 100));
    lanes.block(A, 5, 300);
    assert!(!lanes.admits(A, 6, None, 200));
    assert_eq!(lanes.due(300), Some(4));
}

#[test]
fn after_a_restart_the_rows_own_times_close_the_lanes() {
    let mut lanes = Lanes::new(10);
    assert!(!lanes.admits(A, 5, Some(100), 0), "still waiting");
    assert!(!lanes.admits(A, 6, None, 0));
    assert!(lanes.admits(B, 7, Some(-1), 0), "due while the relay was away");
    assert!(!lanes.admits(B, 8, None, 0), "tries first");
    assert_eq!(lanes.release(B, 7), Some(7));
}

#[test]
fn the_lowest_refused_event_of_a_lane_decides() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 7, 50);
    lanes.block(A, 5, 100);
    lanes.block(A, 6, 70);
    assert_eq!(lanes.next_due(), Some(100));
    lanes.block(A, 5, 90);
    assert_eq!(lanes.due(90), Some(4));
    assert!(lanes.admits(A, 5, Some(90), 90));
    assert_eq!(lanes.release(A, 5), Some(5), "6 is to be read again");
}

#[test]
fn a_wait_that_was_shortened_by_hand_is_over_at_once() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 1000);
    assert!(!lanes.admits(A, 5, Some(20), 30));
    assert_eq!(lanes.due(30), Some(4));
    assert!(lanes.admits(A, 5, Some(20), 30));
}

#[test]
fn an_event_that_vanished_opens_its_lane() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 100);
    lanes.block(None, 6, 100);
    assert_eq!(lanes.due(100), Some(4));
    assert!(!lanes.admits(A, 7, None, 100));
    assert_eq!(lanes.swept(Reached::Id(4)), None, "the pass was cut off before 5");
    assert!(!lanes.admits(A, 7, None, 100));
    assert_eq!(lanes.swept(Reached::End), Some(6), "5 was not read");
    assert!(lanes.is_empty());
    assert!(lanes.admits(A, 7, None, 100));
}

#[test]
fn an_event_that_was_read_has_not_vanished() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 100);
    lanes.due(100);
    assert!(lanes.admits(A, 5, Some(100), 100));
    assert_eq!(lanes.swept(Reached::End), None);
    assert!(!lanes.admits(A, 6, None, 100));
}

#[test]
fn an_event_without_a_key_waits_alone() {
    let mut lanes = Lanes::new(10);
    lanes.block(None, 5, 100);
    assert!(!lanes.admits(None, 5, None, 0));
    assert!(lanes.admits(None, 6, None, 0));
    assert_eq!(lanes.due(100), Some(4));
    assert!(lanes.admits(None, 5, Some(100), 100));
    assert!(lanes.is_empty());
    assert_eq!(lanes.release(None, 5), None);
}

#[test]
fn what_was_in_flight_at_a_broken_producer_goes_first_again() {
    let mut lanes = Lanes::new(10);
    lanes.block(A, 5, 100);
    lanes.due(100);
    assert!(lanes.admits(A, 5, Some(100), 100));
    lanes.resend();
    assert!(lanes.admits(A, 5, Some(100), 100));
    assert!(!lanes.admits(A, 6, None, 100));
    lanes.resend();
    assert_eq!(lanes.swept(Reached::End), Some(5), "5 vanished");
}

#[test]
fn is_full_while_as_many_wait_as_it_was_told() {
    let mut lanes = Lanes::new(2);
    lanes.block(A, 5, 100);
    lanes.block(A, 6, 100);
    assert!(!lanes.full());
    lanes.block(B, 7, 200);
    assert!(lanes.full());
    lanes.block(None, 8, 300);
    assert_eq!(lanes.due(250), Some(4));
    assert!(!lanes.full(), "what is due must be read");
}
