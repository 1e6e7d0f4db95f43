//! What the relay does in SQL when it settles events. What it does for each event it does without: see [`super::rows`].
//! Runs in: the relay's main thread, in sessions that [`prepare_session`](super::outbox::prepare_session) has prepared.

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

/// Where somebody has a trigger on the deletion; else rows are deleted in place. By ctid, which needs no index; and by
/// event_id, since a ctid can come to hold another row.
static DELETE: Statement = Statement::new(
    c"DELETE FROM outbox.events AS e USING unnest($1, $2) AS published(ctid, event_id) \
       WHERE e.ctid = published.ctid AND e.event_id = published.event_id",
    &[pg_sys::TIDARRAYOID, pg_sys::UUIDARRAYOID],
);

/// For a deletion in SQL: the rows are ours then, and lie where this says.
static LOCK: Statement = Statement::new(
    c"SELECT e.id FROM outbox.events AS e JOIN unnest($1, $2) AS published(id, event_id) \
          ON e.id = published.id AND e.event_id = published.event_id FOR UPDATE OF e",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID],
);

static QUEUE_USAGE: Statement = Statement::new(c"SELECT pg_catalog.pg_notification_queue_usage()", &[]);

/// What the trigger `move_to_dead_letters` says.
static NOTIFY_OF_DEAD: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify('outbox_dead_letter', \
             pg_catalog.json_build_object('event_id', d.event_id, 'topic', d.topic, 'error_class', d.error_class, \
                                          'error', pg_catalog.left(d.error, 1000))::text) \
        FROM outbox.dead_letters AS d WHERE d.event_id = ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);

static NOTIFY: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify(n.channel, n.payload) FROM unnest($1, $2) AS n(channel, payload)",
    &[pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID],
);

/// The triggers on the table keep the books: one without a next attempt is dead, and has left the table.
static REPORT_REFUSED: Statement = Statement::new(
    c"UPDATE outbox.events AS e SET last_error = refused.error, error_class = refused.class \
        FROM unnest($1, $2, $3, $4) AS refused(id, event_id, class, error) \
       WHERE e.id = refused.id AND e.event_id = refused.event_id RETURNING e.id, e.next_attempt_at",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID],
);

/// Those of the rows that can be changed without waiting for another session. They are ours then.
static LOCK_FREE: Statement = Statement::new(
    c"SELECT e.id FROM outbox.events AS e JOIN unnest($1, $2) AS settled(id, event_id) \
          ON e.id = settled.id AND e.event_id = settled.event_id FOR UPDATE OF e SKIP LOCKED",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID],
);

/// Those that are still there.
static PRESENT: Statement = Statement::new(
    c"SELECT e.id FROM outbox.events AS e JOIN unnest($1, $2) AS settled(id, event_id) \
          ON e.id = settled.id AND e.event_id = settled.event_id",
    &[pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID],
);

/// What is deferrable is not deferred: at the commit it would no longer be the owner's.
static DEFER_NOTHING: Statement = Statement::new(c"SET CONSTRAINTS ALL IMMEDIATE", &[]);

/// The ids of those rows that other sessions have locked; the transaction has locked all others that exist.
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
        // In this order: a row that is let go in between counts as locked, and is looked at again.
        let ours = ids_of(&LOCK_FREE);
        ids_of(&PRESENT).difference(&ours).copied().collect()
    })
}

/// How often rows are looked for that move while they are deleted.
const ROUNDS: usize = 3;

/// Deletes published events. Gives the ids of those that were not, since somebody has changed them after they were read: what
/// is in them now has not been published. An ERROR if a row is kept by something else.
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

fn delete_in_sql(outbox: Outbox, events: &Events, published: &[RowIdentity]) -> Vec<i64> {
    // Once they are locked, they stay where they are.
    as_owner(outbox, || spi::connected(|| LOCK.execute(&identities(published), Access::Write, 0).len()));
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

/// As the parameters of statements that take ids and event_ids.
fn identities(rows: &[RowIdentity]) -> [Option<pg_sys::Datum>; 2] {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    [ids.into_datum(), uuid_array(rows.iter().map(|row| row.event_id))]
}

/// Does it as the owner of the table, confined: what stands on it as a trigger, rule, default or check runs with the owner's
/// rights and not with those of the relay, which is a superuser; and nothing that it leaves behind runs later.
fn as_owner<R>(outbox: Outbox, work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::confined_to(Owner::of_table(outbox.events));
    spi::connected(|| DEFER_NOTHING.execute(&[], Access::Write, 0));
    work()
}

/// Tells consumers.
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

/// Gives room in the queue of notifications to those that wait for it, as far as all have read it.
pub fn empty_notify_queue() {
    spi::connected(|| QUEUE_USAGE.execute(&[], Access::Write, 0));
}

/// Tells listeners of those of these events that are among the dead letters.
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
    /// Which.
    pub row: RowIdentity,
    /// Its topic.
    pub topic: Arc<str>,
    /// The kind of the refusal.
    pub class: ErrorClass,
    /// Why, in words.
    pub error: String,
}

/// What was noted of refused events.
#[derive(Debug, Default)]
pub struct Noted {
    /// Those that wait for another attempt, each with the time of it in microseconds since 1970.
    pub waiting: HashMap<i64, i64>,
    /// Those of which nothing was noted, since somebody has changed them after they were read: they are other events now.
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
    // SAFETY: each element points to a tid, of 6 bytes, by reference, aligned to 2; all are copied.
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
