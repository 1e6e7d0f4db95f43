//! The mistake that a thread of transactions makes on request of the torture test.
//!
//! Runs in: the Kafka thread of the relay's process.

use std::time::Duration;

use rdkafka::producer::Producer;

use super::End;
use super::chosen::Chosen;
use super::session::{OFTEN, Session};
use super::transaction::{Records, rolled_back};
use crate::kafka::producer::messages::ProducerEvent;

/// How long librdkafka may take to end the call that was given up.
const PATIENCE: Duration = Duration::from_secs(60);

impl Session<'_> {
    /// Takes a commit that was not answered for none, publishes its events again, and goes on with this producer.
    pub(super) fn reuse(&mut self, all: &[Chosen<'_>]) -> Result<bool, End> {
        // librdkafka takes no other call before this one is over.
        self.patiently(PATIENCE, OFTEN, "the end of a commit", |producer, slice| {
            producer.commit_transaction(slice)
        })?;
        let _ = self.rules.start(&Default::default());
        self.context().callback_log().reports.clear();
        self.is_rolled_back = true;
        self.thread.send(ProducerEvent::RolledBack)?;
        self.thread.send(ProducerEvent::Reports(rolled_back(all, Vec::new(), Records::Refused)))?;
        Ok(true)
    }
}
