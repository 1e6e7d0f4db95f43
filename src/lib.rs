//! event_outbox: a transactional outbox inside PostgreSQL.
//!
//! The path of an event: [`outbox::emit`] stores it, [`worker::at_commit`] wakes the relay when the
//! transaction commits, [`outbox::relay`] reads it and hands it to [`kafka::producer`], which publishes it;
//! [`outbox::relay`] settles what Kafka reported. [`pg`] and [`kafka`] are libraries; policy lives in the
//! crate `event_outbox_policy`, apart from both.

#![deny(unsafe_op_in_unsafe_fn)]

use inbox::ingest::registration::INGEST;
use outbox::relay::registration::RELAY;
use pg::utility_hook::Observer;
use pgrx::prelude::*;
use worker::registration::Registration;

mod failpoints;
pub mod inbox;
pub mod kafka;
pub mod outbox;
pub mod pg;
pub mod registry;
pub mod schemas;
pub mod settings;
pub mod store;
#[cfg(feature = "failpoints")]
mod test_worker;
pub mod worker;

#[cfg(any(test, feature = "pg_test"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
mod pg_tests;
#[cfg(test)]
pub use pg_tests::pg_test;

pgrx::pg_module_magic!();

// Each file requires the one before it, because cargo-pgrx does not write files without a defined order in a
// stable one.
extension_sql_file!("../sql/outbox/schema.sql", name = "schema");
extension_sql_file!("../sql/outbox/functions.sql", name = "functions", requires = ["schema"]);
extension_sql_file!("../sql/outbox/events.sql", name = "events", requires = ["functions"]);
extension_sql_file!("../sql/outbox/triggers.sql", name = "triggers", requires = ["events"]);
extension_sql_file!("../sql/outbox/topic_grants.sql", name = "topic_grants", requires = ["triggers"]);
extension_sql_file!("../sql/outbox/sequences.sql", name = "sequences", requires = ["topic_grants"]);
extension_sql_file!("../sql/outbox/idempotency.sql", name = "idempotency", requires = ["sequences"]);
extension_sql_file!("../sql/outbox/emit.sql", name = "emit", requires = ["idempotency"]);
extension_sql_file!("../sql/outbox/capture.sql", name = "capture", requires = ["emit"]);
extension_sql_file!("../sql/outbox/dead_letter_log.sql", name = "dead_letter_log", requires = ["capture"]);
extension_sql_file!("../sql/outbox/dead_letters.sql", name = "dead_letters", requires = ["dead_letter_log"]);
extension_sql_file!("../sql/outbox/archive.sql", name = "archive", requires = ["dead_letters"]);
extension_sql_file!("../sql/outbox/delivery.sql", name = "delivery", requires = ["archive"]);
extension_sql_file!("../sql/outbox/intake.sql", name = "intake", requires = ["delivery"]);
extension_sql_file!("../sql/outbox/views.sql", name = "views", requires = ["intake"]);
extension_sql_file!("../sql/outbox/control.sql", name = "control", requires = ["views"]);
extension_sql_file!("../sql/outbox/scheduled.sql", name = "scheduled", requires = ["control"]);
extension_sql_file!("../sql/outbox/topics.sql", name = "topics", requires = ["scheduled"]);
extension_sql_file!(
    "../sql/outbox/check_progress_topic.sql",
    name = "check_progress_topic",
    requires = ["topics"]
);
extension_sql_file!("../sql/outbox/check.sql", name = "check", requires = ["check_progress_topic"]);
extension_sql_file!("../sql/outbox/lint.sql", name = "lint", requires = ["check"]);
extension_sql_file!("../sql/schemas/tables.sql", name = "schema_tables", requires = ["lint"]);
extension_sql_file!("../sql/schemas/registry.sql", name = "schema_registry", requires = ["schema_tables"]);
extension_sql_file!(
    "../sql/schemas/functions.sql",
    name = "schema_functions",
    requires = ["schema_registry"]
);
extension_sql_file!("../sql/schemas/views.sql", name = "schema_views", requires = ["schema_functions"]);
extension_sql_file!("../sql/store/tables.sql", name = "store_tables", requires = ["schema_views"]);
extension_sql_file!("../sql/store/writers.sql", name = "store_writers", requires = ["store_tables"]);
extension_sql_file!("../sql/store/rights.sql", name = "store_rights", requires = ["store_writers"]);
extension_sql_file!("../sql/store/append.sql", name = "store_append", requires = ["store_rights"]);
extension_sql_file!("../sql/store/read.sql", name = "store_read", requires = ["store_append"]);
extension_sql_file!("../sql/store/snapshots.sql", name = "store_snapshots", requires = ["store_read"]);
extension_sql_file!("../sql/store/views.sql", name = "store_views", requires = ["store_snapshots"]);
extension_sql_file!("../sql/inbox/tables.sql", name = "inbox_tables", requires = ["store_views"]);
extension_sql_file!("../sql/inbox/changed.sql", name = "inbox_changed", requires = ["inbox_tables"]);
extension_sql_file!("../sql/inbox/rights.sql", name = "inbox_rights", requires = ["inbox_changed"]);
extension_sql_file!("../sql/inbox/starts.sql", name = "inbox_starts", requires = ["inbox_rights"]);
extension_sql_file!(
    "../sql/inbox/subscriptions.sql",
    name = "inbox_subscriptions",
    requires = ["inbox_starts"]
);
extension_sql_file!("../sql/inbox/seeks.sql", name = "inbox_seeks", requires = ["inbox_subscriptions"]);
extension_sql_file!(
    "../sql/inbox/subscription_grants.sql",
    name = "inbox_subscription_grants",
    requires = ["inbox_seeks"]
);
extension_sql_file!(
    "../sql/inbox/dead_letters.sql",
    name = "inbox_dead_letters",
    requires = ["inbox_subscription_grants"]
);
extension_sql_file!(
    "../sql/inbox/consumers.sql",
    name = "inbox_consumers",
    requires = ["inbox_dead_letters"]
);
extension_sql_file!("../sql/inbox/views.sql", name = "inbox_views", requires = ["inbox_consumers"]);
extension_sql_file!("../sql/inbox/check.sql", name = "inbox_check", requires = ["inbox_views"]);
extension_sql_file!("../sql/inbox/receive.sql", name = "inbox_receive", requires = ["inbox_check"]);
extension_sql_file!("../sql/inbox/handlers.sql", name = "inbox_handlers", requires = ["inbox_receive"]);
extension_sql_file!(
    "../sql/inbox/projections.sql",
    name = "inbox_projections",
    requires = ["inbox_handlers"]
);
extension_sql_file!("../sql/inbox/rebuilds.sql", name = "inbox_rebuilds", requires = ["inbox_projections"]);
extension_sql_file!(
    "../sql/inbox/projection_views.sql",
    name = "inbox_projection_views",
    requires = ["inbox_rebuilds"]
);
extension_sql_file!("../sql/inbox/peek.sql", name = "inbox_peek", requires = ["inbox_projection_views"]);
extension_sql_file!("../sql/store/subscribe.sql", name = "store_subscribe", requires = ["inbox_peek"]);
extension_sql_file!("../sql/outbox/grants.sql", name = "grants", requires = ["store_subscribe"], finalize);

/// The observers of utility commands, in the order in which they are called.
static OBSERVERS: [&dyn Observer; 3] =
    [&worker::lifecycle::OBSERVER, &outbox::capture::rename::OBSERVER, &inbox::receive::wake::OBSERVER];

/// The kinds of workers. The last one is only in builds for tests.
static WORKERS: &[&Registration] = &[
    &RELAY,
    &INGEST,
    #[cfg(feature = "failpoints")]
    &test_worker::TEST_WORKER,
];

fn workers() -> &'static [&'static Registration] {
    #[cfg(feature = "failpoints")]
    if !test_worker::is_on() {
        return &WORKERS[..2];
    }
    WORKERS
}

/// Called when a process loads the library: by the postmaster, once, if it is preloaded.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::require_preloading();
    settings::init();
    pg::watch::init(
        outbox::table::WATCHES
            .into_iter()
            .chain(schemas::watches())
            .chain(inbox::watches())
            .chain(store::watches()),
    );
    pg::utility_hook::init(&OBSERVERS);
    schemas::registry::init();
    outbox::init();
    inbox::init();
    store::init(inbox::ingest::registration::wake_for_events);
    worker::init(workers());
}
