//! Captures: a table's changes become events. The definition of a capture, its templates, and which events a change makes.

pub mod change;
pub mod definition;
pub mod template;
