//! However sessions and the relay interleave, no key is stored a second time before its retention is over.

use std::collections::{BTreeMap, BTreeSet};

use event_outbox_policy::event::idempotency::{Claim, Former, Next, Period, Step, Table};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestCaseError, TestError, TestRunner};

const INTERLEAVINGS: u32 = 20_000;
const SESSIONS: usize = 3;
const KEYS: u8 = 2;
const RETENTION: i64 = 6;

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Right,
    /// The period is not read again after the key was stored.
    ReadsOnce,
    /// A look sees committed keys alone.
    SeesCommitted,
    /// The former table counts as closed at once.
    ClosesAtOnce,
    /// A key that was stored for a former period stays.
    Leaves,
    /// The former table expires by the time when its period began.
    CountsFromTheBeginning,
}

#[derive(Debug, Clone)]
enum Move {
    Session { number: usize, key: u8, rolls_back: bool },
    Relay,
    Time(i64),
}

/// Where a session is in its transaction.
#[derive(Debug, Clone, Copy)]
enum At {
    Outside,
    Reads {
        key: u8,
        claim: Claim,
    },
    Looks {
        key: u8,
        claim: Claim,
        period: i64,
        look: Table,
        store: Table,
    },
    Stores {
        key: u8,
        claim: Claim,
        period: i64,
        store: Table,
    },
    /// Has its answer: its own event, or another's.
    Ends {
        key: u8,
        emits: bool,
    },
}

/// A row: whose it is, and whether it is committed.
#[derive(Debug, Clone, Copy)]
struct Row {
    owner: usize,
    event: u64,
    committed: bool,
}

#[derive(Debug)]
struct World {
    variant: Variant,
    now: i64,
    period: Period,
    began_before: i64,
    tables: [BTreeMap<u8, Row>; 2],
    sessions: [(At, u64); SESSIONS],
    events: u64,
    /// By key: the event that counts, and when it was committed.
    published: BTreeMap<u8, (u64, i64)>,
    ever_published: BTreeSet<u64>,
}

fn index(table: Table) -> usize {
    usize::from(table == Table::B)
}

impl World {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            now: 0,
            period: Period::first(0),
            began_before: 0,
            tables: [BTreeMap::new(), BTreeMap::new()],
            sessions: [(At::Outside, 0); SESSIONS],
            events: 0,
            published: BTreeMap::new(),
            ever_published: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Move) -> Result<(), String> {
        match *step {
            Move::Time(by) => self.now += by,
            Move::Relay => self.relay(),
            Move::Session { number, key, rolls_back } => return self.session(number, key, rolls_back),
        }
        Ok(())
    }

    fn relay(&mut self) {
        let used = !self.tables[index(self.period.table())].is_empty();
        let mut period = self.period;
        if self.variant == Variant::CountsFromTheBeginning && matches!(period.former, Former::Closed(_)) {
            period.former = Former::Closed(self.began_before);
        }
        let Some(step) = period.next_step(used, RETENTION, self.now) else { return };
        let former = index(self.period.table().other());
        // A transaction that has stored a row keeps a lock on its table.
        let is_locked = self.tables[former].values().any(|row| !row.committed);
        match step {
            Step::Close if is_locked && self.variant != Variant::ClosesAtOnce => return,
            Step::Empty if is_locked => return,
            Step::Empty => self.tables[former].clear(),
            Step::Begin => self.began_before = self.period.began_at,
            Step::Close | Step::Expire => {}
        }
        self.period = self.period.after(step, self.now);
    }

    /// The row of a key that this session finds; an error if it must wait for another transaction.
    fn find(&self, table: Table, key: u8, session: usize, sees_all: bool) -> Result<Option<Row>, ()> {
        match self.tables[index(table)].get(&key) {
            Some(row) if !row.committed && row.owner != session => {
                if sees_all {
                    Err(())
                } else {
                    Ok(None)
                }
            }
            found => Ok(found.copied()),
        }
    }

    fn session(&mut self, number: usize, new_key: u8, rolls_back: bool) -> Result<(), String> {
        let (at, event) = self.sessions[number];
        let next = match at {
            At::Outside => {
                self.events += 1;
                self.sessions[number].1 = self.events;
                At::Reads { key: new_key, claim: Claim::default() }
            }
            At::Reads { key, mut claim } => match claim.next(&self.period) {
                Next::Done => At::Ends { key, emits: true },
                Next::Withdraw(_) if self.variant == Variant::ReadsOnce => At::Ends { key, emits: true },
                Next::Withdraw(table) => {
                    if self.variant != Variant::Leaves {
                        self.tables[index(table)].remove(&key);
                    }
                    claim.withdrawn();
                    At::Reads { key, claim }
                }
                Next::Store { look, store } => {
                    let period = self.period.number;
                    look.map_or(At::Stores { key, claim, period, store }, |look| At::Looks {
                        key,
                        claim,
                        period,
                        look,
                        store,
                    })
                }
            },
            At::Looks { key, claim, period, look, store } => {
                match self.find(look, key, number, self.variant != Variant::SeesCommitted) {
                    Err(()) => return Ok(()),
                    Ok(None) => At::Stores { key, claim, period, store },
                    Ok(Some(row)) => self.found(number, key, row)?,
                }
            }
            At::Stores { key, mut claim, period, store } => match self.find(store, key, number, true) {
                Err(()) => return Ok(()),
                Ok(None) => {
                    let row = Row { owner: number, event, committed: false };
                    self.tables[index(store)].insert(key, row);
                    claim.stored(period);
                    At::Reads { key, claim }
                }
                Ok(Some(row)) => self.found(number, key, row)?,
            },
            At::Ends { key, emits } => {
                self.end(number, key, event, emits, rolls_back)?;
                At::Outside
            }
        };
        self.sessions[number].0 = next;
        Ok(())
    }

    /// Returns another session's event.
    fn found(&self, number: usize, key: u8, row: Row) -> Result<At, String> {
        if row.owner != number && !self.ever_published.contains(&row.event) {
            return Err(format!(
                "session {number} got event {} of key {key}, which does not exist",
                row.event
            ));
        }
        Ok(At::Ends { key, emits: false })
    }

    fn end(&mut self, number: usize, key: u8, event: u64, emits: bool, undo: bool) -> Result<(), String> {
        for table in &mut self.tables {
            table.retain(|_, row| row.committed || row.owner != number || !undo);
            for row in table.values_mut().filter(|row| row.owner == number) {
                row.committed = true;
            }
        }
        if undo || !emits {
            return Ok(());
        }
        self.ever_published.insert(event);
        let before = self.published.insert(key, (event, self.now));
        match before {
            Some((_, at)) if self.now - at < RETENTION => {
                Err(format!("key {key} was stored again after {} of {RETENTION}", self.now - at))
            }
            _ => Ok(()),
        }
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let session = (0..SESSIONS, 0..KEYS, prop::bool::weighted(0.15))
        .prop_map(|(number, key, rolls_back)| Move::Session { number, key, rolls_back });
    let one = prop_oneof![8 => session, 3 => Just(Move::Relay), 2 => (1..=RETENTION).prop_map(Move::Time)];
    prop::collection::vec(one, 1..120)
}

fn check(variant: Variant) -> Result<(), TestError<Vec<Move>>> {
    let config = Config {
        cases: INTERLEAVINGS,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        rng_algorithm: RngAlgorithm::XorShift,
        max_shrink_iters: 200,
        ..Config::default()
    };
    TestRunner::new(config).run(&moves(), |moves| {
        let mut world = World::new(variant);
        moves.iter().try_for_each(|step| world.step(step)).map_err(TestCaseError::fail)
    })
}

#[test]
fn no_key_is_stored_twice_within_its_retention() {
    let found = check(Variant::Right).map_err(|error| error.to_string());
    assert_eq!(found, Ok(()));
}

#[test]
fn each_rule_is_needed() {
    for variant in [
        Variant::ReadsOnce,
        Variant::SeesCommitted,
        Variant::ClosesAtOnce,
        Variant::Leaves,
        Variant::CountsFromTheBeginning,
    ] {
        assert!(check(variant).is_err(), "{variant:?} was not caught");
    }
}
