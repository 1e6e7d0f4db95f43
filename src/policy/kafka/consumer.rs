//! Owns the settings of a consumer.

use std::fmt;
use std::path::PathBuf;

/// How to reach Kafka and how much memory reading may take.
#[derive(Clone, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// The bootstrap servers, `host:port,…`.
    pub bootstrap_servers: String,
    /// The librdkafka properties of the setting.
    pub properties: String,
    /// The file of further properties.
    pub properties_file: Option<PathBuf>,
    /// The bytes that its records may take before they are stored.
    pub memory: usize,
}

/// Without the properties, which may be secrets.
impl fmt::Debug for ConsumerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerConfig")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// librdkafka counts some sizes in kilobytes.
const KILOBYTE: usize = 1024;

/// The largest part of a response for one partition. A larger record is sent all the same, alone.
const PARTITION_BYTES: usize = 256 * KILOBYTE;

/// The largest response: far more than brokers allow a record to have.
const RESPONSE_BYTES: usize = 200_000_000;

/// librdkafka's default for the largest message of a producer.
const LARGEST_MESSAGE: usize = 1_000_000;

/// How many times larger a response becomes when it is decompressed, which librdkafka does with all of it at once. JSON
/// seldom compresses better.
const COMPRESSION: usize = 10;

/// The librdkafka properties that keep a consumer within `memory` bytes: a quarter for records that wait in librdkafka, half
/// of it for a response, since librdkafka asks for more as long as there is room, and half of it for those on their way to the
/// table. The rest is for what the allocator does not give back.
#[must_use]
pub fn memory_properties(memory: usize) -> [(&'static str, usize); 5] {
    let queued = (memory / 4).max(2 * PARTITION_BYTES);
    let response = (queued / 2 / COMPRESSION).max(PARTITION_BYTES);
    [
        ("queued.max.messages.kbytes", queued / KILOBYTE),
        ("fetch.max.bytes", response),
        // A property of producers, which librdkafka requires to be no larger.
        ("message.max.bytes", LARGEST_MESSAGE.min(response)),
        ("fetch.message.max.bytes", PARTITION_BYTES.min(response)),
        ("receive.message.max.bytes", RESPONSE_BYTES.max(response + KILOBYTE)),
    ]
}

/// The largest batch: PostgreSQL's arrays have up to a gigabyte.
const LARGEST_BATCH: usize = 64 << 20;

/// How many bytes of records are handed over at once, at most, unless a single record is larger.
#[must_use]
pub fn batch_bytes(memory: usize) -> usize {
    (memory / 16).clamp(PARTITION_BYTES, LARGEST_BATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_memory() {
        for memory in [8 << 20, 64 << 20, 1 << 30] {
            let properties = memory_properties(memory);
            let value = |name| properties.iter().find(|(other, _)| *other == name).unwrap().1;
            let queued = value("queued.max.messages.kbytes") * KILOBYTE;
            let response = COMPRESSION * value("fetch.max.bytes");
            assert!(queued + response + 2 * batch_bytes(memory) <= memory * 3 / 4, "{memory}");
        }
        // Many subscriptions share the memory: each has a little more than its part then.
        for memory in [0, 100_000, 1 << 20, 8 << 20, 64 << 20, 1 << 30] {
            let properties = memory_properties(memory);
            let value = |name| properties.iter().find(|(other, _)| *other == name).unwrap().1;
            assert!(value("message.max.bytes") <= value("fetch.max.bytes"), "{memory}");
            assert!(value("receive.message.max.bytes") >= value("fetch.max.bytes") + 512);
            assert!(value("fetch.message.max.bytes") <= value("fetch.max.bytes"));
        }
    }
}
