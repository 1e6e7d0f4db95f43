//! What the database knows of a Schema Registry: which schemas it has registered, and which it was asked for.
//!
//! The tables are in `sql/schemas/registry.sql`. A relay asks the registry and writes them; sessions read them, and tell the
//! relay which schemas they want.
//!
//! Runs in: client backends, and a relay's main thread.

pub mod fetches;
pub mod functions;
pub mod registrations;
pub mod wanted;

use crate::pg::catalog::Member;
use crate::pg::spi;
use crate::pg::user_context::{Owner, UserContext};

/// What registries have said of the versions of subjects.
pub const REGISTRATION: Member = Member::new(c"outbox", c"schema_registration");

/// Runs statements as the owner of the tables, confined: code of the owner that they set off has no more rights than the
/// owner. Call it in a transaction, with a snapshot.
fn as_owner<R>(work: impl FnOnce() -> R) -> R {
    let _owner = UserContext::confined_to(Owner::of(REGISTRATION));
    spi::connected(work)
}

/// Requests the shared memory.
pub fn init() {
    wanted::init();
    functions::init();
}
