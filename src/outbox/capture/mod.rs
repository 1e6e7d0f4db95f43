//! Owns captures: triggers on users' tables that turn changes into events.
//!
//! The definition of a capture lies in the arguments of its triggers, and nowhere else: what copies, restores or drops a
//! table takes the capture along. [`functions`] makes the triggers, `trigger` is what they call, [`rename`] keeps the
//! definition true when a column is renamed.
//!
//! Runs in: client backends, and workers that write to captured tables.

mod cache;
mod event;
pub mod functions;
pub mod rename;
mod request;
mod row;
mod snapshot;
mod statement;
mod table;
mod trigger;
mod writer;
