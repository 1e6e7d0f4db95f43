//! The torture test.
pub mod checker;
pub mod evidence;
pub mod journal;
pub mod random;
pub mod topics;
