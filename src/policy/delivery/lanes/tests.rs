use super::*;

#[test]
fn an_event_that_was_let_through_and_vanished_opens_its_lane() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, Some(1), 5, 0);
    assert!(lanes.due(0));
    assert!(lanes.try_admit(T, Some(1), 5, None, 0) && !lanes.try_admit(T, Some(1), 6, None, 0));
    assert_eq!(lanes.vanished(5), None);
    lanes.recheck(|id| id == 5);
    assert_eq!(lanes.vanished(5), None, "it is in flight");
    lanes.recheck(|_| false);
    assert_eq!(lanes.vanished(5), freed(Some(6)));
    assert!(lanes.is_empty());
}

/// The topic of all events where it does not matter.
const T: Topic = 7;

fn freed(behind: Option<i64>) -> Option<Freed> {
    Some(Freed { topic: T, behind })
}

const A: Lane = Some(1);
const B: Lane = Some(2);
const C: Lane = Some(3);

#[test]
fn a_refused_event_closes_its_lane_for_itself_and_higher_ids_and_no_other_lane() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    assert!(!lanes.try_admit(T, A, 5, Some(100), 0));
    assert!(!lanes.try_admit(T, A, 6, None, 0));
    assert!(lanes.try_admit(T, A, 4, None, 0));
    assert!(lanes.try_admit(T, B, 7, None, 0));
    assert!(lanes.try_admit(T, None, 8, None, 0));
}

#[test]
fn when_due_the_event_goes_first_and_those_behind_follow_its_delivery() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    assert!(!lanes.try_admit(T, A, 9, None, 0));
    assert!(!lanes.try_admit(T, A, 7, None, 0));
    assert_eq!((lanes.next_due(), lanes.due(99)), (Some(100), false));
    assert_eq!((lanes.due(100), lanes.next_due()), (true, None));
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    assert!(!lanes.try_admit(T, A, 7, None, 100));
    assert_eq!(lanes.release(A, 5), freed(Some(7)));
    assert!(lanes.is_empty());
    assert!(lanes.try_admit(T, A, 7, None, 100));
}

#[test]
fn an_event_that_is_not_sent_holds_its_lane_until_it_is_settled() {
    let mut lanes = Lanes::new(10);
    assert!(lanes.try_admit(T, A, 5, None, 0) && lanes.try_admit(T, None, 6, None, 0));
    lanes.hold_back(T, A, 5);
    lanes.hold_back(T, None, 6);
    assert!(
        !lanes.try_admit(T, A, 7, None, 0)
            && lanes.try_admit(T, A, 4, None, 0)
            && lanes.try_admit(T, None, 8, None, 0)
    );
    assert!(lanes.try_admit(T, A, 5, None, 0), "it is read again, after a transaction that failed");
    lanes.block(T, A, 5, 100);
    assert!(lanes.due(100));
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    lanes.hold_back(T, A, 5);
    assert_eq!(lanes.release(A, 5), freed(Some(7)));
}

#[test]
fn a_second_refusal_finds_nothing_ahead_of_it() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    lanes.due(100);
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    lanes.block(T, A, 5, 300);
    assert!(!lanes.try_admit(T, A, 6, None, 200));
    assert!(lanes.due(300));
}

#[test]
fn after_a_restart_the_rows_own_times_close_the_lanes() {
    let mut lanes = Lanes::new(10);
    assert!(!lanes.try_admit(T, A, 5, Some(100), 0), "still waiting");
    assert!(!lanes.try_admit(T, A, 6, None, 0));
    assert!(lanes.try_admit(T, B, 7, Some(-1), 0), "due while the relay was away");
    assert!(!lanes.try_admit(T, B, 8, None, 0), "tries first");
    assert_eq!(lanes.release(B, 7), freed(Some(8)));
}

#[test]
fn the_lowest_refused_event_of_a_lane_decides() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 7, 50);
    lanes.block(T, A, 5, 100);
    lanes.block(T, A, 6, 70);
    assert_eq!(lanes.next_due(), Some(100));
    lanes.block(T, A, 5, 90);
    assert!(lanes.due(90));
    assert!(lanes.try_admit(T, A, 5, Some(90), 90));
    assert_eq!(lanes.release(A, 5), freed(Some(6)), "6 is to be read again");
}

#[test]
fn a_wait_that_was_shortened_by_hand_is_over_at_once() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 1000);
    assert!(!lanes.try_admit(T, A, 5, Some(20), 30));
    assert!(lanes.due(30));
    assert!(lanes.try_admit(T, A, 5, Some(20), 30));
}

#[test]
fn an_event_that_vanished_opens_its_lane() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    lanes.block(T, None, 6, 100);
    assert!(lanes.due(100));
    assert!(!lanes.try_admit(T, A, 7, None, 100));
    assert_eq!(lanes.first_due(9), [(5, T), (6, T)]);
    assert_eq!(lanes.vanished(5), freed(Some(7)));
    assert_eq!(lanes.vanished(6), freed(None));
    assert!(lanes.is_empty());
    assert!(lanes.try_admit(T, A, 7, None, 100));
}

#[test]
fn an_event_that_was_read_has_not_vanished() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    lanes.due(100);
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    assert_eq!(lanes.vanished(5), None);
    assert!(!lanes.try_admit(T, A, 6, None, 100));
}

#[test]
fn an_event_without_a_key_waits_alone() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, None, 5, 100);
    assert!(!lanes.try_admit(T, None, 5, None, 0));
    assert!(lanes.try_admit(T, None, 6, None, 0));
    assert!(lanes.due(100));
    assert!(lanes.try_admit(T, None, 5, Some(100), 100));
    assert!(lanes.is_empty());
    assert_eq!(lanes.release(None, 5), None);
}

#[test]
fn what_was_in_flight_at_a_broken_producer_goes_first_again() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    lanes.due(100);
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    lanes.recheck(|_| false);
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    assert!(!lanes.try_admit(T, A, 6, None, 100));
    lanes.recheck(|_| false);
    assert_eq!(lanes.vanished(5), freed(Some(6)), "5 vanished");
}

#[test]
fn a_due_event_that_is_not_looked_up_is_met_by_the_reader_of_the_rows() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 7, 100);
    assert!(lanes.due(100));
    lanes.await_turn(7);
    assert!(!lanes.has_due());
    lanes.passed(T, 6);
    lanes.passed(T + 1, 9);
    assert!(!lanes.has_due());
    assert!(lanes.try_admit(T, A, 5, None, 100), "5 was not read yet");
    assert!(lanes.try_admit(T, A, 7, Some(100), 100) && !lanes.try_admit(T, A, 8, None, 100));
    lanes.passed(T, 9);
    assert!(!lanes.has_due(), "it was met");
    assert_eq!(lanes.release(A, 7), freed(Some(8)));
}

#[test]
fn one_that_was_not_met_is_looked_up() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 7, 100);
    lanes.due(100);
    lanes.await_turn(7);
    lanes.passed(T, 7);
    assert_eq!(lanes.first_due(10), [(7, T)]);
    assert_eq!(lanes.vanished(7), freed(None));
}

#[test]
fn what_was_let_through_and_comes_back_is_awaited() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 100);
    lanes.due(100);
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    assert!(lanes.put_off(A, 5) && !lanes.put_off(A, 6) && !lanes.put_off(B, 5));
    assert!(!lanes.has_due() && !lanes.try_admit(T, A, 6, None, 100));
    assert!(lanes.try_admit(T, A, 5, Some(100), 100));
    assert_eq!(lanes.release(A, 5), freed(Some(6)));
}

#[test]
fn an_earlier_one_that_comes_back_does_not_free_those_behind_one_that_is_held_back() {
    let mut lanes = Lanes::new(10);
    assert!(lanes.try_admit(T, A, 5, None, 0) && lanes.try_admit(T, A, 6, None, 0));
    lanes.hold_back(T, A, 6);
    lanes.block(T, A, 5, 100);
    assert!(lanes.due(100) && lanes.try_admit(T, A, 5, Some(100), 100));
    assert_eq!(lanes.release(A, 5), freed(Some(6)));
    assert!(!lanes.try_admit(T, A, 7, None, 100), "6 is not settled");
    assert_eq!(lanes.release(A, 6), freed(Some(6)));
    assert!(lanes.is_empty() && lanes.try_admit(T, A, 7, None, 100));
}

#[test]
fn a_topic_is_saturated_behind_its_share_of_what_can_be_closed() {
    const U: Topic = 8;
    let mut lanes = Lanes::new(16);
    (0..4).for_each(|id| {
        assert!(!lanes.is_saturated(T, 100));
        lanes.block(T, None, id, 100);
    });
    assert!(lanes.is_saturated(T, 4) && !lanes.is_saturated(T, 3) && !lanes.is_saturated(U, 100));
    lanes.block(U, B, 9, 100);
    assert!(!lanes.is_open(B, 10) && lanes.is_open(C, 9) && lanes.has_closed(U));
    assert!(lanes.due(100) && lanes.try_admit(T, None, 0, Some(100), 100));
    assert!(!lanes.is_saturated(T, 100), "one is on its way");
    (10..30).for_each(|id| lanes.block(T, None, id, 200));
    assert!(lanes.is_saturated(T, 12) && !lanes.is_saturated(T, 1));
    assert!(lanes.is_saturated(U, 10) && !lanes.is_saturated(U, 9), "all others are taken");
    assert_eq!(lanes.release(B, 9), Some(Freed { topic: U, behind: None }));
    assert!(!lanes.is_saturated(U, 100) && !lanes.has_closed(U), "one it may always have");
}

#[test]
fn waits_are_ended_to_look_at_the_rows_again() {
    let mut lanes = Lanes::new(10);
    lanes.block(T, A, 5, 1000);
    lanes.end_waits();
    assert_eq!(lanes.first_due(9), [(5, T)]);
    assert!(!lanes.try_admit(T, A, 5, Some(1000), 0));
    assert!(!lanes.has_due());
    lanes.end_waits();
    lanes.is_in_flight(5);
    assert!(!lanes.has_due());
}
