//! No pass misses a row that its snapshot shows, no row is handed out twice, and at rest no row is left.

use event_outbox_policy::reading::floor::Floor;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};

use crate::finders::{Compared, Finder, NaiveCursor};
use crate::relay::{IN_ORDER, Look};
use crate::schedule::{Schedule, Xid, play, rough_schedules, schedules};

const INTERLEAVINGS: u32 = 3000;

fn check<F: Finder + Default>(
    schedules: impl Strategy<Value = Schedule>,
    seed: RngSeed,
    xid: Xid,
    looks: [Look; 3],
) -> Result<(), TestError<Schedule>> {
    let config = Config {
        cases: INTERLEAVINGS,
        failure_persistence: None,
        rng_seed: seed,
        // Otherwise cryptographic random numbers would take most of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    TestRunner::new(config).run(&schedules, |schedule| {
        play::<F>(&schedule, xid, looks).map_err(|fault| TestCaseError::fail(format!("{fault:?}")))
    })
}

fn holds(result: Result<(), TestError<Schedule>>) {
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn fails(result: Result<(), TestError<Schedule>>) {
    assert!(matches!(result, Err(TestError::Fail(..))), "no counterexample was found: {result:?}");
}

#[test]
fn the_floor_misses_nothing() {
    holds(check::<Floor>(schedules(), RngSeed::Random, Xid::First, IN_ORDER));
}

#[test]
fn the_floor_misses_nothing_on_fixed_schedules() {
    for seed in 0..2 {
        holds(check::<Floor>(schedules(), RngSeed::Fixed(seed), Xid::First, IN_ORDER));
    }
}

#[test]
fn the_floor_misses_nothing_through_restarts_and_full_sweeps() {
    holds(check::<Floor>(rough_schedules(), RngSeed::Random, Xid::First, IN_ORDER));
}

#[test]
fn the_floor_starts_no_lower_than_one_floor_per_transaction_would() {
    holds(check::<Compared>(rough_schedules(), RngSeed::Random, Xid::First, IN_ORDER));
}

/// The properties have teeth: known mistakes do not pass them.
mod what_is_wrong_is_found_out {
    use super::*;

    const SEED: RngSeed = RngSeed::Fixed(1);

    #[test]
    fn a_naive_cursor() {
        fails(check::<NaiveCursor>(schedules(), SEED, Xid::First, IN_ORDER));
    }

    #[test]
    fn an_xid_that_is_assigned_after_the_id() {
        fails(check::<Floor>(schedules(), SEED, Xid::WithFirstRow, IN_ORDER));
    }

    #[test]
    fn a_next_xid_that_is_read_before_the_sequence() {
        let looks = [Look::NextXid, Look::Sequence, Look::Snapshot];
        fails(check::<Floor>(schedules(), SEED, Xid::First, looks));
    }

    #[test]
    fn a_snapshot_that_is_taken_before_the_next_xid_and_the_sequence_are_read() {
        let looks = [Look::Snapshot, Look::NextXid, Look::Sequence];
        fails(check::<Floor>(schedules(), SEED, Xid::First, looks));
    }
}
