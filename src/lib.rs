//! event_outbox: the transactional outbox that lives inside PostgreSQL.
//!
//! An event's way: [`outbox::emit`] stores it, [`worker::at_commit`] wakes the relay when the transaction commits,
//! [`outbox::relay`] reads it and hands it to [`kafka::producer`], which publishes it; [`outbox::relay`] settles what Kafka
//! reported. [`pg`] and [`kafka`] are libraries; policy lives in the crate `event_outbox_policy`, apart from both.

#![deny(unsafe_op_in_unsafe_fn)]

use pgrx::prelude::*;

mod failpoints;
pub mod kafka;
pub mod outbox;
pub mod pg;
pub mod settings;
pub mod worker;

#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
mod pg_tests;
#[cfg(test)]
pub use pg_tests::pg_test;

pgrx::pg_module_magic!();

// One after the other: where the order is open, cargo-pgrx writes the script now so, now so.
extension_sql_file!("../sql/outbox/schema.sql", name = "schema");
extension_sql_file!("../sql/outbox/functions.sql", name = "functions", requires = ["schema"]);
extension_sql_file!("../sql/outbox/events.sql", name = "events", requires = ["functions"]);
extension_sql_file!("../sql/outbox/triggers.sql", name = "triggers", requires = ["events"]);
extension_sql_file!("../sql/outbox/topic_grants.sql", name = "topic_grants", requires = ["triggers"]);
extension_sql_file!("../sql/outbox/emit.sql", name = "emit", requires = ["topic_grants"]);
extension_sql_file!("../sql/outbox/dead_letters.sql", name = "dead_letters", requires = ["emit"]);
extension_sql_file!("../sql/outbox/intake.sql", name = "intake", requires = ["dead_letters"]);
extension_sql_file!("../sql/outbox/views.sql", name = "views", requires = ["intake"]);
extension_sql_file!("../sql/outbox/control.sql", name = "control", requires = ["views"]);
extension_sql_file!("../sql/outbox/topics.sql", name = "topics", requires = ["control"]);
extension_sql_file!("../sql/outbox/check.sql", name = "check", requires = ["topics"]);
extension_sql_file!("../sql/outbox/grants.sql", name = "grants", requires = ["check"], finalize);

/// Called when a process loads the library: by the postmaster, once, if it is preloaded.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::require_preloading();
    settings::init();
    worker::slots::init();
    worker::admin_request::init();
    worker::at_commit::init();
    pg::watch::init();
    worker::lifecycle::init();
    // While pg_upgrade works, nobody else is to publish or delete.
    if !pg::is_binary_upgrade() {
        worker::launcher::init();
    }
}
