//! Tests the event store: its cursor against a simulated PostgreSQL, whose transactions may act between any two steps of a
//! sweep, and what an append decides against a model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod appends;
mod postgres;
mod schedule;
mod sweeper;
mod takes_every_event;
