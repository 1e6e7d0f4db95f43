//! What a producer is made from.

use std::fmt;
use std::path::PathBuf;

use crate::event::envelope::Envelope;

/// The way to Kafka, and what goes along it. Two that are equal make the same producer, but for the contents of
/// the file.
#[derive(Clone, PartialEq, Eq)]
pub struct ProducerConfig {
    /// Brokers to start from, `host:port,…`.
    pub bootstrap_servers: String,
    /// Properties, as in the setting; may hold secrets.
    pub properties: String,
    /// A file of more, whose entries come last and so win.
    pub properties_file: Option<PathBuf>,
    /// What is written around each event.
    pub envelope: Envelope,
    /// Whether the order of a topic and key matters, so that a gap must stop the producer.
    pub ordered: bool,
    /// Whether Kafka may create a topic because an event names it.
    pub auto_create_topics: bool,
    /// Messages that the producer must be able to hold.
    pub max_in_flight: usize,
}

impl fmt::Debug for ProducerConfig {
    /// Shows no property: they may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties_file", &self.properties_file)
            .field("envelope", &self.envelope)
            .field("ordered", &self.ordered)
            .field("auto_create_topics", &self.auto_create_topics)
            .field("max_in_flight", &self.max_in_flight)
            .finish_non_exhaustive()
    }
}
