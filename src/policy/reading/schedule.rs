//! When to look for scheduled events that are due, and how many of them to move at once.
//!
//! The relay knows the earliest date, and sleeps until then. It shows that date to the sessions. A commit that stores an
//! earlier one tells the relay; all other commits do not. Nothing is lost, because the relay takes its date back before it
//! reads, and a commit compares its dates after they have become visible: either the relay's snapshot sees them, or the commit
//! finds no date, and tells the relay.

/// Microseconds since 1970-01-01 UTC.
type Micros = i64;

/// How many events are moved in one transaction.
const MOST_TOGETHER: usize = 1_000;

/// The first pause if events are due but cannot be moved now; it doubles up to 128 times as much.
const STUCK_PAUSE: Micros = 50_000;
const DOUBLINGS: u32 = 7;

/// What the relay knows of the scheduled events.
#[derive(Debug)]
pub struct Schedule {
    next: Next,
    /// Until then nothing is moved, because the due events could not be moved last time.
    not_before: Micros,
    stuck: u32,
    most: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The table must be read from its beginning.
    Unknown,
    /// No event that nobody told the relay about is earlier.
    At(Micros),
    Nothing,
}

/// What to move now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The earliest date to look at, or all dates.
    pub from: Option<Micros>,
    /// The latest date to move.
    pub until: Micros,
    /// How many events to move at most.
    pub limit: usize,
}

/// What to do about a row that makes a move fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Move fewer at once, to find the row.
    Fewer,
    /// The first event that is due is to blame.
    Bury,
}

/// What sessions are shown while the relay reads, or does not run: they tell it of each date.
pub const UNKNOWN: Micros = 0;

/// Whether a commit must tell the relay of a date, if the relay shows this one.
#[must_use]
pub fn must_tell(stored: Micros, shown: Micros) -> bool {
    shown == UNKNOWN || stored < shown
}

impl Default for Schedule {
    fn default() -> Self {
        Self { next: Next::Unknown, not_before: 0, stuck: 0, most: MOST_TOGETHER }
    }
}

impl Schedule {
    /// A commit may have stored an earlier date, or changed one.
    pub fn note_change(&mut self) {
        self.next = Next::Unknown;
        self.not_before = 0;
    }

    /// When to look, if ever.
    #[must_use]
    pub fn date(&self) -> Option<Micros> {
        match self.next {
            Next::Unknown => Some(self.not_before),
            Next::At(date) => Some(date.max(self.not_before)),
            Next::Nothing => None,
        }
    }

    /// Whether to look now.
    #[must_use]
    pub fn is_due(&self, now: Micros) -> bool {
        self.date().is_some_and(|date| date <= now)
    }

    /// What to move now. The sessions must be shown [`UNKNOWN`] before the snapshot for this is taken.
    #[must_use]
    pub fn step(&self, now: Micros) -> Step {
        let from = if let Next::At(date) = self.next { Some(date) } else { None };
        Step { from, until: now, limit: self.most }
    }

    /// So many events were moved, and `next` is the earliest date that is left. Returns the date to show to the sessions.
    pub fn moved(&mut self, step: Step, count: usize, next: Option<Micros>) -> Micros {
        self.next = next.map_or(Next::Nothing, Next::At);
        self.most = MOST_TOGETHER.min(self.most.saturating_mul(2));
        if count == 0 && next.is_some_and(|date| date <= step.until) {
            self.not_before = step.until.saturating_add(STUCK_PAUSE << self.stuck);
            self.stuck = DOUBLINGS.min(self.stuck + 1);
        } else {
            (self.not_before, self.stuck) = (0, 0);
        }
        next.unwrap_or(Micros::MAX)
    }

    /// A row made the move fail.
    pub fn failed(&mut self, step: Step) -> Remedy {
        if step.limit <= 1 {
            return Remedy::Bury;
        }
        self.most = step.limit / 2;
        Remedy::Fewer
    }
}

#[cfg(test)]
mod tests;
