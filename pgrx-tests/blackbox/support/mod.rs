//! What tests share: databases, servers and brokers, and views of a relay.

pub mod broker;
pub mod database;
pub mod ledger;
pub mod relay;
pub mod server;
