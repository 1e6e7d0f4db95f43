//! Whether the outbox is full, by a count that is not exact.

/// The answer to an event that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There is room.
    Room,
    /// The outbox is full.
    Full {
        /// How many events wait, about.
        waiting: i64,
    },
}

/// The answer for an outbox of which `counted` events are known to wait, in a transaction that has stored `own` more.
#[must_use]
pub fn answer(counted: i64, own: i64, limit: i64) -> Answer {
    let waiting = counted.max(0).saturating_add(own);
    if limit > 0 && waiting >= limit { Answer::Full { waiting } } else { Answer::Room }
}

/// How many rows are counted at most. A count that reaches this is too low.
#[must_use]
pub fn most_counted(limit: i64) -> i64 {
    const SPARE: i64 = 100_000;
    limit.saturating_mul(2).saturating_add(SPARE)
}

/// What to add to the count. `before` was the count before the rows were counted, so that what sessions and the relay add or
/// take meanwhile is kept. `estimate` is the server's, for tables with more rows than were counted.
#[must_use]
pub fn correction(before: i64, rows: i64, most: i64, estimate: i64) -> i64 {
    let rows = if rows >= most { rows.max(estimate) } else { rows };
    rows.saturating_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_at_the_limit() {
        assert_eq!(answer(9, 0, 10), Answer::Room);
        assert_eq!(answer(10, 0, 10), Answer::Full { waiting: 10 });
        assert_eq!(answer(5, 5, 10), Answer::Full { waiting: 10 });
        assert_eq!(answer(5, 4, 10), Answer::Room);
        // No limit.
        assert_eq!(answer(i64::MAX, i64::MAX, 0), Answer::Room);
        // More was taken off than was counted: deletions by hand, or events from before there was a limit.
        assert_eq!(answer(-50, 10, 10), Answer::Full { waiting: 10 });
    }

    #[test]
    fn a_correction_keeps_what_happens_meanwhile() {
        let most = most_counted(1_000);
        for (before, rows, estimate, changed) in [(0, 70, 0, 5), (500, 70, 0, -20), (-3, 0, 900, 0)] {
            let mut count = before;
            count += changed;
            count += correction(before, rows, most, estimate);
            assert_eq!(count, rows + changed);
        }
    }

    #[test]
    fn more_rows_than_are_counted_are_estimated() {
        let most = most_counted(1_000);
        assert_eq!(correction(0, most, most, 5_000_000), 5_000_000);
        assert_eq!(correction(0, most, most, 7), most);
        assert_eq!(correction(0, most - 1, most, 5_000_000), most - 1);
    }
}
