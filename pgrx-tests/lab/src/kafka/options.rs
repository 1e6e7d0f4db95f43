//! The options of a new broker, and the properties that they become.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::{Broker, KafkaCluster};
use crate::ports;
use crate::process::Fate;
use crate::scratch::Scratch;

/// The options of a new broker.
#[derive(Clone, Default)]
pub struct BrokerOptions {
    settings: BTreeMap<String, String>,
    listeners: Vec<Listener>,
    scram_users: Vec<(String, String)>,
    java_options: Option<Vec<String>>,
    fate: Fate,
    member: Option<Member>,
}

/// A node's place in a cluster of several.
#[derive(Clone)]
pub(super) struct Member {
    /// The index of its own controller.
    pub(super) place: usize,
    /// The ports of the controllers of all nodes.
    pub(super) controllers: Vec<u16>,
}

/// A listener besides the lab's own.
#[derive(Clone)]
struct Listener {
    name: String,
    protocol: String,
    /// The port that clients are told to connect to, if it is not the listener's own.
    front: Option<u16>,
}

/// Without the optimising compiler, which would take a core of a small machine for a minute.
const JAVA_OPTIONS: [&str; 4] = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

impl BrokerOptions {
    /// Sets a property in `server.properties`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.into(), value.to_string());
        self
    }

    /// Adds a listener with this name and security protocol.
    pub fn listener(mut self, name: &str, protocol: &str) -> Self {
        self.listeners.push(Listener { name: name.into(), protocol: protocol.into(), front: None });
        self
    }

    /// Adds a listener that advertises another port of 127.0.0.1, for a proxy in front of it.
    pub fn listener_behind(mut self, name: &str, front: u16) -> Self {
        self.listeners.push(Listener { name: name.into(), protocol: "PLAINTEXT".into(), front: Some(front) });
        self
    }

    /// Adds a user that authenticates by SCRAM-SHA-512.
    pub fn scram_user(mut self, name: &str, password: &str) -> Self {
        self.scram_users.push((name.into(), password.into()));
        self
    }

    /// Replaces the JVM options, which are chosen for a quick start.
    pub fn java_options(mut self, options: &[&str]) -> Self {
        self.java_options = Some(options.iter().map(ToString::to_string).collect());
        self
    }

    /// Whether the broker may outlive this process: see [`Broker::leave`].
    pub fn fate(mut self, fate: Fate) -> Self {
        self.fate = fate;
        self
    }

    /// Starts a cluster of `brokers` equal brokers; waits until all answer. For options without further listeners.
    pub fn start_cluster(self, brokers: usize) -> Result<KafkaCluster> {
        KafkaCluster::start_with(self, brokers)
    }

    pub(super) fn java_options_unless_set(mut self, options: &[&str]) -> Self {
        self.java_options.get_or_insert_with(|| options.iter().map(ToString::to_string).collect());
        self
    }

    /// Makes the broker a member of a cluster.
    pub(super) fn member(mut self, member: Member) -> Self {
        self.member = Some(member);
        self
    }

    /// Reserves the ports and formats the storage, without starting the broker.
    pub fn prepare(self) -> Result<Broker> {
        let scratch = Scratch::new("kafka", self.fate)?;
        let port = ports::free()?;
        let mut properties = properties(&scratch.path().join("data"));
        let controller = match &self.member {
            None => ports::free()?,
            Some(member) => member.controllers[member.place],
        };
        let listeners = listen(&mut properties, port, controller, &self.listeners)?;
        join(&mut properties, self.member.as_ref(), controller);
        properties.extend(self.settings);
        let java_options = self.java_options.unwrap_or_else(|| JAVA_OPTIONS.map(str::to_string).to_vec());
        let fate = self.fate;
        let is_member = self.member.is_some();
        let process = None;
        let broker = Broker { process, scratch, port, listeners, properties, java_options, fate, is_member };
        broker.write_properties()?;
        broker.format_storage(&self.scram_users)?;
        Ok(broker)
    }

    /// Starts a broker; waits until it answers.
    pub fn start(self) -> Result<Broker> {
        let mut broker = self.prepare()?;
        broker.start()?;
        Ok(broker)
    }
}

/// Sets the lab's own listener, the controller's and the further `listeners`; returns the ports of the last.
fn listen(
    properties: &mut BTreeMap<String, String>,
    port: u16,
    controller: u16,
    listeners: &[Listener],
) -> Result<BTreeMap<String, u16>> {
    let mut bound = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut advertised = bound.clone();
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_string();
    let mut found = BTreeMap::new();
    for Listener { name, protocol, front } in listeners {
        let port = ports::free()?;
        // By name, since certificates are issued for names.
        bound += &format!(",{name}://localhost:{port}");
        advertised += &match front {
            Some(front) => format!(",{name}://127.0.0.1:{front}"),
            None => format!(",{name}://localhost:{port}"),
        };
        protocols += &format!(",{name}:{protocol}");
        found.insert(name.clone(), port);
    }
    properties.insert("listeners".into(), format!("{bound},CONTROLLER://127.0.0.1:{controller}"));
    properties.insert("advertised.listeners".into(), advertised);
    properties.insert("listener.security.protocol.map".into(), protocols);
    Ok(found)
}

/// Sets the quorum of controllers.
fn join(properties: &mut BTreeMap<String, String>, member: Option<&Member>, controller: u16) {
    let Some(Member { place, controllers }) = member else {
        let alone = format!("127.0.0.1:{controller}");
        properties.insert("controller.quorum.bootstrap.servers".into(), alone);
        return;
    };
    let voters: Vec<_> =
        (1..).zip(controllers).map(|(node, port)| format!("{node}@127.0.0.1:{port}")).collect();
    properties.insert("controller.quorum.voters".into(), voters.join(","));
    properties.insert("node.id".into(), (place + 1).to_string());
}

fn properties(data: &Path) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut set = |name: &str, value: String| properties.insert(name.to_string(), value);
    set("process.roles", "broker,controller".into());
    set("node.id", "1".into());
    set("controller.listener.names", "CONTROLLER".into());
    set("log.dirs", data.display().to_string());
    set("auto.create.topics.enable", "true".into());
    set("group.initial.rebalance.delay.ms", "0".into());
    for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic"] {
        set(&format!("{topic}.num.partitions"), "1".into());
        set(&format!("{topic}.replication.factor"), "1".into());
    }
    set("transaction.state.log.min.isr", "1".into());
    set("share.coordinator.state.topic.min.isr", "1".into());
    // A killed broker cannot register again before its session ends: nine seconds by default.
    set("broker.session.timeout.ms", "2000".into());
    set("broker.heartbeat.interval.ms", "500".into());
    // The default takes a quarter of the small heap at start.
    set("log.cleaner.dedupe.buffer.size", (8 * 1024 * 1024).to_string());
    properties
}
