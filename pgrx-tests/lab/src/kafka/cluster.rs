//! Several brokers that form one cluster.

use anyhow::{Context, Result};
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::options::Member;
use super::{ASK_DEADLINE, Broker, BrokerOptions, START_DEADLINE};
use crate::{ports, wait};

/// JVM options of brokers that share a small machine.
const JAVA_OPTIONS: [&str; 4] = ["-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A cluster of brokers, each with its own data directory and ports. Dropping it ends them and
/// removes their data.
pub struct KafkaCluster {
    brokers: Vec<Broker>,
}

impl KafkaCluster {
    /// Starts three brokers that do not create topics on first use; waits until they answer.
    pub fn start() -> Result<Self> {
        Broker::options().set("auto.create.topics.enable", "false").start_cluster(3)
    }

    pub(super) fn start_with(options: BrokerOptions, brokers: usize) -> Result<Self> {
        Self::start_each(brokers, |_| options.clone())
    }

    /// Starts `brokers` brokers, each with the options for its place; waits until they answer.
    pub fn start_each(brokers: usize, options: impl Fn(usize) -> BrokerOptions) -> Result<Self> {
        let controllers = (0..brokers).map(|_| ports::free()).collect::<Result<Vec<_>>>()?;
        let brokers = (0..brokers)
            .map(|place| {
                let options = options(place).java_options_unless_set(&JAVA_OPTIONS);
                options.member(Member { place, controllers: controllers.clone() }).prepare()
            })
            .collect::<Result<_>>()?;
        let mut cluster = Self { brokers };
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Starts the stopped brokers; waits until all answer and know of each other.
    pub fn start_all(&mut self) -> Result<()> {
        // No broker answers before a majority runs.
        self.brokers.iter_mut().filter(|broker| broker.pid().is_err()).try_for_each(Broker::launch)?;
        self.brokers.iter_mut().try_for_each(Broker::wait_until_it_answers)?;
        self.until_complete()
    }

    /// The addresses of all brokers, which clients connect to.
    pub fn bootstrap_servers(&self) -> String {
        self.brokers.iter().map(Broker::bootstrap_servers).collect::<Vec<_>>().join(",")
    }

    /// The brokers. The one at `place` has the id `place + 1`.
    pub fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// One broker, to stop, kill or start.
    pub fn broker(&mut self, place: usize) -> &mut Broker {
        &mut self.brokers[place]
    }

    /// Restarts the brokers cleanly, one after the other, each once all replicas of all topics are in sync. Most
    /// partitions change their leader, some several times.
    pub fn roll(&mut self) -> Result<()> {
        for place in 0..self.brokers.len() {
            self.brokers[place].restart()?;
            self.until_in_sync()?;
        }
        Ok(())
    }

    /// Creates a topic with topic-level `configs`, with a replica of each partition on each broker.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        let replicas = i32::try_from(self.brokers.len())?;
        self.create_topic_on(name, partitions, replicas, configs)
    }

    /// Creates a topic with `replicas` replicas of each partition.
    pub fn create_topic_on(
        &self,
        name: &str,
        partitions: i32,
        replicas: i32,
        configs: &[(&str, &str)],
    ) -> Result<()> {
        super::create_topics(&self.admin()?, &[name], partitions, replicas, configs)
    }

    /// Replaces the topic-level configuration of a topic.
    pub fn configure_topic(&self, name: &str, configs: &[(&str, &str)]) -> Result<()> {
        super::configure_topic(&self.admin()?, name, configs)
    }

    /// Deletes a topic.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        super::delete_topics(&self.admin()?, &[name])
    }

    /// The id of the broker that leads a partition; `None` while there is none.
    pub fn leader(&self, topic: &str, partition: i32) -> Result<Option<i32>> {
        let metadata = self.client()?.client().fetch_metadata(Some(topic), ASK_DEADLINE)?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let leader = partitions.find(|found| found.id() == partition).map(|found| found.leader());
        Ok(leader.filter(|leader| *leader >= 0))
    }

    /// The ids of the brokers that have a replica of a partition.
    pub fn replicas(&self, topic: &str, partition: i32) -> Result<Vec<i32>> {
        let metadata = self.client()?.client().fetch_metadata(Some(topic), ASK_DEADLINE)?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let found = partitions.find(|found| found.id() == partition);
        Ok(found.map(|found| found.replicas().to_vec()).unwrap_or_default())
    }

    /// Waits until every replica of every topic is in sync.
    pub fn until_in_sync(&self) -> Result<()> {
        self.until_complete()?;
        let client = self.client()?;
        wait::until("the replicas to be in sync", START_DEADLINE, || {
            let metadata = client.client().fetch_metadata(None, ASK_DEADLINE).ok()?;
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            partitions.all(|found| found.isr().len() == found.replicas().len()).then_some(())
        })
    }

    /// Waits until all brokers that run know of each other.
    fn until_complete(&self) -> Result<()> {
        let running = self.brokers.iter().filter(|broker| broker.pid().is_ok());
        for broker in running.clone() {
            let client: BaseConsumer = broker.client_config().create()?;
            wait::until("the brokers to know of each other", START_DEADLINE, || {
                let metadata = client.client().fetch_metadata(None, ASK_DEADLINE).ok()?;
                (metadata.brokers().len() == running.clone().count()).then_some(())
            })?;
        }
        Ok(())
    }

    fn client(&self) -> Result<BaseConsumer> {
        super::client_config(&self.bootstrap_servers()).create().context("a client of the cluster")
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(super::client_config(&self.bootstrap_servers()).create()?)
    }
}
