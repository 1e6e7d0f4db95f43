//! The time, as records, settlements and faults tell it: all by this machine's clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::journal::Millis;

/// Now, in milliseconds since 1970.
pub fn now() -> Millis {
    // A clock before 1970 makes all times equal, and every check of them fail.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as Millis)
}
