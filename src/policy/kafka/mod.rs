//! Rules for librdkafka's configuration and statistics, and for requests to Kafka.

pub mod admin;
pub mod consumer;
pub mod known_partitions;
pub mod known_topics;
pub mod peek;
pub mod producer;
pub mod properties;
pub mod property_rules;
pub mod redactor;
pub mod registry_rules;
pub mod statistics;
