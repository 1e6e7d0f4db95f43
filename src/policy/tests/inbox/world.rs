//! The small world: Kafka, the ingest worker, sessions that receive, crashes and seeks.

use std::rc::Rc;

use event_outbox_policy::delivery::lanes::Micros;
use event_outbox_policy::inbox::lane::Lease;
use event_outbox_policy::inbox::lanes::Ordering;
use proptest::prelude::*;

use crate::database::{Change, PARTITIONS, Record, State};
use crate::deliveries::Note;
use crate::ingest::Ingest;
use crate::judge::Judge;
use crate::receiver::{Call, Leased};
use crate::sessions::{Reaction, Session};
use crate::variant::Variant;

pub type Tested<T = ()> = Result<T, TestCaseError>;

/// The last session calls only `receive(lease => …)`.
pub const SESSIONS: usize = 4;
const LESSEE: usize = SESSIONS - 1;

/// No handler gives up before this many failures: its event is never handled.
pub const ALWAYS: u32 = u32::MAX;

/// The length of a lease.
const LEASE: Micros = 20;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub ordering: Ordering,
    /// How many events may wait.
    pub room: usize,
    pub max_attempts: u32,
}

/// An event in Kafka.
#[derive(Debug, Clone, Copy)]
pub struct Produced {
    pub key: Option<&'static str>,
    /// How often its handler fails.
    pub failures: u32,
}

#[derive(Debug, Clone)]
pub enum Turn {
    Produce(usize, Produced),
    /// The worker reads up to so many events of each partition.
    Fetch(usize),
    /// It stores them; or its transaction fails.
    Store(bool),
    Seek(usize, i64),
    /// A transaction begins; whether it is REPEATABLE READ.
    Begin(usize, bool),
    /// A statement begins, and will wait for a lock.
    Statement(usize),
    /// Session, number of events, first lane.
    Receive(usize, u32, usize),
    Work(usize, Reaction),
    Savepoint(usize),
    Release(usize),
    RollBackTo(usize),
    Commit(usize),
    /// Whether the failure is noted; one that is not the events' fault is not.
    RollBack(usize, bool),
    Lease(u32, usize),
    Acknowledge(usize),
    Extend(usize),
    /// The worker records a failure.
    Record(usize),
    Time(Micros),
    Crash,
}

pub struct World {
    pub variant: Variant,
    pub limits: Limits,
    pub now: Micros,
    /// What is committed.
    pub latest: Rc<State>,
    /// What survives a crash: the worker's commits are asynchronous.
    pub durable: Rc<State>,
    pub log: Vec<Record>,
    pub kafka: [Vec<Produced>; PARTITIONS],
    pub ingest: Ingest,
    pub sessions: Vec<Session>,
    pub notes: Vec<Note>,
    pub leases: Vec<Leased>,
    last_token: u128,
    pub judge: Judge,
}

impl World {
    pub fn new(variant: Variant, limits: Limits) -> Self {
        Self {
            variant,
            limits,
            now: 0,
            latest: Rc::default(),
            durable: Rc::default(),
            log: Vec::new(),
            kafka: Default::default(),
            ingest: Ingest::default(),
            sessions: (0..SESSIONS).map(|_| Session::default()).collect(),
            notes: Vec::new(),
            leases: Vec::new(),
            last_token: 0,
            judge: Judge::default(),
        }
    }

    pub fn play(&mut self, turn: &Turn) -> Tested {
        match *turn {
            Turn::Produce(partition, event) => self.kafka[partition].push(event),
            Turn::Fetch(most) => self.fetch(most),
            Turn::Store(succeeds) => self.store(succeeds)?,
            Turn::Seek(partition, to) => self.seek(partition, to),
            Turn::Begin(session, keeps_snapshot) => {
                let snapshot = keeps_snapshot.then(|| self.latest.clone());
                self.sessions[session].begin(snapshot);
            }
            Turn::Statement(session) => self.sessions[session].statement = Some(self.latest.clone()),
            Turn::Receive(session, left, first) => {
                self.receive(Call { session, left, lease: None }, first)?;
                self.sessions[session].statement = None;
            }
            Turn::Work(session, reaction) => drop(self.work(session, reaction)?),
            Turn::Savepoint(session) => self.set_savepoint(session),
            Turn::Release(session) => self.release_savepoint(session),
            Turn::RollBackTo(session) => drop(self.roll_back_to_savepoint(session)),
            Turn::Commit(session) => self.commit_session(session)?,
            Turn::RollBack(session, is_noted) => self.roll_back(session, is_noted),
            Turn::Lease(most, first) => self.lease(most, first)?,
            Turn::Acknowledge(pick) => self.acknowledge(pick)?,
            Turn::Extend(pick) => self.extend(pick)?,
            Turn::Record(pick) => self.record(pick)?,
            Turn::Time(passed) => self.now += passed,
            Turn::Crash => self.crash(),
        }
        Ok(())
    }

    fn lease(&mut self, left: u32, first: usize) -> Tested {
        self.last_token += 1;
        let lease = Some((self.last_token, self.now + LEASE));
        self.receive(Call { session: LESSEE, left, lease }, first)?;
        self.commit_session(LESSEE)
    }

    /// The lease whose holder acts, unless another session holds the lane.
    fn free_lease(&self, pick: usize) -> Option<usize> {
        let at = pick.checked_rem(self.leases.len())?;
        let lane = self.leases[at].lane;
        (!self.is_locked(lane, None) && !self.is_being_changed(lane, None)).then_some(at)
    }

    /// The holder of a lease handles its events, and acknowledges it in the same transaction. If a handler fails, it does not.
    fn acknowledge(&mut self, pick: usize) -> Tested {
        let Some(at) = self.free_lease(pick) else { return Ok(()) };
        let leased = self.leases.remove(at);
        if leased.positions.iter().any(|at| self.handler_fails(*at)) {
            // The events come back when the lease expires.
            self.judge.has_failed(&leased.positions);
            return Ok(());
        }
        let state = self.latest.lane(leased.lane);
        let next = match self.variant {
            Variant::AnyLeaseCounts => {
                let upto = leased.positions.iter().max().copied().unwrap_or(state.upto);
                Some(state.acknowledged(upto, leased.positions.len() as u32))
            }
            _ => state.lease_acknowledged(leased.token),
        };
        let Some(next) = next else { return Ok(()) };
        let mut changes = vec![Change::Lane(leased.lane, next)];
        // An event that had waited is behind the lane's position.
        let waited = state.lease.filter(|lease| lease.upto <= state.upto);
        changes.extend(waited.map(|Lease { upto, .. }| Change::Gone(upto)));
        changes.extend(leased.positions.iter().map(|at| Change::Handled(*at)));
        self.commit(&changes)
    }

    fn extend(&mut self, pick: usize) -> Tested {
        let Some(at) = self.free_lease(pick) else { return Ok(()) };
        let Leased { token, lane, .. } = self.leases[at];
        let next = self.latest.lane(lane).extended(token, self.now + LEASE);
        next.map_or(Ok(()), |next| self.commit(&[Change::Lane(lane, next)]))
    }

    /// The server crashes. What the worker has stored since the last commit of another may be lost.
    fn crash(&mut self) {
        self.sessions = (0..SESSIONS).map(|_| Session::default()).collect();
        self.notes.clear();
        self.latest = self.durable.clone();
        self.log.truncate(self.latest.rows);
        self.judge.forget_after(self.latest.rows);
        self.ingest = Ingest::of(&self.latest);
    }
}
