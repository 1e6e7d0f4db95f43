//! The tables of the schema `inbox`.

use crate::pg::catalog::Member;

pub mod lane_lock;

/// A relation of the schema `inbox`.
pub const fn member(name: &'static std::ffi::CStr) -> Member {
    Member::new(c"inbox", name)
}

/// The subscriptions.
pub const SUBSCRIPTION: Member = member(c"subscription");
