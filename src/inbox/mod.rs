//! The inbox: a worker stores Kafka's events in the database, and sessions receive them in their own transactions.
//!
//! [`admin`] are the functions by which users set up what they receive, [`table`] is what all know of the tables.

pub mod admin;
pub mod table;
