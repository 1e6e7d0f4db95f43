//! A recovery for librdkafka of the brokers that it began with.
//!
//! A cluster tells of no broker at all while its only one, or the last of them, is about to join it again.
//! librdkafka then forgets all it knew, those it began with too; it says nothing, and would never look for any
//! again (its issue 5301). A new producer would begin anew with them, but not know what was under way.
//!
//! A broker that comes back at another address is not always found either: it knocks at the old one for ever. Its source
//! suggests why, which is not proven: when all brokers are gone it begins anew with those that it began with, but an answer
//! to a question about topics that is read at that moment calls this off, and it is not begun again (2.12.1).

use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::bindings as rdsys;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};

use super::callbacks::Context;

/// How often to look whether a broker is known, while events are under way; and the longest time between two
/// reminders, each of which takes some bytes that are not given back.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

/// When to look whether a producer must be reminded.
pub struct BrokerRecovery {
    servers: CString,
    at: Instant,
    pause: Duration,
}

impl BrokerRecovery {
    /// For a producer of this configuration.
    #[must_use]
    pub fn new(config: &ClientConfig) -> Self {
        let servers = config.get("bootstrap.servers").unwrap_or_default();
        Self {
            servers: CString::new(servers).unwrap_or_default(),
            at: Instant::now() + PAUSE.0,
            pause: PAUSE.0,
        }
    }

    /// When to look next, if events are under way.
    #[must_use]
    pub fn next_check(&self) -> Instant {
        self.at
    }

    /// Looks, if it is time, and reminds the producer of its brokers if it knows none, or none answers.
    pub fn check(&mut self, producer: &BaseProducer<Context>, none_answers: bool) {
        if self.at > Instant::now() {
            return;
        }
        let is_fine = producer.in_flight_count() == 0 || knows_controller(producer);
        if is_fine && !none_answers {
            self.pause = PAUSE.0;
        } else {
            // SAFETY: the producer is alive; the text is copied. Brokers that it knows are not added again.
            unsafe { rdsys::rd_kafka_brokers_add(producer.client().native_ptr(), self.servers.as_ptr()) };
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
        self.at = Instant::now() + self.pause;
    }
}

/// Whether the cluster has told of a controller, and not lately of no broker at all.
fn knows_controller(producer: &BaseProducer<Context>) -> bool {
    // SAFETY: the producer is alive; without a timeout it answers at once with what it remembers.
    unsafe { rdsys::rd_kafka_controllerid(producer.client().native_ptr(), 0) != -1 }
}
