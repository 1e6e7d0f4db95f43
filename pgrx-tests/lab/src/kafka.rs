//! Private Apache Kafka brokers in KRaft mode: single nodes and clusters. Each node is broker and controller.

mod cluster;
mod options;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::process::{Fate, Process};
use crate::scratch::Scratch;
use crate::{layout, wait};

pub use cluster::KafkaCluster;
pub use options::BrokerOptions;

const START_DEADLINE: Duration = Duration::from_secs(240);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const ADMIN_DEADLINE: Duration = Duration::from_secs(30);
const ASK_DEADLINE: Duration = Duration::from_secs(2);
const LOG_TAIL: usize = 30;
/// JVM options of short-lived tools.
const TOOL_OPTIONS: [&str; 2] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
/// Any 16 bytes in base64: clusters never meet.
const CLUSTER_ID: &str = "ZXZlbnRfb3V0Ym94LWxhYg";

/// A broker with its own data directory and ports. Dropping it ends it and removes its data.
pub struct Broker {
    // Fields are dropped in this order: the broker before its directory.
    process: Option<Process>,
    scratch: Scratch,
    port: u16,
    listeners: BTreeMap<String, u16>,
    properties: BTreeMap<String, String>,
    java_options: Vec<String>,
    fate: Fate,
    /// Whether the broker belongs to a cluster. Then its properties name the quorum.
    is_member: bool,
}

impl Broker {
    /// The options of a broker that creates topics on first use.
    pub fn options() -> BrokerOptions {
        BrokerOptions::default()
    }

    /// The broker that all of this process shares, started on first use.
    pub fn shared() -> Result<&'static Broker> {
        static SHARED: OnceLock<Result<Broker>> = OnceLock::new();
        SHARED
            .get_or_init(|| Broker::options().start())
            .as_ref()
            .map_err(|error| anyhow!("the shared broker did not start: {error:#}"))
    }

    /// Starts the broker on its port and data, again if it ran before; waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_until_it_answers()
    }

    /// Starts its process.
    fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the broker is already running");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = java(&self.java_options)?;
        command.arg("kafka.Kafka").arg(self.scratch.path().join("server.properties"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::spawn(command, libc::SIGKILL, self.fate)?);
        Ok(())
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let answered = wait::until_ok("Kafka to answer", START_DEADLINE, || {
            let process = self.process.as_mut().context("Kafka is not running")?;
            if let Some(status) = process.exited()? {
                bail!("it exited ({status})");
            }
            Ok(self.answers().then_some(()))
        });
        if answered.is_err() {
            self.process = None;
        }
        answered.with_context(|| format!("Kafka did not start; its log ends with\n{}\n", self.log_tail()))
    }

    /// Changes the port of 127.0.0.1 that a listener of [`BrokerOptions::listener_behind`] advertises. The broker must
    /// be stopped.
    pub fn advertise(&mut self, listener: &str, front: u16) -> Result<()> {
        ensure!(self.process.is_none(), "the broker is running");
        let advertised =
            self.properties.get_mut("advertised.listeners").context("no advertised listeners")?;
        let others = advertised.split(',').filter(|one| !one.starts_with(&format!("{listener}://")));
        let now: Vec<String> =
            others.map(str::to_owned).chain([format!("{listener}://127.0.0.1:{front}")]).collect();
        *advertised = now.join(",");
        self.write_properties()
    }

    fn write_properties(&self) -> Result<()> {
        let lines = self.properties.iter().map(|(name, value)| format!("{name}={value}\n"));
        Ok(fs::write(self.scratch.path().join("server.properties"), lines.collect::<String>())?)
    }

    /// Shuts the broker down cleanly (SIGTERM).
    pub fn stop(&mut self) -> Result<()> {
        self.end(libc::SIGTERM)
    }

    /// Kills the broker (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.end(libc::SIGKILL)
    }

    /// Shuts the broker down cleanly and starts it on the same port and data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Freezes the broker: connections stay open, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.running()?.signal(libc::SIGSTOP)
    }

    /// Resumes a frozen broker.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal(libc::SIGCONT)
    }

    /// The address that clients connect to.
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of a listener of [`BrokerOptions::listener`].
    pub fn bootstrap_servers_by(&self, listener: &str) -> Result<String> {
        Ok(format!("localhost:{}", self.port_of(listener)?))
    }

    /// The port of a listener of [`BrokerOptions::listener`] or [`BrokerOptions::listener_behind`].
    pub fn port_of(&self, listener: &str) -> Result<u16> {
        self.listeners.get(listener).copied().with_context(|| format!("no listener {listener}"))
    }

    /// Creates a topic with topic-level `configs`.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<()> {
        create_topics(&self.admin()?, &[name], partitions, 1, configs)
    }

    /// Creates topics in one request.
    pub fn create_topics(
        &self,
        names: &[impl AsRef<str>],
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<()> {
        create_topics(&self.admin()?, names, partitions, 1, configs)
    }

    /// Raises a topic's number of partitions.
    pub fn add_partitions(&self, name: &str, new_total: usize) -> Result<()> {
        let partitions = NewPartitions::new(name, new_total);
        let results = block_on(self.admin()?.create_partitions([&partitions], &admin_options()))?;
        all_succeeded(results, "add partitions to")
    }

    /// Replaces the topic-level configuration of a topic.
    pub fn configure_topic(&self, name: &str, configs: &[(&str, &str)]) -> Result<()> {
        configure_topic(&self.admin()?, name, configs)
    }

    /// Deletes a topic.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        delete_topics(&self.admin()?, &[name])
    }

    /// Deletes topics in one request.
    pub fn delete_topics(&self, names: &[impl AsRef<str>]) -> Result<()> {
        delete_topics(&self.admin()?, names)
    }

    /// Deletes the records of a partition before this offset, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let deleted = block_on(self.admin()?.delete_records(&offsets, &admin_options()))?;
        for element in deleted.elements() {
            element.error().with_context(|| format!("delete records of {topic}"))?;
        }
        Ok(())
    }

    /// Grants a right on a topic. For a broker with an authorizer.
    pub fn allow(&self, user: &str, operation: &str, topic: &str) -> Result<()> {
        let mut acls = java(&TOOL_OPTIONS)?;
        acls.args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &self.bootstrap_servers()]);
        acls.args(["--add", "--allow-principal", &format!("User:{user}")]);
        run(acls.args(["--operation", operation, "--topic", topic]))
    }

    /// Grants a right on all transactional ids that begin so. For a broker with an authorizer.
    pub fn allow_transactions(&self, user: &str, operation: &str, prefix: &str) -> Result<()> {
        let mut acls = java(&TOOL_OPTIONS)?;
        acls.args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server", &self.bootstrap_servers()]);
        acls.args(["--add", "--allow-principal", &format!("User:{user}"), "--operation", operation]);
        run(acls.args(["--transactional-id", prefix, "--resource-pattern-type", "prefixed"]))
    }

    /// Limits how fast the producers with this `client.id` may write, in bytes per second.
    pub fn limit_producer(&self, client_id: &str, bytes_per_second: u32) -> Result<()> {
        let mut configs = java(&TOOL_OPTIONS)?;
        configs.args(["kafka.admin.ConfigCommand", "--bootstrap-server", &self.bootstrap_servers()]);
        configs.args(["--alter", "--entity-type", "clients", "--entity-name", client_id]);
        run(configs.args(["--add-config", &format!("producer_byte_rate={bytes_per_second}")]))
    }

    /// Makes the first replica of each partition its leader again. The tool gives up after half a minute, in which brokers that
    /// were frozen may not be back.
    pub fn elect_preferred_leaders(&self) -> Result<()> {
        let elect = || -> Result<()> {
            let mut election = java(&TOOL_OPTIONS)?;
            election.args(["org.apache.kafka.tools.LeaderElectionCommand", "--election-type", "preferred"]);
            run(election.args(["--all-topic-partitions", "--bootstrap-server", &self.bootstrap_servers()]))
        };
        elect().or_else(|_| elect()).or_else(|_| elect())
    }

    /// Whether the broker knows a topic of this name.
    pub fn has_topic(&self, name: &str) -> Result<bool> {
        let consumer: BaseConsumer = self.client_config().create()?;
        let metadata = consumer.client().fetch_metadata(None, ASK_DEADLINE)?;
        Ok(metadata.topics().iter().any(|topic| topic.name() == name))
    }

    /// Whether the broker answers a request for metadata.
    pub fn answers(&self) -> bool {
        let consumer: Result<BaseConsumer, _> = self.client_config().create();
        consumer.is_ok_and(|consumer| consumer.client().fetch_metadata(None, ASK_DEADLINE).is_ok())
    }

    /// The broker's process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.running()?.pid())
    }

    /// The broker's log file.
    pub fn log_path(&self) -> PathBuf {
        self.scratch.path().join("kafka.log")
    }

    /// Detaches a running broker ([`Fate::CanStay`]); returns its pid and the directory to remove after its end.
    pub fn leave(self) -> Result<(u32, PathBuf)> {
        let process = self.process.context("Kafka is not running")?;
        Ok((process.leave(), self.scratch.keep()))
    }

    fn client_config(&self) -> ClientConfig {
        client_config(&self.bootstrap_servers())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client_config().create()?)
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("Kafka is not running")
    }

    fn end(&mut self, signal: i32) -> Result<()> {
        let mut process = self.process.take().context("Kafka is not running")?;
        process.signal(signal)?;
        if process.wait(STOP_DEADLINE).is_err() && signal != libc::SIGKILL {
            // A broker whose controllers are gone waits for them instead of shutting down.
            process.signal(libc::SIGKILL)?;
        }
        process.wait(STOP_DEADLINE).with_context(|| self.log_tail())?;
        Ok(())
    }

    fn format_storage(&self, scram_users: &[(String, String)]) -> Result<()> {
        let mut format = java(&TOOL_OPTIONS)?;
        format.args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID]);
        if !self.is_member {
            format.arg("--standalone");
        }
        for (name, password) in scram_users {
            format.args(["--add-scram", &format!("SCRAM-SHA-512=[name={name},password={password}]")]);
        }
        run(format.arg("--config").arg(self.scratch.path().join("server.properties")))
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

fn java(options: &[impl AsRef<OsStr>]) -> Result<Command> {
    let mut command = Command::new("java");
    let class_path = format!("{}:{}", layout::kafka_class_path()?, layout::kafka_logging().display());
    command.args(options).args(["-cp", &class_path]);
    Ok(command)
}

/// Runs one of Kafka's tools to its end.
fn run(tool: &mut Command) -> Result<()> {
    let output = tool.output().context("run java")?;
    ensure!(
        output.status.success(),
        "{tool:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn client_config(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    // A broker that is not up yet is expected here: do not log it.
    config.set("bootstrap.servers", bootstrap_servers).set("log_level", "0");
    config
}

fn create_topics(
    admin: &AdminClient<DefaultClientContext>,
    names: &[impl AsRef<str>],
    partitions: i32,
    replicas: i32,
    configs: &[(&str, &str)],
) -> Result<()> {
    let topic = |name| {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        configs.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
    };
    let topics: Vec<_> = names.iter().map(|name| topic(name.as_ref())).collect();
    all_succeeded(block_on(admin.create_topics(&topics, &admin_options()))?, "create topic")
}

fn delete_topics(admin: &AdminClient<DefaultClientContext>, names: &[impl AsRef<str>]) -> Result<()> {
    let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
    all_succeeded(block_on(admin.delete_topics(&names, &admin_options()))?, "delete topic")
}

fn configure_topic(
    admin: &AdminClient<DefaultClientContext>,
    name: &str,
    configs: &[(&str, &str)],
) -> Result<()> {
    let empty = AlterConfig::new(ResourceSpecifier::Topic(name));
    let config = configs.iter().fold(empty, |config, (key, value)| config.set(key, value));
    for result in block_on(admin.alter_configs([&config], &admin_options()))? {
        result.map_err(|(_, code)| anyhow!("configure topic {name}: {code}"))?;
    }
    Ok(())
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ADMIN_DEADLINE)).request_timeout(Some(ADMIN_DEADLINE))
}

fn all_succeeded(results: Vec<rdkafka::admin::TopicResult>, what: &str) -> Result<()> {
    for result in results {
        result.map_err(|(topic, code)| anyhow!("{what} {topic}: {code}"))?;
    }
    Ok(())
}
