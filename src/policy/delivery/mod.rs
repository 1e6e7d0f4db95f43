//! Rules for an event between its reading and its settlement.

pub mod apart;
pub mod attempts;
pub mod backlog_limit;
pub mod bisection;
pub mod candidate;
pub mod claims;
pub mod error_class;
pub mod expiry;
pub mod id_ring;
pub mod in_flight;
pub mod lanes;
pub mod marker;
pub mod mode;
pub mod notify;
pub mod outcome;
pub mod topic_ramp;
pub mod transaction;
pub mod window;
