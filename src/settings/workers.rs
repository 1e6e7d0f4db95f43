//! Owns the setting for how many background workers the server makes room for.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use super::size;

// A worker's slot takes some two kilobytes, so room for more databases than most servers have costs nothing.
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(64);

pub(super) fn init() {
    GucRegistry::define_int_guc(
        c"event_outbox.max_workers",
        c"Background workers of the extension, at most: one for each database that has it.",
        c"Each of them also takes one of max_worker_processes. The events of further databases wait.",
        &MAX_WORKERS,
        1,
        10_000,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

/// The maximum number of workers in the server. It does not change while the server runs.
pub fn max_workers() -> usize {
    size(&MAX_WORKERS)
}
