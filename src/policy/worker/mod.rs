//! How a worker holds back, notices that nothing moves, and knows whether it fits what it finds.

pub mod allowance;
pub mod repeats;
pub mod version;
pub mod watchdog;
