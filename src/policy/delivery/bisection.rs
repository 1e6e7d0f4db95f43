//! Finds the rows that make a settlement fail.
//!
//! A settlement is one transaction, and one row can make it fail for all: a foreign key refers to it, or a trigger raises
//! an error for it. So the batch is split in halves, and the halves that fail are split again, the larger pieces first.
//! The first few tries then settle nearly all good rows, however many are faulty.

use std::collections::VecDeque;

/// The classes of SQLSTATE that concern the server, this session or another session, and not a row.
const ENVIRONMENT_CLASSES: [&str; 9] = ["08", "25", "40", "53", "55", "57", "58", "F0", "00"];

/// Whether single rows can cause an error with this SQLSTATE.
#[must_use]
pub fn may_be_caused_by_row(sqlstate: &str) -> bool {
    !ENVIRONMENT_CLASSES.iter().any(|class| sqlstate.starts_with(class))
}

/// Why a piece was not settled.
#[derive(Debug)]
pub enum Failure<E> {
    /// A row of the piece may be the cause.
    PerhapsRow(E),
    /// No row is the cause, so there is no use in trying others.
    Environment(E),
}

/// The result of a bisection.
#[derive(Debug)]
pub struct Bisected<T, E> {
    /// Items that failed alone, each with its error.
    pub faulty: Vec<(T, E)>,
    /// Items that neither were settled nor failed alone.
    pub unsettled: Vec<T>,
    /// The error of the environment that ended the bisection early.
    pub stopped_by: Option<E>,
}

/// Settles as much as possible of a batch that has failed with `error`, in at most `tries` calls of `settle`. A call that
/// fails returns its items.
pub fn settle<T, E: Clone>(
    batch: Vec<T>,
    error: E,
    mut tries: usize,
    mut settle: impl FnMut(Vec<T>) -> Result<(), (Vec<T>, Failure<E>)>,
) -> Bisected<T, E> {
    let mut result = Bisected { faulty: Vec::new(), unsettled: Vec::new(), stopped_by: None };
    let mut pieces = VecDeque::from([(batch, error)]);
    while let Some((mut piece, error)) = pieces.pop_front() {
        if piece.len() == 1 {
            result.faulty.extend(piece.into_iter().map(|one| (one, error.clone())));
            continue;
        }
        if tries < 2 || result.stopped_by.is_some() {
            result.unsettled.append(&mut piece);
            continue;
        }
        let second = piece.split_off(piece.len() / 2);
        for half in [piece, second] {
            if result.stopped_by.is_some() {
                result.unsettled.extend(half);
                continue;
            }
            tries -= 1;
            match settle(half) {
                Ok(()) => {}
                Err((half, Failure::PerhapsRow(error))) => pieces.push_back((half, error)),
                Err((half, Failure::Environment(error))) => {
                    result.unsettled.extend(half);
                    result.stopped_by = Some(error);
                }
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn locks_and_full_disks_are_no_fault_of_a_row() {
        for sqlstate in ["55P03", "53100", "57014", "40P01", "58030", "25006"] {
            assert!(!may_be_caused_by_row(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["23503", "P0001", "XX001", "23514", "54000", "42501"] {
            assert!(may_be_caused_by_row(sqlstate), "{sqlstate}");
        }
    }

    proptest! {
        #[test]
        fn each_is_settled_or_faulty_or_unsettled_and_none_twice(
            count in 1..300_usize,
            bad in prop::collection::btree_set(0..300_usize, 1..40),
            budget in 0..700_usize,
            environment_fails_after in prop::option::of(0..50_usize),
        ) {
            let (mut settled, mut tries) = (BTreeSet::new(), 0);
            let result = settle((0..count).collect(), "all", budget, |piece: Vec<usize>| {
                tries += 1;
                if environment_fails_after.is_some_and(|after| tries > after) {
                    return Err((piece, Failure::Environment("environment")));
                }
                if piece.iter().any(|one| bad.contains(one)) {
                    return Err((piece, Failure::PerhapsRow("row")));
                }
                for one in piece {
                    assert!(settled.insert(one), "{one} twice");
                }
                Ok(())
            });
            prop_assert!(tries <= budget);
            let faulty: BTreeSet<_> = result.faulty.iter().map(|(one, _)| *one).collect();
            prop_assert!(count == 1 || faulty.iter().all(|one| bad.contains(one)));
            let mut all: Vec<_> = settled.into_iter().chain(faulty).chain(result.unsettled.clone()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
            // With enough tries no item stays unsettled.
            if budget >= 2 * count && environment_fails_after.is_none() {
                prop_assert!(result.unsettled.is_empty());
            }
        }

        #[test]
        fn one_among_many_is_found_in_few_tries(count in 2..10_000_usize, at in 0..10_000_usize) {
            let at = at % count;
            let mut tries = 0;
            let result = settle((0..count).collect(), (), usize::MAX, |piece: Vec<usize>| {
                tries += 1;
                if piece.contains(&at) { Err((piece, Failure::PerhapsRow(()))) } else { Ok(()) }
            });
            prop_assert_eq!(result.faulty, vec![(at, ())]);
            prop_assert!(tries <= 2 * (count.ilog2() as usize + 1));
        }
    }
}
