//! Decides which ids a pass must read, so that it misses no committed event and reads no more than it must.
//!
//! Ids do not become visible in order: a transaction may take a low id and commit late. So a pass does
//! not simply continue after the last id: it goes back to where rows may have appeared since, and no further.
//!
//! # Why it is exact
//!
//! A pass reads, **in this order**, the sequence's last value L, the next xid N, and its snapshot S. Every
//! writer has its top-level xid before its first `nextval`, and the sequence has `CACHE 1`.
//!
//! 1. *An epoch is a fact for ever.* A transaction with an xid >= N got it after N was read, hence after L was read,
//!    and took all its ids later still: they are above L. So `floor_of(x)`, the L of the latest pass with N <= x,
//!    is below every id of x. It grows with x. Forgetting epochs can only lower it.
//! 2. *I is complete.* An xid < N was in the process array before N was read. If S does not know its fate, it
//!    is among S's running ones or >= S.xmax: I = running ∪ [S.xmax, N), where only those < N matter.
//! 3. *Invariant, once a pass has ended:* a committed row with id <= `next` that was not handed out belongs to
//!    a transaction in I. For such a row was invisible in S, so its transaction is in I or has an xid >= N;
//!    the latter's ids are above L, and `next` <= L.
//! 4. *The invariant is kept.* The following pass starts at or below `next` and at or below the floors of those of I
//!    that S' shows as finished. A row that it does not read, at or below its start, belongs by 3 to a transaction of I
//!    that is still running, thus to I'. A row in its range that S' does not show belongs to I' or is above L', as in 3.
//!
//! The first pass has no epoch and starts at 0, so every transaction that runs then has the floor 0.
//!
//! Only `end` changes this knowledge: an abandoned pass leaves the older I, epochs and `next`, which stay
//! true. A rewind lowers `next`, which weakens the invariant's premise and so preserves it.
//!
//! # What it costs
//!
//! [S.xmax, N) is kept as a range, so memory and work follow the number of backends, however many xids burst
//! in between. Subtransaction xids in that range look finished once xmax has passed them; that rereads a
//! little, and loses nothing.

/// The state of the database at the start of a pass, read in the order of these fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// The last value that the id sequence has returned; 0 if it has returned none.
    pub last_id: i64,
    /// The next full transaction id.
    pub next_xid: u64,
    /// The snapshot's xmax, as a full transaction id.
    pub snapshot_xmax: u64,
    /// The snapshot's running top-level full transaction ids, in any order.
    pub running: Vec<u64>,
}

/// The rows that a pass must read: `WHERE id > after ORDER BY id LIMIT n`, with the horizon's snapshot.
///
/// Visible rows above the horizon's `last_id` must be handed out, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Rows up to this id need not be read.
    pub after: i64,
}

/// How far a pass has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It was cut off: all visible rows of the pass up to this id were processed.
    /// The id is `after` itself if no row was.
    Id(i64),
    /// All visible rows above `after` were processed.
    End,
}

/// The number of epochs at which they are thinned out. It normally follows the number of running transactions, but not
/// if nothing completes while one transaction opens subtransactions without end.
const MAX_EPOCHS: usize = 1024;

/// All ids of transactions with an xid from `first_xid` up to the next epoch are above `floor`.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    first_xid: u64,
    floor: i64,
}

/// The transactions below `next_xid` that a snapshot showed in progress: the set I.
#[derive(Debug, Default)]
struct InProgress {
    /// Sorted.
    running: Vec<u64>,
    xmax: u64,
    next_xid: u64,
}

impl InProgress {
    fn new(mut running: Vec<u64>, xmax: u64, next_xid: u64) -> Self {
        running.retain(|&xid| xid < next_xid);
        running.sort_unstable();
        Self { running, xmax, next_xid }
    }

    /// Whether the transaction was in progress. `xid` must be below `next_xid`.
    fn contains(&self, xid: u64) -> bool {
        xid >= self.xmax || self.running.binary_search(&xid).is_ok()
    }

    fn any_within(&self, from: u64, to: u64) -> bool {
        let at = self.running.partition_point(|&xid| xid < from);
        self.running.get(at).is_some_and(|&xid| xid < to) || from.max(self.xmax) < to.min(self.next_xid)
    }

    /// The lowest xid that was in progress here and no longer is `now`.
    fn first_finished(&self, now: &Self) -> Option<u64> {
        let listed = self.running.iter().copied().find(|&xid| !now.contains(xid));
        listed.or_else(|| self.first_finished_unlisted(now))
    }

    /// The same for xids from xmax on. There may be very many, so search for a gap in the list of `now`.
    fn first_finished_unlisted(&self, now: &Self) -> Option<u64> {
        let from = now.running.partition_point(|&xid| xid < self.xmax);
        let mut candidate = self.xmax;
        for &xid in now.running.iter().skip(from) {
            if xid != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate < self.next_xid.min(now.xmax)).then_some(candidate)
    }
}

/// A pass that has begun and not ended. It does not count yet.
#[derive(Debug)]
struct Open {
    last_id: i64,
    in_progress: InProgress,
    /// The lowest rewind since it began: the pass may have read past it already.
    rewound: Option<i64>,
}

/// The knowledge from which the next pass starts where it must, and no lower.
#[derive(Debug)]
pub struct Floor {
    /// Where the next pass starts, unless transactions of I have finished.
    next: i64,
    /// L of the last pass that ended.
    last_id: i64,
    /// I of the last pass that ended.
    in_progress: InProgress,
    /// Ascending in both fields. Holds only the epochs that a transaction of I needs, and the newest.
    epochs: Vec<Epoch>,
    open: Option<Open>,
    owed: bool,
}

impl Default for Floor {
    fn default() -> Self {
        Self::new()
    }
}

impl Floor {
    /// The state after a restart: nothing is known, so the first pass reads from 0.
    pub fn new() -> Self {
        Self {
            next: 0,
            last_id: 0,
            in_progress: InProgress::default(),
            epochs: Vec::new(),
            open: None,
            owed: true,
        }
    }

    /// Begins a pass. Abandons a pass that has begun and not ended.
    pub fn begin(&mut self, seen: Horizon) -> Pass {
        if seen.last_id < self.last_id {
            // The sequence was set back, so all knowledge of ids is void.
            *self = Self::new();
        }
        let now = InProgress::new(seen.running, seen.snapshot_xmax, seen.next_xid);
        // The lowest xid has the lowest floor.
        let finished = self.in_progress.first_finished(&now).map(|xid| self.floor_of(xid));
        self.open = Some(Open { last_id: seen.last_id, in_progress: now, rewound: None });
        Pass { after: finished.map_or(self.next, |floor| floor.min(self.next)) }
    }

    /// Ends the pass: its horizon becomes the knowledge for the next one.
    pub fn end(&mut self, reached: Reached) {
        let Some(open) = self.open.take() else { return };
        let (read, cut) = match reached {
            Reached::Id(id) => (id.min(open.last_id), true),
            Reached::End => (open.last_id, false),
        };
        self.next = open.rewound.map_or(read, |to| to.min(read));
        self.owed = cut || open.rewound.is_some();
        self.last_id = open.last_id;
        self.in_progress = open.in_progress;
        self.open_epoch();
    }

    /// The pass failed or was interrupted, so it does not count. The caller knows the events that it handed out as in
    /// flight, and skips them when they are read again.
    pub fn abandon(&mut self) {
        self.open = None;
        self.owed = true;
    }

    /// Makes the next pass start at or below `to`, also while a pass is under way. Use 0 for a full sweep, or the id
    /// before that of an event that must be read again.
    pub fn rewind(&mut self, to: i64) {
        self.next = self.next.min(to);
        if let Some(open) = &mut self.open {
            open.rewound = Some(open.rewound.map_or(to, |lower| lower.min(to)));
        }
        self.owed = true;
    }

    /// Whether there may be more rows to read now, without another wakeup: there was no pass yet, or the last one was cut
    /// off, abandoned, or rewound since.
    pub fn unfinished(&self) -> bool {
        self.owed
    }

    /// An id below all ids of this transaction.
    fn floor_of(&self, xid: u64) -> i64 {
        let after = self.epochs.partition_point(|epoch| epoch.first_xid <= xid);
        after.checked_sub(1).and_then(|at| self.epochs.get(at)).map_or(0, |epoch| epoch.floor)
    }

    /// Drops the epochs without a running transaction, and starts the epoch of the pass that has just ended.
    fn open_epoch(&mut self) {
        let next_xid = self.in_progress.next_xid;
        let ends: Vec<u64> =
            self.epochs.iter().skip(1).map(|epoch| epoch.first_xid).chain([next_xid]).collect();
        let mut ends = ends.into_iter();
        self.epochs
            .retain(|epoch| ends.next().is_some_and(|end| self.in_progress.any_within(epoch.first_xid, end)));
        if self.epochs.len() >= MAX_EPOCHS {
            let mut keep = false;
            self.epochs.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.epochs.push(Epoch { first_xid: next_xid, floor: self.last_id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(last_id: i64, next_xid: u64, snapshot_xmax: u64, running: &[u64]) -> Horizon {
        Horizon { last_id, next_xid, snapshot_xmax, running: running.to_vec() }
    }

    fn pass(floor: &mut Floor, horizon: Horizon) -> i64 {
        let pass = floor.begin(horizon);
        floor.end(Reached::End);
        pass.after
    }

    #[test]
    fn a_restart_reads_from_0_and_whoever_runs_then_may_have_taken_any_id() {
        let mut floor = Floor::new();
        assert_eq!(pass(&mut floor, seen(10, 101, 100, &[])), 0, "100 is running, unlisted");
        assert_eq!(pass(&mut floor, seen(20, 103, 103, &[100, 102])), 10, "101 came and went");
        assert_eq!(pass(&mut floor, seen(30, 103, 103, &[102])), 0, "100 finished");
        assert_eq!(pass(&mut floor, seen(40, 103, 103, &[])), 10, "102 came after the first pass");
        assert_eq!(pass(&mut floor, seen(50, 103, 103, &[])), 40);
    }

    #[test]
    fn a_cut_off_pass_goes_on_behind_the_last_row_but_never_above_the_last_id() {
        let mut floor = Floor::new();
        floor.begin(seen(10, 100, 100, &[]));
        floor.end(Reached::Id(4));
        assert!(floor.unfinished());
        assert_eq!(floor.begin(seen(10, 100, 100, &[])).after, 4);
        floor.end(Reached::Id(12));
        assert_eq!(floor.begin(seen(12, 101, 101, &[])).after, 10);
        floor.end(Reached::End);
        assert!(!floor.unfinished());
    }

    #[test]
    fn an_abandoned_pass_leaves_the_finished_to_the_next() {
        let mut floor = Floor::new();
        pass(&mut floor, seen(10, 100, 100, &[]));
        pass(&mut floor, seen(20, 101, 100, &[]));
        for _ in 0..2 {
            assert_eq!(floor.begin(seen(30, 101, 101, &[])).after, 10, "100 finished");
            floor.abandon();
            assert!(floor.unfinished());
        }
        assert_eq!(pass(&mut floor, seen(30, 101, 101, &[])), 10);
        assert_eq!(pass(&mut floor, seen(30, 101, 101, &[])), 30);
    }

    #[test]
    fn a_rewind_holds_for_the_next_pass_also_when_one_is_open_ends_or_is_abandoned() {
        let mut floor = Floor::new();
        pass(&mut floor, seen(10, 100, 100, &[]));
        floor.rewind(6);
        floor.rewind(8);
        assert!(floor.unfinished());
        assert_eq!(floor.begin(seen(10, 100, 100, &[])).after, 6);
        floor.rewind(3);
        floor.rewind(5);
        floor.end(Reached::End);
        assert!(floor.unfinished());
        assert_eq!(floor.begin(seen(10, 100, 100, &[])).after, 3);
        floor.rewind(1);
        floor.abandon();
        assert_eq!(pass(&mut floor, seen(10, 100, 100, &[])), 1);
        assert_eq!(pass(&mut floor, seen(10, 100, 100, &[])), 10);
    }

    #[test]
    fn a_sequence_that_was_set_back_is_like_a_restart() {
        let mut floor = Floor::new();
        pass(&mut floor, seen(1000, 100, 100, &[]));
        assert_eq!(pass(&mut floor, seen(5, 101, 101, &[])), 0);
        assert_eq!(pass(&mut floor, seen(9, 101, 101, &[])), 5);
    }

    #[test]
    fn a_burst_of_xids_costs_neither_memory_nor_time() {
        let mut floor = Floor::new();
        let far = 1 << 60;
        pass(&mut floor, seen(10, 100, 100, &[]));
        pass(&mut floor, seen(20, far, 100, &[]));
        assert_eq!(
            pass(&mut floor, seen(30, far, far - 1, &[100, 101])),
            10,
            "102 is the first that finished"
        );
        assert_eq!(floor.in_progress.running, [100, 101]);
        assert!(floor.epochs.len() <= 3);
    }

    #[test]
    fn epochs_stay_few_beside_one_long_transaction() {
        let mut floor = Floor::new();
        pass(&mut floor, seen(10, 100, 100, &[]));
        for round in 1..10_000 {
            pass(&mut floor, seen(10 + round, 100 + round as u64, 100 + round as u64, &[100]));
            assert!(floor.epochs.len() <= 2);
        }
        assert_eq!(pass(&mut floor, seen(20_000, 20_000, 20_000, &[])), 10);
    }

    #[test]
    fn epochs_stay_bounded_when_nothing_completes_and_thinning_only_lowers_floors() {
        let mut floor = Floor::new();
        let rounds = 10 * MAX_EPOCHS as u64;
        for round in 0..rounds {
            pass(&mut floor, seen(round as i64, 100 + round, 100, &[]));
            assert!(floor.epochs.len() <= MAX_EPOCHS);
        }
        let floors: Vec<i64> = (100..100 + rounds).map(|xid| floor.floor_of(xid)).collect();
        assert!(floors.is_sorted());
        assert!(floors.iter().zip(0..).all(|(&thinned, exact)| thinned <= exact));
    }
}
