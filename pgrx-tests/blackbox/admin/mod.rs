//! What an operator sets, asks for and watches.

mod metrics;
mod operation;
mod requests;
mod settings;
mod views;
