//! Makes random interleavings: the statements of the transactions, and the order of the steps.

use proptest::prelude::*;

use crate::finders::Finder;
use crate::postgres::{Op, Postgres};
use crate::relay::{Fault, Look, Relay};

/// A statement of a transaction.
#[derive(Debug, Clone, Copy)]
pub enum Statement {
    Emit(usize),
    EmitInSavepoint(usize),
    /// Events that a ROLLBACK TO SAVEPOINT undoes, which leaves gaps in the ids.
    EmitInVain(usize),
    /// A write to another table.
    WriteElsewhere,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    Commit,
    Abort,
    CommitPrepared,
    RollbackPrepared,
}

/// A step of the interleaving.
#[derive(Debug, Clone, Copy)]
pub enum Turn {
    /// One of the transactions makes one step.
    App(usize),
    /// This many transactions begin and end, with one event each.
    Burst(usize),
    Relay,
    Deliver(usize),
    Refuse(usize),
    Error,
    Restart,
    FullSweep,
}

#[derive(Debug, Clone)]
pub struct Schedule {
    pub transactions: Vec<(Vec<Statement>, Ending)>,
    pub turns: Vec<Turn>,
    pub window: usize,
    pub limit: usize,
}

fn statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        6 => (1..4usize).prop_map(Statement::Emit),
        2 => (1..3usize).prop_map(Statement::EmitInVain),
        1 => (1..3usize).prop_map(Statement::EmitInSavepoint),
        1 => Just(Statement::WriteElsewhere),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        6 => Just(Ending::Commit),
        2 => Just(Ending::Abort),
        2 => Just(Ending::CommitPrepared),
        1 => Just(Ending::RollbackPrepared),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        // Some transactions rarely act, so they stay open for long.
        12 => (0..40usize, 0..40usize).prop_map(|(a, b)| Turn::App(a.min(b))),
        2 => (1..6usize).prop_map(Turn::Burst),
        12 => Just(Turn::Relay),
        4 => (0..20usize).prop_map(Turn::Deliver),
        1 => (0..20usize).prop_map(Turn::Refuse),
        1 => Just(Turn::Error),
    ]
}

/// Schedules without full sweeps and restarts, which would find missed rows again.
pub fn schedules() -> impl Strategy<Value = Schedule> {
    let transactions = prop::collection::vec((prop::collection::vec(statement(), 0..4), ending()), 1..12);
    let limit = prop_oneof![1..6usize, Just(1000)];
    (transactions, prop::collection::vec(turn(), 10..300), 1..20usize, limit)
        .prop_map(|(transactions, turns, window, limit)| Schedule { transactions, turns, window, limit })
}

/// Schedules with full sweeps and restarts at any moment.
pub fn rough_schedules() -> impl Strategy<Value = Schedule> {
    let rough = prop_oneof![Just(Turn::Restart), Just(Turn::FullSweep)];
    (schedules(), prop::collection::vec((rough, any::<prop::sample::Index>()), 1..6)).prop_map(
        |(mut schedule, rough)| {
            for (turn, at) in rough {
                let at = at.index(schedule.turns.len());
                schedule.turns.insert(at, turn);
            }
            schedule
        },
    )
}

/// When a transaction that emits gets its xid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xid {
    /// The trigger assigns it before the first `nextval`.
    First,
    /// Postgres assigns it with the first row that the transaction writes, as it does without the trigger.
    WithFirstRow,
}

fn script(statements: &[Statement], ending: Ending, xid: Xid) -> Vec<Op> {
    let emit = |count| {
        let one = match xid {
            Xid::First => [Op::AssignXid, Op::NextVal, Op::Insert],
            Xid::WithFirstRow => [Op::NextVal, Op::AssignXid, Op::Insert],
        };
        one.into_iter().cycle().take(3 * count)
    };
    let mut ops = Vec::new();
    for statement in statements {
        match *statement {
            Statement::Emit(count) => ops.extend(emit(count)),
            Statement::EmitInSavepoint(count) => {
                ops.push(Op::Savepoint);
                ops.extend(emit(count).chain([Op::ReleaseSavepoint]));
            }
            Statement::EmitInVain(count) => {
                ops.push(Op::Savepoint);
                ops.extend(emit(count).chain([Op::RollbackToSavepoint]));
            }
            Statement::WriteElsewhere => ops.push(Op::AssignXid),
        }
    }
    match ending {
        Ending::Commit => ops.push(Op::Commit),
        Ending::Abort => ops.push(Op::Abort),
        Ending::CommitPrepared => ops.extend([Op::Prepare, Op::Prepare, Op::Commit]),
        Ending::RollbackPrepared => ops.extend([Op::Prepare, Op::Prepare, Op::Abort]),
    }
    ops
}

/// A transaction that emits one event, from begin to commit.
pub fn short_transaction(postgres: &mut Postgres, xid: Xid) {
    let transaction = postgres.begin();
    for op in script(&[Statement::Emit(1)], Ending::Commit, xid) {
        postgres.run(transaction, op);
    }
}

/// Runs the schedule. Then all transactions end, and the relay comes to rest.
pub fn play<F: Finder + Default>(schedule: &Schedule, xid: Xid, looks: [Look; 3]) -> Result<(), Fault> {
    let mut postgres = Postgres::new();
    let mut relay = Relay::new(F::default(), looks, schedule.window, schedule.limit);
    let mut transactions: Vec<_> = schedule
        .transactions
        .iter()
        .map(|(statements, ending)| (postgres.begin(), script(statements, *ending, xid).into_iter()))
        .collect();
    let count = transactions.len();
    for turn in &schedule.turns {
        match *turn {
            Turn::App(pick) => {
                let (transaction, ops) = &mut transactions[pick % count];
                if let Some(op) = ops.next() {
                    postgres.run(*transaction, op);
                }
            }
            Turn::Burst(count) => (0..count).for_each(|_| short_transaction(&mut postgres, xid)),
            Turn::Relay => relay.step(&mut postgres)?,
            Turn::Deliver(pick) => relay.deliver(pick),
            Turn::Refuse(pick) => relay.refuse(pick),
            Turn::Error => relay.error(),
            Turn::Restart => relay.restart(F::default()),
            Turn::FullSweep => relay.full_sweep(),
        }
    }
    for (transaction, ops) in transactions {
        for op in ops {
            postgres.run(transaction, op);
            relay.step(&mut postgres)?;
        }
    }
    relay.come_to_rest(&mut postgres)
}
