use std::sync::Arc;

use super::*;

type Flying = InFlight<()>;

fn offer(in_flight: &mut Flying, id: i64) -> Result<Offer, Verdict> {
    let topic = in_flight.topic("a");
    let row = Candidate { id, topic, not_before: None, is_known: true };
    in_flight.offer(row, By::New, 0, |_| Some(1))
}

/// Takes an event that is delivered at most once.
fn send(in_flight: &mut Flying, id: i64) -> Result<Admission, Verdict> {
    let topic: Arc<str> = "a".into();
    let offer = offer(in_flight, id)?;
    let admission = in_flight.admit_once(offer, &topic)?;
    let mut taken = Taken::with_capacity(1);
    taken.add(InFlightEvent {
        id,
        row: (),
        topic,
        emitted_at: 0,
        record_time: 0,
        lane: Some(1),
        sole_in_flight: false,
        is_row_gone: true,
        is_open: true,
        place: 0,
        weight: 1,
    });
    in_flight.hand_over(taken);
    Ok(admission)
}

#[test]
fn events_of_one_key_go_at_once_if_none_comes_back() {
    let mut in_flight = Flying::new(10, 10, true);
    for id in 1..=3 {
        assert_eq!(send(&mut in_flight, id).map(|admission| admission.route), Ok(Route::Once));
    }
    // What is given up blocks nothing, and nothing is read again.
    assert_eq!(in_flight.settled(2, Settled::GivenUp), Reread::Nothing);
    assert_eq!(in_flight.settled(1, Settled::Delivered), Reread::Nothing);
    assert!(send(&mut in_flight, 4).is_ok());
    assert_eq!((in_flight.window().len(), in_flight.lanes().closed()), (2, 0));
    assert_eq!(in_flight.window().count_rowless(&HashSet::from([3])), 1);
}

#[test]
fn a_silent_topic_does_not_fill_the_window() {
    let mut in_flight = Flying::new(10, 10, true);
    assert!(send(&mut in_flight, 1).is_ok() && send(&mut in_flight, 2).is_ok());
    in_flight.quarantine(&"a".into());
    assert_eq!(send(&mut in_flight, 3).err(), Some(Verdict::Denied { for_all: true }));
    let _ = in_flight.settled(1, Settled::Delivered);
    assert!(offer(&mut in_flight, 3).is_err(), "one is still out");
    // When all have come back, the topic has its turn.
    assert_eq!(in_flight.settled(2, Settled::GivenUp), Reread::Turns);
}

#[test]
fn what_is_denied_without_a_connection_goes_with_one() {
    let mut in_flight = Flying::new(10, 10, true);
    let first = offer(&mut in_flight, 1).expect("it may go");
    assert_eq!(in_flight.deny_all(first), Verdict::Denied { for_all: true });
    assert!(in_flight.backlog().is_behind(in_flight.topic("a")));
    assert!(!in_flight.backlog().has_turns());
    assert_eq!(in_flight.allow_all(), Reread::Turns);
    assert!(in_flight.backlog().has_turns());
}
