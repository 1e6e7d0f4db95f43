//! Owns the idempotency keys of sessions: the first event with a key is stored, and its id is returned for later ones.
//!
//! Runs in: client backends.

use event_outbox_policy::event::idempotency::{Claim, MAX_KEY_BYTES, Next, Table};
use pgrx::prelude::*;

use crate::outbox::table::idempotency::{self, member};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::unique;
use crate::pg::user_context::{Owner, UserContext};
use crate::pg::user_error::UserError;

/// How often a session looks for a key that it cannot store. It is once unless a row disappears in between.
const TRIES: usize = 100;

static INSERT: [Statement; 2] = [
    Statement::new(
        c"INSERT INTO outbox.idempotency_a (topic, key, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &TYPES,
    ),
    Statement::new(
        c"INSERT INTO outbox.idempotency_b (topic, key, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &TYPES,
    ),
];

static DELETE: [Statement; 2] = [
    Statement::new(
        c"DELETE FROM outbox.idempotency_a AS k WHERE k.topic OPERATOR(pg_catalog.=) $1 \
             AND k.key OPERATOR(pg_catalog.=) $2 AND k.event_id OPERATOR(pg_catalog.=) $3",
        &TYPES,
    ),
    Statement::new(
        c"DELETE FROM outbox.idempotency_b AS k WHERE k.topic OPERATOR(pg_catalog.=) $1 \
             AND k.key OPERATOR(pg_catalog.=) $2 AND k.event_id OPERATOR(pg_catalog.=) $3",
        &TYPES,
    ),
];

static FIND: [Statement; 2] = [
    Statement::new(
        c"SELECT k.event_id FROM outbox.idempotency_a AS k WHERE k.topic OPERATOR(pg_catalog.=) $1 \
             AND k.key OPERATOR(pg_catalog.=) $2",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID],
    ),
    Statement::new(
        c"SELECT k.event_id FROM outbox.idempotency_b AS k WHERE k.topic OPERATOR(pg_catalog.=) $1 \
             AND k.key OPERATOR(pg_catalog.=) $2",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID],
    ),
];

const TYPES: [pg_sys::Oid; 3] = [pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::UUIDOID];

/// Stores the key of an event. Returns the id of the event that was emitted with this key before, if there is one: then
/// nothing is stored. Waits for a transaction that has stored the key and has not ended. An ERROR if that event is not
/// visible to a transaction that keeps to its snapshot.
#[must_use]
pub fn claim(topic: &str, key: &str, event_id: pgrx::Uuid) -> Option<pgrx::Uuid> {
    check(key);
    let row = Row([topic.into_datum(), key.into_datum(), event_id.into_datum()]);
    let mut claim = Claim::default();
    for _ in 0..TRIES {
        let present = spi::connected(|| {
            // However old the transaction's own snapshot is.
            let _latest = Snapshot::take_latest();
            idempotency::read_period()
        });
        match claim.next(&present) {
            Next::Done => return None,
            Next::Withdraw(table) => {
                row.delete(table);
                claim.withdrawn();
            }
            Next::Store { look, store } => {
                let table = match look.filter(|table| row.is_in(*table)) {
                    Some(table) => table,
                    None if row.insert(store) => {
                        claim.stored(present.number);
                        continue;
                    }
                    None => store,
                };
                if let Some(first) = row.find(table) {
                    return Some(first);
                }
                // SAFETY: reads a variable.
                if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
                    not_visible(key);
                }
            }
        }
    }
    unstorable(key)
}

fn check(key: &str) {
    let detail = match key.len() {
        0 => "The key is empty.".to_owned(),
        bytes if bytes > MAX_KEY_BYTES => format!("The key has {bytes} bytes; {MAX_KEY_BYTES} are allowed."),
        _ => return,
    };
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: "invalid idempotency key".into(),
        detail,
        hint: "Pass what identifies the request, such as its id, or a digest of it.".into(),
    }
    .raise()
}

fn not_visible(key: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        message: "could not serialize access due to concurrent update".into(),
        detail: format!(
            "Another transaction has emitted with idempotency key \"{key}\" since this one took its snapshot."
        ),
        hint: "Retry the transaction.".into(),
    }
    .raise()
}

fn unstorable(key: &str) -> ! {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: format!("could not store idempotency key \"{key}\""),
        detail: "A trigger, rule or policy of the table keeps its rows out, or hides them.".into(),
        hint: "Remove what was added to outbox.idempotency_a and outbox.idempotency_b.".into(),
    }
    .raise()
}

/// A row of one of the two tables.
struct Row([Option<pg_sys::Datum>; 3]);

impl Row {
    /// Whether the table has a row with this key.
    fn is_in(&self, table: Table) -> bool {
        let [topic, key, _] = self.0.map(|value| value.unwrap_or(pg_sys::Datum::from(0_usize)));
        unique::has_row(member(table).existing(), [topic, key]).unwrap_or_else(|| {
            UserError {
                code: PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                message: "the idempotency keys have no primary key as the extension gave it".into(),
                detail: "The primary key was changed or dropped.".into(),
                hint: "Create the primary key again, on the columns topic and key.".into(),
            }
            .raise()
        })
    }

    /// Inserts it, unless the table has a row with this key.
    fn insert(&self, table: Table) -> bool {
        self.run(&INSERT, table, |statement| !statement.execute(&self.0, Access::Write, 0).is_empty())
    }

    fn delete(&self, table: Table) {
        self.run(&DELETE, table, |statement| {
            statement.execute(&self.0, Access::Write, 0);
        });
    }

    /// The event with this key, if the transaction sees it.
    fn find(&self, table: Table) -> Option<pgrx::Uuid> {
        self.run(&FIND, table, |statement| {
            statement.execute(&self.0[..2], Access::Write, 1).iter().next().and_then(|row| row.get(1))
        })
    }

    fn run<R>(&self, statements: &[Statement; 2], table: Table, work: impl FnOnce(&Statement) -> R) -> R {
        let _owner = UserContext::switch_to(Owner::of(member(table)));
        spi::connected(|| work(&statements[usize::from(table == Table::B)]))
    }
}
