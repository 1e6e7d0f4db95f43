//! Owns the settings that the inbox's worker works with, and the snapshot of them that it takes.
//!
//! Runs in: the postmaster, which defines them; the worker's main thread takes the snapshot.

use std::time::Duration;

use event_outbox_policy::kafka::consumer::ConsumerConfig;
use pgrx::{GucFlags, GucSetting};

use super::{Guc, kafka, relay, secret, size};

// As much as a relay may use.
static CONSUMER_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(64);

const MEBIBYTE: usize = 1024 * 1024;

pub(super) fn init() {
    Guc::new(
        c"event_outbox.consumer_memory",
        c"Memory that the inbox's worker may use for records of Kafka.",
        c"It is shared by the subscriptions of a database. A single record is read whatever its size.",
    )
    .integer(&CONSUMER_MEMORY, 8..=65_536, GucFlags::UNIT_MB);
}

/// The settings that the worker works with until it reads them again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether to read at all.
    pub enabled: bool,
    /// How to reach Kafka. The memory is that of all consumers together.
    pub consumer: ConsumerConfig,
    /// Whether sessions are notified of events.
    pub notifies: bool,
    /// How long a stopping worker waits.
    pub shutdown_timeout: Duration,
}

impl Settings {
    /// Reads the current settings of this process.
    #[must_use]
    pub fn read() -> Self {
        Self {
            enabled: relay::enabled(),
            consumer: ConsumerConfig {
                bootstrap_servers: kafka::bootstrap_servers(),
                properties: secret::value(),
                properties_file: kafka::properties_file(),
                memory: size(&CONSUMER_MEMORY) * MEBIBYTE,
            },
            notifies: relay::notifies(),
            shutdown_timeout: relay::shutdown_timeout(),
        }
    }
}
