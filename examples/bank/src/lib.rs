//! The example of event_outbox: a small bank as four modules.
//!
//! The patterns are in the SQL files: `sql/account.sql`, `sql/transactions.sql` and `sql/reactor.sql`. This crate starts
//! the servers ([`stage`]), asks the databases ([`bank`], [`reactor`], [`operations`]), puts together the way of each
//! event ([`journeys`]) and shows it all ([`web`]).

pub mod bank;
pub mod database;
pub mod journeys;
pub mod live;
pub mod operations;
pub mod reactor;
pub mod stage;
pub mod web;
