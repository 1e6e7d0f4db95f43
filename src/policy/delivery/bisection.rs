//! Which of many are to blame when all of them failed together.
//!
//! A settlement is one transaction, and one row can fail it for all: one that a foreign key refers to, one for which a
//! trigger raises. So it is halved, and the halves that fail are halved again, the larger pieces first: nearly all the
//! innocent ones are settled by the first few tries, however many are to blame.

use std::collections::VecDeque;

/// The classes of SQLSTATE that tell of the server, the session or another session, and not of a row.
const OF_THE_WORLD: [&str; 9] = ["08", "25", "40", "53", "55", "57", "58", "F0", "00"];

/// Whether an error with this SQLSTATE can be the fault of single rows.
#[must_use]
pub fn can_be_of_rows(sqlstate: &str) -> bool {
    !OF_THE_WORLD.iter().any(|class| sqlstate.starts_with(class))
}

/// Why a piece was not settled.
#[derive(Debug)]
pub enum Failure<E> {
    /// It may be one of the piece.
    OfRows(E),
    /// It is none of them: there is no use in trying others.
    OfTheWorld(E),
}

/// What came of it.
#[derive(Debug)]
pub struct Parted<T, E> {
    /// Those that failed alone, each with its error.
    pub guilty: Vec<(T, E)>,
    /// Those that were not tried to the end.
    pub left: Vec<T>,
    /// Why it was ended before its time.
    pub ended: Option<E>,
}

/// Settles what can be settled of a batch that has failed with `error`, in at most `tries` calls of `settle`, which gives
/// back what it has not settled.
pub fn settle<T, E: Clone>(
    batch: Vec<T>,
    error: E,
    mut tries: usize,
    mut settle: impl FnMut(Vec<T>) -> Result<(), (Vec<T>, Failure<E>)>,
) -> Parted<T, E> {
    let mut parted = Parted { guilty: Vec::new(), left: Vec::new(), ended: None };
    let mut pieces = VecDeque::from([(batch, error)]);
    while let Some((mut piece, error)) = pieces.pop_front() {
        if piece.len() == 1 {
            parted.guilty.extend(piece.into_iter().map(|one| (one, error.clone())));
            continue;
        }
        if tries < 2 || parted.ended.is_some() {
            parted.left.append(&mut piece);
            continue;
        }
        let second = piece.split_off(piece.len() / 2);
        for half in [piece, second] {
            if parted.ended.is_some() {
                parted.left.extend(half);
                continue;
            }
            tries -= 1;
            match settle(half) {
                Ok(()) => {}
                Err((half, Failure::OfRows(error))) => pieces.push_back((half, error)),
                Err((half, Failure::OfTheWorld(error))) => {
                    parted.left.extend(half);
                    parted.ended = Some(error);
                }
            }
        }
    }
    parted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn locks_and_full_disks_are_nobodys_fault() {
        for sqlstate in ["55P03", "53100", "57014", "40P01", "58030", "25006"] {
            assert!(!can_be_of_rows(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["23503", "P0001", "XX001", "23514", "54000", "42501"] {
            assert!(can_be_of_rows(sqlstate), "{sqlstate}");
        }
    }

    proptest! {
        #[test]
        fn each_is_settled_or_guilty_or_left_and_none_twice(
            count in 1..300_usize,
            bad in prop::collection::btree_set(0..300_usize, 1..40),
            budget in 0..700_usize,
            world_ends_after in prop::option::of(0..50_usize),
        ) {
            let (mut settled, mut tries) = (BTreeSet::new(), 0);
            let parted = settle((0..count).collect(), "all", budget, |piece: Vec<usize>| {
                tries += 1;
                if world_ends_after.is_some_and(|after| tries > after) {
                    return Err((piece, Failure::OfTheWorld("world")));
                }
                if piece.iter().any(|one| bad.contains(one)) {
                    return Err((piece, Failure::OfRows("row")));
                }
                for one in piece {
                    assert!(settled.insert(one), "{one} twice");
                }
                Ok(())
            });
            prop_assert!(tries <= budget);
            let guilty: BTreeSet<_> = parted.guilty.iter().map(|(one, _)| *one).collect();
            prop_assert!(count == 1 || guilty.iter().all(|one| bad.contains(one)));
            let mut all: Vec<_> = settled.into_iter().chain(guilty).chain(parted.left.clone()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
            // With tries enough nobody is left.
            if budget >= 2 * count && world_ends_after.is_none() {
                prop_assert!(parted.left.is_empty());
            }
        }

        #[test]
        fn one_among_many_is_found_in_few_tries(count in 2..10_000_usize, at in 0..10_000_usize) {
            let at = at % count;
            let mut tries = 0;
            let parted = settle((0..count).collect(), (), usize::MAX, |piece: Vec<usize>| {
                tries += 1;
                if piece.contains(&at) { Err((piece, Failure::OfRows(()))) } else { Ok(()) }
            });
            prop_assert_eq!(parted.guilty, vec![(at, ())]);
            prop_assert!(tries <= 2 * (count.ilog2() as usize + 1));
        }
    }
}
