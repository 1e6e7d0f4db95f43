//! Each wanted event is taken once, however late it commits, and whatever fails.

use event_outbox_policy::store::cursor::{Action, Cursor, MOST_RANGES};
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};

use crate::schedule::{Schedule, play, schedules};
use crate::sweeper::{IN_ORDER, Look, Variant};

fn check(seed: RngSeed, variant: Variant, looks: [Look; 3]) -> Result<(), TestError<Schedule>> {
    let config = Config {
        cases: 3000,
        failure_persistence: None,
        rng_seed: seed,
        // Otherwise cryptographic random numbers would take most of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    TestRunner::new(config).run(&schedules(), |schedule| {
        play(&schedule, variant, looks).map_err(|fault| TestCaseError::fail(format!("{fault:?}")))
    })
}

#[test]
fn the_cursor_takes_every_event_once() {
    for seed in [RngSeed::Random, RngSeed::Fixed(0), RngSeed::Fixed(1)] {
        if let Err(error) = check(seed, Variant::AsItIs, IN_ORDER) {
            panic!("{error}");
        }
    }
}

#[test]
fn a_sweep_stops_at_a_gap_when_there_are_too_many() {
    let mut sweep = Cursor::default().begin(0);
    for at in 1..=MOST_RANGES as i64 {
        assert_eq!(sweep.consider_open(2 * at, true), Action::Take);
    }
    let next = 2 * MOST_RANGES as i64 + 1;
    assert_eq!(sweep.consider_open(next, false), Action::Skip, "there is no gap before it");
    assert_eq!(sweep.consider_open(next + 2, true), Action::Stop);
    let cursor = sweep.end();
    assert_eq!((cursor.upto(), cursor.undecided().len()), (next, MOST_RANGES));
    let mut sweep = cursor.begin(next + 1);
    sweep.end_late();
    sweep.end_decided();
    assert_eq!(sweep.consider_open(next + 2, true), Action::Take);
    assert_eq!(sweep.end(), Cursor::new(next + 2, Vec::new()));
}

/// The property has teeth: known mistakes do not pass it.
mod what_is_wrong_is_found_out {
    use super::*;

    fn fails(variant: Variant, looks: [Look; 3]) {
        let result = check(RngSeed::Fixed(1), variant, looks);
        assert!(matches!(result, Err(TestError::Fail(..))), "no counterexample was found: {result:?}");
    }

    #[test]
    fn a_lock_that_is_taken_after_the_first_position_is_drawn() {
        fails(Variant::LockAfterTheFirstPosition, IN_ORDER);
    }

    #[test]
    fn a_lock_that_is_released_before_the_commit() {
        fails(Variant::UnlockBeforeTheCommit, IN_ORDER);
    }

    #[test]
    fn prepared_transactions_that_do_not_count() {
        fails(Variant::PreparedDoNotCount, IN_ORDER);
    }

    #[test]
    fn a_cursor_that_stores_only_how_far_it_came() {
        fails(Variant::ForgetsUndecided, IN_ORDER);
    }

    #[test]
    fn a_sweep_that_drops_what_it_has_not_looked_for() {
        fails(Variant::DropsBeforeItLooks, IN_ORDER);
    }

    #[test]
    fn locks_that_are_read_before_the_sequence() {
        fails(Variant::AsItIs, [Look::Locks, Look::Sequence, Look::Snapshot]);
    }

    #[test]
    fn a_snapshot_that_is_taken_before_the_locks_are_read() {
        fails(Variant::AsItIs, [Look::Sequence, Look::Snapshot, Look::Locks]);
    }
}
