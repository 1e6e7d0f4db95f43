//! The state of a lane of a subscription, and what changes it.
//!
//! ```text
//!            acknowledged: upto rises, the limit doubles until it is gone
//!          +---------------------------------------------------------------+
//!          v                                                               |
//!   (open, limit n) --- a transaction receives, or takes a lease --- commits, acks
//!          ^                         |
//!          |                         | aborts, or the lease expires
//!          |   several events: the limit becomes half of them
//!          +-------------------------+
//!          |   one event: it is charged, and goes to the retries or dies; upto passes it
//!          +-------------------------+
//! ```
//!
//! Each change makes the next state, with the next `seq`. It is stored by inserting a row whose key is the lane and `seq`, so
//! two transactions cannot build on the same state. A failure names the state that it was based on. If the lane has another
//! one meanwhile, the failure is stale: the same events failed in another session too, or somebody has moved the lane.

use crate::delivery::lanes::Micros;

/// The batch limit at which a lane that has failed counts as recovered.
const RECOVERED: u32 = 256;

/// How many suspect events are applied to a table at once, at first: few enough for the next crash to leave few, and enough
/// for a crash that is nobody's fault to cost little.
const SUSPECTS: u32 = 256;

/// A lease: events that a session handles outside of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Who has it.
    pub token: u128,
    /// It holds the lane's next events up to this position.
    pub upto: i64,
    /// The number of events.
    pub count: u32,
    /// When it expires.
    pub expires_at: Micros,
}

/// The state of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneState {
    /// The number of the state.
    pub seq: i64,
    /// Events up to this position are acknowledged, dead, or among the retries.
    pub upto: i64,
    /// How many events may be received at once; 0 for no limit.
    pub batch_limit: u32,
    /// The lease, if there is one.
    pub lease: Option<Lease>,
    /// Events up to this position were being received when the server crashed, or may have been.
    pub suspect_upto: i64,
}

/// Events that were received, or leased, and were not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The state on which their receiver built.
    pub based_on: i64,
    /// The last one's position.
    pub upto: i64,
    /// Their number.
    pub count: u32,
}

/// What a failure means for the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing: the lane has another state meanwhile.
    Stale,
    /// The next batch is smaller.
    Narrow(LaneState),
    /// The event was alone, so it is charged: it goes to the retries or dies, and the lane passes it.
    Charge(LaneState),
}

impl LaneState {
    /// The state of a lane of which nothing after `start` was received. No row stores it.
    #[must_use]
    pub const fn first(start: i64) -> Self {
        Self { seq: 0, upto: start, batch_limit: 0, lease: None, suspect_upto: start }
    }

    /// How many events may be received of the `wanted` ones.
    #[must_use]
    pub fn limit(&self, wanted: u32) -> u32 {
        if self.is_suspect() {
            wanted.min(1)
        } else if self.batch_limit == 0 {
            wanted
        } else {
            wanted.min(self.batch_limit)
        }
    }

    /// Whether the next new event may have crashed the server, so that it is received alone.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.suspect_upto > self.upto
    }

    /// Whether a transaction that receives from the lane must receive nothing else.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.batch_limit == 1 || self.is_suspect()
    }

    /// `count` new events up to this position were handled, or set aside. With no new events, `upto` may still rise over
    /// those that others handled.
    #[must_use]
    pub fn acknowledged(&self, upto: i64, count: u32) -> Self {
        // A batch that was smaller than the limit says nothing of larger ones.
        let batch_limit = match self.batch_limit {
            limit if limit == 0 || count < limit => limit,
            limit if limit.saturating_mul(2) >= RECOVERED => 0,
            limit => limit * 2,
        };
        Self { batch_limit, ..self.moved(upto.max(self.upto)) }
    }

    /// Events were received and not acknowledged.
    #[must_use]
    pub fn failed(&self, Failed { based_on, upto, count }: Failed) -> Consequence {
        if based_on != self.seq {
            Consequence::Stale
        } else if count > 1 {
            Consequence::Narrow(Self { batch_limit: count / 2, ..self.moved(self.upto) })
        } else {
            Consequence::Charge(self.moved(upto.max(self.upto)))
        }
    }

    /// Events were being received when the server crashed, and it is not known which is to blame. `None` if the lane has
    /// another state meanwhile. If several suspect ones were, each comes alone from now on.
    #[must_use]
    pub fn suspected(&self, Failed { based_on, upto, count }: Failed) -> Option<Self> {
        let batch_limit = if self.is_suspect() && count > 1 { 1 } else { self.batch_limit };
        let suspect_upto = upto.max(self.suspect_upto);
        (based_on == self.seq).then(|| Self { suspect_upto, batch_limit, ..self.moved(self.upto) })
    }

    /// How many suspect events are applied to a table at once: some, and after a crash with them one.
    #[must_use]
    pub const fn suspects_to_apply(&self) -> u32 {
        if self.batch_limit == 1 { 1 } else { SUSPECTS }
    }

    /// Whether a crash while the next event is applied to a table is this event's fault.
    #[must_use]
    pub const fn next_is_to_blame(&self) -> bool {
        self.is_suspect() && self.batch_limit == 1
    }

    /// New events up to this position were applied to a table, or set aside. There, only suspect ones have a limit here.
    #[must_use]
    pub fn applied(&self, upto: i64) -> Self {
        let next = self.moved(upto.max(self.upto));
        let batch_limit = if next.is_suspect() { self.batch_limit } else { 0 };
        Self { batch_limit, ..next }
    }

    /// The next events are leased.
    #[must_use]
    pub fn leased(&self, lease: Lease) -> Self {
        Self { lease: Some(lease), ..self.moved(self.upto) }
    }

    /// The lease expires at another time. `None` if nobody has a lease by this token any more.
    #[must_use]
    pub fn extended(&self, token: u128, expires_at: Micros) -> Option<Self> {
        let lease = self.lease.filter(|lease| lease.token == token)?;
        Some(Self { lease: Some(Lease { expires_at, ..lease }), ..self.moved(self.upto) })
    }

    /// The leased events were handled. `None` if nobody has a lease by this token any more.
    #[must_use]
    pub fn lease_acknowledged(&self, token: u128) -> Option<Self> {
        let lease = self.lease.filter(|lease| lease.token == token)?;
        Some(self.acknowledged(lease.upto, lease.count))
    }

    /// The events of a lease that has expired, as a failure.
    #[must_use]
    pub fn expired(&self, now: Micros) -> Option<Failed> {
        let lease = self.lease.filter(|lease| lease.expires_at <= now)?;
        Some(Failed { based_on: self.seq, upto: lease.upto, count: lease.count })
    }

    /// Nothing up to this position is received any more: the subscription was moved.
    #[must_use]
    pub fn sought(&self, upto: i64) -> Self {
        Self { batch_limit: 0, suspect_upto: upto, ..self.moved(upto) }
    }

    /// The next state, at this position and without a lease.
    fn moved(&self, upto: i64) -> Self {
        Self { seq: self.seq + 1, upto, lease: None, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: LaneState = LaneState::first(10);

    fn failed(state: &LaneState, upto: i64, count: u32) -> Consequence {
        state.failed(Failed { based_on: state.seq, upto, count })
    }

    #[test]
    fn a_failed_batch_is_narrowed_until_one_event_is_alone() {
        let mut state = START;
        let mut sizes = Vec::new();
        let charged = loop {
            let size = state.limit(100);
            sizes.push(size);
            match failed(&state, 10 + i64::from(size), size) {
                Consequence::Narrow(next) => state = next,
                Consequence::Charge(next) => break next,
                Consequence::Stale => panic!("stale"),
            }
        };
        assert_eq!(sizes, [100, 50, 25, 12, 6, 3, 1]);
        assert_eq!((charged.upto, charged.batch_limit), (11, 1));
    }

    #[test]
    fn the_limit_grows_with_each_full_batch_until_it_is_gone() {
        let mut state = LaneState { batch_limit: 1, ..START };
        let mut limits = Vec::new();
        while state.batch_limit > 0 {
            limits.push(state.batch_limit);
            state = state.acknowledged(state.upto + 1, state.batch_limit);
        }
        assert_eq!(limits, [1, 2, 4, 8, 16, 32, 64, 128]);
        let small = LaneState { batch_limit: 8, ..START };
        assert_eq!(small.acknowledged(20, 7).batch_limit, 8, "a small batch proves nothing");
    }

    #[test]
    fn a_failure_of_another_state_is_stale() {
        let next = START.acknowledged(20, 10);
        let stale = Failed { based_on: START.seq, upto: 20, count: 10 };
        assert_eq!(next.failed(stale), Consequence::Stale);
    }

    #[test]
    fn a_lease_is_acknowledged_extended_or_expires() {
        let lease = Lease { token: 7, upto: 15, count: 5, expires_at: 1_000 };
        let leased = START.leased(lease);
        assert_eq!((leased.upto, leased.lease), (10, Some(lease)));
        assert_eq!(leased.lease_acknowledged(8), None);
        assert_eq!(leased.lease_acknowledged(7).map(|state| (state.upto, state.lease)), Some((15, None)));
        assert_eq!(leased.expired(999), None);
        let extended = leased.extended(7, 2_000).unwrap();
        assert_eq!((extended.expired(1_000), leased.extended(8, 2_000)), (None, None));
        let expired = extended.expired(2_000).unwrap();
        assert!(matches!(
            extended.failed(expired),
            Consequence::Narrow(LaneState { batch_limit: 2, lease: None, .. })
        ));
    }

    #[test]
    fn suspect_events_are_received_alone_until_the_last_is_passed() {
        let crashed = Failed { based_on: START.seq, upto: 12, count: 2 };
        let suspect = START.suspected(crashed).unwrap();
        assert_eq!((suspect.upto, suspect.limit(100), suspect.is_alone()), (10, 1, true));
        assert_eq!(suspect.suspected(crashed), None, "it is stale");
        let next = suspect.acknowledged(11, 1);
        assert_eq!((next.limit(100), next.is_alone()), (1, true));
        let Consequence::Charge(next) = failed(&next, 12, 1) else { panic!("an event alone") };
        assert_eq!((next.limit(100), next.is_alone()), (100, false));
        assert!(!suspect.sought(10).is_alone());
    }

    /// Applies the events 1 to `last` to a table. Those in `poison` crash the server each time, and `once` at its first time.
    /// Returns who was charged, and the number of crashes and of transactions.
    fn apply(last: i64, poison: &[i64], mut once: Option<i64>) -> (Vec<i64>, u32, u32) {
        let (mut state, mut charged, mut crashes, mut transactions) = (LaneState::first(0), Vec::new(), 0, 0);
        while state.upto < last {
            transactions += 1;
            let most =
                if state.is_suspect() { i64::from(state.suspects_to_apply()) } else { last - state.upto };
            let upto = if state.is_suspect() { state.suspect_upto } else { last }.min(state.upto + most);
            let taken = state.upto + 1..=upto;
            let is_once = once.is_some_and(|event| taken.contains(&event));
            if !is_once && !poison.iter().any(|event| taken.contains(event)) {
                state = state.applied(upto);
                continue;
            }
            crashes += 1;
            if is_once {
                once = None;
            }
            let count = if state.next_is_to_blame() { 1 } else { 2 };
            let crash = Failed { based_on: state.seq, upto, count };
            if count > 1 {
                state = state.suspected(crash).unwrap();
            } else {
                let Consequence::Charge(next) = state.failed(crash) else { panic!("an event alone") };
                charged.push(upto);
                state = next;
            }
        }
        assert_eq!((state.is_suspect(), state.suspects_to_apply()), (false, SUSPECTS), "{state:?}");
        (charged, crashes, transactions)
    }

    #[test]
    fn an_event_whose_row_crashes_the_server_is_charged_at_the_third_crash_alone() {
        for poison in [1, 2, 255, 256, 257, 4_000, 9_999] {
            let (charged, crashes, transactions) = apply(10_000, &[poison], None);
            assert_eq!((charged, crashes), (vec![poison], 3), "{poison}");
            assert!(transactions <= 10_005, "{transactions}");
        }
        assert_eq!(apply(600, &[5, 6, 300], None), (vec![5, 6, 300], 5, 602));
    }

    #[test]
    fn a_crash_that_is_nobodys_fault_charges_nobody_and_costs_little() {
        for event in [1, 300, 100_000] {
            let (charged, crashes, transactions) = apply(100_000, &[], Some(event));
            assert_eq!((charged, crashes), (vec![], 1));
            assert!(transactions < 400, "{transactions}");
        }
    }

    #[test]
    fn each_change_makes_the_next_state() {
        let lease = Lease { token: 7, upto: 15, count: 5, expires_at: 1_000 };
        for state in [START.acknowledged(11, 1), START.leased(lease), START.sought(5)] {
            assert_eq!(state.seq, START.seq + 1);
        }
    }
}
