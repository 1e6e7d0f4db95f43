//! The brokers that the relay publishes to: real ones behind proxies, or librdkafka's mock cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::topics;
use event_outbox_lab::proxy::{NetworkState, Proxy};
use event_outbox_lab::{Broker, KafkaCluster, ports};

/// Timeouts that suit faults of seconds.
const TIMEOUTS: &str = "socket.timeout.ms=4000,topic.metadata.propagation.max.ms=1000,\
                        reconnect.backoff.max.ms=1000,topic.metadata.refresh.interval.ms=5000,\
                        transaction.timeout.ms=10000";

/// The same `transaction.timeout.ms`.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// `event_outbox.progress_topic`.
pub const PROGRESS: &str = "event-outbox-progress";

/// The configuration of a topic that Kafka compacts all the time.
const COMPACTED: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "2000"),
    ("segment.bytes", "1048576"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("delete.retention.ms", "100"),
];

/// The listener of a real broker that only the proxies use.
const BEHIND: &str = "BEHIND";

/// Brokers of the mock cluster.
pub const MOCK_BROKERS: i32 = 3;

/// The kind of brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Apache Kafka with a single broker.
    Kafka,
    /// Apache Kafka with three brokers.
    Cluster,
    /// librdkafka's mock cluster, which answers with any error it is told to.
    Mock,
}

/// The brokers, with the access to them that faults need.
pub enum Kafka {
    /// Real brokers.
    Real {
        /// The brokers.
        cluster: KafkaCluster,
        /// The proxies of each broker.
        ways: Vec<Ways>,
    },
    /// A mock cluster in this process.
    Mock(MockCluster<'static, DefaultProducerContext>),
}

/// The proxies between the relay and a broker.
pub struct Ways {
    /// The configured address, which never changes.
    pub entrance: Proxy,
    /// The advertised address.
    pub address: Proxy,
}

impl Kafka {
    /// Starts the brokers and creates the topics that exist from the beginning.
    pub fn start(mode: Mode) -> Result<Self> {
        let kafka = match mode {
            Mode::Kafka => Self::start_real(1)?,
            Mode::Cluster => Self::start_real(3)?,
            Mode::Mock => Self::Mock(MockCluster::new(MOCK_BROKERS)?),
        };
        topics::create(|name, partitions, configs| kafka.create_topic(name, partitions, configs))?;
        Ok(kafka)
    }

    fn start_real(count: usize) -> Result<Self> {
        let listen = || Proxy::listen(ports::free()?);
        let ways: Vec<Ways> = (0..count)
            .map(|_| Ok(Ways { entrance: listen()?, address: listen()? }))
            .collect::<Result<_>>()?;
        let cluster = KafkaCluster::start_each(count, |place| {
            let options = Broker::options().set("auto.create.topics.enable", "false");
            // One broker may be missing.
            let options = options.set("min.insync.replicas", count.div_ceil(2));
            let options = options.set("transaction.abort.timed.out.transaction.cleanup.interval.ms", 1000);
            let options = options.set("log.cleaner.backoff.ms", 1000);
            options.listener_behind(BEHIND, ways[place].address.port())
        })?;
        for (ways, broker) in ways.iter().zip(cluster.brokers()) {
            ways.entrance.forward_to(broker.port_of(BEHIND)?);
            ways.address.forward_to(broker.port_of(BEHIND)?);
        }
        Ok(Self::Real { cluster, ways })
    }

    /// Creates a topic; on real brokers, records get the time of their arrival.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        match self {
            Self::Real { cluster, .. } => {
                let configs = [configs, &[("message.timestamp.type", "LogAppendTime")]].concat();
                cluster.create_topic(name, partitions, &configs)
            }
            Self::Mock(mock) => {
                mock.create_topic(name, partitions, MOCK_BROKERS).with_context(|| format!("topic {name}"))
            }
        }
    }

    /// Creates the topic of markers, so that it is compacted all the time.
    pub fn create_progress(&self) -> Result<()> {
        self.create_topic(PROGRESS, 1, &COMPACTED)
    }

    /// Whether all brokers know the topic of markers.
    pub fn has_progress(&self) -> bool {
        match self {
            Self::Real { cluster, .. } => {
                cluster.brokers().iter().all(|broker| broker.has_topic(PROGRESS).unwrap_or(false))
            }
            Self::Mock(_) => false,
        }
    }

    /// Has the topic of markers compacted all the time, whoever has created it.
    pub fn compact_progress_soon(&self) -> Result<()> {
        match self {
            Self::Real { cluster, .. } => cluster.configure_topic(PROGRESS, &COMPACTED),
            Self::Mock(_) => bail!("there is no real broker"),
        }
    }

    /// What the relay connects to.
    pub fn bootstrap_servers(&self) -> String {
        match self {
            Self::Real { ways, .. } => {
                let servers: Vec<String> =
                    ways.iter().map(|ways| format!("127.0.0.1:{}", ways.entrance.port())).collect();
                servers.join(",")
            }
            Self::Mock(mock) => mock.bootstrap_servers(),
        }
    }

    /// Gives a stopped broker another address. Nobody listens at the old one any more.
    pub fn move_broker(&mut self, number: usize) -> Result<()> {
        let Self::Real { cluster, ways } = self else { bail!("there is no real broker") };
        let address = Proxy::listen(ports::free()?)?;
        let broker = cluster.broker(number);
        address.forward_to(broker.port_of(BEHIND)?);
        broker.advertise(BEHIND, address.port())?;
        ways[number].address = address;
        Ok(())
    }

    /// All proxies.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        let ways: &[Ways] = match self {
            Self::Real { ways, .. } => ways,
            Self::Mock(_) => &[],
        };
        ways.iter().flat_map(|ways| [&ways.entrance, &ways.address])
    }

    /// The relay's `event_outbox.kafka_properties`.
    pub fn properties(&self) -> String {
        match self {
            Self::Real { .. } => TIMEOUTS.into(),
            // The mock checks sequence numbers in transactions only. A real broker refuses what follows a refused
            // batch; the mock accepts it, and librdkafka concludes that the refused batch was accepted, too.
            Self::Mock(_) => format!("{TIMEOUTS},max.in.flight=1"),
        }
    }

    /// Makes the brokers unreachable, or reachable again.
    pub fn set_reachable(&self, is_reachable: bool) -> Result<()> {
        match self {
            Self::Real { .. } => {
                let network = if is_reachable { NetworkState::Normal } else { NetworkState::HalfOpen };
                self.proxies().for_each(|proxy| proxy.set_network(network));
            }
            Self::Mock(mock) => {
                for number in 1..=MOCK_BROKERS {
                    if is_reachable { mock.broker_up(number)? } else { mock.broker_down(number)? }
                }
            }
        }
        Ok(())
    }

    /// Ends all faults of the network.
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
