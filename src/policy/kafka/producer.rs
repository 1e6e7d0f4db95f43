//! Owns the settings of a producer.

use std::fmt;
use std::path::PathBuf;

use crate::delivery::mode::DeliveryMode;
use crate::event::envelope::Envelope;

/// The settings from which a producer is created. Equal settings create equal producers, unless the contents of the
/// properties file have changed.
#[derive(Clone, PartialEq, Eq)]
pub struct ProducerConfig {
    /// The bootstrap servers, `host:port,…`.
    pub bootstrap_servers: String,
    /// Properties in the form of the setting. They may contain secrets.
    pub properties: String,
    /// A file of further properties. They come last, so they override the others.
    pub properties_file: Option<PathBuf>,
    /// The envelope of each event.
    pub envelope: Envelope,
    /// How events are delivered.
    pub delivery: DeliveryMode,
    /// Whether the order of a topic and key must be kept. If so, a gap stops the producer.
    pub ordered: bool,
    /// Whether Kafka may create the topic of an event.
    pub auto_create_topics: bool,
    /// How many messages the producer must be able to hold.
    pub max_in_flight: usize,
    /// The topic of the markers of delivery exactly once.
    pub progress_topic: String,
}

impl ProducerConfig {
    /// Whether a topic that is new to the producer starts in groups. A transaction keeps order by itself: with a refused event
    /// nothing of it is published.
    #[must_use]
    pub fn starts_in_groups(&self) -> bool {
        self.ordered && self.delivery != DeliveryMode::ExactlyOnce
    }
}

impl fmt::Debug for ProducerConfig {
    /// Leaves out the properties, because they may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties_file", &self.properties_file)
            .field("envelope", &self.envelope)
            .field("delivery", &self.delivery)
            .field("ordered", &self.ordered)
            .field("auto_create_topics", &self.auto_create_topics)
            .field("max_in_flight", &self.max_in_flight)
            .field("progress_topic", &self.progress_topic)
            .finish_non_exhaustive()
    }
}
