//! The tables of the schema `inbox`.

use event_outbox_policy::inbox::retention;
use pgrx::pg_sys;

use crate::pg::bulk_insert::Column;
use crate::pg::catalog::Member;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};

pub mod direct;
pub mod lane_lock;
pub mod lanes;
pub mod rebuilds;

/// A relation of the schema `inbox`.
pub const fn member(name: &'static std::ffi::CStr) -> Member {
    Member::new(c"inbox", name)
}

/// The subscriptions.
pub const SUBSCRIPTION: Member = member(c"subscription");

/// The segments of the log.
pub const LOG: [Member; retention::SEGMENTS] = [
    member(c"log_0"),
    member(c"log_1"),
    member(c"log_2"),
    member(c"log_3"),
    member(c"log_4"),
    member(c"log_5"),
    member(c"log_6"),
    member(c"log_7"),
];

/// Their columns.
pub const LOG_COLUMNS: [Column; 9] = [
    (c"source_id", pg_sys::INT4OID, false),
    (c"lane", pg_sys::INT2OID, false),
    (c"position", pg_sys::INT8OID, false),
    (c"partition", pg_sys::INT4OID, false),
    (c"offset", pg_sys::INT8OID, false),
    (c"produced_at", pg_sys::TIMESTAMPTZOID, true),
    (c"key", pg_sys::BYTEAOID, true),
    (c"value", pg_sys::BYTEAOID, true),
    (c"headers", pg_sys::BYTEAOID, true),
];

/// Runs statements as the owner of the tables, confined: code of the owner that they set off has no more rights than the
/// owner. Call it in a transaction.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::confined_to(Owner::of(SUBSCRIPTION));
    let _snapshot = Snapshot::take();
    spi::connected(work)
}
