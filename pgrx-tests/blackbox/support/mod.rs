//! Helpers that tests share: databases, servers, brokers, events, roles, and views of a relay.

pub mod broker;
pub mod captures;
pub mod database;
pub mod dead_letters;
pub mod dump;
pub mod events;
pub mod inbox;
pub mod inbox_log;
pub mod ledger;
pub mod relay;
pub mod roles;
pub mod schemas;
pub mod server;
pub mod streams;
pub mod subscriptions;
pub mod topic_grants;
