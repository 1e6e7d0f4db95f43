//! What a projection makes of a topic's records: which row of its table each one is about, and what becomes of that row.
//!
//! [`latest`] keeps the last record of each key while records are read. [`source`] is where a column's value comes from, [`mapping`]
//! makes a change of a record, [`reduction`] leaves the last change of each row, and [`narrowing`] finds the records that a table
//! refuses.

pub mod latest;
pub mod mapping;
pub mod members;
pub mod narrowing;
pub mod reduction;
pub mod source;
