//! Faults of librdkafka's mock cluster: any answer that a broker can give.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};

use crate::kafka::{Kafka, MOCK_BROKERS};
use crate::stage::Stage;
use crate::topics::{self, VOLATILE};

/// An answer to a produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(&'static str, Code);

impl Refusal {
    /// All answers.
    pub const ALL: [Self; 12] = [
        Self("NOT_LEADER_FOR_PARTITION", Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION),
        Self("NOT_ENOUGH_REPLICAS", Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS),
        Self("NOT_ENOUGH_REPLICAS_AFTER_APPEND", Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND),
        Self("REQUEST_TIMED_OUT", Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT),
        Self("OUT_OF_ORDER_SEQUENCE_NUMBER", Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER),
        Self("UNKNOWN_PRODUCER_ID", Code::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID),
        Self("INVALID_PRODUCER_EPOCH", Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH),
        Self("KAFKA_STORAGE_ERROR", Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR),
        Self("THROTTLING_QUOTA_EXCEEDED", Code::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED),
        Self("MSG_SIZE_TOO_LARGE", TOO_LARGE),
        Self("INVALID_MSG", Code::RD_KAFKA_RESP_ERR_INVALID_MSG),
        Self("connection closed", Code::RD_KAFKA_RESP_ERR__TRANSPORT),
    ];
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// An error of a batch, which counts against an event if it was alone in the batch.
const TOO_LARGE: Code = Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

/// Most answers in a row; of [`TOO_LARGE`] fewer, so that no event dies.
const ANSWERS: (usize, usize) = (6, 2);

impl Stage {
    fn mock(&self) -> Result<&MockCluster<'static, DefaultProducerContext>> {
        match &self.kafka {
            Kafka::Mock(mock) => Ok(mock),
            Kafka::Real { .. } => bail!("there is no mock cluster"),
        }
    }

    pub(super) fn answer(&mut self, refusal: Refusal) -> Result<()> {
        let most = if refusal.1 == TOO_LARGE { ANSWERS.1 } else { ANSWERS.0 };
        let count = self.random.between(1, most);
        self.mock()?.request_errors(RDKafkaApiKey::Produce, &vec![refusal.1; count]);
        self.hold(300, 1500);
        self.mock()?.clear_request_errors(RDKafkaApiKey::Produce);
        Ok(())
    }

    /// One broker goes down, or all.
    pub(super) fn mock_down(&mut self) -> Result<()> {
        let brokers = match self.random.permille(500) {
            true => 1..=MOCK_BROKERS,
            false => self.random.between(1, MOCK_BROKERS as usize) as i32..=MOCK_BROKERS,
        };
        for number in brokers {
            self.mock()?.broker_down(number)?;
        }
        self.hold(300, 3000);
        self.kafka.heal()
    }

    pub(super) fn mock_leaders(&mut self) -> Result<()> {
        for _ in 0..self.random.between(1, 5) {
            let topic = self.random.below(topics::EXISTING);
            let leader = self.random.between(1, MOCK_BROKERS as usize) as i32;
            self.mock()?.partition_leader(&topics::names()[topic], 0, Some(leader))?;
            self.hold(50, 400);
        }
        Ok(())
    }

    pub(super) fn mock_slow(&mut self) -> Result<()> {
        let delay = Duration::from_millis(self.random.between(20, 300) as u64);
        for number in 1..=MOCK_BROKERS {
            self.mock()?.broker_round_trip_time(number, delay)?;
        }
        self.hold(500, 2000);
        self.kafka.heal()
    }

    /// A new producer must wait for its id.
    pub(super) fn mock_no_ids(&mut self) -> Result<()> {
        let errors = [
            Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
            Code::RD_KAFKA_RESP_ERR__TRANSPORT,
        ];
        self.mock()?.request_errors(RDKafkaApiKey::InitProducerId, &errors);
        self.strike_at("after_produce", "fatal")?;
        self.hold(500, 1500);
        self.mock()?.clear_request_errors(RDKafkaApiKey::InitProducerId);
        Ok(())
    }

    /// Events that are emitted meanwhile are refused, wait, and keep their order.
    pub(super) fn mock_no_topic(&mut self) -> Result<()> {
        self.configure("event_outbox.max_attempts", "1000")?;
        let topic = topics::names()[VOLATILE].clone();
        self.mock()?.topic_error(&topic, Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)?;
        self.hold(5000, 8000);
        self.mock()?.topic_error(&topic, Code::RD_KAFKA_RESP_ERR_NO_ERROR)?;
        let none = "SELECT NOT EXISTS (SELECT FROM outbox.events WHERE topic = $1 AND attempts > 0)";
        self.until("what was refused to be published", Duration::from_secs(60), none, &topic)?;
        self.configure("event_outbox.max_attempts", "4")
    }
}
