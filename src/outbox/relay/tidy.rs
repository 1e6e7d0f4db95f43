//! Owns what the relay clears away at each full sweep: idempotency keys that are older than their retention.
//!
//! Runs in: a relay's background worker, main thread.
//!
//! No lock of it waits: who waits for a lock has others wait behind it, here sessions that emit.

use event_outbox_policy::event::idempotency::{Period, Step, Table};
use pgrx::prelude::*;

use super::Relay;
use crate::outbox::table::idempotency::{self, PERIOD, member};
use crate::pg::catalog;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};
use crate::worker::transaction::{self, Failed};

/// Fails at once while a transaction that has stored a key is running.
static LOCK_WRITERS: [Statement; 2] = [
    Statement::new(c"LOCK TABLE outbox.idempotency_a IN SHARE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE outbox.idempotency_b IN SHARE MODE NOWAIT", &[]),
];

/// Fails at once while a session looks into the table.
static LOCK_ALL: [Statement; 2] = [
    Statement::new(c"LOCK TABLE outbox.idempotency_a IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
    Statement::new(c"LOCK TABLE outbox.idempotency_b IN ACCESS EXCLUSIVE MODE NOWAIT", &[]),
];

static EMPTY: [Statement; 2] = [
    Statement::new(c"TRUNCATE outbox.idempotency_a", &[]),
    Statement::new(c"TRUNCATE outbox.idempotency_b", &[]),
];

/// What is to be cleared away.
#[derive(Debug, Default)]
pub struct Tidying {
    is_due: bool,
}

impl Tidying {
    /// A full sweep has begun.
    pub fn begin(&mut self) {
        self.is_due = true;
    }
}

impl Relay {
    /// Clears away what has expired, after each full sweep.
    pub(super) fn tidy(&mut self) {
        if !std::mem::take(&mut self.tidying.is_due) {
            return;
        }
        let retention = i64::try_from(self.settings.idempotency_retention.as_micros()).unwrap_or(i64::MAX);
        // One step leads to the next, and after four begins the next period.
        for _ in 0..4 {
            let step = transaction::run(c"event_outbox: removing idempotency keys", || take_step(retention));
            match step {
                Ok(true) => {}
                // Sessions are using the table. The next full sweep tries again.
                Err(Failed { code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, .. }) => break,
                other => {
                    self.note(other);
                    break;
                }
            }
        }
    }
}

/// Takes the next step with the tables of idempotency keys, if there is one.
fn take_step(retention: i64) -> bool {
    let table = PERIOD.oid();
    // Objects of an earlier version have no such table.
    if table == pg_sys::InvalidOid {
        return false;
    }
    let is_used = |table: Table| catalog::has_pages(member(table).existing());
    if !catalog::has_pages(table) && !is_used(Table::A) {
        return false;
    }
    let _snapshot = Snapshot::take();
    let now = crate::pg::now();
    let stored = spi::connected(idempotency::stored_period);
    let Some(present) = stored else {
        store(&Period::first(now));
        return true;
    };
    let Some(step) = present.next_step(is_used(present.table()), retention, now) else { return false };
    let former = present.table().other();
    match step {
        Step::Close => run(former, &[&LOCK_WRITERS]),
        Step::Empty => run(former, &[&LOCK_ALL, &EMPTY]),
        Step::Expire | Step::Begin => {}
    }
    store(&present.after(step, crate::pg::now()));
    true
}

fn run(table: Table, statements: &[&[Statement; 2]]) {
    let _owner = UserContext::confined_to(Owner::of(member(table)));
    for statement in statements {
        spi::connected(|| {
            statement[usize::from(table == Table::B)].execute(&[], Access::Write, 0);
        });
    }
}

fn store(period: &Period) {
    let _owner = UserContext::confined_to(Owner::of(PERIOD));
    spi::connected(|| idempotency::write_period(period));
}
