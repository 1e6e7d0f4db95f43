//! Records, topics and the connection to Kafka.

mod envelope;
mod partitions;
mod properties;
mod record;
mod security;
mod timestamps;
mod topics;
