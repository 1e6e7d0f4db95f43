//! Gives librdkafka its bootstrap servers again when it has lost all brokers.
//!
//! While a cluster's only broker, or its last one, rejoins the cluster, the metadata lists no broker at all. librdkafka
//! then forgets all brokers, even the bootstrap servers; it reports nothing, and never looks for a broker again (its issue
//! 5301). A new producer would start from the bootstrap servers, but would not know the events in flight.
//!
//! librdkafka does not always find a broker that comes back at another address either: it keeps trying the old one. Its
//! source suggests a reason, which is not proven: when all brokers are down, it starts again from the bootstrap servers, but
//! a metadata response that is read at that moment cancels this, and it is not started again (2.12.1).
//!
//! Runs in: the Kafka thread.

use std::ffi::CString;
use std::time::{Duration, Instant};

use event_outbox_policy::backoff::Backoff;
use rdkafka::bindings as rdsys;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};

use super::callbacks::Context;

/// How often to check whether a broker is known while events are in flight, and the longest time between two recoveries.
/// Each recovery takes some bytes that librdkafka never frees.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

/// The recovery of one producer.
pub struct BrokerRecovery {
    servers: CString,
    next_check: Backoff,
}

impl BrokerRecovery {
    /// The recovery of a producer with this configuration.
    #[must_use]
    pub fn new(config: &ClientConfig) -> Self {
        let servers = config.get("bootstrap.servers").unwrap_or_default();
        let mut next_check = Backoff::new(PAUSE.0, PAUSE.1);
        next_check.record_end(Instant::now());
        Self { servers: CString::new(servers).unwrap_or_default(), next_check }
    }

    /// When to check next, if events are in flight.
    #[must_use]
    pub fn next_check(&self) -> Instant {
        self.next_check.until().unwrap_or_else(Instant::now)
    }

    /// If a check is due, adds the bootstrap servers again if the producer knows no broker, or no broker answers.
    pub fn check(&mut self, producer: &BaseProducer<Context>, none_answers: bool) {
        let now = Instant::now();
        if !self.next_check.is_over(now) {
            return;
        }
        let is_fine = producer.in_flight_count() == 0 || knows_controller(producer);
        if is_fine && !none_answers {
            self.next_check.record_end(now);
        } else {
            // SAFETY: the producer is alive; the text is copied. librdkafka does not add brokers that it knows already.
            unsafe { rdsys::rd_kafka_brokers_add(producer.client().native_ptr(), self.servers.as_ptr()) };
            self.next_check.record_failure(now);
        }
    }
}

/// Whether the metadata names a controller. It names none if it last listed no broker at all.
fn knows_controller(producer: &BaseProducer<Context>) -> bool {
    // SAFETY: the producer is alive; with a timeout of 0 the call returns the cached value at once.
    unsafe { rdsys::rd_kafka_controllerid(producer.client().native_ptr(), 0) != -1 }
}
