//! What an operator sets, asks for and watches.

mod errands;
mod metrics;
mod operation;
mod settings;
mod views;
