//! Owns the SQL statements of a settlement. The work for each single event needs no SQL: see [`super::rows`].
//!
//! Runs in: the relay's main thread, in a session that [`session::prepare`](crate::worker::session::prepare)
//! has prepared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::notify::Notification;
use pgrx::prelude::*;

use super::identity::{RowIdentity, RowPlace};
use super::outbox::Outbox;
use super::rows::Events;
use crate::pg::compat;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_context::{Owner, UserContext};

/// Used if the table has a trigger on deletion or a rule; otherwise rows are deleted in place. It finds rows
/// by ctid, which needs no index, and compares event_id, since another row can get the ctid.
static DELETE: Statement = Statement::new(
    c"DELETE FROM outbox.events AS e USING unnest($1, $2) AS published(ctid, event_id) \
       WHERE e.ctid OPERATOR(pg_catalog.=) published.ctid AND e.event_id OPERATOR(pg_catalog.=) published.event_id",
    &[pg_sys::TIDARRAYOID, pg_sys::UUIDARRAYOID],
);

/// Locks rows before a deletion in SQL, so that they keep their places.
static LOCK: Statement = Statement::new(
    c"SELECT e.id FROM outbox.events AS e JOIN unnest($1, $2) AS published(id, event_id) \
          ON e.id OPERATOR(pg_catalog.=) published.id AND e.event_id OPERATOR(pg_catalog.=) published.event_id FOR UPDATE OF e",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID],
);

static QUEUE_USAGE: Statement = Statement::new(c"SELECT pg_catalog.pg_notification_queue_usage()", &[]);

/// Sends the notifications that the trigger `move_to_dead_letters` sends.
static NOTIFY_OF_DEAD: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify('outbox_dead_letter', \
             pg_catalog.json_build_object('event_id', d.event_id, 'topic', d.topic, 'error_class', d.error_class, \
                                          'error', pg_catalog.left(d.error, 1000))::pg_catalog.text) \
        FROM outbox.dead_letters AS d WHERE d.event_id OPERATOR(pg_catalog.=) ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);

static NOTIFY: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify(n.channel, n.payload) FROM unnest($1, $2) AS n(channel, payload)",
    &[pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID],
);

/// The triggers on the table count the attempt. A row without a next attempt is dead, and has left the table.
static REPORT_REFUSED: Statement = Statement::new(
    c"UPDATE outbox.events AS e SET last_error = refused.error, error_class = refused.class \
        FROM unnest($1, $2, $3, $4) AS refused(id, event_id, class, error) \
       WHERE e.id OPERATOR(pg_catalog.=) refused.id AND e.event_id OPERATOR(pg_catalog.=) refused.event_id RETURNING e.id, e.next_attempt_at",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID],
);

/// Locks the rows that no other session has locked.
static LOCK_FREE: Statement = Statement::new(
    c"SELECT e.id FROM outbox.events AS e JOIN unnest($1, $2) AS settled(id, event_id) \
          ON e.id OPERATOR(pg_catalog.=) settled.id AND e.event_id OPERATOR(pg_catalog.=) settled.event_id FOR UPDATE OF e SKIP LOCKED",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID],
);

/// The rows that still exist.
static PRESENT: Statement = Statement::new(
    c"SELECT e.id FROM outbox.events AS e JOIN unnest($1, $2) AS settled(id, event_id) \
          ON e.id OPERATOR(pg_catalog.=) settled.id AND e.event_id OPERATOR(pg_catalog.=) settled.event_id",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID],
);

/// Runs deferrable constraints at once: at the commit they would no longer run as the table's owner.
static DEFER_NOTHING: Statement = Statement::new(c"SET CONSTRAINTS ALL IMMEDIATE", &[]);

/// The ids of the rows that other sessions have locked. The transaction has locked all others that exist.
pub fn locked_by_others(outbox: Outbox, rows: &[RowIdentity]) -> HashSet<i64> {
    if rows.is_empty() {
        return HashSet::new();
    }
    let _owner = UserContext::confined_to(Owner::of_table(outbox.events));
    spi::connected(|| {
        let arguments = identities(rows);
        let ids_of = |statement: &Statement| -> HashSet<i64> {
            statement.execute(&arguments, Access::Write, 0).iter().filter_map(|row| row.get(1)).collect()
        };
        // In this order: a row that is unlocked in between counts as locked, and is tried again later.
        let ours = ids_of(&LOCK_FREE);
        ids_of(&PRESENT).difference(&ours).copied().collect()
    })
}

/// The number of searches for rows that move while they are being deleted.
const ROUNDS: usize = 3;

/// Deletes published events. Returns the ids of the rows that were changed after they were read: they stay,
/// because their present content has not been published. An ERROR if something else prevents the deletion of
/// a row.
#[must_use]
pub fn delete(outbox: Outbox, published: &[RowIdentity]) -> Vec<i64> {
    if published.is_empty() {
        return Vec::new();
    }
    let events = Events::open_to_delete(outbox.events);
    if !events.can_delete_in_place() {
        return delete_in_sql(outbox, &events, published);
    }
    let mut changed = Vec::new();
    let mut moved = events.delete_in_place(published);
    for _ in 0..ROUNDS {
        if moved.is_empty() {
            break;
        }
        let _latest = Snapshot::take_latest();
        let (same, other) = events.find_moved(&moved);
        changed.extend(other);
        moved = events.delete_in_place(&same);
    }
    changed.extend(moved.iter().map(|row| row.id));
    changed
}

/// Deletes rows whose events are published afterwards. An ERROR if any of them is not as it was read, or cannot be deleted.
pub fn delete_unchanged(outbox: Outbox, rows: &[RowIdentity]) {
    let events = Events::open_to_delete(outbox.events);
    let are_gone = if events.can_delete_in_place() {
        events.delete_in_place(rows).is_empty()
    } else {
        lock(outbox, rows) == rows.len() && delete_in_sql(outbox, &events, rows).is_empty()
    };
    if !are_gone {
        let text = "events have changed since they were read";
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, text);
    }
}

/// Locks these rows. Returns how many there still are.
fn lock(outbox: Outbox, rows: &[RowIdentity]) -> usize {
    as_owner(outbox, || spi::connected(|| LOCK.execute(&identities(rows), Access::Write, 0).len()))
}

fn delete_in_sql(outbox: Outbox, events: &Events, published: &[RowIdentity]) -> Vec<i64> {
    // Locked rows keep their places.
    lock(outbox, published);
    let _latest = Snapshot::take_latest();
    let (same, changed) = events.find_moved(published);
    as_owner(outbox, || {
        spi::connected(|| {
            let places = tid_array(same.iter().map(|row| row.place));
            let event_ids = uuid_array(same.iter().map(|row| row.event_id));
            DELETE.execute(&[Some(places), event_ids], Access::Write, 0);
        });
    });
    let _latest = Snapshot::take_latest();
    let (kept, altered) = events.find_moved(&same);
    if !(kept.is_empty() && altered.is_empty()) {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            "a trigger, rule or policy on outbox.events keeps the row"
        );
    }
    changed
}

/// The rows as parameters of statements that take ids and event_ids.
fn identities(rows: &[RowIdentity]) -> [Option<pg_sys::Datum>; 2] {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    [ids.into_datum(), uuid_array(rows.iter().map(|row| row.event_id))]
}

/// Runs `work` as the owner of the table, confined. The table's triggers, rules, defaults and checks then run
/// with the owner's rights instead of the relay's, which are a superuser's, and they can leave nothing behind
/// that runs later.
fn as_owner<R>(outbox: Outbox, work: impl FnOnce() -> R) -> R {
    as_owner_of(outbox.events, work)
}

/// Runs `work` as the owner of this table, confined; see [`as_owner`].
pub(super) fn as_owner_of<R>(table: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::confined_to(Owner::of_table(table));
    spi::connected(|| DEFER_NOTHING.execute(&[], Access::Write, 0));
    work()
}

/// Sends notifications to listeners.
pub fn notify(notifications: Vec<Notification>) {
    if notifications.is_empty() {
        return;
    }
    spi::connected(|| {
        let (channels, payloads): (Vec<_>, Vec<_>) =
            notifications.into_iter().map(|told| (told.channel, told.payload)).unzip();
        NOTIFY.execute(&[channels.into_datum(), payloads.into_datum()], Access::Write, 0);
    });
}

/// Frees the part of the NOTIFY queue that all listeners have read, for sessions that wait for room.
pub fn empty_notify_queue() {
    spi::connected(|| QUEUE_USAGE.execute(&[], Access::Write, 0));
}

/// Notifies listeners of the events among these that are dead letters.
pub fn notify_of_dead(event_ids: &[[u8; 16]]) {
    if !event_ids.is_empty() {
        let arguments = [uuid_array(event_ids.iter().copied())];
        let _owner = UserContext::confined_to(Owner::of(super::DEAD_LETTERS));
        spi::connected(|| NOTIFY_OF_DEAD.execute(&arguments, Access::Write, 0));
    }
}

/// An event that Kafka refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The event's row.
    pub row: RowIdentity,
    /// The event's topic.
    pub topic: Arc<str>,
    /// The class of the error.
    pub class: ErrorClass,
    /// The error's text.
    pub error: String,
}

/// The outcome of a report of refusals.
#[derive(Debug, Default)]
pub struct Noted {
    /// The events that wait for another attempt, with its time in microseconds since 1970.
    pub waiting: HashMap<i64, i64>,
    /// The events that were changed after they were read. Nothing was recorded for them, since they are other
    /// events now.
    pub changed: Vec<i64>,
}

/// Reports refusals.
#[must_use]
pub fn report_refused(outbox: Outbox, refused: &[Refusal]) -> Noted {
    if refused.is_empty() {
        return Noted::default();
    }
    let rows: Vec<RowIdentity> = refused.iter().map(|refusal| refusal.row).collect();
    let (_, changed) = outbox.events().find_moved(&rows);
    let refused: Vec<&Refusal> =
        refused.iter().filter(|refusal| !changed.contains(&refusal.row.id)).collect();
    let waiting = spi::connected(|| {
        let ids: Vec<i64> = refused.iter().map(|refusal| refusal.row.id).collect();
        let event_ids = uuid_array(refused.iter().map(|refusal| refusal.row.event_id));
        let classes: Vec<&str> = refused.iter().map(|refusal| refusal.class.as_str()).collect();
        let errors: Vec<&str> = refused.iter().map(|refusal| refusal.error.as_str()).collect();
        let arguments = [ids.into_datum(), event_ids, classes.into_datum(), errors.into_datum()];
        let rows = as_owner(outbox, || REPORT_REFUSED.execute(&arguments, Access::Write, 0));
        rows.iter()
            .filter_map(|row| Some((row.get(1)?, compat::unix_micros(row.datum(2)?.value() as i64))))
            .collect()
    });
    Noted { waiting, changed }
}

/// An array of type `uuid[]`, in the current memory context.
fn uuid_array(event_ids: impl Iterator<Item = [u8; 16]>) -> Option<pg_sys::Datum> {
    event_ids.map(pgrx::Uuid::from_bytes).collect::<Vec<_>>().into_datum()
}

/// An array of type `tid[]`, in the current memory context.
fn tid_array(places: impl Iterator<Item = RowPlace>) -> pg_sys::Datum {
    let mut tids: Vec<pg_sys::ItemPointerData> = places.map(RowPlace::tid).collect();
    let mut elements: Vec<pg_sys::Datum> =
        tids.iter_mut().map(|tid| pg_sys::Datum::from(std::ptr::from_mut(tid))).collect();
    let length = i32::try_from(elements.len()).unwrap_or(i32::MAX);
    // SAFETY: each element is a pointer to a tid of 6 bytes with an alignment of 2; all are copied.
    unsafe {
        let array = pg_sys::construct_array(
            elements.as_mut_ptr(),
            length,
            pg_sys::TIDOID,
            size_of::<pg_sys::ItemPointerData>() as i32,
            false,
            pg_sys::TYPALIGN_SHORT as std::ffi::c_char,
        );
        pg_sys::Datum::from(array)
    }
}
