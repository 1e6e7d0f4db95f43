//! The clock of records, settlements and faults: that of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use super::journal::Millis;

/// Now, in milliseconds since 1970.
pub fn now() -> Millis {
    // A clock before 1970 makes all times equal, so that every check of them fails.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as Millis)
}
