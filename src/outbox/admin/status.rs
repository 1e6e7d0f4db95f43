//! Owns the function behind `outbox.status` and `outbox.relays`, which shows the state of relays.
//!
//! Runs in: client backends.

use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::JsonB;
use pgrx::prelude::*;

use crate::outbox::relay::{metrics, registration};
use crate::outbox::table::member;
use crate::pg::backend;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::status_row::{require_select, row, time};
use crate::worker::slot::Slot;

sql_function!(outbox_relay_status, pg_finfo_outbox_relay_status, relay_status);

sql_function!(outbox_relay_delivery, pg_finfo_outbox_relay_delivery, relay_delivery);

/// The number of columns in the first version, which its declaration of the function still has.
const FIRST_COLUMNS: usize = 14;
const COLUMNS: usize = FIRST_COLUMNS + 10;

/// The columns of `outbox.relay_status(database)`, in the order of its declaration. The first version
/// declares it without an argument: then it shows this database.
fn relay_status(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let database = if arguments.count() == 0 { backend::database() } else { arguments.oid(0)? };
    require_select_of(database);
    let mut columns = [None; COLUMNS];
    columns[1] = "absent".into_datum();
    if let Some(slot) = registration::slot_of(database) {
        describe_life(slot, &mut columns);
        describe_metrics(slot, &mut columns);
    }
    row(arguments, &columns)
}

fn require_select_of(database: pg_sys::Oid) {
    require_select(member(if database == backend::database() { c"status" } else { c"relays" }));
}

/// The columns of `outbox.relay_delivery(database)`: what `outbox.status` shows beside those of `relay_status`,
/// whose declaration an update cannot change.
fn relay_delivery(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let database = arguments.oid(0)?;
    require_select_of(database);
    let mut columns = [None; 2];
    if let Some(slot) = registration::slot_of(database) {
        let metrics = metrics::of(slot);
        if slot.pid.load(Ordering::Relaxed) != 0 {
            columns[0] = metrics.delivery.load().as_str().into_datum();
        }
        columns[1] = metrics.given_up.load(Ordering::Relaxed).into_datum();
    }
    row(arguments, &columns)
}

fn describe_life(slot: &Slot, columns: &mut [Option<pg_sys::Datum>; COLUMNS]) {
    let pid = slot.pid.load(Ordering::Relaxed);
    if pid != 0 {
        let (state, state_since) = metrics::of(slot).state();
        let (connection, connection_since) = metrics::of(slot).connection();
        columns[..5].copy_from_slice(&[
            pid.into_datum(),
            state.word().into_datum(),
            time(state_since),
            connection.word().into_datum(),
            time(connection_since),
        ]);
    } else if let Some(word) = slot.phase().word_of_rest() {
        columns[1] = word.into_datum();
        columns[2] = time(slot.phase_since());
    }
    let error = slot.error();
    columns[5] = error.as_ref().and_then(|(text, _)| text.as_str().into_datum());
    columns[6] = error.as_ref().and_then(|(_, at)| time(*at));
    columns[COLUMNS - 1] = error.and_then(|_| time(slot.recovered_at()));
}

fn describe_metrics(slot: &Slot, columns: &mut [Option<pg_sys::Datum>; COLUMNS]) {
    let metrics = metrics::of(slot);
    let total = |counter: &std::sync::atomic::AtomicI64| counter.load(Ordering::Relaxed).into_datum();
    let count =
        |count: &AtomicUsize| i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX).into_datum();
    columns[7..FIRST_COLUMNS].copy_from_slice(&[
        total(&metrics.published),
        total(&metrics.refused),
        count(&metrics.in_flight),
        time(metrics.oldest_event_at.load(Ordering::Relaxed)),
        time(metrics.last_publish_at.load(Ordering::Relaxed)),
        total(&metrics.sweeps),
        total(&metrics.wakeups),
    ]);
    let kafka = metrics.kafka.get();
    let millis = |micros: i64| micros as f64 / 1000.0;
    let error_counts =
        metrics.error_counts().map(|(kind, count)| (kind.as_str().to_owned(), count.into())).collect();
    columns[FIRST_COLUMNS..COLUMNS - 1].copy_from_slice(&[
        count(&metrics.max_in_flight),
        count(&metrics.waiting_retries),
        count(&metrics.blocked_keys),
        metrics.publish_rate(crate::pg::now()).into_datum(),
        JsonB(serde_json::Value::Object(error_counts)).into_datum(),
        kafka.and_then(|told| millis(told.round_trip).into_datum()),
        kafka.and_then(|told| millis(told.round_trip_p99).into_datum()),
        kafka.and_then(|told| told.queued.into_datum()),
        kafka.and_then(|told| told.requests.into_datum()),
    ]);
}
