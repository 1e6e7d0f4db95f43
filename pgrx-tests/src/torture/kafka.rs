//! The broker that is published to: a real one behind a proxy, or librdkafka's mock cluster.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::topics;
use crate::proxy::{Proxy, Weather};
use crate::{Broker, ports};

/// Timeouts that suit faults of seconds.
const TIMEOUTS: &str = "socket.timeout.ms=4000,topic.metadata.propagation.max.ms=1000,\
                        reconnect.backoff.max.ms=1000,topic.metadata.refresh.interval.ms=5000";

/// The listener of the real broker that only the proxy uses.
const BEHIND: &str = "BEHIND";

/// Brokers of the mock cluster.
pub const MOCK_BROKERS: i32 = 3;

/// Which broker is published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Apache Kafka.
    Kafka,
    /// librdkafka's mock cluster, which answers with any error it is told to.
    Mock,
}

/// The broker, and the hold on it that faults need.
pub enum Kafka {
    /// A real one.
    Real {
        /// The broker.
        broker: Box<Broker>,
        /// What the relay connects to.
        proxy: Proxy,
    },
    /// A mock cluster in this process.
    Mock(MockCluster<'static, DefaultProducerContext>),
}

impl Kafka {
    /// Starts it, with all topics that exist from the beginning.
    pub fn start(mode: Mode) -> Result<Self> {
        let kafka = match mode {
            Mode::Kafka => {
                let proxy = Proxy::listen(ports::free()?)?;
                let options = Broker::options().set("auto.create.topics.enable", "false");
                let broker = options.listener_behind(BEHIND, proxy.port()).start()?;
                proxy.forward_to(broker.port_of(BEHIND)?);
                Self::Real { broker: Box::new(broker), proxy }
            }
            Mode::Mock => Self::Mock(MockCluster::new(MOCK_BROKERS)?),
        };
        topics::create(|name, partitions, configs| kafka.create_topic(name, partitions, configs))?;
        Ok(kafka)
    }

    /// Creates a topic. A record's time is that of its arrival, where the broker can be told so.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        match self {
            Self::Real { broker, .. } => {
                let configs = [configs, &[("message.timestamp.type", "LogAppendTime")]].concat();
                broker.create_topic(name, partitions, &configs)
            }
            Self::Mock(mock) => {
                mock.create_topic(name, partitions, MOCK_BROKERS).with_context(|| format!("topic {name}"))
            }
        }
    }

    /// What the relay connects to.
    pub fn bootstrap_servers(&self) -> String {
        match self {
            Self::Real { proxy, .. } => format!("127.0.0.1:{}", proxy.port()),
            Self::Mock(mock) => mock.bootstrap_servers(),
        }
    }

    /// The relay's `event_outbox.kafka_properties`.
    pub fn properties(&self) -> String {
        match self {
            Self::Real { .. } => TIMEOUTS.into(),
            // It looks at sequence numbers in transactions only. A broker refuses what comes behind a batch that it
            // has refused; this one takes it, and librdkafka concludes that it has taken the first as well.
            Self::Mock(_) => format!("{TIMEOUTS},max.in.flight=1"),
        }
    }

    /// Lets nothing through to the brokers, or all again.
    pub fn set_reachable(&self, is_reachable: bool) -> Result<()> {
        match self {
            Self::Real { proxy, .. } => {
                proxy.set_weather(if is_reachable { Weather::Fair } else { Weather::HalfOpen });
            }
            Self::Mock(mock) => {
                for number in 1..=MOCK_BROKERS {
                    if is_reachable { mock.broker_up(number)? } else { mock.broker_down(number)? }
                }
            }
        }
        Ok(())
    }

    /// Puts an end to all that may still be wrong with the network.
    pub fn heal(&self) -> Result<()> {
        self.set_reachable(true)?;
        if let Self::Mock(mock) = self {
            for number in 1..=MOCK_BROKERS {
                mock.broker_round_trip_time(number, Duration::ZERO)?;
            }
        }
        Ok(())
    }
}
