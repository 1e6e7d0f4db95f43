//! Rules for any background worker: rate limits, log throttling, turns, version checks, the watchdog.

pub mod log_throttle;
pub mod rate_limit;
pub mod turns;
pub mod version;
pub mod watchdog;
