//! `outbox.status` and `outbox.relays`: what relays say of themselves.

use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::JsonB;
use pgrx::prelude::*;

use crate::outbox::relay::{metrics, registration};
use crate::outbox::table::member;
use crate::pg::backend;
use crate::pg::catalog::Member;
use crate::pg::compat;
use crate::pg::function::{Arguments, sql_function};
use crate::worker::slot::Slot;

sql_function!(outbox_relay_status, pg_finfo_outbox_relay_status, relay_status);

/// The columns that there have been since the first version: what that one declares gets these alone.
const FIRST_COLUMNS: usize = 14;
const COLUMNS: usize = FIRST_COLUMNS + 10;

/// The columns of `outbox.relay_status(database)`, in the order of its declaration. Without an argument, as the first
/// version declares it, it is about this database.
fn relay_status(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let here = backend::database();
    let database = if arguments.count() == 0 { here } else { arguments.oid(0)? };
    require_select(member(if database == here { c"status" } else { c"relays" }));
    let mut columns = [None; COLUMNS];
    columns[1] = "absent".into_datum();
    if let Some(slot) = registration::slot_of(database) {
        describe_life(slot, &mut columns);
        describe_metrics(slot, &mut columns);
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

/// A function in a view is called with the rights of the view's reader; so whoever may read the view may
/// call this, and nobody else.
fn require_select(view: Member) {
    // SAFETY: the checks that Postgres itself makes of a view's reader; a relation that there is not is refused.
    unsafe {
        let result = pg_sys::pg_class_aclcheck(view.oid(), backend::user(), compat::ACL_SELECT);
        if result != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_VIEW, view.name().as_ptr());
        }
    }
}

/// Microseconds since 1970 as a timestamp; 0 is never.
fn time(micros: i64) -> Option<pg_sys::Datum> {
    (micros != 0).then(|| pg_sys::Datum::from(compat::pg_timestamp(micros)))
}

/// The columns as one row of the function's declared result, as many as that has.
fn row(arguments: &Arguments, columns: &[Option<pg_sys::Datum>]) -> Option<pg_sys::Datum> {
    let mut values: Vec<_> =
        columns.iter().map(|column| column.unwrap_or(pg_sys::Datum::from(0_usize))).collect();
    let mut nulls: Vec<_> = columns.iter().map(Option::is_none).collect();
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the call is alive; the declared result has at most as many columns, of these types.
    unsafe {
        let class = pg_sys::get_call_result_type(arguments.call(), std::ptr::null_mut(), &mut descriptor);
        if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE
            || usize::try_from((*descriptor).natts).is_ok_and(|natts| natts > columns.len())
        {
            error!("the status is a row of up to {} columns", columns.len());
        }
        pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
    }
}
