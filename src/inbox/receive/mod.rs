//! Receiving: sessions take events of the log, in their own transactions.

pub mod failures;

/// Requests the shared memory, and registers for the ends of transactions; in the postmaster.
pub fn init() {
    failures::init();
}
