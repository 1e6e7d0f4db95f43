//! What users ask of the inbox besides receiving: to subscribe, to pause, to seek.
//!
//! Runs in: client backends.

pub mod for_caller;
pub mod lane_locks;
pub mod status;
