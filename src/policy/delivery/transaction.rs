//! The transactions of a relay that delivers exactly once: which may begin, what its marker lists, and what becomes of one
//! whose outcome is unknown.
//!
//! An event is in the marker of every transaction from its own on, until its deletion is durable. So whoever reads the last
//! marker knows which rows of the table are published already, wherever the relay has ended.
//!
//! ```text
//! Outside ── look, initialise, claim, read back ──▶ Ready ── begin ──▶ Open ── commit ──▶ Committing
//!    ▲                                                ▲                  │                    │
//!    │                                                ├── aborted ───────┘                    │
//!    │                                                └── committed ──────────────────────────┤
//!    └── lost: any outcome that is not known ─────────────────────────────────────────────────┘
//! ```
//!
//! A producer is used no more after an outcome that is not known: a late request of it could end the next transaction.
//! Whether the lost transaction was committed is read from the markers, once a new producer has ended what was open.

use std::collections::BTreeSet;

use super::marker::{self, Claim, EventPart, Found, Instance, Owner};

/// The largest number of events in flight. A marker lists them, and must fit into a record of the usual size.
pub const MOST_IN_FLIGHT: usize = 50_000;

/// Where the relay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has no producer that it may use.
    Outside,
    /// It may begin a transaction.
    Ready,
    /// A transaction is open. Its commit was not requested.
    Open,
    /// The commit was requested.
    Committing,
}

/// Why a relay must not initialise a producer, which would fence the relay that publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    /// That relay belongs to a server that was promoted later, on this timeline.
    LeftBehind(u32),
    /// That relay has claimed the outbox since this one did.
    Replaced,
}

/// What the markers say at the start of a producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// Events that are in Kafka, and may be in the table: those that this relay did not know of.
    pub published: Vec<(i64, EventPart)>,
    /// The transaction whose outcome was unknown: whether it was committed.
    pub decided: Option<bool>,
}

/// A record of the relay's own: key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRecord {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

/// The transactions of a relay.
#[derive(Debug)]
pub struct Transactions {
    owner: Owner,
    instance: Instance,
    state: State,
    /// The number of the last claim or transaction.
    serial: u64,
    /// The events that are in Kafka and whose deletion is not known to be durable.
    published: BTreeSet<(i64, EventPart)>,
    /// The last transaction, while its outcome is unknown: its number and its events.
    pending: Option<(u64, Vec<(i64, EventPart)>)>,
    /// Publishes even if a server that was promoted later has published.
    takes_over: bool,
    /// The claim of another relay that was met at the last look.
    replaced_by: Option<Claim>,
}

impl Transactions {
    /// A relay that has no producer yet. `takes_over` says that an operator wants this one to publish.
    #[must_use]
    pub fn new(owner: Owner, instance: Instance, takes_over: bool) -> Self {
        Self {
            owner,
            instance,
            state: State::Outside,
            serial: 0,
            published: BTreeSet::new(),
            pending: None,
            takes_over,
            replaced_by: None,
        }
    }

    /// The same relay with another producer. `serial` is its last number so far, and `known` are events that it knows to be in
    /// Kafka and whose deletion is not known to be durable.
    #[must_use]
    pub fn resumed(self, serial: u64, known: impl IntoIterator<Item = (i64, EventPart)>) -> Self {
        Self { serial, published: known.into_iter().collect(), ..self }
    }

    /// The number of its last claim or transaction.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Where it publishes from.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The number that names it.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Whether a transaction may begin.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether a new producer is needed.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        self.state == State::Outside
    }

    /// Whether this relay may initialise a producer, which fences all others with the same transactional id. `found` has what
    /// was read before.
    ///
    /// # Errors
    /// It must not, because another relay publishes. One with the same timeline is left alone once: if it has not claimed the
    /// outbox again at the next look, this one takes its turn.
    pub fn look(&mut self, found: &Found) -> Result<(), Fence> {
        let Some(claim) = found.claim().filter(|claim| claim.instance != self.instance) else {
            return Ok(());
        };
        if self.takes_over {
            Ok(())
        } else if claim.timeline > self.owner.timeline {
            Err(Fence::LeftBehind(claim.timeline))
        } else if self.serial > 0 && claim.timeline == self.owner.timeline && self.replaced_by != Some(claim)
        {
            self.replaced_by = Some(claim);
            Err(Fence::Replaced)
        } else {
            Ok(())
        }
    }

    /// The claim to write with a producer that was just initialised, in a transaction of its own.
    pub fn claim(&mut self) -> OwnRecord {
        self.serial += 1;
        OwnRecord { key: self.owner.claim_key(), value: marker::claim(&self.instance, self.serial) }
    }

    /// The last claim. When it was read, so was every record before it.
    #[must_use]
    pub fn last_claim(&self) -> Claim {
        Claim { instance: self.instance, serial: self.serial, timeline: self.owner.timeline }
    }

    /// The claim was read back, and all before it: the producer may be used.
    pub fn start(&mut self, found: &Found) -> Start {
        self.takes_over = false;
        self.state = State::Ready;
        let decided = self.pending.take().map(|(serial, events)| {
            let is_committed = found.committed() == Some(serial);
            if is_committed {
                self.published.extend(events);
            }
            is_committed
        });
        let mut new: Vec<_> = found.events().filter(|event| !self.published.contains(event)).collect();
        new.sort_unstable();
        new.dedup();
        self.published.extend(new.iter().copied());
        Start { published: new, decided }
    }

    /// Begins a transaction with these events. Returns `false` if none may begin.
    #[must_use]
    pub fn begin(&mut self, events: Vec<(i64, EventPart)>) -> bool {
        if self.state != State::Ready {
            return false;
        }
        self.state = State::Open;
        self.serial += 1;
        self.pending = Some((self.serial, events));
        true
    }

    /// The marker that must be the last record of the open transaction.
    #[must_use]
    pub fn marker(&self) -> OwnRecord {
        let own = self.pending.iter().flat_map(|(_, events)| events);
        let value = marker::marker(&self.instance, self.serial, self.published.iter().chain(own));
        OwnRecord { key: self.owner.marker_key(), value }
    }

    /// The commit of the open transaction is about to be requested.
    pub fn request_commit(&mut self) {
        if self.state == State::Open {
            self.state = State::Committing;
        }
    }

    /// Kafka has confirmed the commit.
    pub fn committed(&mut self) {
        if self.state == State::Committing
            && let Some((_, events)) = self.pending.take()
        {
            self.published.extend(events);
            self.state = State::Ready;
        }
    }

    /// Kafka has confirmed that the open transaction is aborted. If its commit was requested, this decides nothing: then the
    /// transaction counts as lost.
    pub fn aborted(&mut self) {
        match self.state {
            State::Open => {
                self.pending = None;
                self.state = State::Ready;
            }
            State::Outside | State::Ready | State::Committing => self.lost(),
        }
    }

    /// The producer must not be used any more. If a transaction was open, its outcome is unknown until the next
    /// [`start`](Self::start).
    pub fn lost(&mut self) {
        self.state = State::Outside;
    }

    /// The deletion of these events is durable. The same holds for events that are not in the table: whoever has deleted them
    /// may have done so a moment ago, so it is durable only when the log up to then is.
    ///
    /// An id alone would not do: another event may have got it since, and be published.
    pub fn deleted(&mut self, events: impl IntoIterator<Item = (i64, EventPart)>) {
        for event in events {
            self.published.remove(&event);
        }
    }

    /// The number of events in the next marker, apart from its own.
    #[must_use]
    pub fn undeleted(&self) -> usize {
        self.published.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { system: 1, database: 2, timeline: 3 };

    fn claimed_by(instance: u8, serial: u64, timeline: u32) -> Found {
        let owner = Owner { timeline, ..OWNER };
        let mut found = Found::default();
        let value = marker::claim(&[instance; 16], serial);
        found.read(&OWNER, &[7; 16], owner.claim_key().as_bytes(), Some(&value));
        found
    }

    #[test]
    fn a_server_that_was_left_behind_does_not_publish_before_an_operator_says_so() {
        let mut ours = Transactions::new(OWNER, [7; 16], false);
        let later = claimed_by(1, 1, 4);
        assert_eq!(ours.look(&later), Err(Fence::LeftBehind(4)));
        assert_eq!(ours.look(&later), Err(Fence::LeftBehind(4)));
        assert_eq!(Transactions::new(OWNER, [7; 16], true).look(&later), Ok(()));
    }

    #[test]
    fn a_relay_that_starts_replaces_earlier_ones() {
        let mut ours = Transactions::new(OWNER, [7; 16], false);
        assert_eq!(ours.look(&Found::default()), Ok(()));
        assert_eq!(ours.look(&claimed_by(1, 9, 3)), Ok(()));
        assert_eq!(ours.look(&claimed_by(1, 9, 2)), Ok(()));
    }

    #[test]
    fn a_relay_that_was_replaced_leaves_the_other_alone_for_a_pause() {
        let mut ours = Transactions::new(OWNER, [7; 16], false);
        let _ = ours.claim();
        assert_eq!(ours.look(&claimed_by(7, 1, 3)), Ok(()), "its own claim");
        assert_eq!(ours.look(&claimed_by(1, 1, 3)), Err(Fence::Replaced));
        assert_eq!(ours.look(&claimed_by(1, 2, 3)), Err(Fence::Replaced), "the other has started again");
        assert_eq!(ours.look(&claimed_by(1, 2, 3)), Ok(()));
        assert_eq!(ours.look(&claimed_by(1, 2, 2)), Ok(()), "the server that was left behind");
    }

    #[test]
    fn a_relay_with_another_producer_knows_that_it_was_replaced_and_what_it_has_published() {
        let known = (5, EventPart::of(&[5; 16]));
        let mut ours = Transactions::new(OWNER, [7; 16], false).resumed(9, [known]);
        assert_eq!(ours.look(&claimed_by(1, 1, 3)), Err(Fence::Replaced));
        let listed = marker::marker(&[1; 16], 1, [known, (6, EventPart::of(&[6; 16]))].iter());
        let mut found = Found::default();
        found.read(&OWNER, &[7; 16], OWNER.marker_key().as_bytes(), Some(&listed));
        let _ = ours.claim();
        assert_eq!(ours.serial(), 10);
        let start = ours.start(&found);
        assert_eq!(start.published, [(6, EventPart::of(&[6; 16]))]);
        assert_eq!(ours.undeleted(), 2);
    }

    #[test]
    fn an_abort_after_the_commit_was_requested_decides_nothing() {
        let mut ours = Transactions::new(OWNER, [7; 16], false);
        let _ = ours.start(&Found::default());
        assert!(ours.begin(vec![(1, EventPart::of(&[1; 16]))]));
        assert!(!ours.begin(Vec::new()), "one at a time");
        ours.request_commit();
        ours.aborted();
        assert!(ours.is_outside() && !ours.begin(Vec::new()));
        assert_eq!(ours.start(&Found::default()).decided, Some(false));
    }
}
