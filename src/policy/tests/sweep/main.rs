//! Tests the floor against a simulated PostgreSQL, whose transactions may act between any two steps of the relay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod finders;
mod finds_every_row;
mod postgres;
mod relay;
mod schedule;
mod stays_cheap;
