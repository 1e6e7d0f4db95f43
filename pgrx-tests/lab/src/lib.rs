//! The laboratory: private PostgreSQL servers, Kafka brokers, proxies and consumers for the demo, the benchmark, the
//! black-box tests and the torture test.
//!
//! Each starts in seconds and ends with the process that started it. `scripts/bootstrap` installs what they need: a
//! private PostgreSQL tree and Kafka's jars.

pub mod certificates;
pub mod connect;
pub mod consumer;
pub mod full_disk;
pub mod identity;
pub mod inbox_log;
pub mod kafka;
pub mod layout;
pub mod notify_queue;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod producer;
pub mod progress;
pub mod proxy;
pub mod registry;
pub mod released;
pub mod run_as;
pub mod scratch;
pub mod verdict;
pub mod wait;

pub use anyhow::Result;
pub use certificates::Authority;
pub use consumer::{Consumer, Record};
pub use full_disk::FullDisk;
pub use identity::IdentityProvider;
pub use kafka::{Broker, KafkaCluster};
pub use notify_queue::FullQueue;
pub use postgres::{Cluster, StopMode};
pub use producer::{NewRecord, Producer};
pub use registry::{OddRegistry, Oddity, SchemaRegistry, TlsRegistry};
