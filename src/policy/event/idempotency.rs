//! Decides in which of two tables an idempotency key is looked for and stored, and when a table can be emptied.
//!
//! Keys are stored in the table of the present period. When it has been used for the retention, the next period begins in the
//! other table, which is empty by then; the former table is only looked into, until all its keys are older than the
//! retention, and then emptied. The periods change while sessions store keys: nobody waits for the other.

use crate::delivery::lanes::Micros;

/// The longest key, in bytes. An entry of the index has room for it and a topic.
pub const MAX_KEY_BYTES: usize = 1024;

/// What becomes of the table of the former period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Former {
    /// Sessions that knew nothing of the present period may still store keys in it.
    Open,
    /// Nobody stores keys in it since this time.
    Closed(Micros),
    /// All its keys are older than the retention: nobody looks into it any more.
    Expired,
    /// It has no keys.
    Empty,
}

/// A period, during which new keys are stored in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Counted from 0.
    pub number: i64,
    /// When it began.
    pub began_at: Micros,
    /// The table of the period before.
    pub former: Former,
}

/// What to do next with the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Find out whether a transaction that may have stored a key in the former table is still running. If not, it is closed.
    Close,
    /// Note that the former table has expired.
    Expire,
    /// Empty the former table.
    Empty,
    /// Begin the next period.
    Begin,
}

/// One of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// That of the periods 0, 2, 4, …
    A,
    /// That of the periods 1, 3, 5, …
    B,
}

impl Table {
    /// The table of a period.
    #[must_use]
    pub const fn of(period: i64) -> Self {
        if period.rem_euclid(2) == 0 { Self::A } else { Self::B }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl Period {
    /// The first period.
    #[must_use]
    pub const fn first(now: Micros) -> Self {
        Self { number: 0, began_at: now, former: Former::Empty }
    }

    /// The table of this period.
    #[must_use]
    pub const fn table(&self) -> Table {
        Table::of(self.number)
    }

    /// Whether the keys of the former table still count.
    #[must_use]
    pub const fn looks_back(&self) -> bool {
        matches!(self.former, Former::Open | Former::Closed(_))
    }

    /// What to do next, if anything. `is_used` tells whether the table of this period has any key.
    #[must_use]
    pub fn next_step(&self, is_used: bool, retention: Micros, now: Micros) -> Option<Step> {
        let is_over = |since: Micros| now.saturating_sub(since) >= retention;
        match self.former {
            Former::Open => Some(Step::Close),
            Former::Closed(at) => is_over(at).then_some(Step::Expire),
            Former::Expired => Some(Step::Empty),
            Former::Empty => (is_used && is_over(self.began_at)).then_some(Step::Begin),
        }
    }

    /// The period after a step that succeeded.
    #[must_use]
    pub const fn after(self, step: Step, now: Micros) -> Self {
        let former = match step {
            Step::Close => Former::Closed(now),
            Step::Expire => Former::Expired,
            Step::Empty => Former::Empty,
            Step::Begin => return Self { number: self.number + 1, began_at: now, former: Former::Open },
        };
        Self { former, ..self }
    }
}

/// A session's way to store one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// The period in whose table the key was stored.
    stored_in: Option<i64>,
}

/// What a session does next, after it has read the present period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The key is stored, and no other session can store it.
    Done,
    /// Remove the key from this table: another period began meanwhile.
    Withdraw(Table),
    /// Look for the key in one table, if given, and for uncommitted keys too, whose transactions are waited for. Then store
    /// it in the other, unless it is there.
    Store {
        /// Where to look.
        look: Option<Table>,
        /// Where to store.
        store: Table,
    },
}

impl Claim {
    /// What to do in this period. The period is read before the key is stored and once more after it: a session that looked
    /// into the table before the key was stored, and did not find it, has read a later period, and so has this one then.
    #[must_use]
    pub fn next(self, present: &Period) -> Next {
        match self.stored_in {
            Some(period) if period == present.number => Next::Done,
            Some(period) => Next::Withdraw(Table::of(period)),
            None => {
                let store = present.table();
                Next::Store { look: present.looks_back().then(|| store.other()), store }
            }
        }
    }

    /// Notes that the key was stored in the table of this period.
    pub fn stored(&mut self, period: i64) {
        self.stored_in = Some(period);
    }

    /// Notes that it was removed again.
    pub fn withdrawn(&mut self) {
        self.stored_in = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Micros = 3_600_000_000;

    #[test]
    fn the_tables_take_turns() {
        let first = Period::first(0);
        assert_eq!(first.next_step(true, HOUR, HOUR - 1), None);
        assert_eq!(first.next_step(false, HOUR, 9 * HOUR), None, "it has no keys");
        assert_eq!(first.next_step(true, HOUR, HOUR), Some(Step::Begin));
        let second = first.after(Step::Begin, HOUR);
        assert_eq!((second.table(), second.looks_back()), (Table::B, true));
        assert_eq!(second.next_step(true, HOUR, HOUR), Some(Step::Close));
        let second = second.after(Step::Close, 2 * HOUR);
        assert_eq!(second.next_step(true, HOUR, 3 * HOUR - 1), None);
        assert_eq!(second.next_step(true, HOUR, 3 * HOUR), Some(Step::Expire));
        let second = second.after(Step::Expire, 3 * HOUR);
        assert!(!second.looks_back());
        assert_eq!(second.next_step(true, HOUR, 3 * HOUR), Some(Step::Empty));
        let second = second.after(Step::Empty, 3 * HOUR);
        assert_eq!(second.next_step(true, HOUR, 3 * HOUR), Some(Step::Begin));
        assert_eq!(second.after(Step::Begin, 4 * HOUR).table(), Table::A);
    }
}
