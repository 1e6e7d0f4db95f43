use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// In order, with these topics handled with caution, of which so much is in flight.
fn caution(topics: &[(&str, usize)]) -> Caution {
    let mut caution = Caution::new(true);
    for (topic, in_flight) in topics {
        caution.begin(&(*topic).into(), *in_flight);
    }
    caution
}

fn topic() -> Arc<str> {
    "a".into()
}

fn route(caution: &mut Caution, topic: &str, id: i64) -> Option<Route> {
    caution.admits(&topic.into(), id, None).map(|admission| admission.route)
}

/// Sends the events that may be, of so many, and settles them; gives how many were sent, and the way.
fn round(caution: &mut Caution, of: i64, end: End) -> (usize, Option<Route>) {
    let routes: Vec<Route> = (0..of).filter_map(|id| route(caution, "a", id)).collect();
    routes.iter().for_each(|_| {
        caution.settled(&topic(), end);
    });
    (routes.len(), routes.first().copied())
}

#[test]
fn other_topics_go_the_common_way() {
    let mut caution = caution(&[("a", 0)]);
    assert_eq!(route(&mut caution, "b", 1), Some(Route::Common));
    assert!(caution.holds("a") && !caution.holds("b") && !caution.is_empty());
    assert_eq!(route(&mut caution, "a", 2), Some(Route::Apart));
}

#[test]
fn a_topic_gets_known_in_growing_groups_and_then_is_free() {
    let mut caution = caution(&[]);
    let sent: Vec<usize> = (0..6).map(|_| round(&mut caution, 5_000, End::Well).0).collect();
    assert_eq!(sent, [1, 4, 16, 64, 256, 5_000]);
    assert!(caution.is_empty());
    caution.renew(true);
    assert_eq!(round(&mut caution, 5_000, End::Well), (1, Some(Route::Common)));
    caution.renew(false);
    assert_eq!(round(&mut caution, 5_000, End::Well), (5_000, Some(Route::Common)));
}

#[test]
fn where_order_does_not_matter_none_is_alone() {
    let (topic, mut caution) = (topic(), caution(&[("a", 0)]));
    while !caution.is_empty() {
        round(&mut caution, 50_000, End::Well);
    }
    caution.renew(false);
    for id in 1..4 {
        assert_eq!(caution.admits(&topic, id, None), Some(Admission { route: Route::Common, alone: false }));
    }
}

#[test]
fn a_topic_gets_known_by_one_event_of_a_key_at_a_time() {
    let (topic, mut caution) = (topic(), caution(&[]));
    for _ in 0..2 {
        let sent = (0..3).filter(|id| caution.admits(&topic, *id, Some(7)).is_some()).count();
        assert_eq!(sent, 1);
        assert_eq!(caution.settled(&topic, End::Well), Some(1));
    }
}

#[test]
fn a_topic_that_refuses_one_by_one_stays_apart() {
    let mut caution = caution(&[("a", 0)]);
    let sent: Vec<usize> = (0..20).map(|_| round(&mut caution, 50_000, End::Refused).0).collect();
    assert_eq!((sent[2], sent[19]), (4, FREE));
    assert!((0..CALM).all(|_| round(&mut caution, 50_000, End::Well).1 == Some(Route::Apart)));
    assert_eq!(round(&mut caution, 50_000, End::Well), (1, Some(Route::Common)));
}

#[test]
fn a_topic_that_was_handled_with_caution_before_stays_longer() {
    let mut caution = caution(&[]);
    let stay = |caution: &mut Caution| {
        caution.begin(&topic(), 0);
        (0..).take_while(|_| round(caution, 9, End::Well).1 == Some(Route::Apart)).count()
    };
    let stays: Vec<usize> = (0..9).map(|_| stay(&mut caution)).collect();
    let calm = CALM as usize;
    assert_eq!((stays[0], stays[1], stays[7], stays[8]), (calm, 2 * calm, 64 * calm, 64 * calm));
    caution.renew(true);
    assert_eq!(stay(&mut caution), 64 * calm);
}

#[test]
fn what_was_in_flight_is_waited_for() {
    let (topic, mut caution) = (topic(), caution(&[("a", 2)]));
    assert_eq!(caution.admits(&topic, 7, None), None);
    assert_eq!(caution.admits(&topic, 5, None), None);
    assert_eq!(caution.settled(&topic, End::Suspect), None);
    assert_eq!(caution.settled(&topic, End::Suspect), Some(5));
    assert!(caution.admits(&topic, 5, None).is_some_and(|admission| admission.alone));
    assert_eq!(caution.admits(&topic, 7, None), None);
    assert_eq!(caution.settled(&topic, End::Well), Some(7));
    assert!(caution.admits(&topic, 7, None).is_some_and(|admission| !admission.alone));
}

#[test]
fn a_new_producer_is_no_reason_to_trust_again() {
    let mut caution = caution(&[("a", 0)]);
    assert_eq!((0..3).map(|_| round(&mut caution, 10, End::Well).0).sum::<usize>(), 1 + 2 + 4);
    assert_eq!(route(&mut caution, "a", 1), Some(Route::Apart));
    caution.renew(true);
    assert_eq!(round(&mut caution, 10, End::Well), (8, Some(Route::Apart)));
}

#[test]
fn what_was_turned_away_before_is_not_forgotten() {
    let (topic, mut caution) = (topic(), caution(&[]));
    assert!(caution.admits(&topic, 1, None).is_some() && caution.admits(&topic, 2, None).is_none());
    caution.begin(&topic, 1);
    assert_eq!(caution.settled(&topic, End::Well), Some(2));
}

#[test]
fn what_was_not_sent_is_read_again() {
    let (topic, mut caution) = (topic(), caution(&[("a", 0)]));
    assert_eq!((route(&mut caution, "a", 1), route(&mut caution, "a", 2)), (Some(Route::Apart), None));
    caution.withdraw("a");
    assert_eq!((route(&mut caution, "a", 1), route(&mut caution, "a", 2)), (Some(Route::Apart), None));
    assert_eq!(caution.settled(&topic, End::Well), Some(2));
}

proptest! {
    /// A broker that refuses each batch with a bad event in it, or with more than `limit` events: all
    /// good ones get through uncharged, all bad ones are charged, in few groups.
    #[test]
    fn the_guilty_are_found_and_nobody_else(
        bad in prop::collection::btree_set(0_i64..500, 0..6),
        limit in 1_usize..600,
    ) {
        let (topic, mut caution) = (topic(), caution(&[("a", 0)]));
        let mut waiting: BTreeSet<i64> = (0..500).collect();
        let mut charged = BTreeSet::new();
        let mut groups = 0;
        while !waiting.is_empty() {
            groups += 1;
            prop_assert!(groups < 2_000);
            let admitted: Vec<(i64, Admission)> =
                waiting.iter().filter_map(|id| Some((*id, caution.admits(&topic, *id, None)?))).collect();
            let group: Vec<i64> = admitted.iter().map(|(id, _)| *id).collect();
            prop_assert!(!group.is_empty());
            let alone = admitted[0].1.alone;
            prop_assert!(admitted.iter().all(|(_, admission)| admission.alone == alone));
            prop_assert!(!alone || group.len() == 1);
            let refused = group.len() > limit || group.iter().any(|id| bad.contains(id));
            for id in &group {
                if !refused {
                    waiting.remove(id);
                } else if alone {
                    waiting.remove(id);
                    charged.insert(*id);
                }
                let end = match (refused, alone) {
                    (false, _) => End::Well,
                    (true, true) => End::Refused,
                    (true, false) => End::Suspect,
                };
                caution.settled(&topic, end);
            }
        }
        prop_assert_eq!(charged, bad);
    }
}
