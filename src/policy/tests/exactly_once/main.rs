//! However relay, server and Kafka fail, a reader of committed records sees each event once. Wrong variants are found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod database;
mod kafka;
mod relay;

use database::Database;
use kafka::{Fate, Kafka};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use relay::{Relay, Variant};

const CASES: u32 = 10_000;

/// The number of worlds after which a flaw must have been found.
const CASES_WITH_FLAW: u32 = 100_000;

const FLAWED: [Variant; 8] = [
    Variant::SkipsMarkers,
    Variant::ReusesProducer,
    Variant::ComparesIds,
    Variant::ListsOneTransaction,
    Variant::ForgetsUnflushed,
    Variant::ForgetsMissing,
    Variant::ClaimsOverMarker,
    Variant::FencesOne,
];

#[derive(Debug, Clone)]
enum Turn {
    Emit(usize),
    /// The relay does its next step: with at most this many events, if it begins a transaction.
    Step(usize, Fate),
    Settle,
    Flush,
    Abort,
    /// The relay ends anywhere, and another one starts.
    Restart,
    /// The server crashes, and loses what was not on disk.
    Crash,
    /// The relay stands still for so long that Kafka ends its transaction.
    TimeOut,
    LateRequest,
    Dump,
    Restore,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Answered),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Lost),
        2 => Just(Fate::Late),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (1..4_usize).prop_map(Turn::Emit),
        30 => (1..5_usize, fate()).prop_map(|(most, fate)| Turn::Step(most, fate)),
        6 => Just(Turn::Settle),
        2 => Just(Turn::Flush),
        1 => Just(Turn::Abort),
        1 => Just(Turn::Restart),
        1 => Just(Turn::Crash),
        1 => Just(Turn::TimeOut),
        2 => Just(Turn::LateRequest),
        1 => Just(Turn::Dump),
        1 => prop::bool::weighted(0.4).prop_map(|restores| if restores { Turn::Restore } else { Turn::Flush }),
    ]
}

struct World {
    variant: Variant,
    kafka: Kafka,
    database: Database,
    relay: Relay,
    relays: u8,
}

impl World {
    fn new(variant: Variant) -> Self {
        let (kafka, database) = (Kafka::default(), Database::default());
        Self { variant, kafka, database, relay: Relay::new(variant, 0), relays: 0 }
    }

    fn play(&mut self, turn: &Turn) {
        match turn {
            Turn::Emit(count) => (0..*count).for_each(|_| self.database.emit()),
            Turn::Step(most, fate) => {
                self.relay.step(&mut self.kafka, &mut self.database, *most, *fate);
            }
            Turn::Settle => {
                self.relay.settle(&mut self.database);
            }
            Turn::Flush => self.flush(),
            Turn::Abort => self.relay.abort(&mut self.kafka),
            Turn::Restart => self.restart(),
            Turn::Crash => {
                self.database.crash();
                self.restart();
            }
            Turn::TimeOut => self.kafka.time_out(),
            Turn::LateRequest => self.kafka.deliver_late(),
            Turn::Dump => self.database.dump(),
            Turn::Restore => {
                if self.database.restore() {
                    self.restart();
                }
            }
        }
    }

    fn flush(&mut self) {
        self.database.flush();
        self.relay.flushed();
    }

    fn restart(&mut self) {
        self.relays += 1;
        self.relay = Relay::new(self.variant, self.relays);
    }

    /// Nothing fails any more: each event is published once.
    fn come_to_rest(mut self) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            let steps = self.relay.step(&mut self.kafka, &mut self.database, 3, Fate::Answered);
            if !self.relay.settle(&mut self.database) && !steps {
                break;
            }
            self.flush();
        }
        prop_assert!(self.database.table.rows.is_empty(), "events are left");
        for event in &self.database.promised {
            prop_assert!(self.kafka.copies(*event) > 0, "event {event} was never published");
        }
        let twice = self.kafka.committed.iter().find_map(|record| match record {
            kafka::Record::Event(event) if !self.database.restored.contains(event) => {
                (self.kafka.copies(*event) > 1).then_some(*event)
            }
            _ => None,
        });
        prop_assert!(twice.is_none(), "event {} was published twice", twice.unwrap_or_default());
        Ok(())
    }
}

fn check(variant: Variant, mut runner: TestRunner) -> Result<(), TestError<Vec<Turn>>> {
    runner.run(&prop::collection::vec(turn(), 1..150), |turns| {
        let mut world = World::new(variant);
        turns.iter().for_each(|turn| world.play(turn));
        world.come_to_rest()
    })
}

fn config(cases: u32, max_shrink_iters: u32) -> Config {
    Config {
        cases,
        max_shrink_iters,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    }
}

#[test]
fn each_event_is_published_once() {
    if let Err(TestError::Fail(reason, turns)) = check(Variant::Real, TestRunner::new(config(CASES, 20_000)))
    {
        let turns: String = turns.iter().map(|turn| format!("\n{turn:?}")).collect();
        panic!("{reason}\nafter{turns}");
    }
}

#[test]
fn each_flaw_is_found() {
    for variant in FLAWED {
        // The same worlds in each run: how soon a flaw is found varies a lot.
        let worlds = TestRng::deterministic_rng(RngAlgorithm::XorShift);
        let runner = TestRunner::new_with_rng(config(CASES_WITH_FLAW, 0), worlds);
        let found = check(variant, runner);
        let Err(TestError::Fail(reason, _)) = found else { panic!("{variant:?} is not found") };
        let expected = if variant == Variant::ComparesIds { "never published" } else { "published twice" };
        assert!(reason.message().contains(expected), "{variant:?}: {reason}");
    }
}
