//! Decides which events of the store a sweep has yet to take, so that it misses none that commits late, and takes none twice.
//!
//! Positions do not become visible in order: a transaction may draw a low position and commit late. Each writer therefore
//! takes a lock before it draws its first position, and keeps it until its transaction ends, prepared or not. The lock says
//! where the sequence stood before that draw: all positions of the writer are above it.
//!
//! # Why it is exact
//!
//! A sweep reads, **in this order**, the sequence's last value L, the locks, and its snapshot S. Let `stable` be the lowest of
//! L and what the locks say.
//!
//! 1. *Up to `stable` everything is decided, and S knows how.* A writer that holds its lock when the locks are read has only
//!    positions above what the lock says. One that takes it later draws later still, after L was read: above L. All others
//!    have ended before the locks were read, so before S.
//! 2. *Invariant, once a sweep has ended:* a committed event that was not taken lies above `upto`, or in `undecided`. For
//!    each position up to the new `upto` was visible in S, and so taken if it is wanted; or is at or below `stable`, so by 1
//!    there is no such event; or is added to `undecided`.
//! 3. What leaves `undecided` was taken, or is at or below `stable` and was looked for in S.
//!
//! Nothing of it refers to transactions or to the memory of a process, so it can be stored with what was taken, in the same
//! transaction: a restart, a failover and a dump go on with it.
//!
//! # What it costs
//!
//! `undecided` has positions that were drawn by writers which run, or have run until `stable` passes them. Their number of
//! ranges is bounded: beyond [`MOST_RANGES`] a sweep does not go on past a gap until writers end.

/// The most ranges of undecided positions.
pub const MOST_RANGES: usize = 1000;

/// Positions from the first to the second, both included.
pub type Range = (i64, i64);

/// What was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    upto: i64,
    undecided: Vec<Range>,
}

/// What to do with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Take it.
    Take,
    /// It is not wanted.
    Skip,
    /// Do not go on: end the sweep before it.
    Stop,
}

impl Cursor {
    /// Nothing at or below `upto` is wanted but what may yet be committed in these ranges, which ascend.
    #[must_use]
    pub fn new(upto: i64, undecided: Vec<Range>) -> Self {
        Self { upto, undecided }
    }

    /// Above this position nothing was taken.
    #[must_use]
    pub fn upto(&self) -> i64 {
        self.upto
    }

    /// Positions up to there at which events may yet be committed.
    #[must_use]
    pub fn undecided(&self) -> &[Range] {
        &self.undecided
    }

    /// Begins a sweep. `stable` was found before the snapshot was taken that the sweep reads with.
    #[must_use]
    pub fn begin(&self, stable: i64) -> Sweep {
        Sweep {
            stable,
            upto: self.upto,
            undecided: self.undecided.clone(),
            looked_for: 0,
            seen: self.upto.max(stable),
        }
    }
}

/// A sweep under way. It is shown the events that its snapshot sees, in three steps: those wanted in [`Sweep::late`], those
/// wanted in [`Sweep::decided`], and all of [`Sweep::open`]; each in the order of positions.
#[derive(Debug)]
pub struct Sweep {
    stable: i64,
    upto: i64,
    undecided: Vec<Range>,
    /// Undecided positions up to here were looked for.
    looked_for: i64,
    /// Positions up to here are decided or were shown.
    seen: i64,
}

impl Sweep {
    /// Where events may have been committed late.
    #[must_use]
    pub fn late(&self) -> &[Range] {
        &self.undecided
    }

    /// Takes an event of [`Sweep::late`].
    pub fn take_late(&mut self, position: i64) {
        self.looked_for = position;
        let Some(at) = self.undecided.iter().position(|(from, to)| (*from..=*to).contains(&position)) else {
            return;
        };
        let (from, to) = self.undecided[at];
        let parts = [(from, position - 1), (position + 1, to)];
        self.undecided.splice(at..=at, parts.into_iter().filter(|(from, to)| from <= to));
    }

    /// All late events were shown. Otherwise the sweep must end now.
    pub fn end_late(&mut self) {
        self.looked_for = i64::MAX;
    }

    /// Where everything is decided: events after the first position, up to the second. `None` if that is nowhere.
    #[must_use]
    pub fn decided(&self) -> Option<Range> {
        (self.upto < self.stable).then_some((self.upto, self.stable))
    }

    /// Takes an event of [`Sweep::decided`].
    pub fn take_decided(&mut self, position: i64) {
        self.upto = position;
    }

    /// All decided events were shown. Otherwise the sweep must end now.
    pub fn end_decided(&mut self) {
        self.upto = self.upto.max(self.stable);
    }

    /// After which position some events may be decided: here all events are shown, also those that are not wanted.
    #[must_use]
    pub fn open(&self) -> i64 {
        self.seen
    }

    /// Considers an event of [`Sweep::open`].
    pub fn consider_open(&mut self, position: i64, is_wanted: bool) -> Action {
        if position > self.seen + 1 {
            if self.undecided.len() >= MOST_RANGES {
                return Action::Stop;
            }
            self.undecided.push((self.seen + 1, position - 1));
        }
        (self.seen, self.upto) = (position, position);
        if is_wanted { Action::Take } else { Action::Skip }
    }

    /// Ends the sweep: what was taken, to be stored with it.
    #[must_use]
    pub fn end(mut self) -> Cursor {
        // What was looked for and is decided now will not come any more.
        let gone = self.stable.min(self.looked_for);
        self.undecided.retain_mut(|(from, to)| {
            *from = (*from).max(gone.saturating_add(1));
            *from <= *to
        });
        Cursor { upto: self.upto, undecided: self.undecided }
    }
}
