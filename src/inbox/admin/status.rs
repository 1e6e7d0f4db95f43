//! `inbox.consumers`: what the ingest workers say of themselves.
//!
//! Runs in: client backends.

use std::sync::atomic::Ordering;

use pgrx::prelude::*;

use crate::inbox::ingest::{metrics, registration};
use crate::inbox::table::member;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::status_row::{require_select, row, time};

sql_function!(inbox_consumer_status, pg_finfo_inbox_consumer_status, consumer_status);

/// The columns of `inbox.consumer_status(database)`, in the order of its declaration.
fn consumer_status(arguments: &Arguments) -> Option<pg_sys::Datum> {
    require_select(member(c"consumers"));
    let mut columns = [None; 13];
    columns[1] = "absent".into_datum();
    if let Some(slot) = registration::slot_of(arguments.oid(0)?) {
        let metrics = metrics::of(slot);
        let pid = slot.pid.load(Ordering::Relaxed);
        if pid != 0 {
            let ((state, since), (connection, connected_since)) = (metrics.state(), metrics.connection());
            columns[..5].copy_from_slice(&[
                pid.into_datum(),
                state.word().into_datum(),
                time(since),
                connection.word().into_datum(),
                time(connected_since),
            ]);
        } else if let Some(word) = slot.phase().word_of_rest() {
            columns[1] = word.into_datum();
            columns[2] = time(slot.phase_since());
        }
        let error = slot.error();
        columns[5] = error.as_ref().and_then(|(text, _)| text.as_str().into_datum());
        columns[6] = error.as_ref().and_then(|(_, at)| time(*at));
        columns[7] = error.and_then(|_| time(slot.recovered_at()));
        columns[8..].copy_from_slice(&[
            metrics.stored.load(Ordering::Relaxed).into_datum(),
            metrics.rate(crate::pg::now()).into_datum(),
            metrics.batches.load(Ordering::Relaxed).into_datum(),
            time(metrics.last_stored_at.load(Ordering::Relaxed)),
            metrics.failures.load(Ordering::Relaxed).into_datum(),
        ]);
    }
    row(arguments, &columns)
}
