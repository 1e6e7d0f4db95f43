//! Tests the relay's state in a small world of refusals, late commits, lost producers, manual deletions and restarts: the
//! events of a key are sent in the order of their ids, no event is forgotten, and a topic that is refused for ever does not
//! delay others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod relay;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};
use relay::{Flaw, Limits, Then};
use world::{Answer, TOPICS, Topic, Turn, World};

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        5 => Just(Answer::Delivered),
        1 => Just(Answer::Changed),
        4 => (1..50i64).prop_map(Answer::Refused),
        1 => Just(Answer::Outage),
        1 => Just(Answer::Suspect),
        3 => Just(Answer::Stopped),
    ]
}

fn topic() -> impl Strategy<Value = Topic> + Clone {
    prop::sample::select(TOPICS.to_vec())
}

fn turn() -> impl Strategy<Value = Turn> {
    let lane = prop_oneof![6 => (0..4u64).prop_map(Some), 1 => Just(None)];
    let bad = prop_oneof![9 => Just(false), 1 => Just(true)];
    let event = (topic(), lane, bad);
    let then = prop_oneof![
        8 => Just(Then::HandedOver),
        1 => Just(Then::Failed),
        1 => Just(Then::NotTaken),
        1 => Just(Then::Waits),
    ];
    prop_oneof![
        8 => event.clone().prop_map(|(topic, lane, bad)| Turn::Emit(topic, lane, bad)),
        3 => event.prop_map(|(topic, lane, bad)| Turn::Write(topic, lane, bad)),
        3 => (0..10usize).prop_map(Turn::Commit),
        1 => topic().prop_map(Turn::Bypass),
        10 => then.prop_map(Turn::Pass),
        1 => Just(Turn::Replicated),
        8 => prop::collection::vec((0..10usize, answer()), 1..4).prop_map(Turn::Answer),
        1 => (0..10usize, prop::option::of(1..50i64)).prop_map(|(pick, refused)| Turn::Lock(pick, refused)),
        1 => Just(Turn::Unlock),
        3 => (1..30i64).prop_map(Turn::Time),
        1 => (0..20usize).prop_map(Turn::Delete),
        1 => (0..20usize).prop_map(Turn::Hasten),
        1 => Just(Turn::FullSweep),
        1 => topic().prop_map(Turn::Stall),
        2 => prop_oneof![1 => Just(Turn::Restart), 5 => Just(Turn::ProducerLost)],
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..9usize, 1..14usize, 1..9usize).prop_map(|(lanes, window, pass)| Limits { lanes, window, pass })
}

/// The number of worlds to try.
const CASES: u32 = 4_000;

/// The number of worlds after which a flaw must have been found.
const CASES_WITH_FLAW: u32 = 500_000;

type Failure = TestError<(Vec<Turn>, Limits)>;

fn check(flaw: Flaw, cases: u32, max_shrink_iters: u32) -> Result<(), Failure> {
    let config = Config {
        cases,
        max_shrink_iters,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    let turns = (prop::collection::vec(turn(), 1..200), limits());
    TestRunner::new(config).run(&turns, |(turns, limits)| {
        let mut world = World::new(flaw, limits);
        turns.into_iter().try_for_each(|turn| world.play(turn))?;
        world.come_to_rest()
    })
}

#[test]
fn the_order_of_a_key_is_kept_and_nothing_is_forgotten() {
    if let Err(TestError::Fail(reason, (turns, limits))) = check(Flaw::None, CASES, 10_000) {
        let turns: String = turns.iter().map(|turn| format!("\n{turn:?}")).collect();
        panic!("{reason}\nwith {limits:?}, after{turns}");
    }
}

#[test]
fn each_flaw_is_found() {
    for flaw in [
        Flaw::NoLanes,
        Flaw::NoBound,
        Flaw::LooksUpAhead,
        Flaw::LooksUpIfSaturated,
        Flaw::ForgetsWhatCameBack,
    ] {
        let found = check(flaw, CASES_WITH_FLAW, 0);
        assert!(matches!(found, Err(TestError::Fail(..))), "{flaw:?}");
    }
}

/// One topic has 2,000 events that are refused for ever. Events of other topics come later, and each is handed out within two
/// passes.
#[test]
fn a_topic_that_is_refused_keeps_no_other_waiting() {
    let [bad, good] = TOPICS;
    let limits = Limits { lanes: 400, window: 50, pass: 20 };
    let mut world = World::new(Flaw::None, limits);
    world.max_attempts = u32::MAX;
    for _ in 0..2_000 {
        world.play(Turn::Emit(bad, None, false)).unwrap();
    }
    for round in 0..300 {
        world.play(Turn::Emit(good, None, false)).unwrap();
        let id = world.last_id;
        for _ in 0..2 {
            world.play(Turn::Pass(Then::HandedOver)).unwrap();
            world.answer_topic(bad, Answer::Refused(5));
            world.now += 1;
        }
        // The first event has the whole table before it, once.
        assert!(
            world.relay.in_flight.get(id).is_some() || round < 60,
            "round {round}: {id} has not been seen"
        );
        world.answer_topic(good, Answer::Delivered);
    }
}

/// Its topic's turn had read as far as the reader of new rows, which has not come to it.
#[test]
fn an_event_that_is_deleted_before_it_is_read_again_keeps_nothing_closed() {
    let mut world = World::new(Flaw::None, Limits { lanes: 1, window: 1, pass: 1 });
    let topic = TOPICS[0];
    for turn in [
        Turn::Write(topic, Some(2), false),
        Turn::Emit(topic, Some(1), true),
        Turn::Pass(Then::Failed),
        Turn::Delete(0),
        Turn::Emit(topic, Some(2), false),
        Turn::Emit(topic, Some(2), false),
    ] {
        world.play(turn).unwrap();
    }
    world.come_to_rest().unwrap();
}
