//! Rules for reading: which rows to read next, and how soon.

pub mod backlog;
pub mod floor;
pub mod full_sweep;
pub mod pace;
pub mod reader;
pub mod reread;
pub mod schedule;
mod turns;
