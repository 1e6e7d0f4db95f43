use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A ramp that keeps order, with these topics quarantined while they have this many events in flight.
fn ramp(topics: &[(&str, usize)]) -> TopicRamp {
    let mut ramp = TopicRamp::new(true);
    for (topic, in_flight) in topics {
        ramp.quarantine(&(*topic).into(), *in_flight);
    }
    ramp
}

fn topic() -> Arc<str> {
    "a".into()
}

fn route(ramp: &mut TopicRamp, topic: &str, id: i64) -> Option<Route> {
    ramp.try_admit(&topic.into(), id, None).map(|admission| admission.route)
}

/// Sends all events that may be sent, out of `of`, and settles them. Returns how many were sent, and their route.
fn round(ramp: &mut TopicRamp, of: i64, end: End) -> (usize, Option<Route>) {
    let routes: Vec<Route> = (0..of).filter_map(|id| route(ramp, "a", id)).collect();
    routes.iter().for_each(|_| {
        ramp.settled(&topic(), end);
    });
    (routes.len(), routes.first().copied())
}

#[test]
fn other_topics_take_the_gapless_route() {
    let mut ramp = ramp(&[("a", 0)]);
    assert_eq!(route(&mut ramp, "b", 1), Some(Route::Gapless));
    assert!(ramp.is_quarantined("a") && !ramp.is_quarantined("b") && !ramp.is_empty());
    assert_eq!(route(&mut ramp, "a", 2), Some(Route::Quarantine));
}

/// Two topics share transactions, and each has an event that is refused: the first refusal of a transaction gives back the
/// other topic's events.
#[test]
fn a_group_that_was_given_back_is_as_large_again() {
    let mut ramp = ramp(&[("a", 0)]);
    assert_eq!((0..3).map(|_| round(&mut ramp, 9, End::Well).0).sum::<usize>(), 1 + 2 + 4);
    assert_eq!(round(&mut ramp, 9, End::Suspect).0, 8);
    for _ in 0..9 {
        assert_eq!(round(&mut ramp, 9, End::Untried).0, 4);
    }
    assert_eq!(round(&mut ramp, 9, End::Suspect).0, 4);
    assert_eq!(round(&mut ramp, 9, End::Suspect).0, 2);
    assert_eq!(round(&mut ramp, 9, End::Untried).0, 1);
    assert_eq!(round(&mut ramp, 9, End::Suspect).0, 1);
}

/// An event is refused whose key has nothing before it, behind 500 events of seven other keys.
#[test]
fn few_groups_are_refused_on_the_way_to_an_event_that_is_far_behind() {
    let mut ramp = ramp(&[("a", 0)]);
    let mut ahead: BTreeSet<i64> = (0..500).collect();
    let (mut suspected, mut groups) = (0, 0);
    loop {
        let admitted = |ramp: &mut TopicRamp, id: i64, lane: u64| {
            ramp.try_admit(&topic(), id, Some(lane)).map(|admission| (id, admission.sole_in_flight))
        };
        let mut sent: Vec<(i64, bool)> =
            ahead.iter().filter_map(|id| admitted(&mut ramp, *id, (*id % 7) as u64)).collect();
        sent.extend(admitted(&mut ramp, 1_000, 7));
        groups += 1;
        let refused = sent.iter().any(|(id, _)| *id == 1_000);
        if refused && sent.iter().all(|(_, sole)| *sole) {
            break;
        }
        suspected += usize::from(refused);
        for (id, _) in sent {
            ramp.settled(&topic(), if refused { End::Suspect } else { End::Well });
            if !refused {
                ahead.remove(&id);
            }
        }
    }
    assert!(suspected <= 12 && groups <= 160, "{suspected} of {groups}");
}

#[test]
fn events_of_a_key_share_a_group_that_is_a_part_of_a_transaction() {
    for (in_order, expected) in [(true, [1, 1, 1, 1]), (false, [1, 2, 4, 8])] {
        let mut ramp = TopicRamp::new(in_order);
        ramp.quarantine(&topic(), 0);
        let sent = expected.map(|_| {
            let sent = (0..20).filter(|id| ramp.try_admit(&topic(), *id, Some(7)).is_some()).count();
            (0..sent).for_each(|_| {
                ramp.settled(&topic(), End::Well);
            });
            sent
        });
        assert_eq!(sent, expected);
    }
}

#[test]
fn a_topic_starts_in_growing_groups_and_then_is_open() {
    let mut ramp = ramp(&[]);
    let sent: Vec<usize> = (0..6).map(|_| round(&mut ramp, 5_000, End::Well).0).collect();
    assert_eq!(sent, [1, 4, 16, 64, 256, 5_000]);
    assert!(ramp.is_empty());
    ramp.renew(true);
    assert_eq!(round(&mut ramp, 5_000, End::Well), (1, Some(Route::Gapless)));
    ramp.renew(false);
    assert_eq!(round(&mut ramp, 5_000, End::Well), (5_000, Some(Route::Gapless)));
}

#[test]
fn where_order_does_not_matter_none_is_alone() {
    let (topic, mut ramp) = (topic(), ramp(&[("a", 0)]));
    while !ramp.is_empty() {
        round(&mut ramp, 50_000, End::Well);
    }
    ramp.renew(false);
    for id in 1..4 {
        assert_eq!(
            ramp.try_admit(&topic, id, None),
            Some(Admission { route: Route::Gapless, sole_in_flight: false })
        );
    }
}

#[test]
fn a_topic_starts_with_one_event_of_a_key_at_a_time() {
    let (topic, mut ramp) = (topic(), ramp(&[]));
    for _ in 0..2 {
        let sent = (0..3).filter(|id| ramp.try_admit(&topic, *id, Some(7)).is_some()).count();
        assert_eq!(sent, 1);
        assert_eq!(ramp.settled(&topic, End::Well), Some(1));
    }
}

#[test]
fn a_topic_that_refuses_one_by_one_stays_quarantined() {
    let mut ramp = ramp(&[("a", 0)]);
    let sent: Vec<usize> = (0..20).map(|_| round(&mut ramp, 50_000, End::Refused).0).collect();
    assert_eq!((sent[2], sent[19]), (4, FULL_SPEED));
    assert!((0..CLEAN_GROUPS).all(|_| round(&mut ramp, 50_000, End::Well).1 == Some(Route::Quarantine)));
    assert_eq!(round(&mut ramp, 50_000, End::Well), (1, Some(Route::Gapless)));
}

#[test]
fn a_topic_that_was_quarantined_before_stays_longer() {
    let mut ramp = ramp(&[]);
    let stay = |ramp: &mut TopicRamp| {
        ramp.quarantine(&topic(), 0);
        (0..).take_while(|_| round(ramp, 9, End::Well).1 == Some(Route::Quarantine)).count()
    };
    let stays: Vec<usize> = (0..9).map(|_| stay(&mut ramp)).collect();
    let clean_groups = CLEAN_GROUPS as usize;
    assert_eq!(
        (stays[0], stays[1], stays[7], stays[8]),
        (clean_groups, 2 * clean_groups, 64 * clean_groups, 64 * clean_groups)
    );
    ramp.renew(true);
    assert_eq!(stay(&mut ramp), 64 * clean_groups);
}

#[test]
fn what_was_in_flight_is_waited_for() {
    let (topic, mut ramp) = (topic(), ramp(&[("a", 2)]));
    assert_eq!(ramp.try_admit(&topic, 7, None), None);
    assert_eq!(ramp.try_admit(&topic, 5, None), None);
    assert_eq!(ramp.settled(&topic, End::Suspect), None);
    assert_eq!(ramp.settled(&topic, End::Suspect), Some(5));
    assert!(ramp.try_admit(&topic, 5, None).is_some_and(|admission| admission.sole_in_flight));
    assert_eq!(ramp.try_admit(&topic, 7, None), None);
    assert_eq!(ramp.settled(&topic, End::Well), Some(7));
    assert!(ramp.try_admit(&topic, 7, None).is_some_and(|admission| !admission.sole_in_flight));
}

#[test]
fn a_new_producer_is_no_reason_to_trust_again() {
    let mut ramp = ramp(&[("a", 0)]);
    assert_eq!((0..3).map(|_| round(&mut ramp, 10, End::Well).0).sum::<usize>(), 1 + 2 + 4);
    assert_eq!(route(&mut ramp, "a", 1), Some(Route::Quarantine));
    ramp.renew(true);
    assert_eq!(round(&mut ramp, 10, End::Well), (8, Some(Route::Quarantine)));
}

#[test]
fn what_was_turned_away_before_is_not_forgotten() {
    let (topic, mut ramp) = (topic(), ramp(&[]));
    assert!(ramp.try_admit(&topic, 1, None).is_some() && ramp.try_admit(&topic, 2, None).is_none());
    ramp.quarantine(&topic, 1);
    assert_eq!(ramp.settled(&topic, End::Well), Some(2));
}

#[test]
fn what_was_not_sent_is_read_again() {
    let (topic, mut ramp) = (topic(), ramp(&[("a", 0)]));
    assert_eq!((route(&mut ramp, "a", 1), route(&mut ramp, "a", 2)), (Some(Route::Quarantine), None));
    ramp.withdraw(&topic, None);
    assert_eq!((route(&mut ramp, "a", 1), route(&mut ramp, "a", 2)), (Some(Route::Quarantine), None));
    assert_eq!(ramp.settled(&topic, End::Well), Some(2));
}

proptest! {
    /// A broker that refuses each batch with a bad event in it, or with more than `limit` events: all
    /// good ones get through uncharged, all bad ones are charged, in few groups.
    #[test]
    fn the_guilty_are_found_and_nobody_else(
        bad in prop::collection::btree_set(0_i64..500, 0..6),
        limit in 1_usize..600,
    ) {
        let (topic, mut ramp) = (topic(), ramp(&[("a", 0)]));
        let mut waiting: BTreeSet<i64> = (0..500).collect();
        let mut charged = BTreeSet::new();
        let mut groups = 0;
        while !waiting.is_empty() {
            groups += 1;
            prop_assert!(groups < 2_000);
            let admitted: Vec<(i64, Admission)> =
                waiting.iter().filter_map(|id| Some((*id, ramp.try_admit(&topic, *id, None)?))).collect();
            let group: Vec<i64> = admitted.iter().map(|(id, _)| *id).collect();
            prop_assert!(!group.is_empty());
            let sole_in_flight = admitted[0].1.sole_in_flight;
            prop_assert!(admitted.iter().all(|(_, admission)| admission.sole_in_flight == sole_in_flight));
            prop_assert!(!sole_in_flight || group.len() == 1);
            let refused = group.len() > limit || group.iter().any(|id| bad.contains(id));
            for id in &group {
                if !refused {
                    waiting.remove(id);
                } else if sole_in_flight {
                    waiting.remove(id);
                    charged.insert(*id);
                }
                let end = match (refused, sole_in_flight) {
                    (false, _) => End::Well,
                    (true, true) => End::Refused,
                    (true, false) => End::Suspect,
                };
                ramp.settled(&topic, end);
            }
        }
        prop_assert_eq!(charged, bad);
    }
}

#[test]
fn what_was_not_sent_after_all_may_be_sent_again() {
    let (topic, mut ramp) = (topic(), ramp(&[]));
    assert!(ramp.try_admit(&topic, 5, Some(7)).is_some());
    assert!(ramp.try_admit(&topic, 6, Some(7)).is_none());
    assert_eq!(ramp.withdraw(&topic, Some(7)), Some(6));
    assert!(ramp.try_admit(&topic, 5, Some(7)).is_some(), "it is the first of its key again");
}

#[test]
fn a_group_ends_when_what_was_not_sent_was_the_last_of_it() {
    let (topic, mut ramp) = (topic(), ramp(&[("a", 0)]));
    ramp.try_admit(&topic, 1, None);
    ramp.settled(&topic, End::Well);
    assert!(ramp.try_admit(&topic, 2, None).is_some() && ramp.try_admit(&topic, 3, None).is_some());
    assert_eq!(ramp.settled(&topic, End::Refused), None);
    ramp.withdraw(&topic, None);
    assert!(ramp.try_admit(&topic, 3, None).is_some());
}
