//! Owns how many records go into a transaction: fewer after the table has refused some, until the one to blame is alone.

/// What an error says of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// One of them is to blame.
    Record,
    /// The table, its definition or the server is: no record can be applied at present.
    Table,
}

/// The classes of SQLSTATE that a record can cause: its data, a constraint, a limit of the server, a condition of a view, or an
/// error that a trigger raises.
const RECORD_CLASSES: [&str; 7] = ["21", "22", "23", "38", "44", "54", "P0"];

/// Whom an error with this SQLSTATE blames.
#[must_use]
pub fn blame(sqlstate: &str) -> Blame {
    if RECORD_CLASSES.iter().any(|class| sqlstate.starts_with(class)) { Blame::Record } else { Blame::Table }
}

/// What becomes of records that the table has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// They come again, fewer at a time.
    Narrow,
    /// The record was alone: it is a dead letter.
    Dead,
}

/// How many records go into a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Narrowing {
    most: usize,
    limit: usize,
}

impl Narrowing {
    /// At most this many.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { most, limit: most }
    }

    /// How many may go now.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Whether fewer go than could.
    #[must_use]
    pub const fn is_narrow(&self) -> bool {
        self.limit < self.most
    }

    /// The table has refused a transaction with this many records.
    pub fn refused(&mut self, count: usize) -> Refusal {
        if count <= 1 {
            return Refusal::Dead;
        }
        self.limit = (count / 2).max(1);
        Refusal::Narrow
    }

    /// This many were applied, or set aside. A transaction with fewer than it could have says nothing of larger ones.
    pub fn applied(&mut self, count: usize) {
        if count >= self.limit {
            self.limit = self.limit.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_that_is_locked_full_or_gone_is_not_the_records_fault() {
        for sqlstate in
            ["55P03", "53100", "57014", "40P01", "42P01", "42703", "42501", "25006", "XX000", "0A000"]
        {
            assert_eq!(blame(sqlstate), Blame::Table, "{sqlstate}");
        }
        for sqlstate in ["22P02", "22001", "23502", "23505", "23514", "P0001", "54000", "21000"] {
            assert_eq!(blame(sqlstate), Blame::Record, "{sqlstate}");
        }
    }

    /// Runs all records through transactions. Returns which died and how many transactions it took.
    fn run(bad: &[bool], most: usize) -> (Vec<usize>, usize) {
        let (mut narrowing, mut at, mut dead, mut transactions) = (Narrowing::new(most), 0, Vec::new(), 0);
        while at < bad.len() {
            transactions += 1;
            assert!(transactions < 100_000, "it does not end");
            let count = narrowing.limit().min(bad.len() - at);
            if bad[at..at + count].contains(&true) {
                if narrowing.refused(count) == Refusal::Narrow {
                    continue;
                }
                dead.push(at);
            }
            narrowing.applied(count);
            at += count;
        }
        (dead, transactions)
    }

    proptest! {
        #[test]
        fn exactly_those_to_blame_die(bad in prop::collection::vec(prop::bool::weighted(0.05), 0..400), most in 1..200_usize) {
            let (dead, _) = run(&bad, most);
            let expected: Vec<usize> = (0..bad.len()).filter(|at| bad[*at]).collect();
            prop_assert_eq!(dead, expected);
        }

        #[test]
        fn one_among_many_costs_few_transactions(count in 1..20_000_usize, at in 0..20_000_usize) {
            let mut bad = vec![false; count];
            bad[at % count] = true;
            let (_, transactions) = run(&bad, 10_000);
            // Down to one and up again, a few times at most, and what it takes without.
            prop_assert!(transactions <= 60 + count / 10_000, "{transactions}");
        }
    }
}
