//! `outbox.status`: what this database's relay says of itself.

use std::sync::atomic::Ordering;

use pgrx::prelude::*;

use super::compat;
use super::functions::{Arguments, sql_function};
use super::shared;

sql_function!(outbox_relay_status, pg_finfo_outbox_relay_status, relay_status);

/// The columns of `outbox.relay_status()`, in the order of its declaration.
fn relay_status(arguments: &Arguments) -> Option<pg_sys::Datum> {
    require_select();
    // SAFETY: a plain global of this process.
    let slot = shared::roster().find(unsafe { pg_sys::MyDatabaseId });
    let mut columns = [None; 14];
    columns[1] = "absent".into_datum();
    if let Some(slot) = slot {
        let pid = slot.pid.load(Ordering::Relaxed);
        let (state, state_since) = slot.state();
        let (connection, connection_since) = slot.connection();
        let error = slot.error();
        let count = |counter: &std::sync::atomic::AtomicI64| counter.load(Ordering::Relaxed).into_datum();
        if pid != 0 {
            columns[..5].copy_from_slice(&[
                pid.into_datum(),
                state.word().into_datum(),
                time(state_since),
                connection.word().into_datum(),
                time(connection_since),
            ]);
        }
        columns[5..].copy_from_slice(&[
            error.as_ref().and_then(|(text, _)| text.as_str().into_datum()),
            error.as_ref().and_then(|(_, at)| time(*at)),
            count(&slot.published),
            count(&slot.refused),
            i64::try_from(slot.in_flight.load(Ordering::Relaxed)).unwrap_or(i64::MAX).into_datum(),
            time(slot.oldest_event_at.load(Ordering::Relaxed)),
            time(slot.last_publish_at.load(Ordering::Relaxed)),
            count(&slot.sweeps),
            count(&slot.wakeups),
        ]);
    }
    row(arguments, &columns)
}

/// A function in a view is called with the rights of the view's reader; so whoever may read the view may
/// call this, and nobody else.
fn require_select() {
    // SAFETY: look-ups by C strings and the checks that Postgres itself makes of a view's reader.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"outbox".as_ptr(), true);
        let view = pg_sys::get_relname_relid(c"status".as_ptr(), schema);
        let result = pg_sys::pg_class_aclcheck(view, pg_sys::GetUserId(), compat::ACL_SELECT);
        if result != pg_sys::AclResult::ACLCHECK_OK {
            pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_VIEW, c"status".as_ptr());
        }
    }
}

/// Microseconds since 1970 as a timestamp; 0 is never.
fn time(micros: i64) -> Option<pg_sys::Datum> {
    (micros != 0).then(|| pg_sys::Datum::from(compat::pg_timestamp(micros)))
}

/// The columns as one row of the function's declared result.
fn row(arguments: &Arguments, columns: &[Option<pg_sys::Datum>]) -> Option<pg_sys::Datum> {
    let mut values: Vec<_> =
        columns.iter().map(|column| column.unwrap_or(pg_sys::Datum::from(0_usize))).collect();
    let mut nulls: Vec<_> = columns.iter().map(Option::is_none).collect();
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the call is alive; the declared result has as many columns, of these types.
    unsafe {
        let class = pg_sys::get_call_result_type(arguments.call(), std::ptr::null_mut(), &mut descriptor);
        if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
            error!("the status is a row");
        }
        pg_sys::BlessTupleDesc(descriptor);
        let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
    }
}
