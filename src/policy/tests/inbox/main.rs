//! Tests the inbox in a small world of sessions, failing handlers, savepoints, leases, crashes and seeks: each event is handled
//! once or dies, the order of a key is kept, and an event that fails delays only those of its key. Wrong variants are found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod database;
mod deliveries;
mod failures;
mod ingest;
mod judge;
mod receiver;
mod rest;
mod sessions;
mod variant;
mod world;

use event_outbox_policy::inbox::lanes::Ordering;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use sessions::Reaction;
use variant::{FLAWED, SOUND, Variant};
use world::{ALWAYS, Limits, Produced, Turn, World};

/// The first three share a lane, so that a key can hold back another one of its lane.
const KEYS: [&str; 4] = ["k4", "k85", "k174", "k5"];

fn produced() -> impl Strategy<Value = Produced> {
    let key = prop_oneof![8 => prop::sample::select(KEYS.to_vec()).prop_map(Some), 1 => Just(None)];
    let failures = prop_oneof![6 => Just(0), 2 => 1..4_u32, 1 => Just(ALWAYS)];
    (key, failures).prop_map(|(key, failures)| Produced { key, failures })
}

fn turn() -> impl Strategy<Value = Turn> {
    let session = || 0..world::SESSIONS - 1;
    let partition = || 0..database::PARTITIONS;
    let reaction = prop_oneof![
        2 => Just(Reaction::Abort),
        2 => Just(Reaction::RollBackToSavepoint),
        1 => Just(Reaction::GiveBack),
    ];
    prop_oneof![
        8 => (partition(), produced()).prop_map(|(partition, event)| Turn::Produce(partition, event)),
        4 => (1..9_usize).prop_map(Turn::Fetch),
        5 => prop::bool::weighted(0.9).prop_map(Turn::Store),
        1 => (partition(), 0..20_i64).prop_map(|(partition, to)| Turn::Seek(partition, to)),
        2 => (session(), any::<bool>()).prop_map(|(session, keeps)| Turn::Begin(session, keeps)),
        2 => session().prop_map(Turn::Statement),
        12 => (session(), 1..9_u32, 0..8_usize).prop_map(|(session, most, first)| Turn::Receive(session, most, first)),
        3 => (session(), reaction).prop_map(|(session, reaction)| Turn::Work(session, reaction)),
        2 => session().prop_map(Turn::Savepoint),
        1 => session().prop_map(Turn::Release),
        1 => session().prop_map(Turn::RollBackTo),
        8 => session().prop_map(Turn::Commit),
        1 => (session(), any::<bool>()).prop_map(|(session, is_noted)| Turn::RollBack(session, is_noted)),
        2 => (1..9_u32, 0..8_usize).prop_map(|(most, first)| Turn::Lease(most, first)),
        2 => (0..8_usize).prop_map(Turn::Acknowledge),
        1 => (0..8_usize).prop_map(Turn::Extend),
        6 => (0..8_usize).prop_map(Turn::Record),
        3 => (1..30_i64).prop_map(Turn::Time),
        1 => prop::bool::weighted(0.3).prop_map(|is_crash| if is_crash { Turn::Crash } else { Turn::Time(1) }),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let ordering = prop_oneof![
        5 => Just(Ordering::Key),
        1 => Just(Ordering::Partition),
        1 => Just(Ordering::None),
    ];
    (ordering, 0..12_usize, 1..5_u32).prop_map(|(ordering, room, max_attempts)| Limits {
        ordering,
        room,
        max_attempts,
    })
}

/// The number of worlds to try.
const CASES: u32 = 1_500;

/// The number of worlds after which a flaw must have been found.
const CASES_WITH_FLAW: u32 = 200_000;

type Failure = TestError<(Vec<Turn>, Limits)>;

fn config(cases: u32, max_shrink_iters: u32) -> Config {
    Config {
        cases,
        max_shrink_iters,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    }
}

fn check(variant: Variant, mut runner: TestRunner) -> Result<(), Failure> {
    let turns = (prop::collection::vec(turn(), 1..200), limits());
    runner.run(&turns, |(turns, limits)| {
        let mut world = World::new(variant, limits);
        turns.iter().try_for_each(|turn| world.play(turn))?;
        world.come_to_rest()
    })
}

#[test]
fn each_event_is_handled_once_or_dies_in_the_order_of_its_key() {
    for variant in SOUND {
        if let Err(TestError::Fail(reason, (turns, limits))) =
            check(variant, TestRunner::new(config(CASES, 20_000)))
        {
            let turns: String = turns.iter().map(|turn| format!("\n{turn:?}")).collect();
            panic!("{variant:?}: {reason}\nwith {limits:?}, after{turns}");
        }
    }
}

#[test]
fn each_flaw_is_found() {
    for (variant, words) in FLAWED {
        // The same worlds in each run: how soon a flaw is found varies a lot.
        let worlds = TestRng::deterministic_rng(RngAlgorithm::XorShift);
        let runner = TestRunner::new_with_rng(config(CASES_WITH_FLAW, 0), worlds);
        let found = check(variant, runner);
        let Err(TestError::Fail(reason, _)) = found else { panic!("{variant:?} is not found") };
        let reason = reason.message();
        assert!(words.iter().any(|words| reason.contains(words)), "{variant:?}: {reason}");
    }
}

/// One event is never handled. Later ones of its key wait; those of another key in its lane are received as ever,
/// until no more events may wait.
#[test]
fn an_event_that_always_fails_delays_only_its_key() {
    const ROOM: usize = 100;
    let limits = Limits { ordering: Ordering::Key, room: ROOM, max_attempts: u32::MAX };
    let mut world = World::new(Variant::Real, limits);
    let [bad, good, ..] = KEYS;
    let produce = |world: &mut World, key, failures| {
        let event = Produced { key: Some(key), failures };
        world.play(&Turn::Produce(0, event)).unwrap();
        world.receive_all().unwrap();
    };
    produce(&mut world, bad, ALWAYS);
    for round in 1..ROOM {
        produce(&mut world, bad, 0);
        produce(&mut world, good, 0);
        assert_eq!((world.latest.handled.len(), world.latest.waiting.len()), (round, round + 1));
    }
    produce(&mut world, bad, 0);
    produce(&mut world, good, 0);
    assert_eq!((world.latest.handled.len(), world.latest.waiting.len()), (ROOM - 1, ROOM), "it stands still");
}
