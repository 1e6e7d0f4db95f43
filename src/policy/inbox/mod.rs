//! What a subscription receives, in which order, and what becomes of events that fail.

pub mod charge;
pub mod lane;
pub mod lanes;
pub mod plan;
pub mod records;
pub mod topics;
