//! The tables of the schema `inbox`.

use crate::pg::catalog::Member;
use crate::pg::snapshot::Snapshot;
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};

pub mod lane_lock;
pub mod lanes;

/// A relation of the schema `inbox`.
pub const fn member(name: &'static std::ffi::CStr) -> Member {
    Member::new(c"inbox", name)
}

/// The subscriptions.
pub const SUBSCRIPTION: Member = member(c"subscription");

/// Runs statements as the owner of the tables, confined: code of the owner that they set off has no more rights than the
/// owner. Call it in a transaction.
pub fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::confined_to(Owner::of(SUBSCRIPTION));
    let _snapshot = Snapshot::take();
    spi::connected(work)
}
