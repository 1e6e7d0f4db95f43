//! Makes random interleavings of transactions and sweeps.

use proptest::prelude::*;

use crate::postgres::{Op, Postgres};
use crate::sweeper::{Fault, Look, Sweeper, Variant};

/// A statement of a transaction.
#[derive(Debug, Clone, Copy)]
pub enum Statement {
    /// Appends events, the first of which are wanted.
    Append(usize, usize),
    /// Appends events that a ROLLBACK TO SAVEPOINT undoes.
    AppendInVain(usize),
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
    Burst(usize, bool),
    Sweep,
    /// The sweep fails: nothing of it is stored.
    Error,
    /// Another worker goes on with what is stored.
    Restart,
}

#[derive(Debug, Clone)]
pub struct Schedule {
    pub transactions: Vec<(Vec<Statement>, Ending)>,
    pub turns: Vec<Turn>,
    pub limit: usize,
}

pub fn schedules() -> impl Strategy<Value = Schedule> {
    let statement = prop_oneof![
        4 => (0..3usize, 0..3usize).prop_map(|(wanted, others)| Statement::Append(wanted, others)),
        1 => (1..3usize).prop_map(Statement::AppendInVain),
    ];
    let ending = prop_oneof![
        5 => Just(Ending::Commit),
        2 => Just(Ending::Abort),
        2 => Just(Ending::CommitPrepared),
        1 => Just(Ending::RollbackPrepared),
    ];
    let turn = prop_oneof![
        // Some transactions rarely act, so they stay open for long.
        12 => (0..40usize, 0..40usize).prop_map(|(a, b)| Turn::App(a.min(b))),
        2 => (1..6usize, any::<bool>()).prop_map(|(count, wanted)| Turn::Burst(count, wanted)),
        12 => Just(Turn::Sweep),
        1 => Just(Turn::Error),
        1 => Just(Turn::Restart),
    ];
    let transactions = prop::collection::vec((prop::collection::vec(statement, 0..4), ending), 1..12);
    let limit = prop_oneof![1..6usize, Just(1000)];
    (transactions, prop::collection::vec(turn, 10..300), limit)
        .prop_map(|(transactions, turns, limit)| Schedule { transactions, turns, limit })
}

fn append(wanted: usize, others: usize, variant: Variant, ops: &mut Vec<Op>) {
    let events = (0..wanted + others).map(|at| [Op::NextVal, Op::Insert(at < wanted)]);
    let mut events: Vec<Op> = events.flatten().collect();
    match variant {
        Variant::LockAfterTheFirstPosition if !events.is_empty() => {
            events.splice(1..1, [Op::ReadSequence, Op::Lock]);
        }
        _ => ops.extend([Op::ReadSequence, Op::Lock]),
    }
    ops.extend(events);
}

fn script(statements: &[Statement], ending: Ending, variant: Variant) -> Vec<Op> {
    let mut ops = Vec::new();
    for statement in statements {
        match *statement {
            Statement::Append(wanted, others) => append(wanted, others, variant, &mut ops),
            Statement::AppendInVain(count) => {
                ops.push(Op::Savepoint);
                append(count, 0, variant, &mut ops);
                ops.push(Op::RollbackToSavepoint);
            }
        }
    }
    let prepare: &[Op] = match (ending, variant) {
        (Ending::Commit | Ending::Abort, _) => &[],
        (_, Variant::PreparedDoNotCount) => &[Op::Prepare, Op::Unlock, Op::Prepare],
        _ => &[Op::Prepare, Op::Prepare],
    };
    ops.extend(prepare);
    match (ending, variant) {
        (Ending::Abort | Ending::RollbackPrepared, _) => ops.extend([Op::Abort, Op::Unlock]),
        (_, Variant::UnlockBeforeTheCommit) => ops.extend([Op::Unlock, Op::Commit]),
        _ => ops.extend([Op::Commit, Op::Unlock]),
    }
    ops
}

/// Runs the schedule. Then all transactions end, and the sweeper must have taken each wanted event once.
pub fn play(schedule: &Schedule, variant: Variant, looks: [Look; 3]) -> Result<(), Fault> {
    let mut postgres = Postgres::default();
    let mut sweeper = Sweeper::new(schedule.limit, variant, looks);
    let mut transactions: Vec<_> = schedule
        .transactions
        .iter()
        .map(|(statements, ending)| (postgres.begin(), script(statements, *ending, variant).into_iter()))
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
            Turn::Burst(count, wanted) => {
                for _ in 0..count {
                    let transaction = postgres.begin();
                    let event = Statement::Append(usize::from(wanted), usize::from(!wanted));
                    for op in script(&[event], Ending::Commit, variant) {
                        postgres.run(transaction, op);
                    }
                }
            }
            Turn::Sweep => sweeper.step(&postgres)?,
            Turn::Error => sweeper.fail(),
            Turn::Restart => sweeper.restart(),
        }
    }
    for (transaction, ops) in transactions {
        for op in ops {
            postgres.run(transaction, op);
            sweeper.step(&postgres)?;
        }
    }
    sweeper.come_to_rest(&postgres)
}
